"""State dicts in msgpack, as flax wrote its checkpoints before Orbax.

A file is one map of maps whose leaves are arrays: extensions of type 1 (of type 3 for a scalar) that
hold a list of shape, name of the dtype and bytes. An array above 1 GiB is a map of flat chunks instead.

The format (github.com/msgpack/msgpack, spec.md) says how long everything is before it comes, so that
what nobody wants is passed over without being read, and what is wanted goes from the file into the
array's own memory. The `msgpack` package would hold each leaf several times, wanted or not.
"""

import math
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import ml_dtypes
import numpy as np

from vjax.errors import UserError

_ARRAYS = (1, 3)
_CHUNKED = '__msgpack_chunked_array__'
_DTYPES = {
    name: np.dtype(getattr(ml_dtypes, name, name))
    for name in (
        *('bool', 'int8', 'int16', 'int32', 'int64', 'uint8', 'uint16', 'uint32', 'uint64'),
        *('float16', 'bfloat16', 'float32', 'float64', 'complex64', 'complex128'),
    )
}
_MAX_DEPTH, _MAX_RANK, _MAX_NAME = 32, 32, 1024


def read(path: Path, subtrees: Collection[str]) -> tuple[dict[str, np.ndarray], list[str]]:
    """The arrays of some subtrees, and the names of the others, which are passed over.

    Args:
      path: The file.
      subtrees: Their names, such as 'optimizer/target'. They may be missing.

    Returns:
      'optimizer/target/encoder/scale' -> array, and names such as 'optimizer/state' of the largest
      subtrees that hold nothing that was asked for.

    Raises:
      UserError: the file is truncated, damaged or of another kind, or a leaf of the subtrees is no
        array.
    """
    arrays, skipped, here = {}, [], ['']
    try:
        file = open(path, 'rb')  # noqa: SIM115
    except OSError as error:
        raise UserError(f'{path} cannot be read: {error.strerror}.') from None
    with file:
        stream = _Stream(file, path.stat().st_size)
        try:
            _walk(stream, '', frozenset(subtrees), arrays, skipped, here)
            if stream.left():
                raise ValueError(f'{stream.left()} bytes follow its end')
        except EOFError:
            where = f' in {here[-1]!r}' if here[-1] else ''
            raise UserError(
                f'{path} is truncated: it ends{where} after {stream.size} bytes; get it again.'
            ) from None
        except ValueError as error:
            where = f', in {here[-1]!r}' if here[-1] else ''
            raise UserError(f'{path} is no msgpack checkpoint of flax{where}: {error}.') from None
    return arrays, skipped


class _Header(NamedTuple):
    """What comes next in a file.

    Attributes:
      kind: 'map', 'list', 'text', 'bytes', 'number', 'negative number', 'fraction', 'nothing', or
        'extension'.
      size: How many entries follow for maps and lists, how many bytes for others.
      code: An extension's type.
    """

    kind: str
    size: int
    code: int = 0


# First byte -> kind, and in how many bytes the size comes, for those whose size is not in the byte.
_LONG = {
    **{0xC4 + i: ('bytes', 1 << i) for i in range(3)},
    **{0xC7 + i: ('extension', 1 << i) for i in range(3)},
    **{0xD9 + i: ('text', 1 << i) for i in range(3)},
    **{0xDC + i: ('list', 2 << i) for i in range(2)},
    **{0xDE + i: ('map', 2 << i) for i in range(2)},
}
# First byte -> kind and size of what is of one size. Nil, false and true are nothing.
_FIXED = {
    **dict.fromkeys((0xC0, 0xC2, 0xC3), ('nothing', 0)),
    **{0xCA + i: ('fraction', 4 << i) for i in range(2)},
    **{0xCC + i: ('number', 1 << i) for i in range(4)},
    **{0xD0 + i: ('negative number', 1 << i) for i in range(4)},
    **{0xD4 + i: ('extension', 1 << i) for i in range(5)},
}


class _Stream:
    """A file in msgpack, read from front to back.

    Everything raises an EOFError where the file ends too early, before memory is taken for it, and a
    ValueError where it is something else than asked for.
    """

    def __init__(self, file: BinaryIO, size: int):
        self.file, self.size = file, size

    def left(self) -> int:
        """How many bytes follow."""
        return self.size - self.file.tell()

    def take(self, size: int) -> bytes:
        """The next bytes, few of them."""
        data = self.file.read(size)
        if len(data) < size:
            raise EOFError
        return data

    def header(self) -> _Header:
        """What comes next."""
        (byte,) = self.take(1)
        if byte <= 0x7F or byte >= 0xE0:
            self.file.seek(-1, 1)  # The number itself.
            return _Header('number' if byte <= 0x7F else 'negative number', 1)
        if byte <= 0x8F:
            return _Header('map', byte & 0xF)
        if byte <= 0x9F:
            return _Header('list', byte & 0xF)
        if byte <= 0xBF:
            return _Header('text', byte & 0x1F)
        if byte in _FIXED:
            kind, size = _FIXED[byte]
        elif byte in _LONG:
            kind, length = _LONG[byte]
            size = int.from_bytes(self.take(length), 'big')
        else:
            raise ValueError(f'the byte {byte:#x} has no meaning')
        return _Header(kind, size, self.take(1)[0] if kind == 'extension' else 0)

    def skip(self) -> None:
        """Passes over the next object."""
        objects = 1
        while objects:
            kind, size, _ = self.header()
            objects -= 1
            if kind in ('map', 'list'):
                objects += 2 * size if kind == 'map' else size
            elif size > self.left():
                raise EOFError
            else:
                self.file.seek(size, 1)

    def expect(self, *kinds: str) -> int:
        """The size of the next object, which has to be of one of these kinds."""
        header = self.header()
        if header.kind not in kinds:
            raise ValueError(f'found {header.kind}, not {kinds[0]}')
        return header.size

    def text(self) -> str:
        """The next object, a name."""
        size = self.expect('text', 'bytes')
        if size > _MAX_NAME:
            raise ValueError(f'a name has {size} bytes')
        return self.take(size).decode()

    def extent(self) -> int:
        """The next object, a size in the shape of an array."""
        size = int.from_bytes(self.take(self.expect('number')), 'big')
        if size >= 1 << 48:  # NumPy refuses sizes whose product overflows, even beside a 0.
            raise ValueError(f'an array has a size of {size}')
        return size

    def array(self, size: int) -> np.ndarray:
        """The array in the next `size` bytes."""
        end = self.file.tell() + size
        if size > self.left():
            raise EOFError
        if self.expect('list') != 3:
            raise ValueError('an array is not of shape, dtype and bytes')
        rank = self.expect('list')
        if rank > _MAX_RANK:
            raise ValueError(f'an array has {rank} axes')
        shape = [self.extent() for _ in range(rank)]
        name = self.text()
        if name not in _DTYPES:
            raise ValueError(f'{name!r} is not a dtype of numbers')
        size, dtype = self.expect('bytes', 'text'), _DTYPES[name]
        if math.prod(shape) * dtype.itemsize != size:
            raise ValueError(f'{size} bytes do not make a {name} array of shape {tuple(shape)}')
        if self.file.tell() + size != end:
            raise ValueError('an array is longer or shorter than its bytes')
        data = np.empty(size, np.uint8)
        if self.file.readinto(data) != size:
            raise EOFError
        return data.view(dtype).reshape(shape)


def _walk(
    stream: _Stream,
    prefix: str,
    subtrees: Collection[str],
    arrays: dict[str, np.ndarray],
    skipped: list[str],
    here: list[str],
) -> None:
    """Reads one map: wanted entries into `arrays`, names of others into `skipped`.

    `here` is left with the name of what could not be read.
    """
    for key in _keys(stream, stream.expect('map')):
        name = prefix + key
        here.append(name)
        if name in subtrees:
            _read_tree(stream, name, 0, arrays, here)
        elif any(subtree.startswith(f'{name}/') for subtree in subtrees):
            _walk(stream, f'{name}/', subtrees, arrays, skipped, here)
        else:
            stream.skip()
            skipped.append(name)
        here.pop()


def _keys(stream: _Stream, length: int) -> Iterator[str]:
    """The names in a map; whoever iterates reads what is called so."""
    seen = set()
    for _ in range(length):
        key = stream.text()
        if key in seen:
            raise ValueError(f'{key!r} is there twice')
        seen.add(key)
        yield key


def _read_tree(
    stream: _Stream, name: str, depth: int, arrays: dict[str, np.ndarray], here: list[str]
) -> None:
    """Reads the next object, an array or a map of them, into `arrays`."""
    kind, size, code = stream.header()
    if kind == 'extension' and code in _ARRAYS:
        leaf = stream.array(size)
    elif kind != 'map':
        raise ValueError(f'found {kind}, not an array')
    elif depth == _MAX_DEPTH:
        raise ValueError(f'maps are nested more than {_MAX_DEPTH} deep')
    else:
        leaf = None
        keys = _keys(stream, size)
        for key in keys:
            here.append(f'{name}/{key}')
            if key == _CHUNKED:
                stream.skip()
                leaf = _joined(stream, keys)
            else:
                _read_tree(stream, f'{name}/{key}', depth + 1, arrays, here)
            here.pop()
        if leaf is None:
            return
    if name in arrays:
        raise ValueError(f'{name!r} is there twice')
    arrays[name] = leaf


def _joined(stream: _Stream, keys: Iterator[str]) -> np.ndarray:
    """The array whose shape and chunks are called by the next two of the keys."""
    shape, chunks = [], []
    for key in keys:
        if key not in ('shape', 'chunks'):
            raise ValueError(f'{key!r} is no part of an array')
        for i, index in enumerate(_keys(stream, stream.expect('map'))):
            if index != str(i):
                raise ValueError(f'the {key} of an array is not in order')
            if key == 'shape':
                shape.append(stream.extent())
                continue
            kind, size, code = stream.header()
            if kind != 'extension' or code not in _ARRAYS:
                raise ValueError(f'found {kind}, not an array')
            chunks.append(stream.array(size))
    if (
        len(shape) > _MAX_RANK
        or len({(chunk.dtype, chunk.ndim) for chunk in chunks}) != 1
        or chunks[0].ndim != 1
        or sum(map(len, chunks)) != math.prod(shape)
    ):
        raise ValueError(f'{len(chunks)} chunks do not make an array of {len(shape)} axes')
    return np.concatenate(chunks).reshape(shape)
