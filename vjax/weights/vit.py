"""Image models in .npz: the original ViT and AugReg (vision_transformer), and big_vision.

Both name parameters as Scenic does, but for details that came and went: numbers of modules within a
block, a table of positions within the transformer or beside it, blocks apart or stacked. The original
adds positions behind the class token, which has one too; big_vision adds them before, and it has none.
"""

import functools
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vjax.errors import UserError
from vjax.weights.files import npz
from vjax.weights.scenic import checkpoint, names, vivit
from vjax.weights.source import Source

# Where a file may hold the parameters; the first that has an embedding of patches.
PREFIXES = (
    '',
    'params/',
    'opt/target/',
    'optimizer/target/',
    'optimizer/target/params/',
    'target/',
)
IMAGE_TOWER = 'img/'  # Of a model of images and texts.
EMBEDDING = 'embedding/kernel'
HYBRID = ('conv_root/', 'gn_root/', 'block1/')

_TABLES = {  # Name -> whether a class token has a row in it.
    'Transformer/posembed_input/pos_embedding': True,
    'Transformer/pos_embedding': True,
    'pos_embedding': False,
}
_STACK = 'Transformer/encoderblock/'
_MAX_LAYERS = 1000
_INLINED_POOL = ('probe', 'MlpBlock_', 'MultiHeadDotProductAttention_', 'LayerNorm_')


def read(path: Path, model: Any) -> Source:
    """The image model in a file of vision_transformer, AugReg or big_vision.

    Args:
      path: The .npz file.
      model: The model that is to be loaded; everything about the source is in the file.

    Returns:
      A ViT of the sizes in the file. Parameters that a ViT has not are there under their own names.
      Where the file has no position embeddings the source makes big_vision's sines and cosines.

    Raises:
      UserError: the file is damaged, or of another model, such as a hybrid of ResNet and ViT.
    """
    del model
    name = f'vit:{path}'
    present = npz.names(path)
    prefix = _prefix(name, present)
    flat = {
        key.removeprefix(prefix): array.astype(np.float32, copy=False)
        for key, array in npz.read(path, lambda key: key.startswith(prefix)).items()
    }
    flat = _scenic_names(name, flat)
    try:
        source = vivit.infer_vit(flat)
        params, positions = _params(flat, source)
    except UserError as error:
        raise UserError(f'{name} is not a ViT that vjax knows: {error}') from None
    outside = {key.split('/')[0] for key in present if not key.startswith(prefix)}
    return Source(
        name,
        source,
        params,
        unused=dict.fromkeys(sorted(outside), 'not parameters of the image model'),
        positions=positions,
    )


def _prefix(name: str, present: Collection[str]) -> str:
    """What stands before the names of the parameters."""
    prefixes = [*PREFIXES, *(prefix + IMAGE_TOWER for prefix in PREFIXES)]
    for prefix in prefixes:
        if any(key.startswith(tuple(prefix + part for part in HYBRID)) for key in present):
            raise UserError(
                f'{name} is a hybrid of a ResNet and a ViT, which vjax has no model for: use a ViT whose '
                'patches are embedded by one layer, such as B_16.'
            )
        if prefix + EMBEDDING in present:
            return prefix
    raise UserError(
        f'{name} has no {EMBEDDING!r}: it is not a ViT of vision_transformer or big_vision.'
    )


def _scenic_names(name: str, flat: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The parameters under Scenic's names, the blocks apart, positions with a row for a class token."""
    renamed = {}
    for key, array in flat.items():
        if key.startswith(_STACK):
            rest = key.removeprefix(_STACK)
            if array.ndim == 0 or len(array) > _MAX_LAYERS:
                raise UserError(
                    f'{name}: {key} of shape {array.shape} is not one array for each layer.'
                )
            renamed |= {f'Transformer/encoderblock_{i}/{rest}': x for i, x in enumerate(array)}
        elif 'probe' in flat and key.startswith(_INLINED_POOL):
            renamed[f'MAPHead_0/{key}'] = array
        else:
            renamed[re.sub('^head/', 'output_projection/', key)] = array
    flat = names.linen(renamed)
    tables = [key for key in _TABLES if key in flat]
    if len(tables) > 1:
        raise UserError(f'{name} has position embeddings twice: {" and ".join(tables)}.')
    for key in tables:
        table = flat.pop(key)
        if table.ndim == 3 and 'cls' in flat and not _TABLES[key]:
            table = np.pad(table, ((0, 0), (1, 0), (0, 0)))
        flat['Transformer/posembed_input/pos_embedding'] = table
    return flat


def _params(
    flat: Mapping[str, np.ndarray], source: Any
) -> tuple[dict[str, np.ndarray], functools.partial | None]:
    """The ViT's parameters, then what makes its positions if that is not one of them."""
    positions = None
    if 'Transformer/posembed_input/pos_embedding' not in flat:
        positions = functools.partial(sines, width=source.width)
        source = source.clone(positions='sincos')
    return checkpoint.params(flat, source), positions


def sines(grid: tuple[int, int], width: int) -> np.ndarray:
    """big_vision's position embeddings without parameters: [height * width of the grid, width].

    Four quarters: sines, then cosines of the column, then of the row, at wavelengths from 2 pi to
    10000 * 2 pi, that included. (vjax's own, of MAE, end one step before and have the row first.)
    """
    frequencies = 10000.0 ** -np.linspace(0, 1, width // 4)
    rows, columns = (place.reshape(-1, 1) * frequencies for place in np.indices(grid))
    parts = [np.sin(columns), np.cos(columns), np.sin(rows), np.cos(rows)]
    return np.concatenate(parts, axis=1).astype(np.float32)
