"""Charades: half a minute at home, with any number of actions at once.

Charades_v1_train.csv and Charades_v1_test.csv name their columns in the first line, of which are used:
id, actions (`c092 11.90 21.20;c147 0.00 12.60`: class, start and end in seconds) and length, the
video's in seconds. Charades_v1_classes.txt has lines `c008 Opening a door`. Videos are ID.mp4.

Videos without actions stay: the official evaluation (Charades_v1_classify.m) counts them as showing none
of the classes. Ends of actions are past that of the video in the official file, too; they are cut to its
length, as the authors advise (github.com/gsig/charades-algorithms/issues/5). An action that begins
where the video has ended is still a label of the video, but holds in no clip; a warning names it.
"""

import logging

from vjax.data.annotations import files, tables
from vjax.data.annotations.items import Annotations, Item
from vjax.data.annotations.source import Source
from vjax.errors import UserError

_FILES = {'train': ('Charades_v1_train.csv',), 'test': ('Charades_v1_test.csv',)}
_COLUMNS = ('id', 'actions', 'length')
_MOST_SHOWN = 5

_log = logging.getLogger(__name__)


def read(source: Source) -> Annotations:
    """Reads one split; see the module.

    Raises:
        UserError: a file is missing or not as the module says, or a video is there twice.
    """
    path = files.of_split(source.annotations, source.split, _FILES, source.dataset)
    classes_path = files.beside(source.annotations, ['Charades_v1_classes.txt'])
    classes = tables.in_id_order(classes_path, _classes(classes_path))
    names = {f'c{i:03d}': name for i, name in enumerate(classes)}
    videos, items, seen, outside = files.VideoFiles(source.videos), [], {}, []
    # Not strict: the scripts have quotes of their own.
    for line, values in tables.columns(path, _COLUMNS, strict=False):
        where = f'{path}, line {line}'
        name, actions, length = (value.strip() for value in values)
        if not name:
            raise UserError(f'{where}: the id is empty.')
        tables.check_new(where, name, seen)
        length = tables.seconds(where, 'length', length)
        labels, spans = [], []
        for action in actions.split(';') if actions else ():
            code, start, end = _action(where, action)
            tables.check_class(where, code, names, classes_path.name)
            if start >= length:
                outside.append(f'line {line}, {action.strip()!r}')
            labels.append(names[code])
            spans.append((min(start, length), min(end, length)))
        found = videos.find(f'{name}.mp4')
        items.append(Item(name, found, (tuple(labels),), spans=tuple(spans)))
    if outside:
        shown = '; '.join(outside[:_MOST_SHOWN]) + ('; ...' if len(outside) > _MOST_SHOWN else '')
        _log.warning(
            '%s: %d actions begin after the end of their videos: %s', path, len(outside), shown
        )
    return Annotations(('label',), tuple(items), {'label': classes}, multi_label=True)


def _action(where: str, action: str) -> tuple[str, float, float]:
    """The class's code, the start and the end of 'c092 11.90 21.20'."""
    parts = action.split()
    if len(parts) != 3:
        raise UserError(f'{where}: {action!r} is not a class, its start and its end.')
    code, start, end = parts
    start = tables.seconds(where, f'start of {code}', start)
    end = tables.seconds(where, f'end of {code}', end)
    tables.check_segment(where, start, end)
    return code, start, end


def _classes(path):
    for where, line in tables.lines(path):
        code, _, name = line.partition(' ')
        yield where, tables.whole_number(where, 'id', code.removeprefix('c')), name.strip()
