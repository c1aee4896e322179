"""Videos of which any frame is soon reached: short groups of pictures, each from a keyframe on."""

import collections
import fractions
import io
import math
import os
from typing import BinaryIO

import av
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter
from jaxtyping import Int, UInt8

from vjax.data import video
from vjax.data.video import Limits

CRF = 20
GOP = 16
NOMINAL_FPS = 25
_MARGIN = 8  # Pixels, even: swscale interpolates colours of half the resolution from no further.


def encode(
    path: str | os.PathLike | BinaryIO,
    *,
    short_side: int | None,
    crf: int,
    start: float = 0.0,
    end: float = math.inf,
    fps: float | None = None,
    limits: Limits = Limits(),
) -> tuple[bytes, video.Video]:
    """A video, or a segment of it, encoded anew so that any frame is soon reached.

    H.264 in MP4, without B-frames, a keyframe every `GOP` frames and nowhere else, frame i at time
    i / `NOMINAL_FPS`, at the right and the lower edge one pixel larger where a side is odd. Coded for
    fast decoding (no CABAC, no deblocking), at the price of somewhat more bytes. Equal videos are
    equal bytes for one version of x264.

    Args:
        path, short_side, start, end, fps, limits: see `video.decode`.
        crf: x264's constant rate factor; lower is better and larger.

    Returns:
        The file, and the video with as many empty frames as it has.

    Raises:
        BadVideo: as `video.decode` does, or the file takes more than `limits.max_bytes`.
    """
    file = io.BytesIO()
    container = av.open(file, 'w', format='mp4')
    stream = container.add_stream('libx264', rate=NOMINAL_FPS)
    stream.pix_fmt = 'yuv420p'
    # Macroblock trees, scene cuts and threads would make the bytes differ from run to run.
    params = (
        f'keyint={GOP}:min-keyint={GOP}:scenecut=0:bframes=0:mbtree=0:threads=1'
        ':colormatrix=smpte170m:range=tv'
    )
    stream.options = {
        'crf': str(crf),
        'preset': 'medium',
        'tune': 'fastdecode',
        'x264-params': params,
    }
    # The stream's own becomes the muxer's with the first packet.
    stream.time_base = time_base = fractions.Fraction(1, NOMINAL_FPS)
    count = 0

    def convert(frame):
        nonlocal count
        height, width = frame.shape[:2]
        if not count:
            stream.height, stream.width = height + height % 2, width + width % 2
        frame = np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode='edge')
        picture = av.VideoFrame.from_ndarray(frame, format='rgb24').reformat(
            format='yuv420p',
            dst_colorspace='ITU601',
            interpolation=Interpolation.BICUBIC | video.EXACT,
            threads=1,
        )
        picture.pts, picture.time_base = count, time_base
        container.mux(stream.encode(picture))
        if file.tell() > limits.max_bytes:
            raise video.BadVideo(f'too large: more than {limits.max_bytes >> 20} MiB')
        count += 1

    asked = {'start': start, 'end': end, 'fps': fps, 'short_side': short_side}
    film = video.decode(path, limits=limits, convert=convert, **asked)
    container.mux(stream.encode())
    container.close()
    return file.getvalue(), film


def decode_frames(
    content: bytes,
    frames: Int[np.ndarray, 'frames'],
    height: int,
    width: int,
    window: Int[np.ndarray, '4'] | None = None,
) -> UInt8[np.ndarray, 'frames height width 3']:
    """Some frames of a file that `encode` made, in any order, any number of times.

    Args:
        content: the file.
        frames: numbers of the frames.
        height, width: of the video, in pixels.
        window: top, left, height and width of the part that is wanted; None for all.

    Raises:
        av.FFmpegError, ValueError: the file is not one of those, or it is damaged.
    """
    wanted, places = np.unique(frames, return_inverse=True)
    top, left, rows, columns = (0, 0, height, width) if window is None else map(int, window)
    # Of each of `wanted`, where it goes first.
    firsts = np.full(len(wanted), len(places))
    np.minimum.at(firsts, places, np.arange(len(places)))
    pictures = np.empty((len(places), rows, columns, 3), np.uint8)
    with av.open(io.BytesIO(content), format='mov') as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_type = 'NONE'
        ticks = int(fractions.Fraction(1, NOMINAL_FPS) / stream.time_base)  # In a frame.
        found = at = sought = 0  # Of `wanted`, the frame that should come next, the last keyframe.
        # Only one, and to its end: of each that is left before, PyAV leaks a packet.
        packets = container.demux(stream)
        decoded = collections.deque()
        # One for all, since it keeps what it sets up.
        reformatter = VideoReformatter()
        while found < len(wanted):
            keyframe = int(wanted[found]) // GOP * GOP
            if keyframe > max(at, sought):  # A gap that a keyframe ends is jumped over, once.
                sought = keyframe
                container.seek(keyframe * ticks, stream=stream)
                decoded.clear()
            while not decoded:
                packet = next(packets, None)
                if packet is None:
                    raise ValueError(f'frame {wanted[found]} is missing')
                decoded.extend(packet.decode())
            frame = decoded.popleft()
            if frame.is_corrupt:
                raise ValueError(f'frame {at} is damaged')
            if (frame.height, frame.width) != (height + height % 2, width + width % 2):
                raise ValueError(f'frame {at} has {frame.height} x {frame.width} pixels')
            at = (frame.pts or 0) // ticks
            if at == wanted[found]:
                picture = _cut(frame, (top, left, rows, columns), reformatter)
                for channel, plane in zip((1, 2, 0), picture, strict=True):
                    pictures[firsts[found], ..., channel] = plane
                found += 1
            at += 1
        container.seek(stream.duration, stream=stream)
        collections.deque(packets, maxlen=0)
    for place, of_wanted in enumerate(places):
        if firsts[of_wanted] != place:
            pictures[place] = pictures[firsts[of_wanted]]
    return pictures


def _cut(
    frame: av.VideoFrame, window: tuple[int, int, int, int], reformatter: VideoReformatter
) -> list[UInt8[np.ndarray, 'height width']]:
    """Green, blue and red of a window of a frame in yuv420p: the same as in the whole frame."""
    top, left, height, width = window
    # On even pixels, which colours are of, and with what else these are interpolated from.
    first_row, first_column = (max(side - _MARGIN, 0) // 2 * 2 for side in (top, left))
    last_row = min(top + height + _MARGIN + 1, frame.height) // 2 * 2
    last_column = min(left + width + _MARGIN + 1, frame.width) // 2 * 2
    rows, columns = last_row - first_row, last_column - first_column
    cut, at = np.empty(rows * columns * 3 // 2, np.uint8), 0
    for plane, scale in zip(video.planes(frame), (1, 2, 2), strict=True):
        seen = plane[
            first_row // scale : last_row // scale, first_column // scale : last_column // scale
        ]
        cut[at : at + seen.size].reshape(seen.shape)[:] = seen
        at += seen.size
    picture = reformatter.reformat(
        av.VideoFrame.from_ndarray(cut.reshape(-1, columns), format='yuv420p'),
        format=video.EXACT_FORMAT,
        src_colorspace='ITU601',
        interpolation=Interpolation.BILINEAR | video.EXACT,
        threads=1,
    )
    top, left = top - first_row, left - first_column
    return [plane[top : top + height, left : left + width] for plane in video.planes(picture)]
