"""What is known of a split's videos before any of them is read: which is all that sampling needs.

    DIR/train.index.npz      a row for each video
    DIR/train.sizes.npy      bytes of each record of the shards, in order; mapped, not loaded

The videos' records stand one after another, so a video's place and these sizes give the place of each
of its records. Whatever the store, an index says the same of the same videos, so that a clip's frames are
chosen before it is known how they are stored.
"""

import dataclasses
import io
import os
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Int32

from vjax.data import tfrecord
from vjax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Entry:
    """One video of the index.

    Attributes:
        source: its name in the annotations.
        label: class ids, one for each head; of a multi-label video any number.
        spans: (start, end) in seconds of each class of a multi-label video; empty for all the time.
        num_frames, fps: of the video as stored, at its true average rate.
        height, width: pixels of its frames as stored.
        sizes: bytes of its records.
    """

    source: str
    label: tuple[int, ...]
    spans: tuple[tuple[float, float], ...]
    num_frames: int
    fps: float
    height: int
    width: int
    sizes: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Index:
    """The videos of a split, in its order; see `Entry` for what the columns mean.

    Attributes:
        shard: which of the split's files a video is in.
        offset: byte at which its first record begins.
        first_record: its first row of `sizes`, and at last the number of rows.
        sizes: bytes of every record.
        first_label: its first row of `labels`, and at last the number of rows.
        labels: class ids.
        spans: seconds in which each of them holds.
        sources: the videos' names, UTF-8, each with a line feed.
    """

    num_frames: Int32[np.ndarray, 'videos']
    fps: Float[np.ndarray, 'videos']
    height: Int32[np.ndarray, 'videos']
    width: Int32[np.ndarray, 'videos']
    shard: Int32[np.ndarray, 'videos']
    offset: Int[np.ndarray, 'videos']
    first_record: Int[np.ndarray, 'videos_plus_1']
    first_label: Int[np.ndarray, 'videos_plus_1']
    labels: Int32[np.ndarray, 'labels']
    spans: Float[np.ndarray, 'labels 2']
    sources: Any
    sizes: Any

    def __len__(self) -> int:
        return len(self.num_frames)

    def names(self) -> list[str]:
        """The videos' names in the annotations."""
        return bytes(self.sources).decode().split('\n')[:-1]  # Each ends with a line feed.

    def record_offsets(self, video: int) -> tuple[Int[np.ndarray, 'records'], Any]:
        """Where a video's records begin in its shard, and their sizes, in bytes."""
        sizes = self.sizes[self.first_record[video] : self.first_record[video + 1]]
        ends = np.cumsum(sizes.astype(np.int64) + tfrecord.OVERHEAD)
        return self.offset[video] + np.concatenate([[0], ends[:-1]]), sizes

    def label(self, video: int) -> Int32[np.ndarray, 'heads']:
        """The class ids of a video."""
        return self.labels[self.first_label[video] : self.first_label[video + 1]]

    def multi_hot(
        self, video: int, num_classes: int, seconds: tuple[float, float] | None = None
    ) -> Int32[np.ndarray, 'classes']:
        """1 for each class of a multi-label video, or only of its part [start, end), in seconds."""
        rows = slice(self.first_label[video], self.first_label[video + 1])
        chosen = self.labels[rows]
        if seconds is not None:
            start, end = self.spans[rows].T
            chosen = chosen[(start < seconds[1]) & (end > seconds[0]) & (start < end)]
        hot = np.zeros(num_classes, np.int32)
        hot[chosen] = 1
        return hot


COLUMNS = [field.name for field in dataclasses.fields(Index)]


def build(shards: Iterable[Sequence[Entry]]) -> Index:
    """The index of the videos of each shard."""
    shards = [list(entries) for entries in shards]
    entries = [entry for of_shard in shards for entry in of_shard]
    taken = [[sum(e.sizes) + len(e.sizes) * tfrecord.OVERHEAD for e in s] for s in shards]

    def column(name, dtype):
        return np.array([getattr(entry, name) for entry in entries], dtype)

    def first(counts):
        return np.concatenate([[0], np.cumsum(counts, dtype=np.int64)]).astype(np.int64)

    spans = [e.spans or ((0.0, np.inf),) * len(e.label) for e in entries]
    names = ''.join(entry.source.replace('\n', ' ') + '\n' for entry in entries)
    return Index(
        num_frames=column('num_frames', np.int32),
        fps=column('fps', np.float32),
        height=column('height', np.int32),
        width=column('width', np.int32),
        shard=np.repeat(np.arange(len(shards), dtype=np.int32), [len(s) for s in shards]),
        offset=np.concatenate([first(of_shard)[:-1] for of_shard in taken]),
        first_record=first([len(entry.sizes) for entry in entries]),
        first_label=first([len(entry.label) for entry in entries]),
        labels=np.array([label for entry in entries for label in entry.label], np.int32),
        spans=np.array([span for of_video in spans for span in of_video], np.float32).reshape(
            -1, 2
        ),
        sources=np.frombuffer(names.encode(), np.uint8),
        sizes=np.concatenate([np.array(e.sizes, np.uint32) for e in entries]),
    )


def files(split: str) -> tuple[str, str]:
    """Names of the files that hold the index of a split."""
    return f'{split}.index.npz', f'{split}.sizes.npy'


def encode(index: Index) -> tuple[bytes, bytes]:
    """The contents of the two files; equal indices are equal bytes."""
    table, sizes = io.BytesIO(), io.BytesIO()
    np.savez(table, **{name: getattr(index, name) for name in COLUMNS if name != 'sizes'})
    np.save(sizes, index.sizes)
    return table.getvalue(), sizes.getvalue()


def load(path: str | os.PathLike, split: str) -> Index:
    """The index of a split of the data set in the folder `path`.

    Raises:
        UserError: a file is missing or damaged.
    """
    table, sizes = (pathlib.Path(path) / name for name in files(split))
    try:
        with np.load(table, allow_pickle=False) as columns:
            read = {name: columns[name] for name in COLUMNS if name != 'sizes'}
        return Index(**read, sizes=np.load(sizes, mmap_mode='r', allow_pickle=False))
    # zipfile, zlib and numpy each have errors of their own for damaged files.
    except Exception as error:
        reason = ' '.join(str(error).split())
        raise UserError(
            f'the index of split {split!r} of {os.fspath(path)!r} is damaged '
            f'({type(error).__name__}: {reason}); prepare the split again.'
        ) from error
