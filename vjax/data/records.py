"""Prepared data sets on disk: one record per video in sharded ArrayRecord files, and a description.

    DIR/dataset.json                          classes, settings, and the splits that are complete
    DIR/rejected.csv                          file, reason, split of every video left out
    DIR/train-00000-of-00004.array_record     videos in the order of the labels file

A video has one label, or several: one for each head of a model (the noun and the verb of an action).
`classes` is a list of names by class id where there is one head and it is called 'label', else an
object, head -> list, in the heads' order.

A record is a serialized `tf.train.Example` of one video: `frames` (bytes, a JPEG each), `label`
(int64, a class id for each head), `fps` (float, true average rate), `height`, `width` (int64, pixels
of the stored frames), `source` (bytes, the file's name in the labels file, UTF-8). Shards are written
with `group_size:1,uncompressed`: any record can be read alone, and JPEG does not compress further.

A split exists once `dataset.json` names it, which is the last thing that is written.
"""

import collections
import dataclasses
import hashlib
import json
import os
import pathlib
import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from array_record.python import array_record_data_source
from etils import epy

from vjax.errors import UserError

with epy.lazy_imports():
    import tensorflow as tf

VERSION = 1
WRITER_OPTIONS = 'group_size:1,uncompressed'
DESCRIPTION = 'dataset.json'


@dataclasses.dataclass(frozen=True)
class Split:
    """What `dataset.json` says of one split.

    Attributes:
        num_videos: records in the split.
        num_rejected: files of the labels file that are not in it.
        num_frames: frames of all its videos.
        shards: file names, in order.
        shard_bytes: their sizes, by which a damaged copy is noticed.
        videos_per_class: by class id, the heads' one after another; each head's add up to num_videos.
        fingerprint: see `fingerprint`.
        labels_sha256: hash of the labels file's rows that the split was made from.
    """

    num_videos: int
    num_rejected: int
    num_frames: int
    shards: tuple[str, ...]
    shard_bytes: tuple[int, ...]
    videos_per_class: tuple[int, ...]
    fingerprint: str
    labels_sha256: str


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A prepared data set.

    Attributes:
        path: its folder.
        classes: each head's class names by id.
        settings: how it was made.
        splits: those that are complete.
        multi_label: whether a video has any number of its (only) head's classes, not exactly one.
    """

    path: str
    classes: dict[str, tuple[str, ...]]
    settings: dict[str, Any]
    splits: dict[str, Split]
    multi_label: bool = False


def open_dataset(path: str | os.PathLike) -> Dataset:
    """Reads `dataset.json` and checks that every shard is there in full length.

    Raises:
        UserError: no such folder, not a prepared data set, of another version, or damaged.
    """
    path = os.fspath(path)
    dataset = read_description(path)
    if dataset is None:
        if not os.path.isdir(path):
            raise UserError(
                f'there is no data set {path!r}: no such folder; make it by vjax.prepare.'
            )
        raise UserError(
            f'{path!r} is not a prepared data set: it has no {DESCRIPTION}; if vjax.prepare was '
            f'interrupted there, run the same command again.'
        )
    for split in dataset.splits.values():
        for name, size in zip(split.shards, split.shard_bytes, strict=True):
            shard = os.path.join(path, name)
            if not os.path.isfile(shard):
                raise UserError(f'the data set {path!r} is damaged: the shard {name} is missing.')
            if os.path.getsize(shard) != size:
                raise UserError(
                    f'the data set {path!r} is damaged: {name} has {os.path.getsize(shard)} bytes '
                    f'instead of {size}.'
                )
    return dataset


def read_description(path: str | os.PathLike) -> Dataset | None:
    """`dataset.json` alone, without a look at the shards; None if there is none."""
    file = pathlib.Path(path) / DESCRIPTION
    try:
        content = json.loads(file.read_text(encoding='utf-8'))
        if content['version'] != VERSION:
            raise UserError(
                f'{file} is of version {content["version"]} and this vjax reads version {VERSION}; '
                f'prepare the videos again.'
            )
        splits = {
            name: Split(**{k: tuple(v) if isinstance(v, list) else v for k, v in split.items()})
            for name, split in content['splits'].items()
        }
        classes = classes_by_head(content['classes'])
        return Dataset(
            os.fspath(path), classes, content['settings'], splits, content['multi_label']
        )
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f'{file} is damaged ({type(error).__name__}: {error}).') from error


def write_description(dataset: Dataset) -> None:
    """Writes `dataset.json`, all or nothing."""
    content = {
        'version': VERSION,
        'classes': plain_classes(dataset.classes),
        'multi_label': dataset.multi_label,
        'settings': dataset.settings,
        'splits': {name: dataclasses.asdict(split) for name, split in dataset.splits.items()},
    }
    text = json.dumps(content, indent=2, ensure_ascii=False) + '\n'
    write_atomically(pathlib.Path(dataset.path) / DESCRIPTION, text)


def plain_classes(classes: Mapping[str, Sequence[str]]) -> list[str] | dict[str, list[str]]:
    """The classes of all heads as JSON has them: the only list of a single head 'label', else an object."""
    if list(classes) == ['label']:
        return list(classes['label'])
    return {head: list(names) for head, names in classes.items()}


def classes_by_head(
    plain: Sequence[str] | Mapping[str, Sequence[str]],
) -> dict[str, tuple[str, ...]]:
    """What `plain_classes` was made from."""
    heads = plain if isinstance(plain, Mapping) else {'label': plain}
    return {head: tuple(names) for head, names in heads.items()}


def read_classes(path: str | os.PathLike) -> list[str]:
    """The class names of a file, one per line; raises UserError if there are none or a repeated one."""
    try:
        text = pathlib.Path(path).read_text(encoding='utf-8-sig')
    except OSError as error:
        raise UserError(f'--classes={path} cannot be read: {error.strerror}.') from error
    except UnicodeDecodeError as error:
        raise UserError(f'{path} is not UTF-8 text.') from error
    names = [line.strip() for line in text.splitlines() if line.strip()]
    if not names:
        raise UserError(f'{path} names no classes.')
    for name, count in collections.Counter(names).items():
        if count > 1:
            raise UserError(f'{path} names the class {name!r} {count} times.')
    return names


def first_difference(
    classes: Mapping[str, Sequence[str]], others: Mapping[str, Sequence[str]]
) -> str:
    """What two lists of classes differ in, in words: their numbers, or the first name."""
    if [len(names) for names in classes.values()] == [len(names) for names in others.values()]:
        pairs = zip(classes.values(), others.values(), strict=True)
        for ours, theirs in pairs:
            for i, (one, other) in enumerate(zip(ours, theirs, strict=True)):
                if one != other:
                    return f'class {i} is {one!r} and {other!r}'
        return f'heads {", ".join(classes)} and {", ".join(others)}'
    return f'{count_classes(classes)} and {count_classes(others)}'


def count_classes(classes: Mapping[str, Sequence[str]]) -> str:
    """How many classes there are, in words: '6 classes', '397 classes (300 noun + 97 verb)'."""
    total = f'{sum(map(len, classes.values()))} classes'
    parts = ' + '.join(f'{len(names)} {head}' for head, names in classes.items())
    return total if len(classes) == 1 else f'{total} ({parts})'


def write_atomically(path: pathlib.Path, text: str) -> None:
    """Replaces a UTF-8 text file so that a reader, or a crash, sees the old one or the new one."""
    temporary = path.with_name(f'.{path.name}.{os.getpid()}.tmp')
    try:
        with open(temporary, 'w', encoding='utf-8', newline='') as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        error.filename = error.filename or os.fspath(path)
        raise


def shard_names(split: str, num_shards: int) -> list[str]:
    """File names of a split's shards."""
    return [f'{split}-{i:05d}-of-{num_shards:05d}.array_record' for i in range(num_shards)]


def shard_range(shard: int, num_shards: int, num_rows: int) -> range:
    """The rows of the labels file that belong to a shard: contiguous, sizes differing by one."""
    return range(shard * num_rows // num_shards, (shard + 1) * num_rows // num_shards)


def fingerprint(classes: Mapping[str, Sequence[str]], digests: Iterable[str]) -> str:
    """SHA-256 of a split's content: its class names and the SHA-256 of each record, in order.

    Neither the number of shards nor that of the processes that wrote them enters.
    """
    content = hashlib.sha256(json.dumps(plain_classes(classes)).encode())
    for digest in digests:
        content.update(bytes.fromhex(digest))
    return content.hexdigest()


# --- One record. ---


def encode_example(
    frames: Sequence[bytes],
    label: Sequence[int],
    fps: float,
    height: int,
    width: int,
    source: str,
) -> bytes:
    """A serialized `tf.train.Example` of a video, with the class id of each head.

    Written out in protobuf's wire format (protobuf.dev/programming-guides/encoding): so preparing
    videos needs no TensorFlow in every worker, and equal videos are equal bytes, which protobuf does
    not promise for maps.
    """
    features = {
        'fps': _field(2, _field(1, struct.pack('<f', fps))),
        'frames': _field(1, b''.join(_field(1, frame) for frame in frames)),
        'height': _field(3, _field(1, _varint(height))),
        'label': _field(3, _field(1, b''.join(map(_varint, label)))),
        'source': _field(1, _field(1, source.encode())),
        'width': _field(3, _field(1, _varint(width))),
    }
    entries = (
        _field(1, _field(1, name.encode()) + _field(2, feature))
        for name, feature in features.items()
    )
    return _field(1, b''.join(entries))


def _field(number: int, content: bytes) -> bytes:
    """A length-delimited field."""
    return bytes([number << 3 | 2]) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*encoded, value])


def parse(serialized: 'tf.Tensor | bytes', num_heads: int = 1) -> 'Mapping[str, tf.Tensor]':
    """The tensors of one record, inside tf.data or out of it.

    Args:
        serialized: scalar string, a record.
        num_heads: labels of a video.

    Returns:
        `frames` string [num_frames], `label` int64 [num_heads], and the scalars `fps` float32,
        `height` int64, `width` int64, `source` string.
    """
    scalar = tf.io.FixedLenFeature
    return tf.io.parse_single_example(
        serialized,
        {
            'frames': tf.io.FixedLenSequenceFeature([], tf.string, allow_missing=True),
            'label': tf.io.FixedLenFeature([num_heads], tf.int64),
            'fps': scalar([], tf.float32),
            'height': scalar([], tf.int64),
            'width': scalar([], tf.int64),
            'source': scalar([], tf.string),
        },
    )


class VideoRecords:
    """Random access to the records of one split; any number of threads may read at once."""

    def __init__(self, dataset: Dataset, split: str):
        """Opens a split; raises UserError if there is none of that name, or a shard is damaged."""
        if split not in dataset.splits:
            names = ', '.join(sorted(dataset.splits)) or 'none'
            raise UserError(f'{dataset.path!r} has no split {split!r}; it has {names}.')
        expected = dataset.splits[split].num_videos
        paths = [os.path.join(dataset.path, name) for name in dataset.splits[split].shards]
        try:
            self._source = array_record_data_source.ArrayRecordDataSource(paths)
        except (RuntimeError, ValueError, OSError) as error:
            raise UserError(
                f'split {split!r} of {dataset.path!r} is damaged: {" ".join(str(error).split())}.'
            ) from error
        if len(self._source) != expected:
            raise UserError(
                f'split {split!r} of {dataset.path!r} is damaged: its shards hold '
                f'{len(self._source)} videos instead of {expected}.'
            )

    def __len__(self) -> int:
        return len(self._source)

    def read(self, indices: Sequence[int]) -> list[bytes]:
        """The serialized records at `indices`, in their order.

        Raises:
            RuntimeError: the bytes of one of them are damaged on disk (each has a checksum).
            ValueError: an index is outside of the split.
        """
        return list(self._source.__getitems__(indices)) if len(indices) else []
