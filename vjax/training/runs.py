"""Reading back what a run left: its config, its classes and its parameters."""

import json
import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections

from vjax import config as configs
from vjax import models
from vjax.data.records import classes_by_head
from vjax.errors import UserError
from vjax.override import override
from vjax.training import reporting, sharding
from vjax.training.checkpoints import Checkpoints, DamagedCheckpoint
from vjax.training.rules import path_name

log = logging.getLogger(__name__)

# What `write_about` leaves in config.json.
ABOUT = frozenset({'config', 'classes', 'fingerprint', 'settings'})


class Run(NamedTuple):
    """A trained model as its workdir describes it.

    Attributes:
        config: the config it was trained with.
        classes: each head's class names, in the order of the logits.
        settings: how its videos were prepared (short side, JPEG quality).
        model: the model.
        params: its parameters; their moving average where the run kept one.
        step: the finished steps of the checkpoint.
    """

    config: ml_collections.ConfigDict
    classes: dict[str, tuple[str, ...]]
    settings: dict[str, Any]
    model: Any
    params: Any
    step: int


def write_about(workdir: Path, about: dict[str, Any]) -> None:
    """Leaves the config, the classes and the environment beside the checkpoints."""
    reporting.write_json(workdir / 'config.json', about)
    reporting.write_json(workdir / 'environment.json', reporting.environment())


def read_about(workdir: str | Path) -> dict[str, Any]:
    """The record that `write_about` left: `config`, `classes`, `fingerprint`, `settings`.

    Raises:
        UserError: the workdir holds no run.
    """
    path = Path(workdir) / 'config.json'
    try:
        about = json.loads(path.read_text(encoding='utf-8'))
        if not isinstance(about, dict) or not about.keys() >= ABOUT:
            raise ValueError(f'it lacks one of {", ".join(sorted(ABOUT))}')
        return about
    except FileNotFoundError:
        raise UserError(
            f"'{workdir}' is no workdir of a run: it has no config.json; train first, or mend --workdir."
        ) from None
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read '{path}': {error}.") from None


def init_params(model: Any, config: ml_collections.ConfigDict) -> Any:
    """Fresh parameters for clips of `config`'s shape; traceable, so that `eval_shape` gives shapes."""
    clip = jnp.zeros((1, *configs.clip_shape(config)))
    return model.init(jax.random.key(config.seed), clip)['params']


def load_run(
    workdir: str | Path,
    which: str = 'latest',
    where: jax.sharding.Sharding | None = None,
    overrides: Sequence[str] = (),
) -> Run:
    """The model of a run at its `latest` or `best` checkpoint, or at a step given by its number.

    A damaged latest checkpoint is said in the log, and the one before it is taken. The parameters are
    put `where` it says, by default on this process's first device. Overrides '--config.KEY=VALUE' of
    the run's config must leave the shapes of its parameters alone.

    Raises:
        UserError: the workdir holds no such checkpoint, or only damaged ones, or an override does not
            fit.
    """
    about = read_about(workdir)
    trained = ml_collections.ConfigDict(_tuples(about['config']))
    _check(trained, f"the run '{workdir}' was made by another version of vjax")
    model = models.build(**trained.model)
    shapes = jax.eval_shape(lambda: init_params(model, trained))
    config = trained
    if overrides:
        config = override(trained, overrides)
        _check(config, ' '.join(overrides))
        model = models.build(**config.model)
        if jax.eval_shape(lambda: init_params(model, trained)) != shapes:
            raise UserError(
                f"{' '.join(overrides)} changes the shapes of parameters, which '{workdir}' has already "
                'trained.'
            )
    checkpoints = Checkpoints(workdir)
    try:
        steps = _candidates(checkpoints, workdir, which)
        where = where or jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        params = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where),
            shapes,
        )
        abstract = {'params': params, 'ema': params if trained.ema else None}
        for step in steps:
            try:
                loaded = checkpoints.load_model(step, abstract)
            except DamagedCheckpoint as error:
                log.warning('checkpoint %s of %s is damaged: %s', step, workdir, error)
                continue
            params = loaded['ema'] if trained.ema else loaded['params']
            classes = classes_by_head(about['classes'])
            return Run(config, classes, about['settings'], model, params, step)
    finally:
        checkpoints.close()
    raise UserError(f"no checkpoint of '{workdir}' could be read (tried steps {steps}).")


def _check(config: ml_collections.ConfigDict, what: str) -> None:
    try:
        configs.check(config)
    except UserError as error:
        raise UserError(f'{what}: {error}') from None


def _tuples(value: Any) -> Any:
    """Lists, which JSON made of a config's tuples, as tuples again."""
    if isinstance(value, Mapping):
        return {name: _tuples(inner) for name, inner in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _candidates(checkpoints: Checkpoints, workdir: str | Path, which: str) -> list[int]:
    steps = checkpoints.steps
    if not steps:
        raise UserError(f"'{workdir}' has no checkpoint yet; train first.")
    if which == 'latest':
        return steps[::-1]
    if which == 'best':
        best = checkpoints.best_step()
        if best is None:
            raise UserError(
                f"'{workdir}' has no best checkpoint: none was evaluated; use --checkpoint=latest."
            )
        return [best]
    if not which.isdecimal() or int(which) not in steps:
        raise UserError(
            f"--checkpoint={which}: '{workdir}' has the steps {steps}; name one of them, 'latest' or "
            f"'best'."
        )
    return [int(which)]


def start_from(
    workdir: str | Path, params: Any, classes: Mapping[str, Sequence[str]]
) -> tuple[Any, list[str]]:
    """Parameters of another run for a model of the shapes `params`, and what was left as it was.

    The classifier's logits are left out where the classes differ; every other difference is an
    error.

    Args:
        workdir: of the run to start from; its latest checkpoint is taken.
        params: the new model's fresh parameters, on their mesh.
        classes: the new model's classes by head; others of the same number are others, too.

    Returns:
        The parameters, and the paths of those that were not loaded.

    Raises:
        UserError: the models differ in more than their classifier.
    """
    mesh = jax.tree.leaves(params)[0].sharding.mesh
    source = load_run(workdir, where=sharding.replicated(mesh))
    given = {
        path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(source.params)
    }
    left = []
    same_classes = list(source.classes.items()) == list(classes.items())

    def choose(path, fresh):
        name = path_name(path)
        found = given.pop(name, None)
        if found is not None and not same_classes and re.fullmatch('head/(.*/)?logits/.*', name):
            left.append(name)
            return fresh
        if found is not None and found.shape == fresh.shape:
            return jax.device_put(found, fresh.sharding)
        shape = 'absent' if found is None else f'of shape {found.shape}'
        raise UserError(
            f"config.init_from='{workdir}' does not fit this model: '{name}' is {shape} there and of "
            f'shape {fresh.shape} here.'
        )

    params = jax.tree_util.tree_map_with_path(choose, params)
    if given:
        raise UserError(
            f"config.init_from='{workdir}' has parameters that this model lacks: "
            f'{", ".join(sorted(given)[:5])}.'
        )
    return params, left
