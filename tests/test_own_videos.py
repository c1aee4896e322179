"""Somebody's own videos, from mp4 files to predictions, by the commands of README."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
MOTIONS = {'falls': (1, 0), 'goes, slanting': (-0.7, 0.7), 'stays': (0, 0), 'слева направо': (0, 1)}


def write_video(path, rng, direction):
    """A bright square on a noisy ground, of a size, a length and a frame rate of its own."""
    height, width = rng.choice([48, 60, 66]) * 1, rng.choice([64, 80, 90]) * 1
    num_frames, fps = int(rng.integers(20, 40)), int(rng.choice([12, 15, 25]))
    ground = rng.uniform(0, 90, (height // 6, width // 6 + 1, 3)).repeat(6, 0).repeat(6, 1)
    ground = ground[: height // 2 * 2, :width].astype(np.uint8)
    place = rng.uniform(0, 1, 2) * ground.shape[:2]
    speed = np.array(direction) * rng.uniform(1.2, 2.0)
    colour = rng.uniform(150, 255, 3)
    with av.open(str(path), 'w') as container:
        stream = container.add_stream('libx264', rate=fps)
        stream.height, stream.width = ground.shape[:2]
        stream.pix_fmt = 'yuv420p'
        for t in range(num_frames):
            frame = ground.copy()
            rows, columns = (
                (int(start + step * t) + np.arange(14)) % side
                for start, step, side in zip(place, speed, ground.shape[:2], strict=True)
            )
            frame[np.ix_(rows, columns)] = colour
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format='rgb24')))
        container.mux(stream.encode())


def run(*args, code=0):
    done = subprocess.run(
        [sys.executable, '-m', *args], cwd=ROOT, capture_output=True, text=True, encoding='utf-8'
    )
    assert done.returncode == code, done.stderr
    return done


@pytest.mark.slow
def test_own_videos_are_learned(tmp_path):
    """Over 90 % on four motions, with broken files among them, by overriding the path alone."""
    videos = tmp_path / 'my videos'
    videos.mkdir()
    rng = np.random.default_rng(0)
    truth = {}
    for split, count in (('train', 400), ('test', 80)):
        rows = []
        for i in range(count):
            label = list(MOTIONS)[i % len(MOTIONS)]
            name = f'{split}, clip {i}.mp4'
            write_video(videos / name, rng, MOTIONS[label])
            rows.append((name, label))
            truth[str(videos / name)] = label
        whole = (videos / rows[0][0]).read_bytes()
        broken = {
            f'{split} empty.mp4': b'',
            f'{split} text.mp4': b'not a video at all, whatever it is called',
            f'{split} cut.mp4': whole[: len(whole) // 2],
        }
        for name, content in broken.items():
            (videos / name).write_bytes(content)
        rows += [(name, 'falls') for name in (*broken, f'{split} missing.mp4')]
        with (tmp_path / f'{split}.csv').open('w', newline='', encoding='utf-8') as file:
            csv.writer(file).writerows([('path', 'label'), *rows])
        labels, data = f'--annotations={tmp_path / f"{split}.csv"}', f'--out={tmp_path / "data"}'
        run('vjax.prepare', f'--videos={videos}', labels, data, f'--split={split}')

    with (tmp_path / 'data' / 'rejected.csv').open(newline='', encoding='utf-8') as file:
        rejected = [row['file'] for row in csv.DictReader(file)]
    assert len(rejected) == 8
    assert {name.split()[0] for name in rejected} == {'train', 'test'}

    config, workdir = '--config=configs/vivit/moving_digits.py', f'--workdir={tmp_path / "run"}'
    run('vjax.train', config, f'--config.dataset.path={tmp_path / "data"}', workdir)
    run('vjax.evaluate', workdir, '--views=2x3')
    result = json.loads((tmp_path / 'run' / 'evaluation.json').read_text())
    assert result['num_videos'] == 80
    assert result['top1'] > 0.9

    files = [*list(truth)[-8:], str(videos / 'test empty.mp4')]
    done = run('vjax.predict', workdir, '--json', *files, code=2)
    predictions = [json.loads(line) for line in done.stdout.splitlines()]
    assert [p['path'] for p in predictions] == files
    assert 'empty' in predictions[-1]['error']
    right = sum(p['top'][0]['label'] == truth[p['path']] for p in predictions[:-1])
    assert right >= 7
    assert all(abs(sum(e['score'] for e in p['top']) - 1) < 1e-5 for p in predictions[:-1])
