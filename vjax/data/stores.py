"""How the frames of a split's videos are stored; whatever the way, they are asked for by number.

A store says what is known of its videos (`index`), what the bytes that it gives are (`encoding`), and
gives those that hold certain frames of a video. Stores of `vjax.prepare` are here; `vjax.data.tfds` has one
for what TensorFlow Datasets built.
"""

import os
import resource
from collections.abc import Sequence
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int

from vjax.data import index, tfrecord
from vjax.data.records import Dataset
from vjax.errors import UserError

STORES = ('frames', 'video')

Frames = Sequence[int] | Int[np.ndarray, '_']


@runtime_checkable
class Store(Protocol):
    """Random access to the videos of one split; any number of threads may read at once.

    Attributes:
        index: what is known of them.
        encoding: what `read` gives: an image for each frame ('jpeg', 'png'), or one 'video' in which
            the frames are.
    """

    index: index.Index
    encoding: Literal['jpeg', 'png', 'video']

    def read(self, video: int, frames: Frames) -> list[bytes]:
        """The bytes that hold `frames`, in their order.

        Raises:
            tfrecord.DamagedRecord: they are damaged on disk.
        """


def open_store(dataset: Dataset, split: str) -> Store:
    """Opens a split.

    Raises:
        UserError: there is none of that name, or its index is damaged.
    """
    if split not in dataset.splits:
        names = ', '.join(sorted(dataset.splits)) or 'none'
        raise UserError(f'{dataset.path!r} has no split {split!r}; it has {names}.')
    kind = dataset.settings['store']
    if kind == 'tfds':
        from vjax.data.tfds import TfdsStore  # Which is a store as well.

        return TfdsStore(dataset, split)
    return (FrameStore if kind == 'frames' else VideoStore)(dataset, split)


class _Shards:
    """The open files of a split, and its index."""

    def __init__(self, dataset: Dataset, split: str):
        self.index = index.load(dataset.path, split)
        if len(self.index) != dataset.splits[split].num_videos:
            raise UserError(
                f'split {split!r} of {dataset.path!r} is damaged: its index has {len(self.index)} '
                f'videos instead of {dataset.splits[split].num_videos}.'
            )
        num_labels, num_heads = len(self.index.labels), len(dataset.classes)
        if not dataset.multi_label and num_labels != num_heads * len(self.index):
            raise UserError(
                f'split {split!r} of {dataset.path!r} is damaged: its index has {num_labels} labels '
                f'of {len(self.index)} videos and {num_heads} heads.'
            )
        paths = [os.path.join(dataset.path, name) for name in dataset.splits[split].shards]
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft < 2 * len(paths) + 256:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        self._files = [os.open(path, os.O_RDONLY) for path in paths]

    def __del__(self):
        for file in getattr(self, '_files', ()):
            os.close(file)


class FrameStore(_Shards):
    """JPEG frames, a record each: only the bytes of the frames asked for are read."""

    encoding = 'jpeg'

    def read(self, video: int, frames: Frames) -> list[bytes]:
        """See `Store`."""
        offsets, sizes = self.index.record_offsets(video)
        file = self._files[self.index.shard[video]]
        return [
            tfrecord.read(file, offset, size)
            for offset, size in zip(offsets[frames].tolist(), sizes[frames].tolist(), strict=True)
        ]


class VideoStore(_Shards):
    """Whole videos of short groups of pictures, a record each."""

    encoding = 'video'

    def read(self, video: int, frames: Frames) -> list[bytes]:
        """See `Store`; the video has all frames."""
        (offset,), (size,) = self.index.record_offsets(video)
        return [tfrecord.read(self._files[self.index.shard[video]], int(offset), int(size))]
