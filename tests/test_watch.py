"""Watching a long video and a pipe, by a small model, from the command line."""

import csv
import functools
import io
import json
import os
import signal
import subprocess
import sys
import threading
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from vjax import predict, watch
from vjax.data import moving_digits, pipeline, video
from vjax.data.sections import Clip
from vjax.data.streaming import FrameStream
from vjax.data.windows import windows
from vjax.errors import UserError
from vjax.training import runs

ROOT = Path(__file__).parents[1]
FPS = 12
NUM_FRAMES = 80  # Of the video; a clip has 4, a window begins every 2.


@pytest.fixture(scope='module')
def frames():
    rendered = [moving_digits.render('motion6', 0, 'test', i)[0] for i in range(4)]
    return np.concatenate(rendered)[:NUM_FRAMES]


def write(path, frames, milliseconds=None):
    """Encodes frames; `milliseconds` are their times where the rate varies."""
    with av.open(str(path), 'w') as container:
        stream = container.add_stream('libx264', rate=1000 if milliseconds else FPS)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = 'yuv420p'
        for i, array in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(array, format='rgb24')
            if milliseconds:
                frame.pts, frame.time_base = milliseconds[i], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@pytest.fixture(scope='module')
def film(frames, tmp_path_factory):
    return write(tmp_path_factory.mktemp('film') / 'long.mkv', frames)


@pytest.fixture
def piped(monkeypatch):
    """Makes the bytes that it is called with come through stdin."""

    def pipe(content):
        reading, writing = os.pipe()
        monkeypatch.setattr(watch, 'STDIN', reading)

        def feed():
            with open(writing, 'wb') as file:
                file.write(content)

        threading.Thread(target=feed, daemon=True).start()

    return pipe


@pytest.mark.parametrize(
    'overrides', [(), pytest.param(('--config.clip.fps=6.0',), marks=pytest.mark.slow)]
)
def test_a_window_is_what_predict_says_of_that_cut(trained, film, monkeypatch, overrides):
    seen = []
    watch.watch(
        trained, film, step=0.5, top=6, batch_size=4, overrides=overrides, on_window=seen.append
    )
    assert len(seen) > 10
    some = seen[:: len(seen) // 5]
    cuts = iter([(window['start'] - 1e-3, window['end'] - 1e-3) for window in some])
    to_jpeg = video.to_jpeg

    def cut(*args, **kwargs):
        start, end = next(cuts)
        return to_jpeg(*args, **kwargs, start=start, end=end)

    monkeypatch.setattr(video, 'to_jpeg', cut)
    alone = list(predict.predict(trained, [film] * len(some), top=6, overrides=overrides))
    for window, answer in zip(some, alone, strict=True):
        scores, expected = (
            {entry['label']: entry['score'] for entry in result['top']}
            for result in (window, answer)
        )
        assert scores == pytest.approx(expected, rel=1e-5)
    # The windows differ, so this says something.
    assert len({json.dumps(window['top']) for window in seen}) > 5


@pytest.mark.parametrize('fps', [None, 5.0])
@pytest.mark.parametrize('step', [None, 0.3])
def test_the_clip_of_a_window_is_that_of_the_cut_to_the_byte(trained, tmp_path, fps, step):
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 255, (70, 48, 64, 3), dtype=np.uint8)
    times = np.cumsum([0, *rng.integers(20, 120, 69)])
    film = write(tmp_path / 'varying.mkv', noise, times.tolist())
    clip = runs.load_run(trained).config.clip.to_dict() | {'fps': fps}
    with FrameStream(film, short_side=40) as stream:
        found = list(windows(stream, Clip(**clip), step))
    assert len(found) > 10
    for window in found:
        cut = video.to_jpeg(film, short_side=40, start=window.start, end=window.end)
        assert cut.frames == window.film.frames
        np.testing.assert_array_equal(
            pipeline.decode_views(window.film, clip=clip, views=(1, 1)),
            pipeline.decode_views(cut, clip=clip, views=(1, 1)),
        )


def test_a_file_gives_segments_and_a_picture(trained, film, tmp_path, capsys):
    table, picture = tmp_path / 'found.csv', tmp_path / 'found.png'
    arguments = [f'--workdir={trained}', str(film), '--min_seconds=0', '--step=0.1']
    assert watch.main([*arguments, f'--segments={table}', f'--timeline={picture}']) == 0
    printed = capsys.readouterr().out.splitlines()
    rows = list(csv.DictReader(io.StringIO(table.read_text())))
    assert len(rows) == len(printed) >= 1
    assert [float(row['start']) for row in rows[1:]] == [float(row['end']) for row in rows[:-1]]
    assert (float(rows[0]['start']), float(rows[-1]['end'])) == (
        0,
        pytest.approx(NUM_FRAMES / FPS, abs=0.01),
    )
    assert rows[0]['label'] in printed[0]
    assert Image.open(picture).width > 1000

    as_json = tmp_path / 'found.json'
    assert watch.main([*arguments, f'--segments={as_json}', '--json']) == 0
    content = json.loads(as_json.read_text())
    assert [{k: str(v) for k, v in s.items()} for s in content['segments']] == rows
    printed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert printed == content['segments']
    assert content['seconds'] == pytest.approx(NUM_FRAMES / FPS, abs=0.01)


@pytest.mark.parametrize('shown', ['segments', 'windows'])
def test_files_are_written_though_nobody_reads_what_is_printed(
    shown, trained, film, tmp_path, monkeypatch
):
    class Closed(io.StringIO):
        def write(self, text):
            raise BrokenPipeError

    monkeypatch.setattr(sys, 'stdout', Closed())
    with pytest.raises(BrokenPipeError):
        watch.main(
            [
                f'--workdir={trained}',
                str(film),
                f'--print={shown}',
                f'--segments={tmp_path}/found.csv',
            ]
        )
    rows = list(csv.DictReader(io.StringIO((tmp_path / 'found.csv').read_text())))
    assert float(rows[0]['start']) == 0
    ended = float(rows[-1]['end'])
    assert 0 < ended <= NUM_FRAMES / FPS + 0.01
    assert shown == 'windows' or ended == pytest.approx(NUM_FRAMES / FPS, abs=0.01)


def test_every_head_has_segments(trained, film, tmp_path, monkeypatch, capsys):
    run = runs.load_run(trained)
    heads = run._replace(classes={'noun': ('cup', 'pan'), 'verb': ('cut', 'fry', 'stir', 'wash')})
    monkeypatch.setattr(runs, 'load_run', lambda *_, **__: heads)
    table = tmp_path / 'found.csv'
    outputs = [f'--segments={table}', f'--timeline={tmp_path / "found.png"}', '--json', '--top=8']
    assert watch.main([f'--workdir={trained}', str(film), *outputs]) == 0
    rows = list(csv.DictReader(io.StringIO(table.read_text())))
    for head, names in heads.classes.items():
        times = [float(r['end']) - float(r['start']) for r in rows if r['head'] == head]
        assert sum(times) == pytest.approx(NUM_FRAMES / FPS, abs=0.01)
        assert {row['label'] for row in rows if row['head'] == head} <= set(names)
    printed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(p['head'], p['label']) for p in printed] == [(r['head'], r['label']) for r in rows]


def test_any_number_of_labels_hold_at_once(trained, film, monkeypatch):
    run = runs.load_run(trained)
    run.config.loss.name = 'sigmoid'
    monkeypatch.setattr(runs, 'load_run', lambda *_, **__: run._replace(multi_label=True))
    found = watch.watch(trained, film, min_score=0.0).segments
    assert {s.label for s in found} == set(run.classes['label'])
    assert {(s.start, round(s.end, 2)) for s in found} == {(0.0, round(NUM_FRAMES / FPS, 2))}
    assert all(0 < s.score < 1 for s in found)
    assert watch.watch(trained, film, min_score=1.0).segments == []


@pytest.mark.slow
def test_a_pipe_gives_the_windows_of_the_file(trained, film, piped, capsys):
    arguments = [f'--workdir={trained}', '--json', '--top=2', '--print=windows']
    assert watch.main([*arguments, str(film)]) == 0
    of_file = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    piped(film.read_bytes())
    assert watch.main([*arguments[:-1], '-']) == 0
    of_pipe = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(of_pipe) == len(of_file) == (NUM_FRAMES - 4) // 2 + 1
    for one, other in zip(of_file, of_pipe, strict=True):
        assert (one['start'], one['end']) == (other['start'], other['end'])
        assert [e['label'] for e in one['top']] == [e['label'] for e in other['top']]
        assert one['top'][0]['score'] == pytest.approx(other['top'][0]['score'], rel=1e-5)


def test_raw_frames_are_watched(trained, frames, piped, capsys):
    piped(frames[:20].tobytes())
    assert watch.main([f'--workdir={trained}', '-', '--raw=48x48@12', '--top=1']) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[:3]] == ['0:00.3', '0:00.5', '0:00.7']


def test_a_stream_that_is_cut_off_leaves_what_was_found(trained, film, tmp_path, piped, capsys):
    content = film.read_bytes()
    piped(content[: len(content) * 2 // 3])
    table = tmp_path / 'found.csv'
    assert watch.main([f'--workdir={trained}', '-', f'--segments={table}']) == 2
    printed = capsys.readouterr()
    (sentence,) = [line for line in printed.err.splitlines() if line.startswith('error')]
    assert 'truncated' in sentence or 'garbled' in sentence
    assert len(printed.out.splitlines()) > 5
    assert len(table.read_text().splitlines()) >= 2


def test_a_video_that_is_none_is_one_sentence_and_nothing_is_written(trained, tmp_path, piped):
    bad = tmp_path / 'bad.mp4'
    bad.write_bytes(b'x' * 1000)
    piped(b'')
    for source, reason in ((str(bad), 'bad.mp4: not a video'), ('-', 'nothing came')):
        outputs = [f'--segments={tmp_path / "a.csv"}', f'--timeline={tmp_path / "a.png"}']
        with pytest.raises(UserError, match=reason):
            watch.main([f'--workdir={trained}', source, *outputs])
    assert [file.name for file in tmp_path.iterdir()] == ['bad.mp4']


@pytest.mark.parametrize(
    ('option', 'sentence'),
    [
        ('--step=0', 'more than 0'),
        ('--step=nan', 'more than 0'),
        ('--min_seconds=-1', 'at least 0'),
        ('--min_score=2', 'from 0 to 1'),
        ('--top=0', 'at least 1'),
        ('--batch_size=0', 'at least 1'),
        ('--segments=found.txt', r'\.csv or \.json'),
        ('--segments=nowhere/found.csv', 'there is no folder'),
        ('--timeline=found.jpg', r'\.png'),
        ('--raw=40x40@5', "give '-'"),
        ('--raw=huge', 'give'),
    ],
)
def test_what_is_asked_wrongly_is_said_at_once(option, sentence):
    with pytest.raises(UserError, match=sentence):
        watch.main(['--workdir=nowhere', 'video.mp4', option])


@pytest.mark.slow
def test_ctrl_c_ends_a_stream_and_leaves_what_was_found(trained, frames, tmp_path):
    table, picture = tmp_path / 'found.json', tmp_path / 'found.png'
    command = [sys.executable, '-m', 'vjax.watch', f'--workdir={trained}', '-', '--json']
    command += ['--raw=48x48@12', f'--segments={table}', f'--timeline={picture}']
    process = subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    process.stdin.write(frames[:40].tobytes())
    process.stdin.flush()
    # Windows come while the pipe is open: 39 frames are sure to be over, a window ends every two.
    lines = [json.loads(process.stdout.readline()) for _ in range(17)]
    assert lines[-1]['end'] == pytest.approx(36 / 12, abs=1e-3)
    assert not table.exists()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.decode().splitlines()[-1].startswith('interrupted after 0:03.')
    assert json.loads(table.read_text())['segments']
    assert Image.open(picture).height > 100


def test_predict_says_who_takes_long_videos(trained, film, monkeypatch):
    few = functools.partial(video.to_jpeg, limits=video.Limits(max_frames=10))
    monkeypatch.setattr(video, 'to_jpeg', few)
    (result,) = predict.predict(trained, [film])
    assert 'vjax.watch takes videos of any length' in result['error']
