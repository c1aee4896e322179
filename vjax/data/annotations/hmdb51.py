"""HMDB51: three folds of 70 training and 30 test videos for each class.

The archive test_train_splits.rar has a file for each class and fold, such as
brush_hair_test_split1.txt, with lines `NAME.avi 1`: 1 is a training video, 2 a test video, and 0 one
that the fold leaves out. Videos are CLASS/NAME.avi. The classes' ids are those of their sorted names.
"""

import os
import re

from vjax.data.annotations import files, tables
from vjax.data.annotations.items import Annotations, Item
from vjax.data.annotations.source import Source
from vjax.errors import UserError

_MARKS = {'train': '1', 'test': '2'}


def read(source: Source) -> Annotations:
    """Reads one split of one fold; see the module.

    Raises:
        UserError: a file is missing or not as the module says, or a video is there twice.
    """
    mark = _MARKS[files.check_split(source.split, _MARKS, source.dataset)]
    classes, lists = set(), {}
    for name in files.names_in(source.annotations):
        if match := re.fullmatch(r'(.+)_test_split(\d)\.txt', name):
            classes.add(match[1])
            if int(match[2]) == source.fold:
                lists[match[1]] = source.annotations / name
    for label in sorted(classes or {'brush_hair'}):
        if label not in lists:
            raise UserError(
                f'{os.fspath(source.annotations)} has no file {label}_test_split{source.fold}.txt.'
            )
    videos, items = files.VideoFiles(source.videos), []
    for label, path in sorted(lists.items()):
        seen = {}
        for where, line in tables.lines(path):
            name, _, given = line.rpartition(' ')
            if not name or given not in ('0', '1', '2'):
                raise UserError(f'{where} is not a video and 0, 1 or 2: {line!r}.')
            name = f'{label}/{name.strip()}'
            tables.check_new(where, name, seen)
            if given == mark:
                path = videos.find(name, prefer=(label,), avoid=lists)
                items.append(Item(name, path, ((label,),)))
    return Annotations(('label',), tuple(items), {'label': tuple(sorted(lists))})
