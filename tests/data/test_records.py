import dataclasses
import errno
import hashlib
import itertools
import json
import os
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vjax.data import index, records, stores, tfrecord
from vjax.errors import UserError


@pytest.fixture
def dataset(tmp_path):
    """Seven videos of three classes, in three shards of which one is empty."""
    videos = [[bytes([i]) * (i + 1)] * (i + 1) for i in range(7)]
    rows = [
        index.Entry(f'{i}.mp4', (i % 3,), (), len(v), 12.5, 48, 64, tuple(map(len, v)))
        for i, v in enumerate(videos)
    ]
    shards = records.shard_names('train', 3)
    for name, part in zip(shards, (videos[:4], [], videos[4:]), strict=True):
        with open(tmp_path / name, 'wb') as file:
            for frame in itertools.chain(*part):
                tfrecord.write(file, frame)
    encoded = index.encode(index.build([rows[:4], [], rows[4:]]))
    for name, content in zip(index.files('train'), encoded, strict=True):
        (tmp_path / name).write_bytes(content)
    split = records.Split(
        num_videos=7,
        num_rejected=0,
        num_frames=28,
        shards=tuple(shards),
        shard_bytes=tuple((tmp_path / name).stat().st_size for name in shards),
        index_bytes=tuple(map(len, encoded)),
        videos_per_class=(3, 2, 2),
        fingerprint='f' * 64,
        annotations_sha256='0' * 64,
    )
    classes = {'label': ('a', 'b', 'ü,c')}
    settings = {'store': 'frames', 'short_side': 48}
    made = records.Dataset(str(tmp_path), classes, settings, {'train': split}, False)
    records.write_description(made)
    return made, videos


def test_description_survives_the_disk(dataset):
    made, _ = dataset
    assert records.open_dataset(made.path) == made


def test_read_gives_any_frames_in_any_order(dataset):
    made, videos = dataset
    store = stores.open_store(made, 'train')
    assert len(store.index) == 7
    for i in (6, 0, 3, 4, 4):
        assert store.read(i, [i, 0, 0]) == [videos[i][i], videos[i][0], videos[i][0]]
    assert store.read(2, []) == []
    with pytest.raises(IndexError):
        store.read(1, [2])


def test_read_from_many_threads(dataset):
    made, videos = dataset
    store, wrong = stores.open_store(made, 'train'), []

    def work(offset):
        order = [(offset + i) % 7 for i in range(50)]
        wrong.extend(i for i in order if store.read(i, range(i + 1)) != videos[i])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_any_tfrecord_reader_reads_the_shards(dataset):
    import tensorflow as tf

    made, videos = dataset
    files = [f'{made.path}/{name}' for name in made.splits['train'].shards]
    read = [record.numpy() for record in tf.data.TFRecordDataset(files)]
    assert read == list(itertools.chain(*videos))


def test_a_damaged_index_is_one_sentence(dataset, tmp_path):
    made, _ = dataset
    for name in index.files('train'):
        content = (tmp_path / name).read_bytes()
        for damaged in (content[:-20], b'', b'PK' + content[:50]):
            (tmp_path / name).write_bytes(damaged)
            with pytest.raises(UserError, match="split 'train' of"):
                stores.open_store(made, 'train')
        (tmp_path / name).write_bytes(content)
    stores.open_store(made, 'train')
    fewer = dataclasses.replace(made.splits['train'], num_videos=8)
    with pytest.raises(UserError, match='its index has 7 videos instead of 8'):
        stores.open_store(dataclasses.replace(made, splits={'train': fewer}), 'train')
    heads = {'noun': ('a', 'b', 'c'), 'verb': ('d',)}
    with pytest.raises(UserError, match='has 7 labels'):
        stores.open_store(dataclasses.replace(made, classes=heads), 'train')


def test_open_dataset_names_what_is_wrong(dataset, tmp_path):
    made, _ = dataset
    with pytest.raises(UserError, match=r'no data set .*nowhere'):
        records.open_dataset(tmp_path / 'nowhere')
    (tmp_path / 'plain').mkdir()
    with pytest.raises(UserError, match='not a prepared data set'):
        records.open_dataset(tmp_path / 'plain')
    with pytest.raises(UserError, match=r"no split 'test'; it has train"):
        stores.open_store(made, 'test')
    shard = tmp_path / made.splits['train'].shards[0]
    content = shard.read_bytes()
    shard.write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=r'train-00000-of-00003\.tfrecord has .* bytes'):
        records.open_dataset(made.path)
    shard.write_bytes(content)
    sizes = tmp_path / 'train.sizes.npy'
    sizes.write_bytes(sizes.read_bytes() + b' ')
    with pytest.raises(UserError, match=r'train\.sizes\.npy has .* bytes'):
        records.open_dataset(made.path)
    shard.unlink()
    with pytest.raises(UserError, match=r'train-00000-of-00003\.tfrecord is missing'):
        records.open_dataset(made.path)


@pytest.mark.parametrize(
    ('change', 'words'),
    [
        (lambda text: text[:-30], 'damaged'),
        (lambda text: '[]', 'damaged'),
        (lambda text: text.replace('"classes"', '"clases"'), 'damaged'),
        (lambda text: text.replace('"version": 2', '"version": 9'), 'version 9'),
    ],
)
def test_a_damaged_description_is_one_sentence(dataset, tmp_path, change, words):
    file = tmp_path / records.DESCRIPTION
    file.write_text(change(file.read_text(encoding='utf-8')), encoding='utf-8')
    with pytest.raises(UserError, match=words):
        records.open_dataset(tmp_path)


def test_a_damaged_record_is_noticed_by_its_checksum(dataset, tmp_path):
    made, videos = dataset
    shard = tmp_path / made.splits['train'].shards[0]
    content = shard.read_bytes()
    at = content.index(videos[2][0])
    shard.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
    store = stores.open_store(made, 'train')
    assert store.read(2, [1, 2]) == videos[2][1:]
    with pytest.raises(tfrecord.DamagedRecord):
        store.read(2, [0])
    shard.write_bytes(content[:at])
    with pytest.raises(tfrecord.DamagedRecord):
        store.read(3, [0])


def test_write_atomically_leaves_the_old_file_or_the_new(tmp_path, monkeypatch):
    path = tmp_path / 'a.json'
    records.write_atomically(path, 'old')

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, 'fsync', full)
        with pytest.raises(OSError, match='No space') as error:
            records.write_atomically(path, 'new')
    assert error.value.filename == str(path)
    assert path.read_text() == 'old'
    records.write_atomically(path, 'néw\r\n')
    assert path.read_bytes() == 'néw\r\n'.encode()
    assert os.listdir(tmp_path) == ['a.json']


def test_any_name_of_a_file_can_be_written(tmp_path):
    longest = tmp_path / ('動' * 85)
    records.write_atomically(longest, os.fsdecode(b'caf\xe9.mp4'))
    assert longest.read_text(encoding='utf-8') == r'caf\udce9.mp4'


@given(num_rows=st.integers(1, 5000), num_shards=st.integers(1, 200))
def test_shards_share_out_every_row_once_in_order(num_rows, num_shards):
    parts = [records.shard_range(i, num_shards, num_rows) for i in range(num_shards)]
    assert [row for part in parts for row in part] == list(range(num_rows))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_fingerprint_changes_with_order_content_and_classes():
    one, two = '11' * 32, '22' * 32
    prints = {
        records.fingerprint({'label': ['a', 'b']}, [one, two]),
        records.fingerprint({'label': ['a', 'b']}, [two, one]),
        records.fingerprint({'label': ['a', 'b']}, [one]),
        records.fingerprint({'label': ['b', 'a']}, [one, two]),
        records.fingerprint({'verb': ['a', 'b']}, [one, two]),
        records.fingerprint({'verb': ['a'], 'noun': ['b']}, [one, two]),
        records.fingerprint({'noun': ['b'], 'verb': ['a']}, [one, two]),
    }
    assert len(prints) == 7
    assert all(len(bytes.fromhex(p)) == 32 for p in prints)


def test_the_fingerprint_of_one_head_is_that_of_its_plain_list():
    digest = '11' * 32
    content = b'["a", "\\u00fc"]' + bytes.fromhex(digest)
    expected = hashlib.sha256(content).hexdigest()
    assert records.fingerprint({'label': ('a', 'ü')}, [digest]) == expected


@pytest.mark.parametrize(
    ('classes', 'plain', 'words'),
    [
        ({'label': ('b', 'a')}, ['b', 'a'], '2 classes'),
        ({'verb': ('b', 'a')}, {'verb': ['b', 'a']}, '2 classes'),
        (
            {'verb': ('cut',), 'noun': ('egg', 'oil')},
            {'verb': ['cut'], 'noun': ['egg', 'oil']},
            '3 classes (1 verb + 2 noun)',
        ),
    ],
)
def test_classes_of_all_heads_survive_json_in_their_order(classes, plain, words):
    assert records.plain_classes(classes) == plain
    back = records.classes_by_head(json.loads(json.dumps(plain)))
    assert list(back.items()) == list(classes.items())
    assert records.count_classes(classes) == words


def test_description_is_plain_json(dataset, tmp_path):
    content = json.loads((tmp_path / 'dataset.json').read_text(encoding='utf-8'))
    assert content['version'] == 2
    assert content['classes'] == ['a', 'b', 'ü,c']
    assert content['splits']['train']['num_videos'] == 7
