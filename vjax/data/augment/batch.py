"""What happens to a training batch on the device."""

from collections.abc import Callable, Mapping

import dm_pix as pix
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, Int, Key, UInt8

from vjax.axes import present
from vjax.data.augment.colors import jitter_colors
from vjax.data.augment.crop import resample
from vjax.data.augment.erasing import erase
from vjax.data.augment.mirroring import Mirror
from vjax.data.augment.policies import distort
from vjax.data.sections import Augment


def normalise(video: UInt8[Array, '*shape']) -> Float[Array, '*shape']:
    """Pixels 0 .. 255 as float32 in [-1, 1], as models take them."""
    return video.astype(jnp.float32) * 2 / 255 - 1


def augment(
    batch: Mapping[str, Array],
    key: Key[Array, ''],
    settings: Augment,
    *,
    size: int,
    mirror: Mirror | None,
) -> tuple[Float[Array, 'batch time {size} {size} 3'], Int[Array, 'batch _']]:
    """Crops, flips, distorts, colours and erases the clips of a training batch.

    Args:
        batch: from `pipeline.train_batches`: `video` uint8 [batch, time, window, window, 3], `box`
            float32 [batch, 4] (top, left, height, width in pixels of the window), `label` int32
            [batch, heads] or, multi-hot, [batch, classes], and `position`.
        key: the run's; the same in every step, because the position tells examples apart.
        settings: the config's section `augment`.
        size: side of the clips, in pixels.
        mirror: what a flip does to labels, from `find_mirror`.

    Returns:
        Clips in [-1, 1], and their labels, which a flip may change.
    """

    def one(video, box, label, position):
        flip_key, jitter_key, drop_key, distort_key, erase_key = jax.random.split(
            jax.random.fold_in(key, position), 5
        )
        x = resample(video.astype(jnp.float32), box, size, alone=len(settings.area) > 0)
        if settings.flip:
            flips = jax.random.bernoulli(flip_key, settings.flip)
            if mirror is not None:
                flips &= mirror.allows(label)
                label = jnp.where(flips, mirror(label), label)
            x = jnp.where(flips, x[:, :, ::-1], x)
        if distorts:
            x = distort(jnp.round(x).astype(jnp.uint8), distort_key, settings).astype(jnp.float32)
        x = x / 255
        if settings.color_jitter:
            chosen, draws = jax.random.split(jitter_key)
            jitters = jax.random.bernoulli(chosen, settings.color_jitter)
            x = jnp.where(jitters, jitter_colors(x, draws), x)
        if settings.color_drop:
            grey = jnp.repeat(pix.rgb_to_grayscale(x), 3, axis=-1)
            x = jnp.where(jax.random.bernoulli(drop_key, settings.color_drop), grey, x)
        if settings.erase:
            chosen, draws = jax.random.split(erase_key)
            x = jnp.where(jax.random.bernoulli(chosen, settings.erase), erase(x, draws), x)
        return x * 2 - 1, label

    distorts = settings.auto_augment or settings.rand_augment
    # The jitter takes a mean, whose last bits depend on how many clips are summed at once.
    each = one_by_one if distorts or settings.color_jitter else jax.vmap
    return each(one)(batch['video'], batch['box'], batch['label'], batch['position'])


def one_by_one(function: Callable) -> Callable:
    """`function` of each example in turn, on the device that has it.

    Under `vmap` a `switch` would compute all of its branches; a loop over a batch that is split over
    devices would send all of it to each of them. Hence a loop over each device's share, on the axes
    `data` and `fsdp` of the mesh that is set (`jax.set_mesh`); frames stay split over `time`.
    """

    def share(*arrays):
        return jax.lax.map(lambda example: function(*example), arrays)

    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return share
    axes = present(mesh)
    spec = PartitionSpec(axes)
    return jax.shard_map(share, in_specs=spec, out_specs=spec, axis_names=set(axes))
