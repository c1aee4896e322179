"""What a model's fields must satisfy, each as one sentence that names the field and the fix."""

import difflib
from collections.abc import Collection
from typing import Any

from vjax.errors import UserError


def suggestion(value: str, choices: Collection[str]) -> str:
    """'; did you mean ...?' for the closest choice, or nothing when none is close."""
    close = difflib.get_close_matches(value, choices, n=1)
    return f'; did you mean {close[0]!r}?' if close else ''


def check_choice(name: str, value: str, choices: Collection[str]) -> None:
    """Raises a UserError unless the value is one of the choices."""
    if value not in choices:
        hint = suggestion(value, choices)
        raise UserError(f'{name}={value!r} is not one of {", ".join(choices)}{hint}')


def check_extents(name: str, extents: tuple[int, ...], axes: Collection[str]) -> None:
    """Raises a UserError unless there is one positive whole number for each axis."""
    if len(extents) != len(axes) or min(extents) < 1:
        raise UserError(f'{name}={tuple(extents)} should be {", ".join(axes)}, each at least 1')


def check_divides(name: str, value: int, by_name: str, by: int) -> None:
    """Raises a UserError that names the nearest valid values unless `by` divides the value."""
    if value < 1 or value % by:
        below, above = value // by * by, (value // by + 1) * by
        nearest = f'{below} and {above} are' if below > 0 else f'{above} is'
        raise UserError(f'{name}={value} is not divisible by {by_name}: the nearest {nearest}')


def check_transformer(model: Any, classifiers: Collection[str]) -> None:
    """The checks that every transformer shares, on the fields of the given model."""
    for name in ('num_classes', 'width', 'depth', 'num_heads', 'mlp_dim'):
        if getattr(model, name) < 1:
            raise UserError(f'{name}={getattr(model, name)} should be at least 1')
    if model.width % model.num_heads:
        raise UserError(f'num_heads={model.num_heads} does not divide width={model.width}')
    check_options(model, classifiers)


def check_options(model: Any, classifiers: Collection[str]) -> None:
    """The checks of `check_transformer` that are not about sizes."""
    check_choice('classifier', model.classifier, classifiers)
    check_choice('remat', model.remat, ('none', 'dots', 'full'))
    check_choice('dtype', model.dtype, ('float32', 'bfloat16'))
    check_choice('positions', model.positions, ('learned', 'factorised', 'sincos'))
    for name in ('dropout', 'attention_dropout', 'stochastic_depth'):
        if not 0 <= getattr(model, name) < 1:
            raise UserError(f'{name}={getattr(model, name)} is not a rate between 0 and 1')
