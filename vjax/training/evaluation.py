"""What a model makes of a whole split: every video once, whatever the batch size or the hosts."""

import collections
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from vjax.errors import UserError
from vjax.training import feeding, metrics
from vjax.training.losses import Classification


def evaluate(
    eval_step: Callable[[Any, dict[str, jax.Array]], dict[str, jax.Array]],
    params: Any,
    batches: Iterable[Mapping[str, np.ndarray]],
    mesh: Mesh,
    classification: Classification,
) -> dict[str, float]:
    """The `metrics.scores` of what `collect` collects; empty where there is no batch."""
    outputs = collect(eval_step, params, batches, mesh)
    return {} if outputs is None else metrics.scores(classification, outputs)


def collect(
    eval_step: Callable[[Any, dict[str, jax.Array]], dict[str, jax.Array]],
    params: Any,
    batches: Iterable[Mapping[str, np.ndarray]],
    mesh: Mesh,
) -> metrics.Outputs | None:
    """The outputs for all videos of `batches`, on every host in the split's order, without padding.

    Args:
        eval_step: the jitted result of `step.make_eval_step`, its arrays whole on every device.
        params: parameters on the mesh.
        batches: this process's slices of evaluation batches; each process yields equally many.
        mesh: of the parameters.

    Returns:
        The outputs, or None where there is no batch.

    Raises:
        UserError: no video could be decoded.
    """
    waiting, parts = collections.deque(), []
    for batch in batches:
        waiting.append(eval_step(params, feeding.to_devices(batch, mesh)))
        # The device never waits for the host, and no more than two batches queue up on it.
        if len(waiting) > 2:
            parts.append(_without_padding(waiting.popleft()))
    parts += map(_without_padding, waiting)
    if not parts:
        return None
    whole = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    if not len(whole['index']):
        raise UserError('none of the videos to evaluate on can be decoded; prepare them again.')
    order = np.argsort(whole['index'], kind='stable')
    return metrics.Outputs(**{name: array[order] for name, array in whole.items()})


def _without_padding(outputs: Mapping[str, jax.Array]) -> dict[str, np.ndarray]:
    """The outputs of a batch on the host, but those of mask 0."""
    outputs = jax.device_get(outputs)
    kept = outputs.pop('mask') > 0
    return {name: array[kept] for name, array in outputs.items()}
