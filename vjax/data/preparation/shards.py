"""One shard: the videos of a part of the annotations, written in one piece or not at all.

A shard is a pure function of its task, but for files that change in the meantime. It counts as written
when its journal is there, which has the rows of the index and what was rejected.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import pathlib
import re
import tempfile
import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from vjax.data import short_gops, tfrecord, video
from vjax.data.annotations.items import Item
from vjax.data.index import Entry
from vjax.data.preparation import storage
from vjax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Task:
    """What a worker needs to know to write one shard.

    Attributes:
        shard: its number.
        out: folder of its file.
        target: name of its file.
        partial: folder of the journals.
        videos: folder that the items' paths start from.
        items: number of each video in the split, what it is, and its class ids.
        settings: of the data set.
        limits: what a video may unfold to.
        doomed: reasons by number of the videos that are known to kill a worker.
        scratch: folder of this machine for the file while it is written; see `with_scratch`.
    """

    shard: int
    out: str
    target: str
    partial: str
    videos: str
    items: tuple[tuple[int, Item, tuple[int, ...]], ...]
    settings: dict[str, Any]
    limits: video.Limits
    doomed: dict[int, str] = dataclasses.field(default_factory=dict)
    scratch: str = ''

    @property
    def journal(self) -> str:
        """Name of the file that says the shard is written, and what is in it."""
        return f'{self.shard:05d}.json'


@dataclasses.dataclass(frozen=True)
class Journal:
    """What was noted of a finished shard.

    Attributes:
        bytes: size of its file.
        entries: rows of the index.
        digests: SHA-256 of each video as stored, with its row.
        rejected: name and reason of every video that is not in it.
    """

    bytes: int
    entries: tuple[Entry, ...]
    digests: tuple[str, ...]
    rejected: tuple[tuple[str, str], ...]


def to_json(task: Task) -> str:
    """A task as text, for a worker on another machine."""
    return json.dumps(dataclasses.asdict(task))


def from_json(text: str | bytes) -> Task:
    """The task of a text that `to_json` made."""
    content = json.loads(text)
    items = tuple(
        (
            number,
            Item(
                **item
                | {
                    'labels': tuple(map(tuple, item['labels'])),
                    'spans': tuple(map(tuple, item['spans'])),
                }
            ),
            tuple(label),
        )
        for number, item, label in content['items']
    )
    doomed = {int(number): reason for number, reason in content['doomed'].items()}
    limits = video.Limits(**content['limits'])
    return Task(**content | {'items': items, 'doomed': doomed, 'limits': limits})


def read_journals(tasks: Sequence[Task]) -> list[Journal | None]:
    """The journals of the finished shards of one split; None for each that is not finished."""
    if not tasks:
        return []
    out, partial = storage.folder(tasks[0].out), storage.folder(tasks[0].partial)
    contents = partial.read([task.journal for task in tasks])
    sizes = out.sizes([task.target for task in tasks])
    return [
        None if content is None else _parse_journal(content, size)
        for content, size in zip(contents, sizes, strict=True)
    ]


def unwritten(tasks: Sequence[Task]) -> list[Task]:
    """Those of one split's tasks whose shards are not finished."""
    journals = read_journals(tasks)
    return [task for task, journal in zip(tasks, journals, strict=True) if journal is None]


def _parse_journal(text: bytes, size: int | None) -> Journal | None:
    try:
        content = json.loads(text)
    except ValueError:
        return None
    if content['bytes'] != size:
        return None
    entries = tuple(
        Entry(
            **row
            | {
                'label': tuple(row['label']),
                'spans': tuple(map(tuple, row['spans'])),
                'sizes': tuple(row['sizes']),
            }
        )
        for row in content['entries']
    )
    rejected = tuple((name, reason) for name, reason in content['rejected'])
    return Journal(content['bytes'], entries, tuple(content['digests']), rejected)


@contextlib.contextmanager
def with_scratch(tasks: Sequence[Task]) -> Iterator[list[Task]]:
    """The tasks of one split with a folder to write in; what killed workers left there is removed.

    On a disk that is the folder of the journals, from which a file is moved in one step, and only
    files of these very shards are removed: others may be being written. For a bucket it is a folder of
    this machine.
    """
    if not tasks:
        yield []
    elif storage.is_url(tasks[0].out):
        with tempfile.TemporaryDirectory(prefix='vjax-') as scratch:
            yield [dataclasses.replace(task, scratch=scratch) for task in tasks]
    else:
        folder = storage.folder(tasks[0].partial)
        ours = {task.shard for task in tasks}

        def clean():
            names = ((name, re.fullmatch(r'\.?(\d{5})\..*\.tmp', name)) for name in folder.names())
            folder.remove([name for name, found in names if found and int(found[1]) in ours])

        clean()
        try:
            yield [dataclasses.replace(task, scratch=folder.path) for task in tasks]
        finally:
            clean()


def write(
    task: Task,
    begins: Callable[[int], None] = lambda number: None,
    ends: Callable[[int], None] = lambda number: None,
) -> None:
    """Writes a shard and its journal.

    Args:
        task: the shard, with a scratch folder.
        begins, ends: called with the number of each video before and after it.

    Raises:
        OSError: the disk is full, for example.
        UserError: a bucket cannot be read or written.
    """
    # No other worker, on whatever machine, has this name.
    temporary = pathlib.Path(task.scratch, f'{task.shard:05d}.{uuid.uuid4().hex}.tmp')
    entries, digests, rejected = [], [], []
    try:
        with open(temporary, 'wb') as file:
            for number, item, label in task.items:
                begins(number)
                try:
                    if number in task.doomed:
                        raise video.BadVideo(task.doomed[number])
                    entry, contents = encode(task.videos, item, label, task.settings, task.limits)
                except UserError:  # It is not the video's fault.
                    raise
                except Exception as error:  # Hostile files find the bugs of decoders.
                    rejected.append((item.name, _reason(error)))
                else:
                    for content in contents:
                        tfrecord.write(file, content)
                    entries.append(dataclasses.asdict(entry))
                    digests.append(_digest(entry, contents))
                ends(number)
            file.flush()
            os.fsync(file.fileno())
            size = file.tell()
        storage.folder(task.out).take(temporary, task.target)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        error.filename = error.filename or os.fspath(temporary)
        raise
    journal = {'bytes': size, 'entries': entries, 'digests': digests, 'rejected': rejected}
    storage.folder(task.partial).write(task.journal, json.dumps(journal))


def encode(
    videos: str,
    item: Item,
    label: tuple[int, ...],
    settings: dict[str, Any],
    limits: video.Limits,
) -> tuple[Entry, list[bytes]]:
    """The row of the index and the records of a video.

    Raises:
        BadVideo: the file is not a whole, sane video, or the segment is not in it.
        UserError: it is in a bucket that cannot be read.
    """
    asked = {'start': item.start, 'end': item.end, 'fps': item.fps}
    asked |= {'short_side': settings['short_side']}
    try:
        with storage.video_at(storage.joined(videos, item.path)) as file:
            if settings['store'] == 'frames':
                quality = settings['jpeg_quality']
                film = video.to_jpeg(file, jpeg_quality=quality, limits=limits, **asked)
                contents = film.frames
            else:
                crf = settings['crf']
                content, film = short_gops.encode(file, crf=crf, limits=limits, **asked)
                contents = [content]
    except FileNotFoundError as error:
        raise video.BadVideo('no such file') from error
    entry = Entry(
        source=item.name,
        label=label,
        spans=item.spans,
        num_frames=len(film.frames),
        fps=film.fps,
        height=film.height,
        width=film.width,
        sizes=tuple(map(len, contents)),
    )
    return entry, contents


def _reason(error: Exception) -> str:
    if isinstance(error, MemoryError) or isinstance(error.__cause__, MemoryError):
        return 'too large: decoding it takes too much memory'
    if isinstance(error, video.BadVideo):
        return str(error)
    return f'not decodable: {type(error).__name__}: {error}'


def _digest(entry: Entry, contents: list[bytes]) -> str:
    digest = hashlib.sha256(json.dumps(dataclasses.astuple(entry)).encode())
    for content in contents:
        digest.update(content)
    return digest.hexdigest()
