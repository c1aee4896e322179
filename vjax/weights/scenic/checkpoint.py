"""Scenic's checkpoints: what its training wrote before Orbax, and what its model zoo hands out.

A file of any name. The parameters are at 'optimizer/target' where flax.optim wrote it, with one 'params'
more before Linen, and at 'params' where optax did; what else a run needs to go on is passed over.
"""

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vjax.errors import UserError
from vjax.weights import scenic
from vjax.weights.files import msgpack
from vjax.weights.scenic import names
from vjax.weights.source import Source
from vjax.weights.trees import flatten

PLACES = ('optimizer/target', 'params')
_UNUSED = {
    'optimizer/state': "the optimiser's state",
    'opt_state': "the optimiser's state",
    'global_step': 'the step it was written at',
    'rng': 'random state of the run',
}
_ELSE = 'no parameters'


def read(path: Path, model: Any) -> Source:
    """The model in a checkpoint of ViT, ViViT, MTV or TokenLearner.

    Sizes and kind of the model are read from the file. Parameters that such a model has not are there
    under their own names.

    Args:
      path: The file, or a folder with exactly one file whose name begins with 'checkpoint'.
      model: The model that is to be loaded, which decides what the file leaves open: see `scenic.infer`.

    Raises:
      UserError: the file is damaged or of another model, or parameters are missing.
    """
    name = f'scenic:{path}'
    arrays, skipped = msgpack.read(_file(path), PLACES)
    places = [place for place in PLACES if any(key.startswith(f'{place}/') for key in arrays)]
    if len(places) != 1:
        has = ' and '.join(places) or 'neither ' + ' nor '.join(PLACES)
        others = ', '.join(skipped[:6]) or 'nothing'
        raise UserError(f'{name} has {has}, and {others}: it is no checkpoint of Scenic.')
    flat = {key.removeprefix(f'{places[0]}/'): arrays.pop(key) for key in list(arrays)}
    if all(key.startswith('params/') for key in flat):
        flat = {key.removeprefix('params/'): array for key, array in flat.items()}
    flat = names.linen(flat)
    try:
        source = scenic.infer(flat, model)
        found = params(flat, source)
    except UserError as error:
        raise UserError(f'{name} is not a model that vjax knows: {error}.') from None
    return Source(name, source, found, unused={key: _UNUSED.get(key, _ELSE) for key in skipped})


def params(flat: Mapping[str, np.ndarray], model: Any) -> dict[str, np.ndarray]:
    """As `scenic.params`, by path, for files: unknown leaves keep their names, and there may be no head.

    Raises:
      UserError: leaves are missing or of another shape.
    """
    filled, head = dict(flat), 'output_projection'
    headless = not any(key.startswith(f'{head}/') for key in flat)
    if headless:
        before = 'pre_logits/kernel' if 'pre_logits/kernel' in flat else _last_norm(flat)
        filled[f'{head}/kernel'] = np.zeros((flat[before].shape[-1], 1), np.float32)
        filled[f'{head}/bias'] = np.zeros(1, np.float32)
    known = scenic.leaf_names(filled, model)
    unknown = {key: filled.pop(key) for key in flat.keys() - known}
    found = flatten(scenic.params(filled, model))
    if headless:
        found = {path: x for path, x in found.items() if not path.startswith('head/logits/')}
    return found | unknown


def _last_norm(flat: Mapping[str, np.ndarray]) -> str:
    """The norm before the head, whose scale is as wide as what the head takes."""
    for encoder in ('global_encoder', 'TemporalTransformer', 'SpatialTransformer', 'Transformer'):
        name = f'{encoder}/encoder_norm/scale'
        if name in flat:
            return name
    raise UserError('it has no encoder_norm')


def _file(path: Path) -> Path:
    """The checkpoint itself, which may be alone in a folder."""
    if not path.is_dir():
        if zipfile.is_zipfile(path):
            raise UserError(
                f'scenic:{path} is an .npz file, and no msgpack of flax: try vit:{path}.'
            )
        return path
    found = sorted(path.glob('checkpoint*'))
    if len(found) != 1:
        several = ', '.join(file.name for file in found[:6])
        what = (
            f'several checkpoints, {several}: name one of them' if found else 'no file checkpoint*'
        )
        raise UserError(f'scenic:{path} is a folder with {what}.')
    if found[0].is_dir():
        raise UserError(
            f'scenic:{found[0]} is a folder, as Orbax writes them, and no file of flax.'
        )
    return found[0]
