"""One shard: the videos of a part of the annotations, written in one piece or not at all.

A shard is a pure function of its task, but for files that change in the meantime. It counts as written
when its journal is there, which has the rows of the index and what was rejected.
"""

import dataclasses
import hashlib
import json
import os
import pathlib
from collections.abc import Callable
from typing import Any

from vjax.data import records, tfrecord, video
from vjax.data.annotations.items import Item
from vjax.data.index import Entry


@dataclasses.dataclass(frozen=True)
class Task:
    """What a worker needs to know to write one shard.

    Attributes:
        shard: its number.
        target: its file.
        journal: the file that says it is written, and what is in it.
        videos: folder that the items' paths start from.
        items: number of each video in the split, what it is, and its class ids.
        settings: of the data set.
        doomed: reasons by number of the videos that are known to kill a worker.
    """

    shard: int
    target: pathlib.Path
    journal: pathlib.Path
    videos: pathlib.Path
    items: tuple[tuple[int, Item, tuple[int, ...]], ...]
    settings: dict[str, Any]
    doomed: dict[int, str]


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


def read_journal(task: Task) -> Journal | None:
    """The journal of a finished shard; None if it is not finished."""
    try:
        content = json.loads(task.journal.read_text(encoding='utf-8'))
        if task.target.stat().st_size != content['bytes']:
            return None
    except (FileNotFoundError, ValueError):
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


def write(
    task: Task,
    begins: Callable[[int], None] = lambda number: None,
    ends: Callable[[int], None] = lambda number: None,
) -> None:
    """Writes a shard and its journal.

    Args:
        task: the shard.
        begins, ends: called with the number of each video before and after it.
    """
    temporary = task.journal.with_name(f'{task.shard:05d}.{os.getpid()}.tmp')
    entries, digests, rejected = [], [], []
    try:
        with open(temporary, 'wb') as file:
            for number, item, label in task.items:
                begins(number)
                try:
                    if number in task.doomed:
                        raise video.BadVideo(task.doomed[number])
                    entry, contents = encode(task.videos, item, label, task.settings)
                except video.BadVideo as error:
                    rejected.append((item.name, str(error)))
                except Exception as error:  # Hostile files find the bugs of decoders.
                    reason = f'not decodable: {type(error).__name__}: {error}'
                    rejected.append((item.name, reason))
                else:
                    for content in contents:
                        tfrecord.write(file, content)
                    entries.append(dataclasses.asdict(entry))
                    digests.append(_digest(entry, contents))
                ends(number)
            file.flush()
            os.fsync(file.fileno())
            size = file.tell()
        os.replace(temporary, task.target)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        error.filename = os.fspath(task.target)
        raise
    journal = {'bytes': size, 'entries': entries, 'digests': digests, 'rejected': rejected}
    records.write_atomically(task.journal, json.dumps(journal))


def encode(
    videos: pathlib.Path, item: Item, label: tuple[int, ...], settings: dict[str, Any]
) -> tuple[Entry, list[bytes]]:
    """The row of the index and the records of a video.

    Raises:
        BadVideo: the file is not a whole, sane video, or the segment is not in it.
    """
    asked = {'start': item.start, 'end': item.end, 'short_side': settings['short_side']}
    path = videos / item.path
    if settings['store'] == 'frames':
        film = video.to_jpeg(path, jpeg_quality=settings['jpeg_quality'], **asked)
        contents = film.frames
    else:
        content, film = video.to_short_gops(path, crf=settings['crf'], **asked)
        contents = [content]
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


def _digest(entry: Entry, contents: list[bytes]) -> str:
    digest = hashlib.sha256(json.dumps(dataclasses.astuple(entry)).encode())
    for content in contents:
        digest.update(content)
    return digest.hexdigest()
