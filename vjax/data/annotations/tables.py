"""Tables in text files: lines of values, and what all of the formats' tables have to fulfil."""

import csv
import difflib
import io
import math
import operator
import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any

from vjax.data.annotations import files
from vjax.errors import UserError


class Empty(UserError):
    """A file without content."""


def lines(path: str | os.PathLike) -> Iterator[tuple[str, str]]:
    """The lines of a text file that are not blank, stripped, each after its place: 'FILE, line 3'.

    Raises:
        UserError: the file cannot be read, or is empty.
    """
    text = files.read_text(path)
    if not text.strip():
        raise Empty(f'{os.fspath(path)} is empty.')
    # Not splitlines(), which knows ten kinds of line breaks.
    for number, line in enumerate(io.StringIO(text, newline=None), 1):
        if line := line.strip():
            yield f'{os.fspath(path)}, line {number}', line


def rows(
    path: str | os.PathLike, *, delimiter: str = ',', strict: bool = True
) -> Iterator[tuple[int, list[str]]]:
    """The rows of a CSV file that are not blank, each after the number of its first line.

    Args:
        path: of the file, in UTF-8 with or without a byte order mark.
        delimiter: between values.
        strict: whether a quoted value that goes on after its quotes is an error.

    Raises:
        UserError: the file cannot be read, is empty, or is not CSV.
    """
    text = files.read_text(path)
    if not text.strip():
        raise Empty(f'{os.fspath(path)} is empty.')
    reader = csv.reader(io.StringIO(text, newline=''), delimiter=delimiter, strict=strict)
    before = 0
    try:
        for row in reader:
            if row:
                yield before + 1, row
            before = reader.line_num
    except csv.Error as error:
        raise UserError(
            f'{os.fspath(path)}, line {reader.line_num} is not CSV: {error}.'
        ) from error


def columns(
    path: str | os.PathLike, names: Sequence[str], *, strict: bool = True, missing: str = ''
) -> Iterator[tuple[int, tuple[str, ...]]]:
    """The values in the named columns of a CSV file whose first line has the names of all.

    Args:
        path: of the file.
        names: of two columns at least.
        strict: as for `rows`.
        missing: what it may mean that one of them is not there, for the sentence.

    Yields:
        the number of the row's first line, and its values in the order of `names`.

    Raises:
        UserError: a column is not there, or a row has more or fewer values than the first line.
    """
    table = rows(path, strict=strict)
    _, header = next(table)
    header = [name.strip() for name in header]
    for name in names:
        if name not in header:
            hint = f'; {missing}' if missing else ''
            raise UserError(
                f'{os.fspath(path)}, line 1 names no column {name!r}, only {", ".join(header)}{hint}.'
            )
    pick = operator.itemgetter(*(header.index(name) for name in names))
    for line, row in table:
        if len(row) != len(header):
            raise UserError(
                f'{os.fspath(path)}, line {line}: {len(row)} values instead of {len(header)}, as in '
                f'the first line.'
            )
        yield line, pick(row)


# --- Values. `where` is their place in words: 'FILE, line 3'. ---


def whole_number(where: str, name: str, value: Any) -> int:
    """A number that is at least 0; raises UserError for anything else."""
    try:
        number = int(value)
    except (TypeError, ValueError):
        number = -1
    if number < 0 or isinstance(value, bool | float):
        raise UserError(f'{where}: {name}={value!r} is not a whole number, 0 or more.')
    return number


def seconds(where: str, name: str, value: str) -> float:
    """A time that is at least 0; raises UserError for anything else."""
    try:
        time = float(value)
    except ValueError:
        time = -1.0
    if not 0 <= time < math.inf:
        raise UserError(f'{where}: {name}={value!r} is not a number of seconds, 0 or more.')
    return time


def check_segment(where: str, start: float, end: float) -> None:
    """Raises a UserError unless a segment ends after its start."""
    if end <= start:
        raise UserError(
            f'{where}: the segment ends at {end} s, which is not after its start, {start} s.'
        )


def check_class(where: str, label: str, classes: Collection[str], source: str) -> None:
    """Raises a UserError, with the nearest class, unless the label is one of the classes of a file."""
    if label not in classes:
        near = difflib.get_close_matches(label, classes, n=1)
        hint = f' (did you mean {near[0]!r}?)' if near else ''
        raise UserError(f'{where}: there is no class {label!r} in {source}{hint}.')


def check_new(where: str, name: str, seen: dict[str, str]) -> None:
    """Notes where a name stands; raises a UserError if it stands in another place already."""
    if (first := seen.setdefault(name, where)) is not where:
        raise UserError(f'{where}: {name!r} is already in {first.rpartition(", ")[2]}.')


def in_id_order(
    path: str | os.PathLike, classes: Iterable[tuple[str, int, str]], *, first: int = 0
) -> tuple[str, ...]:
    """Class names in the order of their ids.

    Args:
        path: of the list.
        classes: for each its place, its id and its name.
        first: the lowest id.

    Raises:
        UserError: an id or a name stands there twice, an id is left out, or there are no classes.
    """
    names, places, ids = {}, {}, {}
    for where, number, name in classes:
        if not name:
            raise UserError(f'{where}: the name of the class is empty.')
        check_new(where, name, places)
        check_new(where, f'id {number}', ids)
        names[number] = name
    if not names:
        raise UserError(f'{os.fspath(path)} names no classes.')
    for number in range(first, first + len(names)):
        if number not in names:
            raise UserError(
                f'{os.fspath(path)} has {len(names)} classes, but none with the id {number}.'
            )
    return tuple(names[number] for number in sorted(names))


# --- JSON. ---


def entries(path: str | os.PathLike, fields: Sequence[str], *, missing: str = '') -> Iterator:
    """The values of the named fields of each object in a JSON list, after their place in words.

    Args:
        path: of the file.
        fields: that each object has, with a text or a number.
        missing: what it may mean that one is not there, for the sentence.

    Raises:
        UserError: the file is something else.
    """
    content = files.read_json(path)
    if not isinstance(content, list):
        raise UserError(f'{os.fspath(path)} is not a list of videos in JSON.')
    for number, entry in enumerate(content, 1):
        where = f'{os.fspath(path)}, entry {number}'
        if not isinstance(entry, dict):
            raise UserError(f'{where} is not an object with {", ".join(fields)}.')
        for field in fields:
            if not isinstance(entry.get(field), str | int):
                hint = f'; {missing}' if missing and field not in entry else ''
                raise UserError(f'{where} has no {field!r}{hint}.')
        yield where, *(entry[field] for field in fields)
