"""What a config trains with: model, loss and optimiser, where their arrays live, and the training step."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import ml_collections
import optax
from jax.sharding import Mesh

from vjax import config as configs
from vjax import models
from vjax.data.augment import find_mirror
from vjax.data.sections import Augment
from vjax.errors import UserError
from vjax.training import optimizer, runs, sharding
from vjax.training.losses import Classification
from vjax.training.step import State, abstract_state, make_train_step

# Left to itself, TPU's compiler multiplies with a split parameter piece by piece while the pieces arrive.
# They arrive fast enough to be gathered before: a step of ViViT-B/16x2 takes 111 ms instead of 135 on
# v5e:4x8, with the preset fsdp over 8 chips, by the compiler's estimate.
COMPILER_OPTIONS = {
    'tpu': {'xla_jf_spmd_threshold_for_windowed_einsum_mib': '1000000'},
    # Of the kernels that it tries and times, those alone that give the same sum again.
    'gpu': {'xla_gpu_exclude_nondeterministic_ops': True},
}


class Assembly(NamedTuple):
    """All that training needs but its state and its batches; no array is allocated.

    Attributes:
        model: the model.
        classification: what its logits are trained to be.
        init_params: makes its parameters; traceable.
        shapes: theirs.
        tx: the optimiser.
        trains: whether it trains each parameter.
        abstract: shapes and shardings of the whole state.
        variants: the models that `config.vary` makes of it, one of which each step trains; without it,
            the model alone.
        steps: the jitted training step of each variant. They are to be traced within `jax.set_mesh`.
    """

    model: Any
    classification: Classification
    init_params: Callable[[], Any]
    shapes: Any
    tx: optax.GradientTransformation
    trains: Any
    abstract: State
    variants: Sequence[Any]
    steps: Sequence[Any]


def assemble(
    config: ml_collections.ConfigDict,
    mesh: Mesh,
    classes: Mapping[str, Sequence[str]],
    *,
    multi_label: bool,
) -> Assembly:
    """What `config`, with nothing left open, trains with on the devices of a mesh.

    Args:
        config: a checked and resolved config.
        mesh: of the devices that will run the step; they need not be there.
        classes: names by head.
        multi_label: whether a video has any number of them.

    Raises:
        UserError: the batch, the model or a rule does not fit the mesh, the loss not the classes, or
            `config.vary` changes the shapes of parameters.
    """
    sharding.check_batch(mesh, config.batch_size, config.accumulate, 'config.batch_size')
    sharding.check_batch(mesh, config.eval.batch_size, 1, 'config.eval.batch_size')
    model = models.build(**config.model)
    sharding.check_time(mesh, model, configs.clip_shape(config))
    classification = configs.classification(config, classes, multi_label)
    augmentation = Augment(**config.augment)
    mirror = find_mirror(augmentation.flip_labels, classes, multi_label=multi_label)
    variants = [
        models.build(**config.model.to_dict() | fields) for fields in configs.variations(config)
    ]

    def init_params():
        return runs.init_params(model, config)

    shapes = jax.eval_shape(init_params)
    if any(jax.eval_shape(lambda v=v: runs.init_params(v, config)) != shapes for v in variants):
        raise UserError(f'config.vary={config.vary.to_dict()} changes the shapes of parameters.')
    tx, schedule = optimizer.build(shapes, config.num_steps, **config.optimizer)
    trains = optimizer.trains(config.optimizer.freeze, shapes)
    # Not within `jax.set_mesh`: optax computes a few placeholders, and the devices may not be there.
    abstract = abstract_state(
        init_params,
        tx,
        ema=config.ema > 0,
        mesh=mesh,
        parameter_rules=config.sharding.parameters,
        preset=config.sharding.preset,
    )
    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract)

    def jit_step(variant):
        step = make_train_step(
            variant,
            tx,
            schedule,
            trains=trains,
            seed=config.seed,
            classification=classification,
            augmentation=augmentation,
            size=config.clip.size,
            mirror=mirror,
            mixup=config.loss.mixup,
            cutmix=config.loss.cutmix,
            accumulate=config.accumulate,
            ema_decay=config.ema,
            log_every=config.log_every,
        )
        return jax.jit(
            step,
            donate_argnums=0,
            out_shardings=(shardings, sharding.replicated(mesh)),
            compiler_options=COMPILER_OPTIONS.get(mesh.devices.flat[0].platform),
        )

    steps = [jit_step(variant) for variant in variants]
    return Assembly(
        model, classification, init_params, shapes, tx, trains, abstract, variants, steps
    )
