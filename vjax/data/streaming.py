"""Videos of any length -> JPEG frames, in one pass and constant memory: from files, and from pipes.

A frame is what `vjax.data.video` makes of it, stored as `prepare` stores it, so that a model sees what it
saw in training. Nothing is sought: what goes by is decoded once and handed on.

Times are seconds since the first frame, by the timestamps. A frame without one, or with one that is not
after the frame before (a camera that starts again), follows that by the rate that the stream states.

`video.decode` refuses a video that is damaged anywhere. Here the whole frames of an hour are worth having:
they are handed on, and `FrameStream.problem` says in the end what was wrong. A pipe that was cut off is
noticed where a frame is cut in two, or the header promised more.
"""

import os
import re
import select
from collections.abc import Callable, Iterator
from typing import NamedTuple

import av

from vjax.data import video
from vjax.data.video import BadVideo
from vjax.errors import UserError

_PIPE_ADVICE = (
    '; a pipe should send Matroska or MPEG-TS (ffmpeg ... -f matroska -): an MP4 file has its index at '
    'the end'
)
_POLL_SECONDS = 0.1  # Between two looks at whether to stop, while a pipe is silent.


class Frame(NamedTuple):
    """A frame of a stream.

    Attributes:
        number: 0 for the first one.
        seconds: since the first frame; more with every frame.
        jpeg: its bytes.
        height, width: in pixels, the same for all frames of a stream.
    """

    number: int
    seconds: float
    jpeg: bytes
    height: int
    width: int


class RawFormat(NamedTuple):
    """What raw frames are, whose bytes do not say: RGB, 8 bits each, row by row from the top left.

    Attributes:
        width, height: in pixels.
        fps: frames per second.
    """

    width: int
    height: int
    fps: float

    @classmethod
    def parse(cls, text: str) -> 'RawFormat':
        """From 'WIDTHxHEIGHT@FPS', such as '640x480@30'; raises UserError if it is not that."""
        match = re.fullmatch(r'([1-9]\d{0,4})x([1-9]\d{0,4})@(\d{1,5}(?:\.\d+)?)', text, re.ASCII)
        if match is None or not float(match[3]):
            raise UserError(f"--raw='{text}': give WIDTHxHEIGHT@FPS, such as 640x480@30.")
        return cls(int(match[1]), int(match[2]), float(match[3]))


class FrameStream:
    """The frames of a video file or of a pipe, to be iterated over once. Close it, or use `with`.

    Attributes:
        problem: what was wrong with what was read, in words; '' if nothing, or not yet.
        duration: seconds, as the header states them; None where it does not.
    """

    def __init__(
        self,
        source: str | os.PathLike | int,
        *,
        short_side: int | None,
        jpeg_quality: int = video.JPEG_QUALITY,
        raw: RawFormat | None = None,
        stopped: Callable[[], bool] = lambda: False,
        limits: video.Limits = video.Limits(),
    ) -> None:
        """Opens it; a pipe is read until its format is known.

        Args:
            source: a file's path, or the descriptor of a pipe (0 is stdin).
            short_side: the short side is made this many pixels if it has more; None keeps the size.
            jpeg_quality: of the frames.
            raw: what the frames are of a pipe that has no container.
            stopped: asked between packets, and while a pipe is silent; once it is true the stream ends.
            limits: its `max_pixels` counts; a stream may be of any length.

        Raises:
            BadVideo: there is no video.
        """
        self.problem = ''
        self._stopped, self._quality = stopped, jpeg_quality
        self._piped = isinstance(source, int)
        self._container = (
            _open_pipe(source, raw, stopped) if self._piped else video.open_file(source, limits)
        )
        self._stream = video.video_stream(self._container, limits)
        if not self._piped:  # Every thread would hold a frame of a pipe back.
            self._stream.codec_context.thread_type = 'AUTO'
        self._picture = video.Pictures(self._container, short_side, limits)
        rate = self._stream.average_rate or self._stream.guessed_rate
        self._clock = _Clock(float(rate or 0) or video.DEFAULT_FPS)
        self._lost = []  # When something damaged was left out.
        duration = self._container.duration
        self.duration = duration / av.time_base if duration else None

    def __enter__(self) -> 'FrameStream':
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file; the descriptor of a pipe stays open."""
        self._container.close()

    def __iter__(self) -> Iterator[Frame]:
        """The frames that are whole.

        Raises:
            BadVideo: there is none, or one is larger than the limits.
        """
        number = 0
        for frame in self._decoded():
            if frame.is_corrupt:
                self._lost.append(self._clock.now)
                continue
            if not number and self._piped:
                self._lost.clear()  # Whoever listens in on a broadcast comes in the middle of a picture.
            seconds = self._clock.tick(frame)
            image = self._picture(frame)
            jpeg = video.encode_jpeg(image, self._quality)
            yield Frame(number, seconds, jpeg, *image.shape[:2])
            number += 1
        if self._stopped():
            return
        if not number:
            problem = self.problem or self._damage() or 'no frames: the video stream is empty'
            raise BadVideo(problem + _PIPE_ADVICE * self._piped)
        self.problem = self.problem or self._damage() or self._truncation()

    def _decoded(self) -> Iterator[av.VideoFrame]:
        """What the decoder makes of the packets; those that it refuses are noted and left out."""
        try:
            for packet in self._container.demux(self._stream):
                if self._stopped():
                    return
                frames = []
                try:
                    if packet.is_corrupt:
                        self._lost.append(self._clock.now)
                    else:
                        frames = packet.decode()
                except av.FFmpegError:
                    self._lost.append(self._clock.now)
                yield from frames
        except (av.FFmpegError, ValueError, OSError) as error:
            self.problem = f'garbled after {self._clock.now:.2f} s: {video.reason(error)}'

    def _damage(self) -> str:
        if not self._lost:
            return ''
        where = f'the first after {self._lost[0]:.2f} s'
        return f'garbled: {len(self._lost)} damaged frames or packets were left out, {where}'

    def _truncation(self) -> str:
        clock = self._clock
        before = clock.origin - video.first_second(self._container, clock.origin)
        seconds = before + clock.now + max(clock.shown, 1 / clock.rate)
        try:
            video.check_length(self._container, self._stream, seconds, clock.rate)
        except BadVideo as error:
            return str(error)
        return ''


class _Clock:
    """Seconds since the first frame, always growing.

    Attributes:
        rate: frames per second that a frame without a time of its own follows the one before by.
        now: the last frame's time.
        shown: how long that frame lasts, as it says itself; 0 where it does not.
        origin: the first frame's timestamp, in seconds.
    """

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self.now, self.shown, self.origin = 0.0, 0.0, 0.0
        self._ticking = False

    def tick(self, frame: av.VideoFrame) -> float:
        timed = frame.pts is not None and frame.time_base
        at = float(frame.pts * frame.time_base) if timed else 0.0
        self.shown = float((frame.duration or 0) * frame.time_base) if timed else 0.0
        if self._ticking:
            elapsed = at - self.origin
            self.now = elapsed if elapsed > self.now else self.now + 1 / self.rate
        else:
            self.origin, self._ticking = at, True
        return self.now


class _Pipe:
    """A pipe as FFmpeg reads it: it cannot seek, gets what is there, and sees an end once stopped."""

    def __init__(self, descriptor: int, stopped: Callable[[], bool]) -> None:
        self._descriptor, self._stopped = descriptor, stopped
        self.began = False

    def read(self, size: int) -> bytes:
        # Exceptions, KeyboardInterrupt among them, would be lost on the way through FFmpeg.
        while not self._stopped():
            if select.select([self._descriptor], [], [], _POLL_SECONDS)[0]:
                data = os.read(self._descriptor, size)
                self.began |= bool(data)
                return data
        return b''


def _open_pipe(
    descriptor: int, raw: RawFormat | None, stopped: Callable[[], bool]
) -> av.container.InputContainer:
    pipe = _Pipe(descriptor, stopped)
    how = {'options': video.safe_options()}
    if raw:
        how['format'] = 'rawvideo'
        how['options'] |= {
            'pixel_format': 'rgb24',
            'video_size': f'{raw.width}x{raw.height}',
            'framerate': str(raw.fps),
        }
    try:
        return av.open(pipe, **how)
    except (av.FFmpegError, ValueError, OSError) as error:
        if not pipe.began:
            raise BadVideo('nothing came through the pipe') from error
        raise BadVideo(f'not a video: {video.reason(error)}{_PIPE_ADVICE}') from error
