"""Classification losses: per example, so that padding and microbatches are weighted exactly."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def one_hot(
    label: Int[Array, '*batch'], num_classes: int, smoothing: float = 0.0
) -> Float[Array, '*batch classes']:
    """Target distributions: (1 - s) on the label and s / classes everywhere (Szegedy et al. 2016, §7)."""
    hard = jax.nn.one_hot(label, num_classes)
    return hard * (1.0 - smoothing) + smoothing / num_classes


def softmax_cross_entropy(
    logits: Float[Array, '*batch classes'], target: Float[Array, '*batch classes']
) -> Float[Array, '*batch']:
    """Cross-entropy in nats of each example, in float32 whatever the logits' type."""
    return -jnp.sum(target * jax.nn.log_softmax(logits.astype(jnp.float32)), axis=-1)
