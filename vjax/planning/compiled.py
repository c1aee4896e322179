"""The training step of a config, compiled for devices that need not be there."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
from jax.sharding import AbstractMesh, Mesh

from vjax import config as configs
from vjax.data.geometry import window_size
from vjax.data.sections import Augment, Clip
from vjax.devices import tiled_size
from vjax.models import costs
from vjax.training import sharding
from vjax.training.assembly import Assembly, assemble
from vjax.training.step import State


class Compiled(NamedTuple):
    """A training step and what it was compiled of.

    Attributes:
        assembly: of the config.
        mesh: of the devices.
        batch: shapes and shardings of a batch.
        step: the compiled function; None where it does not fit in the chips' memory.
        temporaries: bytes that it would need for temporary arrays on each chip, if it does not fit.
    """

    assembly: Assembly
    mesh: Mesh
    batch: dict[str, jax.ShapeDtypeStruct]
    step: jax.stages.Compiled | None
    temporaries: int | None = None


def compile_step(
    config: ml_collections.ConfigDict,
    devices: Sequence[Any],
    classes: Mapping[str, Sequence[str]],
    *,
    multi_label: bool,
) -> Compiled:
    """Compiles the step that `vjax.train` would run on `devices`; nothing is allocated.

    Args:
        config: with nothing left open.
        devices: what to compile for.
        classes: names by head.
        multi_label: whether a video has any number of them.

    Raises:
        UserError: the config does not fit the devices.
    """
    mesh = sharding.make_mesh(config.sharding.mesh.to_dict(), devices)
    assembly = assemble(config, mesh, classes, multi_label=multi_label)
    heads = sum(map(len, classes.values())) if multi_label else len(classes)
    batch = abstract_batch(config, mesh, heads)
    cache = jax.config.jax_enable_compilation_cache
    # It cannot read what it wrote for others.
    jax.config.update('jax_enable_compilation_cache', False)
    try:
        with jax.set_mesh(mesh):
            step = assembly.steps[0].lower(assembly.abstract, batch).compile()
    except jax.errors.JaxRuntimeError as error:
        temporaries = short_of_memory(str(error))
        if temporaries is None:
            raise
        return Compiled(assembly, mesh, batch, None, temporaries)
    finally:
        jax.config.update('jax_enable_compilation_cache', cache)
    return Compiled(assembly, mesh, batch, step)


def short_of_memory(error: str) -> int | None:
    """The bytes that the compiler says it wanted of the HBM; None of another error."""
    found = re.search(r'out of memory\D*?hbm\D*?([\d.]+)([KMG])', error, re.IGNORECASE)
    if not error.startswith('RESOURCE_EXHAUSTED') or not found:
        return None
    return int(float(found[1]) * 1024 ** ('KMG'.index(found[2]) + 1))


def abstract_batch(
    config: ml_collections.ConfigDict, mesh: Mesh, num_labels: int
) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes and shardings of the batches that `pipeline.train_batches` yields."""
    window = window_size(Clip(**config.clip), Augment(**config.augment))
    arrays = {
        'video': ((config.clip.num_frames, window, window, 3), jnp.uint8),
        'box': ((4,), jnp.float32),
        'label': ((num_labels,), jnp.int32),
        'mask': ((), jnp.float32),
        'position': ((), jnp.int32),
    }
    return {
        name: jax.ShapeDtypeStruct(
            (config.batch_size, *shape),
            dtype,
            sharding=sharding.array_sharding(mesh, name, 1 + len(shape)),
        )
        for name, (shape, dtype) in arrays.items()
    }


def bytes_on_a_chip(tree: Any) -> int:
    """Bytes that each device holds of arrays with shardings, or of their shapes."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
    )


def activations_of_a_clip(
    assembly: Assembly,
    config: ml_collections.ConfigDict,
    mesh: AbstractMesh,
    num_clips: int = 1,
    tile: tuple[int, int] = (1, 1),
) -> float:
    """Bytes of one clip that a step cannot do without at its fullest moment, before the compiler.

    They are what differentiation keeps of the forward pass by the remat policy, and, where there is
    one, what it computes again in one layer. What does not depend on the number of clips, such as
    parameters, does not count.

    Args:
        assembly: model and shapes.
        config: of the clips.
        mesh: of the devices, on whose kind it depends what attention keeps.
        num_clips: on a chip; together they may fill tiles better.
        tile: of the chip; an array is taken to lie in the order of axes that wastes least.
    """
    model = assembly.model

    def kept_by(model):
        return _kept(model, assembly, config, mesh, num_clips, tile)

    kept = kept_by(model)
    if getattr(model, 'remat', 'none') == 'none':
        return kept
    if model.remat == 'offload':  # What it keeps beyond blocks' inputs is on the host.
        kept = kept_by(model.clone(remat='full'))
    depth = model.depth if hasattr(model, 'depth') else max(model.depths)
    return kept + (kept_by(model.clone(remat='none')) - kept) / depth


def _kept(
    model: Any,
    assembly: Assembly,
    config: ml_collections.ConfigDict,
    mesh: AbstractMesh,
    num_clips: int,
    tile: tuple[int, int],
) -> float:
    device = mesh.abstract_device
    # Nothing is split. But a CPU's own attention is for one of them alone.
    num_devices = mesh.size if device.platform == 'cpu' else 1
    apart = AbstractMesh((num_devices,), ('chip',), abstract_device=device)

    def saved(num_clips):
        def residuals(params, video):
            def forward(params):
                params = costs.stop_gradients(params, assembly.trains)
                rngs = {'dropout': jax.random.key(0)}
                logits, _ = model.apply(
                    {'params': params}, video, train=True, rngs=rngs, mutable='head_logits'
                )
                return logits

            return jax.vjp(forward, params)[1]

        video = jax.ShapeDtypeStruct((num_clips, *configs.clip_shape(config)), jnp.float32)
        with jax.sharding.use_abstract_mesh(apart):
            return jax.tree.leaves(jax.eval_shape(residuals, assembly.shapes, video))

    of_clips = [
        tiled_size(leaf.shape, tile) * leaf.dtype.itemsize
        for leaf, of_more in zip(saved(num_clips), saved(num_clips + 1), strict=True)
        if leaf.shape != of_more.shape
    ]
    return sum(of_clips) / num_clips


def state_bytes(state: State) -> dict[str, int]:
    """Bytes on each chip of the state's parts, by name."""
    return {
        'params': bytes_on_a_chip(state.params),
        'optimizer': bytes_on_a_chip(state.opt_state),
        'ema': bytes_on_a_chip(state.ema),
    }
