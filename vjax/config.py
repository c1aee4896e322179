"""What a config is: its argument, its keys, and the checks before anything is built.

A config file defines `get_config(arg) -> ConfigDict`. Every default stands in it; the code that reads
it has none. The keys are listed once: in `KEYS`, for `clip`, `augment` and `adapt` in the dataclasses
that read them, for `model` in the model. A config that lacks one or has another is refused.
"""

import copy
import dataclasses
import functools
import itertools
import json
import math
import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import ml_collections

from vjax import models, recipes
from vjax.data import records, sections
from vjax.errors import UserError
from vjax.models.fields import check_choice, suggestion
from vjax.training import losses, optimizer
from vjax.value_types import check_fields, check_type
from vjax.weights.plan import Adapt

KEYS = {
    '': {
        'seed': 'of the initialisation, the order of the examples and every random draw',
        'num_steps': 'optimiser steps; where it is not set or 0, num_epochs counts',
        'num_epochs': 'passes over the training split',
        'batch_size': 'examples in a step, over all devices and hosts',
        'init_from': 'workdir of a run, or a file as in vit:B_16.npz, whose parameters to start from; '
        'empty to start from scratch',
        'adapt': 'how the parameters of init_from are made to fit',
        'log_every': 'steps between two reports',
        'profile': 'steps to profile for TensorBoard, such as 100-110; empty for none',
        'dataset': 'the prepared data set and its splits',
        'clip': 'how clips are cut from videos',
        'augment': 'random changes to training clips',
        'model': "the model's name and its fields",
        'vary': 'fields of the model that are drawn anew for every step, name -> tuple of values',
        'loss': 'its kind, label smoothing, mixup and cutmix',
        'accumulate': 'microbatches in a batch',
        'ema': "decay of the parameters' moving average; 0 is off",
        'optimizer': 'keyword arguments of vjax.training.optimizer.build',
        'sharding': 'the mesh and where parameters live',
        'eval': 'evaluation during training',
        'checkpoint': 'what is saved when',
    },
    'dataset': {
        'path': 'folder that vjax.prepare wrote',
        'num_classes': 'of the data set the config was written for; what vjax.describe assumes without it',
        'train': 'name of the training split',
        'validation': 'name of the split evaluated during training',
        'test': 'name of the split that vjax.evaluate takes',
    },
    'loss': {
        'name': "'softmax' or 'sigmoid'; multi-label data takes 'sigmoid'",
        'label_smoothing': 'mass spread over all classes; of multi-label data, over yes and no',
        'mixup': "Beta's alpha; 0 is off",
        'cutmix': "Beta's alpha; 0 is off; with mixup, each serves half of the steps",
    },
    'optimizer': {
        'name': "'sgd' or 'adamw'",
        'learning_rate': 'after the warm-up',
        'warmup_fraction': 'part of the steps',
        'decay': "of the learning rate after the warm-up, 'cosine' or 'linear'",
        'end_learning_rate': 'after the last step',
        'momentum': 'of sgd',
        'b1': 'of adamw',
        'b2': 'of adamw',
        'moment_dtype': "of momentum and Adam's first moment, 'float32' or 'bfloat16'",
        'clip_norm': 'largest norm of the gradient; 0 is off',
        'weight_decay': 'rules (pattern, rate)',
        'learning_rate_scale': 'rules (pattern, factor); a tuple has a factor for each stacked layer',
        'freeze': 'patterns of parameters that are not trained',
    },
    'sharding': {
        'mesh': 'axis (data, fsdp, time, tensor) -> size, -1 for what is left',
        'preset': "how parameters are split: 'replicated', 'fsdp' or 'fsdp+tensor'",
        'parameters': 'rules (pattern, partition spec) that come before the preset',
    },
    'eval': {
        'every': 'steps; 0 never',
        'views': 'temporal x spatial, such as 4x3',
        'batch_size': 'videos',
    },
    'checkpoint': {
        'every': 'steps; evaluations save as well, unless keep_best is 0',
        'minutes': 'saves as well when so many have passed since the last time; 0 never',
        'keep_last': 'number of latest checkpoints kept',
        'keep_best': 'number of checkpoints kept for their validation top-1, or mAP on multi-label data',
    },
}

# Least and most of a number; where the config leaves it open, it is not checked.
RANGES = {
    'seed': (0, 2**32 - 1),
    'num_steps': (0, 2**31 - 1),  # Of a step that is counted in int32.
    'num_epochs': (0, math.inf),
    'batch_size': (1, math.inf),
    'accumulate': (1, math.inf),
    'ema': (0, 1),
    'log_every': (1, 2**31 - 1),
    'model.num_classes': (1, math.inf),
    'loss.label_smoothing': (0, 1),
    'loss.mixup': (0, math.inf),
    'loss.cutmix': (0, math.inf),
    'optimizer.learning_rate': (0, math.inf),
    'optimizer.warmup_fraction': (0, 1),
    'optimizer.end_learning_rate': (0, math.inf),
    'optimizer.momentum': (0, 1),
    'optimizer.b1': (0, 1),
    'optimizer.b2': (0, 1),
    'optimizer.clip_norm': (0, math.inf),
    'eval.every': (0, math.inf),
    'eval.batch_size': (1, math.inf),
    'checkpoint.every': (1, math.inf),
    'checkpoint.minutes': (0, math.inf),
    'checkpoint.keep_last': (1, math.inf),
    'checkpoint.keep_best': (0, math.inf),
}

CHOICES = {
    'optimizer.name': optimizer.NAMES,
    'optimizer.decay': optimizer.DECAYS,
    'optimizer.moment_dtype': optimizer.MOMENT_DTYPES,
    'loss.name': losses.NAMES,
}

# Sections whose keys are the fields of a dataclass.
READERS = {'clip': sections.Clip, 'augment': sections.Augment, 'adapt': Adapt}

# Keys that configs did not always have, and what runs from before were trained with: whoever adds a key
# adds it here, so that these runs can still be evaluated and resumed.
LATER = {
    'optimizer.moment_dtype': 'float32',
    'model.unroll': False,
    'model.encoder.unroll': False,
}

# What is chosen by a parameter's path: its type, and an example.
RULES = {
    'optimizer.weight_decay': (
        tuple[tuple[str, float], ...],
        "such as (('.*/kernel', 0.05), ('.*', 0.0))",
    ),
    'optimizer.learning_rate_scale': (
        tuple[tuple[str, float | tuple[float, ...]], ...],
        "such as (('head/.*', 1.0), ('.*', 0.1))",
    ),
    'optimizer.freeze': (tuple[str, ...], "such as ('embedding/.*',)"),
    'sharding.parameters': (
        tuple[tuple[str, str | tuple[str, ...]], ...],
        "such as (('.*/kernel', 'fsdp(fsdp)'),)",
    ),
}

# What may differ when a run is resumed: nothing that a batch, a step or the schedule depends on.
MAY_CHANGE = (
    'log_every',
    'profile',
    'dataset.path',
    'sharding.',
    'eval.',
    'checkpoint.',
    'init_from',
    'adapt.',
)


def parse_arg(arg: str | None, **defaults: Any) -> SimpleNamespace:
    """The argument after the colon of `--config=FILE.py:arg`: comma-separated `key=value` or flags.

    A value takes the type of its default; a flag is a key whose default is False.

    Raises:
        UserError: an unknown key, or a value of another type.
    """
    values = dict(defaults)
    for part in filter(None, (arg or '').split(',')):
        key, equals, text = part.partition('=')
        if key not in defaults:
            raise UserError(
                f"config argument '{part}': there is no '{key}'{suggestion(key, defaults)}; this config "
                f'takes {", ".join(defaults)}.'
            )
        default = defaults[key]
        if isinstance(default, bool):
            if equals and text.lower() not in ('true', 'false', '1', '0'):
                raise UserError(f"config argument '{part}': '{key}' is a flag.")
            values[key] = not equals or text.lower() in ('true', '1')
        elif not equals:
            raise UserError(f"config argument '{part}' needs a value, as in '{key}={default}'.")
        else:
            try:
                values[key] = type(default)(text)
            except ValueError:
                kind = type(default).__name__
                raise UserError(f"config argument '{part}': '{text}' is no {kind}.") from None
    return SimpleNamespace(**values)


def parse_views(views: str) -> tuple[int, int]:
    """'4x3' as (4 temporal, 3 spatial) views."""
    parts = views.split('x')
    if len(parts) != 2 or not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise UserError(
            f"views '{views}' should be temporal x spatial, such as '4x3' for 4 clips of 3 crops."
        )
    return int(parts[0]), int(parts[1])


def parse_steps(steps: str) -> range:
    """'100-110' as the steps 100 to 110, '100' as that one; '' is none."""
    first, dash, last = steps.partition('-')
    if not steps:
        return range(0)
    if not first.isdecimal() or (dash and not last.isdecimal()):
        found = range(0)
    else:
        found = range(int(first), int(last or first) + 1)
    if not found or found.start < 1:
        raise UserError(
            f"config.profile='{steps}' should be a range of steps, counted from 1, such as 100-110; or "
            "'' for none."
        )
    return found


def parse_extents(extents: str) -> tuple[int, ...]:
    """'5x5' as (5, 5)."""
    parts = extents.split('x')
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise UserError(f"'{extents}' should be whole numbers joined by x, such as '5x5'.")
    return tuple(map(int, parts))


def check(config: ml_collections.ConfigDict) -> None:
    """Refuses a config that could not be trained, before anything is built.

    Raises:
        UserError: a sentence that names the first wrong key and the likely fix.
    """
    for section, keys in KEYS.items():
        _check_section(config, section, keys)
    for section, reader in READERS.items():
        keys = {field.name: f'see {reader.__module__}' for field in dataclasses.fields(reader)}
        _check_section(config, section, keys)
        check_fields(f'config.{section}.', reader, config[section].to_dict())
        try:
            reader(**config[section])
        except UserError as error:
            raise _of(f'config.{section}', error) from None
    _check_types(config)
    _check_finite(config)
    for key in ('optimizer.weight_decay', 'optimizer.learning_rate_scale'):
        for pattern, value in functools.reduce(operator.getitem, key.split('.'), config):
            factors = value if isinstance(value, list | tuple) else [value]
            if any(factor < 0 for factor in factors):
                raise UserError(f'config.{key}: {value} for {pattern!r} should be at least 0.')
    for key in ('b1', 'b2'):
        if config.optimizer[key] == 1:  # Nothing divided by nothing, in the first step.
            raise UserError(f'config.optimizer.{key}=1 should be below 1, such as 0.9.')
    for key, (least, most) in RANGES.items():
        value = functools.reduce(operator.getitem, key.split('.'), config)
        # Written so that a NaN is out of every range.
        if value is not None and not least <= value <= most:
            limits = f'at least {least}' if most == math.inf else f'from {least} to {most}'
            raise UserError(f'config.{key}={value} should be {limits}.')
    for key, names in CHOICES.items():
        value = functools.reduce(operator.getitem, key.split('.'), config)
        check_choice(f'config.{key}', value, names)
    if not config.num_steps and not config.num_epochs:
        raise UserError('set config.num_steps or config.num_epochs.')
    if config.batch_size % config.accumulate:
        raise UserError(
            f'config.batch_size={config.batch_size} does not divide into '
            f'config.accumulate={config.accumulate} microbatches.'
        )
    parse_views(config.eval.views)
    parse_steps(config.profile)
    for key, values in config.vary.items():
        if key not in config.model or key in ('name', 'num_classes'):
            hint = '' if key in config.model else suggestion(key, config.model.keys())
            raise UserError(
                f"config.vary.{key}: config.model has no field '{key}' that could vary{hint or '.'}"
            )
        own = config.model[key]
        if not isinstance(values, list | tuple) or not all(type(v) is type(own) for v in values):
            raise UserError(
                f'config.vary.{key}={values} should be a tuple of values like config.model.{key}='
                f'{own}: ({own}, ...).'
            )
        if not values:
            raise UserError(
                f'config.vary.{key}=() leaves no value to draw; delete the key instead.'
            )
    # Fields, sizes and the clip's shape; the class count does not matter to them.
    fields = config.model.to_dict() | {'num_classes': config.model.num_classes or 1}
    for varied in [{}, *variations(config)]:
        try:
            models.build(**fields | varied).check(clip_shape(config))
        except UserError as error:
            where = 'config.vary' if varied else 'config.model and config.clip'
            raise _of(where, error) from None


def variations(config: ml_collections.ConfigDict) -> list[dict[str, Any]]:
    """The fields that `config.vary` gives the model in different steps: all combinations."""
    names, values = config.vary.keys(), config.vary.values()
    return [dict(zip(names, chosen, strict=True)) for chosen in itertools.product(*values)]


def clip_shape(config: ml_collections.ConfigDict) -> tuple[int, int, int, int]:
    """What the model sees of one clip: (time, height, width, channels)."""
    clip = config.clip
    return (clip.num_frames, clip.size, clip.size, 3)


def resolve(
    config: ml_collections.ConfigDict, dataset: records.Dataset
) -> ml_collections.ConfigDict:
    """A copy with what the data set decides filled in: the class count and the number of steps.

    Raises:
        UserError: the config insists on another class count, or names a split or a step that is not there.
    """
    config = config.copy_and_resolve_references()
    num_classes = sum(map(len, dataset.classes.values()))
    if config.model.num_classes not in (None, num_classes):
        raise UserError(
            f'config.model.num_classes={config.model.num_classes}, but the data set {dataset.path} '
            f'has {records.count_classes(dataset.classes)}; leave it unset to take the number from '
            f'the data set.'
        )
    config.model.num_classes = num_classes
    split = config.dataset.train
    if split not in dataset.splits:
        raise UserError(
            f"config.dataset.train='{split}', but {dataset.path} has only the splits "
            f'{", ".join(sorted(dataset.splits))}; prepare it with --split={split}.'
        )
    if not config.num_steps:
        num_videos = dataset.splits[split].num_videos
        num_clips = config.num_epochs * num_videos * config.augment.repeats
        config.num_steps = max(1, round(num_clips / config.batch_size))
    profiled = parse_steps(config.profile)
    if profiled and profiled.start > config.num_steps:
        raise UserError(
            f"config.profile='{config.profile}', but the run ends with step {config.num_steps}."
        )
    return config


def recipe(name: str, config: ml_collections.ConfigDict) -> dict[str, Any]:
    """What a run keeps of where its config is from: the `name` of the file, and its own `config`."""
    plain = json.loads(config.copy_and_resolve_references().to_json())
    return {'name': name, 'config': plain}


def classification(
    config: ml_collections.ConfigDict, classes: Mapping[str, Sequence[str]], multi_label: bool
) -> losses.Classification:
    """What the logits stand for, of a model whose heads have these `classes`, and their loss.

    Raises:
        UserError: the loss takes exactly one class of an example, and it has any number of them.
    """
    if multi_label and config.loss.name != 'sigmoid':
        raise UserError(
            f"config.loss.name='{config.loss.name}' is for videos of one class each, and these are "
            'multi-label; set config.loss.name=sigmoid.'
        )
    heads = {head: len(names) for head, names in classes.items()}
    return losses.Classification(heads, config.loss.name, config.loss.label_smoothing, multi_label)


def differences(saved: Mapping[str, Any], current: Mapping[str, Any]) -> list[str]:
    """Keys that must not change within a run and did, as `key: saved -> current`."""
    saved, current = dict(leaves(saved)), dict(leaves(current))
    return [
        f'{key}: {saved.get(key)} -> {current.get(key)}'
        for key in sorted(saved.keys() | current.keys())
        if saved.get(key) != current.get(key) and not key.startswith(MAY_CHANGE)
    ]


def with_later_keys(saved: Mapping[str, Any]) -> dict[str, Any]:
    """A run's config with the keys of `LATER` that it is too old for; not those of sections it has not."""
    config = copy.deepcopy(dict(saved))
    for key, value in LATER.items():
        *path, name = key.split('.')
        section = config
        for each in path:
            section = section.get(each) if isinstance(section, dict) else None
        if isinstance(section, dict):
            section.setdefault(name, value)
    return config


def leaves(tree: Mapping[str, Any], prefix: str = '') -> Iterator[tuple[str, Any]]:
    """The values of a config and their dotted keys, in its order."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f'{prefix}{key}.')
        else:
            yield prefix + key, value


def _of(where: str, error: UserError) -> UserError:
    """The error with the section that it is of in front, unless it names one."""
    return error if str(error).startswith('config.') else UserError(f'{where}: {error}')


def _check_section(config: ml_collections.ConfigDict, name: str, keys: Mapping[str, str]) -> None:
    """Refuses a section, '' for the whole config, that has other keys than these."""
    section = config[name] if name else config
    if not isinstance(section, Mapping | ml_collections.ConfigDict):
        raise UserError(f'config.{name}={section!r} should be a section with {", ".join(keys)}.')
    _check_keys(section.keys(), keys, f'{name}.' if name else '')


def _check_finite(config: ml_collections.ConfigDict) -> None:
    """Refuses infinity and NaN anywhere."""

    def numbers(value):
        if isinstance(value, list | tuple):
            for item in value:
                yield from numbers(item)
        elif isinstance(value, float):
            yield value

    def check_section(name, section):
        for key, value in section.items():
            if isinstance(value, Mapping):
                check_section(f'{name}.{key}', value)
            elif not all(map(math.isfinite, numbers(value))):
                raise UserError(f'{name}.{key}={value} should be finite.')

    check_section('config', config.to_dict())


def _check_types(config: ml_collections.ConfigDict) -> None:
    """Refuses values of other types than those of `recipes.base`, but in `READERS`, model and vary."""
    base = recipes.base()
    for section, keys in KEYS.items():
        own, found = (base[section], config[section]) if section else (base, config)
        for key in keys:
            name = f'{section}.{key}' if section else key
            if name in RULES:
                check_type(f'config.{name}', found[key], *RULES[name])
            elif key in own and not isinstance(own[key], ml_collections.ConfigDict):
                kind = own.get_type(key)
                check_type(f'config.{name}', found[key], kind | None if own[key] is None else kind)
    for section in ('sharding.mesh', 'model', 'vary'):
        value = functools.reduce(operator.getitem, section.split('.'), config)
        if not isinstance(value, Mapping | ml_collections.ConfigDict):
            raise UserError(f'config.{section}={value!r} should be a section, not a value.')
    for axis, size in config.sharding.mesh.items():
        check_type(f'config.sharding.mesh.{axis}', size, int)
    for key in ('name', 'num_classes'):
        if key not in config.model:
            raise UserError(
                f"the config lacks 'config.model.{key}'; start from vjax.recipes.model."
            )
    check_type('config.model.num_classes', config.model.num_classes, int | None)


def _check_keys(found: Iterable[str], keys: Mapping[str, str], prefix: str) -> None:
    found = set(found)
    for key in sorted(found - keys.keys()):
        raise UserError(f"there is no key 'config.{prefix}{key}'{suggestion(key, keys) or '.'}")
    for key in keys:
        if key not in found:
            raise UserError(f"the config lacks 'config.{prefix}{key}' ({keys[key]}).")
