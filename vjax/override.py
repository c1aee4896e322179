"""Overrides of a config, '--config.KEY=VALUE', for a config file's and for that of a finished run."""

import difflib
from collections.abc import Mapping, Sequence

from absl import flags
from ml_collections import config_dict, config_flags
from ml_collections.config_flags import config_path
from ml_collections.config_flags.config_flags import UnsupportedOperationError

from vjax import recipes
from vjax.errors import UserError

PREFIX = '--config.'
# What may be None by itself, hence by an override.
OPTIONAL = ('num_steps', 'num_epochs', 'clip.fps', 'model.num_classes')
# What absl reads values of a type with, and what to call them.
KINDS = {
    bool: (flags.BooleanParser(), 'True or False'),
    int: (flags.IntegerParser(), 'a whole number'),
    float: (flags.FloatParser(), 'a number'),
}


def override(config: config_dict.ConfigDict, overrides: Sequence[str]) -> config_dict.ConfigDict:
    """A copy of a run's config with overrides applied in order.

    Raises:
      UserError: a key that it does not have, or a value of another type.
    """
    # A run's config comes from JSON, which has forgotten of what type a missing value is.
    config = config_dict.ConfigDict(_with_types(config.to_dict(), recipes.base()))
    overrides, cleared = split(overrides)
    check(config, overrides)
    argv = ['vjax', *overrides]
    values = flags.FlagValues()
    config_flags.DEFINE_config_dict('config', config, flag_values=values, sys_argv=argv)
    try:
        values(argv)
    except (flags.Error, UnsupportedOperationError, TypeError, ValueError) as error:
        raise UserError(sentence(str(error).removeprefix('flag '))) from error
    clear(values.config, cleared)
    return values.config


def split(overrides: Sequence[str]) -> tuple[list[str], list[str]]:
    """Overrides that set a value, and the keys that the last override of each sets to None.

    Only the `OPTIONAL` ones can be: of others that is a value like any other, for `check` to refuse.
    """
    nones = {f'{PREFIX}{key}=None' for key in OPTIONAL}
    last = {each.partition('=')[0]: each for each in overrides}
    cleared = [name for name, each in last.items() if each in nones]
    others = [e for e in overrides if e not in nones and e.partition('=')[0] not in cleared]
    return others, [name.removeprefix(PREFIX) for name in cleared]


def clear(config: config_dict.ConfigDict, keys: Sequence[str]) -> None:
    """Sets dotted keys to None."""
    for key in keys:
        _check_key(config, key)
        section, _, name = key.rpartition('.')
        setattr(config_path.get_value(section, config) if section else config, name, None)


def check(config: config_dict.ConfigDict, overrides: Sequence[str]) -> None:
    """Raises UserError unless each override names a key of the config, with a value of its type."""
    for each in overrides:
        key, equals, text = each.removeprefix(PREFIX).partition('=')
        if not each.startswith(PREFIX) or not equals:
            raise UserError(f'{each!r} is not of the form --config.KEY=VALUE.')
        _check_key(config, key)
        now = config_path.get_value(key, config)
        if isinstance(now, config_dict.ConfigDict) and not key.startswith('vary'):
            inner = next(iter(now), 'KEY')
            raise UserError(
                f'{each}: config.{key} is a section: set its keys, as in {PREFIX}{key}.{inner}=VALUE.'
            )
        parser, kind = KINDS.get(config_path.get_type(key, config), (flags.ArgumentParser(), ''))
        try:
            parser.parse(text)
        except (TypeError, ValueError) as error:
            now = '' if now is None else f'; without this it is {now}'
            raise UserError(f'{each}: config.{key} takes {kind}{now}.') from error


def _with_types(values: dict, base: config_dict.ConfigDict) -> dict:
    """The values with a placeholder of the type that `base` has for each one that is None."""
    typed = dict(values)
    for name, value in values.items():
        inner = base.get(name) if name in base else None
        if isinstance(value, Mapping) and isinstance(inner, config_dict.ConfigDict):
            typed[name] = _with_types(value, inner)
        elif value is None and name in base:
            typed[name] = config_dict.placeholder(base.get_type(name))
    return typed


def _check_key(config: config_dict.ConfigDict, key: str) -> None:
    """Raises UserError if the dotted `key` is not in `config`, naming the nearest that is."""
    at, done = config, []
    for name in key.split('.'):
        inside = f'config.{".".join(done)}'.rstrip('.')
        if isinstance(at, str | int | float | None):
            raise UserError(f'{PREFIX}{key}: {inside} is the value {at!r} and has no keys.')
        if not isinstance(at, Mapping | config_dict.ConfigDict):
            return  # An object or a sequence: ml_collections finds its attributes.
        if name not in at:
            whole, bracket, _ = name.partition('[')
            if bracket and whole in at:
                raise UserError(
                    f'{PREFIX}{key}: a sequence is set as a whole, as in '
                    f'{PREFIX}{".".join([*done, whole])}="{at[whole]}".'
                )
            near = difflib.get_close_matches(name, map(str, at), n=1, cutoff=0.7)
            has = f'it has {", ".join(sorted(map(str, at)))}.' if at else 'it is empty.'
            hint = f'did you mean {near[0]!r}?' if near else has
            raise UserError(f'{PREFIX}{key}: there is no key {name!r} in {inside}; {hint}')
        at = at[name]
        done.append(name)


def sentence(text: str) -> str:
    """A message of somebody else's on one line, ended by a full stop."""
    text = ' '.join(text.split())
    return text if text.endswith(('.', '?', '!')) else f'{text}.'
