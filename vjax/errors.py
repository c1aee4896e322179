"""What is meant for the person at the keyboard."""

import errno
import os


class UserError(Exception):
    """Bad input or a bad environment, said in one sentence that names the thing and the likely fix.

    Entry points print it as `error: ...` and exit with code 2; anything else is a bug and keeps its
    traceback.
    """


def explanation(error: BaseException) -> str | None:
    """What a person can mend, in one sentence; None of an error that is a bug.

    Beside a UserError that is what the file system refuses.
    """
    match error:
        case UserError():
            return str(error)
        case OSError(errno=errno.ENOSPC | errno.EDQUOT):
            return _full_disk(error.filename)
        case OSError(errno=errno.EACCES | errno.EPERM | errno.EROFS | errno.ENOTDIR | errno.EISDIR):
            return f'cannot read or write {error.filename}: {error.strerror}.'
    return None


def _full_disk(filename: str | os.PathLike | None) -> str:
    """The sentence for a full disk, with the file that did not fit where it is known."""
    what = f'could not write {os.fspath(filename)}' if filename else 'a file could not be written'
    return f'the disk is full: {what}; free some space and run the same command again.'
