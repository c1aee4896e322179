"""What of a frame is shown: the region of a training clip, and the crops of evaluation.

Frames are thought of as resized so that their short side is `clip.short_side`. TensorFlow functions
without state, for tf.data graphs.
"""

import math
from typing import Any

from etils import epy

from vjax.data.sections import Augment, Clip

with epy.lazy_imports():
    import tensorflow as tf


def resized_shape(height: Any, width: Any, short_side: int) -> tuple['tf.Tensor', 'tf.Tensor']:
    """Height and width (int32) of a frame once its short side is `short_side` pixels."""
    height, width = tf.cast(height, tf.int32), tf.cast(width, tf.int32)
    short = tf.minimum(height, width)
    return height * short_side // short, width * short_side // short


def window_size(clip: Clip, augment: Augment) -> int:
    """Side of the square that the host ships for training: every crop region fits into it."""
    if augment.area:
        # The longer side of a region is at most so many times the frame's short side.
        longest = max(augment.aspect[1], 1 / augment.aspect[0], 1)
        return math.ceil(clip.short_side * longest - 1e-6)
    # The nudge keeps 224 / 0.7 from becoming 321 by float error.
    return min(clip.short_side, math.ceil(clip.size / augment.scale_jitter[0] - 1e-6))


def draw_window(
    height: Any, width: Any, *, clip: Clip, augment: Augment, seed: 'tf.Tensor'
) -> tuple['tf.Tensor', 'tf.Tensor']:
    """Draws what is decoded of the frames of a training clip, and what is shown of that.

    Args:
        height, width: int32 shape of the resized frame.
        clip, augment: their config sections.
        seed: int [2].

    Returns:
        window: int32 [4], top, left, height and width in the frame of what is decoded.
        box: float32 [4], top, left, height and width of what is shown, in pixels of the window.
    """
    height, width = tf.cast(height, tf.int32), tf.cast(width, tf.int32)
    if augment.area:
        # A draw is rounded, and so may be a pixel more than the longest side that there is.
        most = window_size(clip, augment)
        window = _area_window(height, width, augment, seed, most)
        return window, tf.cast(tf.concat([[0, 0], window[2:]], axis=0), tf.float32)
    return _zoom_window(height, width, clip, augment, seed)


def _zoom_window(
    height: 'tf.Tensor', width: 'tf.Tensor', clip: Clip, augment: Augment, seed: 'tf.Tensor'
) -> tuple['tf.Tensor', 'tf.Tensor']:
    """A square window, and a region with a zoom for each axis.

    The region's sides are size / zoom, or the window's side where that is smaller. It lies at whole
    pixels, anywhere in the frame or in its centre, so that without zoom it is cut out exactly.
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
    return tf.concat([corner, [window, window]], axis=0), box


_ATTEMPTS = 10


def _area_window(
    height: 'tf.Tensor', width: 'tf.Tensor', augment: Augment, seed: 'tf.Tensor', most: int
) -> 'tf.Tensor':
    """A random part of the frame (arXiv:1409.4842, section 6), int32 [4], as torchvision draws it.

    Its part of the frame's area is uniform and the logarithm of its aspect (width / height) is. The
    first of ten draws that fits into the frame counts; if none does, the largest part of an allowed
    aspect in the centre. No side is more than `most`.
    """
    draws = tf.random.stateless_uniform([2, _ATTEMPTS], seed)
    (smallest, largest), (narrowest, widest) = augment.area, augment.aspect
    whole_height, whole_width = tf.cast(height, tf.float32), tf.cast(width, tf.float32)
    area = whole_height * whole_width * (smallest + draws[0] * (largest - smallest))
    log_narrowest, log_widest = math.log(narrowest), math.log(widest)
    aspect = tf.exp(log_narrowest + draws[1] * (log_widest - log_narrowest))
    heights = tf.minimum(tf.cast(tf.round(tf.sqrt(area / aspect)), tf.int32), most)
    widths = tf.minimum(tf.cast(tf.round(tf.sqrt(area * aspect)), tf.int32), most)
    fits = (heights > 0) & (heights <= height) & (widths > 0) & (widths <= width)
    first = tf.argmax(tf.cast(fits, tf.int32))
    shape = tf.stack([heights[first], widths[first]])
    place_seed = tf.random.experimental.stateless_fold_in(seed, 1)
    room = tf.stack([height, width]) - shape
    origin = tf.random.stateless_uniform([2], place_seed)
    origin = tf.minimum(tf.cast(origin * tf.cast(room + 1, tf.float32), tf.int32), room)

    fallback = tf.stack(
        [
            tf.minimum(height, tf.cast(tf.round(whole_width / narrowest), tf.int32)),
            tf.minimum(width, tf.cast(tf.round(whole_height * widest), tf.int32)),
        ]
    )
    centre = (tf.stack([height, width]) - fallback) // 2
    drawn = tf.concat([origin, shape], axis=0)
    return tf.where(tf.reduce_any(fits), drawn, tf.concat([centre, fallback], axis=0))


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
