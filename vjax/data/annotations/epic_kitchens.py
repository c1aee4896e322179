"""EPIC-KITCHENS-100: actions, each a verb and a noun, in long videos of people in their kitchens.

EPIC_100_train.csv and EPIC_100_validation.csv name their columns in the first line, of which are used:
narration_id, participant_id, video_id, start_timestamp and stop_timestamp (00:00:03.37), verb_class and
noun_class (ids). EPIC_100_verb_classes.csv and EPIC_100_noun_classes.csv (or ..._v2.csv) have the 97
verbs and 300 nouns: id, key, instances, category. The list of the test videos has no classes.

Heads are noun and verb, in the order in which ViViT's EPIC-Kitchens models have their classes. Videos
are P01/videos/P01_01.MP4.
"""

import re

from vjax.data.annotations import files, tables
from vjax.data.annotations.items import Annotations, Item
from vjax.data.annotations.source import Source
from vjax.errors import UserError

_FILES = {'train': ('EPIC_100_train.csv',), 'validation': ('EPIC_100_validation.csv',)}
_COLUMNS = (
    *('narration_id', 'participant_id', 'video_id', 'start_timestamp', 'stop_timestamp'),
    *('noun_class', 'verb_class'),
)
_HEADS = ('noun', 'verb')


def read(source: Source) -> Annotations:
    """Reads one split; see the module.

    Raises:
        UserError: a file is missing or not as the module says, or a narration is there twice.
    """
    path = files.of_split(source.annotations, source.split, _FILES, source.dataset)
    lists, classes = {}, {}
    for head in _HEADS:
        names = [f'EPIC_100_{head}_classes{suffix}.csv' for suffix in ('', '_v2')]
        lists[head] = files.beside(source.annotations, names)
        classes[head] = tables.in_id_order(lists[head], _classes(lists[head]))
    videos, items, seen = files.VideoFiles(source.videos), [], {}
    hint = 'the test list of EPIC-KITCHENS-100 has no classes'
    for line, values in tables.columns(path, _COLUMNS, missing=hint):
        where = f'{path}, line {line}'
        name, participant, video, start, stop, *ids = (value.strip() for value in values)
        if not (name and participant and video):
            raise UserError(f'{where}: the narration_id, participant_id or video_id is empty.')
        tables.check_new(where, name, seen)
        start = _seconds(where, 'start_timestamp', start)
        stop = _seconds(where, 'stop_timestamp', stop)
        tables.check_segment(where, start, stop)
        labels = []
        for head, value in zip(_HEADS, ids, strict=True):
            number = tables.whole_number(where, f'{head}_class', value)
            if number >= len(classes[head]):
                raise UserError(
                    f'{where}: there is no {head}_class {number} in {lists[head].name}.'
                )
            labels.append((classes[head][number],))
        found = videos.find(f'{participant}/videos/{video}.MP4')
        items.append(Item(name, found, tuple(labels), start, stop))
    return Annotations(_HEADS, tuple(items), classes)


def _classes(path):
    for line, (number, name) in tables.columns(path, ('id', 'key')):
        where = f'{path}, line {line}'
        yield where, tables.whole_number(where, 'id', number), name.strip()


def _seconds(where: str, name: str, value: str) -> float:
    """Seconds of HH:mm:ss.SS."""
    match = re.fullmatch(r'(\d+):([0-5]\d):([0-5]\d(?:\.\d+)?)', value, re.ASCII)
    if not match:
        raise UserError(f'{where}: {name}={value!r} is not a time as in 00:00:03.37.')
    hours, minutes, seconds = match.groups()
    # Rounded: 3600 + 0.07 is not the float that is nearest to 3600.07.
    return round(3600 * int(hours) + 60 * int(minutes) + float(seconds), 6)
