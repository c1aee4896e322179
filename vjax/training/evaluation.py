"""Exact metrics of a model over a split: every video once, whatever the batch size or the hosts."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from vjax.training import metrics, sharding


def evaluate(
    eval_step: Callable[[Any, dict[str, jax.Array]], metrics.Sums],
    params: Any,
    batches: Iterable[Mapping[str, np.ndarray]],
    mesh: Mesh,
) -> dict[str, float]:
    """Mean `loss`, `top1` and `top5` in [0, 1] over all examples of `batches`, and `num_videos`; empty
    where there is no batch. See `metrics.evaluation_sums` for what several heads add.

    Args:
        eval_step: the jitted result of `step.make_eval_step`.
        params: parameters on the mesh.
        batches: this process's slices of evaluation batches; each process yields equally many.
        mesh: of the parameters.
    """
    sums = []
    for batch in batches:
        sums.append(eval_step(params, sharding.to_devices(batch, mesh)))
        # The device never waits for the host, and no more than two batches queue up on it.
        jax.block_until_ready(sums[-3:-2])
    if not sums:
        return {}
    sums = jax.device_get(sums)
    total = {name: sum(float(part[name]) for part in sums) for name in sums[0]}
    return {**metrics.means(total), 'num_videos': int(total['num'])}
