"""Position embeddings of one grid for another, as Scenic and big_vision resize them.

Linear interpolation along each axis with corners aligned: the first and the last position stay what
they are, as with `scipy.ndimage.zoom(order=1)`. One difference is deliberate: for some sizes, 28 to 14
among them, rounding leads scipy past the last position, where it finds zeros, and so do Scenic and
big_vision; here it is the last position. (Where a model itself meets a grid other than its own,
`vjax.models.positions` resizes with aligned cells instead.)
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import einops
import numpy as np

from vjax.errors import UserError
from vjax.weights.plan import Take
from vjax.weights.source import Source


class Table(NamedTuple):
    """Where a model's position embeddings stand, and what for.

    Attributes:
      grid: Of the tokens that have one: (height, width), (time, height, width) or (time,).
      slots: Rows before those of the grid, for class tokens.
    """

    grid: tuple[int, ...]
    slots: int


def resize(table: np.ndarray, grid: Sequence[int]) -> np.ndarray:
    """Positions [*old grid, ...] as those of another grid of the same rank, [*grid, ...]."""
    for axis, size in enumerate(grid):
        length = table.shape[axis]
        if size == length:
            continue
        places = np.linspace(0, length - 1, size)
        below = np.clip(np.floor(places).astype(int), 0, max(length - 2, 0))
        above = np.minimum(below + 1, length - 1)
        share = (places - below).reshape(-1, *(1,) * (table.ndim - axis - 1))
        mixed = np.take(table, below, axis) * (1 - share) + np.take(table, above, axis) * share
        table = mixed.astype(table.dtype)
    return table


def of_model(model: Any, path: str, input_shape: tuple[int, ...]) -> Table:
    """The grid that the table of position embeddings called `path` is made for.

    Args:
      model: A vjax model.
      path: Of the table in its parameters.
      input_shape: Of one example without batch axis; counts where the model has no `position_grid`.
    """
    module = path.split('/')[0]
    if 'compressed_position_embedding' in path:
        return Table(tuple(model.grid), 0)
    slots = int(model.classifier == 'token')
    if module == 'global_encoder':
        return Table((max(times(model, input_shape)),), slots)
    grid = whole_grid(model, input_shape)
    if module.startswith('view_'):
        return Table(tuple(grid[int(module.removeprefix('view_'))][1:]), slots)
    if module == 'spatial_encoder':
        return Table(grid[1:], slots)
    return Table(grid[:1] if module == 'temporal_encoder' else grid, slots)


def whole_grid(model: Any, input_shape: tuple[int, ...]) -> tuple[Any, ...]:
    """The field `position_grid` of a model, or where it is not set, what it would be for such inputs."""
    if model.position_grid:
        return tuple(model.position_grid)
    if hasattr(model, 'tubelets'):
        return tuple(
            tuple(size // by for size, by in zip(input_shape[:3], tubelet, strict=True))
            for tubelet in model.tubelets
        )
    if hasattr(model, 'patch'):
        *_, height, width, _ = input_shape
        return height // model.patch[0], width // model.patch[1]
    return tuple(model.token_grid(input_shape))


def times(model: Any, input_shape: tuple[int, ...]) -> list[int]:
    """Indices of time in each view of an MTV that its parameters are made for."""
    return [time for time, *_ in whole_grid(model, input_shape)]


def given_grid(grid: tuple[int, ...], path: str) -> tuple[int, ...]:
    """The grid of one table among those of a model whose whole grid somebody has told.

    Args:
      grid: (time, height, width) or (height, width), for an MTV also one for each view; () if untold.
      path: Of the table.
    """
    module = path.split('/')[0]
    if grid and isinstance(grid[0], tuple):
        if not module.startswith('view_'):
            return ()
        grid = grid[int(module.removeprefix('view_'))]
    if module == 'encoder':
        return tuple(grid)
    if module == 'spatial_encoder' or module.startswith('view_'):
        return tuple(grid[-2:])
    return tuple(grid[:1]) if len(grid) == 3 else ()


def trained_grid(
    count: int, grid: tuple[int, ...], given: tuple[int, ...], name: str
) -> tuple[int, ...]:
    """The grid of `count` trained positions that are to become those of `grid`.

    Without a word about it images are taken to be square, or of the shape of those to come; videos of
    another grid to differ in space or in time, not in both.

    Args:
      count: Number of trained positions, those of class tokens not among them.
      grid: The grid to come, of the same rank.
      given: What somebody said that it is, () if nobody has.
      name: Of the table, for sentences.

    Raises:
      UserError: `given` is not of that many, or there is more than one possibility, or none.
    """
    if given:
        if len(given) == len(grid) - 1:  # The number tells the time.
            given = (count // math.prod(given), *given)
        if len(given) != len(grid) or math.prod(given) != count:
            raise UserError(
                f'adapt.position_grid={given} is not that of the {count} position embeddings of {name}.'
            )
        return given
    if len(grid) == 1:
        return (count,)
    *time, height, width = grid
    found = {(*time, *space) for space in _spaces(count / math.prod(time), height, width)}
    if time and count % (height * width) == 0:
        found.add((count // (height * width), height, width))
    if len(found) == 1:
        return found.pop()
    which = ' or '.join(sorted(map(shown, found)))
    raise UserError(
        f'the {count} position embeddings of {name} '
        + (f'may be those of {which} tokens' if found else 'are those of no square grid')
        + ': say with adapt.position_grid which grid they were trained on.'
    )


def _spaces(count: float, height: int, width: int) -> set[tuple[int, int]]:
    """Heights and widths of that many cells: square, or as wide for their height as those given."""
    side, scale = math.sqrt(count), math.sqrt(count / (height * width))
    found = {(round(side), round(side)), (round(height * scale), round(width * scale))}
    return {space for space in found if math.prod(space) == count}


def shown(grid: Sequence[int]) -> str:
    """(14, 14) as '14x14'."""
    return 'x'.join(map(str, grid))


def take(path: str, old: Table, new: Table, source: int = 0) -> Take:
    """How a table [1, slots + cells, width] becomes one of another grid.

    Tables of images become those of videos, resized in space first, then repeated over time. A class
    token's row goes along if both have one, and keeps its initialisation if only the new one has it.

    Args:
      path: Of the source's table.
      old, new: What it is for, and what it is to be for.
      source: Which source.
    """
    words = []
    space = new.grid[-len(old.grid) :]
    if space != old.grid:
        words.append(f'resized to {shown(space)}')
    if len(new.grid) > len(old.grid):
        words.append(f'repeated over {new.grid[0]} frames')

    def change(cells: np.ndarray) -> np.ndarray:
        return on_grid(cells.reshape(*old.grid, -1), new.grid)

    return _take(path, source, old.slots, new.slots, change, shown(old.grid), words)


def take_in_parts(
    path: str, old: Sequence[int], new: Sequence[int], slots: tuple[int, int]
) -> Take:
    """How a table of several sequences, one behind the other, is resized: each by itself.

    Args:
      path: Of the table.
      old, new: The sequences' lengths.
      slots: Rows for class tokens before them, in the old table and in the new.
    """

    def change(cells: np.ndarray) -> np.ndarray:
        parts = np.split(cells, np.cumsum(old)[:-1])
        return np.concatenate([resize(x, (size,)) for x, size in zip(parts, new, strict=True)])

    words = [f'resized to {" + ".join(map(str, new))}'] if list(old) != list(new) else []
    return _take(path, 0, *slots, change, ' + '.join(map(str, old)), words)


def _take(
    path: str,
    source: int,
    old_slots: int,
    new_slots: int,
    change_cells: Callable[[np.ndarray], np.ndarray],
    shape: str,
    words: Sequence[str],
) -> Take:
    """`change_cells` on the rows [cells, width] behind those of class tokens; `words` say what it does."""
    words = [f'{shape} positions {", ".join(words)}'] if words else []
    if old_slots > new_slots:
        words.append("without the class token's position")
    if new_slots > old_slots:
        words.append("the class token's position left at its initialisation")
    if not words:
        return Take(path, source)

    def change(table: np.ndarray, *fresh: np.ndarray) -> np.ndarray:
        slots, cells = np.split(np.asarray(table)[0], [old_slots])
        if new_slots > old_slots:
            slots = np.asarray(fresh[0], table.dtype)[0]
        return np.concatenate([slots[:new_slots], change_cells(cells)])[None]

    return Take(path, source, change, ', '.join(words), fresh=new_slots > old_slots)


def on_grid(cells: np.ndarray, grid: tuple[int, ...]) -> np.ndarray:
    """Positions [*old grid, width] for every token of `grid`, in row-major order: [tokens, width]."""
    rank = cells.ndim - 1
    cells = resize(cells, grid[-rank:]).reshape(-1, cells.shape[-1])
    repeats = math.prod(grid[: len(grid) - rank])
    return einops.repeat(cells, 'n d -> (t n) d', t=repeats)


def along_axis(path: str, length: int, size: int, source: int = 0) -> Take:
    """How a table [1, length, ...] becomes one of another length."""
    if length == size:
        return Take(path, source)
    change = lambda table: resize(np.asarray(table)[0], (size,))[None]  # noqa: E731
    return Take(path, source, change, f'{length} positions resized to {size}')


def made(source: Source, new: Table) -> tuple[np.ndarray, str]:
    """The table of positions that the source computes, and how it is made.

    A class token has none: its row is zero.
    """
    cells = source.positions(new.grid[-2:])
    table = on_grid(cells.reshape(*new.grid[-2:], -1), new.grid)
    how = f"the source's sines and cosines of {shown(new.grid[-2:])} positions"
    if len(new.grid) > 2:
        how += f', repeated over {new.grid[0]} frames'
    return np.pad(table, ((new.slots, 0), (0, 0)))[None], how
