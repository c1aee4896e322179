"""Attention a head and a block of queries at a time, for a CPU: no weights that its caches do not hold.

FlashAttention-2's algorithm (Dao, arXiv 2307.08691) with all keys in one block. Written as whole arrays,
attention goes through the memory for every step of the softmax, and the backward pass wants the weights
of all heads; the blocks are worth a factor of three from some thousand tokens on
(`experiments/throughput`). For TPUs there is `headwise`.
"""

import einops
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vjax.models.products import einsum_float32, single_cpu
from vjax.models.scan import keep

ROWS = 512  # Queries of a block, about: their weights for some thousand keys stay in the caches.
KEYS = 128  # With fewer, the loop costs more than it saves.


def pays(key: Float[Array, 'batch keys heads head_dim']) -> bool:
    """Whether the program is for a single CPU, and there are many keys.

    Several CPUs would send each other their shares of what is looped over.
    """
    return single_cpu() and key.shape[1] >= KEYS


def attention(
    query: Float[Array, 'batch queries heads head_dim'],
    key: Float[Array, 'batch keys heads head_dim'],
    value: Float[Array, 'batch keys heads head_dim'],
) -> Float[Array, 'batch queries heads head_dim']:
    """Scaled dot-product attention, whose softmax is float32; the backward pass makes the weights anew."""
    batch, num_queries, _, head_dim = query.shape
    num_blocks = max(1, round(num_queries / ROWS))
    query = query / jnp.sqrt(head_dim).astype(query.dtype)
    query = jnp.pad(query, ((0, 0), (0, -num_queries % num_blocks), (0, 0), (0, 0)))
    attended = _heads(
        einops.rearrange(query, 'b (i q) h k -> (b h) i q k', i=num_blocks),
        *(einops.rearrange(array, 'b m h k -> (b h) m k') for array in (key, value)),
    )
    return einops.rearrange(attended, '(b h) i q k -> b (i q) h k', b=batch)[:, :num_queries]


@jax.custom_vjp
def _heads(
    query: Float[Array, 'heads blocks queries head_dim'],
    key: Float[Array, 'heads keys head_dim'],
    value: Float[Array, 'heads keys head_dim'],
) -> Float[Array, 'heads blocks queries head_dim']:
    return _forward(query, key, value)[0]


def _forward(query, key, value):
    """Algorithm 1: the result, and what the backward pass wants, the logarithm of each row's sum."""

    def head(arrays):
        blocks, key, value = arrays

        def block(query):
            scores = _scores(query, key)
            largest = scores.max(axis=-1, keepdims=True)
            weights = jnp.exp(scores - largest)
            total = weights.sum(axis=-1, keepdims=True)
            attended = (weights.astype(value.dtype) @ value) / total
            return attended.astype(value.dtype), largest + jnp.log(total)

        return jax.lax.map(block, blocks)

    attended, log_sums = map(keep, jax.lax.map(head, (query, key, value)))
    return attended, (query, key, value, attended, log_sums)


def _backward(kept, gradient):
    """Algorithm 2, with the weights transposed: a block of keys needs no sum over blocks but of_query."""
    query, key, value, attended, log_sums = kept
    num_keys = key.shape[1]
    num_blocks = max(1, round(num_keys / ROWS))

    def in_blocks(array):
        array = jnp.pad(array, ((0, 0), (0, -num_keys % num_blocks), (0, 0)))
        return einops.rearrange(array, 'h (i m) k -> h i m k', i=num_blocks)

    def head(arrays):
        query, key, value, attended, log_sums, gradient = arrays
        shifts = jnp.sum((gradient * attended).astype(jnp.float32), axis=-1)[None]

        def block(of_query, arrays):
            key, value = arrays
            weights = jnp.exp(_scores(key, query) - log_sums)
            of_weights = _scores(value, gradient)
            of_scores = (weights * (of_weights - shifts)).astype(query.dtype)
            # Transposed: for [q, k] a CPU would have to transpose the scores.
            of_query += einsum_float32('mk,mq->kq', key, of_scores)
            return of_query, (of_scores @ query, weights.astype(value.dtype) @ gradient)

        of_query = jnp.zeros(query.T.shape, jnp.float32)
        of_query, (of_key, of_value) = jax.lax.scan(block, of_query, (key, value))
        return of_query.T.astype(query.dtype), of_key, of_value

    flat = [
        einops.rearrange(array, 'h i q k -> h (i q) k') for array in (query, attended, gradient)
    ]
    log_sums = einops.rearrange(log_sums, 'h i q 1 -> h 1 (i q)')
    of_query, *others = jax.lax.map(
        head, (flat[0], in_blocks(key), in_blocks(value), flat[1], log_sums, flat[2])
    )
    others = [einops.rearrange(x, 'h i m k -> h (i m) k')[:, :num_keys] for x in others]
    return of_query.reshape(query.shape), *others


def _scores(rows, columns):
    return einsum_float32('rk,ck->rc', rows, columns)


_heads.defvjp(_forward, _backward)
