"""Videos -> uint8 clips: the host's half of the input, in tf.data.

A training batch is a pure function of (seed, step). The stream of training examples is endless and
numbered; example p is a video of epoch `p // n` (`vjax.data.shuffling`), and every random draw that is
made for it, here and on the device, is keyed by p. So there is no shuffle buffer and no iterator
to save: a run goes on at any step, and on any number of hosts, with the same bytes.

What a clip shows of a video is drawn from the split's index, before anything of the video is read: so
only the bytes of those frames are read, and the draws are the same however the frames are stored. Their
pixels stay uint8 and are written once, to where they are in the batch (`vjax.data.decoding`). Everything
else happens on the device (`vjax.data.augment`).

A video that cannot be read or decoded becomes zeros with mask 0 and a warning, never another video.
"""

import collections
import concurrent.futures
import dataclasses
import functools
import logging
import math
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from einops import rearrange
from etils import epy
from jaxtyping import Int, UInt8
from ml_collections import ConfigDict

from vjax.data import memory, records, sampling, stores, tfrecord, video
from vjax.data.decoding import decode_window
from vjax.data.geometry import draw_window, resized_shape, view_corners, window_size
from vjax.data.sections import Augment, Clip
from vjax.data.shuffling import video_of_turn
from vjax.errors import UserError

with epy.lazy_imports():
    import tensorflow as tf

log = logging.getLogger(__name__)

Section = Mapping[str, Any] | ConfigDict
Tensors = dict[str, Any]
Arrays = dict[str, np.ndarray]

_AHEAD = 3  # Batches that are decoded while one is in use.


# --- What is shown of a video, drawn from its row of the index. ---


def _training_draw(
    row: Tensors, position: 'tf.Tensor', *, clip: Clip, augment: Augment, seed: int
) -> Tensors:
    """What place `position` of the stream shows of a video.

    Args:
        row: int32 `num_frames`, `height` and `width`, and float32 `fps`, scalars.
        position: int64.
        clip, augment: the config sections.
        seed: of the run.

    Returns:
        frames: int32 [frames], the frames to decode: all of the clip, or one that stands.
        window: int32 [4], top, left, height, width in the resized frame of what is decoded.
        box: float32 [4], the part of the window that is to be shown.
        seconds: float32 [2], where in the video the clip begins and ends: labels of other times are not
            the clip's.
    """
    seeds = tf.random.experimental.stateless_fold_in(tf.constant([seed, 0], tf.int64), position)
    start_seed, order_seed, crop_seed = tf.unstack(
        tf.random.experimental.stateless_split(seeds, 3), num=3
    )
    step = sampling.frame_step(clip.stride, clip.fps, row['fps'])
    timing = {'num_frames': clip.num_frames, 'step': step}
    start = sampling.random_start(row['num_frames'], **timing, seed=start_seed)
    indices = sampling.frame_indices(
        start, row['num_frames'], **timing, short_clips=clip.short_clips
    )
    shown = sampling.reorder(indices, clip.order, training=True, seed=order_seed)
    resized = resized_shape(row['height'], row['width'], clip.short_side)
    window, box = draw_window(*resized, clip=clip, augment=augment, seed=crop_seed)
    span = tf.stack([tf.reduce_min(indices), tf.reduce_max(indices) + 1])
    return {
        'frames': shown[:1] if clip.order == 'still' else shown,
        'window': window,
        'box': box,
        'seconds': tf.cast(span, tf.float32) / row['fps'],
    }


def _evaluation_draw(
    row: Tensors, index: 'tf.Tensor', *, clip: Clip, views: tuple[int, int]
) -> Tensors:
    """What all views show of the video in place `index` of its split.

    As `_training_draw`, but without `seconds`, as they stand for the whole video and all its labels, and

    Returns:
        corners: int32 [crops, 2], top and left of each crop in the window.
    """
    num_clips, num_crops = views
    step = sampling.frame_step(clip.stride, clip.fps, row['fps'])
    timing = {'num_frames': clip.num_frames, 'step': step}
    starts = sampling.view_starts(row['num_frames'], **timing, num_views=num_clips)
    seeds = tf.random.experimental.stateless_split(
        tf.stack([tf.constant(0, tf.int64), tf.cast(index, tf.int64)]), num_clips
    )
    frames = []
    for i in range(num_clips):
        indices = sampling.frame_indices(
            starts[i], row['num_frames'], **timing, short_clips=clip.short_clips
        )
        shown = sampling.reorder(indices, clip.order, training=False, seed=seeds[i])
        frames.append(shown[:1] if clip.order == 'still' else shown)

    resized = resized_shape(row['height'], row['width'], clip.short_side)
    corners = view_corners(*resized, size=clip.size, num_views=num_crops)
    # What all crops cover is decoded once.
    corner = tf.reduce_min(corners, axis=0)
    window = tf.concat([corner, tf.reduce_max(corners, axis=0) - corner + clip.size], axis=0)
    return {
        'frames': tf.concat(frames, axis=0),
        'window': window,
        'corners': corners - corner,
    }


# --- Bytes -> pixels. ---


def _training_video(
    content: list[bytes],
    size: tuple[int, int],
    drawn: Arrays,
    out: UInt8[np.ndarray, 'time side side 3'],
    **how: Any,
) -> None:
    """Writes the window of a training clip; `how` is for `decode_window`."""
    _, _, height, width = drawn['window']
    # A window is as large as what is shown where areas are drawn; clips of a batch are all as large.
    out[:, height:] = 0
    out[:, :, width:] = 0
    shown = out[: len(drawn['frames']), :height, :width]
    decode_window(content, drawn['frames'], size, drawn['window'], shown, **how)
    out[len(shown) :] = out[0]  # A frame that stands.


def _evaluation_video(
    content: list[bytes],
    size: tuple[int, int],
    drawn: Arrays,
    out: UInt8[np.ndarray, 'views time size size 3'],
    **how: Any,
) -> None:
    """Writes all views of a video; `how` is for `decode_window`."""
    frames = np.empty((len(drawn['frames']), *drawn['window'][2:], 3), np.uint8)
    decode_window(content, drawn['frames'], size, drawn['window'], frames, **how)
    num_crops, length = len(drawn['corners']), out.shape[2]
    views = rearrange(out, '(crop clip) ... -> crop clip ...', crop=num_crops)
    frames = rearrange(frames, '(clip time) ... -> clip time ...', clip=views.shape[1])
    for view, (top, left) in zip(views, drawn['corners'], strict=True):
        view[:] = frames[:, :, top : top + length, left : left + length]  # One frame stands.


def decode_views(
    film: 'video.Video', *, clip: Section, views: tuple[int, int], index: int = 0
) -> np.ndarray:
    """The evaluation's clips of one video, for videos that are in no data set.

    Args:
        film: its frames as JPEG; see `video.encode`.
        clip: the config section.
        views: how many (temporal, spatial) views.
        index: the video's place in its split; only `order='shuffled'` depends on it.

    Returns:
        uint8 [views, time, size, size, 3], the same bytes as in `eval_batches`.
    """
    _use_cpu_only()
    _check_views(views)
    clip = Clip(**clip)
    row = {
        'num_frames': tf.constant(len(film.frames), tf.int32),
        'fps': tf.constant(film.fps, tf.float32),
        'height': tf.constant(film.height, tf.int32),
        'width': tf.constant(film.width, tf.int32),
    }
    drawn = _evaluation_draw(row, tf.constant(index, tf.int64), clip=clip, views=views)
    drawn = {name: x.numpy() for name, x in drawn.items()}
    content = [film.frames[i] for i in drawn['frames']]
    size = (film.height, film.width)
    out = np.empty((math.prod(views), clip.num_frames, clip.size, clip.size, 3), np.uint8)
    _evaluation_video(content, size, drawn, out, encoding='jpeg', short_side=clip.short_side)
    return out


# --- Streams of batches. ---


def train_batches(
    dataset: 'records.Dataset',
    split: str,
    *,
    clip: Section,
    augment: Section,
    batch_size: int,
    seed: int,
    start_step: int = 0,
    num_steps: int | None = None,
    rows: Int[np.ndarray, 'rows'] | None = None,
    num_threads: int | None = None,
) -> Iterator[dict[str, np.ndarray]]:
    """The training batches, or some rows of each, from `start_step` on.

    Args:
        dataset: an open data set.
        split: one of its splits.
        clip, augment: the config sections, with the fields of `Clip` and `Augment`.
        batch_size: examples in a batch.
        seed: of the order and of all draws, 0 <= seed < 2**32.
        start_step: the first batch.
        num_steps: how many batches; None is endless.
        rows: which of a batch's examples are read, for one of several processes; None is all of them.
            What is in a row does not depend on who reads which.
        num_threads: threads that decode; None is one per core.

    Yields:
        video: uint8 [rows, time, window, window, 3].
        box: float32 [rows, 4], top, left, height, width in pixels of the region inside the window
            that is to be shown.
        label: int32 [rows, heads], each head's class id; of a multi-label data set int32
            [rows, classes], 1 for every class that holds while the clip lasts.
        mask: float32 [rows], 0 for a video that could not be decoded (it is zeros).
        position: int32 [rows], the example's place in the endless stream of training examples.

    Raises:
        UserError: the sections, the split, the batch size, the rows or the seed are impossible.
    """
    clip, augment = Clip(**clip), Augment(**augment)
    store = stores.open_store(dataset, split)
    num_videos = len(store.index)
    rows = _rows(batch_size, rows)
    if not 0 <= seed < 2**32:
        raise UserError(f'The seed is {seed}; it must be between 0 and 2**32 - 1.')

    def plan(step):
        """Places in the stream and indices of videos, int64 [rows] each."""
        positions = step * batch_size + tf.constant(rows)
        turns = positions // augment.repeats
        return positions, video_of_turn(turns, num_videos=num_videos, seed=seed)

    side = window_size(clip, augment)
    # No run comes near 2**31 steps.
    stop = start_step + num_steps if num_steps is not None else 2**31
    return _stream(
        store,
        _Stream(
            name=f'split {split!r} of {dataset.path!r}',
            place='position',
            plan=plan,
            draw=functools.partial(_training_draw, clip=clip, augment=augment, seed=seed),
            decode=functools.partial(
                _training_video, encoding=store.encoding, short_side=clip.short_side
            ),
            shape=(clip.num_frames, side, side, 3),
            kept=('box',),
        ),
        dataset,
        len(rows),
        range(start_step, stop),
        num_threads,
    )


def eval_batches(
    dataset: 'records.Dataset',
    split: str,
    *,
    clip: Section,
    views: tuple[int, int],
    batch_size: int,
    rows: Int[np.ndarray, 'rows'] | None = None,
    num_threads: int | None = None,
) -> Iterator[dict[str, np.ndarray]]:
    """A split in its order, or some rows of each batch: every video once, all views of it together.

    The last batch is filled up with zeros of mask 0, so that all processes take as many steps.

    Args:
        dataset: an open data set.
        split: one of its splits.
        clip: the config section.
        views: how many (temporal, spatial) views.
        batch_size: videos in a batch.
        rows: which of a batch's videos are read, for one of several processes; None is all of them.
        num_threads: threads that decode; None is one per core.

    Yields:
        video: uint8 [rows, views, time, size, size, 3]; all temporal views of the first crop come
            first, then those of the second, as in Scenic.
        label: int32 [rows, heads], each head's class id; of a multi-label data set int32
            [rows, classes], 1 for every class that it has.
        mask: float32 [rows], 0 for what fills up and for videos that could not be decoded.
        index: int32 [rows], the video's place in the split; beyond its end for what fills up.

    Raises:
        UserError: the section, the split, the views, the batch size or the rows are impossible.
    """
    clip = Clip(**clip)
    _check_views(views)
    store = stores.open_store(dataset, split)
    rows = _rows(batch_size, rows)

    def plan(step):
        indices = step * batch_size + tf.constant(rows)
        return indices, indices

    return _stream(
        store,
        _Stream(
            name=f'split {split!r} of {dataset.path!r}',
            place='index',
            plan=plan,
            draw=functools.partial(_evaluation_draw, clip=clip, views=views),
            decode=functools.partial(
                _evaluation_video, encoding=store.encoding, short_side=clip.short_side
            ),
            shape=(views[0] * views[1], clip.num_frames, clip.size, clip.size, 3),
            kept=(),
        ),
        dataset,
        len(rows),
        range(-(-len(store.index) // batch_size)),
        num_threads,
    )


@dataclasses.dataclass(frozen=True)
class _Stream:
    """What one kind of stream has of its own.

    Attributes:
        name: of the split, for messages.
        place: what an example's number in the stream is called in batches.
        plan: step -> the places in the stream and the numbers of the videos, int64 [rows] each; a
            number beyond the split is an example that only fills up.
        draw: row of the index, place -> what is shown.
        decode: bytes, height and width, what is shown, and where its uint8 pixels are written.
        shape: theirs.
        kept: what of the draws goes into the batch.
    """

    name: str
    place: str
    plan: Callable[['tf.Tensor'], tuple['tf.Tensor', 'tf.Tensor']]
    draw: Callable[[Tensors, 'tf.Tensor'], Tensors]
    decode: Callable[[list[bytes], tuple[int, int], Arrays, np.ndarray], None]
    shape: tuple[int, ...]
    kept: tuple[str, ...]


def warn_of_small_frames(dataset: records.Dataset, short_side: int) -> None:
    """Says in the log that the frames of a data set are enlarged for clips, where they are.

    Args:
        dataset: prepared.
        short_side: `config.clip.short_side`.
    """
    stored = dataset.settings.get('short_side')
    if stored is not None and stored < short_side:
        log.warning(
            "the frames of '%s' have a short side of %d at most and are enlarged to "
            'config.clip.short_side=%d: vjax.prepare --short_side=%d keeps what the videos have',
            *(dataset.path, stored, short_side, short_side),
        )


def _stream(
    store: stores.Store,
    kind: _Stream,
    dataset: 'records.Dataset',
    num_rows: int,
    steps: range,
    num_threads: int | None,
) -> Iterator[dict[str, np.ndarray]]:
    """Batches of the steps.

    plan -> draw -> batch (tf.data); then, an example at a time, in threads: read -> decode to its place.
    """
    _use_cpu_only()
    memory.keep_large_buffers()
    num_videos = len(store.index)
    classes = list(dataset.classes.values())
    num_labels = len(classes[0]) if dataset.multi_label else len(classes)
    columns = {
        name: tf.constant(getattr(store.index, name))
        for name in ('num_frames', 'fps', 'height', 'width')
    }

    def plan(step):
        places, videos = kind.plan(step)
        there = tf.minimum(videos, num_videos - 1)
        row = {name: tf.gather(column, there) for name, column in columns.items()}
        return {'place': places, 'video': videos, 'row': row}

    def draw(example):
        drawn = kind.draw(example['row'], example['place'])
        return {'place': example['place'], 'video': example['video'], 'drawn': drawn}

    def label(index, drawn):
        if not dataset.multi_label:
            return store.index.label(index)
        seconds = tuple(drawn['seconds'].tolist()) if 'seconds' in drawn else None
        return store.index.multi_hot(index, num_labels, seconds)

    def decoded(index, drawn, pixels):
        """Whether the video could be read and decoded."""
        if index >= num_videos:
            return False
        try:
            content = store.read(index, drawn['frames'])
        except tfrecord.DamagedRecord as error:
            log.warning('%s: video %d cannot be read, left out: %s', kind.name, index, error)
            return False
        size = (int(store.index.height[index]), int(store.index.width[index]))
        try:
            kind.decode(content, size, drawn, pixels)
        except Exception as error:  # Decoders fail in many ways.
            reason = f'{type(error).__name__}: {error}'[:200]  # It may quote the content.
            log.warning('%s: video %d cannot be decoded, left out: %s', kind.name, index, reason)
            return False
        return True

    def fill(batch, i, index, drawn):
        """Writes an example to its place."""
        if decoded(index, drawn, batch['video'][i]):
            batch['label'][i] = label(index, drawn)
            batch['mask'][i] = 1
        else:
            batch['video'][i] = 0

    def begin(examples, pool):
        """A batch, and what is still to be done for it."""
        drawn = examples['drawn']
        batch = {
            'video': np.empty((num_rows, *kind.shape), np.uint8),
            **{name: drawn[name] for name in kind.kept},
            'label': np.zeros((num_rows, num_labels), np.int32),
            'mask': np.zeros(num_rows, np.float32),
            kind.place: examples['place'].astype(np.int32),
        }
        return batch, [
            pool.submit(fill, batch, i, index, {name: x[i] for name, x in drawn.items()})
            for i, index in enumerate(examples['video'].tolist())
        ]

    def finish(batch, fillings):
        for filling in fillings:
            filling.result()  # What it raised is raised here.
        return batch

    def stream():
        data = tf.data.Dataset.range(steps.start, steps.stop).map(plan).unbatch().map(draw)
        data = data.batch(num_rows, drop_remainder=True).prefetch(_AHEAD)
        # There is nothing to tune, and who waits for the end of the data may have to wait until the tuner
        # wakes up: up to a minute in a long run.
        options = tf.data.Options()
        options.autotune.enabled = False
        data = data.with_options(options)
        pool = concurrent.futures.ThreadPoolExecutor(num_threads or os.cpu_count(), 'decode')
        coming = collections.deque()
        try:
            for examples in data.as_numpy_iterator():
                coming.append(begin(examples, pool))
                if len(coming) > _AHEAD:
                    yield finish(*coming.popleft())
            while coming:
                yield finish(*coming.popleft())
        finally:  # A stream that is left has no use for what it had begun.
            for _, fillings in coming:
                for filling in fillings:
                    filling.cancel()

    return stream()


def _rows(batch_size: int, rows: Int[np.ndarray, 'rows'] | None) -> Int[np.ndarray, 'rows']:
    if batch_size < 1:
        raise UserError(f'batch_size={batch_size}: a batch has one example at least.')
    rows = np.arange(batch_size) if rows is None else rows
    if not len(rows) or not 0 <= rows.min() <= rows.max() < batch_size:
        raise UserError(f'rows={rows.tolist()} are no rows of a batch of {batch_size}.')
    return rows


def _check_views(views: tuple[int, int]):
    if len(views) != 2 or min(views) < 1:
        raise UserError(
            f'views={views}: give the numbers of temporal and spatial views, such as 4x3.'
        )


def _use_cpu_only():
    """Keeps TensorFlow from taking the memory of the GPUs that jax computes on."""
    try:
        tf.config.set_visible_devices([], 'GPU')
    except RuntimeError:  # TensorFlow has started already, so this has been decided.
        log.debug('TensorFlow was already initialised; its devices stay as they are.')
