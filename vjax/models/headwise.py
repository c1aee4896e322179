"""Attention some heads at a time, for TPUs and many tokens: no weights that the HBM has to hold.

Written for all heads, the scores of some thousand tokens go to the HBM and back for every step of the
softmax. Those of a few heads stay in the chip's vector memory. The weights' sums are a column of a matrix
product, since adding up along an axis is what the vector unit is slow at, and the backward pass makes the
weights anew within each of its products (FlashAttention-2's Algorithm 2: Dao, arXiv 2307.08691). By the
compiler's estimate a step of the spatio-temporal ViViT-B takes 182 ms on v5e so, and 597 ms without
(`experiments/pod_plan`). For a CPU there is `blockwise`.
"""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from einops import rearrange
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float

from vjax.axes import TENSOR_AXIS, num_parts, present
from vjax.models.products import einsum_float32, platform
from vjax.models.scan import batch_axes, keep

KEYS = 512  # With fewer, the compiler's own fusions of whole arrays are faster.
SCORES = 48 * 2**20  # Bytes of float32 scores at a time, of a vector memory of 128 MiB.
TILE = (8, 128)  # Whole tiles of their last two axes are stored.


def pays(
    query: Float[Array, 'batch queries heads head_dim'],
    key: Float[Array, 'batch keys heads head_dim'],
) -> bool:
    """Whether the program is for TPUs that share examples and heads evenly, and there are many keys."""
    if platform() != 'tpu':
        return False
    mesh = jax.sharding.get_abstract_mesh()
    examples, heads = num_parts(mesh, batch_axes(mesh)), num_parts(mesh, (TENSOR_AXIS,))
    even = query.shape[0] % examples == query.shape[2] % heads == 0
    return even and key.shape[1] >= KEYS


def attention(
    query: Float[Array, 'batch queries heads head_dim'],
    key: Float[Array, 'batch keys heads head_dim'],
    value: Float[Array, 'batch keys heads head_dim'],
) -> Float[Array, 'batch queries heads head_dim']:
    """Scaled dot-product attention, whose softmax is float32; the backward pass makes the weights anew."""
    mesh = jax.sharding.get_abstract_mesh()
    # The backward pass, traced elsewhere, has to be told.
    axes = () if mesh.empty else (batch_axes(mesh), present(mesh, (TENSOR_AXIS,)))
    query = query / jnp.sqrt(query.shape[-1]).astype(query.dtype)
    heads = [rearrange(x, 'b n h k -> b h n k') for x in (query, key, value)]
    return rearrange(_heads(axes, *heads), 'b h q k -> b q h k')


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _heads(
    axes: tuple[tuple[str, ...], ...],
    query: Float[Array, 'batch heads queries head_dim'],
    key: Float[Array, 'batch heads keys head_dim'],
    value: Float[Array, 'batch heads keys head_dim'],
) -> Float[Array, 'batch heads queries head_dim']:
    return _forward(axes, query, key, value)[0]


def _forward(axes, query, key, value):
    """The result, and what the backward pass wants, the logarithm of each row's sum."""

    def heads(query, key, value):
        scores = einsum_float32('hqk,hmk->hqm', query, key)
        largest = scores.max(axis=-1, keepdims=True)
        weights = jnp.exp(scores - largest).astype(value.dtype)
        value = jnp.concatenate([value, jnp.ones_like(value[..., :1])], axis=-1)
        sums = einsum_float32('hqm,hmk->hqk', weights, value)
        attended, totals = sums[..., :-1], sums[..., -1:]
        return (attended / totals).astype(value.dtype), (largest + jnp.log(totals))[..., 0]

    attended, log_sums = map(keep, _some_at_a_time(heads, axes)(query, key, value))
    return attended, (query, key, value, attended, log_sums)


def _backward(axes, kept, gradient):
    """Gradients of query, key and value, with the weights transposed."""

    def heads(query, key, value, attended, log_sums, gradient):
        shifts = jnp.sum(gradient.astype(jnp.float32) * attended, axis=-1)
        scores = einsum_float32('hmk,hqk->hmq', key, query)
        of_weights = einsum_float32('hmk,hqk->hmq', value, gradient)

        def weights():
            return jnp.exp(scores - log_sums[:, None])

        def of_scores():
            return (weights() * (of_weights - shifts[:, None])).astype(query.dtype)

        # What stands behind a barrier is made within the product that it is for, not as an array.
        scores, of_weights = _barrier((scores, of_weights))
        of_query = einsum_float32('hmq,hmk->hqk', of_scores(), key).astype(query.dtype)
        scores, of_weights, of_query = _barrier((scores, of_weights, of_query))
        of_key = of_scores() @ query
        scores, of_key = _barrier((scores, of_key))
        return of_query, of_key, weights().astype(value.dtype) @ gradient

    return _some_at_a_time(heads, axes)(*kept, gradient)


_barrier = jax.lax.optimization_barrier


def _some_at_a_time(function: Callable, axes: tuple[tuple[str, ...], ...]) -> Callable:
    """`function` of some heads in turn, on the chip that has them: `axes` split examples and heads."""

    def share(query, key, *others):
        batch, num_heads, *_ = query.shape
        group = _group(batch * num_heads, query.shape[2], key.shape[2])
        heads = [rearrange(x, 'b h ... -> (b h) ...') for x in (query, key, *others)]
        groups = [rearrange(x, '(i g) ... -> i g ...', g=group) for x in heads]
        results = jax.lax.map(lambda arrays: function(*arrays), groups)
        results = [rearrange(x, 'i g ... -> (i g) ...') for x in results]
        return tuple(rearrange(x, '(b h) ... -> b h ...', b=batch) for x in results)

    names = {axis for part in axes for axis in part}
    if not names:
        return share
    spec = PartitionSpec(*axes)
    return jax.shard_map(share, in_specs=spec, out_specs=spec, axis_names=names)


def _group(num_heads: int, queries: int, keys: int) -> int:
    """How many heads at a time: the most that divide all of them and whose scores fit; 1 if none do."""
    rows, columns = (
        tile * math.ceil(size / tile) for size, tile in zip((queries, keys), TILE, strict=True)
    )
    room = max(1, SCORES // (4 * rows * columns))
    return next(n for n in range(min(room, num_heads), 0, -1) if num_heads % n == 0)


_heads.defvjp(_forward, _backward)
