"""The plain labels file: CSV in UTF-8 with the columns path and label.

    path,label
    a.mp4,run
    "b, with comma.mp4",walk

* The first line is optional where it would be `path,label`.
* Several heads: it names them, as in `path,noun,verb`.
* Segments of long videos: the columns `start` and `end`, in seconds, anywhere after the path; empty
  means from the beginning, or to the end.
* Several labels for a video (multi-label): `path,labels`, with | between the labels; a video without
  labels has an empty value, and shows none of the classes.
"""

import collections
import os
import re
from collections.abc import Sequence

from vjax.data.annotations import tables
from vjax.data.annotations.items import Annotations, Item
from vjax.data.annotations.source import Source
from vjax.errors import UserError

# What others call the column of paths. A video of that name needs the first line `path,label`.
PATHS = (
    *('file', 'filename', 'file_name', 'filepath', 'file_path', 'clip', 'name', 'id'),
    *('video', 'videos', 'video_name', 'video_path', 'video_id', 'youtube_id'),
)
# With one of these behind it any word may be a name of that column.
OTHERS = (
    *('label', 'labels', 'class', 'classes', 'class_name', 'category', 'action', 'target'),
    *('start', 'end', 'start_time', 'end_time'),
)
SEPARATOR = '|'  # Between the labels of a video that has several.


def read(source: Source) -> Annotations:
    """Reads a labels file; see the module. Paths are as they stand there; nothing is looked up."""
    return _read(source.annotations)


def read_labels(path: str | os.PathLike) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """The heads of a labels file of whole videos, and its rows: a path and one label for each head.

    Raises:
        UserError: no such file, not UTF-8 CSV, a name that no head can have, a line with another
            number of values, an empty value, a path that stands there twice, no rows at all, or
            segments or several labels.
    """
    annotations = _read(path)
    if annotations.multi_label or any(item.name != item.path for item in annotations.items):
        raise UserError(f'{os.fspath(path)} has segments or several labels for a video.')
    rows = [(item.path, *(label for (label,) in item.labels)) for item in annotations.items]
    return annotations.heads, rows


def _read(path: str | os.PathLike) -> Annotations:
    path, header, items, seen = os.fspath(path), None, [], {}
    for line, row in _rows(path):
        name, *values = row[0], *(value.strip() for value in row[1:])
        if header is None:
            header = ('label',)
            if values and name.strip().lower() == 'path':
                header = _check_header([value.lower() for value in values], path, line)
                continue
            behind = {value.lower() for value in values}
            is_word = re.fullmatch(r'[^\W\d]+', name.strip()) and behind and behind <= {*OTHERS}
            if name.strip().lower() in PATHS or is_word:
                raise UserError(
                    f'{path}, line {line}: {",".join(row)!r} looks like names of columns; call the first '
                    'one path, as in path,label, or put such a line before it if it is a video.'
                )
        if len(values) != len(header):
            expected = {1: 'two'}.get(len(header), len(header) + 1)
            raise UserError(
                f'{path}, line {line}: {len(row)} values instead of {expected}, '
                f'path,{",".join(header)}; a name with a comma stands in double quotes, and several '
                f'labels are named in the first line, as in path,noun,verb.'
            )
        of_column = dict(zip(header, values, strict=True))
        start, end = of_column.pop('start', ''), of_column.pop('end', '')
        if not name.strip() or (not all(of_column.values()) and 'labels' not in of_column):
            raise UserError(f'{path}, line {line}: the path or the label is empty.')
        if 'labels' in of_column:
            labels = (_split(of_column['labels'], path, line),)
        else:
            labels = tuple((label,) for label in of_column.values())
        item = _item(name, start, end, labels, f'{path}, line {line}')
        key = (os.path.normpath(name), item.start, item.end)
        if key in seen:
            raise UserError(
                f'{path}, line {line}: {item.name!r} is already on line {seen[key]}; a video stands '
                f'there once.'
            )
        seen[key] = line
        items.append(item)
    if not items:
        raise UserError(f'{path} names no videos.')
    multi_label = 'labels' in header
    heads = tuple(name for name in header if name not in ('start', 'end'))
    return Annotations(('label',) if multi_label else heads, tuple(items), None, multi_label)


def _rows(path: str):
    """As `tables.rows`, but an empty file has none: it names no videos."""
    try:
        yield from tables.rows(path)
    except tables.Empty:
        return


def _item(name: str, start: str, end: str, labels: tuple[tuple[str, ...], ...], where: str) -> Item:
    if not start and not end:
        return Item(name, name, labels)
    segment = {}
    if start:
        segment['start'] = tables.seconds(where, 'start', start)
    if end:
        segment['end'] = tables.seconds(where, 'end', end)
        tables.check_segment(where, segment.get('start', 0.0), segment['end'])
    # Named as in the W3C's media fragments.
    return Item(f'{name}#t={start}' + (f',{end}' if end else ''), name, labels, **segment)


def _split(labels: str, path: str, line: int) -> tuple[str, ...]:
    """The labels of one value of the column `labels`."""
    parts = tuple(part.strip() for part in labels.split(SEPARATOR)) if labels else ()
    if not all(parts):
        raise UserError(f'{path}, line {line}: one of the labels in {labels!r} is empty.')
    for label, count in collections.Counter(parts).items():
        if count > 1:
            raise UserError(f'{path}, line {line}: the label {label!r} stands there {count} times.')
    return parts


def _check_header(names: Sequence[str], path: str, line: int) -> tuple[str, ...]:
    """The columns after the path: heads, and start and end of segments."""
    for name, count in collections.Counter(names).items():
        # They are part of the metrics' names and of --classes HEAD=FILE.
        if not re.fullmatch(r'[a-z0-9_]+', name):
            raise UserError(
                f'{path}, line {line}: no column can be called {name!r}; use letters, digits and _.'
            )
        if count > 1:
            raise UserError(f'{path}, line {line}: {count} columns are called {name!r}.')
    heads = [name for name in names if name not in ('start', 'end')]
    if not heads:
        raise UserError(f'{path}, line {line}: there is no column for a label, as in path,label.')
    if len(names) - len(heads) == 1:
        raise UserError(f'{path}, line {line}: a segment has both columns, start and end.')
    if 'labels' in heads and len(heads) > 1:
        raise UserError(
            f'{path}, line {line}: labels, for any number of them, is the only head where it stands; '
            f'call it otherwise for one label.'
        )
    return tuple(names)
