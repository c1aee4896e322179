"""Locks of files, by which processes on one file system keep out of each other's way.

They go with their process, however it ends. Where a file system has no locks, nothing is kept apart.
"""

import fcntl
from typing import Any


def locked(file: Any) -> bool:
    """Locks an open file until it is closed; False where another process has it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass  # A file system without locks.
    return True
