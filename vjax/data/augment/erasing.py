"""Random erasing (Zhong et al., arXiv 1708.04896): a rectangle of noise."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key

AREA = (0.02, 1 / 3)  # Of the frame, as in timm; the paper's classifiers have 0.4 at most.
ASPECT = (0.3, 1 / 0.3)  # Height / width.
ATTEMPTS = 10


def draw_rectangle(key: Key[Array, ''], height: int, width: int) -> Bool[Array, '{height} {width}']:
    """The pixels to erase: a rectangle uniform in area and place.

    As in timm and VideoMAE, the aspect is log-uniform, where the paper's favours tall rectangles, and
    rectangles that the frame cannot hold are drawn anew, up to nine times; then nothing is erased.
    """
    area_key, aspect_key, top_key, left_key = jax.random.split(key, 4)
    area = (
        height * width * jax.random.uniform(area_key, (ATTEMPTS,), minval=AREA[0], maxval=AREA[1])
    )
    low, high = map(math.log, ASPECT)
    aspect = jnp.exp(jax.random.uniform(aspect_key, (ATTEMPTS,), minval=low, maxval=high))
    heights = jnp.round(jnp.sqrt(area * aspect)).astype(jnp.int32)
    widths = jnp.round(jnp.sqrt(area / aspect)).astype(jnp.int32)
    fits = (heights < height) & (widths < width)
    first = jnp.argmax(fits)
    h = jnp.where(fits[first], heights[first], 0)
    w = jnp.where(fits[first], widths[first], 0)
    top = jax.random.randint(top_key, (), 0, height - h + 1)
    left = jax.random.randint(left_key, (), 0, width - w + 1)
    rows, columns = jnp.arange(height)[:, None], jnp.arange(width)[None, :]
    return (rows >= top) & (rows < top + h) & (columns >= left) & (columns < left + w)


def erase(
    video: Float[Array, 'time height width 3'], key: Key[Array, '']
) -> Float[Array, 'time height width 3']:
    """Fills a rectangle with noise, the same in all frames.

    Pixels are in [0, 1] and so is the noise, uniform and independent for each pixel and channel: the
    paper's best (RE-R). timm's and VideoMAE's is normal, of the standard deviation of ImageNet's
    pixels, and VideoMAE's changes from frame to frame.
    """
    place, noise = jax.random.split(key)
    height, width = video.shape[1:3]
    erased = draw_rectangle(place, height, width)
    noise = jax.random.uniform(noise, (height, width, 3))
    return jnp.where(erased[None, :, :, None], noise[None], video)
