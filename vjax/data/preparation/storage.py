"""Folders on a disk or in a bucket (gs://, s3://), as preparing reads and writes them.

Files are written whole or not at all: on a disk under another name first, in a bucket because its stores
show an object only when all of it has arrived. Buckets are reached through fsspec, whose backends (gcsfs,
s3fs) also find the credentials and try again when a request fails. A request that fails all the same
ends the run by a UserError; it never counts against a video.
"""

import abc
import contextlib
import dataclasses
import io
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

from vjax.data import records
from vjax.errors import UserError

# Read ahead in pieces, a few of which are kept: an index may stand at the end of a film.
_PIECES = {'block_size': 4 << 20, 'cache_type': 'blockcache', 'cache_options': {'maxblocks': 8}}


def is_url(path: str | os.PathLike) -> bool:
    """Whether a path is one in a bucket."""
    return '://' in os.fspath(path)


class Folder(abc.ABC):
    """A folder; `path` is how the user calls it."""

    path: str

    def __truediv__(self, name: str) -> 'Folder':
        return folder(joined(self.path, name))

    @abc.abstractmethod
    def exists(self) -> bool:
        """Whether it is there, and a folder."""

    @abc.abstractmethod
    def make(self) -> None:
        """Makes it unless it is there."""

    @abc.abstractmethod
    def names(self) -> set[str]:
        """Names of the files and folders in it; none if it is not there."""

    @abc.abstractmethod
    def sizes(self, names: Sequence[str]) -> list[int | None]:
        """Bytes of each of the named files; None for one that is not there."""

    @abc.abstractmethod
    def read(self, names: Sequence[str]) -> list[bytes | None]:
        """Contents of the named files; None for one that is not there."""

    @abc.abstractmethod
    def write(self, name: str, content: str | bytes) -> None:
        """Writes or replaces a file, whole or not at all; text is UTF-8."""

    @abc.abstractmethod
    def take(self, file: pathlib.Path, name: str) -> None:
        """Moves a file of this machine (of the same file system, for a disk) here, or replaces one."""

    @abc.abstractmethod
    def remove(self, names: Sequence[str]) -> None:
        """Removes those of the named files that are there."""

    @abc.abstractmethod
    def remove_all(self) -> None:
        """Removes the folder."""


def folder(path: str | os.PathLike) -> Folder:
    """The folder of a path or URL."""
    return Bucket(os.fspath(path).rstrip('/')) if is_url(path) else Disk(os.fspath(path))


def joined(top: str, path: str) -> str:
    """Where a video is whose path is relative to `top`, or absolute, or a URL."""
    if is_url(path) or os.path.isabs(path):
        return path
    return f'{top.rstrip("/")}/{path}' if is_url(top) else os.path.join(top, path)


@dataclasses.dataclass(frozen=True)
class Disk(Folder):
    """A folder on a disk."""

    path: str

    def exists(self) -> bool:
        return os.path.isdir(self.path)

    def make(self) -> None:
        os.makedirs(self.path, exist_ok=True)

    def names(self) -> set[str]:
        try:
            return set(os.listdir(self.path))
        except (FileNotFoundError, NotADirectoryError):
            return set()

    def sizes(self, names: Sequence[str]) -> list[int | None]:
        def size(name):
            with contextlib.suppress(FileNotFoundError):
                return os.path.getsize(os.path.join(self.path, name))

        return [size(name) for name in names]

    def read(self, names: Sequence[str]) -> list[bytes | None]:
        def content(name):
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                return pathlib.Path(self.path, name).read_bytes()

        return [content(name) for name in names]

    def write(self, name: str, content: str | bytes) -> None:
        records.write_atomically(pathlib.Path(self.path, name), content)

    def take(self, file: pathlib.Path, name: str) -> None:
        os.replace(file, os.path.join(self.path, name))

    def remove(self, names: Sequence[str]) -> None:
        for name in names:
            pathlib.Path(self.path, name).unlink(missing_ok=True)

    def remove_all(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)


@dataclasses.dataclass(frozen=True)
class Bucket(Folder):
    """A folder in a bucket, or rather what begins like this."""

    path: str

    def exists(self) -> bool:
        with _told('read', self.path):
            return _files(self.path).isdir(self.path)

    def make(self) -> None:
        """Buckets have no folders."""

    def names(self) -> set[str]:
        return {os.path.basename(entry['name'].rstrip('/')) for entry in self._list()}

    def sizes(self, names: Sequence[str]) -> list[int | None]:
        # One listing, instead of a request for each.
        found = {os.path.basename(entry['name']): entry['size'] for entry in self._list()}
        return [found.get(name) for name in names]

    def read(self, names: Sequence[str]) -> list[bytes | None]:
        with _told('read', self.path):
            urls = [f'{self.path}/{name}' for name in names]
            # All at once.
            found = _files(self.path).cat(urls, on_error='return') if urls else {}
            contents = {os.path.basename(key): content for key, content in found.items()}
            for content in contents.values():
                if isinstance(content, Exception) and not isinstance(content, FileNotFoundError):
                    raise content
            return [c if isinstance(c := contents.get(name), bytes) else None for name in names]

    def write(self, name: str, content: str | bytes) -> None:
        content = content.encode() if isinstance(content, str) else content
        with _told('written', f'{self.path}/{name}'):
            _files(self.path).pipe_file(f'{self.path}/{name}', content)

    def take(self, file: pathlib.Path, name: str) -> None:
        with _told('written', f'{self.path}/{name}'):
            _files(self.path).put_file(os.fspath(file), f'{self.path}/{name}')
        file.unlink()

    def remove(self, names: Sequence[str]) -> None:
        with _told('removed', self.path):
            for name in self.names() & set(names):
                _files(self.path).rm_file(f'{self.path}/{name}')

    def remove_all(self) -> None:
        with _told('removed', self.path), contextlib.suppress(FileNotFoundError):
            _files(self.path).rm(self.path, recursive=True)

    def _list(self) -> list[dict[str, Any]]:
        files = _files(self.path)
        with _told('read', self.path), contextlib.suppress(FileNotFoundError):
            files.invalidate_cache()  # Others write here as well.
            return files.ls(self.path, detail=True)
        return []


# --- Videos. ---


@contextlib.contextmanager
def video_at(path: str) -> Iterator[str | BinaryIO]:
    """A video in the form in which `vjax.data.video` takes it: a path on a disk, or an open file.

    A video of a bucket that is a folder of images is copied to this machine for the time.

    Raises:
        FileNotFoundError: nothing of this name is in the bucket.
        UserError: the bucket could not be read, which an error of a decoder may only be the result of.
    """
    if not is_url(path):
        yield path
        return
    files = _files(path)
    with _told('read', path):
        is_folder = files.info(path)['type'] == 'directory'
    if is_folder:
        with tempfile.TemporaryDirectory(prefix='vjax-') as copy:
            with _told('read', path):
                files.get(f'{path.rstrip("/")}/', f'{copy}/frames/', recursive=True)
            yield f'{copy}/frames'
        return
    with _told('read', path):
        watched = _Watched(files.open(path, 'rb', **_PIECES), path)
    with io.BufferedReader(watched) as file:
        try:
            yield file
        finally:
            if watched.failure is not None:
                raise watched.failure


class _Watched(io.RawIOBase):
    """A file of a bucket that keeps the error by which reading failed: decoders call it a bad video."""

    mode = 'rb'

    def __init__(self, file: Any, path: str):
        super().__init__()
        self._file, self.name = file, path
        self.failure: UserError | None = None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:
        try:
            with _told('read', self.name):
                content = self._file.read(len(buffer))
        except UserError as error:
            self.failure = error
            raise
        buffer[: len(content)] = content
        return len(content)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def close(self) -> None:
        self._file.close()
        super().close()


# --- Backends. ---


def _files(url: str) -> Any:
    """The fsspec file system of a URL; fsspec keeps one for all of a kind."""
    import fsspec  # Only here: it takes a while, and most paths are on a disk.

    scheme = url.partition('://')[0]
    try:
        return fsspec.filesystem(scheme)
    except ImportError as error:
        raise UserError(
            f'{url}: {scheme}:// needs a package that is not installed ({error}); '
            f"pip install 'vjax[cloud]' has those for gs:// and s3://."
        ) from error
    except ValueError as error:
        raise UserError(f'{url}: {scheme}:// is not known; there are gs:// and s3://.') from error
    except Exception as error:
        raise _sentence('read', url, error) from error


@contextlib.contextmanager
def _told(done: str, url: str) -> Iterator[None]:
    """Makes a UserError of a backend's errors, of which each has its own; missing files stay that."""
    try:
        yield
    except (UserError, FileNotFoundError):
        raise
    except Exception as error:
        raise _sentence(done, url, error) from error


def _sentence(done: str, url: str, error: Exception) -> UserError:
    reason = ' '.join(str(error).split()).rstrip('.')
    return UserError(
        f'{url} cannot be {done}: {type(error).__name__}{f": {reason}" if reason else ""}; what is '
        f'finished is kept, and the same command goes on.'
    )
