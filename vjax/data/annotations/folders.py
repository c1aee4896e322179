"""A folder per class: VIDEOS/SPLIT/CLASS/any/depth/file, or VIDEOS/CLASS/... without splits.

A class is called as its folder. Videos and images (videos of one frame) count, by their extension;
other files and hidden ones do not.
"""

import collections
import logging
import os

from vjax.data.annotations import files
from vjax.data.annotations.items import Annotations, Item
from vjax.data.annotations.source import Source
from vjax.errors import UserError

log = logging.getLogger(__name__)

_EXTENSIONS = files.VIDEO_EXTENSIONS | files.IMAGE_EXTENSIONS


def read(source: Source) -> Annotations:
    """Lists the folders; see the module. `source.annotations` is not used.

    Raises:
        UserError: there are no videos, one is in no class's folder, or there are folders of splits
            but none of this one.
    """
    root = source.videos / source.split
    prefix = f'{source.split}/' if root.is_dir() else ''
    if not prefix:
        root = source.videos
    items, others = [], collections.Counter()
    for folder, folders, names in files.walk(root):
        if not folder and not prefix and (splits := [f for f in folders if files.split_kind(f)]):
            raise UserError(
                f'{os.fspath(root)} has folders of the splits {", ".join(splits)}, but none of '
                f'--split={source.split}.'
            )
        for name in names:
            extension = os.path.splitext(name)[1].lower()
            if extension not in _EXTENSIONS:
                others[extension or name] += 1
                continue
            if not folder:
                raise UserError(
                    f'{os.fspath(root / name)} is in no folder of a class; put it into one called as '
                    f'its class.'
                )
            path = f'{prefix}{folder}{name}'
            if not _is_text(path):
                raise UserError(
                    f'the name of {os.fsencode(os.fspath(root / folder / name))!r} is not UTF-8; rename it.'
                )
            items.append(Item(path, path, ((folder.split('/')[0],),)))
    if not items:
        raise UserError(f'{os.fspath(root)} has no folders with videos, one for each class.')
    if others:
        kinds = ', '.join(f'{count} {kind}' for kind, count in others.most_common(5))
        log.info('left out, as no videos or images by their names: %s', kinds)
    return Annotations(('label',), tuple(sorted(items, key=lambda item: item.path)), None)


def _is_text(path: str) -> bool:
    """Whether all of a path is UTF-8: Python keeps other bytes as surrogates."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True
