import csv
import io
import math
import os
import signal
import subprocess
import sys
import time

import av
import numpy as np
import pytest
from PIL import Image

from vjax.data import records, stores, video
from vjax.data.preparation import locks, processes, shards, storage
from vjax.errors import UserError
from vjax.prepare import prepare

GOOD = {
    'a.mp4': 'run',
    'b, with comma.mp4': 'walk',
    'ünï/cödé 影.mp4': 'run',
    'c.avi': 'jump, high',
    'd.webm': 'walk',
    'one frame.mp4': 'run',
}


def write_video(path, num_frames=4, height=32, width=48, seed=0, codec=None):
    rng = np.random.default_rng(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    codec = codec or {'.avi': 'mpeg4', '.webm': 'libvpx'}.get(path.suffix, 'libx264')
    with av.open(str(path), 'w') as container:
        stream = container.add_stream(codec, rate=10)
        stream.height, stream.width, stream.pix_fmt = height, width, 'yuv420p'
        for _ in range(num_frames):
            picture = rng.integers(0, 255, (height, width, 3), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, 'rgb24')))
        container.mux(stream.encode())


def write_labels(path, rows):
    with open(path, 'w', encoding='utf-8', newline='') as file:
        csv.writer(file).writerows([('path', 'label'), *rows])
    return path


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """Six good videos, three bad ones, and a labels file that names these and a missing one."""
    folder = tmp_path_factory.mktemp('videos')
    for seed, name in enumerate(GOOD):
        write_video(folder / name, num_frames=1 if 'one' in name else 4, seed=seed)
    (folder / 'empty.mp4').write_bytes(b'')
    (folder / 'noise.mp4').write_bytes(np.random.default_rng(0).bytes(3000))
    whole = (folder / 'a.mp4').read_bytes()
    (folder / 'cut.mp4').write_bytes(whole[: len(whole) // 2])
    bad = dict.fromkeys(['empty.mp4', 'noise.mp4', 'cut.mp4', 'missing.mp4'], 'walk')
    write_labels(folder / 'train.csv', [*GOOD.items(), *bad.items()])
    write_labels(folder / 'good.csv', list(GOOD.items()))
    return folder


def content(out):
    """All files of a data set by name."""
    return {str(f.relative_to(out)): f.read_bytes() for f in out.rglob('*') if f.is_file()}


def command(folder, out, *more, labels='train.csv', split='train'):
    return [
        *(sys.executable, '-m', 'vjax.prepare', f'--videos={folder}', f'--out={out}'),
        *(f'--annotations={folder / labels}', f'--split={split}', '--short_side=16', *more),
    ]


def test_good_videos_are_stored_and_bad_ones_are_named(folder, tmp_path):
    dataset = prepare(
        folder, folder / 'train.csv', tmp_path / 'out', 'train', short_side=16, workers=2
    )
    assert dataset == records.open_dataset(tmp_path / 'out')
    assert dataset.classes == {'label': ('jump, high', 'run', 'walk')}
    split = dataset.splits['train']
    assert (split.num_videos, split.num_rejected, split.num_frames) == (6, 4, 21)
    assert split.videos_per_class == (1, 3, 2)
    store = stores.open_store(dataset, 'train')
    for i, (name, label) in enumerate(GOOD.items()):
        index = store.index
        assert index.names()[i] == name
        assert [dataset.classes['label'][j] for j in index.label(i)] == [label]
        assert (index.height[i], index.width[i]) == (16, 24)
        film = video.to_jpeg(folder / name, short_side=16)
        assert len(film.frames) == index.num_frames[i] == (1 if 'one' in name else 4)
        assert store.read(i, range(len(film.frames))) == film.frames
        assert index.fps[i] == np.float32(film.fps)
    with (tmp_path / 'out/rejected.csv').open(encoding='utf-8') as file:
        rejected = list(csv.DictReader(file))
    assert [row['file'] for row in rejected] == ['empty.mp4', 'noise.mp4', 'cut.mp4', 'missing.mp4']
    assert {row['split'] for row in rejected} == {'train'}
    assert [row['reason'] for row in rejected][::3] == ['empty file', 'no such file']
    indices = ('train.index.npz', 'train.sizes.npy')
    assert sorted(content(tmp_path / 'out')) == sorted(
        ['coverage.csv', 'dataset.json', 'rejected.csv', *split.shards, *indices]
    )


def test_images_are_videos_of_one_frame(tmp_path):
    rng = np.random.default_rng(0)
    pictures = {}
    # Two names are patterns, in FFmpeg's eyes, that match a third.
    for name in ('n 001.JPEG', 'n %03d.JPEG', 'n%20*.png'):
        ground = Image.fromarray(rng.integers(0, 255, (4, 6), np.uint8)).convert('RGB')
        pictures[name] = ground.resize((48, 32), Image.Resampling.BICUBIC)
        pictures[name].save(tmp_path / name)
    labels = write_labels(tmp_path / 'train.csv', [(name, 'x') for name in pictures])
    dataset = prepare(tmp_path, labels, tmp_path / 'out', 'train', short_side=16, workers=1)
    split = dataset.splits['train']
    assert (split.num_videos, split.num_rejected, split.num_frames) == (3, 0, 3)
    store = stores.open_store(dataset, 'train')
    for i, (name, picture) in enumerate(pictures.items()):
        assert store.index.names()[i] == name
        (frame,) = store.read(i, [0])
        got = np.asarray(Image.open(io.BytesIO(frame))).astype(float)
        assert got.shape == (16, 24, 3)
        expected = picture.resize((24, 16), Image.Resampling.LANCZOS)
        assert np.abs(got - np.asarray(expected)).mean() < 5


def test_workers_change_nothing_and_shards_not_the_content(folder, tmp_path):
    made = {}
    for workers, num_shards in ((1, None), (2, None), (2, 1)):
        out = tmp_path / f'{workers}-{num_shards}'
        prepare(
            folder, folder / 'train.csv', out, 'train',
            short_side=16, workers=workers, num_shards=num_shards,
        )  # fmt: skip
        made[workers, num_shards] = out
    assert content(made[1, None]) == content(made[2, None])
    one = records.open_dataset(made[2, 1]).splits['train']
    four = records.open_dataset(made[2, None]).splits['train']
    assert (len(one.shards), len(four.shards)) == (1, 4)
    assert one.fingerprint == four.fingerprint


def test_a_complete_split_is_left_alone(folder, tmp_path, caplog):
    caplog.set_level('INFO')
    arguments = (folder, folder / 'train.csv', tmp_path, 'train')
    first = prepare(*arguments, short_side=16, workers=1)
    before = {f: f.stat().st_mtime_ns for f in tmp_path.iterdir()}
    assert prepare(*arguments, short_side=16, workers=2) == first
    assert {f: f.stat().st_mtime_ns for f in tmp_path.iterdir()} == before
    assert 'train has been prepared before, and nothing is done' in caplog.text


def test_splits_share_classes_and_settings(folder, tmp_path):
    out = tmp_path / 'out'
    prepare(folder, folder / 'train.csv', out, 'train', short_side=16, workers=1)
    labels = write_labels(tmp_path / 'test.csv', [('a.mp4', 'walk'), ('no.mp4', 'run')])
    dataset = prepare(folder, labels, out, 'test', short_side=16, workers=1)
    assert sorted(dataset.splits) == ['test', 'train']
    assert dataset.splits['test'].videos_per_class == (0, 0, 1)
    with (out / 'rejected.csv').open(encoding='utf-8') as file:
        assert [row['split'] for row in csv.DictReader(file)] == ['train'] * 4 + ['test']

    before = content(out)
    wrong = write_labels(tmp_path / 'wrong.csv', [('a.mp4', 'wlak'), ('c.avi', 'swim')])
    with pytest.raises(UserError, match=r"'swim', 'wlak' \(did you mean 'walk'\?\)"):
        prepare(folder, wrong, out, 'validation', short_side=16)
    with pytest.raises(UserError, match=r'--short_side=32, but .* with 16'):
        prepare(folder, labels, out, 'validation', short_side=32)
    with pytest.raises(UserError, match=r'--jpeg_quality=80, but .* with 90'):
        prepare(folder, labels, out, 'test', short_side=16, jpeg_quality=80)
    with pytest.raises(UserError, match="already has a split 'test', made from other annotations"):
        prepare(folder, folder / 'good.csv', out, 'test', short_side=16)
    classes = tmp_path / 'classes.txt'
    classes.write_text('run\nwalk\njump, high\n', encoding='utf-8')
    with pytest.raises(UserError, match='--classes differs'):
        prepare(folder, labels, out, 'validation', short_side=16, classes=classes)
    assert content(out) == before


def test_splits_of_the_same_videos_are_said(folder, tmp_path, caplog):
    for split in ('train', 'test'):
        # Without a limit of memory or time.
        arguments = folder, folder / 'good.csv', tmp_path / 'out', split
        prepare(*arguments, workers=1, max_gib=math.inf, max_seconds=math.inf)
    assert caplog.messages.count('test has the same videos as train, with the same labels') == 1


def test_splits_of_other_videos_may_have_the_same_names(tmp_path, caplog):
    labels = write_labels(tmp_path / 'labels.csv', [('0.mp4', 'walk')])
    for seed, split in enumerate(('train', 'test')):
        (tmp_path / split).mkdir()
        write_video(tmp_path / split / '0.mp4', num_frames=4, seed=seed)
        prepare(tmp_path / split, labels, tmp_path / 'out', split, short_side=16, workers=1)
    assert 'same videos' not in caplog.text


def test_videos_without_any_label_have_no_classes(folder, tmp_path):
    (tmp_path / 'none.csv').write_text('path,labels\na.mp4,\n')
    arguments = folder, tmp_path / 'none.csv', tmp_path / 'out', 'train'
    with pytest.raises(UserError, match=r'has no classes: no video has a label; .*--classes'):
        prepare(*arguments, workers=1)
    (tmp_path / 'classes.txt').write_text('run\nwalk\n')
    dataset = prepare(*arguments, workers=1, classes=tmp_path / 'classes.txt')
    assert dataset.splits['train'].videos_per_class == (0, 0)


def test_a_class_list_decides_the_ids(folder, tmp_path):
    classes = tmp_path / 'classes.txt'
    classes.write_text('\ufeffwalk\r\n\r\nrun\r\nswim\r\njump, high\r\n', encoding='utf-8')
    dataset = prepare(
        folder, folder / 'good.csv', tmp_path / 'out', 'train',
        short_side=16, workers=1, classes=classes,
    )  # fmt: skip
    assert dataset.classes == {'label': ('walk', 'run', 'swim', 'jump, high')}
    assert dataset.splits['train'].videos_per_class == (2, 3, 0, 1)
    classes.write_text('walk\n', encoding='utf-8')
    with pytest.raises(UserError, match="--classes does not know: 'jump, high', 'run'"):
        prepare(folder, folder / 'good.csv', tmp_path / 'other', 'train', classes=classes)
    classes.write_text('walk\nrun\nwalk\n', encoding='utf-8')
    with pytest.raises(UserError, match="class 'walk' 2 times"):
        records.read_classes(classes)


def test_all_rejected_is_an_error_that_leaves_the_list(folder, tmp_path):
    labels = write_labels(tmp_path / 'train.csv', [('empty.mp4', 'a'), ('noise.mp4', 'b')])
    with pytest.raises(UserError, match=r'all 2 videos .*empty\.mp4: empty file'):
        prepare(folder, labels, tmp_path / 'out', 'train', workers=1)
    assert list(content(tmp_path / 'out')) == ['rejected.csv']
    # Nothing stands in the way of another try.
    prepare(folder, folder / 'good.csv', tmp_path / 'out', 'train', short_side=16, workers=1)


# --- Crashes. ---


class Interrupted(Exception):
    pass


def interrupt(folder, out, monkeypatch, at):
    """Runs prepare, in this process in place of a worker, until the `at`-th video is written."""
    ended = []

    def ends(number):
        ended.append(number)
        if len(ended) == at:
            raise Interrupted

    def write_shards(tasks, *_):
        for task in tasks:
            shards.write(task, ends=ends)

    with monkeypatch.context() as patch:
        patch.setattr(processes, 'write_shards', write_shards)
        with pytest.raises(Interrupted):
            prepare(folder, folder / 'train.csv', out, 'train', short_side=16)


@pytest.fixture(scope='module')
def uninterrupted(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp('uninterrupted')
    prepare(folder, folder / 'train.csv', out, 'train', short_side=16, workers=2)
    return out


@pytest.mark.parametrize('at', [1, 3, 6, 10])
def test_an_interrupted_run_goes_on_to_the_same_bytes(
    folder, tmp_path, uninterrupted, monkeypatch, at
):
    interrupt(folder, tmp_path, monkeypatch, at)
    with pytest.raises(UserError, match=r'interrupted'):
        records.open_dataset(tmp_path)
    shards = {f: f.stat().st_mtime_ns for f in tmp_path.glob('*.tfrecord')}
    assert len(shards) == {1: 0, 3: 1, 6: 2, 10: 3}[at]
    prepare(folder, folder / 'train.csv', tmp_path, 'train', short_side=16, workers=1)
    assert content(tmp_path) == content(uninterrupted)
    assert {f: f.stat().st_mtime_ns for f in shards} == shards  # Done work is kept.


def test_an_interrupted_run_goes_on_only_with_the_same_arguments(folder, tmp_path, monkeypatch):
    interrupt(folder, tmp_path, monkeypatch, 3)
    before = content(tmp_path)
    with pytest.raises(UserError, match=r'--short_side=20, but .* with 16'):
        prepare(folder, folder / 'train.csv', tmp_path, 'train', short_side=20)
    with pytest.raises(UserError, match=r'other annotations.*\.partial-train'):
        prepare(folder, folder / 'good.csv', tmp_path, 'train', short_side=16)
    with pytest.raises(UserError, match='another --num_shards'):
        prepare(folder, folder / 'train.csv', tmp_path, 'train', short_side=16, num_shards=2)
    assert content(tmp_path) == before


def test_a_killed_run_goes_on_to_the_same_bytes(folder, tmp_path, uninterrupted):
    out = tmp_path / 'out'
    process = subprocess.Popen(command(folder, out, '--workers=1'), stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not list(out.glob('*.tfrecord')) and time.monotonic() < deadline:
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    assert process.wait() in (-signal.SIGKILL, 0)
    done = subprocess.run(command(folder, out, '--workers=2'), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert 'train: 6 videos, 21 frames, 3 classes' in done.stdout
    assert '4 files rejected' in done.stdout
    assert content(out) == content(uninterrupted)


@pytest.mark.slow
def test_killed_over_and_over(folder, tmp_path, uninterrupted):
    out, rng = tmp_path / 'out', np.random.default_rng(0)
    for _ in range(12):
        process = subprocess.Popen(command(folder, out, '--workers=2'), stdout=subprocess.DEVNULL)
        time.sleep(rng.uniform(0.2, 1.5))
        process.kill()
        process.wait()
    subprocess.run(command(folder, out), check=True, stdout=subprocess.DEVNULL)
    assert content(out) == content(uninterrupted)


def test_a_file_that_crashes_the_decoder_costs_only_itself(folder, tmp_path):
    # The workers import vjax anew: a startup file gives them the decoder that dies.
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
    environment = os.environ | {'PYTHONPATH': str(tmp_path), 'DIE_AT': 'b, with'}
    run = command(folder, tmp_path / 'out', '--workers=2', labels='good.csv')
    done = subprocess.run(run, capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 0, done.stderr
    assert records.open_dataset(tmp_path / 'out').splits['train'].num_videos == 5
    rejected = (tmp_path / 'out/rejected.csv').read_text(encoding='utf-8')
    assert '"b, with comma.mp4",the decoder crashed (SIGSEGV),train' in rejected


def test_a_full_disk_is_one_sentence_and_nothing_looks_complete(folder, tmp_path):
    code = (
        'import errno\n'
        'from vjax import cli, prepare\n'
        'from vjax.data import records\n'
        'def full(path, text):\n'
        '    raise OSError(errno.ENOSPC, "No space left on device", str(path))\n'
        'records.write_atomically = full\n'
        'if __name__ == "__main__": cli.run(prepare.main)\n'
    )
    (tmp_path / 'full.py').write_text(code)
    arguments = command(folder, tmp_path / 'out')[3:]
    done = subprocess.run(
        [sys.executable, str(tmp_path / 'full.py'), *arguments], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr.startswith('error: the disk is full: could not write')
    assert done.stderr.count('\n') == 1
    assert not (tmp_path / 'out' / records.DESCRIPTION).exists()


def test_two_runs_at_once_are_refused(folder, tmp_path):
    partial = storage.folder(tmp_path / '.partial-train')
    partial.make()
    with (
        locks.claim(partial, 0, 1),
        pytest.raises(UserError, match=r'another run of vjax\.prepare is writing'),
    ):
        prepare(folder, folder / 'good.csv', tmp_path, 'train', short_side=16)
    prepare(folder, folder / 'good.csv', tmp_path, 'train', short_side=16, workers=1)


# --- Arguments. ---


def test_other_wrong_arguments(folder, tmp_path):
    labels = folder / 'good.csv'
    with pytest.raises(UserError, match='no such folder'):
        prepare(tmp_path / 'none', labels, tmp_path / 'out', 'train')
    with pytest.raises(UserError, match='is not a folder'):
        prepare(folder, labels, labels, 'train')
    for split in ('../train', '', '.hidden', 'a b'):
        with pytest.raises(UserError, match='--split'):
            prepare(folder, labels, tmp_path / 'out', split)
    for wrong in ({'short_side': 0}, {'jpeg_quality': 101}, {'workers': 0}, {'num_shards': 0}):
        with pytest.raises(UserError, match=f'--{next(iter(wrong))}='):
            prepare(folder, labels, tmp_path / 'out', 'train', **wrong)
    assert not (tmp_path / 'out').exists()


def test_the_command_line(folder, tmp_path):
    done = subprocess.run(
        command(folder, tmp_path, '--shortside=3'), capture_output=True, text=True
    )
    assert done.returncode == 2
    assert 'unrecognized arguments: --shortside=3' in done.stderr
    code = 'import sys, vjax.prepare; print([m for m in ("tensorflow", "jax") if m in sys.modules])'
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == '[]'
