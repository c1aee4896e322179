"""The same training step as TPU's compiler estimates it; nothing is run."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from experiments.throughput.contenders import DOES_NOT_FIT, UNROLLED, textbook, training_step
from experiments.throughput.work import Work
from vjax.models import costs
from vjax.planning import hlo, topology
from vjax.planning.compiled import short_of_memory
from vjax.training import sharding

CLIPS = 2  # On each chip: the textbook's ViViT-B keeps too much for 4.


def on_all_chips(work: Work, where: str) -> Work:
    """A work with the batch of all chips of a topology: `CLIPS` on each, or as many images as on a GPU."""
    devices, _ = topology.find(where)
    of_videos = len(work.shape) == 4
    return dataclasses.replace(work, batch=(CLIPS if of_videos else work.batch) * len(devices))


def estimate(
    name: str, work: Work, where: str, options: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Seconds of a step, MFU and peak bytes of a contender on each chip.

    Parameters are on every chip, and the batch is split. Time is the compiler's estimated cycles, in
    which collectives are free.

    Args:
        name: 'vjax', `UNROLLED` or 'textbook'.
        work: with the batch of all chips.
        where: a topology.
        options: flags of the compiler, by name.

    Returns:
        `step`, `mfu`, `peak_bytes`; or `missing`, the reason why there is none.
    """
    devices, chip = topology.find(where)
    mesh = sharding.make_mesh({'data': -1}, devices)
    model = textbook(work) if name == 'textbook' else work.build(unroll=name == UNROLLED)
    tx, step = training_step(model)
    everywhere, split = NamedSharding(mesh, P()), NamedSharding(mesh, P('data'))

    def shapes(tree, where):
        return jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where), tree
        )

    params = costs.param_shapes(model, work.shape)
    state = jax.eval_shape(tx.init, params)
    pixels = jax.ShapeDtypeStruct((work.batch, *work.shape), jnp.float32)
    labels = jax.ShapeDtypeStruct((work.batch,), jnp.int32)
    arguments = shapes((params, state), everywhere) + shapes((pixels, labels), split)
    with jax.set_mesh(mesh):
        try:
            lowered = jax.jit(step, donate_argnums=(0, 1)).lower(*arguments)
            compiled = lowered.compile(compiler_options=dict(options or {}) or None)
        except jax.errors.JaxRuntimeError as error:
            if short_of_memory(str(error)) is None:
                raise
            return {'missing': DOES_NOT_FIT}
    memory = compiled.memory_analysis()
    seconds = hlo.cycles(hlo.Program(compiled.as_text())) / chip.clock
    flops = 1e9 * work.train_gflops() / len(devices)
    return {
        'step': seconds,
        'mfu': flops / seconds / chip.peak_flops,
        'peak_bytes': memory.argument_size_in_bytes + memory.temp_size_in_bytes,
    }
