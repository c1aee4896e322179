"""Many workers, on one machine or on many: whoever writes the shards, they are the same to the byte."""

import os
import re
import signal
import subprocess
import sys
import threading
import time

import av
import numpy as np
import pytest

from vjax import prepare as prepare_module
from vjax.data import records
from vjax.data.annotations.items import Item
from vjax.data.preparation import locks, shards, storage
from vjax.data.video import Limits
from vjax.errors import UserError
from vjax.prepare import prepare

NUM_VIDEOS = 10


def write_video(path, num_frames, side=32, seed=0):
    rng = np.random.default_rng(seed)
    with av.open(str(path), 'w') as container:
        stream = container.add_stream('libx264', rate=10)
        stream.height, stream.width, stream.pix_fmt = side, side, 'yuv420p'
        for _ in range(num_frames):
            picture = np.zeros((side, side, 3), np.uint8)
            picture[:32] = rng.integers(0, 255, (32, side, 3), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, 'rgb24')))
        container.mux(stream.encode())


@pytest.fixture(scope='module')
def videos(tmp_path_factory):
    """A folder of ten videos and an empty file, and train.csv."""
    folder = tmp_path_factory.mktemp('videos')
    rows = ['path,label']
    for i in range(NUM_VIDEOS):
        write_video(folder / f'{i}.mp4', num_frames=3 + i, seed=i)
        rows.append(f'{i}.mp4,{"ab"[i % 2]}')
    (folder / 'empty.mp4').touch()
    (folder / 'train.csv').write_text('\n'.join([*rows, 'empty.mp4,a\n']))
    return folder


@pytest.fixture(scope='module')
def alone(videos, tmp_path_factory):
    """What one process makes."""
    out = tmp_path_factory.mktemp('alone')
    make(videos, out, workers=1)
    return content(out)


@pytest.fixture(autouse=True)
def _no_estimate(monkeypatch):
    """It has tests of its own."""
    monkeypatch.setattr(prepare_module, 'estimate', lambda *_: None)


def make(videos, out, **arguments):
    return prepare(videos, videos / 'train.csv', out, 'train', short_side=16, **arguments)


def content(out):
    return {str(f.relative_to(out)): f.read_bytes() for f in out.rglob('*') if f.is_file()}


def command(videos, out, *more):
    return [
        *(sys.executable, '-m', 'vjax.prepare', f'--videos={videos}', f'--out={out}'),
        *(f'--annotations={videos / "train.csv"}', '--split=train', '--short_side=16', *more),
    ]


# --- Job arrays. ---


def test_tasks_one_after_another_in_any_order(videos, tmp_path, alone, caplog):
    caplog.set_level('INFO', logger='vjax')
    assert make(videos, tmp_path, workers=1, num_tasks=3, task=2) is None
    assert {f.name[:11] for f in tmp_path.glob('*.tfrecord')} == {'train-00002'}
    assert '3 of 4 shards are missing yet, of --task=0, 1' in caplog.text
    assert make(videos, tmp_path, workers=1, num_tasks=3, task=0) is None
    assert '1 of 4 shards are missing yet, of --task=1' in caplog.text
    with pytest.raises(UserError, match='interrupted'):
        records.open_dataset(tmp_path)
    assert make(videos, tmp_path, workers=1, num_tasks=3, task=0) is None  # Nothing is left of it.
    # More tasks than shards: some have nothing to do.
    assert make(videos, tmp_path, workers=1, num_tasks=9, task=7) is None
    dataset = make(videos, tmp_path, workers=1, num_tasks=3, task=1)
    assert content(tmp_path) == alone
    assert dataset == records.open_dataset(tmp_path)
    # One that comes too late.
    assert make(videos, tmp_path, workers=1, num_tasks=3, task=2) == dataset
    assert content(tmp_path) == alone


def test_tasks_at_once_killed_and_restarted(videos, tmp_path, alone):
    out = tmp_path / 'out'

    def start(task):
        more = ('--workers=1', '--num_tasks=2', f'--task={task}')
        return subprocess.Popen(
            command(videos, out, *more), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    first, killed = start(0), start(1)
    deadline = time.monotonic() + 60
    while not list(out.glob('.partial-train/*.json')) and time.monotonic() < deadline:
        time.sleep(0.001)
    killed.kill()
    killed.communicate()
    told, complaint = first.communicate()
    assert first.returncode == 0, complaint
    # Unless the kill came too late for all its shards.
    if not told:
        assert re.search(r'\d of 4 shards are missing yet, of --task=1\n', complaint)
    done = start(1)
    told, complaint = done.communicate()
    assert done.returncode == 0, complaint
    assert 'train: 10 videos' in told
    assert content(out) == alone


def test_two_tasks_that_finish_at_once_do_no_harm(videos, tmp_path, alone):
    """Both have written their shards and find all of them there."""
    results = {}

    def run(task):
        results[task] = make(videos, tmp_path, workers=1, num_tasks=2, task=task)

    threads = [threading.Thread(target=run, args=(task,)) for task in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert content(tmp_path) == alone
    assert records.open_dataset(tmp_path) in results.values()


def test_what_excludes_what(videos, tmp_path):
    partial = storage.folder(tmp_path / '.partial-train')
    partial.make()
    with locks.claim(partial, 1, 3):
        with pytest.raises(UserError, match=r'another run .*\(--num_tasks=3 --task=1\) is writing'):
            make(videos, tmp_path, workers=1, num_tasks=3, task=1)
        with pytest.raises(UserError, match=r'another run .*\(--num_tasks=3 --task=1\) is writing'):
            make(videos, tmp_path, workers=1, num_tasks=2, task=0)
        with pytest.raises(UserError, match=r'another run .* is writing'):
            make(videos, tmp_path, workers=1)
        assert make(videos, tmp_path, workers=1, num_tasks=3, task=0) is None
    with (
        locks.claim(partial, 0, 1),
        pytest.raises(UserError, match=r'another run of vjax.prepare is writing'),
    ):
        make(videos, tmp_path, workers=1, num_tasks=3, task=2)
    make(videos, tmp_path, workers=2)  # A whole run goes on where an array was.
    assert not partial.exists()


def test_only_leftovers_of_the_own_shards_are_removed(tmp_path):
    names = ['00000.a.tmp', '.00000.json.b.tmp', '00001.a.tmp', '.plan.json.c.tmp', '00000.json']
    for name in names:
        (tmp_path / name).touch()
    limits = Limits()
    task = shards.Task(0, str(tmp_path), 't', str(tmp_path), str(tmp_path), (), {}, limits)
    with shards.with_scratch([task]) as (own,):
        assert own.scratch == str(tmp_path)
        (tmp_path / '00000.d.tmp').touch()
    assert {f.name for f in tmp_path.iterdir()} == set(names[2:])


def test_exclusive_is_one_at_a_time_and_leaves_nothing(tmp_path):
    inside, most = 0, 0

    def enter():
        nonlocal inside, most
        for _ in range(20):
            with locks.exclusive(storage.folder(tmp_path)):
                inside += 1
                most = max(most, inside)
                time.sleep(0.0005)
                inside -= 1

    threads = [threading.Thread(target=enter) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (most, list(tmp_path.iterdir())) == (1, [])


# --- Apache Beam. ---


def test_a_task_survives_as_text():
    item = Item('n', 'a/ü.mp4', (('x', 'y'),), 1.5, spans=((0.0, 2.0), (1.0, 3.0)))
    task = shards.Task(
        *(3, 'o', 't', 'p', 'v', ((7, item, (0, 1)),), {'crf': 20}, Limits(5, 6, 7), {7: 'why'})
    )
    assert shards.from_json(shards.to_json(task)) == task


def test_beam_makes_the_same(videos, tmp_path, alone, monkeypatch):
    pytest.importorskip('apache_beam', reason='needs the [beam] extra')
    monkeypatch.chdir(tmp_path)
    dataset = prepare(
        os.path.relpath(videos), videos / 'train.csv', 'out', 'train',
        short_side=16, beam='--runner=DirectRunner',
    )  # fmt: skip
    assert content(tmp_path / 'out') == alone
    assert dataset == records.open_dataset('out')


def test_a_broken_pipeline_is_one_sentence(videos, tmp_path, alone, monkeypatch):
    pytest.importorskip('apache_beam', reason='needs the [beam] extra')
    from vjax.data.preparation import processes

    def fails(tasks, *_):
        raise OSError(28, 'No space left on device')

    with monkeypatch.context() as patch:
        patch.setattr(processes, 'write_shards', fails)
        with pytest.raises(UserError, match=r'the Beam pipeline failed: .*No space left'):
            make(videos, tmp_path, beam='--runner=FnApiRunner')
    make(videos, tmp_path, workers=1)
    assert content(tmp_path) == alone


def test_wrong_options_of_beam(videos, tmp_path):
    with pytest.raises(UserError, match='leave out --workers'):
        make(videos, tmp_path, beam='', workers=2)
    pytest.importorskip('apache_beam', reason='needs the [beam] extra')
    with pytest.raises(UserError, match='Unexpected pipeline runner: Dirext'):
        make(videos, tmp_path, beam='--runner=Dirext')


def test_without_beam_one_sentence_says_so(videos, tmp_path):
    code = (
        'import sys\n'
        'sys.modules["apache_beam"] = None\n'
        'from vjax import cli, prepare\n'
        'if __name__ == "__main__": cli.run(prepare.main)\n'
    )
    run = [sys.executable, '-c', code, *command(videos, tmp_path / 'out', '--beam=')[3:]]
    done = subprocess.run(run, capture_output=True, text=True)
    assert done.returncode == 2
    assert re.fullmatch(r"error: .*: pip install 'vjax\[beam\]' has it\.\n", done.stderr)


# --- Hostile files. ---


def test_a_file_that_hangs_the_decoder_costs_only_itself(videos, tmp_path):
    # The workers import vjax anew: a startup file gives them the decoder that never ends.
    (tmp_path / 'sitecustomize.py').write_text(
        'import os, time\n'
        'if os.environ.get("HANG_AT"):\n'
        '    import av\n'
        '    whole = av.open\n'
        '    def hangs(file, *args, **kwargs):\n'
        '        if os.environ["HANG_AT"] in str(file):\n'
        '            time.sleep(1000)\n'
        '        return whole(file, *args, **kwargs)\n'
        '    av.open = hangs\n'
    )
    environment = os.environ | {'PYTHONPATH': str(tmp_path), 'HANG_AT': '/1.mp4'}
    run = command(videos, tmp_path / 'out', '--workers=1', '--max_seconds=1.5')
    done = subprocess.run(run, capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 0, done.stderr
    assert 'no estimate of its size could be made' in done.stderr
    assert records.open_dataset(tmp_path / 'out').splits['train'].num_videos == 9
    rejected = (tmp_path / 'out/rejected.csv').read_text(encoding='utf-8')
    assert '1.mp4,the decoder was not done after 1.5 s,train' in rejected


@pytest.mark.parametrize('store', ['frames', 'video'])
def test_a_file_that_wants_all_the_memory_costs_only_itself(tmp_path, store):
    write_video(tmp_path / 'small.mp4', num_frames=3)
    write_video(tmp_path / 'large.mp4', num_frames=2, side=3072)
    (tmp_path / 'train.csv').write_text('path,label\nlarge.mp4,a\nsmall.mp4,b\n')
    arguments = (tmp_path, tmp_path / 'train.csv')
    dataset = prepare(
        *arguments, tmp_path / 'out', 'train', short_side=4096,
        store=store, workers=1, num_shards=1, max_gib=0.05,
    )  # fmt: skip
    assert dataset.splits['train'].num_videos == 1
    rejected = (tmp_path / 'out/rejected.csv').read_text(encoding='utf-8')
    assert rejected.splitlines()[1].startswith('large.mp4,')
    if store == 'frames':  # x264 gives no reason.
        assert 'too large: decoding it takes too much memory' in rejected


def test_limits_come_from_the_command_line(videos, tmp_path):
    run = command(videos, tmp_path / 'a', '--workers=1', '--max_frames=6')
    subprocess.run(run, check=True, capture_output=True)
    assert records.open_dataset(tmp_path / 'a').splits['train'].num_videos == 4  # Of 3 to 6 frames.
    rejected = (tmp_path / 'a/rejected.csv').read_text(encoding='utf-8')
    assert '4.mp4,too long: more than 6 frames,train' in rejected
    with pytest.raises(UserError, match=r'all 11 videos .*0.mp4: too large: 32 x 32 pixels'):
        make(videos, tmp_path / 'b', workers=1, max_pixels=1000)


def test_an_interrupted_run_keeps_its_limits(videos, tmp_path):
    assert make(videos, tmp_path, workers=1, num_tasks=2) is None
    with pytest.raises(UserError, match='with another --max_frames or --max_pixels'):
        make(videos, tmp_path, workers=1, max_frames=7)


def test_wrong_arguments(videos, tmp_path):
    wrong = {'num_tasks': 0, 'task': 1, 'max_frames': 0, 'max_pixels': 0}
    for name, value in (wrong | {'max_seconds': 0.0, 'max_gib': -1.0}).items():
        with pytest.raises(UserError, match=f'--{name}={value} is not'):
            make(videos, tmp_path / 'out', **{name: value})
    assert not (tmp_path / 'out').exists()


def test_the_last_signal_ends_all_workers(videos, tmp_path):
    """Ctrl-C ends a run with one line, and nobody goes on behind its back."""
    run = subprocess.Popen(
        command(videos, tmp_path / 'out', '--workers=2'), stderr=subprocess.PIPE, text=True
    )
    while not (tmp_path / 'out/.partial-train').exists():
        time.sleep(0.001)
    run.send_signal(signal.SIGINT)
    _, complaint = run.communicate(timeout=60)
    assert run.returncode in (0, 130)
    assert 'Traceback' not in complaint
