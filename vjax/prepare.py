"""Turn labelled video files into a prepared data set, once, before training.

    python -m vjax.prepare --videos=my_videos --annotations=train.csv --out=data/mine --split=train
    python -m vjax.prepare --dataset=kinetics400 --videos=k400/train --annotations=train.csv \\
        --out=data/kinetics400 --split=train

--dataset names the format of the annotations; --help lists them. Without it they are a CSV in UTF-8 with
two columns, path (relative to --videos, or absolute) and label; see vjax/data/annotations/ for what else
it may have: several labels, one for each head of a model, any number of labels, segments of long videos.
JPEG and PNG images count as videos of one frame, so that sets such as ImageNet can be prepared for models
of `clip.num_frames=1`.

Every video is decoded once and its short side made smaller where it is larger than --short_side (never
enlarged). It is stored as JPEG frames (--store=frames: fast to read), or encoded anew (--store=video: much
smaller, and slower to read); before it starts, an estimate of both is printed. See vjax/data/records.py
for what is written, and vjax/data/video.py for what is refused. A file that is no whole video is named
with the reason in OUT/rejected.csv and never stops the run. Annotated videos that are missing are counted
for each class in OUT/coverage.csv; --min_coverage says how many must be there.

Splits that belong together go to one OUT, one command each; they share settings and classes. The class
ids are those of the data set's own list where it has one, and else the places in the sorted list of the
first split's labels, unless --classes=FILE gives a list, or one for each head: --classes noun=FILE
--classes verb=FILE.

Interrupted at any moment, the same command goes on where it was and the result is the same to the byte,
as it is for any number of workers. A complete split is not done again.
"""

import contextlib
import fcntl
import logging
import os
import pathlib
import re
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence

import tqdm

from vjax import cli
from vjax.data import annotations as formats
from vjax.data import records, stores, video
from vjax.data.preparation import coverage, processes, shards
from vjax.data.preparation import plan as plans
from vjax.data.preparation.estimate import estimate
from vjax.errors import UserError

log = logging.getLogger('vjax.prepare')  # Not __name__, which is '__main__' under -m.


def prepare(
    videos: str | os.PathLike,
    annotations: str | os.PathLike,
    out: str | os.PathLike,
    split: str,
    *,
    dataset: str = 'csv',
    fold: int | None = None,
    store: str = 'frames',
    short_side: int = 256,
    jpeg_quality: int = video.JPEG_QUALITY,
    crf: int = video.CRF,
    workers: int | None = None,
    num_shards: int | None = None,
    classes: str | os.PathLike | Mapping[str, str | os.PathLike] | None = None,
    min_coverage: float = 0.5,
    max_seconds: float = 600.0,
) -> records.Dataset:
    """Prepares one split, or what is left of it, and returns the data set with it.

    Runs worker processes by spawning: a script calls this under `if __name__ == '__main__':`.

    Args:
        videos: folder that the paths in the annotations start from.
        annotations: the file or folder that says which videos have which labels.
        out: the data set's folder, which may have other splits already.
        split: name of the split.
        dataset: format of the annotations, a name of `vjax.data.annotations.FORMATS`.
        fold: which of the official divisions into training and test set, where there are several.
        store: 'frames' or 'video'.
        short_side: pixels; frames whose short side is larger are made smaller.
        jpeg_quality: 1..100, of frames.
        crf: 0..51, x264's constant rate factor of videos.
        workers: processes; None for one per CPU that this process may use. No effect on the result.
        num_shards: record files; None for one per 64 videos, at least 4 and at most 1,024.
        classes: file with a class name per line, in the order of their ids, or such a file for each
            head; None for those of the data set, of the annotations, or the sorted labels.
        min_coverage: part of the annotated videos that must be there.
        max_seconds: a video that takes longer to decode is rejected.

    Raises:
        UserError: an argument or the annotations are wrong, `out` was made with others, too many
            videos are missing, or every video was rejected.
        OSError: with errno ENOSPC where the disk is full; what was finished is kept.
    """
    # --- Check what is asked for ---
    if not re.fullmatch(r'[A-Za-z0-9_][A-Za-z0-9_.-]*', split):
        raise UserError(f'--split={split!r}: use letters, digits, _, - and dots only.')
    if store not in stores.STORES:
        raise UserError(f'--store={store} is not one of {", ".join(stores.STORES)}.')
    limits = {
        'short_side': (short_side, 1, 65_000),
        'jpeg_quality': (jpeg_quality, 1, 100),
        'crf': (crf, 0, 51),
        'workers': (workers, 1, 1024),
        'num_shards': (num_shards, 1, 100_000),
        'min_coverage': (min_coverage, 0, 1),
    }
    for name, (value, least, most) in limits.items():
        if value is not None and not least <= value <= most:
            raise UserError(f'--{name}={value} is not between {least} and {most}.')
    if not max_seconds > 0:
        raise UserError(f'--max_seconds={max_seconds} is not positive.')
    videos, out = pathlib.Path(videos), pathlib.Path(out)
    if not videos.is_dir():
        raise UserError(f'--videos={videos}: there is no such folder.')
    annotated = formats.read(dataset, os.fspath(annotations), os.fspath(videos), split, fold=fold)
    settings = {'store': store, 'short_side': short_side}
    settings |= {'jpeg_quality': jpeg_quality} if store == 'frames' else {'crf': crf}
    wanted = None if classes is None else _read_wanted(classes, annotated.heads)
    name = os.fspath(annotations) or f'--dataset={dataset}'

    with _locked(out):
        # --- Plan the split, or go on with its plan ---
        known = plans.settle_classes(out, split, settings, wanted, annotated, name)
        plan = plans.Plan(
            settings,
            records.plain_classes(known),
            annotated.multi_label,
            plans.digest(annotated),
            num_shards or plans.num_shards(len(annotated.items)),
        )
        partial = out / f'.partial-{split}'
        prepared = records.read_description(out)
        if prepared is not None and split in prepared.splits:
            if prepared.splits[split].annotations_sha256 != plan.annotations_sha256:
                raise UserError(
                    f'{out} already has a split {split!r}, made from other annotations than {name}; '
                    f'give another --split or --out.'
                )
            shutil.rmtree(partial, ignore_errors=True)
            return records.open_dataset(out)
        missing = coverage.missing(videos, annotated)
        if missing:
            _report_missing(out, split, annotated, missing, videos, min_coverage)
        if not partial.exists():
            _print_estimate(videos, annotated, missing, short_side, split)
        plans.begin(partial, plan)

        # --- Write the shards that are not there yet ---
        tasks = plans.tasks(out, partial, split, plan, annotated, videos)
        _write(tasks, len(annotated.items), split, workers, max_seconds)

        # --- Put them together ---
        journals = [shards.read_journal(task) for task in tasks]
        return plans.finish(out, partial, split, plan, journals)


def _read_wanted(
    classes: str | os.PathLike | Mapping[str, str | os.PathLike], heads: Sequence[str]
) -> dict[str, list[str]]:
    """The class lists that were asked for: one for each head."""
    example = ' '.join(f'--classes {head}=FILE' for head in heads)
    if not isinstance(classes, Mapping):
        if len(heads) > 1:
            raise UserError(f'--classes={classes} does not say whose classes: write {example}.')
        classes = {heads[0]: classes}
    for head in classes:
        if head not in heads:
            raise UserError(
                f'--classes {head}={classes[head]}: the annotations have no column {head!r}; write '
                f'{example}.'
            )
    for head in heads:
        if head not in classes:
            raise UserError(f'--classes has no file for {head!r}; write {example}.')
    return {head: records.read_classes(classes[head]) for head in heads}


@contextlib.contextmanager
def _locked(out: pathlib.Path) -> Iterator[None]:
    """Makes the folder, and keeps a second run out of it; the lock goes with the process."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise UserError(f'--out={out} is not a folder.') from error
    descriptor = os.open(out, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f'another run of vjax.prepare is writing to {out}.') from error
        except OSError:
            pass  # A file system without locks.
        yield
    finally:
        os.close(descriptor)


def _report_missing(
    out: pathlib.Path,
    split: str,
    annotated: formats.Annotations,
    missing: list[str],
    videos: pathlib.Path,
    min_coverage: float,
) -> None:
    words = coverage.summary(annotated, missing)
    gone = set(missing)
    present = sum(item.path not in gone for item in annotated.items) / len(annotated.items)
    if present < min_coverage:
        raise UserError(
            f'--videos={videos}: {words}. Is it the right folder? If so, --min_coverage={present:.2g} '
            f'goes on without them (now {min_coverage:g}).'
        )
    coverage.write(out, split, annotated, missing)
    log.warning('%s: %s; see %s', split, words, out / coverage.COVERAGE)


def _print_estimate(
    videos: pathlib.Path,
    annotated: formats.Annotations,
    missing: list[str],
    short_side: int,
    split: str,
) -> None:
    found = estimate(videos, annotated, missing, short_side)
    if found is None:
        log.info('%s: no estimate of its size could be made', split)
        return
    parts = [
        f'--store={store} about {found.num_bytes[store] / 1e6:,.1f} MB and '
        f'{found.cpu_seconds[store] / 60:,.1f} CPU minutes to write'
        for store in stores.STORES
    ]
    log.info('%s: %s (from a few videos)', split, ', '.join(parts))


def _write(
    tasks: list[shards.Task],
    num_videos: int,
    split: str,
    num_workers: int | None,
    max_seconds: float,
) -> None:
    for file in tasks[0].journal.parent.glob('*.tmp'):
        file.unlink(missing_ok=True)
    unwritten = [task for task in tasks if shards.read_journal(task) is None]
    left = sum(len(task.items) for task in unwritten)
    with tqdm.tqdm(
        total=num_videos, initial=num_videos - left, desc=split, unit=' videos', disable=None
    ) as bar:
        try:
            processes.write_shards(unwritten, num_workers, max_seconds, bar)
        finally:
            for file in tasks[0].journal.parent.glob('*.tmp'):
                file.unlink(missing_ok=True)


def main(argv: list[str]) -> None:
    """Parses the command line, prepares the split and prints a summary."""
    parser = cli.parser(__doc__)
    parser.add_argument('--videos', required=True, metavar='DIR', help='folder of the video files')
    parser.add_argument(
        '--annotations',
        default='',
        metavar='PATH',
        help='CSV of path,label[,label...], or what the --dataset has',
    )
    parser.add_argument('--out', required=True, metavar='DIR', help="the data set's folder")
    parser.add_argument('--split', required=True, help='name of the split: train, validation, ...')
    parser.add_argument(
        '--dataset', default='csv', metavar='NAME', help='format of the annotations (%(default)s)'
    )
    parser.add_argument('--fold', type=int, help='of the official folds, where there are several')
    parser.add_argument(
        '--store', default='frames', choices=stores.STORES, help='default: %(default)s'
    )
    parser.add_argument(
        '--short_side', type=int, default=256, metavar='PIXELS', help='default: %(default)s'
    )
    parser.add_argument(
        '--jpeg_quality', type=int, default=video.JPEG_QUALITY, help='1..100; default: %(default)s'
    )
    parser.add_argument(
        '--crf', type=int, default=video.CRF, help='of --store=video, 0..51; default: %(default)s'
    )
    parser.add_argument('--workers', type=int, help='processes; default: one per CPU')
    parser.add_argument('--num_shards', type=int, help='record files; default: one per 64 videos')
    parser.add_argument(
        '--min_coverage',
        type=float,
        default=0.5,
        help='part of the annotated videos that must be there; default: %(default)s',
    )
    parser.add_argument(
        '--max_seconds',
        type=float,
        default=600.0,
        help='a video that takes longer is rejected; default: %(default)s',
    )
    cli.add_classes(parser)
    args, _ = cli.parse_args(parser, argv)

    start = time.monotonic()
    dataset = prepare(**vars(args) | {'classes': cli.class_files(args.classes)})
    seconds = time.monotonic() - start
    split = dataset.splits[args.split]
    print(
        f'{args.split}: {split.num_videos:,} videos, {split.num_frames:,} frames, '
        f'{records.count_classes(dataset.classes)}, {sum(split.shard_bytes) / 1e6:,.1f} MB in '
        f'{len(split.shards)} shards, complete in {args.out} ({seconds:.1f} s)'
    )
    if split.num_rejected:
        print(
            f'{split.num_rejected:,} files rejected: see {os.path.join(args.out, "rejected.csv")}'
        )


if __name__ == '__main__':
    cli.run(main)
