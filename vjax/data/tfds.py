"""Data sets of TensorFlow Datasets that have videos, read where TFDS built them, without preparing.

    tfds:ucf101/ucf101_1                NAME, NAME/CONFIG or NAME/CONFIG:VERSION, in TFDS's own folder
    tfds:ucf101/ucf101_1@/data/tfds     in another

stands for a data set's folder (`config.dataset.path`). Needed are one feature `Video` of 8 bits, which
TFDS stores as an encoded image for each frame, and one `ClassLabel`, of whatever names; the rest is not
looked at. TFDS knows no frame rates: it is what its builder told ffmpeg (-r), and else 25 a second.

The files must be ArrayRecord, which can be read at any place. A record is a whole video, so all bytes of
one are read for a clip of it; but only the frames of the clip are decoded. What is known of each video
(`vjax.data.index`) is found by reading all of a split once, without decoding pixels, and kept beside its
files in vjax-SPLIT.index.npz.

Nothing is ever downloaded, and no data set's own code is run.
"""

import functools
import hashlib
import io
import json
import logging
import os
import zipfile
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tqdm
from etils import epath, epy
from PIL import Image

from vjax.data import index, tfrecord
from vjax.data.records import Dataset, Split
from vjax.errors import UserError

with epy.lazy_imports():
    import tensorflow as tf
    import tensorflow_datasets as tfds

log = logging.getLogger(__name__)

PREFIX = 'tfds:'
DEFAULT_FPS = 25.0


def open_dataset(path: str) -> Dataset:
    """A data set by its name, tfds:NAME or tfds:NAME@DATA_DIR, as `records.open_dataset`.

    Its splits have no numbers of frames and of videos of a class, which nobody has counted.

    Raises:
        UserError: TFDS did not build it, or not as ArrayRecord, or it is no data set of labelled videos.
    """
    info = _builder(path).info
    _, label = _features(path, info)
    about = {
        'name': info.full_name,
        'features': info.features.to_json(),
        'classes': info.features[label].names,
    }
    splits = {}
    for name, split in info.splits.items():
        if not split.num_examples:
            continue
        content = about | {
            'split': name,
            'shard_lengths': list(split.shard_lengths),
            'num_bytes': int(split.num_bytes),
        }
        splits[name] = Split(
            num_videos=split.num_examples,
            num_rejected=0,
            num_frames=0,
            shards=tuple(os.path.basename(file) for file in split.filepaths),
            shard_bytes=(),
            index_bytes=(),
            videos_per_class=(),
            fingerprint=hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest(),
            annotations_sha256='',
        )
    # Of a run's data set, `vjax.predict` takes the size: here that of the files.
    settings = {'store': 'tfds', 'short_side': None, 'name': info.full_name}
    return Dataset(path, {'label': tuple(info.features[label].names)}, settings, splits)


class TfdsStore:
    """A split of a data set that TFDS built; see `vjax.data.stores.Store`."""

    def __init__(self, dataset: Dataset, split: str):
        """Opens the split, and indexes it where that was not done before.

        Raises:
            UserError: as `open_dataset` does.
        """
        builder = _builder(dataset.path)
        self._path, self._num_classes = dataset.path, len(dataset.classes['label'])
        self._video, self._label = _features(dataset.path, builder.info)
        feature = builder.info.features[self._video].to_json_content()
        self.encoding = feature.encoding_format or 'png'
        self._fps = _frame_rate(feature.ffmpeg_extra_args)
        self._source = builder.as_data_source(
            split, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES
        )
        self.index = self._load_index(epath.Path(builder.data_dir), dataset, split)

    def read(self, video: int, frames: Sequence[int] | np.ndarray) -> list[bytes]:
        """See `Store`."""
        images = self._features_of(video)[self._video].bytes_list.value
        try:
            return [images[frame] for frame in frames]
        except IndexError as error:
            raise tfrecord.DamagedRecord(f'it has only {len(images)} frames') from error

    def _features_of(self, video: int) -> Any:
        """The features of a video as `tf.train.Example` has them, by name."""
        try:
            example = tf.train.Example.FromString(self._source[video])
        # ArrayRecord and protobuf each have errors of their own for damaged files.
        except Exception as error:
            raise tfrecord.DamagedRecord(f'{type(error).__name__}: {error}'[:200]) from error
        return example.features.feature

    def _load_index(self, folder: epath.Path, dataset: Dataset, split: str) -> index.Index:
        file = folder / f'vjax-{split}.index.npz'
        fingerprint = dataset.splits[split].fingerprint
        kept = _read_index(file, fingerprint)
        if kept is not None:
            return kept
        log.info('%s: reading all of split %r once, for its index', dataset.path, split)
        built = index.build([list(self._entries(split))])
        try:
            _write_index(file, built, fingerprint)
        except OSError as error:
            log.info('%s: the index is not kept (%s)', dataset.path, error.strerror or error)
        return built

    def _entries(self, split: str) -> Iterator[index.Entry]:
        for video in tqdm.trange(len(self._source), desc=split, unit=' videos', disable=None):
            entry = functools.partial(
                index.Entry, source=f'{split}/{video}', spans=(), fps=self._fps, sizes=()
            )
            try:
                features = self._features_of(video)
                images = features[self._video].bytes_list.value
                (label,) = features[self._label].int64_list.value
                if not 0 <= label < self._num_classes:
                    raise UserError(
                        f'split {split!r} of {self._path!r} has no labels: that of its video {video} '
                        f'is {label}.'
                    )
                with Image.open(io.BytesIO(images[0])) as image:  # Reads its header.
                    width, height = image.size
            # Each batch that the video would be in says so: it reads or decodes no better.
            except (tfrecord.DamagedRecord, ValueError, IndexError, OSError) as error:
                log.warning('video %d of split %r has no index: %s', video, split, error)
                yield entry(label=(0,), num_frames=1, height=1, width=1)
            else:
                yield entry(label=(label,), num_frames=len(images), height=height, width=width)


def _builder(path: str) -> Any:
    """The builder of what is on disk, which has no code to download or generate with."""
    name, _, folder = path.removeprefix(PREFIX).partition('@')
    where = {'data_dir': os.path.expanduser(folder)} if folder else {}
    data_dir = f' --data_dir={folder}' if folder else ''
    build = f'tfds build {name}{data_dir} --file_format=array_record'
    try:
        known, arguments = tfds.core.naming.parse_builder_name_kwargs(name, **where)
        builder = tfds.core.read_only_builder.builder_from_files(str(known), **arguments)
    # TFDS raises what it comes across: names that cannot be, versions that are not there.
    except Exception as error:
        log.debug('%s', error)
        raise UserError(
            f'the data set {path!r} is not on disk, and vjax downloads none: build it by `{build}`, '
            f'or name its configuration and folder, as tfds:NAME/CONFIG@DATA_DIR.'
        ) from error
    formats = builder.info.available_file_formats()
    if tfds.core.FileFormat.ARRAY_RECORD not in formats:
        found = ', '.join(sorted(one.value for one in formats)) or 'of no known format'
        raise UserError(
            f'the files of {path!r} are {found}, which cannot be read at any place: build it again by '
            f'`{build}`, or convert it by `tfds convert_format '
            f'--dataset_version_dir={builder.data_dir} --out_file_format=array_record`.'
        )
    return builder


def _features(path: str, info: Any) -> tuple[str, str]:
    """The names of the video and of its label."""
    names = []
    for kind in ('Video', 'ClassLabel'):
        of_kind = [
            name
            for name, feature in info.features.items()
            if isinstance(feature, getattr(tfds.features, kind))
        ]
        if len(of_kind) != 1:
            raise UserError(
                f'{path!r} has {len(of_kind)} features of the kind {kind} and not one: it has '
                f'{", ".join(f"{k} ({type(v).__name__})" for k, v in info.features.items())}.'
            )
        names += of_kind
    feature = info.features[names[0]]
    encoding = feature.to_json_content().encoding_format or 'png'
    if feature.dtype != np.uint8 or encoding not in ('png', 'jpeg'):
        raise UserError(
            f'the frames of {path!r} are {encoding} of {np.dtype(feature.dtype)}; only PNG and JPEG '
            f'of 8 bits can be read.'
        )
    return names[0], names[1]


def _frame_rate(ffmpeg_arguments: Sequence[str]) -> float:
    """What ffmpeg was asked for."""
    arguments = list(ffmpeg_arguments)
    try:
        fps = float(arguments[arguments.index('-r') + 1])
    except (ValueError, IndexError):
        return DEFAULT_FPS
    return fps if fps > 0 else DEFAULT_FPS


def _read_index(file: epath.Path, fingerprint: str) -> index.Index | None:
    """The index that was kept; None if there is none, or it is of other files."""
    try:
        with np.load(io.BytesIO(file.read_bytes()), allow_pickle=False) as columns:
            if str(columns['fingerprint']) != fingerprint:
                return None
            return index.Index(**{name: columns[name] for name in index.COLUMNS})
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        log.warning('%s is damaged (%s) and is made again', file, error)
        return None


def _write_index(file: epath.Path, built: index.Index, fingerprint: str) -> None:
    """All or nothing, also where several processes do so at once."""
    content = io.BytesIO()
    columns = {name: getattr(built, name) for name in index.COLUMNS}
    np.savez(content, fingerprint=np.array(fingerprint), **columns)
    temporary = file.with_name(f'.{file.name}.{os.getpid()}.tmp')
    temporary.write_bytes(content.getvalue())
    temporary.replace(file)
