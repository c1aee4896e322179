"""What is meant for the person at the keyboard."""

import errno
import os
from pathlib import Path


class UserError(Exception):
    """Bad input or a bad environment, said in one sentence that names the thing and the likely fix.

    Entry points print it as `error: ...` and exit with code 2; anything else, but `TryAgain`, is a bug
    and keeps its traceback.
    """


class TryAgain(Exception):
    """What may have passed when the same command is run again, said in one sentence.

    Entry points print it as `error: ...` and exit with code 1, after which launchers do.
    """


# Of the file system, which a person can mend.
REFUSALS = (
    *(errno.EACCES, errno.EPERM, errno.EROFS),
    *(errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG),
)


def explanation(error: BaseException) -> str | None:
    """What a person can mend, in one sentence; None of an error that is a bug.

    Beside a UserError that is what the file system refuses, and what does not fit in the devices' memory.
    """
    # By its name, as commands that need no jax do not wait for it.
    if type(error).__name__ == 'JaxRuntimeError' and 'RESOURCE_EXHAUSTED' in str(error):
        return (
            f"this does not fit in the devices' memory ({str(error).splitlines()[0][:200]}); try a smaller "
            'batch, and for training config.accumulate=2, config.model.remat=full or '
            'config.sharding.preset=fsdp.'
        )
    match error:
        case UserError():
            return str(error)
        case OSError(errno=errno.ENOSPC | errno.EDQUOT):
            return _full_disk(error.filename)
        case OSError(errno=code) if code in REFUSALS:
            return f'cannot read or write {error.filename}: {error.strerror}.'
    return None


def cannot_make(folder: str | os.PathLike, error: OSError) -> str:
    """Why a folder could not be made; a link that leads nowhere is said."""
    for each in (Path(folder), *Path(folder).parents):
        if each.is_symlink() and not each.exists():
            return f"the link '{each}' leads to '{os.readlink(each)}', which is not there"
        if each.is_file():
            return f"'{each}' is not a folder"
    return f'the folder cannot be made ({error.strerror})'


def _full_disk(filename: str | os.PathLike | None) -> str:
    """The sentence for a full disk, with the file that did not fit where it is known."""
    what = f'could not write {os.fspath(filename)}' if filename else 'a file could not be written'
    return f'the disk is full: {what}; free some space and run the same command again.'
