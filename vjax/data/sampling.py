"""Which frames of a video a clip is made of.

TensorFlow functions without state, for tf.data graphs; called with plain numbers they run at once.
The indices are those of Scenic's ViViT input pipeline (and of DMVR, on which it stands), so that
published protocols can be repeated: its training start, its middle clip, its evenly spread views.

Frames are taken `step` frames apart. A step need not be whole: where the config asks for a rate in
time (`fps`) it is the video's own rate divided by it, and sampled position i is the frame nearest to
i * step (halves upwards). Whole steps, and rates that differ from them only by float error, give
exactly the same indices.
"""

from typing import Any

from etils import epy

with epy.lazy_imports():
    import tensorflow as tf

SHORT_CLIPS = ('loop', 'pad')
ORDERS = ('forward', 'reversed', 'still', 'shuffled')

Number = Any  # A Python number, a numpy scalar or a scalar tensor.


def frame_step(stride: int, fps: float | None, video_fps: Number) -> 'tf.Tensor':
    """Frames of the video from one sampled frame to the next, float64.

    Args:
        stride: the step in frames; counts where `fps` is None.
        fps: frames of the clip in a second of video.
        video_fps: the video's own rate.
    """
    if fps is None:
        return tf.constant(stride, tf.float64)
    return _float64(video_fps) / fps


def _float64(x: Number) -> 'tf.Tensor':
    # tf.cast would take a Python number through float32.
    return tf.cast(x, tf.float64) if tf.is_tensor(x) else tf.constant(x, tf.float64)


def _nearest(x: 'tf.Tensor') -> 'tf.Tensor':
    return tf.cast(tf.floor(x + 0.5), tf.int32)


def random_start(
    length: Number, *, num_frames: int, step: Number, seed: 'tf.Tensor'
) -> 'tf.Tensor':
    """First frame of a training clip: uniform over all starts whose last sampled frame exists.

    A video that is shorter than the clip starts at its first frame. `seed` is an int [2] tensor.
    """
    extent = _nearest((num_frames - 1) * _float64(step))
    starts = tf.maximum(1, tf.cast(length, tf.int32) - extent)
    return tf.random.stateless_uniform([], seed, 0, starts, tf.int32)


def view_starts(length: Number, *, num_frames: int, step: Number, num_views: int) -> 'tf.Tensor':
    """First frames of the evaluation's temporal views, int32 [num_views].

    One view lies in the middle of the video; more are spread evenly from its first frame to the last
    start that leaves room for `num_frames * step` frames, as `np.linspace` truncated to integers.
    """
    extent = _nearest(num_frames * _float64(step))
    room = tf.maximum(0, tf.cast(length, tf.int32) - extent)
    if num_views == 1:
        return (room // 2)[None]
    # In float64 and with an exact end, like numpy: float32 would be off by a frame now and then.
    spacing = tf.cast(room, tf.float64) / (num_views - 1)
    starts = tf.cast(tf.range(num_views - 1, dtype=tf.float64) * spacing, tf.int32)
    return tf.concat([starts, room[None]], axis=0)


def frame_indices(
    start: Number, length: Number, *, num_frames: int, step: Number, short_clips: str
) -> 'tf.Tensor':
    """The frames of the clip that begins at `start`, int32 [num_frames].

    Behind a video's last frame it begins again (`short_clips='loop'`, Scenic's way) or stands still
    (`'pad'`).
    """
    steps = tf.range(num_frames, dtype=tf.float64) * _float64(step)
    indices = tf.cast(start, tf.int32) + _nearest(steps)
    if short_clips == 'loop':
        return indices % length
    return tf.minimum(indices, tf.cast(length, tf.int32) - 1)


def reorder(indices: 'tf.Tensor', order: str, *, training: bool, seed: 'tf.Tensor') -> 'tf.Tensor':
    """The clip's frames in another order, for studies of what a model makes of time.

    Args:
        indices: int32 [num_frames], in the order of time.
        order: 'forward', 'reversed', 'shuffled' (at random), or 'still': one of the frames in every
            place, drawn at random in training and the middle one in evaluation. That is the
            single-frame baseline: the frames that it sees are those that a clip would have.
        training: whether 'still' draws.
        seed: int [2], for 'still' and 'shuffled'.
    """
    if order == 'reversed':
        return indices[::-1]
    if order == 'shuffled':
        return tf.random.experimental.stateless_shuffle(indices, seed)
    if order == 'still':
        num_frames = indices.shape[0]
        which = num_frames // 2
        if training:
            which = tf.random.stateless_uniform([], seed, 0, num_frames, tf.int32)
        return tf.repeat(indices[which], num_frames)
    return indices
