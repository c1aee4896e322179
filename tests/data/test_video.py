import io
import struct
import threading
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image

from vjax.data import video

# The display matrices (a, b, c, d) of libavutil/display.h, and what a player does with each.
TURNS = {
    'clockwise': ((0, 1, -1, 0), lambda f: np.rot90(f, -1)),
    'anticlockwise': ((0, -1, 1, 0), lambda f: np.rot90(f, 1)),
    'upside down': ((-1, 0, 0, -1), lambda f: np.rot90(f, 2)),
    'mirrored': ((-1, 0, 0, 1), lambda f: f[:, ::-1]),
    'flipped': ((1, 0, 0, -1), lambda f: f[::-1]),
    'transposed': ((0, 1, 1, 0), lambda f: f.transpose(1, 0, 2)),
}


def pictures(num_frames, height, width):
    """Smooth frames that differ from each other, and whose corners differ."""
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    frames = []
    for i in range(num_frames):
        red = np.full_like(x, 40 + 8 * (i % 20))
        frames.append(np.stack([red, 30 + 200 * x, 30 + 200 * y], axis=-1).astype(np.uint8))
    return frames


def write(path, frames, codec='libx264', rate=10, pts=None, pix_fmt='yuv420p', options=None):
    """Encodes frames; `pts` in milliseconds where the rate varies."""
    with av.open(str(path), 'w', options=options or {}) as container:
        stream = container.add_stream(codec, rate=rate)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = pix_fmt
        for i, array in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(array, 'rgb24')
            if pts is not None:
                frame.pts, frame.time_base = pts[i], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def closeness(frames, expected):
    return np.abs(np.stack(frames).astype(float) - np.stack(expected)).mean()


@pytest.mark.parametrize(
    ('suffix', 'codec', 'pix_fmt'),
    [
        ('mp4', 'libx264', 'yuv420p'),
        ('mov', 'libx264', 'yuv420p'),
        ('mkv', 'libx264', 'yuv420p'),
        ('avi', 'mpeg4', 'yuv420p'),
        ('webm', 'libvpx-vp9', 'yuv420p'),
        ('ts', 'libx264', 'yuv420p'),
        ('gif', 'gif', 'rgb8'),
    ],
)
def test_containers_give_every_frame_once(tmp_path, suffix, codec, pix_fmt):
    frames = pictures(12, 48, 64)
    got = video.decode(write(tmp_path / f'a.{suffix}', frames, codec, pix_fmt=pix_fmt))
    assert (len(got.frames), got.height, got.width) == (12, 48, 64)
    assert got.fps == pytest.approx(10, rel=1e-3)
    assert closeness(got.frames, frames) < (25 if suffix == 'gif' else 6)
    reds = [frame[..., 0].mean() for frame in got.frames]
    assert reds == sorted(reds)


@pytest.mark.parametrize('turn', TURNS)
@pytest.mark.parametrize('short_side', [None, 24])
def test_the_display_matrix_is_applied(tmp_path, turn, short_side):
    (a, b, c, d), apply = TURNS[turn]
    path = write(tmp_path / 'a.mp4', pictures(3, 48, 64))
    content = bytearray(path.read_bytes())
    # ISO 14496-12, 8.3.2: the matrix is 40 bytes into the track header's body.
    at = content.index(b'tkhd') + 4 + 40
    one = 1 << 16
    content[at : at + 36] = struct.pack(
        '>9i', a * one, b * one, 0, c * one, d * one, 0, 0, 0, 1 << 30
    )
    path.write_bytes(content)
    got = video.decode(path, short_side=short_side)
    expected = [apply(frame) for frame in pictures(3, 48, 64)]
    if short_side:
        expected = [
            np.asarray(Image.fromarray(f).resize((f.shape[1] // 2, f.shape[0] // 2)))
            for f in expected
        ]
    assert (got.height, got.width) == expected[0].shape[:2]
    assert closeness(got.frames, expected) < 6


def test_variable_frame_rate_gives_the_average(tmp_path):
    pts = [0, 10, 20, 500, 1000, 1010, 2000]
    got = video.decode(write(tmp_path / 'a.mkv', pictures(7, 32, 32), pts=pts, rate=1000))
    assert len(got.frames) == 7
    assert got.fps == pytest.approx(6 / 2.0)


@pytest.mark.parametrize(('height', 'width'), [(2, 2), (16, 16), (33, 47), (8, 640), (300, 10)])
def test_odd_tiny_and_wide_frames(tmp_path, height, width):
    frames = pictures(3, height, width)
    path = write(tmp_path / 'a.mkv', frames, 'ffv1', pix_fmt='bgr0')
    got = video.decode(path, short_side=20)
    assert (got.height, got.width) == video.resized(height, width, 20)
    assert min(got.height, got.width) == min(height, width, 20)
    assert got.frames[0].shape == (got.height, got.width, 3)
    np.testing.assert_array_equal(video.decode(path).frames, frames)


def test_one_frame(tmp_path):
    got = video.decode(write(tmp_path / 'a.mp4', pictures(1, 32, 32), rate=12))
    assert (len(got.frames), got.fps) == (1, 12)


def test_resizing_is_antialiased_and_only_down(tmp_path):
    checks = (np.indices((256, 320)).sum(0) % 2 * 255).astype(np.uint8)
    frames = [np.repeat(checks[..., None], 3, axis=-1)]
    path = write(tmp_path / 'a.mkv', frames, 'ffv1', pix_fmt='bgr0')
    small = video.decode(path, short_side=100)
    assert (small.height, small.width) == (100, 125)
    assert np.ptp(small.frames[0]) < 30  # Dropping pixels would keep black and white.
    large = video.decode(path, short_side=512)
    assert (large.height, large.width) == (256, 320)
    smooth = pictures(1, 200, 260)
    path = write(tmp_path / 'b.mkv', smooth, 'ffv1', pix_fmt='bgr0')
    expected = np.asarray(Image.fromarray(smooth[0]).resize((130, 100), Image.Resampling.LANCZOS))
    assert closeness(video.decode(path, short_side=100).frames, [expected]) < 1


def test_frames_are_converted_as_they_come(tmp_path):
    path = write(tmp_path / 'a.mp4', pictures(5, 32, 32))
    got = video.decode(path, convert=lambda frame: video.encode_jpeg(frame, 90))
    shown = [np.asarray(Image.open(io.BytesIO(jpeg))) for jpeg in got.frames]
    assert closeness(shown, pictures(5, 32, 32)) < 6


def test_a_video_as_jpeg(tmp_path):
    path = write(tmp_path / 'a.mp4', pictures(5, 32, 48))
    film = video.to_jpeg(path, short_side=16)
    assert (len(film.frames), film.height, film.width) == (5, 16, 24)
    assert film.frames[2] == video.encode_jpeg(video.decode(path, short_side=16).frames[2], 90)
    with path.open('rb') as file:
        assert video.to_jpeg(file, short_side=16) == film
    limits = video.Limits(max_bytes=sum(map(len, film.frames)) - 1)
    with pytest.raises(video.BadVideo, match='too large: more than'):
        video.to_jpeg(path, short_side=16, limits=limits)


def test_trimming_by_an_edit_list_is_no_truncation(tmp_path):
    # Packets before zero: the muxer writes an edit list that hides them.
    source = write(tmp_path / 'a.mp4', pictures(30, 32, 32), options={'movflags': 'faststart'})
    with av.open(str(source)) as old, av.open(str(tmp_path / 'b.mp4'), 'w') as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for packet in old.demux(video=0):
            if packet.dts is None:
                continue
            shift = int(1 / packet.time_base)
            packet.pts, packet.dts, packet.stream = packet.pts - shift, packet.dts - shift, stream
            new.mux(packet)
    got = video.decode(tmp_path / 'b.mp4')
    assert 10 <= len(got.frames) <= 30


# --- Files that are no whole video. ---


def bad_files(folder):
    """(path, a word of the reason) for each kind."""
    frames = [np.random.default_rng(i).integers(0, 255, (64, 64, 3), np.uint8) for i in range(30)]
    fast = {'movflags': 'faststart'}
    whole = write(folder / 'whole.mp4', frames, options=fast).read_bytes()
    late = write(folder / 'late.mp4', frames).read_bytes()
    webm = write(folder / 'whole.webm', frames, 'libvpx').read_bytes()
    avi = write(folder / 'whole.avi', frames, 'mpeg4').read_bytes()

    def make(name, content):
        (folder / name).write_bytes(content)
        return folder / name

    start = whole.index(b'mdat') + 200
    noise = np.random.default_rng(0).bytes(len(whole) // 2)
    with av.open(str(folder / 'sound.mp4'), 'w') as container:
        stream = container.add_stream('aac', rate=8000)
        for _ in range(9):
            sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), 'fltp', 'mono')
            sound.sample_rate = 8000
            container.mux(stream.encode(sound))
        container.mux(stream.encode())
    (folder / 'folder.mp4').mkdir()
    playlist = '#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nwhole.mp4\n#EXT-X-ENDLIST\n'
    return [
        (folder / 'missing.mp4', 'no such file'),
        (folder / 'nul\0.mp4', 'no such file'),
        (folder / 'folder.mp4', 'a folder without frames'),
        (make('empty.mp4', b''), 'empty'),
        (make('noise.mp4', noise), 'not a video'),
        (make('text.mp4', b'path,label\na.mp4,b\n' * 50), 'not a video'),
        (make('text.txt', b'To be, or not to be. ' * 50), 'not a video'),
        (make('playlist.m3u8', playlist.encode()), 'not a video'),
        (make('list.ffconcat', b'ffconcat version 1.0\nfile whole.mp4\n'), 'not a video'),
        (folder / 'sound.mp4', 'no video stream'),
        (make('no_index.mp4', late[: len(late) // 2]), 'not a video'),
        (make('cut.mp4', whole[: len(whole) // 2]), 'garbled after|truncated'),
        (make('cut.webm', webm[: len(webm) // 2]), 'garbled|truncated'),
        (make('cut.avi', avi[: len(avi) // 2]), 'garbled|truncated'),
        (make('garbled.mp4', whole[:start] + noise + whole[start + len(noise) :]), 'garbled'),
        (make('header.mp4', whole[: len(whole) // 9]), 'garbled|not a video|truncated'),
    ]


def test_bad_files_are_refused_with_a_reason(tmp_path):
    for path, reason in bad_files(tmp_path):
        with pytest.raises(video.BadVideo, match=reason) as error:
            video.decode(path)
        assert str(tmp_path) not in str(error.value)
        assert '\n' not in str(error.value)


def test_a_cover_picture_is_no_video_stream(tmp_path):
    path = tmp_path / 'song.mp4'
    with av.open(str(path), 'w') as container:
        sound, cover = container.add_stream('aac', rate=8000), container.add_stream('mjpeg')
        cover.height = cover.width = 32
        cover.pix_fmt = 'yuvj420p'
        cover.disposition = av.stream.Disposition.attached_pic
        container.mux(cover.encode(av.VideoFrame.from_ndarray(pictures(1, 32, 32)[0], 'rgb24')))
        container.mux(cover.encode())
        for _ in range(5):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), 'fltp', 'mono')
            frame.sample_rate = 8000
            container.mux(sound.encode(frame))
        container.mux(sound.encode())
    with pytest.raises(video.BadVideo, match='no video stream'):
        video.decode(path)


@pytest.mark.parametrize(
    ('limits', 'reason'),
    [
        (video.Limits(max_frames=4), 'too long: more than 4'),
        (video.Limits(max_pixels=1000), 'too large|garbled after 0'),
    ],
)
def test_limits(tmp_path, limits, reason):
    path = write(tmp_path / 'a.mp4', pictures(5, 32, 64))
    with pytest.raises(video.BadVideo, match=reason):
        video.decode(path, limits=limits)
    assert len(video.decode(path, limits=video.Limits(max_frames=5, max_pixels=2048)).frames) == 5


def test_a_file_name_is_never_a_url(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / 'a.mp4', pictures(2, 16, 16))
    (tmp_path / 'a.mp4').rename(tmp_path / 'concat:a,%03d.mp4')
    assert len(video.decode('concat:a,%03d.mp4').frames) == 2


def test_a_pipe_does_not_block(tmp_path):
    import os

    os.mkfifo(tmp_path / 'pipe.mp4')
    found = []

    def look():
        with pytest.raises(video.BadVideo, match='regular'):
            video.decode(tmp_path / 'pipe.mp4')
        found.append(True)

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    thread.join(timeout=20)
    assert found


# --- Still images. ---


def image(mode='RGB', height=48, width=64):
    picture = Image.fromarray(pictures(1, height, width)[0])
    if mode == 'I;16':
        return Image.fromarray(np.asarray(picture.convert('L')).astype(np.uint16) * 257)
    return picture.convert(mode)


def encoded(picture, kind, **options):
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def shown(content):
    """The image as Pillow decodes it."""
    picture = Image.open(io.BytesIO(content))
    if picture.mode.startswith('I;16'):
        picture = Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
    return np.asarray(picture.convert('RGB'))


def photo(thumbnail=False):
    """A JPEG image as cameras write it: to be turned, and with a small JPEG in its header."""
    exif = Image.Exif()
    exif[0x112] = 6
    content = encoded(image(), 'JPEG', quality=95, exif=exif)
    if not thumbnail:
        return content
    small = encoded(image(height=8, width=8), 'JPEG')
    segment = b'\xff\xe1' + (2 + 6 + len(small)).to_bytes(2, 'big') + b'Exif\0\0' + small
    return content[:2] + segment + content[2:]


IMAGES = {
    'JPEG': encoded(image(), 'JPEG', quality=95),
    'progressive JPEG': encoded(image(), 'JPEG', quality=95, progressive=True),
    'JPEG without subsampling': encoded(image(), 'JPEG', quality=95, subsampling=0),
    'JPEG with restarts': encoded(image(), 'JPEG', quality=95, restart_marker_rows=1),
    'grey JPEG': encoded(image('L'), 'JPEG', quality=95),
    'CMYK JPEG': encoded(image('CMYK'), 'JPEG', quality=95),
    'JPEG with EXIF': photo(),
    'JPEG with a thumbnail': photo(thumbnail=True),
    'JPEG with more behind': encoded(image(), 'JPEG', quality=95) + b'\0\0ftypmp42' * 9,
    'PNG': encoded(image(), 'PNG'),
    'transparent PNG': encoded(image('RGBA'), 'PNG'),
    'PNG with EXIF': encoded(image(), 'PNG', exif=b'Exif\0\0MM\0*\0\0\0\x08\0\0\0\0\0\0'),
    'grey PNG': encoded(image('L'), 'PNG'),
    'grey transparent PNG': encoded(image('LA'), 'PNG'),
    'grey PNG of 16 bits': encoded(image('I;16'), 'PNG'),
    'black and white PNG': encoded(image('1'), 'PNG'),
    'PNG with a palette': encoded(image('P'), 'PNG'),
}


@pytest.mark.parametrize('kind', IMAGES)
def test_an_image_is_a_video_of_one_frame(tmp_path, kind):
    path = tmp_path / 'a.JPEG'  # Whatever it is called.
    path.write_bytes(IMAGES[kind])
    got = video.decode(path)
    assert (len(got.frames), got.height, got.width, got.fps) == (1, 48, 64, 25)
    # Colours of half the resolution may be interpolated in more than one way.
    assert closeness(got.frames, [shown(IMAGES[kind])]) < 2
    small = video.decode(path, short_side=24)
    assert small.frames[0].shape == (24, 32, 3)
    if kind != 'black and white PNG':
        expected = Image.fromarray(shown(IMAGES[kind])).resize((32, 24), Image.Resampling.LANCZOS)
        assert closeness(small.frames, [np.asarray(expected)]) < 2
    with path.open('rb') as file:
        np.testing.assert_array_equal(video.decode(file).frames, got.frames)


@pytest.mark.parametrize(('height', 'width'), [(1, 1), (3, 5), (33, 47), (1, 300), (300, 7)])
def test_images_of_odd_sizes(tmp_path, height, width):
    picture = image(height=height, width=width)
    png, jpeg = tmp_path / 'a.png', tmp_path / 'a.jpg'
    picture.save(png)
    np.testing.assert_array_equal(video.decode(png).frames, [np.asarray(picture)])
    picture.save(jpeg, quality=95, subsampling=0)
    assert closeness(video.decode(jpeg).frames, [np.asarray(picture)]) < 3
    small = video.decode(jpeg, short_side=20)
    assert (small.height, small.width) == video.resized(height, width, 20)


@pytest.mark.parametrize('kind', ['JPEG', 'PNG'])
def test_the_name_of_an_image_is_no_pattern(tmp_path, kind):
    for name, side in (('a%03d.{}', 10), ('a001.{}', 20), ('a*.{}', 30), ('b%d.{}', 40)):
        path = tmp_path / name.format(kind.lower())
        path.write_bytes(encoded(image(height=side, width=side), kind))
        got = video.decode(path)
        assert (len(got.frames), got.height) == (1, side)
        with path.open('rb') as file:
            assert video.decode(file).height == side
    # Nor where there is no such file.
    with pytest.raises(video.BadVideo, match='no such file'):
        video.decode(tmp_path / f'a00%d.{kind.lower()}')


def test_of_several_images_in_a_photo_the_first_counts_and_streams_stay_videos(tmp_path):
    frames = [Image.fromarray(np.roll(pictures(1, 48, 64)[0], 8 * i, axis=1)) for i in range(4)]
    more = {'save_all': True, 'append_images': frames[1:]}
    path = tmp_path / 'photo.jpg'
    path.write_bytes(encoded(frames[0], 'MPO', **more))
    assert closeness(video.decode(path).frames, [np.asarray(frames[0])]) < 6
    (tmp_path / 'a.mjpeg').write_bytes(b''.join(encoded(f, 'JPEG') for f in frames))
    assert closeness(video.decode(tmp_path / 'a.mjpeg').frames, [*map(np.asarray, frames)]) < 6
    (tmp_path / 'a.png').write_bytes(encoded(frames[0], 'PNG', **more))
    np.testing.assert_array_equal(
        video.decode(tmp_path / 'a.png').frames, [np.asarray(f) for f in frames]
    )


NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 255, (24, 32, 3), np.uint8))


@pytest.mark.parametrize('name', ['a.jpg', 'a.png', 'a', 'a.mp4'])
@pytest.mark.parametrize(
    ('kind', 'options'), [('JPEG', {}), ('JPEG', {'progressive': True}), ('PNG', {})]
)
def test_an_image_cut_anywhere_is_refused(tmp_path, name, kind, options):
    whole = encoded(NOISE, kind, **options)
    path = tmp_path / name
    for length in {*range(1, 12), *range(12, len(whole), 61), *range(len(whole) - 20, len(whole))}:
        path.write_bytes(whole[:length])
        with pytest.raises(video.BadVideo, match='truncated' if length > 8 else '.') as error:
            video.decode(path)
        assert '\n' not in str(error.value)
        assert str(tmp_path) not in str(error.value)


def test_lying_and_garbled_images_are_refused(tmp_path):
    jpeg, png = encoded(NOISE, 'JPEG'), encoded(NOISE, 'PNG')

    def patched(content, at, new):
        return content[:at] + new + content[at + len(new) :]

    size = jpeg.index(b'\xff\xc0') + 5
    bad = {
        'higher than it is': (patched(jpeg, size, struct.pack('>H', 2000)), 'garbled after 0'),
        'enormous': (patched(jpeg, size, b'\xff' * 4), 'too large: 65535 x 65535 pixels'),
        'enormous PNG': (patched(png, 16, b'\x7f' * 8), 'too large: 2139062143 x 2139062143'),
        'without a size': (patched(jpeg, size, bytes(4)), 'garbled|not a video|no frames'),
        'wrong checksum': (patched(png, len(png) // 2, b'\0\0\0'), 'garbled after 0'),
        'nothing but ends': (jpeg[:3] + b'\0\0\xff\xd9', 'garbled|not a video|no frames'),
        # Cut, and ended in due form.
        'cut': (jpeg[: len(jpeg) * 2 // 3] + jpeg[-2:], 'garbled after 0'),
        'cut PNG': (png[: len(png) // 2] + png[-12:], 'truncated|garbled'),
    }
    for kind, (content, reason) in bad.items():
        path = tmp_path / f'{kind}.jpg'
        path.write_bytes(content)
        with pytest.raises(video.BadVideo, match=reason):
            video.decode(path)


def test_limits_of_images(tmp_path, monkeypatch):
    for path in (tmp_path / 'a.jpg', tmp_path / 'a.png'):
        NOISE.save(path)
        with pytest.raises(video.BadVideo, match='too large: 32 x 24 pixels'):
            video.decode(path, limits=video.Limits(max_pixels=767))
        limits = video.Limits(max_frames=1, max_pixels=64 * 24)  # FFmpeg pads rows to 64.
        assert len(video.decode(path, limits=limits).frames) == 1
    monkeypatch.setattr(video, '_MAX_STILL_BYTES', 512)
    with pytest.raises(video.BadVideo, match='too large: an image of more than'):
        video.decode(path)
