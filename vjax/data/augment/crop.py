"""The region of a window that a clip shows, at the clip's size."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def resampling_weights(
    start: Float[Array, ''], extent: Float[Array, ''], length: int, size: int, *, alone: bool
) -> Float[Array, '{size} {length}']:
    """Bilinear weights that show the interval [start, start + extent) of a line as `size` pixels.

    Pixel centres lie at halves. Where the line is made smaller the triangle widens (anti-aliasing),
    and at its ends the weights are scaled up to a sum of 1. An interval of `size` whole pixels gives
    zeros and ones.

    Args:
        start: of the interval.
        extent: of the interval.
        length: of the line.
        size: of the result.
        alone: whether the interval is cut out first, so that its ends are those of the line. Pixels
            count whose centres are in it.
    """
    scale = extent / size
    centres = start + (jnp.arange(size) + 0.5) * scale - 0.5
    places = jnp.arange(length, dtype=jnp.float32)
    distance = jnp.abs(centres[:, None] - places[None, :])
    weights = jnp.maximum(0.0, 1.0 - distance / jnp.maximum(scale, 1.0))
    if alone:
        inside = (places + 0.5 >= start) & (places + 0.5 < start + extent)
        weights = jnp.where(inside[None, :], weights, 0.0)
    return weights / jnp.sum(weights, axis=1, keepdims=True)


def resample(
    video: Float[Array, 'time height width 3'], box: Float[Array, '4'], size: int, *, alone: bool
) -> Float[Array, 'time {size} {size} 3']:
    """Shows the region `box` (top, left, height, width in pixels) of all frames at another size.

    Either the frames are resized and the region is cut out, so that its border mixes with what lies
    around it; or, `alone`, it is cut out and resized, as in a random resized crop.
    """
    height, width = video.shape[1:3]
    rows = resampling_weights(box[0], box[2], height, size, alone=alone)
    columns = resampling_weights(box[1], box[3], width, size, alone=alone)
    # Two small matrix products per frame, which accelerators like better than gathers. In full
    # precision, because pixels would otherwise be rounded to bfloat16 between them.
    highest = jax.lax.Precision.HIGHEST
    video = jnp.einsum('ih,thwc->tiwc', rows, video, precision=highest)
    return jnp.einsum('jw,tiwc->tijc', columns, video, precision=highest)
