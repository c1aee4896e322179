"""Metrics as sums: exact over a whole set, whatever the batch size, the padding or the number of hosts."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Float, Int

from vjax.training.losses import Classification

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


def in_joint_top_k(
    scores: Sequence[Float[Array, 'batch _']], label: Int[Array, 'batch heads'], k: int
) -> Float[Array, 'batch']:
    """1 where fewer than `k` combinations of classes score at least as high as the label's.

    A combination takes one class of each head, and its score is the sum of theirs. The k + 1 best
    combinations are made of each head's k + 1 best classes, so no others are looked at; ties and
    scores that are not numbers count against the label, as in `in_top_k`.
    """
    own, best = jnp.zeros((len(label), 1)), jnp.zeros((len(label), 1))
    for i, of_head in enumerate(scores):
        # To `top_k`, and not to the label, a NaN is the best.
        known = jnp.where(jnp.isnan(of_head), jnp.inf, of_head)
        top, _ = jax.lax.top_k(known, min(k + 1, of_head.shape[-1]))
        own = own + jnp.take_along_axis(of_head, label[:, i, None], axis=-1)
        sums = rearrange(best, 'b i -> b i 1') + rearrange(top, 'b j -> b 1 j')
        best = rearrange(sums, 'b i j -> b (i j)')
    not_beaten = jnp.sum(~(best < own), axis=-1)  # The label's own combination is one of them.
    k = min(k, math.prod(of_head.shape[-1] for of_head in scores))
    return (not_beaten <= k).astype(jnp.float32)


def training_hits(
    classification: Classification,
    logits: Float[Array, 'batch classes'],
    target: Float[Array, 'batch classes'],
) -> Float[Array, 'batch']:
    """1 where every head's best class is the one of which the target, mixed or not, has most."""
    hits = [
        in_top_k(part, jnp.argmax(of_head, axis=-1), 1)
        for part, of_head in zip(
            classification.split(logits).values(),
            classification.split(target).values(),
            strict=True,
        )
    ]
    return math.prod(hits)


def evaluation_sums(
    classification: Classification,
    logits: Float[Array, 'batch classes'],
    label: Int[Array, 'batch heads'],
    mask: Float[Array, 'batch'],
) -> Sums:
    """Sums over the examples whose mask is 1: the loss without smoothing, hits, and their number.

    `top1` and `top5` count hits of the label. With several heads that is the combination of their
    labels, ranked among all combinations by the product of the heads' probabilities, and each head's
    own hits are there too, as in `noun/top1`.
    """
    exact = dataclasses.replace(classification, label_smoothing=0.0)
    parts = classification.split(logits)
    hits = {}
    if len(parts) > 1:
        scores = list(classification.log_probabilities(logits).values())
        hits |= {f'top{k}': in_joint_top_k(scores, label, k) for k in (1, 5)}
    for i, (head, part) in enumerate(parts.items()):
        prefix = f'{head}/' if len(parts) > 1 else ''
        hits |= {f'{prefix}top{k}': in_top_k(part, label[:, i], k) for k in (1, 5)}
    per_example = {'loss': exact.loss(logits, exact.targets(label)), **hits}
    return {
        **{name: jnp.sum(mask * value) for name, value in per_example.items()},
        'num': jnp.sum(mask),
    }


def means(sums: Mapping[str, Any]) -> dict[str, float]:
    """Sums divided by their number; `num` itself is dropped."""
    num = max(float(sums['num']), 1.0)
    return {name: float(value) / num for name, value in sums.items() if name != 'num'}
