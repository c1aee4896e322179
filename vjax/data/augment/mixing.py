"""mixup and cutmix: examples that are parts of two."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key


def mix(
    video: Float[Array, 'batch time height width channels'],
    target: Float[Array, 'batch classes'],
    mask: Float[Array, 'batch'],
    key: Key[Array, ''],
    *,
    mixup: float,
    cutmix: float,
) -> tuple[
    Float[Array, 'batch time height width channels'],
    Float[Array, 'batch classes'],
]:
    """mixup (arXiv 1710.09412, eq. 1), cutmix (arXiv 1905.04899, eq. 1), or either at even odds.

    One draw serves the batch, and example i meets example batch - 1 - i of the global batch, so the
    result does not depend on the number of devices. The target gives each example the part of the
    pixels that is its own. Who would meet one that is masked, hence no video, stays as it is.

    Args:
        video: the clips.
        target: what they show.
        mask: 1 for examples that count, 0 for others.
        key: the step's.
        mixup: Beta's alpha; 0 is off.
        cutmix: Beta's alpha; 0 is off.
    """
    if not mixup and not cutmix:
        return video, target
    height, width = video.shape[2:4]
    if not cutmix:
        part = own = jax.random.beta(key, mixup, mixup)
    elif not mixup:
        own, part = cut(key, cutmix, height, width)
    else:
        coin, blended, place = jax.random.split(key, 3)
        own, part = cut(place, cutmix, height, width)
        weight = jax.random.beta(blended, mixup, mixup)
        cuts = jax.random.bernoulli(coin, 0.5)
        own, part = jnp.where(cuts, own, weight), jnp.where(cuts, part, weight)
    meets = jnp.flip(mask) > 0
    own = own[None, None, :, :, None] if own.ndim else own
    own = jnp.where(meets[:, None, None, None, None], own, 1.0)
    part = jnp.where(meets, part, 1.0)[:, None]
    return (
        own * video + (1 - own) * jnp.flip(video, axis=0),
        part * target + (1 - part) * jnp.flip(target, axis=0),
    )


def cut(
    key: Key[Array, ''], alpha: float, height: int, width: int
) -> tuple[Float[Array, '{height} {width}'], Float[Array, '']]:
    """A rectangle that another example fills, in all frames.

    Its sides are sqrt(1 - Beta(alpha, alpha)) of the frame's, rounded down, and its centre is uniform
    over the pixels (arXiv 1905.04899, eq. 2); what lies outside of the frame is cut off.

    Returns:
        1 where pixels stay and 0 in the rectangle, and the part of the pixels that stay, exactly.
    """
    of_area, of_row, of_column = jax.random.split(key, 3)
    ratio = jnp.sqrt(1.0 - jax.random.beta(of_area, alpha, alpha))

    def inside(key, length):
        extent = (length * ratio).astype(jnp.int32)
        start = jax.random.randint(key, (), 0, length) - extent // 2
        places = jnp.arange(length)
        return (places >= start) & (places < start + extent)

    rows, columns = inside(of_row, height), inside(of_column, width)
    own = 1.0 - (rows[:, None] & columns[None, :]).astype(jnp.float32)
    area = jnp.sum(rows) * jnp.sum(columns)
    return own, 1.0 - area.astype(jnp.float32) / (height * width)
