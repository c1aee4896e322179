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

A folder is a video of the JPEG or PNG files in it, by the numbers that their names end in, at the rate
that the caller knows; what else is in it, and folders, do not count.

What is refused (`BadVideo`, whose reason is one short sentence), rather than guessed at:

* missing, empty, not a regular file, not a video, no video stream (a cover picture is none);
* garbled: the demuxer or the decoder raises, or marks a frame as damaged;
* an image that is cut off, has less data than its size needs, or is garbled where that shows (JPEG
  has no checksums);
* truncated: the last frame ends before the header says it does, by more than two frames and 5 % of
  the duration. MP4/MOV, AVI and Matroska/WebM headers promise a duration; without one (a WebM stream
  of a browser, MPEG-TS) nothing is missed. A file whose header promises what was never there is
  refused as well: from outside it looks the same, and half a clip may show another action;
* a folder without frames, with two of one number, with a gap in the numbers (which may go up in equal
  steps), or with frames of different sizes;
* larger than `Limits`: a small hostile file can unfold to any size.

Playlists and other formats that open further files (a pattern such as %03d in an image's name means
nothing here), and FFmpeg's network protocols, are not allowed.
"""

import dataclasses
import functools
import io
import itertools
import math
import os
import re
import stat
import struct
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

import av
import numpy as np
from av.video.reformatter import Interpolation
from jaxtyping import UInt8
from PIL import Image

from vjax.data import stills

# Demuxers that follow references out of the file, read devices, or see a film in any text.
_REFUSED_FORMATS = {
    *('concat', 'concatf', 'dash', 'hls', 'applehttp', 'imf', 'image2', 'image2pipe', 'lavfi'),
    *('rtp', 'rtsp', 'sap', 'sdp', 'tty'),
}
# Containers whose header states a duration that a whole file keeps.
_PROMISING_FORMATS = frozenset({'mov', 'avi', 'matroska'})
# Those that lead exactly to a time; others are decoded from the beginning.
_SEEKABLE_FORMATS = frozenset({'mov', 'matroska'})
_WHOLE = (0.0, math.inf)
_BEGINS_LATE = 'the segment begins at {:.2f} s, after the last frame of the video'
# A folder's frames: their numbers are the last digits of their names.
_FRAME_NAME = re.compile(r'(?!\.).*?(\d+)\.(?:jpe?g|png)', re.IGNORECASE | re.DOTALL)
ROUNDING = 1e-6  # Seconds: of times in binary fractions.
_ATTACHED_PICTURE = 0x400  # AV_DISPOSITION_ATTACHED_PIC
DEFAULT_FPS = 25.0  # Of a video that does not say.
# Images by their first bytes, and the demuxers that are given these and never see a name.
_STILL_FORMATS = {b'\xff\xd8\xff': 'jpeg_pipe', b'\x89PNG\r\n\x1a\n': 'png_pipe'}
_MAX_STILL_BYTES = 2**27  # Two for each of the most pixels.
JPEG_QUALITY = 90
# swscale's fast paths darken coloured pixels by a level or more, and differ from CPU to CPU.
EXACT = Interpolation.ACCURATE_RND | Interpolation.BITEXACT | Interpolation.FULL_CHR_H_INT
EXACT_FORMAT = 'gbrp'  # In planes, for which the exact path has vector code.


class BadVideo(Exception):
    """A file that cannot be used as a video; the message is the reason, without the file's name."""


class TooLong(BadVideo):
    """A video of more frames, in number or in bytes, than the limits allow."""


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
    fps: float | None = None,
    short_side: int | None = None,
    limits: Limits = Limits(),
    convert: Callable[[np.ndarray], Any] | None = None,
) -> Video:
    """Decodes every frame of a video file or a folder of frames, or of a segment of it.

    Args:
      path: a file's or a folder's path, or a seekable binary file.
      start, end: seconds since the first frame; the frames whose times are in [start, end) are the
        segment's.
      fps: frames per second of a folder; of no effect on files, which have their own rate.
      short_side: the short side is made this many pixels if it has more; None keeps the size.
      limits: what to refuse.
      convert: called on each frame, uint8 [height, width, 3], as soon as it is decoded, so that
        memory holds only what it returns (JPEG bytes, say); None keeps the array.

    Raises:
      BadVideo: the file is not a whole, sane video; see the module's docstring.
    """
    convert = convert or (lambda frame: frame)
    if isinstance(path, str | os.PathLike) and os.path.isdir(path):
        return _decode_folder(path, (start, end), fps, short_side, limits, convert)
    with open_file(path, limits) as container:
        return _decode(container, (start, end), short_side, limits, convert)


def to_jpeg(
    path: str | os.PathLike | BinaryIO,
    *,
    short_side: int | None,
    jpeg_quality: int = JPEG_QUALITY,
    start: float = 0.0,
    end: float = math.inf,
    fps: float | None = None,
    limits: Limits = Limits(),
) -> Video:
    """A video, or a segment of it, with its frames as JPEG bytes; for the arguments see `decode`.

    Raises:
        BadVideo: as `decode` does, or the frames take more than `limits.max_bytes`.
    """
    taken = 0

    def convert(frame):
        nonlocal taken
        encoded = encode_jpeg(frame, jpeg_quality)
        taken += len(encoded)
        if taken > limits.max_bytes:
            raise TooLong(f'too large: more than {limits.max_bytes >> 20} MiB of frames')
        return encoded

    asked = {'start': start, 'end': end, 'fps': fps, 'short_side': short_side}
    return decode(path, limits=limits, convert=convert, **asked)


def encode_jpeg(frame: UInt8[np.ndarray, 'height width 3'], quality: int) -> bytes:
    """JPEG bytes of a frame; `quality` in 1..100, chroma at half resolution as in most videos."""
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, 'JPEG', quality=quality, subsampling='4:2:0')
    return buffer.getvalue()


def planes(frame: av.VideoFrame) -> list[UInt8[np.ndarray, 'height padded_width']]:
    """The planes of a frame, each with what pads its rows."""
    return [np.frombuffer(p, np.uint8).reshape(-1, p.line_size) for p in frame.planes]


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


def reason(error: BaseException) -> str:
    """FFmpeg's words for an error, without the file's name."""
    return str(getattr(error, 'strerror', None) or error or type(error).__name__)


def open_file(
    path: str | os.PathLike | BinaryIO, limits: Limits = Limits()
) -> av.container.InputContainer:
    """The container of a video or image file; `path` is a path or a seekable binary file.

    Raises:
      BadVideo: no such file, or none that is a video.
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
        return container or av.open(path, options=safe_options())
    except (av.FFmpegError, ValueError, OSError) as error:
        raise BadVideo(f'not a video: {reason(error)}') from error


def safe_options() -> dict[str, str]:
    """FFmpeg's options by which a file opens no other file and no connection."""
    return {'protocol_whitelist': 'file', 'format_whitelist': _allowed_formats()}


# --- Still images. ---


def _open_still(file: BinaryIO, limits: Limits) -> av.container.InputContainer | None:
    """The image in a JPEG or PNG file as a container of one frame; None for any other file.

    Left to choose a demuxer, FFmpeg goes by an image's name, and takes image2, to which a name is a
    pattern of further files.
    """
    start = file.tell()
    head = file.read(8)
    file.seek(start)
    if not head:
        raise BadVideo('empty file')
    name = next((name for magic, name in _STILL_FORMATS.items() if head.startswith(magic)), None)
    if name is None:
        return None
    content = file.read(_MAX_STILL_BYTES)
    file.seek(start)
    measured = stills.measure_jpeg(content) if name == 'jpeg_pipe' else stills.measure_png(content)
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


# --- Folders of frames. ---


def _decode_folder(path, segment, fps, short_side, limits, convert) -> Video:
    names = _frame_names(path)
    if fps is None:
        raise BadVideo('a folder of frames, whose rate is not known')
    start, stop = segment
    # Frame i is shown from i / fps on.
    first = max(0, math.ceil((start - ROUNDING) * fps))
    last = min(len(names), math.ceil((stop - ROUNDING) * fps)) if stop < math.inf else len(names)
    _check_segment(len(names) / fps, segment, fps)
    if last - first > limits.max_frames:
        raise TooLong(f'too long: more than {limits.max_frames} frames')
    frames, size, film = [], None, None
    for name in names[first:last]:
        try:
            with open(os.path.join(path, name), 'rb') as file:
                container = _open_still(file, limits)
            if container is None:
                raise BadVideo('not a JPEG or PNG image')
            with container:
                stream = container.streams.video[0]
                if size not in (None, (stream.height, stream.width)):
                    raise BadVideo(
                        f'{stream.height} x {stream.width} pixels, and the first has '
                        f'{size[0]} x {size[1]}'
                    )
                size = stream.height, stream.width
                film = _decode(container, _WHOLE, short_side, limits, convert)
        except (BadVideo, av.FFmpegError, ValueError, OSError) as error:
            raise BadVideo(f'frame {name}: {reason(error)}') from error
        frames += film.frames
    if film is None:
        raise BadVideo('no frames: the segment is shorter than one')
    return Video(frames, fps, film.height, film.width)


def _frame_names(path: str | os.PathLike) -> list[str]:
    """The images of a folder by the numbers that their names end in."""
    try:
        found = [_FRAME_NAME.fullmatch(name) for name in os.listdir(path)]
    except OSError as error:
        raise BadVideo(f'not readable: {reason(error)}') from error
    numbered = sorted((int(match[1]), match[0]) for match in found if match)
    if not numbered:
        raise BadVideo('a folder without frames: no numbered JPEG or PNG images in it')
    step = numbered[1][0] - numbered[0][0] if len(numbered) > 1 else 1
    for (number, name), (following, other) in itertools.pairwise(numbered):
        if number == following:
            raise BadVideo(f'two frames of one number: {name} and {other}')
        if following - number != step:
            raise BadVideo(f'frames are missing between {name} and {other}')
    return [name for _, name in numbered]


# --- Decoding. ---


def video_stream(container: av.container.InputContainer, limits: Limits) -> av.VideoStream:
    """The video of a container, with a decoder that is set to its limits.

    Raises:
      BadVideo: there is none, or no decoder for it, or it promises to be too large.
    """
    streams = [s for s in container.streams.video if not int(s.disposition) & _ATTACHED_PICTURE]
    if not streams:
        raise BadVideo('no video stream')
    stream = streams[0]
    if stream.codec_context is None:
        raise BadVideo('no decoder for the video stream')
    # One thread per file: the files are what is decoded in parallel.
    stream.codec_context.thread_type = 'NONE'
    stream.codec_context.options = {'max_pixels': str(limits.max_pixels)}
    width, height = stream.codec_context.width, stream.codec_context.height  # As promised.
    if width * height > limits.max_pixels:
        raise BadVideo(f'too large: {width} x {height} pixels')
    if _is_still(container):
        # Without this the decoder makes up what is missing.
        stream.codec_context.options |= {'err_detect': 'crccheck+explode'}
    return stream


class Pictures:
    """Makes RGB arrays of the frames of one video, all of them as large as the first one.

    Attributes:
      height, width: of the arrays, in pixels; None before the first frame.
    """

    height: int | None = None
    width: int | None = None

    def __init__(
        self, container: av.container.InputContainer, short_side: int | None, limits: Limits
    ) -> None:
        self._still = _is_still(container)
        self._short_side, self._limits = short_side, limits

    def __call__(self, frame: av.VideoFrame) -> UInt8[np.ndarray, 'height width 3']:
        """The frame resized and turned; raises BadVideo if it is too large."""
        if frame.width * frame.height > self._limits.max_pixels:
            raise BadVideo(f'too large: {frame.width} x {frame.height} pixels')
        if self.height is None:
            self._size = resized(frame.height, frame.width, self._short_side)
            # A still is not turned: to PyAV, the side data of a frame with EXIF is an error.
            self._turn = _unturned if self._still else _display_turn(frame)
        image = np.ascontiguousarray(self._turn(_rgb(frame, *self._size)))
        self.height, self.width = image.shape[:2]
        return image


def _is_still(container: av.container.InputContainer) -> bool:
    return container.format.name in _STILL_FORMATS.values()


def _decode(container, segment, short_side, limits, convert) -> Video:
    stream = video_stream(container, limits)
    picture = Pictures(container, short_side, limits)
    start, stop = segment
    frames, times, end = [], [], None
    over = False  # The segment is.
    origin = None
    try:
        decoded = _decoded(container, stream, frames, limits)
        if segment != _WHOLE:
            origin, decoded = _seek(container, stream, start, decoded, frames, limits)
        for frame in decoded:
            if origin is not None:
                seconds = _seconds(frame) - origin
                if over := seconds >= stop - ROUNDING:
                    break
                if seconds < start - ROUNDING:
                    continue
            if frame.is_corrupt:
                raise BadVideo(f'garbled: frame {len(frames)} is damaged')
            if len(frames) == limits.max_frames:
                raise TooLong(f'too long: more than {limits.max_frames} frames')
            if frame.pts is not None and frame.time_base:
                times.append(_seconds(frame))
                duration = float((frame.duration or 0) * frame.time_base)
                end = max(end or times[-1], times[-1] + duration)
            frames.append(convert(picture(frame)))
    except (av.FFmpegError, ValueError, OSError) as error:
        # FFmpeg refuses sizes above its option by an invalid argument.
        raise BadVideo(f'garbled after {len(frames)} frames: {reason(error)}') from error
    if over and not frames:
        raise BadVideo('no frames: the segment lies between two')
    if not frames and start:
        raise BadVideo(_BEGINS_LATE.format(start))
    if not frames:
        raise BadVideo('no frames: the video stream is empty')

    header_fps = float(stream.average_rate or stream.guessed_rate or 0) or DEFAULT_FPS
    span = max(times) - min(times) if len(times) == len(frames) else 0.0
    fps = (len(frames) - 1) / span if span > 0 else header_fps
    if stop < math.inf and not over:
        _check_segment(max(end, times[-1] + 1 / fps) - origin, segment, fps)
    if segment == _WHOLE:
        length = max(end - first_second(container, min(times)), 0) if times else 0.0
        check_length(container, stream, max(length, span + 1 / fps), fps)
    return Video(frames, fps, picture.height, picture.width)


def check_length(container, stream: av.VideoStream, seconds: float, fps: float) -> None:
    """Raises BadVideo if a video that lasts so long was to be longer, by its header."""
    promised = _promised_seconds(container, stream)
    if promised and promised - seconds > max(2 / fps, 0.05 * promised):
        raise BadVideo(f'truncated: {seconds:.2f} s of the {promised:.2f} s in its header')


def _check_segment(seconds: float, segment: tuple[float, float], fps: float) -> None:
    """Whether a video that lasts so long has a segment, but for rounding."""
    start, stop = segment
    if start > seconds - 1 / fps + ROUNDING:
        raise BadVideo(_BEGINS_LATE.format(start))
    if stop < math.inf and stop - seconds > max(2 / fps, 0.05 * (stop - start)):
        raise BadVideo(
            f'the segment of {start:.2f} to {stop:.2f} s ends after the video, at {seconds:.2f} s'
        )


def _decoded(container, stream, frames: list[Any], limits: Limits) -> Iterator[av.VideoFrame]:
    """The frames from where the container is; `frames` are those that were kept, for messages."""
    fruitless = 0  # Packets since the last frame: a segment may begin late in the file.
    for packet in container.demux(stream):
        if packet.is_corrupt:
            raise BadVideo(f'truncated or garbled: damaged data after {len(frames)} frames')
        fruitless += 1
        if fruitless > 2 * limits.max_frames:
            raise TooLong(f'too long: {fruitless} packets without a frame')
        for frame in packet.decode():
            fruitless = 0
            yield frame


def _seek(
    container, stream, start: float, decoded: Iterator[av.VideoFrame], *rest
) -> tuple[float, Iterator[av.VideoFrame]]:
    """The time of the first frame, and the frames from one that is no later than `start` on."""
    first = next(decoded, None)
    if first is None:
        return 0.0, decoded
    origin, passed = _seconds(first), first
    if start > 0 and _SEEKABLE_FORMATS & set(container.format.name.split(',')):
        for target in (origin + start, origin):
            container.seek(math.floor(target / stream.time_base), stream=stream)
            decoded = _decoded(container, stream, *rest)
            passed = next(decoded, None)
            if passed is not None and _seconds(passed) - origin <= start + ROUNDING:
                break
    return origin, itertools.chain([passed] if passed else [], decoded)


def _seconds(frame: av.VideoFrame) -> float:
    if frame.pts is None or not frame.time_base:
        raise BadVideo('the video has no timestamps to find a segment by')
    return float(frame.pts * frame.time_base)


def first_second(container, earliest: float) -> float:
    """The time from which the duration in the header counts: Matroska's and AVI's is the last time."""
    return earliest if 'mov' in container.format.name.split(',') else min(0.0, earliest)


def _rgb(frame: av.VideoFrame, height: int, width: int) -> np.ndarray:
    return frame.to_ndarray(
        format=EXACT_FORMAT,
        width=width,
        height=height,
        interpolation=Interpolation.LANCZOS | EXACT,
        threads=1,
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
