"""How repeated blocks are run: as one scan, recomputed as asked for, sharded over the batch."""

import contextlib
import contextvars
import functools
from collections.abc import Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import AbstractMesh, PartitionSpec
from jaxtyping import Array, Float

from vjax.axes import BATCH_AXES, TIME_AXIS, present

_KEPT = 'kept'
REMAT_POLICIES = {
    'dots': jax.checkpoint_policies.save_only_these_names(_KEPT),
    'full': jax.checkpoint_policies.nothing_saveable,  # Keep only the input of each block.
    # As 'dots', but in the host's memory until the backward pass wants them.
    'offload': jax.checkpoint_policies.save_and_offload_only_these_names(
        names_which_can_be_saved=(),
        names_which_can_be_offloaded=(_KEPT,),
        offload_src='device',
        offload_dst='pinned_host',
    ),
}
# Names what a matrix product with parameters has made, and what attention has: 'dots' keeps it.
keep = functools.partial(checkpoint_name, name=_KEPT)
_apart = contextvars.ContextVar('frames_apart', default=False)


@contextlib.contextmanager
def frames_apart() -> Iterator[None]:
    """Within it the batch is one of frames that know nothing of each other, (batch time) as one axis.

    Such a batch is split over the mesh's axis `time` as well.
    """
    token = _apart.set(True)
    try:
        yield
    finally:
        _apart.reset(token)


def batch_axes(mesh: AbstractMesh) -> tuple[str, ...]:
    """The axes that split the leading one: `data`, `fsdp`, of frames apart `time`; those the mesh has."""
    return present(mesh, (*BATCH_AXES, TIME_AXIS) if _apart.get() else BATCH_AXES)


def constrain_batch(x: Float[Array, 'batch *rest']) -> Float[Array, 'batch *rest']:
    """Shards the leading axis over the mesh's `batch_axes`.

    The mesh is the one of `jax.set_mesh`; without one this is the identity. Axis 0 may be a merged
    one, such as batch * time, with the batch outermost. Left to itself the TPU compiler replicates
    activations after such reshapes: 3 x the memory and compute of a factorised encoder.
    """
    axes = batch_axes(jax.sharding.get_abstract_mesh())
    return jax.lax.with_sharding_constraint(x, PartitionSpec(axes)) if axes else x


def drop_rates(rate: float, depth: int) -> np.ndarray:
    """Stochastic depth's rate in each of `depth` layers: growing linearly from 0 to `rate`.

    The only layer of one is never dropped.
    """
    return (rate * np.arange(depth) / max(depth - 1, 1)).astype(np.float32)


def scan_blocks(
    block: nn.Module, carry: Any, rates: np.ndarray, *, train: bool, remat: str, unroll: bool
) -> Any:
    """Applies a block once for each of `rates`, as one scan over its stacked parameters.

    One trace and one compilation whatever the number of layers; the block's parameters carry a
    leading axis of that length.

    Args:
      block: Called as block(carry, drop_rate, train=train); returns the new carry.
      carry: Tokens [batch, tokens, dim], or a pytree of such.
      rates: Stochastic depth's rate in each layer; None is handed on where all are 0.
      train: Handed on.
      remat: What the backward pass computes again: 'none', 'dots' (all but what is named by `keep`),
        'offload' (the same, and that waits on the host) or 'full'.
      unroll: All layers one behind the other in the program, instead of a loop.
    """
    if not len(rates):
        return carry

    def apply(block, carry, drop_rate):
        return block(jax.tree.map(constrain_batch, carry), drop_rate, train=train), None

    if remat != 'none':
        # The scan's own loop, where there is one, already keeps the two computations apart.
        apply = nn.remat(apply, policy=REMAT_POLICIES[remat], prevent_cse=unroll)
    scan = nn.scan(
        apply,
        variable_axes={'params': 0, 'intermediates': 0},
        split_rngs={'params': True, 'dropout': True},
        length=len(rates),
        unroll=unroll,
    )
    return scan(block, carry, jnp.asarray(rates) if rates.any() else None)[0]
