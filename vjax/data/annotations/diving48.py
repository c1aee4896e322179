"""Diving48: competitive dives, in 48 classes of take-off, somersaults, twists and position.

Diving48_V2_train.json and Diving48_V2_test.json (the first release without the V2) are lists of
{"vid_name": "_8Vy3dlHg2w_00000", "label": 12, "start_frame": 0, "end_frame": 72}; Diving48_vocab.json is
the list of the classes in the order of their ids, each a list of its four parts, which are joined with
spaces here. Videos are VID_NAME.mp4 and are the dive: the frames are those of the whole file.
"""

from vjax.data.annotations import files, tables
from vjax.data.annotations.items import Annotations, Item
from vjax.data.annotations.source import Source
from vjax.errors import UserError

_FILES = {
    split: tuple(f'Diving48_{version}{split}.json' for version in ('V2_', ''))
    for split in ('train', 'test')
}
_FIELDS = ('vid_name', 'label', 'start_frame', 'end_frame')


def read(source: Source) -> Annotations:
    """Reads one split; see the module.

    Raises:
        UserError: a file is missing or not as the module says, or a video is there twice.
    """
    path = files.of_split(source.annotations, source.split, _FILES, source.dataset)
    classes_path = files.beside(source.annotations, ['Diving48_vocab.json'])
    classes = _read_classes(classes_path)
    videos, items, seen = files.VideoFiles(source.videos), [], {}
    for where, name, label, start, end in tables.entries(path, _FIELDS):
        name = str(name)
        tables.check_new(where, name, seen)
        where = f'{where} ({name})'
        number = tables.whole_number(where, 'label', label)
        if number >= len(classes):
            raise UserError(f'{where}: there is no class {number} in {classes_path.name}.')
        start = tables.whole_number(where, 'start_frame', start)
        end = tables.whole_number(where, 'end_frame', end)
        if end <= start:
            raise UserError(f'{where}: end_frame={end} is not after start_frame={start}.')
        items.append(Item(name, videos.find(f'{name}.mp4'), ((classes[number],),)))
    return Annotations(('label',), tuple(items), {'label': classes})


def _read_classes(path) -> tuple[str, ...]:
    content = files.read_json(path)
    if not isinstance(content, list):
        raise UserError(f'{path} is not a list of classes in JSON.')
    classes = []
    for number, parts in enumerate(content):
        where = f'{path}, class {number}'
        if not isinstance(parts, list) or not all(isinstance(part, str) for part in parts):
            raise UserError(f'{where} is not a list of its parts, such as "Back", "15som".')
        classes.append((where, number, ' '.join(parts)))
    return tables.in_id_order(path, classes)
