"""Annotation files and the tree of videos, on a disk or in a bucket (gs://, s3://).

Everything goes through etils.epath, which imports TensorFlow, where there is one, for URLs only.
"""

import json
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

from etils import epath

from vjax.errors import UserError

VIDEO_EXTENSIONS = frozenset(
    {
        *('.mp4', '.m4v', '.mov', '.avi', '.mkv', '.webm', '.mpg', '.mpeg', '.wmv', '.asf', '.flv'),
        *('.3gp', '.ogv', '.ts', '.mts', '.m2ts', '.vob', '.gif'),
    }
)
IMAGE_EXTENSIONS = frozenset({'.jpg', '.jpeg', '.png', '.webp', '.bmp'})

# How annotation files, and people, call a split.
SPLIT_NAMES = {
    'train': ('train', 'training'),
    'validation': ('validation', 'val', 'valid', 'validate'),
    'test': ('test', 'testing'),
}


def split_kind(split: str) -> str | None:
    """'train', 'validation' or 'test' for any name of one of these; None for another split."""
    for kind, names in SPLIT_NAMES.items():
        if split.strip().lower() in names:
            return kind
    return None


# --- Text. ---


def read_text(path: str | os.PathLike) -> str:
    """The text of a UTF-8 file, without a byte order mark.

    Raises:
        UserError: it cannot be read, or is not UTF-8; the sentence names the first such line.
    """
    try:
        data = epath.Path(path).read_bytes()
    except Exception as error:
        raise UserError(f'{os.fspath(path)} cannot be read: {_reason(path, error)}.') from error
    if data.startswith((b'\xff\xfe', b'\xfe\xff')):
        raise UserError(
            f'{os.fspath(path)}, line 1 is not UTF-8 but UTF-16 text; save the file in UTF-8.'
        )
    try:
        text = data.decode('utf-8-sig')
    except UnicodeDecodeError as error:
        line = data.count(b'\n', 0, error.start) + 1
        raise UserError(
            f'{os.fspath(path)}, line {line} is not UTF-8 text; save the file in UTF-8.'
        ) from error
    if '\0' in text:
        line = text.count('\n', 0, text.index('\0')) + 1
        raise UserError(
            f'{os.fspath(path)}, line {line} is not UTF-8 text, it has zero bytes; save the file in '
            f'UTF-8.'
        )
    return text


def _reason(path: str | os.PathLike, error: Exception) -> str:
    """What went wrong, in words; anything but a failure to read is a bug and raised again.

    TensorFlow's and fsspec's own errors, for URLs, are not OSErrors.
    """
    if isinstance(error, OSError):
        return error.strerror or str(error)
    if '://' not in os.fspath(path):
        raise error
    return ' '.join(str(error).split()).rstrip('.')


def read_json(path: str | os.PathLike) -> Any:
    """A JSON file's content.

    Raises:
        UserError: it is no JSON (the sentence has the line), or an object has a key twice.
    """

    def unique(pairs):
        content = dict(pairs)
        if len(content) < len(pairs):
            keys = [key for key, _ in pairs]
            twice = next(key for key in keys if keys.count(key) > 1)
            raise UserError(f'{os.fspath(path)} has the key {twice!r} twice.')
        return content

    text = read_text(path)
    if not text.strip():
        raise UserError(f'{os.fspath(path)} is empty.')
    try:
        return json.loads(text, object_pairs_hook=unique)
    except json.JSONDecodeError as error:
        ends = error.pos >= len(text.rstrip()) or error.msg.startswith('Unterminated string')
        hint = ' (the file seems to be cut off)' if ends else ''
        raise UserError(
            f'{os.fspath(path)}, line {error.lineno} is not JSON: {error.msg}{hint}.'
        ) from error
    except ValueError as error:  # A number of thousands of digits.
        raise UserError(f'{os.fspath(path)} is not JSON of annotations: {error}.') from error
    except RecursionError as error:
        raise UserError(
            f'{os.fspath(path)} is not JSON of annotations: it nests too deep.'
        ) from error


# --- Folders of annotations. ---


def check_exists(path: epath.Path) -> None:
    """Raises a UserError unless there is a file or a folder of this name."""
    try:
        there = path.exists()
    except Exception as error:
        raise UserError(f'{os.fspath(path)} cannot be read: {_reason(path, error)}.') from error
    if not there:
        raise UserError(f'{os.fspath(path)} cannot be read: No such file or directory.')


def names_in(folder: str | os.PathLike) -> list[str]:
    """Sorted names of what is in a folder; raises UserError where it cannot be read."""
    try:
        return sorted(path.name for path in epath.Path(folder).iterdir())
    except Exception as error:
        raise UserError(f'{os.fspath(folder)} cannot be read: {_reason(folder, error)}.') from error


def beside(path: epath.Path, names: Sequence[str]) -> epath.Path:
    """The first of the named files that is in the folder `path`, or in that of the file `path`.

    Raises:
        UserError: there is none of them.
    """
    folder = path if path.is_dir() else path.parent
    there = set(names_in(folder))
    for name in names:
        if name in there:
            return folder / name
    others = f' (or {", ".join(names[1:])})' if len(names) > 1 else ''
    raise UserError(f'{os.fspath(folder)} has no file {names[0]}{others}.')


def of_split(
    path: epath.Path, split: str, names: Mapping[str, Sequence[str]], dataset: str
) -> epath.Path:
    """The annotation file of a split: `path` itself, or the one in the folder `path`.

    Args:
        path: the file, which may be of a split of any name, or the folder of the official files.
        split: as the user calls it.
        names: for 'train', 'validation' or 'test' what the file may be called.
        dataset: for the sentence.

    Raises:
        UserError: the data set has no such split, or the folder no such file.
    """
    if not path.is_dir():
        return path
    return beside(path, names[check_split(split, names, dataset)])


def check_split(split: str, kinds: Collection[str], dataset: str) -> str:
    """The kind of the split; raises UserError unless it is one of those that the data set has."""
    kind = split_kind(split)
    if kind not in kinds:
        raise UserError(
            f'--split={split}: the lists of {dataset} that have labels are {" and ".join(kinds)}.'
        )
    return kind


# --- The videos. ---


class VideoFiles:
    """Where the videos of a data set are: one listing of the tree, not a question per video.

    Data sets are unpacked in many ways: flat, by split, by class, re-encoded to another container. A
    video is known by its file's name without the extension, wherever in the tree it is.
    """

    def __init__(
        self,
        videos: epath.Path,
        *,
        extensions: Collection[str] = VIDEO_EXTENSIONS,
        is_frames: Callable[[str], bool] | None = None,
    ):
        """Lists the tree.

        Args:
            videos: its folder.
            extensions: of the files that count, in lower case.
            is_frames: tells by its name that a folder is a video (its frames as images), which is
                not looked into.

        Raises:
            UserError: there is no such folder.
        """
        self._by_stem: dict[str, list[str]] = {}
        for folder, folders, names in walk(videos):
            entries = []
            if is_frames is not None:
                entries += [(name, name) for name in folders if is_frames(name)]
                folders[:] = [name for name in folders if not is_frames(name)]
            for name in names:
                stem, dot, extension = name.rpartition('.')
                if dot + extension.lower() in extensions:
                    entries.append((stem, name))
            for stem, name in entries:
                self._by_stem.setdefault(stem, []).append(f'{folder}{name}')

    def find(
        self, standard: str, *, prefer: Sequence[str] = (), avoid: Collection[str] = frozenset()
    ) -> str:
        """The path of a video, relative to the tree's folder.

        Args:
            standard: where the data set has it, which is returned where it is nowhere.
            prefer: names of folders in which it should be, if it is there several times.
            avoid: names of folders in which a file of this name is another video, unless preferred.
        """
        name = standard.rpartition('/')[2]
        paths = self._by_stem.get(name.rpartition('.')[0] or name)
        if paths is None:
            return standard
        if len(paths) == 1 and not avoid:
            return paths[0]
        ranked = []
        for path in paths:
            parents = path.split('/')[:-1]
            if any(parent in avoid and parent not in prefer for parent in parents):
                continue
            matches = sum(parent in prefer for parent in parents)
            ranked.append((path != standard, -matches, path.rpartition('/')[2] != name, path))
        return min(ranked)[-1] if ranked else standard

    def has(self, stem: str) -> bool:
        """Whether there is a video of this name without extension."""
        return stem in self._by_stem


def walk(top: epath.Path) -> Iterator[tuple[str, list[str], list[str]]]:
    """Each folder of a tree, as the prefix of its files' paths: '' or 'some/folder/'; hidden ones not.

    Yields:
        the prefix, and the sorted names of its folders and files. Folders that the caller removes
        from the list are not entered.

    Raises:
        UserError: `top` is no folder.
    """
    if not top.is_dir():
        raise UserError(f'--videos={os.fspath(top)}: there is no such folder.')
    local = '://' not in os.fspath(top)
    beginning = _without_scheme(top)
    for root, folders, names in _walk_local(os.fspath(top)) if local else top.walk():
        prefix = _without_scheme(root).removeprefix(beginning).replace(os.sep, '/').strip('/')
        # Buckets' folders may come with a slash.
        folders[:] = sorted(name for f in folders if not (name := f.rstrip('/')).startswith('.'))
        files = sorted(name for name in names if name and not name.startswith('.'))
        yield (f'{prefix}/' if prefix else ''), folders, files


def _walk_local(
    root: str, above: frozenset[str] = frozenset()
) -> Iterator[tuple[str, list[str], list[str]]]:
    """As os.walk, but through links to folders, which are how big data sets come to a fast disk."""
    real = os.path.realpath(root)
    if real in above:  # A link to a folder that it is in.
        return
    folders, names = [], []
    try:
        with os.scandir(root) as entries:
            for entry in entries:
                (folders if entry.is_dir() else names).append(entry.name)
    except OSError as error:
        raise UserError(f'{root} cannot be read: {error.strerror}.') from error
    yield root, folders, names
    for name in folders:
        yield from _walk_local(os.path.join(root, name), above | {real})


def _without_scheme(path: str | os.PathLike) -> str:
    """fsspec leaves the scheme out of what it lists."""
    return os.fspath(path).rpartition('://')[2]
