"""Prepared data sets on disk: sharded record files, an index, and a description.

    DIR/dataset.json                    classes, settings, and the splits that are complete
    DIR/rejected.csv                    file, reason, split of every video left out
    DIR/train-00000-of-00004.tfrecord   videos in the order of the annotations
    DIR/train.index.npz, .sizes.npy     what is known of each video, and where it is: `vjax.data.index`

A record is a JPEG frame, and a video's frames stand one after another (`store='frames'`); or a record is
a whole video, encoded anew so that any frame is soon reached (`store='video'`). See `vjax.data.stores`.

A video has one label, or several: one for each head of a model (the noun and the verb of an action); or,
if the data set is multi-label, any number of one head. `classes` is a list of names by class id where
there is one head and it is called 'label', else an object, head -> list, in the heads' order.

A split exists once `dataset.json` names it, which is the last thing that is written.
"""

import collections
import dataclasses
import hashlib
import json
import os
import pathlib
import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from vjax.data import index
from vjax.errors import UserError

VERSION = 2
DESCRIPTION = 'dataset.json'


@dataclasses.dataclass(frozen=True)
class Split:
    """What `dataset.json` says of one split.

    Attributes:
        num_videos: videos in the split.
        num_rejected: annotated videos that are not in it.
        num_frames: frames of all its videos.
        shards: file names, in order.
        shard_bytes: their sizes, by which a damaged copy is noticed.
        index_bytes: those of the index's two files.
        videos_per_class: by class id, the heads' one after another; each head's add up to num_videos.
        fingerprint: see `fingerprint`.
        annotations_sha256: hash of the annotations that the split was made from.
    """

    num_videos: int
    num_rejected: int
    num_frames: int
    shards: tuple[str, ...]
    shard_bytes: tuple[int, ...]
    index_bytes: tuple[int, ...]
    videos_per_class: tuple[int, ...]
    fingerprint: str
    annotations_sha256: str


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

    A path tfds:NAME is a data set of TensorFlow Datasets; see `vjax.data.tfds`.

    Raises:
        UserError: no such folder, not a prepared data set, of another version, or damaged.
    """
    path = os.fspath(path)
    if path.startswith('tfds:'):
        from vjax.data import tfds  # Which makes data sets as well.

        return tfds.open_dataset(path)
    if '://' in path:
        raise UserError(
            f'the data set {path!r} is in a bucket, and its files are read from a disk: copy it to one '
            f'(gcloud storage cp -r, aws s3 cp --recursive), or mount the bucket (gcsfuse, mount-s3).'
        )
    dataset = read_description(path)
    if dataset is None:
        if not os.path.isdir(path):
            raise UserError(
                f'there is no data set {path!r}: no such folder; make it by vjax.prepare, or say where it '
                'is by --config.dataset.path=DIR (vjax.evaluate, vjax.report: --dataset=DIR).'
            )
        raise UserError(
            f'{path!r} is not a prepared data set: it has no {DESCRIPTION}; if vjax.prepare was '
            f'interrupted there, run the same command again.'
        )
    for name, split in dataset.splits.items():
        files = dict(zip(split.shards, split.shard_bytes, strict=True))
        files |= dict(zip(index.files(name), split.index_bytes, strict=True))
        for file, size in files.items():
            there = os.path.join(path, file)
            if not os.path.isfile(there):
                raise UserError(f'the data set {path!r} is damaged: {file} is missing.')
            if os.path.getsize(there) != size:
                raise UserError(
                    f'the data set {path!r} is damaged: {file} has {os.path.getsize(there)} bytes '
                    f'instead of {size}.'
                )
    return dataset


def read_description(path: str | os.PathLike) -> Dataset | None:
    """`dataset.json` alone, without a look at the shards; None if there is none."""
    file = pathlib.Path(path) / DESCRIPTION
    try:
        return parse_description(file.read_bytes(), path)
    except (FileNotFoundError, NotADirectoryError):
        return None


def parse_description(text: bytes, path: str | os.PathLike) -> Dataset:
    """The data set that the text of a `dataset.json`, in the folder `path`, describes."""
    file = os.path.join(path, DESCRIPTION)
    try:
        content = json.loads(text)
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
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f'{file} is damaged ({type(error).__name__}: {error}).') from error


def format_description(dataset: Dataset) -> str:
    """The text of `dataset.json`."""
    content = {
        'version': VERSION,
        'classes': plain_classes(dataset.classes),
        'multi_label': dataset.multi_label,
        'settings': dataset.settings,
        'splits': {name: dataclasses.asdict(split) for name, split in dataset.splits.items()},
    }
    return json.dumps(content, indent=2, ensure_ascii=False) + '\n'


def write_description(dataset: Dataset) -> None:
    """Writes `dataset.json`, all or nothing."""
    write_atomically(pathlib.Path(dataset.path) / DESCRIPTION, format_description(dataset))


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


def write_atomically(path: pathlib.Path, content: str | bytes) -> None:
    """Replaces a file so that a reader, or a crash, sees the old one or the new one.

    Text is UTF-8, and what of a file's name is not has escapes.
    """
    if isinstance(content, str):
        content = content.encode(errors='backslashreplace')
    # A name that no process has, on whatever machine; names end at 255 bytes.
    temporary = path.with_name(f'.{path.name[:40]}.{uuid.uuid4().hex}.tmp')
    try:
        with open(temporary, 'wb') as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        error.filename = os.fspath(path)  # Not the temporary one.
        raise


def shard_names(split: str, num_shards: int) -> list[str]:
    """File names of a split's shards."""
    return [f'{split}-{i:05d}-of-{num_shards:05d}.tfrecord' for i in range(num_shards)]


def shard_range(shard: int, num_shards: int, num_rows: int) -> range:
    """The annotated videos that belong to a shard: contiguous, sizes differing by one."""
    return range(shard * num_rows // num_shards, (shard + 1) * num_rows // num_shards)


def fingerprint(classes: Mapping[str, Sequence[str]], digests: Iterable[str]) -> str:
    """SHA-256 of a split's content: its class names and the SHA-256 of each record, in order.

    Neither the number of shards nor that of the processes that wrote them enters.
    """
    content = hashlib.sha256(json.dumps(plain_classes(classes)).encode())
    for digest in digests:
        content.update(bytes.fromhex(digest))
    return content.hexdigest()
