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
as it is for any number of workers. A complete split is not done again. Besides --workers on one machine
there are two ways to have more of them:

    --num_tasks=8 --task=$SLURM_ARRAY_TASK_ID    job arrays, on a disk that all machines share
    --beam='--runner=DataflowRunner --project=P --region=R --temp_location=gs://B/tmp
            --sdk_container_image=IMAGE_WITH_VJAX'    Apache Beam, with its pipeline options

Tasks may run at once or one after another, in any order, and be killed and started again; whichever finds
all shards written finishes the split. Beam needs pip install 'vjax[beam]'. --runner=FnApiRunner runs it in
this process; DirectRunner first looks for a program, Prism, that Beam downloads.

--videos, --annotations and --out may be in a bucket (gs://, s3://), which needs pip install
'vjax[cloud]'. Nothing then keeps two runs of one split apart, which would do its work twice, nor two that
finish different splits of one OUT in the same moment, of which one could be lost. To train from it, copy
OUT to a disk or mount the bucket.

A hostile file costs only itself: what has more than --max_frames or --max_pixels, or takes a worker more
than --max_seconds or --max_gib, is rejected.
"""

import dataclasses
import logging
import math
import os
import re
import textwrap
import time
from collections.abc import Mapping, Sequence

import tqdm

from vjax import cli
from vjax.data import annotations as formats
from vjax.data import records, short_gops, stores, video
from vjax.data.preparation import coverage, locks, processes, shards, storage
from vjax.data.preparation import plan as plans
from vjax.data.preparation.estimate import Estimate, estimate
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
    crf: int = short_gops.CRF,
    workers: int | None = None,
    num_shards: int | None = None,
    num_tasks: int = 1,
    task: int = 0,
    beam: str | None = None,
    classes: str | os.PathLike | Mapping[str, str | os.PathLike] | None = None,
    min_coverage: float = 0.5,
    max_frames: int = video.Limits.max_frames,
    max_pixels: int = video.Limits.max_pixels,
    max_seconds: float = processes.Budget.seconds,
    max_gib: float = processes.Budget.gib,
) -> records.Dataset | None:
    """Prepares one split, or what is left of it.

    Runs worker processes by spawning: a script calls this under `if __name__ == '__main__':`.

    Args:
        videos: folder that the paths in the annotations start from; on a disk or in a bucket, as the
            two that follow.
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
        num_tasks: processes or machines that share the work, each of which is told which `task`,
            0..num_tasks - 1, it has: shards are dealt to them in turn. No effect on the result.
        beam: pipeline options of Apache Beam, which then has the workers.
        classes: file with a class name per line, in the order of their ids, or such a file for each
            head; None for those of the data set, of the annotations, or the sorted labels.
        min_coverage: part of the annotated videos that must be there.
        max_frames, max_pixels: a video with more, or with larger frames before resizing, is rejected.
        max_seconds: a video that takes a worker longer is rejected.
        max_gib: a video that takes more of a worker's memory is rejected.

    Returns:
        The data set with the split; None where shards of other tasks are missing.

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
    ranges = {
        'short_side': (short_side, 1, 65_000),
        'jpeg_quality': (jpeg_quality, 1, 100),
        'crf': (crf, 0, 51),
        'workers': (workers, 1, 1024),
        'num_shards': (num_shards, 1, 100_000),
        'num_tasks': (num_tasks, 1, 100_000),
        'task': (task, 0, num_tasks - 1),
        'min_coverage': (min_coverage, 0, 1),
        'max_frames': (max_frames, 1, 2**31 - 1),
        'max_pixels': (max_pixels, 1, 2**31 - 1),
    }
    for name, (value, least, most) in ranges.items():
        if value is not None and not least <= value <= most:
            raise UserError(f'--{name}={value} is not between {least} and {most}.')
    for name, value in {'max_seconds': max_seconds, 'max_gib': max_gib}.items():
        if not value > 0:
            raise UserError(f'--{name}={value} is not positive.')
    if beam is not None and (workers is not None or num_tasks > 1):
        raise UserError('--beam has workers of its own: leave out --workers and --num_tasks.')
    # TensorFlow, which etils.epath would read annotations in buckets by, does not know s3://.
    os.environ.setdefault('EPATH_USE_TF', 'false')
    videos, out = storage.folder(videos), storage.folder(out)
    if beam is not None:
        from vjax.data.preparation import beam as beam_module

        beam_module.check(beam, [videos.path, out.path])
    if not videos.exists():
        raise UserError(f'--videos={videos.path}: there is no such folder.')

    # --- Plan the split, or go on with its plan ---
    annotated = formats.read(dataset, os.fspath(annotations), videos.path, split, fold=fold)
    missing = coverage.missing(videos, annotated)
    settings = {
        'frames': {'store': 'frames', 'short_side': short_side, 'jpeg_quality': jpeg_quality},
        'video': {'store': 'video', 'short_side': short_side, 'crf': crf},
    }
    limits = video.Limits(max_frames=max_frames, max_pixels=max_pixels)
    budget = processes.Budget(max_seconds, max_gib)
    wanted = None if classes is None else _read_wanted(classes, annotated.heads)
    name = os.fspath(annotations) or f'--dataset={dataset}'
    partial = out / plans.partial_name(split)
    with locks.exclusive(out):
        known = plans.settle_classes(out, split, settings[store], wanted, annotated, name)
        plan = plans.Plan(
            settings[store],
            dataclasses.asdict(limits),
            records.plain_classes(known),
            annotated.multi_label,
            plans.digest(annotated),
            num_shards or plans.num_shards(len(annotated.items)),
        )
        prepared = _prepared(out, split)
        if prepared is not None:
            if prepared.splits[split].annotations_sha256 != plan.annotations_sha256:
                raise UserError(
                    f'{out.path} already has a split {split!r}, made from other annotations than '
                    f'{name}; give another --split or --out.'
                )
            partial.remove_all()
            if prepared.splits[split].num_rejected:
                log.info(
                    '%s has been prepared before, and nothing is done: for other limits, or files that '
                    'came or changed since, give another --out',
                    split,
                )
            return prepared
        if missing:
            _report_missing(out, split, annotated, missing, videos, min_coverage)
        else:
            coverage.clear(out, split)
        is_new = plans.begin(partial, plan)
        claimed = locks.claim(partial, task, num_tasks)

    # --- Write the shards that are not there yet ---
    tasks = plans.tasks(out, partial, split, plan, annotated, videos)
    with claimed:
        if is_new:
            found = estimate(videos.path, annotated, missing, settings, limits, budget)
            _print_estimate(found, split)
        if beam is None:
            _write(tasks[task::num_tasks], split, workers, budget)
        else:
            beam_module.write_shards(shards.unwritten(tasks), beam, budget)

    # --- Put them together ---
    with locks.exclusive(out):
        journals = shards.read_journals(tasks)
        prepared = _prepared(out, split)  # Another task may have been faster.
        if prepared is not None:
            return prepared
        lacking = [i for i, journal in enumerate(journals) if journal is None]
        if not lacking:
            return plans.finish(out, partial, split, plan, journals)
    whose = ', '.join(str(number) for number in sorted({i % num_tasks for i in lacking}))
    log.info(
        '%s: task %d of %d is done; %d of %d shards are missing yet, of --task=%s',
        *(split, task, num_tasks, len(lacking), len(tasks), whose),
    )
    return None


def _prepared(out: storage.Folder, split: str) -> records.Dataset | None:
    """The data set, if it has the split."""
    dataset = plans.read_description(out)
    if dataset is None or split not in dataset.splits:
        return None
    return dataset if storage.is_url(out.path) else records.open_dataset(out.path)


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


def _report_missing(
    out: storage.Folder,
    split: str,
    annotated: formats.Annotations,
    missing: list[str],
    videos: storage.Folder,
    min_coverage: float,
) -> None:
    words = coverage.summary(annotated, missing)
    gone = set(missing)
    present = sum(item.path not in gone for item in annotated.items) / len(annotated.items)
    if present < min_coverage:
        enough = math.floor(100 * present) / 100
        raise UserError(
            f'--videos={videos.path}: {words}. Is it the right folder? If so, --min_coverage={enough:g} '
            f'goes on without them (now {min_coverage:g}).'
        )
    coverage.write(out, split, annotated, missing)
    log.warning('%s: %s; see %s', split, words, (out / coverage.COVERAGE).path)


def _print_estimate(found: Estimate | None, split: str) -> None:
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
    tasks: Sequence[shards.Task], split: str, workers: int | None, budget: processes.Budget
) -> None:
    unwritten = shards.unwritten(tasks)
    total, left = (sum(len(task.items) for task in some) for some in (tasks, unwritten))
    with (
        shards.with_scratch(unwritten) as todo,
        tqdm.tqdm(
            total=total, initial=total - left, desc=split, unit=' videos', disable=None
        ) as bar,
    ):
        processes.write_shards(todo, workers, budget, bar)


def _describe(entry: formats.Format) -> str:
    lines = [f'{entry.title}{f" ({entry.homepage})" if entry.homepage else ""}']
    if entry.annotations:
        lines += textwrap.wrap(f'--annotations: {entry.annotations}', 96)
    if entry.homepage:
        lines += textwrap.wrap(f'Terms: {entry.licence}', 96)
    return textwrap.indent('\n'.join([entry.name, *(f'    {line}' for line in lines)]), '  ')


def main(argv: list[str]) -> None:
    """Parses the command line, prepares the split and prints a summary."""
    parser = cli.parser(__doc__)
    parser.epilog = '\n'.join(['values of --dataset:', *map(_describe, formats.FORMATS.values())])
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
        '--crf',
        type=int,
        default=short_gops.CRF,
        help='of --store=video, 0..51; default: %(default)s',
    )
    parser.add_argument('--workers', type=int, help='processes; default: one per CPU')
    parser.add_argument('--num_shards', type=int, help='record files; default: one per 64 videos')
    parser.add_argument(
        '--min_coverage',
        type=float,
        default=0.5,
        help='part of the annotated videos that must be there; default: %(default)s',
    )
    parser.add_argument('--num_tasks', type=int, default=1, help='of a job array')
    parser.add_argument('--task', type=int, default=0, help='which of them: 0, 1, ...')
    parser.add_argument('--beam', metavar='OPTIONS', help='run on Apache Beam, with these options')
    parser.add_argument(
        '--max_frames', type=int, default=video.Limits.max_frames, help='default: %(default)s'
    )
    parser.add_argument(
        '--max_pixels',
        type=int,
        default=video.Limits.max_pixels,
        help='of a frame, before resizing; default: %(default)s',
    )
    parser.add_argument(
        '--max_seconds',
        type=float,
        default=processes.Budget.seconds,
        help='that a video may take a worker; default: %(default)s',
    )
    parser.add_argument(
        '--max_gib',
        type=float,
        default=processes.Budget.gib,
        help="of a worker's memory that a video may take; default: %(default)s",
    )
    cli.add_classes(parser)
    args, _ = cli.parse_args(parser, argv)

    start = time.monotonic()
    dataset = prepare(**vars(args) | {'classes': cli.class_files(args.classes)})
    if dataset is None:
        return
    seconds = time.monotonic() - start
    split = dataset.splits[args.split]
    print(
        f'{args.split}: {split.num_videos:,} videos, {split.num_frames:,} frames, '
        f'{records.count_classes(dataset.classes)}, {sum(split.shard_bytes) / 1e6:,.1f} MB in '
        f'{len(split.shards)} shards, complete in {args.out} ({seconds:.1f} s)'
    )
    if split.num_rejected:
        print(
            f'{split.num_rejected:,} files rejected: see {os.path.join(args.out, plans.REJECTED)}'
        )


if __name__ == '__main__':
    cli.run(main)
