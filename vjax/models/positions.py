"""Where a token stands in its grid: learned, factorised or sinusoidal position embeddings.

They are made for one grid of tokens and are resized, linearly along each axis, where the input has
another: one set of parameters takes images and clips of any size.
"""

import math

import einops
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vjax.errors import UserError
from vjax.models.fields import check_sincos


def resize_grid(
    x: Float[Array, 'batch *grid dim'], grid: tuple[int, ...], *, antialias: bool = True
) -> Float[Array, 'batch *newgrid dim']:
    """Features on another grid: (bi-, tri-)linear, cells' centres half a cell from the border.

    Args:
      x: Features on a grid of any rank.
      grid: The new size of each of its axes.
      antialias: Average over all cells that a larger new one covers, not only the nearest two.
    """
    if x.shape[1:-1] == tuple(grid):
        return x
    shape = (x.shape[0], *grid, x.shape[-1])
    return jax.image.resize(x, shape, method='linear', antialias=antialias)


def sincos(coordinates: Float[np.ndarray, 'positions'], width: int) -> np.ndarray:
    """Sines, then cosines, of wavelengths from 2 pi to 10000 * 2 pi (arXiv 1706.03762, section 3.5)."""
    frequencies = 10000.0 ** (-np.arange(width // 2) / (width // 2))
    angles = np.outer(coordinates, frequencies)
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=-1)


class PositionEmbedding(nn.Module):
    """A vector for every token of a grid, in row-major order, behind `extra` ones for class tokens.

    Attributes:
      kind: 'learned', a table of all tokens (ViT, section 3.1); 'factorised', a learned table for
        each axis, summed (NaViT, arXiv 2307.06304, section 2.1), whose class tokens have no
        position; or 'sincos', nothing learned, each axis its share of the width (MAE, arXiv
        2111.06377, appendix A).
      grid: The grid that the positions are made for; () for that of the input. Where a table was
        trained on another and this is (), the number of positions must tell which: one that differs
        in scale but not in aspect ratio, or in time alone.
    """

    kind: str = 'learned'
    grid: tuple[int, ...] = ()

    @nn.compact
    def __call__(
        self, grid: tuple[int, ...], width: int, extra: int = 0
    ) -> Float[Array, '1 tokens dim']:
        """Positions of a grid of tokens of the given width.

        Raises:
          UserError: the trained grid cannot be told from the number of positions, or `width` does
            not divide.
        """
        if self.grid and len(self.grid) != len(grid):
            raise UserError(
                f'position_grid={tuple(self.grid)} has not the rank of the tokens {grid}'
            )
        normal = nn.initializers.normal(0.02)
        if self.kind == 'learned':
            trained = self.grid or self._trained_grid(grid, extra)
            count = self._length('table', extra + math.prod(trained)) - extra
            if count != math.prod(trained):
                raise UserError(
                    f'position_grid={tuple(trained)} is not that of the {count} trained position '
                    'embeddings'
                )
            table = self.param('table', normal, (1, extra + math.prod(trained), width))
            first, rest = table[:, :extra], table[:, extra:].reshape(1, *trained, width)
            rest = resize_grid(rest, grid).reshape(1, -1, width)
            return jnp.concatenate([first, rest], axis=1)
        check_sincos(self.kind, width, len(grid))
        axes = []
        for axis, size in enumerate(grid):
            if self.kind == 'factorised':
                length = self.grid[axis] if self.grid else self._length(f'axis_{axis}', size)
                table = self.param(f'axis_{axis}', normal, (1, length, width))
                axes.append(resize_grid(table, (size,))[0])
            else:
                length = self.grid[axis] if self.grid else size
                centres = (np.arange(size) + 0.5) * length / size - 0.5
                axes.append(jnp.asarray(sincos(centres, width // len(grid)), jnp.float32))
        apart = [
            einops.rearrange(table, f'n d -> {"1 " * i}n{" 1" * (len(grid) - 1 - i)} d')
            for i, table in enumerate(axes)
        ]
        if self.kind == 'factorised':
            table = sum(jnp.broadcast_to(axis, (*grid, width)) for axis in apart)
        else:
            share = width // len(grid)
            table = [jnp.broadcast_to(axis, (*grid, share)) for axis in apart]
            table = jnp.concatenate(table, axis=-1)
        return jnp.pad(table.reshape(1, -1, width), ((0, 0), (extra, 0), (0, 0)))

    def _length(self, name: str, size: int) -> int:
        """The length of a trained table, or `size` before there is one."""
        if self.has_variable('params', name):
            return self.get_variable('params', name).shape[1]
        return size

    def _trained_grid(self, grid: tuple[int, ...], extra: int) -> tuple[int, ...]:
        """The grid of a trained table: the input's, or one of its aspect ratio."""
        count = self._length('table', extra + math.prod(grid)) - extra
        if count == math.prod(grid):
            return grid
        candidates = {(count,)}
        if len(grid) > 1:
            *time, height, width = grid
            scale = math.sqrt(count / math.prod(grid))
            candidates = {(*time, round(height * scale), round(width * scale))}
            if time:
                candidates.add((count // (height * width), height, width))
        candidates = {trained for trained in candidates if math.prod(trained) == count}
        if len(candidates) != 1:
            raise UserError(
                f'the position embeddings are of {count} tokens and the input has the grid '
                f'{"x".join(map(str, grid))}: say with position_grid which grid they were trained on'
            )
        return candidates.pop()
