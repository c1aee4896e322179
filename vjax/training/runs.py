"""Reading back what a run left, or a conversion: its config, its classes and its parameters."""

import json
import logging
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from vjax import config as configs
from vjax import models, weights
from vjax.data.records import classes_by_head
from vjax.errors import TryAgain, UserError, explanation
from vjax.override import override
from vjax.training import reporting
from vjax.training.checkpoints import Checkpoints, DamagedCheckpoint
from vjax.training.rules import path_name
from vjax.value_types import as_tuples
from vjax.weights import positions

log = logging.getLogger(__name__)

# What `write_about` leaves in config.json; after a conversion, `conversion` as well, and after a training
# by command, `recipe`: the `name` of its config file, and that file's own `config`, nothing overridden.
ABOUT = frozenset({'config', 'classes', 'multi_label', 'fingerprint', 'settings'})


class Run(NamedTuple):
    """A trained model as its workdir describes it.

    Attributes:
        config: the config it was trained with.
        classes: each head's class names, in the order of the logits.
        multi_label: whether a video has any number of them, not exactly one of each head.
        settings: how its videos were prepared (short side, JPEG quality).
        model: the model.
        params: its parameters; their moving average where the run kept one.
        step: the finished steps of the checkpoint.
        saved_at: when the checkpoint was saved; see `Checkpoints.saved_at`.
        conversion: where somebody else's parameters are from: `source`, `named_classes`, and `report`, what
            became of each. Empty where the run was trained.
    """

    config: ml_collections.ConfigDict
    classes: dict[str, tuple[str, ...]]
    multi_label: bool
    settings: dict[str, Any]
    model: Any
    params: Any
    step: int
    saved_at: int | None
    conversion: Mapping[str, Any]


def write_about(workdir: Path, about: dict[str, Any]) -> None:
    """Leaves the config and the classes beside the checkpoints."""
    reporting.write_json(workdir / 'config.json', about)


def write_environment(workdir: Path) -> None:
    """Leaves what makes the checkpoints beside them: versions, devices, the command."""
    reporting.write_json(workdir / 'environment.json', reporting.environment())


def read_about(workdir: str | Path) -> dict[str, Any]:
    """The record that `write_about` left: `config`, `classes`, `multi_label`,
    `fingerprint`, `settings`.

    Raises:
        UserError: the workdir holds no run, or what may not be read.
        TryAgain: it cannot be read now.
    """
    path = Path(workdir) / 'config.json'
    try:
        about = json.loads(path.read_text(encoding='utf-8'))
        if not isinstance(about, dict) or not about.keys() >= ABOUT:
            raise ValueError(f'it lacks one of {", ".join(sorted(ABOUT))}')
        return about | {'config': configs.with_later_keys(about['config'])}
    except FileNotFoundError:
        raise UserError(
            f"'{workdir}' is no workdir of a run: it has no config.json; train first, or mend the path."
        ) from None
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and explanation(error) is None:
            raise TryAgain(f"cannot read '{path}': {error}; run the same command again.") from error
        raise UserError(f"cannot read '{path}': {error}.") from None


def load_config(workdir: str | Path, overrides: Sequence[str] = ()) -> ml_collections.ConfigDict:
    """The config of a run, with overrides '--config.KEY=VALUE'.

    Raises:
        UserError: the workdir holds no run, or one of another version, or an override does not fit.
    """
    # JSON made lists of a config's tuples.
    config = ml_collections.ConfigDict(as_tuples(read_about(workdir)['config']))
    _check(config, f"the run '{workdir}' was made by another version of vjax")
    if overrides:
        config = override(config, overrides)
        _check(config, ' '.join(overrides))
    return config


def init_params(model: Any, config: ml_collections.ConfigDict) -> Any:
    """Fresh parameters for clips of `config`'s shape; traceable, so that `eval_shape` gives shapes."""
    clip = jnp.zeros((1, *configs.clip_shape(config)))
    return model.init(jax.random.key(config.seed), clip)['params']


def fresh_params(
    model: Any, config: ml_collections.ConfigDict, paths: Collection[str]
) -> dict[str, np.ndarray]:
    """Those of `init_params` that are at the given paths, on the host; the others are not computed."""

    @jax.jit
    def some():
        flat = weights.flatten(init_params(model, config))
        return {path: flat[path] for path in paths}

    return jax.device_get(some())


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
    about, trained = read_about(workdir), load_config(workdir)
    model = models.build(**trained.model)
    shapes = jax.eval_shape(lambda: init_params(model, trained))
    config = trained
    if overrides:
        config = load_config(workdir, overrides)
        model = models.build(**config.model)
        if jax.eval_shape(lambda: init_params(model, trained)) != shapes:
            raise UserError(
                f"{' '.join(overrides)} changes the shapes of parameters, which '{workdir}' has already "
                'trained.'
            )
        if configs.clip_shape(config) != configs.clip_shape(trained):
            model = with_grid(model, trained)
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
            conversion = about.get('conversion', {})
            kind, settings = about['multi_label'], about['settings']
            saved_at = checkpoints.saved_at(step)
            return Run(config, classes, kind, settings, model, params, step, saved_at, conversion)
    finally:
        checkpoints.close()
    raise UserError(f"no checkpoint of '{workdir}' could be read (tried steps {steps}).")


def find_checkpoint(workdir: str | Path, which: str = 'latest') -> tuple[int, int | None]:
    """The step of the checkpoint that `load_run` tries first, and when it was saved; it is not loaded.

    Raises:
        UserError: the workdir holds no such checkpoint.
    """
    checkpoints = Checkpoints(workdir)
    try:
        step = _candidates(checkpoints, workdir, which)[0]
        return step, checkpoints.saved_at(step)
    finally:
        checkpoints.close()


def _check(config: ml_collections.ConfigDict, what: str) -> None:
    try:
        configs.check(config)
    except UserError as error:
        raise UserError(f'{what}: {error}') from None


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


def check_trained(run: Run, workdir: str | Path) -> None:
    """Refuses a model of which a part is left at its initialisation: its accuracy would be chance.

    Raises:
        UserError: the parameters were converted, and not all of them were loaded.
    """
    left = left_of(run)
    if left:
        more = ', ...' if len(left) > 3 else ''
        keep = ', or convert with --config.adapt.head=keep if the source has one'
        raise UserError(
            f"'{workdir}' is no trained model: {len(left)} of its parameters were left at their "
            f'initialisation when it was converted from {run.conversion["source"]} '
            f'({", ".join(left[:3])}{more}); train it first, with --config.init_from={workdir}'
            f'{keep if all(path.startswith("head/") for path in left) else ""}.'
        )


def left_of(run: Run) -> list[str]:
    """The parameters that a conversion left at their initialisation; none of a run that was trained."""
    return sorted(run.conversion.get('report', {}).get('left', ()))


def has_checkpoints(workdir: str | Path) -> bool:
    """Whether there is something in a workdir to resume; what a killed run left half-written is nothing."""
    return any(path.name.isdecimal() for path in (Path(workdir) / 'checkpoints').glob('*'))


def read_sources(name: str, model: Any, input_shape: tuple[int, ...]) -> Sequence[weights.Source]:
    """The models that 'runs/digits' or 'vit:B_16.npz' names; see `weights.read`.

    Raises:
        UserError: there is no such run or file, or it is damaged.
    """
    if weights.split_name(name)[0]:
        return weights.read(name, model, input_shape)
    run = load_run(name)
    named = run.conversion.get('named_classes', True)
    untrained = dict.fromkeys(left_of(run), f'never trained in {name}')
    params = weights.flatten(jax.device_get(run.params))
    params = {path: leaf for path, leaf in params.items() if path not in untrained}
    classes = run.classes if named else None
    model = with_grid(run.model, run.config)
    return (weights.Source(name, model, params, classes, untrained=untrained),)


def with_grid(model: Any, trained: ml_collections.ConfigDict) -> Any:
    """The model, told which grid its table of positions was trained on: else the number has to tell."""
    if hasattr(model, 'encoder'):
        return model.clone(encoder=with_grid(model.encoder, trained))
    if getattr(model, 'positions', '') not in ('learned', 'factorised'):
        return model
    return model.clone(position_grid=positions.whole_grid(model, configs.clip_shape(trained)))


def start_from(
    config: ml_collections.ConfigDict,
    model: Any,
    shapes: Any,
    classes: Mapping[str, Sequence[str]],
) -> tuple[dict[str, np.ndarray], weights.Report]:
    """The parameters that `config.init_from` gives a model, and what became of each.

    Args:
        config: the new run's; `config.adapt` says how they are made to fit.
        model: the new run's model.
        shapes: of its parameters.
        classes: its classes by head; the classifier is left out where the source has others.

    Returns:
        Arrays by path; the paths that are missing keep their initialisation.

    Raises:
        UserError: the models differ in more than a plan makes up for.
    """
    sources = read_sources(config.init_from, model, configs.clip_shape(config))
    how = weights.Adapt(**config.adapt)
    return weights.adapt(
        sources,
        model,
        weights.flatten(shapes),
        configs.clip_shape(config),
        how,
        classes,
        fresh=lambda path: fresh_params(model, config, [path])[path],
    )


def overlay(params: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    """The parameters with those of `arrays`, by path, in place of the fresh ones."""

    def choose(path, fresh):
        array = arrays.get(path_name(path))
        return fresh if array is None else jax.device_put(array, fresh.sharding)

    return jax.tree_util.tree_map_with_path(choose, params)
