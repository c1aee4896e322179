"""Arrays come out of an .npz as they went in; what is damaged, or asks to be unpickled, is one sentence."""

import contextlib
import io
import pickle
import tracemalloc
import zipfile

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vjax.errors import UserError
from vjax.weights.files import npz

ARRAYS = {
    'a/kernel': np.arange(6, dtype='f').reshape(2, 3),
    'a/fortran': np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    'big_endian': np.arange(3, dtype='>f4'),
    'half': np.arange(4).astype(ml_dtypes.bfloat16),
    'scalar': np.int64(3),
    'empty': np.zeros((0, 4), 'f'),
}


def saved(arrays, save=np.savez):
    file = io.BytesIO()
    save(file, **arrays)
    return file.getvalue()


def header(shape, dtype="'<f4'"):
    text = f"{{'descr': {dtype}, 'fortran_order': False, 'shape': {shape}}}".encode()
    return b'\x93NUMPY\x01\x00' + len(text).to_bytes(2, 'little') + text


def zipped(entries, compression=zipfile.ZIP_STORED):
    """A zip of entries that need not be arrays."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, 'w', compression) as archive:
        for name, data in entries:
            archive.writestr(name, data)
    return file.getvalue()


@pytest.fixture
def path(tmp_path):
    return tmp_path / 'weights.npz'


@pytest.mark.parametrize('save', [np.savez, np.savez_compressed])
def test_reads_what_numpy_wrote(path, save):
    path.write_bytes(saved(ARRAYS, save))
    found = npz.read(path)
    assert npz.names(path) == list(found) == list(ARRAYS)
    for name, expected in ARRAYS.items():
        assert found[name].dtype == expected.dtype.newbyteorder('=')
        np.testing.assert_array_equal(found[name], expected)


def test_reads_only_what_is_wanted(path):
    path.write_bytes(saved({**ARRAYS, 'objects': np.array([{}], object)}))
    assert list(npz.read(path, lambda name: name.startswith('a/'))) == ['a/kernel', 'a/fortran']


class Trap:
    """Runs when it is unpickled."""

    sprung = False

    def __reduce__(self):
        return setattr, (Trap, 'sprung', True)


def test_runs_no_code(path):
    path.write_bytes(saved({'a': np.array([Trap()], object)}))
    with pytest.raises(UserError, match=r"'a' cannot be read: it is of Python objects"):
        npz.read(path)
    path.write_bytes(pickle.dumps(Trap()))
    with pytest.raises(UserError, match=r'not an .npz file, which'):
        npz.read(path)
    path.write_bytes(zipped([('a.npy', pickle.dumps(Trap()))]))
    with pytest.raises(UserError, match="'a' cannot be read"):
        npz.read(path)
    assert not Trap.sprung
    pickle.loads(pickle.dumps(Trap()))
    assert Trap.sprung


FILES = {
    'a single array': (header('(1,)') + bytes(4), 'a single array'),
    'text': (b'not a zip', 'not an .npz file'),
    'nothing': (b'', 'not an .npz file'),
    'no arrays': (zipped([('readme.txt', b'')]), "an entry 'readme.txt', which is no array"),
    'text arrays': (saved({'a': np.array(['x'])}), 'is of <U1 and not of numbers'),
    'structures': (saved({'a': np.zeros(2, 'f4,f4')}), 'not of numbers'),
    'dates': (saved({'a': np.zeros(2, 'M8[s]')}), 'not of numbers'),
    'a huge shape of no bytes': (zipped([('a.npy', header('(9**18,)', "'S0'"))]), 'cannot be read'),
    'more than is there': (zipped([('a.npy', header('(2**40,)') + bytes(8))]), 'no header'),
    'much more than is there': (
        zipped([('a.npy', header('(1099511627776,)') + bytes(8))]),
        'says 4398046511104 bytes, a float32 array of shape .1099511627776,., and there are 8',
    ),
    'less than is there': (zipped([('a.npy', header('(1,)') + bytes(8))]), 'and there are 8'),
    'a size below 0': (zipped([('a.npy', header('(-1, -2)') + bytes(8))]), 'there are 8'),
    'a header that is deep': (
        zipped([('a.npy', header('-' * 6000 + '1'))]),
        'its header is no header',
    ),
    'a header that is code': (zipped([('a.npy', header('open("x", "w")'))]), 'no header'),
    'a header of another version': (
        zipped([('a.npy', b'\x93NUMPY\x09\x00' + header('()')[8:])]),
        'version 9.0',
    ),
    'another compression': (
        zipped([('a.npy', header('()') + bytes(4))], zipfile.ZIP_LZMA),
        'compressed in a way',
    ),
}


@pytest.mark.parametrize('case', FILES)
def test_what_is_malformed_is_one_sentence(case, path):
    data, message = FILES[case]
    path.write_bytes(data)
    tracemalloc.start()
    with pytest.raises(UserError, match=message) as caught:
        npz.read(path)
    assert tracemalloc.get_traced_memory()[1] < 2**23
    tracemalloc.stop()
    assert '\n' not in str(caught.value)


@pytest.mark.filterwarnings('ignore:Duplicate name')
def test_a_name_twice(path):
    path.write_bytes(zipped([('a.npy', header('()') + bytes(4))] * 2))
    with pytest.raises(UserError, match="has the array 'a' twice"):
        npz.read(path)


def test_a_bomb_is_not_unpacked(path, monkeypatch):
    monkeypatch.setattr(npz, '_SMALL', 1 << 16)
    size = 1 << 22
    data = header(f'({size // 4},)') + bytes(size)
    path.write_bytes(zipped([('a.npy', data)], zipfile.ZIP_DEFLATED))
    tracemalloc.start()
    with pytest.raises(UserError, match=r'would unpack \d{4} bytes to 4194\d{3}'):
        npz.read(path)
    assert tracemalloc.get_traced_memory()[1] < size / 8
    tracemalloc.stop()
    path.write_bytes(zipped([('a.npy', data)]))
    assert npz.read(path)['a'].nbytes == size


@pytest.mark.parametrize('save', [np.savez, np.savez_compressed])
def test_every_truncation_is_one_sentence(path, save):
    data = saved({name: ARRAYS[name] for name in ('a/kernel', 'half')}, save)
    for length in range(len(data)):
        path.write_bytes(data[:length])
        with pytest.raises(UserError, match=r'truncated or damaged|is not an .npz'):
            npz.read(path)


@pytest.fixture(scope='module')
def scratch(tmp_path_factory):
    return tmp_path_factory.mktemp('npz') / 'weights.npz'


@settings(max_examples=60, deadline=None)
@given(
    place=st.integers(0, 2**16),
    byte=st.integers(0, 255),
    save=st.sampled_from([np.savez, np.savez_compressed]),
)
def test_a_changed_byte_is_an_array_or_one_sentence(scratch, place, byte, save):
    data = bytearray(saved(ARRAYS, save))
    data[place % len(data)] = byte
    scratch.write_bytes(data)
    with contextlib.suppress(UserError):
        assert all(isinstance(array, np.ndarray) for array in npz.read(scratch).values())


def test_a_file_that_cannot_be_read(tmp_path):
    with pytest.raises(UserError, match='cannot be read: No such file'):
        npz.read(tmp_path / 'gone')
    with pytest.raises(UserError, match='is a folder'):
        npz.names(tmp_path)
