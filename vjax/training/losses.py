"""Classification losses: per example, so that padding and microbatches are weighted exactly."""

import dataclasses
import itertools
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

NAMES = ('softmax', 'sigmoid')


@dataclasses.dataclass(frozen=True)
class Classification:
    """What a model's logits stand for, and what they are trained to be.

    One head or several (the noun and the verb of an action): the logits of the heads stand one after
    another in the model's last axis, and the loss is the mean of the heads' losses, both as for the
    published Epic-Kitchens checkpoints, so that published learning rates hold.

    Attributes:
        heads: name -> number of classes, in the order of the logits.
        name: 'softmax': classes exclude each other, cross-entropy; 'sigmoid': each class is a
            question of its own, and the binary cross-entropies of all classes are summed (the
            ImageNet recipe of TokenLearner).
        label_smoothing: mass that each head spreads evenly over its classes.
    """

    heads: Mapping[str, int]
    name: str
    label_smoothing: float

    def split(
        self, logits: Float[Array, 'batch classes']
    ) -> dict[str, Float[Array, 'batch head_classes']]:
        """Each head's part of logits, or of targets."""
        ends = list(itertools.accumulate(self.heads.values()))
        return dict(zip(self.heads, jnp.split(logits, ends[:-1], axis=-1), strict=True))

    def targets(self, label: Int[Array, 'batch heads']) -> Float[Array, 'batch classes']:
        """Smoothed one-hot targets, the heads' one after another."""
        parts = [
            one_hot(label[:, i], size, self.label_smoothing)
            for i, size in enumerate(self.heads.values())
        ]
        return jnp.concatenate(parts, axis=-1)

    def loss(
        self, logits: Float[Array, 'batch classes'], target: Float[Array, 'batch classes']
    ) -> Float[Array, 'batch']:
        """Loss in nats of each example, the mean over the heads."""
        of_head = softmax_cross_entropy if self.name == 'softmax' else sigmoid_cross_entropy
        parts, targets = self.split(logits), self.split(target)
        return sum(of_head(parts[head], targets[head]) for head in self.heads) / len(self.heads)

    def log_probabilities(
        self, logits: Float[Array, 'batch classes']
    ) -> dict[str, Float[Array, 'batch head_classes']]:
        """What each head makes of its classes, as the loss understands logits."""
        log = jax.nn.log_softmax if self.name == 'softmax' else jax.nn.log_sigmoid
        return {head: log(part) for head, part in self.split(logits).items()}


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


def sigmoid_cross_entropy(
    logits: Float[Array, '*batch classes'], target: Float[Array, '*batch classes']
) -> Float[Array, '*batch']:
    """Binary cross-entropies in nats, summed over the classes, in float32 whatever the logits' type."""
    logits = logits.astype(jnp.float32)
    yes, no = jax.nn.log_sigmoid(logits), jax.nn.log_sigmoid(-logits)
    return -jnp.sum(target * yes + (1.0 - target) * no, axis=-1)
