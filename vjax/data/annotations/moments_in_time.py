"""Moments in Time: three seconds of an event.

trainingSet.csv and validationSet.csv have no line of names: path (`blocking/getty-...mp4`), label, and
how many annotators agreed and did not. moments_categories.txt has lines `label,id`. Videos are
training/LABEL/... and validation/LABEL/... in the archive.
"""

from vjax.data.annotations import files, tables
from vjax.data.annotations.items import Annotations, Item
from vjax.data.annotations.source import Source
from vjax.errors import UserError

_FILES = {'train': ('trainingSet.csv',), 'validation': ('validationSet.csv',)}
_FOLDERS = {'train': 'training', 'validation': 'validation'}


def read(source: Source) -> Annotations:
    """Reads one split; see the module.

    Raises:
        UserError: a file is missing or not as the module says, or a video is there twice.
    """
    path = files.of_split(source.annotations, source.split, _FILES, source.dataset)
    classes_path = files.beside(source.annotations, ['moments_categories.txt'])
    classes = tables.in_id_order(classes_path, _classes(classes_path))
    known, videos, items, seen = set(classes), files.VideoFiles(source.videos), [], {}
    folder = _FOLDERS.get(files.split_kind(source.split) or '', source.split)
    for line, row in tables.rows(path):
        where = f'{path}, line {line}'
        if len(row) < 2:
            raise UserError(f'{where}: one value instead of path,label and two counts.')
        name, label = row[0].strip(), row[1].strip()
        if not name:
            raise UserError(f'{where}: the path is empty.')
        tables.check_class(where, label, known, classes_path.name)
        tables.check_new(where, name, seen)
        # A YouTube clip may have been cut for several classes; each is a file of its own.
        standard, prefer = f'{folder}/{name}', (folder, *name.split('/')[:-1])
        found = videos.find(standard, prefer=prefer, avoid=known)
        items.append(Item(name, found, ((label,),)))
    return Annotations(('label',), tuple(items), {'label': classes})


def _classes(path):
    for where, line in tables.lines(path):
        name, _, number = line.rpartition(',')
        yield where, tables.whole_number(where, 'id', number), name.strip()
