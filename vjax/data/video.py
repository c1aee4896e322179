"""Video files -> RGB frames, through PyAV (FFmpeg): every frame once, in order of presentation.

What a frame is here:

* 8-bit RGB by the file's own colour matrix and range, turned and mirrored as its display matrix says
  (phones film sideways), and never larger than in the file: the short side is only ever made smaller
  (Lanczos, antialiased), to the nearest pixel of the same shape. Non-square pixels stay as they are.
* All frames of a video have the size of the first one.
* `fps` is the true average rate, from the timestamps, so that it also holds for variable frame rates.

A JPEG or PNG file, which its first bytes tell, is a video of one frame (at 25 fps, for want of a rate).
Grey, palette and CMYK images become RGB, transparency is dropped, and the orientation in EXIF is
ignored, as in most image pipelines: turn such photos before. Of several pictures in a photo (MPF: a
preview, a gain map) the first counts. Animated PNG and Motion JPEG stay videos.

What is refused (`BadVideo`, whose reason is one short sentence), rather than guessed at:

* missing, empty, not a regular file, not a video, no video stream (a cover picture is none);
* garbled: the demuxer or the decoder raises, or marks a frame as damaged;
* an image that is cut off, has less data than its size needs, or is garbled where that shows (JPEG
  has no checksums);
* truncated: the last frame ends before the header says it does, by more than two frames and 5 % of
  the duration. MP4/MOV, AVI and Matroska/WebM headers promise a duration; without one (a WebM stream
  of a browser, MPEG-TS) nothing is missed. A file whose header promises what was never there is
  refused as well: from outside it looks the same, and half a clip may show another action;
* larger than `Limits`: a small hostile file can unfold to any size.

Playlists and other formats that open further files (a pattern such as %03d in an image's name means
nothing here), and FFmpeg's network protocols, are not allowed.
"""

import dataclasses
import fractions
import functools
import io
import math
import os
import re
import stat
import struct
from collections.abc import Callable
from typing import Any, BinaryIO

import av
import numpy as np
from jaxtyping import Int, UInt8
from PIL import Image

# Demuxers that follow references out of the file, read devices, or see a film in any text.
_REFUSED_FORMATS = {
    *('concat', 'concatf', 'dash', 'hls', 'applehttp', 'imf', 'image2', 'image2pipe', 'lavfi'),
    *('rtp', 'rtsp', 'sap', 'sdp', 'tty'),
}
# Containers whose header states a duration that a whole file keeps.
_PROMISING_FORMATS = frozenset({'mov', 'avi', 'matroska'})
_WHOLE = (0.0, math.inf)
_ATTACHED_PICTURE = 0x400  # AV_DISPOSITION_ATTACHED_PIC
_DEFAULT_FPS = 25.0
# Images by their first bytes, and the demuxers that are given these and never see a name.
_STILL_FORMATS = {b'\xff\xd8\xff': 'jpeg_pipe', b'\x89PNG\r\n\x1a\n': 'png_pipe'}
_MAX_STILL_BYTES = 2**27  # Two for each of the most pixels.
# A byte of 255 in compressed data is followed by 0 or a restart marker; others have a meaning.
_JPEG_MARKER = re.compile(rb'\xff[^\x00\x01\xd0-\xd7\xff]')
_JPEG_START, _JPEG_END, _JPEG_LS, _JPEG_APP2 = 0xD8, 0xD9, 0xF7, 0xE2
_JPEG_SIZES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_ANOTHER_JPEG = re.compile(rb'\x00*\xff+\xd8')
JPEG_QUALITY = 90
CRF = 20
GOP = 16
NOMINAL_FPS = 25


class BadVideo(Exception):
    """A file that cannot be used as a video; the message is the reason, without the file's name."""


@dataclasses.dataclass(frozen=True)
class Limits:
    """What a file may unfold to: frames, pixels per frame before resizing, bytes as stored."""

    max_frames: int = 36_000  # 20 minutes at 30 fps.
    max_pixels: int = 8192 * 8192
    max_bytes: int = 2**31


@dataclasses.dataclass(frozen=True)
class Video:
    """A decoded video: `frames` as `decode` was asked for them, size in pixels, frames per second."""

    frames: list[Any]
    fps: float
    height: int
    width: int


def decode(
    path: str | os.PathLike | BinaryIO,
    *,
    start: float = 0.0,
    end: float = math.inf,
    short_side: int | None = None,
    limits: Limits = Limits(),
    convert: Callable[[np.ndarray], Any] | None = None,
) -> Video:
    """Decodes every frame of a video file, or of a segment of it.

    Args:
      path: a file's path, or a seekable binary file.
      start, end: seconds of the video; the frames shown in [start, end) are the segment's.
      short_side: the short side is made this many pixels if it has more; None keeps the size.
      limits: what to refuse.
      convert: called on each frame, uint8 [height, width, 3], as soon as it is decoded, so that
        memory holds only what it returns (JPEG bytes, say); None keeps the array.

    Raises:
      BadVideo: the file is not a whole, sane video; see the module's docstring.
    """
    try:
        if isinstance(path, str | os.PathLike):
            _check_file(path)
            with open(path, 'rb') as file:
                container = _open_still(file, limits)
            # With the protocol named, no file name is taken for a URL.
            path = f'file:{os.path.abspath(path)}'
        else:
            container = _open_still(path, limits)
        if container is None:
            container = av.open(
                path,
                options={'protocol_whitelist': 'file', 'format_whitelist': _allowed_formats()},
            )
    except (av.FFmpegError, ValueError, OSError) as error:
        raise BadVideo(f'not a video: {_reason(error)}') from error
    with container:
        return _decode(
            container, (start, end), short_side, limits, convert or (lambda frame: frame)
        )


def to_jpeg(
    path: str | os.PathLike | BinaryIO,
    *,
    short_side: int | None,
    jpeg_quality: int = JPEG_QUALITY,
    start: float = 0.0,
    end: float = math.inf,
    limits: Limits = Limits(),
) -> Video:
    """A video file, or a segment of it, with its frames as JPEG bytes.

    Raises:
        BadVideo: as `decode` does, or the frames take more than `limits.max_bytes`.
    """
    taken = 0

    def convert(frame):
        nonlocal taken
        encoded = encode_jpeg(frame, jpeg_quality)
        taken += len(encoded)
        if taken > limits.max_bytes:
            raise BadVideo(f'too large: more than {limits.max_bytes >> 20} MiB of frames')
        return encoded

    return decode(path, start=start, end=end, short_side=short_side, limits=limits, convert=convert)


def to_short_gops(
    path: str | os.PathLike | BinaryIO,
    *,
    short_side: int | None,
    crf: int,
    start: float = 0.0,
    end: float = math.inf,
    limits: Limits = Limits(),
) -> tuple[bytes, Video]:
    """A video file, or a segment of it, encoded anew so that any frame is soon reached.

    H.264 in MP4, without B-frames, a keyframe every `GOP` frames and nowhere else, frame i at time
    i / `NOMINAL_FPS`, at the right and the lower edge one pixel larger where a side is odd. Equal
    videos are equal bytes for one version of x264.

    Args:
        crf: x264's constant rate factor; lower is better and larger.

    Returns:
        The file, and the video with as many empty frames as it has.

    Raises:
        BadVideo: as `decode` does, or the file takes more than `limits.max_bytes`.
    """
    file = io.BytesIO()
    container = av.open(file, 'w', format='mp4')
    stream = container.add_stream('libx264', rate=NOMINAL_FPS)
    stream.pix_fmt = 'yuv420p'
    # Macroblock trees, scene cuts and threads would make the bytes differ from run to run.
    params = f'keyint={GOP}:min-keyint={GOP}:scenecut=0:bframes=0:mbtree=0:threads=1'
    stream.options = {'crf': str(crf), 'preset': 'medium', 'x264-params': params}
    # The stream's own becomes the muxer's with the first packet.
    stream.time_base = time_base = fractions.Fraction(1, NOMINAL_FPS)
    count = 0

    def convert(frame):
        nonlocal count
        height, width = frame.shape[:2]
        if not count:
            stream.height, stream.width = height + height % 2, width + width % 2
        frame = np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode='edge')
        picture = av.VideoFrame.from_ndarray(frame, format='rgb24')
        picture.pts, picture.time_base = count, time_base
        container.mux(stream.encode(picture))
        if file.tell() > limits.max_bytes:
            raise BadVideo(f'too large: more than {limits.max_bytes >> 20} MiB')
        count += 1

    film = decode(path, start=start, end=end, short_side=short_side, limits=limits, convert=convert)
    container.mux(stream.encode())
    container.close()
    return file.getvalue(), film


def decode_frames(
    content: bytes, frames: Int[np.ndarray, 'frames'], height: int, width: int
) -> UInt8[np.ndarray, 'frames height width 3']:
    """Some frames of a file that `to_short_gops` made, in any order, any number of times.

    Raises:
        av.FFmpegError, ValueError: the file is not one of those.
    """
    wanted = np.unique(frames)
    pictures = np.empty((len(wanted), height, width, 3), np.uint8)
    with av.open(io.BytesIO(content), format='mov') as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_type = 'NONE'
        found, at = 0, 0  # Of `wanted`, and the number of the next frame that comes.
        decoder = container.decode(stream)
        while found < len(wanted):
            # A gap that a keyframe ends is jumped over.
            if wanted[found] // GOP * GOP > at:
                at = int(wanted[found] // GOP * GOP)
                seconds = fractions.Fraction(at, NOMINAL_FPS)
                container.seek(int(seconds / stream.time_base), stream=stream)
                decoder = container.decode(stream)
            frame = next(decoder, None)
            if frame is None:
                raise ValueError(f'frame {wanted[found]} is missing')
            at = round(frame.pts * frame.time_base * NOMINAL_FPS)
            if at == wanted[found]:
                pictures[found] = frame.to_ndarray(format='rgb24', threads=1)[:height, :width]
                found += 1
            at += 1
    return pictures[np.searchsorted(wanted, frames)]


def encode_jpeg(frame: UInt8[np.ndarray, 'height width 3'], quality: int) -> bytes:
    """JPEG bytes of a frame; `quality` in 1..100, chroma at half resolution as in most videos."""
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, 'JPEG', quality=quality, subsampling='4:2:0')
    return buffer.getvalue()


def resized(height: int, width: int, short_side: int | None) -> tuple[int, int]:
    """The (height, width) whose short side is at most `short_side`, in the same proportion."""
    short = min(height, width)
    if short_side is None or short <= short_side:
        return height, width
    return tuple(max(1, int(side * short_side / short + 0.5)) for side in (height, width))


def _check_file(path: str | os.PathLike) -> None:
    try:
        info = os.stat(path)
    except (OSError, ValueError) as error:
        if isinstance(error, PermissionError):
            raise BadVideo('not readable: permission denied') from error
        raise BadVideo('no such file') from error
    if not stat.S_ISREG(info.st_mode):
        raise BadVideo('not a regular file')
    if not info.st_size:
        raise BadVideo('empty file')


@functools.cache
def _allowed_formats() -> str:
    names = {name for names in av.formats_available for name in names.split(',')}
    return ','.join(sorted(names - _REFUSED_FORMATS))


def _reason(error: BaseException) -> str:
    """FFmpeg's words for an error, without the file's name."""
    return str(getattr(error, 'strerror', None) or error or type(error).__name__)


# --- Still images. ---


def _open_still(file: BinaryIO, limits: Limits) -> av.container.InputContainer | None:
    """The image in a JPEG or PNG file as a container of one frame; None for any other file.

    Left to choose a demuxer, FFmpeg goes by an image's name, and takes image2, to which a name is a
    pattern of further files.
    """
    start = file.tell()
    head = file.read(8)
    file.seek(start)
    name = next((name for magic, name in _STILL_FORMATS.items() if head.startswith(magic)), None)
    if name is None:
        return None
    content = file.read(_MAX_STILL_BYTES)
    file.seek(start)
    measured = _measure_jpeg(content) if name == 'jpeg_pipe' else _measure_png(content)
    if measured is None:
        return None
    width, height, length = measured
    if width * height > limits.max_pixels:
        raise BadVideo(f'too large: {width} x {height} pixels')
    if len(content) == _MAX_STILL_BYTES and not length:
        raise BadVideo(f'too large: an image of more than {_MAX_STILL_BYTES >> 20} MiB')
    if not length:
        raise BadVideo('truncated: the image has no end')
    # Photos may have more behind the image: a film, further images.
    return av.open(io.BytesIO(content[:length]), format=name)


def _measure_jpeg(content: bytes) -> tuple[int, int, int] | None:
    """Width, height and number of bytes (0 if it does not end) of a JPEG image (ITU T.81, annex B).

    None if other JPEG images follow that are no part of a photo, as in Motion JPEG, or for JPEG-LS,
    which has a decoder of its own.
    """
    width = height = 0
    multi_picture = False
    at = 2
    while match := _JPEG_MARKER.search(content, at):
        marker, at = content[match.end() - 1], match.end()
        if marker == _JPEG_END:
            follows = _ANOTHER_JPEG.match(content, at) and not multi_picture
            return None if follows else (width, height, at)
        if marker in (_JPEG_START, _JPEG_LS):
            return None
        if marker in _JPEG_SIZES and len(content) >= at + 7:
            size = struct.unpack_from('>HH', content, at + 3)[::-1]
            width, height = max((width, height), size, key=math.prod)
        multi_picture |= marker == _JPEG_APP2 and content.startswith(b'MPF\0', at + 2)
        at += int.from_bytes(content[at : at + 2], 'big')
    return width, height, 0


def _measure_png(content: bytes) -> tuple[int, int, int] | None:
    """As `_measure_jpeg`, of a PNG image, whose first chunk has its size; None if it is animated."""
    width, height = struct.unpack('>II', content[16:24].ljust(8, b'\0'))
    at = 8
    while at + 12 <= len(content):
        length, kind = struct.unpack_from('>I4s', content, at)
        if kind == b'acTL':
            return None
        at += 12 + length
        if kind == b'IEND':
            return width, height, at if at <= len(content) else 0
    return width, height, 0


# --- Decoding. ---


def _decode(container, segment, short_side, limits, convert) -> Video:
    streams = [s for s in container.streams.video if not int(s.disposition) & _ATTACHED_PICTURE]
    if not streams:
        raise BadVideo('no video stream')
    stream = streams[0]
    if stream.codec_context is None:
        raise BadVideo('no decoder for the video stream')
    # One thread per file: the files are what is decoded in parallel.
    stream.codec_context.thread_type = 'NONE'
    stream.codec_context.options = {'max_pixels': str(limits.max_pixels)}
    # A still is not turned: to PyAV, the side data of a frame with EXIF is an error.
    still = container.format.name in _STILL_FORMATS.values()
    if still:
        # Without this the decoder makes up what is missing.
        stream.codec_context.options |= {'err_detect': 'crccheck+explode'}

    start, stop = segment
    origin = float((stream.start_time or 0) * stream.time_base) if stream.time_base else 0.0
    if start:
        container.seek(int((origin + start) / stream.time_base), stream=stream)
    frames, times, end = [], [], None
    over = False  # The segment is.
    height = width = turn = None
    try:
        for index, packet in enumerate(container.demux(stream)):
            if packet.is_corrupt:
                raise BadVideo(f'truncated or garbled: damaged data after {len(frames)} frames')
            if index > 2 * limits.max_frames:
                raise BadVideo(f'too long: more than {2 * limits.max_frames} packets')
            for frame in packet.decode():
                if frame.is_corrupt:
                    raise BadVideo(f'garbled: frame {len(frames)} is damaged')
                if len(frames) == limits.max_frames:
                    raise BadVideo(f'too long: more than {limits.max_frames} frames')
                if frame.width * frame.height > limits.max_pixels:
                    raise BadVideo(f'too large: {frame.width} x {frame.height} pixels')
                if segment != _WHOLE:
                    if frame.pts is None:
                        raise BadVideo('the video has no timestamps to find a segment by')
                    seconds = float(frame.pts * frame.time_base) - origin
                    if over := seconds >= stop:
                        break
                    if seconds < start:
                        continue
                if height is None:
                    height, width = resized(frame.height, frame.width, short_side)
                    turn = _unturned if still else _display_turn(frame)
                if frame.pts is not None and frame.time_base:
                    times.append(float(frame.pts * frame.time_base))
                    duration = float((frame.duration or 0) * frame.time_base)
                    end = max(end or times[-1], times[-1] + duration)
                frames.append(convert(np.ascontiguousarray(turn(_rgb(frame, height, width)))))
            if over:
                break
    except (av.FFmpegError, ValueError, OSError) as error:
        # FFmpeg refuses sizes above its option by an invalid argument.
        raise BadVideo(f'garbled after {len(frames)} frames: {_reason(error)}') from error
    if not frames and start:
        raise BadVideo(f'the segment begins at {start:.2f} s, after the last frame of the video')
    if not frames:
        raise BadVideo('no frames: the video stream is empty')

    header_fps = float(stream.average_rate or stream.guessed_rate or 0) or _DEFAULT_FPS
    span = max(times) - min(times) if len(times) == len(frames) else 0.0
    fps = (len(frames) - 1) / span if span > 0 else header_fps
    if stop < math.inf and not over:
        last = times[-1] - origin + 1 / fps
        if stop - last > max(2 / fps, 0.05 * (stop - start)):
            raise BadVideo(
                f'the segment of {start:.2f} to {stop:.2f} s ends after the video, at {last:.2f} s'
            )
    promised = _promised_seconds(container, stream) if segment == _WHOLE else None
    length = max(end - min(times), 0) if times else 0.0
    length = max(length, span + 1 / fps)
    if promised and promised - length > max(2 / fps, 0.05 * promised):
        raise BadVideo(f'truncated: {length:.2f} s of the {promised:.2f} s in its header')

    turned_height, turned_width = turn(np.empty((height, width, 1), np.uint8)).shape[:2]
    return Video(frames, fps, turned_height, turned_width)


def _rgb(frame: av.VideoFrame, height: int, width: int) -> np.ndarray:
    return frame.to_ndarray(
        format='rgb24', width=width, height=height, interpolation='LANCZOS', threads=1
    )


def _unturned(image: np.ndarray) -> np.ndarray:
    return image


def _display_turn(frame: av.VideoFrame) -> Callable[[np.ndarray], np.ndarray]:
    """The turn and mirroring [height, width, 3] -> the same, turned, of the display matrix.

    The matrix maps pixels as x' = a x + c y, y' = b x + d y (libavutil/display.h); other angles than
    multiples of 90 degrees go to the nearest.
    """
    data = frame.side_data.get('DISPLAYMATRIX')
    if data is None:
        return _unturned
    a, b, _, c, d, *_ = struct.unpack('=9i', bytes(data))
    transpose = abs(b) + abs(c) > abs(a) + abs(d)
    flip_x, flip_y = (c < 0, b < 0) if transpose else (a < 0, d < 0)
    return lambda image: (image.transpose(1, 0, 2) if transpose else image)[
        :: -1 if flip_y else 1, :: -1 if flip_x else 1
    ]


def _promised_seconds(container, stream) -> float | None:
    """The duration of the video stream that the container's header states, if it states one."""
    if not _PROMISING_FORMATS & set(container.format.name.split(',')):
        return None
    if stream.duration is not None and stream.time_base:
        return float(stream.duration * stream.time_base)
    # Matroska states each stream's duration in a tag, and the longest stream's in its header.
    hours, _, rest = stream.metadata.get('DURATION', '').partition(':')
    minutes, _, seconds = rest.partition(':')
    try:
        return 3600 * int(hours) + 60 * int(minutes) + float(seconds)
    except ValueError:
        alone = len(container.streams) == 1
        return container.duration / av.time_base if alone and container.duration else None
