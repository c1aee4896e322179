"""Flax's old checkpoints are read as data: what was asked for, and one sentence if they are damaged."""

import contextlib
import tracemalloc

import flax.serialization
import ml_dtypes
import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vjax.errors import UserError
from vjax.weights.files import msgpack as reader

TREE = {
    'params': {
        'dense': {'kernel': np.arange(6, dtype='f').reshape(2, 3), 'bias': np.zeros(3, 'f')},
        'half': np.ones(2, ml_dtypes.bfloat16),
        'scalar': np.float64(3.5),
        'empty': np.zeros((0, 4), np.int64),
    },
    'opt_state': {'0': {'trace': np.ones((2, 3), 'f')}, '1': {}},
    'global_step': 7,
}


def read(data, path, subtrees=('params',)):
    path.write_bytes(data)
    return reader.read(path, subtrees)


def packed(shape, dtype, buffer, code=1):
    """An array as flax packs it, with whatever it claims."""
    return msgpack.ExtType(code, msgpack.packb((shape, dtype, buffer), use_bin_type=True))


def test_reads_what_was_asked_for_and_names_the_rest(tmp_path):
    arrays, skipped = read(flax.serialization.to_bytes(TREE), tmp_path / 'checkpoint')
    assert skipped == ['opt_state', 'global_step']
    assert list(arrays) == [
        'params/dense/kernel',
        'params/dense/bias',
        'params/half',
        'params/scalar',
        'params/empty',
    ]
    for name, expected in {
        'params/dense/kernel': TREE['params']['dense']['kernel'],
        'params/half': TREE['params']['half'],
        'params/scalar': np.asarray(3.5),
        'params/empty': TREE['params']['empty'],
    }.items():
        assert arrays[name].dtype == expected.dtype
        np.testing.assert_array_equal(arrays[name], expected)


def test_finds_subtrees_below_others(tmp_path):
    tree = {'optimizer': {'state': {'step': 3}, 'target': TREE['params']}, 'rng': np.zeros(2, 'I')}
    data = flax.serialization.to_bytes(tree)
    arrays, skipped = read(data, tmp_path / 'a', ('optimizer/target', 'params'))
    assert len(arrays) == 5
    assert 'optimizer/target/dense/bias' in arrays
    assert skipped == ['optimizer/state', 'rng']
    assert read(data, tmp_path / 'b', ('nothing',)) == ({}, ['optimizer', 'rng'])


def test_an_array_in_chunks_is_whole_again(tmp_path, monkeypatch):
    monkeypatch.setattr(flax.serialization, 'MAX_CHUNK_SIZE', 40)
    kernel = np.arange(35, dtype='f').reshape(5, 7)
    data = flax.serialization.to_bytes({'params': {'kernel': kernel}})
    assert b'__msgpack_chunked_array__' in data
    arrays, _ = read(data, tmp_path / 'checkpoint')
    np.testing.assert_array_equal(arrays['params/kernel'], kernel)


@pytest.fixture(scope='module')
def scratch(tmp_path_factory):
    return tmp_path_factory.mktemp('msgpack') / 'checkpoint'


def test_every_truncation_is_said_to_be_one(scratch):
    data = flax.serialization.to_bytes(TREE)
    for length in range(len(data)):
        with pytest.raises(UserError, match=rf'truncated: it ends.* after {length} bytes'):
            read(data[:length], scratch)


@settings(max_examples=40, deadline=None)
@given(place=st.integers(0, 2**16), byte=st.integers(0, 255))
def test_a_changed_byte_is_an_array_or_one_sentence(scratch, place, byte):
    data = bytearray(flax.serialization.to_bytes(TREE))
    data[place % len(data)] = byte
    with contextlib.suppress(UserError):
        arrays, _ = read(bytes(data), scratch)
        assert all(isinstance(array, np.ndarray) for array in arrays.values())


@settings(max_examples=40, deadline=None)
@given(st.binary(max_size=64))
def test_any_bytes_are_one_sentence(scratch, data):
    with contextlib.suppress(UserError):
        read(b'\x81\xa6params' + data, scratch)


OBJECTS = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=40)
    | st.binary(max_size=300)
    | st.builds(msgpack.ExtType, st.integers(0, 127), st.binary(max_size=20)),
    lambda inner: st.lists(inner, max_size=20) | st.dictionaries(st.text(max_size=3), inner),
)


@settings(max_examples=40, deadline=None)
@given(before=OBJECTS, after=OBJECTS)
def test_any_object_is_passed_over(scratch, before, after):
    data = msgpack.packb({'before': before, 'params': {'a': ONES}, 'after': after})
    arrays, skipped = read(data, scratch)
    assert list(arrays) == ['params/a']
    assert skipped == ['before', 'after']


CHUNKS = {'__msgpack_chunked_array__': True, 'shape': {'0': 2}}
ONES = packed((2,), 'float32', bytes(8))
LYING = {
    'more bytes than claimed': (packed((2, 3), 'float32', bytes(20)), '20 bytes do not make'),
    'sizes that overflow': (packed((2**40, 2**40), 'int8', b''), 'bytes do not make'),
    'sizes that overflow beside a 0': (packed((2**62, 0, 4), 'int8', b''), 'a size of 4611686'),
    'a size below 0': (packed((-1,), 'int8', bytes(255)), 'found negative number'),
    'one further below': (packed((-(2**40),), 'int8', b''), 'found negative number'),
    'a fraction of a size': (packed((0.5,), 'int8', b''), 'found fraction, not number'),
    'a size that is no number': (packed(('3',), 'float32', b''), 'found text, not number'),
    'a huge rank': (packed((1,) * 60, 'int8', b'1'), '60 axes'),
    'objects': (packed((1,), 'object', bytes(8)), "'object' is not a dtype of numbers"),
    'a dtype made up': (packed((1,), 'f4,(2)O', bytes(8)), 'not a dtype of numbers'),
    'a dtype of 4 kB': (packed((1,), 'f' * 4096, bytes(8)), 'a name has 4096 bytes'),
    'no array inside': (msgpack.ExtType(1, msgpack.packb(5)), 'found number, not list'),
    'two parts inside': (
        msgpack.ExtType(1, msgpack.packb(([1], 'int8'))),
        'shape, dtype and bytes',
    ),
    'bytes behind it': (msgpack.ExtType(1, ONES.data + b'1'), 'longer or shorter'),
    'garbage inside': (msgpack.ExtType(1, b'\xc1'), 'the byte 0xc1 has no meaning'),
    'a list': ([1, 2], r"in 'params/a': found list, not an array"),
    'text': ('weights', r"in 'params/a': found text, not an array"),
    'another extension': (msgpack.ExtType(9, b'1'), 'found extension, not an array'),
    'chunks out of order': ({**CHUNKS, 'chunks': {'1': ONES}}, 'not in order'),
    'chunks of another size': (
        {**CHUNKS, 'chunks': {'0': ONES, '1': ONES}},
        '2 chunks do not make',
    ),
    'chunks that are none': ({**CHUNKS, 'chunks': {'0': 'a'}}, 'found text, not an array'),
    'no chunks': ({**CHUNKS, 'chunks': {}}, '0 chunks do not make'),
    'more than chunks': ({**CHUNKS, 'more': {}}, "'more' is no part"),
    'chunks of 60 axes': (
        {**CHUNKS, 'shape': {str(i): 1 for i in range(60)}, 'chunks': {'0': ONES}},
        'an array of 60 axes',
    ),
}


@pytest.mark.parametrize('case', LYING)
def test_what_lies_is_one_sentence(case, tmp_path):
    leaf, message = LYING[case]
    data = msgpack.packb({'params': {'a': leaf}})
    with pytest.raises(UserError, match=message):
        read(data, tmp_path / 'checkpoint')


LEAF = b'\xa1a' + msgpack.packb(ONES)
BYTES = {
    'another kind of file': (b'PK\x03\x04', 'found number, not map'),
    'a list at its root': (b'\x91\x01', 'found list, not map'),
    'a found number, not a map': (
        b'\x81\xa9optimizer\x05',
        "in 'optimizer': found number, not map",
    ),
    'a name twice': (b'\x81\xa6params\x82' + 2 * LEAF, "'a' is there twice"),
    'a name twice at the root': (b'\x82' + 2 * (b'\xa6params\x81' + LEAF), "'params' is there"),
    'two ways to a name': (
        b'\x81\xa6params\x82\xa1a\x81\xa1b' + LEAF[2:] + b'\xa3a/b' + LEAF[2:],
        "'params/a/b' is there twice",
    ),
    'a number for a name': (b'\x81\xa6params\x81\x05\x06', 'found number, not text'),
    'a map for a name': (b'\x81\xa6params\x81\x80\x06', 'found map, not text'),
    'a name that is not UTF-8': (b'\x81\xa2\xff\xff\x06', "can't decode"),
    'a name of 4 GB': (b'\x81\xdb\xff\xff\xff\xff', 'a name has 4294967295 bytes'),
    'a list of 4 billion': (b'\x81\xa1a\xdd\xff\xff\xff\xff', 'truncated'),
    'a map of 4 billion': (b'\x81\xa6params\xdf\xff\xff\xff\xff', 'truncated'),
    'an array of 4 GB': (b'\x81\xa6params\xc9\xff\xff\xff\xff\x01', 'truncated'),
    'maps within maps': (b'\x81\xa6params' + b'\x81\xa1a' * 100 + b'\xc0', 'more than 32 deep'),
    'lists within lists': (b'\x81\xa6params' + b'\x91' * 10**4, 'found list, not an array'),
    'the same unread': (b'\x81\xa3opt' + b'\x91' * 10**4, 'truncated'),
    'more behind its end': (b'\x81\xa6params\x80\x00', '1 bytes follow'),
}


@pytest.mark.parametrize('case', BYTES)
def test_what_is_malformed_is_one_sentence(case, tmp_path):
    data, message = BYTES[case]
    tracemalloc.start()
    with pytest.raises(UserError, match=message):
        read(data, tmp_path / 'checkpoint', ('params', 'optimizer/target'))
    assert tracemalloc.get_traced_memory()[1] < 2**17
    tracemalloc.stop()


def test_what_is_skipped_takes_no_memory(tmp_path):
    """64 MB of an optimiser's state beside 16 kB of parameters."""
    path, size = tmp_path / 'checkpoint', 2**24
    leaf = b'\xc9' + size.to_bytes(4, 'big') + b'\x01'
    with open(path, 'wb') as file:
        file.write(b'\x82\xa9opt_state\x84')
        for name in b'0123':
            file.write(b'\xa1' + bytes([name]) + leaf)
            file.seek(size, 1)
        file.write(b'\xa6params' + msgpack.packb({'a': packed((4096,), 'float32', bytes(2**14))}))
    tracemalloc.start()
    arrays, skipped = reader.read(path, ('params',))
    assert tracemalloc.get_traced_memory()[1] < 2**17
    tracemalloc.stop()
    assert skipped == ['opt_state']
    assert arrays['params/a'].shape == (4096,)


def test_a_file_that_cannot_be_read(tmp_path):
    for path, message in ((tmp_path / 'gone', 'No such file'), (tmp_path, 'Is a directory')):
        with pytest.raises(UserError, match=f'cannot be read: {message}'):
            reader.read(path, ())
