"""Say what happens when in a long video, or in what a camera sends:

    python -m vjax.watch --workdir=runs/digits long.mp4 --segments=found.csv --timeline=found.png
    ffmpeg -i /dev/video0 -f mpegts - | python -m vjax.watch --workdir=runs/digits -

A window as long as the model's clips slides over the video; what it shows is what vjax.predict says of a
video that was cut there. A file's windows are merged to segments (label, start, end, score), which are
printed in the end. Of a pipe ("-", stdin) each window is printed as soon as its last frame has come; it
may have any format that FFmpeg reads without seeking, or raw frames (--raw). Memory does not grow with
the length. Ctrl-C ends the stream, and what was found until then is written.
"""

import collections
import contextlib
import json
import math
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import tqdm
from jaxtyping import Float

from vjax import cli
from vjax.data import pipeline, records, sections
from vjax.data.streaming import FrameStream, RawFormat
from vjax.data.video import BadVideo
from vjax.data.windows import windows
from vjax.errors import UserError
from vjax.predict import answer, in_words, load_classifier, logits_by, scores_of, storage
from vjax.training import runs
from vjax.training.interruption import Interruption
from vjax.watching import segments, timeline
from vjax.watching.segments import Segment, Segmenter
from vjax.watching.timeline import clock

BATCH_SIZE = 16  # Windows of a file.
STDIN = 0


class Watched(NamedTuple):
    """What was found in a video.

    Attributes:
        segments: by their starts; see `vjax.watching.segments`.
        seconds: how long the video was, as far as it was seen.
        num_windows: how many there were.
        classes: each head's class names.
        problem: what was wrong with the video, in words; '' if nothing.
    """

    segments: list[Segment]
    seconds: float
    num_windows: int
    classes: dict[str, tuple[str, ...]]
    problem: str


class Scored(NamedTuple):
    """A window and what the model makes of it; start and end are seconds since the first frame."""

    start: float
    end: float
    logits: Float[np.ndarray, 'classes']


def watch(
    workdir: str | Path,
    source: str | os.PathLike | int,
    *,
    step: float | None = None,
    min_seconds: float | None = None,
    min_score: float | None = None,
    top: int = 5,
    batch_size: int | None = None,
    raw: RawFormat | None = None,
    checkpoint: str = 'latest',
    overrides: Sequence[str] = (),
    stopped: Callable[[], bool] = lambda: False,
    on_window: Callable[[dict[str, Any]], None] = lambda _: None,
) -> Watched:
    """Slides a run's model over a video of any length, in constant memory.

    Args:
        workdir: of the run.
        source: a video file, or the descriptor of a pipe (0 is stdin).
        step: seconds from window to window; None is half a clip.
        min_seconds: of the shortest run of one class that begins a segment; None is a clip's length.
        min_score: probability that a class needs; None is 0, or 0.5 of any number of labels.
        top: number of classes to name of each window.
        batch_size: windows that are computed together; None is 1 of a pipe, whose windows are due at
            once, and `BATCH_SIZE` of a file.
        raw: what the frames of a pipe are that has no container.
        checkpoint: 'latest', 'best' or a step.
        overrides: '--config.KEY=VALUE' for the run's config; parameters must keep their shapes.
        stopped: asked often; once it is true, the video ends there.
        on_window: is given each window in order, `{'start': ..., 'end': ..., 'top': [...]}` with seconds
            and what `vjax.predict.predict` yields of a file.

    Raises:
        BadVideo: there is no video.
        UserError: there is no such run or checkpoint.
    """
    run, classification = load_classifier(workdir, checkpoint, overrides)
    segmenter = Segmenter(run.classes, classification, min_seconds=min_seconds, min_score=min_score)
    seconds, num_windows = 0.0, 0
    with FrameStream(source, **storage(run), raw=raw, stopped=stopped) as frames:
        batch_size = batch_size or (1 if isinstance(source, int) else BATCH_SIZE)
        for window in _scored(run, frames, step, batch_size):
            segmenter.add(*window)
            on_window(
                {'start': round(window.start, 3), 'end': round(window.end, 3)}
                | answer(run.classes, scores_of(classification, window.logits), top)
            )
            seconds, num_windows = window.end, num_windows + 1
    return Watched(segmenter.finish(), seconds, num_windows, run.classes, frames.problem)


def _scored(
    run: runs.Run, frames: FrameStream, step: float | None, batch_size: int
) -> Iterator[Scored]:
    """The windows with their logits; while a batch is computed the next one is read."""
    clip = run.config.clip.to_dict()
    logits_of = logits_by(run)
    ahead = int(batch_size > 1)  # A lone window is wanted at once.
    computed = collections.deque()
    for batch in _batches(windows(frames, sections.Clip(**clip), step), batch_size):
        clips = [pipeline.decode_views(window.film, clip=clip, views=(1, 1)) for window in batch]
        # The last batch is filled up, for another size would be compiled anew.
        clips = np.stack(clips + clips[-1:] * (batch_size - len(clips)))
        times = [(window.start, window.end) for window in batch]
        computed.append((times, logits_of(clips)))
        if len(computed) > ahead:
            yield from _fetch(*computed.popleft())
    for batch in computed:
        yield from _fetch(*batch)


def _fetch(times: Sequence[tuple[float, float]], logits: jax.Array) -> Iterator[Scored]:
    for time, scores in zip(times, jax.device_get(logits), strict=False):
        yield Scored(*time, scores)


def _batches(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    batch = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def window_line(window: dict[str, Any]) -> str:
    """A window as a line for people: when it ends, and its likeliest classes."""
    return f'{clock(window["end"], True)}  {in_words(window["top"])}'


def segment_line(segment: dict[str, Any]) -> str:
    """A segment as a line for people."""
    head = f'{segment["head"]}: ' if 'head' in segment else ''
    times = f'{clock(segment["start"], True)} - {clock(segment["end"], True)}'
    return f'{times}  {head}{segment["label"]} {segment["score"]:.1%}'


def main(argv: list[str]) -> int:
    """Parses the command line, prints and writes; returns 2 where the video was damaged."""
    parser = cli.parser(__doc__)
    cli.add_run(parser)
    parser.add_argument('video', metavar='VIDEO', help="a file, or '-' for a pipe (stdin)")
    parser.add_argument(
        '--step', type=float, metavar='SECONDS', help='from window to window (half a clip)'
    )
    parser.add_argument(
        '--segments', type=Path, metavar='FILE', help='write them, as .csv or .json'
    )
    parser.add_argument('--timeline', type=Path, metavar='FILE.png', help='draw them')
    parser.add_argument(
        '--min_seconds',
        type=float,
        metavar='SECONDS',
        help="shortest time of one class that is a segment's; what is shorter goes to its neighbours "
        "(a clip's length)",
    )
    parser.add_argument(
        '--min_score',
        type=float,
        metavar='P',
        help='least probability of a class; where none has it there is no segment (0, or 0.5 where a '
        'video has any number of labels)',
    )
    parser.add_argument(
        '--print',
        choices=('segments', 'windows'),
        help='what goes to stdout (segments of a file, windows of a pipe)',
    )
    parser.add_argument('--json', action='store_true', help='print one JSON object a line')
    parser.add_argument(
        '--top',
        type=int,
        default=5,
        help='classes, or combinations of them, of a window (%(default)s)',
    )
    parser.add_argument(
        '--raw',
        metavar='WIDTHxHEIGHT@FPS',
        help='the pipe sends bare RGB frames of 3 bytes a pixel',
    )
    parser.add_argument(
        '--batch_size', type=int, help=f'windows at a time ({BATCH_SIZE} of a file, 1 of a pipe)'
    )
    args, overrides = cli.parse_args(parser, argv)
    _check(args)
    piped = args.video == '-'
    shown = args.print or ('windows' if piped else 'segments')

    def show(entry, line):
        print(json.dumps(entry, ensure_ascii=False) if args.json else line(entry), flush=True)

    unread = []  # Why nobody reads what is printed, if that is so.
    with Interruption() as interruption, _progress(piped or shown == 'windows') as advance:

        def on_window(window):
            advance(window['end'])
            if shown == 'windows' and not unread:
                try:
                    show(window, window_line)
                except OSError as error:
                    unread.append(error)

        try:
            watched = watch(
                args.workdir,
                STDIN if piped else args.video,
                step=args.step,
                min_seconds=args.min_seconds,
                min_score=args.min_score,
                top=args.top,
                batch_size=args.batch_size,
                raw=RawFormat.parse(args.raw) if args.raw else None,
                checkpoint=args.checkpoint,
                overrides=overrides,
                stopped=lambda: interruption.signal is not None or bool(unread),
                on_window=on_window,
            )
        except BadVideo as error:
            if interruption.signal:  # Nobody waited for the first frame.
                raise KeyboardInterrupt from None
            raise UserError(f'{args.video}: {error}') from error
    _write(args, watched)  # First: nobody may read what is printed.
    for error in unread:
        raise error
    if shown == 'segments':
        for segment in segments.as_dicts(watched.segments, len(watched.classes) > 1):
            show(segment, segment_line)
    if interruption.signal:
        print(f'interrupted after {clock(watched.seconds, True)} of video', file=sys.stderr)
        return 128 + interruption.signal
    if watched.problem:
        until = f'what was found in {clock(watched.seconds, True)} of it counts'
        print(f'error: {args.video}: {watched.problem}; {until}', file=sys.stderr)
        return 2
    return 0


def _check(args: Any) -> None:
    """Raises UserError for what should not be learned at the end of an hour."""
    if args.step is not None and not 0 < args.step < math.inf:
        raise UserError(f'--step={args.step:g} should be more than 0.')
    for option, least in (('min_seconds', 0), ('top', 1), ('batch_size', 1)):
        value = getattr(args, option)
        if value is not None and not least <= value < math.inf:
            raise UserError(f'--{option}={value:g} should be at least {least}.')
    if args.min_score is not None and not 0 <= args.min_score <= 1:
        raise UserError(f'--min_score={args.min_score:g} is a probability, from 0 to 1.')
    for option, kinds in (('segments', ('.csv', '.json')), ('timeline', ('.png',))):
        file = getattr(args, option)
        if file is not None and file.suffix.lower() not in kinds:
            raise UserError(f"--{option}='{file}': its name should end in {' or '.join(kinds)}.")
    cli.check_files(segments=args.segments, timeline=args.timeline)
    if args.video == '-' and os.isatty(STDIN):
        raise UserError(
            "'-' reads a pipe, and there is none: ffmpeg ... -f mpegts - | python -m vjax.watch ... -"
        )
    if args.raw and args.video != '-':
        raise UserError("--raw is for a pipe: give '-' in place of the file.")


@contextlib.contextmanager
def _progress(hidden: bool) -> Iterator[Callable[[float], None]]:
    """How much of the video is done, on a terminal; yields what is told so, in seconds."""
    bar = tqdm.tqdm(desc='watching', unit=' s of video', disable=True if hidden else None)
    with bar:
        yield lambda seconds: bar.update(round(seconds) - bar.n)


def _write(args: Any, watched: Watched) -> None:
    several_heads = len(watched.classes) > 1
    if args.segments:
        about = {'video': args.video, 'workdir': args.workdir, 'seconds': round(watched.seconds, 3)}
        text = (
            segments.to_json(watched.segments, several_heads, about)
            if args.segments.suffix.lower() == '.json'
            else segments.to_csv(watched.segments, several_heads)
        )
        records.write_atomically(args.segments, text)
    if args.timeline:
        picture = timeline.to_png(watched.segments, watched.seconds, watched.classes)
        records.write_atomically(args.timeline, picture)


if __name__ == '__main__':
    cli.run(main)
