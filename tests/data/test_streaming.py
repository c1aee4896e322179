"""Frames as they come by: the same as of a whole video, from files and pipes, sound and damaged."""

import io
import itertools
import os
import threading
import time
from fractions import Fraction

import av
import numpy as np
import pytest

from vjax.data import video
from vjax.data.streaming import FrameStream, RawFormat
from vjax.errors import UserError

FPS = 10


def pictures(num_frames, height=32, width=40):
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    for i in range(num_frames):
        red = 127 + 100 * np.sin(7 * x + i / 3)
        yield np.stack([red, 30 + 200 * x, 30 + 200 * y], axis=-1).astype(np.uint8)


def encoded(frames, kind='matroska', codec='libx264', pts=None):
    """The bytes of a video; `pts` in milliseconds where the rate varies."""
    content = io.BytesIO()
    with av.open(content, 'w', format=kind) as container:
        stream = container.add_stream(codec, rate=FPS if pts is None else 1000)
        stream.height, stream.width = 32, 40
        stream.pix_fmt = 'yuvj420p' if codec == 'mjpeg' else 'yuv420p'
        stream.codec_context.gop_size = 5
        for i, array in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(array, 'rgb24')
            if pts is not None:
                frame.pts, frame.time_base = pts[i], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return content.getvalue()


def read(source, **options):
    with FrameStream(source, short_side=16, **options) as stream:
        return list(stream), stream.problem


def through_pipe(content, size=1000):
    """The reading end of a pipe that the content is written to, little by little."""
    reading, writing = os.pipe()

    def feed():
        with open(writing, 'wb', buffering=0) as file:
            for i in range(0, len(content), size):
                try:
                    file.write(content[i : i + size])
                except BrokenPipeError:
                    return

    threading.Thread(target=feed, daemon=True).start()
    return reading


@pytest.mark.parametrize(
    ('kind', 'codec'), [('mp4', 'libx264'), ('mpegts', 'libx264'), ('avi', 'mpeg4')]
)
def test_frames_of_a_file_are_those_of_the_whole_video(tmp_path, kind, codec):
    path = tmp_path / f'a.{kind}'
    path.write_bytes(encoded(pictures(23), kind, codec))
    whole = video.to_jpeg(path, short_side=16)
    frames, problem = read(path)
    assert problem == ''
    assert [f.jpeg for f in frames] == whole.frames
    assert {(f.height, f.width) for f in frames} == {(whole.height, whole.width)} == {(16, 20)}
    assert [f.number for f in frames] == list(range(23))
    np.testing.assert_allclose([f.seconds for f in frames], np.arange(23) / FPS, atol=1e-3)


def test_times_are_those_of_the_timestamps(tmp_path):
    pts = [40, 80, 240, 260, 900, 1000]
    path = tmp_path / 'a.mkv'
    path.write_bytes(encoded(pictures(6), pts=pts))
    frames, problem = read(path)
    assert problem == ''
    expected = (np.array(pts) - pts[0]) / 1000
    np.testing.assert_allclose([f.seconds for f in frames], expected, atol=1e-9)


@pytest.mark.parametrize('kind', ['matroska', 'mpegts', 'h264', 'mjpeg'])
def test_a_pipe_gives_the_frames_of_the_file(tmp_path, kind):
    content = encoded(pictures(23), kind, 'mjpeg' if kind == 'mjpeg' else 'libx264')
    (tmp_path / 'a').write_bytes(content)
    whole = video.to_jpeg(tmp_path / 'a', short_side=16)
    frames, problem = read(through_pipe(content))
    assert problem == ''
    assert [f.jpeg for f in frames] == whole.frames
    # Bare H.264 and Motion JPEG have no times; FFmpeg takes them for 25 frames per second.
    rate = FPS if kind in ('matroska', 'mpegts') else 25
    np.testing.assert_allclose([f.seconds for f in frames], np.arange(23) / rate, atol=1e-3)


def test_raw_frames_come_through_a_pipe():
    arrays = list(pictures(5))
    raw = RawFormat.parse('40x32@12.5')
    frames, problem = read(through_pipe(b''.join(a.tobytes() for a in arrays)), raw=raw)
    assert problem == ''
    np.testing.assert_allclose([f.seconds for f in frames], np.arange(5) / 12.5, atol=1e-6)
    with FrameStream(
        through_pipe(b''.join(a.tobytes() for a in arrays)), short_side=None, raw=raw
    ) as stream:
        assert [f.jpeg for f in stream] == [video.encode_jpeg(a, 90) for a in arrays]


@pytest.mark.parametrize('text', ['40x32', '0x32@12', '40x32@0', '40x32@', 'a', '٤x٤@5', '1e3x2@3'])
def test_a_raw_format_that_is_none_is_said(text):
    with pytest.raises(UserError, match='such as 640x480@30'):
        RawFormat.parse(text)


def test_raw_frames_that_are_cut_off_are_said():
    content = b''.join(a.tobytes() for a in pictures(5))[:-100]
    frames, problem = read(through_pipe(content), raw=RawFormat(40, 32, 10.0))
    assert len(frames) == 4
    assert problem.startswith('garbled: 1 damaged')


def test_a_pipe_that_is_cut_off_gives_what_came(tmp_path):
    content = encoded(pictures(60))
    (tmp_path / 'a.mkv').write_bytes(content)
    whole = video.to_jpeg(tmp_path / 'a.mkv', short_side=16)
    frames, problem = read(through_pipe(content[: len(content) // 2]))
    assert 5 < len(frames) < 55
    # The last one was cut in two, and the decoder may make something of it.
    assert [f.jpeg for f in frames][:-1] == whole.frames[: len(frames) - 1]
    assert 'truncated: ' in problem or 'garbled: ' in problem


def test_what_is_damaged_is_left_out_and_said(tmp_path):
    content = bytearray(encoded(pictures(100), 'mpegts'))
    middle = len(content) // 2
    content[middle : middle + 188 * 6] = bytes(188 * 6)
    (tmp_path / 'a.ts').write_bytes(content)
    frames, problem = read(tmp_path / 'a.ts')
    assert 60 < len(frames) < 100
    assert 'garbled' in problem
    assert frames[-1].seconds == pytest.approx(99 / FPS, abs=0.01)


def test_a_broadcast_may_be_joined_in_the_middle(tmp_path):
    content = encoded(pictures(100), 'mpegts')
    frames, problem = read(through_pipe(content[len(content) // 3 // 188 * 188 :]))
    assert problem == ''
    assert frames[0].seconds == 0
    assert 40 < len(frames) < 80


def test_a_camera_that_starts_again_goes_on_in_time():
    one, other = (encoded(pictures(20), 'mpegts') for _ in range(2))
    frames, _ = read(through_pipe(one + other))
    assert len(frames) >= 39
    seconds = [f.seconds for f in frames]
    assert all(b > a for a, b in itertools.pairwise(seconds))
    assert seconds[-1] < 20


@pytest.mark.parametrize(
    ('content', 'reason'),
    [
        (b'', 'nothing came through the pipe'),
        (b'no video at all' * 999, 'not a video: .*should send Matroska'),
        (b'#EXTM3U\n#EXTINF:5,\nfile:///etc/passwd\n', 'not a video: .*should send Matroska'),
    ],
)
def test_a_pipe_without_a_video_is_one_sentence(content, reason):
    with pytest.raises(video.BadVideo, match=reason):
        read(through_pipe(content))


def test_an_mp4_file_in_a_pipe_is_told_what_to_do():
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 255, (200, 32, 40, 3), dtype=np.uint8)  # More than a buffer.
    with pytest.raises(video.BadVideo, match=r'garbled .*should send Matroska'):
        read(through_pipe(encoded(noise, 'mp4')))


def test_a_silent_pipe_can_be_left(tmp_path):
    reading, writing = os.pipe()
    os.write(writing, encoded(pictures(100), 'mpegts'))
    begun = time.monotonic()
    frames, problem = read(reading, stopped=lambda: time.monotonic() - begun > 1)
    os.close(writing)
    assert len(frames) > 50
    assert problem == ''
    assert time.monotonic() - begun < 10


def test_files_that_are_none_are_bad_videos(tmp_path):
    (tmp_path / 'a.mp4').write_bytes(b'')
    (tmp_path / 'b.mp4').write_bytes(b'x' * 999)
    for name, reason in (('a', 'empty'), ('b', 'not a video'), ('c', 'no such file')):
        with pytest.raises(video.BadVideo, match=reason):
            read(tmp_path / f'{name}.mp4')
    content = encoded(pictures(5))
    (tmp_path / 'd.mkv').write_bytes(content)
    with pytest.raises(video.BadVideo, match='too large'):
        read(tmp_path / 'd.mkv', limits=video.Limits(max_pixels=100))
