"""NumPy's .npz: a zip of arrays, by name."""

import io
import math
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import ml_dtypes
import numpy as np
from numpy.lib import format as npy

from vjax.errors import UserError

# An archive that unpacks to more than both of these is no file of weights, which hardly compress.
_MAX_RATIO, _SMALL = 100, 1 << 28
_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, NotImplementedError)


def read(path: Path, wanted: Callable[[str], bool] = lambda name: True) -> dict[str, np.ndarray]:
    """The arrays by name, in the order of the file.

    Args:
      path: The file.
      wanted: Whether an array of that name is to be read; the others cost nothing.

    Raises:
      UserError: the file is truncated, damaged or of another kind; or an array that is wanted is not of
        numbers, for example of Python objects, which only unpickling could read.
    """
    with _open(path) as archive:
        members = _members(path, archive)
        arrays = {}
        for name, member in members.items():
            if not wanted(name):
                continue
            try:
                with archive.open(member) as file:
                    arrays[name] = _array(file, member.file_size)
            except _DAMAGE as error:
                raise UserError(f'{path}: the array {name!r} cannot be read: {error}.') from None
    return arrays


def names(path: Path) -> list[str]:
    """The names of the arrays in the file.

    Raises:
      UserError: the file is truncated, damaged or of another kind.
    """
    with _open(path) as archive:
        return list(_members(path, archive))


def _open(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except (FileNotFoundError, PermissionError) as error:
        raise UserError(f'{path} cannot be read: {error.strerror}.') from None
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        reason = str(error)
    if path.is_dir():
        raise UserError(f'{path} is a folder and not an .npz file.')
    with open(path, 'rb') as file:
        start = file.read(len(npy.MAGIC_PREFIX))
    if start == npy.MAGIC_PREFIX:
        raise UserError(f'{path} is a single array (.npy) and not an .npz of named ones.')
    if start.startswith(b'PK\x03\x04'):
        raise UserError(f'{path} is a truncated or damaged .npz ({reason}); get it again.')
    raise UserError(f'{path} is not an .npz file, which is a zip of arrays.')


def _members(path: Path, archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """Name -> its entry, after a look at what the archive says of itself."""
    members = {}
    for member in archive.infolist():
        name = member.filename.removesuffix('.npy')
        if name in members:
            raise UserError(f'{path} has the array {name!r} twice.')
        if name == member.filename:
            raise UserError(f'{path} has an entry {name!r}, which is no array (.npy).')
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise UserError(f'{path}: {name!r} is compressed in a way that NumPy never writes.')
        if member.flag_bits & 1:
            raise UserError(f'{path}: {name!r} is encrypted.')
        members[name] = member
    total, size = sum(member.file_size for member in members.values()), path.stat().st_size
    if total > max(_SMALL, _MAX_RATIO * size):
        raise UserError(
            f'{path} would unpack {size} bytes to {total}, more than {_MAX_RATIO} times as many: that '
            'is no file of weights.'
        )
    return members


class _Header(NamedTuple):
    shape: tuple[int, ...]
    fortran_order: bool
    dtype: np.dtype


def _header(file: io.BufferedIOBase) -> _Header:
    version = npy.read_magic(file)
    headers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
    if version not in headers:
        raise ValueError(f'its format has the version {version[0]}.{version[1]}')
    try:
        return _Header(*headers[version](file))
    # NumPy parses it as a literal of Python: nested too deeply, for one, it is a RecursionError.
    except Exception as error:
        raise ValueError(f'its header is no header ({type(error).__name__})') from None


def _array(file: io.BufferedIOBase, size: int) -> np.ndarray:
    """The array in a file of `size` bytes, with a ValueError where that is not what its header says."""
    header = _header(file)
    if header.dtype.hasobject:
        raise ValueError(
            'it is of Python objects, which only unpickling could read, and that may run any code'
        )
    # NumPy has no bfloat16 and writes it as two bytes without a meaning.
    dtype = np.dtype(ml_dtypes.bfloat16) if header.dtype == np.dtype('V2') else header.dtype
    if dtype != ml_dtypes.bfloat16 and dtype.kind not in 'fiubc':
        raise ValueError(f'it is of {dtype} and not of numbers')
    expected = math.prod(header.shape) * dtype.itemsize
    if min(header.shape, default=0) < 0 or expected != size - file.tell():
        raise ValueError(
            f'its header says {expected} bytes, a {dtype} array of shape {header.shape}, and there are '
            f'{size - file.tell()}'
        )
    data = np.empty(expected, np.uint8)
    view, done = memoryview(data), 0
    while done < expected:
        count = file.readinto(view[done : done + (1 << 24)])
        if not count:
            raise EOFError('it is truncated')
        done += count
    if file.read(1):  # Reading to the end is what compares the checksum.
        raise ValueError('it is longer than the archive says')
    array = data.view(dtype).reshape(header.shape, order='F' if header.fortran_order else 'C')
    return array.astype(dtype.newbyteorder('='), copy=False)
