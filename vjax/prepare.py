"""Turn labelled video files into a prepared data set, once, before training.

    python -m vjax.prepare --videos=my_videos --labels=train.csv --out=data/mine --split=train

The labels file is a CSV in UTF-8 with two columns, path (relative to --videos, or absolute) and label;
a first line `path,label` is optional, and names with commas stand in double quotes. A video may have
several labels, one for each head of a model: then the first line names them, as in `path,noun,verb`,
and a prediction is right where all of them are. JPEG and PNG images count as videos of one frame, so
that sets such as ImageNet can be prepared for models of `clip.num_frames=1`. Every video is
decoded once, its short side made smaller where it is larger than --short_side (never enlarged), and
stored as JPEG frames in sharded record files; see vjax/data/records.py for what is written, and
vjax/data/video.py for what is refused. A file that is no whole video is named with the reason in
OUT/rejected.csv and never stops the run.

Splits that belong together go to one OUT, one command each; they share settings and classes. The class
ids are the places in the sorted list of the first split's labels, unless --classes=FILE gives a list,
or one for each head: --classes noun=FILE --classes verb=FILE.

Interrupted at any moment, the same command goes on where it was and the result is the same to the byte,
as it is for any number of workers. A complete split is not done again.
"""

import collections
import contextlib
import csv
import dataclasses
import difflib
import errno
import fcntl
import hashlib
import io
import json
import multiprocessing
import multiprocessing.connection
import os
import pathlib
import re
import shutil
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import tqdm
from array_record.python import array_record_module

from vjax import cli
from vjax.data import records, video
from vjax.errors import UserError

_VIDEOS_PER_SHARD = 64
_MAX_SHARDS = 1024
_MAX_RECORD_BYTES = 2**31 - 1  # Protobuf's limit.
_ATTEMPTS = 2  # A worker that dies twice at one file dies of the file.


@dataclasses.dataclass(frozen=True)
class _Plan:
    """What an output is made from; an interrupted run goes on only with an equal one."""

    settings: dict[str, Any]
    classes: list[str] | dict[str, list[str]]  # As `records.plain_classes` writes them.
    labels_sha256: str
    num_shards: int


@dataclasses.dataclass(frozen=True)
class _Task:
    """One shard: its file, and the number, name, path and class ids of each of its videos.

    `doomed` holds the reasons of those that have killed a worker.
    """

    shard: int
    target: pathlib.Path
    journal: pathlib.Path
    videos: list[tuple[int, str, str, list[int]]]
    doomed: dict[int, str]


def prepare(
    videos: str | os.PathLike,
    labels: str | os.PathLike,
    out: str | os.PathLike,
    split: str,
    *,
    short_side: int = 256,
    jpeg_quality: int = video.JPEG_QUALITY,
    workers: int | None = None,
    num_shards: int | None = None,
    classes: str | os.PathLike | Mapping[str, str | os.PathLike] | None = None,
) -> records.Dataset:
    """Prepares one split, or what is left of it, and returns the data set with it.

    Runs worker processes by spawning: a script calls this under `if __name__ == '__main__':`.

    Args:
        videos: folder that the paths in `labels` start from.
        labels: CSV file of path and label, or labels.
        out: the data set's folder, which may have other splits already.
        split: name of the split.
        short_side: pixels; frames whose short side is larger are made smaller.
        jpeg_quality: 1..100.
        workers: processes; None for one per CPU that this process may use. No effect on the result.
        num_shards: record files; None for one per 64 videos, at least 4 and at most 1,024.
        classes: file with a class name per line, in the order of their ids, or such a file for each
            head; None for those of the data set, or the sorted labels if this is its first split.

    Raises:
        UserError: an argument or the labels file is wrong, `out` was made with others, or every
            video was rejected.
        OSError: with errno ENOSPC where the disk is full; what was finished is kept.
    """
    if not re.fullmatch(r'[A-Za-z0-9_][A-Za-z0-9_.-]*', split):
        raise UserError(f'--split={split!r}: use letters, digits, _, - and dots only.')
    limits = {'short_side': (short_side, 65_000), 'jpeg_quality': (jpeg_quality, 100)}
    limits |= {'workers': (workers, 1024), 'num_shards': (num_shards, 100_000)}
    for name, (value, most) in limits.items():
        if value is not None and not 1 <= value <= most:
            raise UserError(f'--{name}={value} is not between 1 and {most}.')
    videos, out = pathlib.Path(videos), pathlib.Path(out)
    if not videos.is_dir():
        raise UserError(f'--videos={videos}: there is no such folder.')
    heads, rows = read_labels(labels)
    content = rows if heads == ('label',) else [heads, *rows]
    labels_sha256 = hashlib.sha256(json.dumps(content).encode()).hexdigest()
    settings = {'short_side': short_side, 'jpeg_quality': jpeg_quality}
    wanted = None if classes is None else _read_wanted(classes, heads)
    if num_shards is None:
        num_shards = max(min(4, len(rows)), -(-len(rows) // _VIDEOS_PER_SHARD))
        num_shards = min(num_shards, _MAX_SHARDS)

    with _locked(out):
        found = {head: {row[i] for row in rows} for i, head in enumerate(heads, 1)}
        known = _settle_classes(out, split, settings, wanted, found, os.fspath(labels))
        plan = _Plan(settings, records.plain_classes(known), labels_sha256, num_shards)
        partial = out / f'.partial-{split}'
        dataset = records.read_description(out)
        if dataset is not None and split in dataset.splits:
            if dataset.splits[split].labels_sha256 != labels_sha256:
                raise UserError(
                    f'{out} already has a split {split!r}, made from another list than {labels}; '
                    f'give another --split or --out.'
                )
            shutil.rmtree(partial, ignore_errors=True)
            return records.open_dataset(out)
        _begin(partial, plan)
        tasks = _tasks(out, partial, split, plan, rows, videos)
        _work_off([task for task in tasks if _journal(task) is None], len(rows), split, workers)
        return _finish(out, partial, split, plan, tasks, dataset)


def read_labels(path: str | os.PathLike) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """The heads of a labels file, which its first line names, and its rows: a path and their labels.

    Without such a line there is one head, 'label'. Names of heads are in lower case.

    Raises:
        UserError: no such file, not UTF-8 CSV, a name that no head can have, a line with another
            number of values, an empty value, a path that stands there twice, or no rows at all.
    """
    heads, rows, lines = None, [], {}
    try:
        # utf-8-sig: spreadsheets put a byte order mark first.
        with open(path, encoding='utf-8-sig', newline='') as file:
            reader = csv.reader(file, strict=True)
            for row in reader:
                line = reader.line_num
                if not row:
                    continue
                name, *labels = row[0], *(value.strip() for value in row[1:])
                if heads is None:
                    heads = ('label',)
                    if labels and name.strip().lower() == 'path':
                        heads = _check_heads([label.lower() for label in labels], path, line)
                        continue
                if len(labels) != len(heads):
                    columns = {1: 'two'}.get(len(heads), len(heads) + 1)
                    raise UserError(
                        f'{path}, line {line}: {len(row)} values instead of {columns}, '
                        f'path,{",".join(heads)}; a name with a comma stands in double quotes, and '
                        f'several labels are named in the first line, as in path,noun,verb.'
                    )
                if not name.strip() or not all(labels):
                    raise UserError(f'{path}, line {line}: the path or the label is empty.')
                key = os.path.normpath(name)
                if key in lines:
                    raise UserError(
                        f'{path}, line {line}: {name!r} is already on line {lines[key]}; a video '
                        f'stands there once.'
                    )
                lines[key] = line
                rows.append((name, *labels))
    except OSError as error:
        raise UserError(f'--labels={path} cannot be read: {error.strerror}.') from error
    except UnicodeDecodeError as error:
        raise UserError(f'{path} is not UTF-8 text; save it as CSV in UTF-8.') from error
    except csv.Error as error:
        raise UserError(f'{path}, line {reader.line_num} is not CSV: {error}.') from error
    if not rows:
        raise UserError(f'{path} names no videos.')
    return heads, rows


def _check_heads(heads: Sequence[str], path: str | os.PathLike, line: int) -> tuple[str, ...]:
    for head, count in collections.Counter(heads).items():
        # They are part of the metrics' names and of --classes HEAD=FILE.
        if not re.fullmatch(r'[a-z0-9_]+', head):
            raise UserError(
                f'{path}, line {line}: no column can be called {head!r}; use letters, digits and _.'
            )
        if count > 1:
            raise UserError(f'{path}, line {line}: {count} columns are called {head!r}.')
    return tuple(heads)


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
                f'--classes {head}={classes[head]}: the labels file has no column {head!r}; write '
                f'{example}.'
            )
    for head in heads:
        if head not in classes:
            raise UserError(f'--classes has no file for {head!r}; write {example}.')
    return {head: records.read_classes(classes[head]) for head in heads}


# --- What the output is made from, and what of it is there. ---


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


def _settle_classes(
    out: pathlib.Path,
    split: str,
    settings: dict[str, Any],
    wanted: Mapping[str, Sequence[str]] | None,
    found: Mapping[str, set[str]],
    labels: str,
) -> Mapping[str, Sequence[str]]:
    """Each head's class list, which its labels must be in; all must be those of `out`."""
    known = wanted
    present = [(out / records.DESCRIPTION, records.read_description(out))]
    present += [
        (folder, _read_plan(folder)) for folder in out.glob('.partial-*') if folder.is_dir()
    ]
    for where, made in present:
        if made is None:
            continue
        for key, value in settings.items():
            if made.settings.get(key) != value:
                raise UserError(
                    f'--{key}={value}, but {out} is being made with {made.settings.get(key)}; a '
                    f'data set has one setting: give another --out' + _or_delete(where, split)
                )
        classes = made.classes
        if isinstance(made, _Plan):
            classes = records.classes_by_head(classes)
        if list(classes) != list(found):
            raise UserError(
                f'{labels} has the columns path,{",".join(found)}, but {out} is made with '
                f'path,{",".join(classes)}; give the same in this order, or another --out'
                + _or_delete(where, split)
            )
        if wanted is not None and any(list(classes[head]) != wanted[head] for head in found):
            raise UserError(
                f'--classes differs from the class list that {out} is made with; give another '
                f'--out' + _or_delete(where, split)
            )
        if where.name != f'.partial-{split}':
            known = classes
    if known is None:
        return {head: sorted(names) for head, names in found.items()}
    for head, names in found.items():
        unknown = sorted(names - set(known[head]))
        if not unknown:
            continue
        shown = []
        for label in unknown[:5]:
            near = difflib.get_close_matches(label, known[head], n=1)
            shown.append(f'{label!r}' + (f' (did you mean {near[0]!r}?)' if near else ''))
        more = f' and {len(unknown) - 5} more' if len(unknown) > 5 else ''
        column = f' in the column {head!r}' if len(found) > 1 else ''
        whose = '--classes' if wanted is not None else f'the data set {out}'
        raise UserError(
            f'{labels} has labels{column} that {whose} does not know: {", ".join(shown)}{more}.'
        )
    return known


def _or_delete(where: pathlib.Path, split: str) -> str:
    if where.name == f'.partial-{split}':
        return f', or delete {where} to begin the split again.'
    return '.'


def _read_plan(partial: pathlib.Path) -> _Plan | None:
    try:
        return _Plan(**json.loads((partial / 'plan.json').read_text(encoding='utf-8')))
    except FileNotFoundError:
        return None


def _begin(partial: pathlib.Path, plan: _Plan) -> None:
    """Notes what the split is made from, or checks that an interrupted run made it from the same."""
    begun = _read_plan(partial)
    if begun is None:
        partial.mkdir(exist_ok=True)
        text = json.dumps(dataclasses.asdict(plan), ensure_ascii=False)
        records.write_atomically(partial / 'plan.json', text)
    elif begun != plan:
        what = 'another labels file'
        if begun.labels_sha256 == plan.labels_sha256:
            what = 'other classes' if begun.classes != plan.classes else 'another --num_shards'
        raise UserError(
            f'an interrupted run began this split with {what}; give the same one, or delete '
            f'{partial} to begin again.'
        )
    _remove_temporaries(partial)


def _remove_temporaries(partial: pathlib.Path) -> None:
    for file in partial.glob('*.tmp'):
        file.unlink(missing_ok=True)


def _tasks(
    out: pathlib.Path,
    partial: pathlib.Path,
    split: str,
    plan: _Plan,
    rows: Sequence[tuple[str, ...]],
    videos: pathlib.Path,
) -> list[_Task]:
    classes = records.classes_by_head(plan.classes)
    ids = [{name: i for i, name in enumerate(names)} for names in classes.values()]
    tasks = []
    for shard, file in enumerate(records.shard_names(split, plan.num_shards)):
        numbers = records.shard_range(shard, plan.num_shards, len(rows))
        entries = []
        for i in numbers:
            name, *labels = rows[i]
            class_ids = [of_head[label] for of_head, label in zip(ids, labels, strict=True)]
            entries.append((i, name, str(videos / name), class_ids))
        tasks.append(_Task(shard, out / file, partial / f'{shard:05d}.json', entries, {}))
    return tasks


def _journal(task: _Task) -> dict[str, Any] | None:
    """What was noted of a finished shard; None if it is not finished."""
    try:
        journal = json.loads(task.journal.read_text(encoding='utf-8'))
        return journal if task.target.stat().st_size == journal['bytes'] else None
    except (FileNotFoundError, ValueError):
        return None


def _finish(
    out: pathlib.Path,
    partial: pathlib.Path,
    split: str,
    plan: _Plan,
    tasks: Sequence[_Task],
    dataset: records.Dataset | None,
) -> records.Dataset:
    """Names the rejected files and then the split; only now it exists."""
    journals = [_journal(task) for task in tasks]
    rejected = [tuple(entry) for journal in journals for entry in journal['rejected']]
    class_ids = [label for journal in journals for label in journal['labels']]
    _write_rejected(out / 'rejected.csv', split, rejected)
    if not class_ids:
        for task in tasks:
            task.target.unlink()
        shutil.rmtree(partial)
        name, reason = rejected[0]
        raise UserError(
            f'all {len(rejected)} videos of split {split!r} were rejected ({name}: {reason}); see '
            f'{out / "rejected.csv"}.'
        )
    classes = records.classes_by_head(plan.classes)
    counts = [collections.Counter(of_head) for of_head in zip(*class_ids, strict=True)]
    made = records.Split(
        num_videos=len(class_ids),
        num_rejected=len(rejected),
        num_frames=sum(journal['num_frames'] for journal in journals),
        shards=tuple(task.target.name for task in tasks),
        shard_bytes=tuple(journal['bytes'] for journal in journals),
        videos_per_class=tuple(
            count[i]
            for count, names in zip(counts, classes.values(), strict=True)
            for i in range(len(names))
        ),
        fingerprint=records.fingerprint(
            classes, (digest for journal in journals for digest in journal['digests'])
        ),
        labels_sha256=plan.labels_sha256,
    )
    splits = {} if dataset is None else dataset.splits
    records.write_description(
        records.Dataset(os.fspath(out), classes, plan.settings, splits | {split: made})
    )
    shutil.rmtree(partial)
    return records.open_dataset(out)


def _write_rejected(path: pathlib.Path, split: str, rejected: Sequence[tuple[str, str]]) -> None:
    """Replaces the rows of `split`, leaving those of other splits."""
    rows = []
    with contextlib.suppress(FileNotFoundError), open(path, encoding='utf-8', newline='') as file:
        rows = [row for row in list(csv.reader(file))[1:] if row[2:] != [split]]
    rows += [[name, reason, split] for name, reason in rejected]
    text = io.StringIO()
    csv.writer(text, lineterminator='\n').writerows([['file', 'reason', 'split'], *rows])
    records.write_atomically(path, text.getvalue())


# --- Worker processes. A hostile file can crash one, which costs only that file. ---


@dataclasses.dataclass
class _Worker:
    process: multiprocessing.process.BaseProcess
    messages: multiprocessing.connection.Connection
    task: _Task | None = None
    current: int | None = None  # The video that it has begun and not finished.
    finished: int = 0  # Videos of the task.


def _work_off(tasks: list[_Task], num_rows: int, split: str, workers: int | None) -> None:
    """Writes the shards of all tasks; see `_write_shards` for the worker's side."""
    todo = collections.deque(tasks)
    left = sum(len(task.videos) for task in tasks)
    num_workers = min(workers or len(os.sched_getaffinity(0)), len(tasks))
    deaths = collections.Counter()
    pool: list[_Worker] = []
    bar = tqdm.tqdm(
        total=num_rows, initial=num_rows - left, desc=split, unit=' videos', disable=None
    )

    def assign(worker):
        worker.task = todo.popleft() if todo else None
        worker.current, worker.finished = None, 0
        with contextlib.suppress(BrokenPipeError):  # Its death is noticed where it is awaited.
            worker.messages.send(worker.task)

    try:
        pool += [_start_worker() for _ in range(num_workers)]
        for worker in pool:
            assign(worker)
        while busy := [worker for worker in pool if worker.task is not None]:
            ready = multiprocessing.connection.wait([worker.messages for worker in busy])
            for worker in [w for w in busy if w.messages in ready]:
                try:
                    kind, value = worker.messages.recv()
                except (EOFError, ConnectionResetError):
                    bar.update(-worker.finished)
                    todo.appendleft(_bury(worker, deaths))
                    pool[pool.index(worker)] = replacement = _start_worker()
                    assign(replacement)
                    continue
                if kind == 'error':
                    raise value
                if kind == 'begin':
                    worker.current = value
                elif kind == 'end':
                    worker.current = None
                    worker.finished += 1
                    bar.update()
                else:
                    assign(worker)
    finally:
        bar.close()
        for worker in pool:
            worker.process.terminate()
            worker.process.join()
        if tasks:
            _remove_temporaries(tasks[0].journal.parent)


def _start_worker() -> _Worker:
    # Spawned: a fork would copy the locks of TensorFlow's and jax's threads in who knows what state.
    context = multiprocessing.get_context('spawn')
    ours, theirs = context.Pipe()
    process = context.Process(target=_write_shards, args=(theirs,), daemon=True)
    process.start()
    theirs.close()
    return _Worker(process, ours)


def _bury(worker: _Worker, deaths: collections.Counter) -> _Task:
    """The task of a worker that died, without the video that killed it if it is not the first."""
    worker.process.join()
    code = worker.process.exitcode
    if worker.current is None:
        raise RuntimeError(
            f'a worker process ended by itself (exit code {code}); a script that calls prepare() '
            f"must do so under if __name__ == '__main__'."
        )
    deaths[worker.current] += 1
    doomed = dict(worker.task.doomed)
    if deaths[worker.current] >= _ATTEMPTS:
        name = signal.Signals(-code).name if code < 0 else f'exit code {code}'
        doomed[worker.current] = f'the decoder crashed ({name})'
    return dataclasses.replace(worker.task, doomed=doomed)


def _write_shards(messages: multiprocessing.connection.Connection) -> None:
    """A worker: writes shard after shard, and tells of each video when it begins and ends it.

    Telling also ends a worker whose parent was killed.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer.
    try:
        while True:
            task = messages.recv()
            if task is None:
                return
            try:
                _write_shard(task, messages, _read_plan(task.journal.parent).settings)
            except (BrokenPipeError, EOFError, ConnectionResetError):
                raise
            except Exception as error:
                messages.send(('error', error))
                return
            messages.send(('shard', task.shard))
    except (BrokenPipeError, EOFError, ConnectionResetError):
        return


def _write_shard(
    task: _Task, messages: multiprocessing.connection.Connection, settings: dict[str, Any]
) -> None:
    temporary = task.journal.with_name(f'{task.shard:05d}.{os.getpid()}.tmp')
    journal = {'rejected': [], 'labels': [], 'digests': [], 'num_frames': 0}
    with _writer(temporary, task.target) as writer:
        for number, name, path, label in task.videos:
            messages.send(('begin', number))
            try:
                if number in task.doomed:
                    raise video.BadVideo(task.doomed[number])
                record, num_frames = _encode(path, name, label, settings)
            except video.BadVideo as error:
                journal['rejected'].append([name, str(error)])
            except Exception as error:  # Hostile files find the bugs of decoders.
                reason = f'not decodable: {type(error).__name__}: {error}'
                journal['rejected'].append([name, reason])
            else:
                writer.write(record)
                journal['labels'].append(label)
                journal['digests'].append(hashlib.sha256(record).hexdigest())
                journal['num_frames'] += num_frames
            messages.send(('end', number))
    journal['bytes'] = temporary.stat().st_size
    os.replace(temporary, task.target)
    records.write_atomically(task.journal, json.dumps(journal))


def _encode(path: str, name: str, label: list[int], settings: dict[str, Any]) -> tuple[bytes, int]:
    def jpeg(frame):
        return video.encode_jpeg(frame, settings['jpeg_quality'])

    film = video.decode(path, short_side=settings['short_side'], convert=jpeg)
    if sum(map(len, film.frames)) > _MAX_RECORD_BYTES - 2**20 - 16 * len(film.frames):
        raise video.BadVideo('too long: more than 2 GiB of frames; cut it, or lower --short_side')
    record = records.encode_example(
        film.frames, label, film.fps, film.height, film.width, source=name
    )
    return record, len(film.frames)


@contextlib.contextmanager
def _writer(path: pathlib.Path, target: pathlib.Path) -> Iterator[Any]:
    """An ArrayRecord writer whose file is on the disk, whole, at the end."""
    try:
        writer = array_record_module.ArrayRecordWriter(os.fspath(path), records.WRITER_OPTIONS)
        yield writer
        writer.close()
        with open(path, 'rb') as file:
            os.fsync(file.fileno())
    except RuntimeError as error:
        # array_record tells of the system's errors in words only.
        for code in (errno.ENOSPC, errno.EDQUOT):
            if os.strerror(code) in str(error):
                raise OSError(code, os.strerror(code), os.fspath(target)) from error
        raise


# --- Command line. ---


def main(argv: list[str]) -> None:
    """Parses the command line, prepares the split and prints a summary."""
    parser = cli.parser(__doc__)
    parser.add_argument('--videos', required=True, metavar='DIR', help='folder of the video files')
    parser.add_argument(
        '--labels', required=True, metavar='FILE', help='CSV of path,label[,label...]'
    )
    parser.add_argument('--out', required=True, metavar='DIR', help="the data set's folder")
    parser.add_argument('--split', required=True, help='name of the split: train, validation, ...')
    parser.add_argument(
        '--short_side', type=int, default=256, metavar='PIXELS', help='default: %(default)s'
    )
    parser.add_argument(
        '--jpeg_quality', type=int, default=video.JPEG_QUALITY, help='1..100; default: %(default)s'
    )
    parser.add_argument('--workers', type=int, help='processes; default: one per CPU')
    parser.add_argument('--num_shards', type=int, help='record files; default: one per 64 videos')
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
