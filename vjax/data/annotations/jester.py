"""Jester: hand gestures in front of a webcam.

jester-v1-train.csv and jester-v1-validation.csv have lines `ID;label`; jester-v1-labels.csv has the
classes, one per line, in the order of their ids. The test list has ids only.

A video is a folder ID of JPEG frames, 00001.jpg and on, at 12 frames per second, or a file ID.webm or
ID.mp4 made of them.
"""

from vjax.data.annotations import files, tables
from vjax.data.annotations.items import Annotations, Item
from vjax.data.annotations.source import Source
from vjax.errors import UserError

FRAMES_PER_SECOND = 12.0
_FILES = {split: (f'jester-v1-{split}.csv',) for split in ('train', 'validation')}


def read(source: Source) -> Annotations:
    """Reads one split; see the module. The path of an item may be a folder of frames.

    Raises:
        UserError: a file is missing or not as the module says, or an id is there twice.
    """
    path = files.of_split(source.annotations, source.split, _FILES, source.dataset)
    classes_path = files.beside(source.annotations, ['jester-v1-labels.csv'])
    numbered = enumerate(tables.lines(classes_path))
    classes = tables.in_id_order(classes_path, ((where, i, name) for i, (where, name) in numbered))
    # Five million frames are not listed: their folders are called by numbers.
    videos = files.VideoFiles(source.videos, is_frames=str.isdecimal)
    known, items, seen = set(classes), [], {}
    for line, row in tables.rows(path, delimiter=';'):
        where = f'{path}, line {line}'
        if len(row) != 2:
            hint = '; the test list of Jester has no labels' if len(row) == 1 else ''
            raise UserError(f'{where}: {len(row)} values instead of two, id;label{hint}.')
        name, label = row[0].strip(), row[1].strip()
        if not name:
            raise UserError(f'{where}: the id is empty.')
        tables.check_class(where, label, known, classes_path.name)
        tables.check_new(where, name, seen)
        items.append(Item(name, videos.find(name), ((label,),), fps=FRAMES_PER_SECOND))
    return Annotations(('label',), tuple(items), {'label': classes})
