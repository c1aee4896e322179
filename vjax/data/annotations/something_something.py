"""Something-Something V2: short videos of people who do something with something.

labels.json maps each class to its id, {"Approaching something with your camera": "0", ...};
train.json and validation.json are lists of {"id": "78687", "label": "holding potato next to vicks
vaporub bottle", "template": "Holding [something] next to [something]", "placeholders": [...]}. The
class is the template without its brackets. Files of 20BN's release are called
something-something-v2-labels.json and so on. The test list has no labels.

Videos are ID.webm.
"""

from vjax.data.annotations import files, tables
from vjax.data.annotations.items import Annotations, Item
from vjax.data.annotations.source import Source
from vjax.errors import UserError

_PREFIX = 'something-something-v2-'


def _names(*stems: str) -> tuple[str, ...]:
    return tuple(f'{prefix}{stem}.json' for stem in stems for prefix in ('', _PREFIX))


_FILES = {
    'train': _names('train'),
    'validation': _names('validation', 'val'),
}


def read(source: Source) -> Annotations:
    """Reads one split; see the module.

    Raises:
        UserError: a file is missing or not as the module says, or an id is there twice.
    """
    path = files.of_split(source.annotations, source.split, _FILES, source.dataset)
    classes_path = files.beside(source.annotations, _names('labels'))
    classes = _read_classes(classes_path)
    known, videos, items, seen = set(classes), files.VideoFiles(source.videos), [], {}
    fields, hint = ('id', 'template'), 'the test list of Something-Something has no labels'
    for where, number, template in tables.entries(path, fields, missing=hint):
        name, label = str(number), str(template).replace('[', '').replace(']', '').strip()
        tables.check_new(where, name, seen)
        tables.check_class(f'{where} (id {name})', label, known, classes_path.name)
        items.append(Item(name, videos.find(f'{name}.webm'), ((label,),)))
    return Annotations(('label',), tuple(items), {'label': classes})


def _read_classes(path) -> tuple[str, ...]:
    content = files.read_json(path)
    if not isinstance(content, dict):
        raise UserError(f'{path} is not an object of classes and their ids in JSON.')
    classes = []
    for name, number in content.items():
        where = f'{path}, class {name!r}'
        classes.append((where, tables.whole_number(where, 'id', number), name.strip()))
    return tables.in_id_order(path, classes)
