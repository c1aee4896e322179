import hashlib
import json
import threading

import pytest
from array_record.python import array_record_module
from hypothesis import given, settings
from hypothesis import strategies as st

from vjax.data import records
from vjax.errors import UserError


@pytest.fixture
def dataset(tmp_path):
    """Seven records of three classes, in three shards of which one is empty."""
    examples = [
        records.encode_example([bytes([i]) * (i + 1)] * (i + 1), [i % 3], 12.5, 48, 64, f'{i}.mp4')
        for i in range(7)
    ]
    shards = records.shard_names('train', 3)
    for name, part in zip(shards, (examples[:4], [], examples[4:]), strict=True):
        writer = array_record_module.ArrayRecordWriter(str(tmp_path / name), records.WRITER_OPTIONS)
        for example in part:
            writer.write(example)
        writer.close()
    split = records.Split(
        num_videos=7,
        num_rejected=0,
        num_frames=28,
        shards=tuple(shards),
        shard_bytes=tuple((tmp_path / name).stat().st_size for name in shards),
        videos_per_class=(3, 2, 2),
        fingerprint='f' * 64,
        labels_sha256='0' * 64,
    )
    classes = {'label': ('a', 'b', 'ü,c')}
    made = records.Dataset(str(tmp_path), classes, {'short_side': 48}, {'train': split})
    records.write_description(made)
    return made, examples


def test_description_survives_the_disk(dataset):
    made, _ = dataset
    assert records.open_dataset(made.path) == made


def test_read_gives_any_record_in_any_order(dataset):
    made, examples = dataset
    videos = records.VideoRecords(made, 'train')
    assert len(videos) == 7
    order = [6, 0, 3, 4, 4]
    assert videos.read(order) == [examples[i] for i in order]
    assert videos.read([]) == []
    with pytest.raises(ValueError, match='key'):
        videos.read([7])


def test_read_from_many_threads(dataset):
    made, examples = dataset
    videos, wrong = records.VideoRecords(made, 'train'), []

    def work(offset):
        order = [(offset + i) % 7 for i in range(50)]
        wrong.extend(i for i in order if videos.read([i, 0]) != [examples[i], examples[0]])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_open_dataset_names_what_is_wrong(dataset, tmp_path):
    made, _ = dataset
    with pytest.raises(UserError, match=r'no data set .*nowhere'):
        records.open_dataset(tmp_path / 'nowhere')
    (tmp_path / 'plain').mkdir()
    with pytest.raises(UserError, match='not a prepared data set'):
        records.open_dataset(tmp_path / 'plain')
    with pytest.raises(UserError, match=r"no split 'test'; it has train"):
        records.VideoRecords(made, 'test')
    shard = tmp_path / made.splits['train'].shards[0]
    content = shard.read_bytes()
    shard.write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=r'train-00000-of-00003\.array_record has .* bytes'):
        records.open_dataset(made.path)
    with pytest.raises(UserError, match=r"split 'train' .* is damaged"):
        records.VideoRecords(made, 'train')
    shard.unlink()
    with pytest.raises(UserError, match=r'train-00000-of-00003\.array_record is missing'):
        records.open_dataset(made.path)


@pytest.mark.parametrize(
    ('change', 'words'),
    [
        (lambda text: text[:-30], 'damaged'),
        (lambda text: '[]', 'damaged'),
        (lambda text: text.replace('"classes"', '"clases"'), 'damaged'),
        (lambda text: text.replace('"version": 1', '"version": 9'), 'version 9'),
    ],
)
def test_a_damaged_description_is_one_sentence(dataset, tmp_path, change, words):
    file = tmp_path / records.DESCRIPTION
    file.write_text(change(file.read_text(encoding='utf-8')), encoding='utf-8')
    with pytest.raises(UserError, match=words):
        records.open_dataset(tmp_path)


def test_a_damaged_record_is_noticed_by_its_checksum(dataset, tmp_path):
    made, examples = dataset
    shard = tmp_path / made.splits['train'].shards[0]
    content = shard.read_bytes()
    at = content.index(examples[2]) + len(examples[2]) // 2
    shard.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
    videos = records.VideoRecords(made, 'train')
    assert videos.read([0, 5]) == [examples[0], examples[5]]
    with pytest.raises(RuntimeError):
        videos.read([2])


def test_write_atomically_leaves_the_old_file_or_the_new(tmp_path):
    path = tmp_path / 'a.json'
    records.write_atomically(path, 'old')
    with pytest.raises(UnicodeEncodeError):
        records.write_atomically(path, 'new' * 9999 + '\ud800')
    assert path.read_text() == 'old'
    records.write_atomically(path, 'néw\r\n')
    assert path.read_bytes() == 'néw\r\n'.encode()


@settings(deadline=None, max_examples=50)
@given(
    frames=st.lists(st.binary(max_size=300), max_size=5),
    label=st.lists(st.integers(0, 2**40), min_size=1, max_size=4),
    fps=st.floats(0.125, 1000, width=32),
    height=st.integers(1, 70_000),
    width=st.integers(1, 70_000),
    source=st.text(),
)
def test_a_record_is_what_tensorflow_would_write(frames, label, fps, height, width, source):
    import tensorflow as tf

    source = source.encode('utf-8', 'replace').decode()
    written = records.encode_example(frames, label, fps, height, width, source)
    integers = lambda *value: tf.train.Feature(int64_list=tf.train.Int64List(value=value))  # noqa: E731
    strings = lambda value: tf.train.Feature(bytes_list=tf.train.BytesList(value=value))  # noqa: E731
    features = {
        'frames': strings(frames),
        'label': integers(*label),
        'fps': tf.train.Feature(float_list=tf.train.FloatList(value=[fps])),
        'height': integers(height),
        'width': integers(width),
        'source': strings([source.encode()]),
    }
    example = tf.train.Example(features=tf.train.Features(feature=features))
    assert tf.train.Example.FromString(written) == example
    assert written == example.SerializeToString(deterministic=True)
    parsed = records.parse(written, len(label))
    assert parsed['frames'].numpy().tolist() == frames
    assert parsed['source'].numpy().decode() == source
    got = {key: parsed[key].numpy().tolist() for key in ('label', 'fps', 'height', 'width')}
    assert got == {'label': label, 'fps': fps, 'height': height, 'width': width}
    with pytest.raises(tf.errors.InvalidArgumentError):
        records.parse(written, len(label) + 1)


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
    assert content['version'] == 1
    assert content['classes'] == ['a', 'b', 'ü,c']
    assert content['splits']['train']['num_videos'] == 7
