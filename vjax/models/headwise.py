"""Attention some heads at a time, for TPUs: no weights that the HBM has to hold.

Written for all heads, the scores go to the HBM and back for every step of the softmax. Those of some heads
stay in the chip's vector memory. Tokens are the last axis of everything, so that the softmax goes along the
one before it where there are as many queries as keys: along the last one, whose elements lie side by side
in a register, the vector unit is slow.
The weights' sums are a row of a matrix product, and the backward pass makes the weights anew within each
of its products (FlashAttention-2's Algorithm 2: Dao, arXiv 2307.08691). By the compiler's estimate
(`experiments/throughput`) it is what makes joint attention possible on v5e; the 197 tokens of a frame or an
image take it up to 13 % less time than XLA's fusions of whole arrays. In bfloat16 its gradients are as near
to float32's as theirs for scores of a common size; for scores in the tens they are several times less near,
as the backward pass takes sums over keys from the rounded result. For a CPU there is `blockwise`.

In einsum subscripts: h heads, k width of a head, q queries, m keys.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from einops import rearrange
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float

from vjax.axes import TENSOR_AXIS, num_parts, present
from vjax.devices import TPU_TILE, tiled_size
from vjax.models.products import einsum_float32, platform
from vjax.models.scan import batch_axes, keep

KEYS = 128  # With fewer, the compiler's own fusions of whole arrays are faster on v5e.
SCORES = 20 * 2**20  # Bytes of float32 scores at a time, of a vector memory of 128 MiB.


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
    heads = [rearrange(x, 'b n h k -> b h k n') for x in (query, key, value)]
    return rearrange(_heads(axes, *heads), 'b h k q -> b q h k')


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _heads(
    axes: tuple[tuple[str, ...], ...],
    query: Float[Array, 'batch heads head_dim queries'],
    key: Float[Array, 'batch heads head_dim keys'],
    value: Float[Array, 'batch heads head_dim keys'],
) -> Float[Array, 'batch heads head_dim queries']:
    return _forward(axes, query, key, value)[0]


def _forward(axes, query, key, value):
    """The result, and what the backward pass wants, the logarithm of each query's sum."""

    def heads(query, key, value):
        scores = _scores(query, key)
        largest = scores.max(axis=1, keepdims=True)
        weights = jnp.exp(scores - largest).astype(value.dtype)
        value = jnp.concatenate([value, jnp.ones_like(value[:, :1])], axis=1)
        return einsum_float32('hkm,hmq->hkq', value, weights), largest

    sums, largest = _some_at_a_time(heads, axes)(query, key, value)
    attended, totals = sums[:, :, :-1], sums[:, :, -1:]
    attended = keep((attended / totals).astype(value.dtype))
    return attended, (query, key, value, attended, keep(largest + jnp.log(totals)))


def _backward(axes, kept, gradient):
    """Gradients of query, key and value."""

    def heads(query, key, value, attended, log_sums, gradient):
        shifts = jnp.sum(gradient.astype(jnp.float32) * attended, axis=1, keepdims=True)
        scores = _scores(query, key)
        of_weights = einsum_float32('hkm,hkq->hmq', value, gradient)
        # What stands behind a barrier of its own is made within the product that it is for, not before.
        scores, of_weights = _barrier((scores, of_weights))
        scores_2, of_weights_2, _ = _barrier((scores, of_weights, shifts))
        scores_3, _ = _barrier((scores_2, log_sums))

        def weights(scores):
            return jnp.exp(scores - log_sums)

        def of_scores(scores, of_weights):
            scaled = weights(scores) * (of_weights - shifts)
            return scaled.astype(query.dtype)

        of_query = einsum_float32('hkm,hmq->hkq', key, of_scores(scores, of_weights))
        of_key = einsum_float32('hkq,hmq->hkm', query, of_scores(scores_2, of_weights_2))
        of_value = einsum_float32('hkq,hmq->hkm', gradient, weights(scores_3).astype(value.dtype))
        scale = query.shape[1] ** -0.5
        return (
            (scale * of_query).astype(query.dtype),
            (scale * of_key).astype(key.dtype),
            of_value.astype(value.dtype),
        )

    return _some_at_a_time(heads, axes)(*kept, gradient)


def _scores(
    query: Float[Array, 'heads head_dim queries'], key: Float[Array, 'heads head_dim keys']
) -> Float[Array, 'heads keys queries']:
    # Not of the query, which would be rounded once more where the root is no power of two.
    return einsum_float32('hkm,hkq->hmq', key, query) * query.shape[1] ** -0.5


_barrier = jax.lax.optimization_barrier


def _some_at_a_time(function: Callable, axes: tuple[tuple[str, ...], ...]) -> Callable:
    """`function` of some heads in turn, on the chip that has them: `axes` split examples and heads."""
    names = {axis for part in axes for axis in part}

    def share(query, key, *others):
        batch, num_heads, *_ = query.shape
        size = _group(batch * num_heads, query.shape[-1], key.shape[-1])
        heads = [rearrange(x, 'b h ... -> (b h) ...') for x in (query, key, *others)]
        groups = [rearrange(x, '(i g) ... -> i g ...', g=size) for x in heads]
        num_groups = groups[0].shape[0]

        def empty(one):
            # `jax.lax.map` fills its results with zeros first.
            whole = jax.lax.empty((num_groups, *one.shape), one.dtype)
            return jax.lax.pcast(whole, tuple(names), to='varying') if names else whole

        def step(i, results):
            arrays = (jax.lax.dynamic_index_in_dim(x, i, keepdims=False) for x in groups)
            return [
                jax.lax.dynamic_update_index_in_dim(whole, one, i, axis=0)
                for whole, one in zip(results, function(*arrays), strict=True)
            ]

        results = jax.eval_shape(function, *(x[0] for x in groups))
        results = jax.lax.fori_loop(0, num_groups, step, [empty(one) for one in results])
        results = [rearrange(x, 'i g ... -> (i g) ...') for x in results]
        return tuple(rearrange(x, '(b h) ... -> b h ...', b=batch) for x in results)

    if not names:
        return share
    spec = PartitionSpec(*axes)
    return jax.shard_map(share, in_specs=spec, out_specs=spec, axis_names=names)


def _group(num_heads: int, queries: int, keys: int) -> int:
    """How many heads at a time: the most that divide all of them and whose scores fit; 1 if none do."""
    room = max(1, SCORES // (4 * tiled_size((queries, keys), TPU_TILE)))
    return next(n for n in range(min(room, num_heads), 0, -1) if num_heads % n == 0)


_heads.defvjp(_forward, _backward)
