"""Videos -> uint8 clips: the host's half of the input, in tf.data.

A training batch is a pure function of (seed, step). The stream of training examples is endless and
numbered; example p is video `RandomIndexShuffle(p % n)` of epoch `p // n`, and every random draw that
is made for it, here and on the device, is keyed by p. So there is no shuffle buffer and no iterator
to save: a run goes on at any step, and on any number of hosts, with the same bytes.

What a clip shows of a video is drawn from the split's index, before anything of the video is read: so
only the bytes of those frames are read, and the draws are the same however the frames are stored. Of
the frames only what is seen of them is decoded; the pixels stay uint8. Everything else happens on the
device (`vjax.data.augment`).

A video that cannot be read or decoded becomes zeros with mask 0 and a warning, never another video. It
costs healthy data nothing: nothing is checked beforehand, but where a batch fails to decode the stream
is built again from that step on without the examples of the step that fail alone.
"""

import dataclasses
import functools
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from etils import epy
from ml_collections import ConfigDict

from vjax.data import memory, records, sampling, short_gops, stores, tfrecord, video
from vjax.data.geometry import draw_window, resized_shape, view_corners, window_size
from vjax.data.sections import Augment, Clip
from vjax.errors import UserError

with epy.lazy_imports():
    import tensorflow as tf

log = logging.getLogger(__name__)

Section = Mapping[str, Any] | ConfigDict
Tensors = dict[str, Any]


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
    """What all views show of the video in place `index` of its split; as `_training_draw`, and

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
        'seconds': tf.constant([0.0, np.inf]),
    }


# --- Bytes -> pixels. ---


def _decode(
    content: 'tf.Tensor', row: Tensors, drawn: Tensors, *, encoding: str, short_side: int
) -> 'tf.Tensor':
    """Decodes frames and cuts out a window of them, uint8 [frames, height, width, 3].

    JPEG frames that were stored at the right size are decoded in the window only (which changes the
    colours of its outermost pixels, whose neighbours are not there to be interpolated with). Frames of
    another size are decoded whole and resized (bilinear, with anti-aliasing).

    Args:
        content: strings, from a store of this encoding.
        row: of the index.
        drawn: `frames` and `window` are used.
        encoding: of the store.
        short_side: what the frames' short side is resized to.
    """
    num_frames = drawn['frames'].shape[0]
    top, left, height, width = tf.unstack(drawn['window'])

    def of_video(window):
        size = tf.stack([row['height'], row['width']])
        asked = [content, drawn['frames'], size, window]
        frames = tf.numpy_function(
            lambda content, frames, size, window: short_gops.decode_frames(
                content[0], frames, *size.tolist(), window
            ),
            asked,
            tf.uint8,
        )
        return tf.ensure_shape(frames, [num_frames, None, None, 3])

    def whole():
        if encoding == 'video':
            return of_video(tf.stack([0, 0, row['height'], row['width']]))
        decode = tf.io.decode_jpeg if encoding == 'jpeg' else tf.io.decode_png
        return tf.stack([decode(image, channels=3) for image in tf.unstack(content)])

    def cut(frames):
        return frames[:, top : top + height, left : left + width]

    def decode_window():
        if encoding == 'video':
            return of_video(drawn['window'])
        if encoding == 'png':
            return cut(whole())
        # An op for each frame, because a graph loop costs up to a third more on small frames; unstacked at
        # once, because slices cost 3 % more.
        return tf.stack(
            [
                tf.io.decode_and_crop_jpeg(jpeg, drawn['window'], channels=3)
                for jpeg in tf.unstack(content)
            ]
        )

    def decode_and_resize():
        size = resized_shape(row['height'], row['width'], short_side)
        frames = tf.image.resize(whole(), size, method='bilinear', antialias=True)
        return tf.saturate_cast(tf.round(cut(frames)), tf.uint8)

    stored_at_size = tf.equal(tf.minimum(row['height'], row['width']), short_side)
    return tf.cond(stored_at_size, decode_window, decode_and_resize)


def _training_video(
    content: 'tf.Tensor',
    row: Tensors,
    drawn: Tensors,
    *,
    clip: Clip,
    augment: Augment,
    encoding: str,
) -> 'tf.Tensor':
    """The window of a training clip, uint8 [time, side, side, 3]."""
    side = window_size(clip, augment)
    frames = _decode(content, row, drawn, encoding=encoding, short_side=clip.short_side)
    if augment.area:  # A window is as large as what is shown; clips of a batch are all as large.
        frames = tf.image.pad_to_bounding_box(frames, 0, 0, side, side)
    frames = tf.repeat(frames, clip.num_frames // drawn['frames'].shape[0], axis=0)
    return tf.ensure_shape(frames, [clip.num_frames, side, side, 3])


def _evaluation_video(
    content: 'tf.Tensor',
    row: Tensors,
    drawn: Tensors,
    *,
    clip: Clip,
    views: tuple[int, int],
    encoding: str,
) -> 'tf.Tensor':
    """All views of a video, uint8 [views, time, size, size, 3]."""
    num_clips, num_crops = views
    frames = _decode(content, row, drawn, encoding=encoding, short_side=clip.short_side)
    frames = tf.repeat(frames, num_clips * clip.num_frames // drawn['frames'].shape[0], axis=0)
    size, corners = clip.size, drawn['corners']
    crops = [
        frames[:, corners[j, 0] : corners[j, 0] + size, corners[j, 1] : corners[j, 1] + size]
        for j in range(num_crops)
    ]
    shape = [num_crops * num_clips, clip.num_frames, size, size, 3]
    return tf.reshape(tf.stack(crops), shape)


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
    content = tf.constant([film.frames[i] for i in drawn['frames'].numpy()])
    shown = _evaluation_video(content, row, drawn, clip=clip, views=views, encoding='jpeg')
    return shown.numpy()


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
        label: int32 [batch, heads], each head's class id; of a multi-label data set int32
            [batch, classes], 1 for every class that holds while the clip lasts.
        mask: float32 [batch], 0 for a video that could not be decoded (it is zeros).
        position: int32 [batch], the example's place in the endless stream of training examples.

    Raises:
        UserError: the sections, the split, the batch size or the seed are impossible.
    """
    clip, augment = Clip(**clip), Augment(**augment)
    store = stores.open_store(dataset, split)
    num_videos = len(store.index)
    per_host = _per_host(batch_size, host, num_hosts)
    if not 0 <= seed < 2**32:
        raise UserError(f'The seed is {seed}; it must be between 0 and 2**32 - 1.')

    def plan(step):
        """Places in the stream and indices of videos, int64 [per_host] each."""
        positions = step * batch_size + host * per_host + tf.range(per_host, dtype=tf.int64)
        turns = positions // augment.repeats
        epochs = turns // num_videos
        # tf.random.experimental.index_shuffle wraps this op, but cannot take a batch of seeds.
        indices = tf.raw_ops.RandomIndexShuffle(
            index=turns % num_videos,
            seed=tf.stack([tf.fill([per_host], np.int64(seed)), epochs, tf.ones_like(epochs)], 1),
            max_index=tf.constant(num_videos - 1, tf.int64),
            rounds=4,
        )
        return positions, indices

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
                _training_video, clip=clip, augment=augment, encoding=store.encoding
            ),
            shape=(clip.num_frames, side, side, 3),
            kept=('box',),
        ),
        dataset,
        per_host,
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
        label: int32 [batch, heads], each head's class id; of a multi-label data set int32
            [batch, classes], 1 for every class that it has.
        mask: float32 [batch], 0 for what fills up and for videos that could not be decoded.
        index: int32 [batch], the video's place in the split; beyond its end for what fills up.

    Raises:
        UserError: the section, the split, the views or the batch size are impossible.
    """
    clip = Clip(**clip)
    _check_views(views)
    store = stores.open_store(dataset, split)
    per_host = _per_host(batch_size, host, num_hosts)

    def plan(step):
        indices = step * batch_size + host * per_host + tf.range(per_host, dtype=tf.int64)
        return indices, indices

    return _stream(
        store,
        _Stream(
            name=f'split {split!r} of {dataset.path!r}',
            place='index',
            plan=plan,
            draw=functools.partial(_evaluation_draw, clip=clip, views=views),
            decode=functools.partial(
                _evaluation_video, clip=clip, views=views, encoding=store.encoding
            ),
            shape=(views[0] * views[1], clip.num_frames, clip.size, clip.size, 3),
            kept=(),
        ),
        dataset,
        per_host,
        range(-(-len(store.index) // batch_size)),
        num_threads,
    )


@dataclasses.dataclass(frozen=True)
class _Stream:
    """What one kind of stream has of its own.

    Attributes:
        name: of the split, for messages.
        place: what an example's number in the stream is called in batches.
        plan: step -> the places in the stream and the numbers of the videos, int64 [per_host] each; a
            number beyond the split is an example that only fills up.
        draw: row of the index, place -> what is shown.
        decode: bytes, row, what is shown -> uint8 pixels.
        shape: theirs.
        kept: what of the draws goes into the batch.
    """

    name: str
    place: str
    plan: Callable[['tf.Tensor'], tuple['tf.Tensor', 'tf.Tensor']]
    draw: Callable[[Tensors, 'tf.Tensor'], Tensors]
    decode: Callable[['tf.Tensor', Tensors, Tensors], 'tf.Tensor']
    shape: tuple[int, ...]
    kept: tuple[str, ...]


def _stream(
    store: stores.Store,
    kind: _Stream,
    dataset: 'records.Dataset',
    per_host: int,
    steps: range,
    num_threads: int | None,
) -> Iterator[dict[str, np.ndarray]]:
    """Batches of the steps.

    plan -> draw -> read (in Python, once per batch) -> decode (an example at a time) -> batch.
    """
    _use_cpu_only()
    memory.keep_large_buffers()
    num_threads = num_threads or os.cpu_count()
    num_videos = len(store.index)
    classes = list(dataset.classes.values())
    num_labels = len(classes[0]) if dataset.multi_label else len(classes)
    undecodable = set()  # Places, not videos: a resumed run must lose the same examples.
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
        return example | {'drawn': kind.draw(example['row'], example['place'])}

    def label(index, seconds):
        if not dataset.multi_label:
            return store.index.label(index)
        return store.index.multi_hot(index, num_labels, tuple(seconds.tolist()))

    def fetch(places, videos, frames, seconds):
        """Python's only part in the hot path; once per batch, since each call costs up to 1 ms."""
        per_video = 1 if store.encoding == 'video' else frames.shape[1]
        content = np.full((per_host, per_video), b'', object)
        labels = np.zeros((per_host, num_labels), np.int32)
        mask = np.zeros(per_host, np.float32)
        for i, (place, index) in enumerate(zip(places.tolist(), videos.tolist(), strict=True)):
            if place in undecodable or index >= num_videos:
                continue
            try:
                content[i] = store.read(index, frames[i])
            except tfrecord.DamagedRecord as error:
                log.warning('%s: video %d cannot be read, left out: %s', kind.name, index, error)
                continue
            labels[i] = label(index, seconds[i])
            mask[i] = 1
        return content, labels, mask

    def read(examples):
        drawn = examples['drawn']
        content, labels, mask = tf.numpy_function(
            fetch,
            [examples['place'], examples['video'], drawn['frames'], drawn['seconds']],
            [tf.string, tf.int32, tf.float32],
        )
        per_video = 1 if store.encoding == 'video' else drawn['frames'].shape[1]
        return examples | {
            'content': tf.ensure_shape(content, [per_host, per_video]),
            'label': tf.ensure_shape(labels, [per_host, num_labels]),
            'mask': tf.ensure_shape(mask, [per_host]),
        }

    def decode(example):
        drawn = example['drawn']
        pixels = tf.cond(
            example['mask'] > 0,
            lambda: kind.decode(example['content'], example['row'], drawn),
            lambda: tf.zeros(kind.shape, tf.uint8),
        )
        return {
            'video': pixels,
            **{name: drawn[name] for name in kind.kept},
            'label': example['label'],
            'mask': example['mask'],
            kind.place: tf.cast(example['place'], tf.int32),
        }

    def undecoded(first, stop):
        data = tf.data.Dataset.range(first, stop)
        data = data.map(plan).unbatch().map(draw).batch(per_host, drop_remainder=True)
        return data.map(read, num_parallel_calls=2).unbatch()

    def batches(first):
        options = tf.data.Options()
        options.deterministic = True
        options.threading.private_threadpool_size = num_threads
        data = undecoded(first, steps.stop).map(decode, num_parallel_calls=num_threads)
        data = data.batch(per_host, drop_remainder=True).prefetch(2)
        return data.with_options(options).as_numpy_iterator()

    def find_undecodable(step):
        """Places of the examples of a step that fail when they are decoded alone."""
        failed = set()
        for example in undecoded(step, step + 1):
            try:
                decode(example)
            except Exception as error:  # Decoders fail in many ways.
                reason = f'{type(error).__name__}: {error}'[:200]  # It may quote the content.
                number = int(example['video'])
                log.warning(
                    '%s: video %d cannot be decoded, left out: %s', kind.name, number, reason
                )
                failed.add(int(example['place']))
        return failed

    def stream():
        step = steps.start
        while step < steps.stop:
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
