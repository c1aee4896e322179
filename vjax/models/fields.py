"""What a model's fields must satisfy, each as one sentence that names the field and the fix."""

import difflib
from collections.abc import Collection
from typing import Any

from vjax.errors import UserError


def suggestion(value: str, choices: Collection[str]) -> str:
    """'; did you mean ...?' for the closest choice, or nothing when none is close."""
    close = difflib.get_close_matches(value, choices, n=1)
    return f'; did you mean {close[0]!r}?' if close else ''


def check_choice(name: str, value: Any, choices: Collection[str]) -> None:
    """Raises a UserError unless the value is one of the choices."""
    if value not in choices:
        hint = suggestion(str(value), choices)
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


def check_positive(model: Any, names: Collection[str]) -> None:
    """Raises a UserError unless each of the named fields of the model is at least 1."""
    for name in names:
        if getattr(model, name) < 1:
            raise UserError(f'{name}={getattr(model, name)} should be at least 1')


def check_not_negative(model: Any, names: Collection[str]) -> None:
    """Raises a UserError if one of the named fields of the model is below 0."""
    for name in names:
        if getattr(model, name) < 0:
            raise UserError(f'{name}={getattr(model, name)} should be at least 0')


def check_positions(model: Any, axes: Collection[str], ranks: Collection[int]) -> None:
    """Checks the fields of position embeddings.

    Args:
      model: With the fields `positions`, `position_grid` and `width`.
      axes: Names of the axes of `position_grid`.
      ranks: Of the grids that the model's encoders work on.

    Raises:
      UserError: the grid has another rank, or sines and cosines do not fit the width.
    """
    if model.position_grid:
        check_extents('position_grid', model.position_grid, axes)
    for rank in ranks:
        check_sincos(model.positions, model.width, rank)


def check_sincos(positions: str, width: int, rank: int) -> None:
    """Raises a UserError unless a token has room for sines and cosines along each axis of its grid."""
    if positions == 'sincos' and width % (2 * rank):
        raise UserError(
            f'positions="sincos" needs a multiple of {2 * rank} for the width, a sine and a cosine for '
            f'each of {rank} axes, not {width}'
        )


def check_clip(input_shape: tuple[int, ...], name: str, tubelet: tuple[int, ...]) -> None:
    """Raises a UserError unless clips (time, height, width, channels) can be cut into tubelets."""
    if len(input_shape) != 4:
        raise UserError(
            f'the model takes clips (time, height, width, channels), not {tuple(input_shape)}'
        )
    for axis, size, extent in zip(
        ('num_frames', 'height', 'width'), input_shape[:3], tubelet, strict=True
    ):
        check_divides(axis, size, f'{extent} of {name}={tuple(tubelet)}', extent)


def check_columns(model: Any, names: Collection[str]) -> None:
    """Raises a UserError unless the named fields have as many entries as the first, one or more.

    Each entry is at least 1 or, where it is a tuple, a time, height and width of at least 1.
    """
    first, *_ = names
    for name in names:
        column = getattr(model, name)
        if not column or len(column) != len(getattr(model, first)):
            raise UserError(
                f'{name} has {len(column)} entries and {first} has {len(getattr(model, first))}: '
                'there should be as many in both, one at least'
            )
        for i, entry in enumerate(column):
            if isinstance(entry, tuple):
                check_extents(f'{name}[{i}]', entry, ('time', 'height', 'width'))
            elif entry < 1:
                raise UserError(f'{name}[{i}]={entry} should be at least 1')


def check_increasing(name: str, values: Collection[int], last: int) -> None:
    """Raises a UserError unless there are values and they increase, between 0 and `last`."""
    values = list(values)
    if not values or values != sorted(set(values)) or values[0] < 0 or values[-1] > last:
        raise UserError(
            f'{name}={tuple(values)} should increase, from 0 at least to {last} at most'
        )


def check_transformer(model: Any, classifiers: Collection[str]) -> None:
    """The checks that every transformer shares, on the fields of the given model."""
    check_positive(model, ('num_classes', 'width', 'depth', 'num_heads', 'mlp_dim'))
    if model.width % model.num_heads:
        raise UserError(f'num_heads={model.num_heads} does not divide width={model.width}')
    check_options(model, classifiers)


def check_options(model: Any, classifiers: Collection[str]) -> None:
    """The checks of `check_transformer` that are not about sizes."""
    check_choice('classifier', model.classifier, classifiers)
    check_choice('positions', model.positions, ('learned', 'factorised', 'sincos'))
    check_computation(model)


def check_computation(model: Any) -> None:
    """The checks of how a model is computed, and of its rates."""
    check_choice('remat', model.remat, ('none', 'dots', 'full', 'offload'))
    check_choice('dtype', model.dtype, ('float32', 'bfloat16'))
    check_choice('gelu', model.gelu, ('tanh', 'erf'))
    if not model.norm_epsilon > 0:
        raise UserError(f'norm_epsilon={model.norm_epsilon} should be above 0, such as 1e-6')
    for name in ('dropout', 'attention_dropout', 'stochastic_depth'):
        if not 0 <= getattr(model, name) < 1:
            raise UserError(f'{name}={getattr(model, name)} is not a rate between 0 and 1')
