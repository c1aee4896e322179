"""Other people's checkpoints -> the parameters of a vjax model.

    sources = weights.read('vit:B_16.npz', model)
    arrays, report = weights.adapt(sources, model, shapes, input_shape, how)

`read` knows the files, `adapt` the models: a reader turns a checkpoint into the vjax model that computes
the same, and what has to change on the way to another model is the same whoever made the file.
"""

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vjax.errors import UserError
from vjax.models.fields import suggestion
from vjax.weights.adapt import adapt
from vjax.weights.plan import Adapt
from vjax.weights.report import Report
from vjax.weights.source import Source
from vjax.weights.trees import flatten, unflatten

__all__ = [
    'SOURCES',
    'Adapt',
    'Report',
    'Source',
    'adapt',
    'flatten',
    'read',
    'split_name',
    'unflatten',
]

# Name -> module with `read(path, model) -> Source`.
SOURCES = {
    'scenic': 'vjax.weights.scenic.checkpoint',
    'vit': 'vjax.weights.vit',
    'huggingface': 'vjax.weights.huggingface.folder',
    'videoprism': 'vjax.weights.videoprism',
}


def split_name(name: str) -> tuple[str, str]:
    """'vit:B_16.npz' as ('vit', 'B_16.npz'); ('', name) where it begins with no source.

    Raises:
      UserError: it begins with what looks like a source misspelt.
    """
    source, colon, paths = name.partition(':')
    if colon and source in SOURCES:
        return source, paths
    if colon and suggestion(source, SOURCES) and not Path(name).exists():
        raise UserError(f'{name}: there is no source {source!r}{suggestion(source, SOURCES)}')
    return '', name


def read(name: str, model: Any, input_shape: tuple[int, ...] | None = None) -> Sequence[Source]:
    """What the files hold that 'vit:Ti.npz,S.npz,B.npz' names: usually one, for MTV one for each view.

    Args:
      name: A source, a colon, and one or more paths joined by commas.
      model: The model that is to be loaded, which decides what a file leaves open; for a probe its
        encoder does.
      input_shape: Of one example for it, without batch axis, where the model samples frames.

    Raises:
      UserError: a file is missing, damaged, or not what the source says.
    """
    source, paths = split_name(name)
    model = getattr(model, 'encoder', model)
    samples = getattr(model, 'embedding', '') == 'uniform_frames'
    if samples and input_shape and not model.position_grid:
        # In a file its tokens look like those of an image, if their number is a square.
        model = model.clone(position_grid=model.token_grid(input_shape))
    reader = importlib.import_module(SOURCES[source])
    found = []
    for path in map(Path, paths.split(',')):
        if not path.is_file() and not path.is_dir():
            raise UserError(f'{source}:{path}: there is no such file or folder.')
        found.append(reader.read(path, model))
    return tuple(found)
