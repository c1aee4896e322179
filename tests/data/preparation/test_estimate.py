import os
import re
import subprocess
import sys

import av
import numpy as np
import pytest

from vjax.data import moving_digits, records, video
from vjax.data.annotations.items import Annotations, Item
from vjax.data.preparation import processes, shards
from vjax.data.preparation.estimate import NUM_SAMPLES, estimate
from vjax.prepare import prepare

SETTINGS = {
    'frames': {'store': 'frames', 'short_side': 32, 'jpeg_quality': 90},
    'video': {'store': 'video', 'short_side': 32, 'crf': 20},
}


@pytest.fixture(scope='module')
def digits(tmp_path_factory):
    """Rendered videos of moving digits and their labels."""
    folder = tmp_path_factory.mktemp('digits')
    moving_digits.generate(folder, num_train=24, num_validation=1, num_test=1, workers=1)
    return folder


def of(paths):
    items = tuple(Item(path, path, (('x',),)) for path in paths)
    return Annotations(('label',), items, None)


def names(digits):
    return [line.split(',')[0] for line in (digits / 'train.csv').read_text().splitlines()[1:]]


def test_the_estimate_is_within_thirty_percent(digits, tmp_path):
    found = estimate(
        str(digits), of(names(digits)), [], SETTINGS, video.Limits(), processes.Budget()
    )
    for store in ('frames', 'video'):
        out = tmp_path / store
        dataset = prepare(
            digits, digits / 'train.csv', out, 'train', short_side=32, store=store, workers=2
        )
        size = sum(dataset.splits['train'].shard_bytes)
        assert found.num_bytes[store] == pytest.approx(size, rel=0.3)
        assert 0 < found.cpu_seconds[store] < 60


def test_of_a_long_video_a_part_is_enough(tmp_path):
    rng = np.random.default_rng(0)
    with av.open(str(tmp_path / 'a.mp4'), 'w') as container:
        stream = container.add_stream('mpeg4', rate=10)
        stream.height, stream.width, stream.pix_fmt = 32, 32, 'yuv420p'
        for _ in range(80):
            picture = rng.integers(0, 255, (32, 32, 3), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, 'rgb24')))
        container.mux(stream.encode())
    annotated = of(['a.mp4'])
    found = estimate(str(tmp_path), annotated, [], SETTINGS, video.Limits(), processes.Budget())
    sizes = {}
    for store, settings in SETTINGS.items():
        (item,) = annotated.items
        entry, _ = shards.encode(str(tmp_path), item, (), settings, video.Limits())
        sizes[store] = sum(entry.sizes)
    assert found.num_bytes == {store: pytest.approx(n, rel=0.3) for store, n in sizes.items()}


def test_missing_videos_are_neither_sampled_nor_counted(digits):
    present = names(digits)[:NUM_SAMPLES]
    missing = [f'gone {i}.mp4' for i in range(100)]
    mixed = of([*missing[:50], *present, *missing[50:]])
    arguments = (SETTINGS, video.Limits(), processes.Budget())
    whole = estimate(str(digits), of(present), [], *arguments)
    assert estimate(str(digits), mixed, missing, *arguments).num_bytes == whole.num_bytes
    assert estimate(str(digits), of(missing), missing, *arguments) is None


def test_what_is_no_video_counts_as_such(digits, tmp_path):
    (tmp_path / 'noise.mp4').write_bytes(b'noise' * 100)
    name = str(digits / names(digits)[0])
    arguments = (SETTINGS, video.Limits(), processes.Budget())
    one = estimate(str(tmp_path), of([name]), [], *arguments)
    four = estimate(str(tmp_path), of([name, 'noise.mp4', name, 'noise.mp4']), [], *arguments)
    assert four.num_bytes == {store: 2 * size for store, size in one.num_bytes.items()}
    assert estimate(str(tmp_path), of(['noise.mp4']), [], *arguments) is None


def test_a_sample_that_crashes_gives_no_estimate_and_the_run_goes_on(digits, tmp_path):
    (tmp_path / 'sitecustomize.py').write_text(
        'import os, signal\n'
        'if os.environ.get("DIE_AT"):\n'
        '    import av\n'
        '    whole = av.open\n'
        '    def dies(file, *args, **kwargs):\n'
        '        if os.environ["DIE_AT"] in str(file):\n'
        '            os.kill(os.getpid(), signal.SIGSEGV)\n'
        '        return whole(file, *args, **kwargs)\n'
        '    av.open = dies\n'
    )
    some = names(digits)[:6]
    (tmp_path / 'train.csv').write_text(
        'path,label\n' + ''.join(f'{name},x\n' for name in some), encoding='utf-8'
    )

    def run(die_at, out):
        return subprocess.run(
            [
                *(sys.executable, '-m', 'vjax.prepare', f'--videos={digits}', '--split=train'),
                *(f'--annotations={tmp_path / "train.csv"}', f'--out={out}', '--short_side=16'),
                *('--num_shards=1', '--workers=1'),
            ],
            env=os.environ | {'PYTHONPATH': str(tmp_path), 'DIE_AT': die_at},
            capture_output=True, text=True, timeout=120,
        )  # fmt: skip

    done = run(some[0], tmp_path / 'out')
    assert done.returncode == 0, done.stderr
    assert 'train: no estimate of its size could be made' in done.stderr
    assert records.open_dataset(tmp_path / 'out').splits['train'].num_videos == 5
    whole = run('', tmp_path / 'whole')
    assert re.search(
        r'train: --store=frames about [\d.]+ MB and [\d.]+ CPU minutes to write, '
        r'--store=video about [\d.]+ MB and [\d.]+ CPU minutes to write \(from a few videos\)',
        whole.stderr,
    )
    again = run('', tmp_path / 'whole')
    assert 'about' not in again.stderr
