"""Records -> uint8 clips: the host's half of the input, in tf.data.

A training batch is a pure function of (seed, step). The stream of training examples is endless and
numbered; example p is video `RandomIndexShuffle(p % n)` of epoch `p // n`, and every random draw that
is made for it, here and on the device, is keyed by p. So there is no shuffle buffer and no iterator
to save: a run goes on at any step, and on any number of hosts, with the same bytes.

The host chooses frames and the place of the crop and decodes only what is seen of them; the pixels
stay uint8. Everything else happens on the device (`vjax.data.augment`).

A record that cannot be decoded becomes zeros with mask 0 and a warning, never another video. It costs
healthy data nothing: nothing is checked beforehand, but where a batch fails the stream is built again
from that step on without the examples of the step that fail alone.
"""

import functools
import logging
import math
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from etils import epy
from ml_collections import ConfigDict

from vjax.data import records, sampling
from vjax.data.sections import Augment, Clip
from vjax.errors import UserError

with epy.lazy_imports():
    import tensorflow as tf

log = logging.getLogger(__name__)

Section = Mapping[str, Any] | ConfigDict


# --- Geometry. Frames are thought of as resized so that their short side is `short_side`. ---


def resized_shape(height: Any, width: Any, short_side: int) -> tuple['tf.Tensor', 'tf.Tensor']:
    """Height and width (int32) of a frame once its short side is `short_side` pixels."""
    height, width = tf.cast(height, tf.int32), tf.cast(width, tf.int32)
    short = tf.minimum(height, width)
    return height * short_side // short, width * short_side // short


def window_size(clip: Clip, augment: Augment) -> int:
    """Side of the square that the host decodes for training: every crop region fits into it."""
    # The nudge keeps 224 / 0.7 from becoming 321 by float error.
    return min(clip.short_side, math.ceil(clip.size / augment.scale_jitter[0] - 1e-6))


def draw_region(
    height: Any, width: Any, *, clip: Clip, augment: Augment, seed: 'tf.Tensor'
) -> tuple['tf.Tensor', 'tf.Tensor']:
    """Draws the region that a training clip shows.

    Its sides are size / zoom with a zoom for each axis, or the window's side where that is smaller.
    It lies at whole pixels, anywhere in the frame or in its centre, so that without zoom it is cut
    out exactly.

    Args:
        height, width: int32 shape of the resized frame.
        clip, augment: their config sections.
        seed: int [2].

    Returns:
        corner: int32 [2], top and left of the window in the frame.
        box: float32 [4], top, left, height and width of the region inside the window, in pixels.
    """
    window = window_size(clip, augment)
    draws = tf.random.stateless_uniform([2, 2], seed)
    least, most = augment.scale_jitter
    zoom = least + draws[0] * (most - least)
    region = tf.minimum(clip.size / zoom, window)
    if least == most == 1:
        region = tf.constant([clip.size, clip.size], tf.float32)  # Free of rounding.
    frame = tf.stack([height, width])
    room = tf.cast(tf.floor(tf.cast(frame, tf.float32) - region), tf.int32)
    if augment.random_crop:
        places = tf.cast(room + 1, tf.float32)
        origin = tf.minimum(tf.cast(draws[1] * places, tf.int32), room)
    else:
        origin = (room + 1) // 2
    corner = tf.minimum(origin, frame - window)
    box = tf.concat([tf.cast(origin - corner, tf.float32), region], axis=0)
    return corner, box


def view_corners(height: Any, width: Any, *, size: int, num_views: int) -> 'tf.Tensor':
    """Top and left, int32 [num_views, 2], of the evaluation's spatial views of a resized frame.

    One view is the centre; three are left, centre and right, or top, centre and bottom, along the
    longer side; other numbers are spread evenly. The centre is rounded up, as in Scenic.
    """
    room = tf.stack([height, width]) - size
    centre = (room + 1) // 2
    long = tf.reduce_max(room)
    if num_views == 1:
        along = centre[tf.cast(width >= height, tf.int32)][None]
    elif num_views == 3:
        along = tf.stack([0, (long + 1) // 2, long])
    else:
        along = tf.range(num_views) * long // (num_views - 1)
    across = tf.ones_like(along)
    wide = tf.stack([across * centre[0], along], axis=1)
    tall = tf.stack([along, across * centre[1]], axis=1)
    return tf.where(height > width, tall, wide)


def _decode(
    jpegs: list['tf.Tensor'],
    shape: tuple['tf.Tensor', 'tf.Tensor'],
    short_side: int,
    window: 'tf.Tensor',
) -> 'tf.Tensor':
    """Decodes frames and cuts out a window of them, uint8 [len(jpegs), height, width, 3].

    Frames that were stored at the right size are decoded in the window only (which changes the colours
    of its outermost pixels, whose neighbours are not there to be interpolated with). Others are
    decoded whole and resized (bilinear, with anti-aliasing).

    Args:
        jpegs: the frames, scalar strings.
        shape: their height and width as stored, int32.
        short_side: what their short side is resized to.
        window: int32 [4], top, left, height and width in the resized frame.
    """

    # An op for each frame, because a graph loop costs up to a third more on small frames.
    def decode_window():
        return tf.stack([tf.io.decode_and_crop_jpeg(jpeg, window, channels=3) for jpeg in jpegs])

    def decode_and_resize():
        frames = tf.stack([tf.io.decode_jpeg(jpeg, channels=3) for jpeg in jpegs])
        size = resized_shape(*shape, short_side)
        frames = tf.image.resize(frames, size, method='bilinear', antialias=True)
        top, left, height, width = tf.unstack(window)
        frames = frames[:, top : top + height, left : left + width]
        return tf.saturate_cast(tf.round(frames), tf.uint8)

    stored_at_size = tf.equal(tf.minimum(*shape), short_side)
    return tf.cond(stored_at_size, decode_window, decode_and_resize)


# --- One record -> one example. ---


def _frames_of(video: Mapping[str, 'tf.Tensor'], indices: 'tf.Tensor', order: str):
    """The sampled frames' JPEGs, and how often each is shown."""
    num_frames = indices.shape[0]
    if order == 'still':
        return [video['frames'][indices[0]]], num_frames
    return [video['frames'][indices[i]] for i in range(num_frames)], 1


def _training_example(
    serialized: 'tf.Tensor',
    position: 'tf.Tensor',
    *,
    clip: Clip,
    augment: Augment,
    seed: int,
    num_heads: int,
) -> dict[str, 'tf.Tensor']:
    """The clip that place `position` of the stream shows of a record: video, box, label."""
    seeds = tf.random.experimental.stateless_fold_in(tf.constant([seed, 0], tf.int64), position)
    start_seed, order_seed, crop_seed = tf.unstack(
        tf.random.experimental.stateless_split(seeds, 3), num=3
    )
    video = records.parse(serialized, num_heads)
    length = tf.size(video['frames'])
    step = sampling.frame_step(clip.stride, clip.fps, video['fps'])
    timing = {'num_frames': clip.num_frames, 'step': step}
    start = sampling.random_start(length, **timing, seed=start_seed)
    indices = sampling.frame_indices(start, length, **timing, short_clips=clip.short_clips)
    indices = sampling.reorder(indices, clip.order, training=True, seed=order_seed)

    shape = tf.cast(video['height'], tf.int32), tf.cast(video['width'], tf.int32)
    resized = resized_shape(*shape, clip.short_side)
    corner, box = draw_region(*resized, clip=clip, augment=augment, seed=crop_seed)
    side = window_size(clip, augment)
    jpegs, times = _frames_of(video, indices, clip.order)
    frames = _decode(jpegs, shape, clip.short_side, tf.concat([corner, [side, side]], axis=0))
    frames = tf.ensure_shape(tf.repeat(frames, times, axis=0), [clip.num_frames, side, side, 3])
    return {'video': frames, 'box': box, 'label': tf.cast(video['label'], tf.int32)}


def _evaluation_example(
    serialized: 'tf.Tensor',
    index: 'tf.Tensor',
    *,
    clip: Clip,
    views: tuple[int, int],
    num_heads: int,
) -> dict[str, 'tf.Tensor']:
    """All views of a record: video [views, time, size, size, 3], label."""
    num_clips, num_crops = views
    video = records.parse(serialized, num_heads)
    length = tf.size(video['frames'])
    step = sampling.frame_step(clip.stride, clip.fps, video['fps'])
    timing = {'num_frames': clip.num_frames, 'step': step}
    starts = sampling.view_starts(length, **timing, num_views=num_clips)
    seeds = tf.random.experimental.stateless_split(
        tf.stack([tf.constant(0, tf.int64), tf.cast(index, tf.int64)]), num_clips
    )

    shape = tf.cast(video['height'], tf.int32), tf.cast(video['width'], tf.int32)
    resized = resized_shape(*shape, clip.short_side)
    corners = view_corners(*resized, size=clip.size, num_views=num_crops)
    # What all crops cover is decoded once.
    corner = tf.reduce_min(corners, axis=0)
    window = tf.concat([corner, tf.reduce_max(corners, axis=0) - corner + clip.size], axis=0)
    corners -= corner[None]
    jpegs = []
    for i in range(num_clips):
        indices = sampling.frame_indices(starts[i], length, **timing, short_clips=clip.short_clips)
        indices = sampling.reorder(indices, clip.order, training=False, seed=seeds[i])
        more, times = _frames_of(video, indices, clip.order)
        jpegs += more
    frames = _decode(jpegs, shape, clip.short_side, window)
    frames = tf.repeat(frames, times, axis=0)

    size = clip.size
    crops = [
        frames[:, corners[j, 0] : corners[j, 0] + size, corners[j, 1] : corners[j, 1] + size]
        for j in range(num_crops)
    ]
    shown = tf.reshape(tf.stack(crops), [num_crops * num_clips, clip.num_frames, size, size, 3])
    return {'video': shown, 'label': tf.cast(video['label'], tf.int32)}


def decode_views(
    serialized: bytes, *, clip: Section, views: tuple[int, int], index: int = 0
) -> np.ndarray:
    """The evaluation's clips of one record, for records that are in no data set.

    Args:
        serialized: what `records.encode_example` gives.
        clip: the config section.
        views: how many (temporal, spatial) views.
        index: the video's place in its split; only `order='shuffled'` depends on it.

    Returns:
        uint8 [views, time, size, size, 3], the same bytes as in `eval_batches`.
    """
    _use_cpu_only()
    _check_views(views)
    example = _evaluation_example(
        tf.constant(serialized),
        tf.constant(index, tf.int64),
        clip=Clip(**clip),
        views=views,
        num_heads=1,
    )
    return example['video'].numpy()


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
    host: int = 0,
    num_hosts: int = 1,
    num_threads: int | None = None,
) -> Iterator[dict[str, np.ndarray]]:
    """This host's part of the training batches, from `start_step` on.

    Args:
        dataset: an open data set.
        split: one of its splits.
        clip, augment: the config sections, with the fields of `Clip` and `Augment`.
        batch_size: examples in a batch, over all hosts.
        seed: of the order and of all draws, 0 <= seed < 2**32.
        start_step: the first batch.
        num_steps: how many batches; None is endless.
        host, num_hosts: which part. The parts of all hosts, in their order, are the global batch, and
            it is the same for every number of hosts.
        num_threads: threads that decode; None is one per core.

    Yields:
        video: uint8 [batch, time, window, window, 3].
        box: float32 [batch, 4], top, left, height, width in pixels of the region inside the window
            that is to be shown.
        label: int32 [batch, heads], each head's class id.
        mask: float32 [batch], 0 for a record that could not be decoded (its video is zeros).
        position: int32 [batch], the example's place in the endless stream of training examples.

    Raises:
        UserError: the sections, the split, the batch size or the seed are impossible.
    """
    clip, augment = Clip(**clip), Augment(**augment)
    videos, name = _open(dataset, split), f'split {split!r} of {dataset.path!r}'
    num_videos = len(videos)
    per_host = _per_host(batch_size, host, num_hosts)
    if not 0 <= seed < 2**32:
        raise UserError(f'The seed is {seed}; it must be between 0 and 2**32 - 1.')

    def plan(step):
        """Places in the stream and indices of videos, int64 [per_host] each."""
        positions = step * batch_size + host * per_host + tf.range(per_host, dtype=tf.int64)
        epochs = positions // num_videos
        # tf.random.experimental.index_shuffle wraps this op, but cannot take a batch of seeds.
        indices = tf.raw_ops.RandomIndexShuffle(
            index=positions % num_videos,
            seed=tf.stack([tf.fill([per_host], np.int64(seed)), epochs, tf.ones_like(epochs)], 1),
            max_index=tf.constant(num_videos - 1, tf.int64),
            rounds=4,
        )
        return positions, indices

    example = functools.partial(
        _training_example, clip=clip, augment=augment, seed=seed, num_heads=len(dataset.classes)
    )
    # No run comes near 2**31 steps.
    stop = start_step + num_steps if num_steps is not None else 2**31
    return _stream(
        videos,
        name,
        plan,
        example,
        _blank_record(clip.short_side, len(dataset.classes)),
        per_host,
        start_step,
        stop,
        'position',
        num_threads,
    )


def eval_batches(
    dataset: 'records.Dataset',
    split: str,
    *,
    clip: Section,
    views: tuple[int, int],
    batch_size: int,
    host: int = 0,
    num_hosts: int = 1,
    num_threads: int | None = None,
) -> Iterator[dict[str, np.ndarray]]:
    """This host's part of a split in its order, every video once, all views of it together.

    The last batch is filled up with zeros of mask 0, so that all hosts take the same number of steps.

    Args:
        dataset: an open data set.
        split: one of its splits.
        clip: the config section.
        views: how many (temporal, spatial) views.
        batch_size: videos in a batch, over all hosts.
        host, num_hosts: which part.
        num_threads: threads that decode; None is one per core.

    Yields:
        video: uint8 [batch, views, time, size, size, 3]; all temporal views of the first crop come
            first, then those of the second, as in Scenic.
        label: int32 [batch, heads], each head's class id.
        mask: float32 [batch], 0 for what fills up and for records that could not be decoded.
        index: int32 [batch], the video's place in the split; beyond its end for what fills up.

    Raises:
        UserError: the section, the split, the views or the batch size are impossible.
    """
    clip = Clip(**clip)
    _check_views(views)
    videos, name = _open(dataset, split), f'split {split!r} of {dataset.path!r}'
    num_videos = len(videos)
    per_host = _per_host(batch_size, host, num_hosts)

    def plan(step):
        indices = step * batch_size + host * per_host + tf.range(per_host, dtype=tf.int64)
        return indices, indices

    example = functools.partial(
        _evaluation_example, clip=clip, views=views, num_heads=len(dataset.classes)
    )
    stop = -(-num_videos // batch_size)
    blank = _blank_record(clip.short_side, len(dataset.classes))
    return _stream(videos, name, plan, example, blank, per_host, 0, stop, 'index', num_threads)


def _stream(
    videos: 'records.VideoRecords',
    name: str,
    plan: Callable,
    example: Callable,
    blank: bytes,
    per_host: int,
    start: int,
    stop: int,
    place: str,
    num_threads: int | None,
) -> Iterator[dict[str, np.ndarray]]:
    """Batches start .. stop - 1 of the examples that `plan` names and `example` decodes.

    Args:
        videos: the records.
        name: what they are called in warnings.
        plan: step -> places of this host's examples and indices of their videos, int64 [per_host];
            an index beyond the split's end is filled up with zeros of mask 0.
        example: (record, place) -> tensors of one example.
        blank: the record in place of what is missing.
        per_host: examples in a batch.
        start, stop: steps.
        place: the key under which the batch names the places.
        num_threads: threads that decode; None is one per core.
    """
    _use_cpu_only()
    num_threads = num_threads or os.cpu_count()
    undecodable = set()  # Places, not videos: a resumed run must lose the same examples.

    def fetch(places, indices):
        """Python's only part in the hot path; once per batch, since each call costs up to 1 ms."""
        good = [
            place not in undecodable and index < len(videos)
            for place, index in zip(places.tolist(), indices.tolist(), strict=True)
        ]
        found = iter(videos.read(indices[good].tolist()))
        serialized = [next(found) if is_good else blank for is_good in good]
        return np.array(serialized, object), np.array(good, np.float32)

    def read(step):
        places, indices = plan(step)
        serialized, mask = tf.numpy_function(fetch, [places, indices], [tf.string, tf.float32])
        return tf.ensure_shape(serialized, [per_host]), tf.ensure_shape(mask, [per_host]), places

    def decode(serialized, mask, where):
        return example(serialized, where) | {'mask': mask, place: tf.cast(where, tf.int32)}

    def batches(first):
        options = tf.data.Options()
        options.deterministic = True
        options.threading.private_threadpool_size = num_threads
        data = tf.data.Dataset.range(first, stop)
        data = data.map(read, num_parallel_calls=2).unbatch()
        data = data.map(decode, num_parallel_calls=num_threads)
        data = data.batch(per_host, drop_remainder=True).prefetch(2)
        return data.with_options(options).as_numpy_iterator()

    def find_undecodable(step):
        """Names the examples of a step that fail when they are decoded alone."""
        failed = set()
        places, indices = (tensor.numpy().tolist() for tensor in plan(np.int64(step)))
        for where, index in zip(places, indices, strict=True):
            if where in undecodable or index >= len(videos):
                continue
            try:
                example(tf.constant(videos.read([index])[0]), tf.constant(where, tf.int64))
            except Exception as error:  # Readers and decoders fail in many ways.
                reason = f'{type(error).__name__}: {error}'[:200]  # It may quote the record.
                log.warning('%s: record %d cannot be decoded, left out: %s', name, index, reason)
                failed.add(where)
        return failed

    def stream():
        step = start
        while step < stop:
            try:
                for batch in batches(step):
                    yield batch
                    step += 1
            # TensorFlow stumbles over its own message where that quotes a garbled record.
            except (tf.errors.OpError, UnicodeDecodeError):
                failed = find_undecodable(step)
                if not failed:
                    raise
                undecodable.update(failed)

    return stream()


def _blank_record(side: int, num_heads: int) -> bytes:
    """A record that decodes to zeros."""
    black = tf.io.encode_jpeg(np.zeros((side, side, 3), np.uint8), quality=100).numpy()
    label = [0] * num_heads
    return records.encode_example([black], label, fps=1.0, height=side, width=side, source='')


def _open(dataset: 'records.Dataset', split: str) -> 'records.VideoRecords':
    videos = records.VideoRecords(dataset, split)
    if not len(videos):
        raise UserError(f'split {split!r} of {dataset.path!r} has no videos.')
    return videos


def _per_host(batch_size: int, host: int, num_hosts: int) -> int:
    if batch_size < 1 or batch_size % num_hosts:
        raise UserError(
            f'batch_size={batch_size} cannot be shared by {num_hosts} hosts; make it a multiple.'
        )
    if not 0 <= host < num_hosts:
        raise UserError(f'host={host} is not one of {num_hosts} hosts.')
    return batch_size // num_hosts


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
