"""Tensors come out of safetensors as they went in, from a file or a folder; pickles are left alone."""

import json
import pickle

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from vjax.errors import UserError
from vjax.weights.files import safetensors as reader

TENSORS = {
    'layer.weight': np.arange(6, dtype='f').reshape(2, 3),
    'half': np.arange(4).astype('f2'),
    'brain': np.arange(4).astype(ml_dtypes.bfloat16),
    'scalar': np.array(3, 'f'),
}


def equal(found, expected):
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype
        np.testing.assert_array_equal(found[name], tensor)


def described(tensors, data=bytes(8)):
    """A file whose header is as given."""
    header = tensors if isinstance(tensors, bytes) else json.dumps(tensors).encode()
    return len(header).to_bytes(8, 'little') + header + data


def tensor(dtype='F32', shape=(2,), data_offsets=(0, 8)):
    return {'dtype': dtype, 'shape': shape, 'data_offsets': data_offsets}


def shard(folder, index, files):
    (folder / reader.INDEX).write_text(json.dumps({'weight_map': index}))
    for name, tensors in files.items():
        safetensors.numpy.save_file(tensors, folder / name)


def test_a_file_and_a_folder(tmp_path):
    safetensors.numpy.save_file(TENSORS, tmp_path / 'model.safetensors', {'format': 'pt'})
    equal(reader.read(tmp_path / 'model.safetensors'), TENSORS)
    equal(reader.read(tmp_path), TENSORS)


def test_shards(tmp_path):
    first, second = ({name: TENSORS[name]} for name in ('half', 'brain'))
    shard(tmp_path, {'half': 'a.safetensors', 'brain': 'b'}, {'a.safetensors': first, 'b': second})
    equal(reader.read(tmp_path), first | second)


OUTSIDE = ['../a', '/etc/passwd', '..', '.', '', 'sub/a', 'sub\\a', 5, None]


@pytest.mark.parametrize('name', OUTSIDE, ids=repr)
def test_shards_stay_in_their_folder(tmp_path, name):
    folder = tmp_path / 'folder'
    folder.mkdir()
    safetensors.numpy.save_file(TENSORS, tmp_path / 'a')
    shard(folder, {'half': name}, {})
    with pytest.raises(UserError, match='which is no file in this folder'):
        reader.read(folder)


@pytest.mark.parametrize(
    ('index', 'message'),
    [
        ({'half': 'gone'}, 'gone is missing'),
        ({'half': 'a', 'more': 'a'}, "disagree on which of them has 'more'"),
        ({}, 'names no tensors'),
        ([], 'has no "weight_map"'),
        ({'half': {}}, 'has no "weight_map"'),
    ],
)
def test_an_index_that_lies(tmp_path, index, message):
    shard(tmp_path, index, {'a': {'half': TENSORS['half']}})
    with pytest.raises(UserError, match=message):
        reader.read(tmp_path)


@pytest.mark.parametrize('data', [b'', b'[', b'[]', b'\xff', b'[' * 10**5, b'{"weight_map": 3}'])
def test_an_index_that_is_none(tmp_path, data):
    (tmp_path / reader.INDEX).write_bytes(data)
    with pytest.raises(UserError, match='has no "weight_map"'):
        reader.read(tmp_path)


def test_pickles_are_never_loaded(tmp_path):
    path = tmp_path / 'pytorch_model.bin'
    path.write_bytes(pickle.dumps({}))
    for place in (tmp_path, path):
        with pytest.raises(UserError, match=r'is a pickle|like a pickle') as caught:
            reader.read(place)
        assert 'safe_serialization=True' in str(caught.value)
    path.unlink()
    with pytest.raises(UserError, match=r'neither model.safetensors nor model.safetensors.index'):
        reader.read(tmp_path)


LYING = {
    'nothing': b'',
    'a header of 2^64 bytes': b'\xff' * 8 + b'{}',
    'a header beyond the file': (1 << 20).to_bytes(8, 'little') + b'{}',
    'no JSON': described(b'{' * 50),
    'a list': described(b'[]'),
    'too few bytes': described({'a': tensor()}, b'1234'),
    'more bytes': described({'a': tensor()}, bytes(12)),
    'a shape of more': described({'a': tensor(shape=(3,))}),
    'a shape that overflows': described({'a': tensor(shape=(2**60, 2**60))}),
    'a shape that overflows beside a 0': described(
        {'a': tensor(shape=(0, 2**63), data_offsets=(0, 0))}, b''
    ),
    'offsets beyond the end': described({'a': tensor(data_offsets=(2**40, 2**40 + 8))}),
    'offsets that run backwards': described({'a': tensor(data_offsets=(8, 0))}),
    'offsets that overlap': described(
        {'a': tensor(), 'b': tensor(data_offsets=(4, 12))}, bytes(12)
    ),
    'a dtype made up': described({'a': tensor('O')}),
    'a dtype that NumPy lacks': described({'a': tensor('F8_E8M0', (8,))}),
    'a pickle': pickle.dumps({'a': 1}),
}


@pytest.mark.parametrize('case', LYING)
def test_a_lying_header_is_one_sentence(case, tmp_path):
    path = tmp_path / 'model.safetensors'
    path.write_bytes(LYING[case])
    with pytest.raises(UserError, match='truncated, damaged, or no safetensors file') as caught:
        reader.read(path)
    assert '\n' not in str(caught.value)


def test_every_truncation_is_one_sentence(tmp_path):
    path = tmp_path / 'model.safetensors'
    data = safetensors.numpy.save(TENSORS)
    for length in range(len(data)):
        path.write_bytes(data[:length])
        with pytest.raises(UserError, match='truncated, damaged'):
            reader.read(path)
