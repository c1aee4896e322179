"""Locks by which runs on one file system keep out of each other's way. They go with their process.

Files are locked rather than folders, which NFS cannot. Where a file system has no locks at all, and in
buckets, nothing is kept apart: two runs of one split then do its work twice, with the same result.
"""

import contextlib
import errno
import fcntl
import os
import re
from collections.abc import Iterator
from typing import Any

from vjax.data.preparation import storage
from vjax.errors import UserError, cannot_make
from vjax.locks import locked

_NAME = '.lock'


@contextlib.contextmanager
def exclusive(out: storage.Folder) -> Iterator[None]:
    """Waits until nobody else plans or finishes a split in the folder `out`, which is made."""
    try:
        out.make()
    except OSError as error:
        raise UserError(f"--out='{out.path}': {cannot_make(out.path, error)}.") from error
    file = None if storage.is_url(out.path) else _wait(os.path.join(out.path, _NAME))
    try:
        yield
    finally:
        if file is not None:
            with contextlib.suppress(OSError):
                os.unlink(os.path.join(out.path, _NAME))
            os.close(file)


def _wait(path: str) -> int | None:
    """Opens and locks a file that its holder deletes; None where the folder cannot be written."""
    while True:
        try:
            file = os.open(path, os.O_RDWR | os.O_CREAT)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EROFS):  # A complete split needs no writing.
                return None
            raise
        with contextlib.suppress(OSError):  # A file system without locks.
            fcntl.flock(file, fcntl.LOCK_EX)
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file), os.stat(path)):
                return file
        os.close(file)


def claim(
    partial: storage.Folder, task: int, num_tasks: int
) -> contextlib.AbstractContextManager[Any]:
    """Takes a task of a split until the result is left; a whole run is task 0 of 1.

    The caller is alone, by `exclusive`. Tasks of one job array do not keep each other out.

    Args:
        partial: folder of the unfinished split.

    Raises:
        UserError: another process has the same task, or one of another division into tasks.
    """
    if storage.is_url(partial.path):
        return contextlib.nullcontext()
    ours = f'task-{task}-of-{num_tasks}.lock'
    for name in sorted(partial.names()):
        found = re.fullmatch(r'task-(\d+)-of-(\d+)\.lock', name)
        if not found or (int(found[2]) == num_tasks and name != ours):
            continue
        with open(os.path.join(partial.path, name), 'r+b') as file:
            if not locked(file):
                which = '' if found[2] == '1' else f' (--num_tasks={found[2]} --task={found[1]})'
                raise UserError(
                    f'another run of vjax.prepare{which} is writing to {partial.path}; wait until it '
                    f'is done.'
                )
    file = open(os.path.join(partial.path, ours), 'wb')  # noqa: SIM115  The caller closes it.
    locked(file)
    return file
