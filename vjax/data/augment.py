"""The device's half of the input: uint8 windows -> float clips, inside jit.

Each clip has one draw for all its frames, keyed by the example's place in the training stream, so a
batch is the same whatever the step it is cut into, the hosts or the devices. Colours are changed by
dm-pix.
"""

from collections.abc import Mapping

import dm_pix as pix
import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Float, Key, UInt8

# Strengths of the colour changes: SimCLR's order, with the ranges of Scenic's video pipeline.
MAX_BRIGHTNESS = 32 / 255
SATURATION = (0.6, 1.4)
CONTRAST = (0.6, 1.4)
MAX_HUE = 0.2


def normalise(video: UInt8[Array, '*shape']) -> Float[Array, '*shape']:
    """Pixels 0 .. 255 as float32 in [-1, 1], as models take them."""
    return video.astype(jnp.float32) * 2 / 255 - 1


def augment(
    batch: Mapping[str, Array],
    key: Key[Array, ''],
    *,
    size: int,
    flip: float,
    color_jitter: float,
    color_drop: float,
) -> Float[Array, 'batch time {size} {size} 3']:
    """Crops, flips and colours a training batch.

    An operation whose probability is 0 leaves no trace in the compiled program.

    Args:
        batch: from `pipeline.train_batches`: `video` uint8 [batch, time, window, window, 3], `box`
            float32 [batch, 4] (top, left, height, width in pixels of the window) and `position`.
        key: the run's; the same in every step, because the position tells examples apart.
        size: side of the clips, in pixels.
        flip: probability of a horizontal flip.
        color_jitter: probability of changing brightness, saturation, contrast and hue.
        color_drop: probability of losing the colour.

    Returns:
        Clips in [-1, 1].
    """

    def one(video, box, position):
        flip_key, jitter_key, drop_key = jax.random.split(jax.random.fold_in(key, position), 3)
        x = resample(video.astype(jnp.float32), box, size) / 255
        if flip:
            x = jnp.where(jax.random.bernoulli(flip_key, flip), x[:, :, ::-1], x)
        if color_jitter:
            chosen, draws = jax.random.split(jitter_key)
            x = jnp.where(jax.random.bernoulli(chosen, color_jitter), jitter_colors(x, draws), x)
        if color_drop:
            grey = jnp.repeat(pix.rgb_to_grayscale(x), 3, axis=-1)
            x = jnp.where(jax.random.bernoulli(drop_key, color_drop), grey, x)
        return x * 2 - 1

    return jax.vmap(one)(batch['video'], batch['box'], batch['position'])


def resampling_weights(
    start: Float[Array, ''], extent: Float[Array, ''], length: int, size: int
) -> Float[Array, '{size} {length}']:
    """Bilinear weights that show the interval [start, start + extent) of a line as `size` pixels.

    Pixel centres lie at halves. Where the line is made smaller the triangle widens (anti-aliasing),
    and at its ends the weights are scaled up to a sum of 1. An interval of `size` whole pixels gives
    zeros and ones.
    """
    scale = extent / size
    centres = start + (jnp.arange(size) + 0.5) * scale - 0.5
    distance = jnp.abs(centres[:, None] - jnp.arange(length, dtype=jnp.float32)[None, :])
    weights = jnp.maximum(0.0, 1.0 - distance / jnp.maximum(scale, 1.0))
    return weights / jnp.sum(weights, axis=1, keepdims=True)


def resample(
    video: Float[Array, 'time height width 3'], box: Float[Array, '4'], size: int
) -> Float[Array, 'time {size} {size} 3']:
    """Shows the region `box` (top, left, height, width in pixels) of all frames at another size."""
    height, width = video.shape[1:3]
    rows = resampling_weights(box[0], box[2], height, size)
    columns = resampling_weights(box[1], box[3], width, size)
    # Two small matrix products per frame, which accelerators like better than gathers. In full
    # precision, because pixels would otherwise be rounded to bfloat16 between them.
    highest = jax.lax.Precision.HIGHEST
    video = jnp.einsum('ih,thwc->tiwc', rows, video, precision=highest)
    return jnp.einsum('jw,tiwc->tijc', columns, video, precision=highest)


def jitter_colors(
    video: Float[Array, 'time height width 3'], key: Key[Array, '']
) -> Float[Array, 'time height width 3']:
    """Changes brightness, saturation, contrast and hue, in this order, alike in all frames.

    Pixels are in [0, 1] and are clipped to it after every step, since the hue and saturation of other
    colours mean nothing. The contrast is changed about the mean of the clip, not of each frame, which
    would make the frames of a clip that brightens change differently.
    """
    brightness, saturation, contrast, hue = jax.random.split(key, 4)

    def uniform(key, least, most):
        return jax.random.uniform(key, (), minval=least, maxval=most)

    # One tall picture: dm-pix takes means over the last axes but the channels.
    x = rearrange(video, 't h w c -> (t h) w c')
    x = pix.adjust_brightness(x, uniform(brightness, -MAX_BRIGHTNESS, MAX_BRIGHTNESS))
    x = jnp.clip(x, 0, 1)
    x = jnp.clip(pix.adjust_saturation(x, uniform(saturation, *SATURATION)), 0, 1)
    x = jnp.clip(pix.adjust_contrast(x, uniform(contrast, *CONTRAST)), 0, 1)
    x = jnp.clip(pix.adjust_hue(x, uniform(hue, -MAX_HUE, MAX_HUE)), 0, 1)
    return rearrange(x, '(t h) w c -> t h w c', t=video.shape[0])


def mixup(
    video: Float[Array, 'batch *shape'],
    target: Float[Array, 'batch classes'],
    key: Key[Array, ''],
    alpha: float,
) -> tuple[Float[Array, 'batch *shape'], Float[Array, 'batch classes']]:
    """mixup (arXiv:1710.09412, eq. 1): blends each example and its target with another's.

    One weight from Beta(alpha, alpha) serves the batch, and example i meets example batch - 1 - i of
    the global batch, so the result does not depend on the number of devices.
    """
    weight = jax.random.beta(key, alpha, alpha)

    def blend(x):
        return weight * x + (1 - weight) * jnp.flip(x, axis=0)

    return blend(video), blend(target)
