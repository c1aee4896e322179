"""Windows over a stream of frames: which frames, when, and how few are in memory."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vjax.data.sections import Clip
from vjax.data.streaming import Frame
from vjax.data.video import BadVideo
from vjax.data.windows import windows


def clip(num_frames, stride=1, fps=None):
    sizes = {'short_side': 8, 'size': 8, 'short_clips': 'loop', 'order': 'forward'}
    return Clip(num_frames=num_frames, stride=stride, fps=fps, **sizes)


def frames_at(times):
    return [Frame(i, t, b'%d' % i, 8, 10) for i, t in enumerate(times)]


def numbers(window):
    return [int(jpeg) for jpeg in window.film.frames]


class Counted(bytes):
    """JPEG bytes that know how many of them there are in memory."""

    alive = most = 0

    def __init__(self, *_):
        Counted.alive += 1
        Counted.most = max(Counted.most, Counted.alive)

    def __del__(self):
        Counted.alive -= 1


@given(
    length=st.integers(1, 60),
    num_frames=st.integers(1, 8),
    stride=st.integers(1, 4),
    fps=st.sampled_from([5.0, 12.0, 29.97]),
    step=st.none() | st.floats(0.05, 3.0),
)
@settings(deadline=None, max_examples=200)
def test_windows_of_a_stride_are_slices_of_the_video(length, num_frames, stride, fps, step):
    times = [i / fps for i in range(length)]
    extent = num_frames * stride
    if step is None:
        starts = list(range(0, length, max(1, extent // 2)))
    else:
        wanted = np.arange(0, times[-1] + step, step)
        starts = sorted({i for t in wanted for i in [np.searchsorted(times, t - 1e-6)]} - {length})
    starts = [i for i in starts if i + extent <= length]
    if not starts or starts[-1] + extent < length:
        starts.append(max(0, length - extent))  # The end of the video, or all of it.

    found = list(windows(frames_at(times), clip(num_frames, stride), step))
    assert [numbers(w) for w in found] == [list(range(length))[i : i + extent] for i in starts]
    assert all((w.film.height, w.film.width) == (8, 10) for w in found)
    behind = [*times, times[-1] + (1 / fps if length > 1 else 1 / 25)]
    for i, window in zip(starts, found, strict=True):
        assert window.start == times[i]
        assert abs(window.end - behind[min(i + extent, length)]) < 1e-9
        if len(window.film.frames) > 1:
            assert abs(window.film.fps - fps) < 1e-6


@given(
    gaps=st.lists(st.floats(0.01, 0.4), min_size=1, max_size=80),
    num_frames=st.integers(1, 8),
    rate=st.sampled_from([2.0, 8.0, 12.5]),
    step=st.none() | st.floats(0.05, 3.0),
)
@settings(deadline=None, max_examples=200)
def test_windows_of_a_rate_last_as_long_as_the_clip_whatever_the_times(
    gaps, num_frames, rate, step
):
    times = [0.0, *np.cumsum(gaps).tolist()]
    lasts = num_frames / rate
    found = list(windows(frames_at(times), clip(num_frames, fps=rate), step))
    for window in found[:-1]:
        assert abs(window.end - window.start - lasts) < 1e-9
        assert numbers(window) == [
            i for i, t in enumerate(times) if window.start <= t < window.end - 1e-6
        ]
    assert numbers(found[-1])[-1] == len(times) - 1 or len(found) > 1
    assert found[-1].end > times[-1]
    starts = [window.start for window in found]
    assert starts == sorted(starts)
    assert [w.end for w in found] == sorted(w.end for w in found)
    if (step or lasts / 2) <= lasts / 2 and max(gaps) < lasts / 2:
        seen = {i for window in found for i in numbers(window)}
        assert seen == set(range(len(times)))


def test_memory_holds_the_frames_of_one_clip():
    Counted.alive = Counted.most = 0

    def endless():
        for i in range(5000):
            yield Frame(i, i / 12, Counted(b'x'), 8, 8)

    count = sum(1 for _ in windows(endless(), clip(8, stride=2), 0.1))
    assert count > 4000
    # A clip's frames, and a few that a window in hand has and the latest ones have no more.
    assert Counted.most <= 8 * 2 + 4
    Counted.most = 0
    assert sum(1 for _ in windows(endless(), clip(8, fps=6), 0.5)) > 800
    assert Counted.most <= 8 * 2 + 8


def test_a_window_comes_with_the_frame_behind_it():
    given_out = []

    def frames():
        for frame in frames_at([i / 10 for i in range(40)]):
            given_out.append(frame.number)
            yield frame

    for window in windows(frames(), clip(4, stride=2), 0.4):
        assert given_out[-1] <= numbers(window)[-1] + 1


def test_windows_may_lie_apart():
    found = list(windows(frames_at([i / 10 for i in range(100)]), clip(4), 3.0))
    assert [w.start for w in found] == [0.0, 3.0, 6.0, 9.0, 9.6]


def test_timestamps_that_are_nonsense_do_not_fill_the_memory(monkeypatch):
    monkeypatch.setattr('vjax.data.windows.MOST_FRAMES', 50)
    found = windows(frames_at([i / 1e6 for i in range(100)]), clip(4, fps=2.0))
    with pytest.raises(BadVideo, match='more than 50 frames in the time of a clip'):
        list(found)


def test_no_frames_are_no_windows():
    assert list(windows([], clip(4))) == []
