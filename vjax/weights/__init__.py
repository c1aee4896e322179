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
    """'vit:B_16.npz' as ('vit', 'B_16.npz'); ('', name) where it begins with no source."""
    source, colon, paths = name.partition(':')
    return (source, paths) if colon and source in SOURCES else ('', name)


def read(name: str, model: Any) -> Sequence[Source]:
    """What the files hold that 'vit:Ti.npz,S.npz,B.npz' names: usually one, for MTV one for each view.

    Args:
      name: A source, a colon, and one or more paths joined by commas.
      model: The model that is to be loaded; it decides what a file leaves open.

    Raises:
      UserError: a file is missing, damaged, or not what the source says.
    """
    source, paths = split_name(name)
    reader = importlib.import_module(SOURCES[source])
    found = []
    for path in map(Path, paths.split(',')):
        if not path.exists():
            raise UserError(f'{source}:{path}: there is no such file or folder.')
        found.append(reader.read(path, model))
    return tuple(found)
