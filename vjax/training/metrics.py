"""Metrics as sums: exact over a whole set, whatever the batch size, the padding or the number of hosts."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from vjax.training.losses import one_hot, softmax_cross_entropy

Sums = dict[str, Array]


def in_top_k(
    logits: Float[Array, 'batch classes'], label: Int[Array, 'batch'], k: int
) -> Float[Array, 'batch']:
    """1 where fewer than `k` classes score at least as high as the label.

    Ties count against the label: logits that are all equal (a head left at initialisation) score 0,
    not the accuracy of whichever class comes first; so do logits that are not numbers.
    """
    own = jnp.take_along_axis(logits, label[:, None], axis=-1)
    # Not `logits >= own`, by which a NaN would beat nobody.
    rivals = jnp.sum(~(logits < own), axis=-1) - 1
    return (rivals < min(k, logits.shape[-1])).astype(jnp.float32)


def evaluation_sums(
    logits: Float[Array, 'batch classes'],
    label: Int[Array, 'batch'],
    mask: Float[Array, 'batch'],
) -> Sums:
    """Sums over the examples whose mask is 1: cross-entropy, top-1 and top-5 hits, and their number."""
    loss = softmax_cross_entropy(logits, one_hot(label, logits.shape[-1]))
    return {
        'loss': jnp.sum(mask * loss),
        'top1': jnp.sum(mask * in_top_k(logits, label, 1)),
        'top5': jnp.sum(mask * in_top_k(logits, label, 5)),
        'num': jnp.sum(mask),
    }


def means(sums: Mapping[str, Any]) -> dict[str, float]:
    """Sums divided by their number; `num` itself is dropped."""
    num = max(float(sums['num']), 1.0)
    return {name: float(value) / num for name, value in sums.items() if name != 'num'}
