import json

import numpy as np
import pytest

from vjax.errors import UserError
from vjax.training import outputs
from vjax.training.metrics import Outputs


def test_what_was_written_is_read(tmp_path):
    rng = np.random.default_rng(0)
    found = Outputs(
        rng.normal(size=(5, 3)).astype(np.float32),
        rng.random(5).astype(np.float32),
        rng.integers(3, size=(5, 1)).astype(np.int32),
        np.arange(5, dtype=np.int32),
    )
    result = {'num_videos': 5, 'split': 'é "x"', 'top1': float('nan')}
    outputs.write(tmp_path / 'outputs.npz', found, result)
    again, its_result = outputs.read(tmp_path / 'outputs.npz')
    for ours, theirs in zip(again, found, strict=True):
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)
    assert json.dumps(its_result) == json.dumps(result)
    assert [path.name for path in tmp_path.iterdir()] == ['outputs.npz']


def test_what_was_not_written_so_is_refused(tmp_path):
    file = tmp_path / 'outputs.npz'
    array = np.zeros((1, 2), np.float32)
    one = Outputs(array, array[:, 0], array.astype(np.int32), np.zeros(1, np.int32))
    for num_videos in (2, None):
        outputs.write(file, one, {'num_videos': num_videos} if num_videos else {})
        with pytest.raises(UserError, match=r'outputs\.npz.*delete it, or write it again'):
            outputs.read(file)
    # Objects would be unpickled.
    np.savez(file, **(one._asdict() | {'logits': np.array([print], object)}), result=array)
    with pytest.raises(UserError, match='allow_pickle=False'):
        outputs.read(file)
    file.write_bytes(b'')
    with pytest.raises(UserError, match=r'outputs\.npz'):
        outputs.read(file)
