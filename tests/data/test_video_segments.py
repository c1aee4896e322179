"""Parts of videos, and folders of frames: exactly the frames of the time that was asked for."""

import io
import itertools
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image

from vjax.data import short_gops, video
from vjax.data.annotations import Item
from vjax.data.preparation import shards
from vjax.data.streaming import FrameStream

NUM_FRAMES = 300
VARIABLE = [0, *itertools.accumulate([20, 33, 40, 100, 7] * 60)][:NUM_FRAMES]  # Milliseconds.


def numbered(number):
    """A picture that says its number in black and white."""
    bits = np.array([number >> bit & 1 for bit in range(10)], np.uint8).reshape(2, 5)
    return np.repeat(np.kron(bits * 255, np.ones((16, 10), np.uint8))[..., None], 3, axis=-1)


def read(picture):
    bits = picture.mean(-1)[8::16, 5::10] > 127
    return int((bits.ravel() << np.arange(10)).sum())


def write(path, codec, options, times):
    """A frame at each of the times, in milliseconds."""
    with av.open(str(path), 'w') as container:
        stream = container.add_stream(codec, rate=1000)
        stream.height, stream.width, stream.pix_fmt, stream.options = 32, 50, 'yuv420p', options
        for number, time in enumerate(times):
            frame = av.VideoFrame.from_ndarray(numbered(number), 'rgb24')
            frame.pts, frame.time_base = time, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


LONG = {'bf': '3', 'g': '250', 'preset': 'veryfast'}
OPEN = {'bf': '3', 'g': '40', 'preset': 'veryfast', 'x264-params': 'open-gop=1:b-pyramid=normal'}
REGULAR = [40 * i for i in range(NUM_FRAMES)]


@pytest.mark.parametrize(
    ('suffix', 'codec', 'options', 'times'),
    [
        ('mp4', 'libx264', LONG, REGULAR),
        ('mp4', 'libx264', OPEN, [1700 + time for time in REGULAR]),
        ('mp4', 'libx264', LONG, VARIABLE),
        ('mkv', 'libx264', OPEN, VARIABLE),
        ('mkv', 'libx264', LONG, [1700 + time for time in REGULAR]),
        ('ts', 'libx264', OPEN, [1700 + time for time in VARIABLE]),
        ('webm', 'libvpx-vp9', {'g': '60', 'deadline': 'realtime', 'cpu-used': '8'}, VARIABLE),
    ],
)
def test_a_segment_is_that_part_of_the_whole(tmp_path, suffix, codec, options, times):
    path = write(tmp_path / f'a.{suffix}', codec, options, times)
    whole = video.decode(path)
    assert [read(frame) for frame in whole.frames] == list(range(NUM_FRAMES))
    seconds = [(time - times[0]) / 1000 for time in times]
    for first, last in [(0, 5), (1, 2), (39, 81), (40, 60), (148, 155), (250, 300), (297, 299)]:
        end = seconds[last] if last < NUM_FRAMES else seconds[-1] + 0.02
        # On the frames' times, and between them.
        for earlier in (0.0, 0.003):
            start = max(seconds[first] - earlier, 0.0)
            part = video.decode(path, start=start, end=end - earlier)
            assert [read(frame) for frame in part.frames] == list(range(first, last))
            np.testing.assert_array_equal(part.frames, whole.frames[first:last])
    rest = video.decode(path, start=seconds[290])
    assert [read(frame) for frame in rest.frames] == list(range(290, NUM_FRAMES))
    over = seconds[-1]
    for start, end, words in [
        (over + 1, over + 2, f'begins at {over + 1:.2f} s, after the last frame'),
        (1.0, over + 9, f'of 1.00 to {over + 9:.2f} s ends after the video'),
        (0.001, 0.002, 'no frames: the segment lies between two'),
    ]:
        with pytest.raises(video.BadVideo, match=words):
            video.decode(path, start=start, end=end)


@pytest.mark.parametrize('suffix', ['mp4', 'mkv'])
def test_the_last_picture_may_stay_long(tmp_path, suffix):
    """As a slide show's does: its duration says how long the video is."""
    path = tmp_path / f'a.{suffix}'
    with av.open(str(path), 'w') as container:
        stream = container.add_stream('libx264', rate=25, options={'bf': '0'})
        stream.height, stream.width, stream.pix_fmt = 32, 50, 'yuv420p'
        frames = [av.VideoFrame.from_ndarray(numbered(i), 'rgb24') for i in range(25)]
        packets = [packet for frame in [*frames, None] for packet in stream.encode(frame)]
        packets[-1].duration = round(4 / packets[-1].time_base)
        container.mux(packets)
    assert len(video.decode(path).frames) == 25
    part = video.decode(path, start=0.4, end=4.9)
    assert [read(frame) for frame in part.frames] == list(range(10, 25))
    with pytest.raises(video.BadVideo, match=r'ends after the video, at 4\.96 s'):
        video.decode(path, start=0.4, end=6.0)
    with FrameStream(path, short_side=None) as stream:
        assert len(list(stream)) == 25
        assert stream.problem == ''


@pytest.mark.parametrize(('suffix', 'codec'), [('mp4', 'libx264'), ('avi', 'mpeg4')])
def test_a_segment_may_begin_anywhere_in_a_long_film(tmp_path, suffix, codec):
    path = write(tmp_path / f'a.{suffix}', codec, {}, REGULAR)
    part = video.decode(path, start=11.6, end=11.8, limits=video.Limits(max_frames=6))
    assert [read(frame) for frame in part.frames] == list(range(290, 295))


def test_a_matroska_video_that_begins_late_is_whole(tmp_path):
    """Its header states when it ends, not how long it is."""
    path = write(tmp_path / 'a.mkv', 'libx264', LONG, [3000 + 40 * i for i in range(50)])
    assert len(video.decode(path).frames) == 50


# --- Folders of frames. ---


def write_frames(folder, names, size=(32, 50)):
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        picture = Image.fromarray(numbered(number)).resize(size[::-1])
        picture.save(folder / name, quality=95)
    return folder


@pytest.mark.parametrize(
    'names',
    [
        [f'{i:05d}.jpg' for i in range(1, 13)],
        [f'{i}.JPG' for i in range(12)],
        [f'img_{i}.png' for i in range(5, 125, 10)],
        [f'v2 frame{i:03d}.jpeg' for i in range(12)],
    ],
)
def test_a_folder_is_a_video_of_its_frames_by_number(tmp_path, names):
    folder = write_frames(tmp_path / '9223', names)
    (folder / 'Thumbs.db').write_bytes(b'-')
    (folder / '.00000.jpg').write_bytes(b'-')
    (folder / 'notes').mkdir()
    got = video.decode(folder, fps=12.0)
    assert [read(frame) for frame in got.frames] == list(range(12))
    assert (got.fps, got.height, got.width) == (12.0, 32, 50)
    small = video.decode(folder, fps=12.0, short_side=16)
    assert (small.height, small.width, small.frames[0].shape) == (16, 25, (16, 25, 3))
    for first, last in [(0, 12), (3, 4), (5, 11)]:
        part = video.decode(folder, fps=12.0, start=first / 12, end=last / 12)
        assert [read(frame) for frame in part.frames] == list(range(first, last))


def test_folders_that_are_no_videos_are_refused_with_a_reason(tmp_path):
    good = [f'{i:05d}.jpg' for i in range(1, 5)]
    gap = write_frames(tmp_path / 'gap', good)
    (gap / '00003.jpg').unlink()
    twice = write_frames(tmp_path / 'twice', [*good, '2.jpg'])
    other = write_frames(tmp_path / 'other', good)
    write_frames(other, ['00004.jpg'], size=(64, 100))
    cut = write_frames(tmp_path / 'cut', good)
    (cut / '00002.jpg').write_bytes((cut / '00002.jpg').read_bytes()[:300])
    text = write_frames(tmp_path / 'text', good)
    (text / '00003.jpg').write_bytes(b'no picture')
    whole = write_frames(tmp_path / 'whole', good)
    (tmp_path / 'empty').mkdir()
    cases = [
        (tmp_path / 'empty', {}, 'without frames'),
        (gap, {}, 'missing between 00002.jpg and 00004.jpg'),
        (twice, {}, 'of one number: (00002.jpg and 2.jpg|2.jpg and 00002.jpg)'),
        (other, {}, 'frame 00004.jpg: 64 x 100 pixels, and the first has 32 x 50'),
        (cut, {}, 'frame 00002.jpg: truncated'),
        (text, {}, 'frame 00003.jpg: not a JPEG or PNG image'),
        (whole, {'fps': None}, 'rate is not known'),
        (whole, {'start': 2.0}, 'begins at 2.00 s, after the last frame'),
        (whole, {'end': 9.0}, 'of 0.00 to 9.00 s ends after the video, at 0.40 s'),
        (whole, {'start': 0.11, 'end': 0.15}, 'shorter than one'),
        (whole, {'limits': video.Limits(max_frames=3)}, 'too long: more than 3 frames'),
        (whole, {'limits': video.Limits(max_pixels=999)}, 'too large: 50 x 32'),
    ]
    for folder, asked, words in cases:
        with pytest.raises(video.BadVideo, match=words) as error:
            video.decode(folder, **{'fps': 10.0, 'short_side': 16} | asked)
        assert '\n' not in str(error.value)
        assert str(tmp_path) not in str(error.value)


@pytest.mark.parametrize(
    'settings', [{'store': 'frames', 'jpeg_quality': 90}, {'store': 'video', 'crf': 20}]
)
def test_a_folder_is_prepared_as_a_file_is(tmp_path, settings):
    write_frames(tmp_path / '9223', [f'{i:05d}.jpg' for i in range(1, 8)])
    item = Item('9223', '9223', (('Thumb Up',),), fps=12.0)
    settings = settings | {'short_side': 32}
    entry, contents = shards.encode(str(tmp_path), item, (0,), settings, video.Limits())
    assert (entry.num_frames, entry.fps, entry.height, entry.width) == (7, 12.0, 32, 50)
    if settings['store'] == 'video':
        shown = short_gops.decode_frames(contents[0], np.arange(7), 32, 50)
    else:
        shown = [np.asarray(Image.open(io.BytesIO(content))) for content in contents]
    assert [read(frame) for frame in shown] == list(range(7))
