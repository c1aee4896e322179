"""UCF101: three folds of train and test lists, in the folder ucfTrainTestlist.

classInd.txt has lines `1 ApplyEyeMakeup`; trainlist01.txt has lines such as
`ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 1`, testlist01.txt the same without the id. The folder is
the class. The archive's folder, UCF-101, is what --videos names; files may be re-encoded or lie flat.
"""

from vjax.data.annotations import files, tables
from vjax.data.annotations.items import Annotations, Item
from vjax.data.annotations.source import Source
from vjax.errors import UserError


def read(source: Source) -> Annotations:
    """Reads one split of one fold; see the module.

    Raises:
        UserError: a file is missing or not as the module says, or a video is there twice.
    """
    kind = files.check_split(source.split, ('train', 'test'), source.dataset)
    if not source.annotations.is_dir():
        raise UserError(
            f'--annotations={source.annotations} is not the folder of the lists, ucfTrainTestlist.'
        )
    classes_path = files.beside(source.annotations, ['classInd.txt'])
    classes = tables.in_id_order(classes_path, _classes(classes_path), first=1)
    ids = {name: number for number, name in enumerate(classes, 1)}
    path = files.beside(source.annotations, [f'{kind}list{source.fold:02d}.txt'])
    videos, items, seen = files.VideoFiles(source.videos), [], {}
    for where, line in tables.lines(path):
        name, *rest = line.split()
        label, slash, _ = name.partition('/')
        if not slash or len(rest) > 1:
            raise UserError(f'{where} is not CLASS/video.avi, with the id of the class or without.')
        tables.check_class(where, label, ids, classes_path.name)
        if rest and tables.whole_number(where, 'id', rest[0]) != ids[label]:
            raise UserError(
                f'{where}: the id of {label} is {ids[label]} in {classes_path.name}, not {rest[0]}.'
            )
        tables.check_new(where, name, seen)
        items.append(Item(name, videos.find(name, prefer=(label,), avoid=ids), ((label,),)))
    return Annotations(('label',), tuple(items), {'label': classes})


def _classes(path):
    for where, line in tables.lines(path):
        number, _, name = line.partition(' ')
        yield where, tables.whole_number(where, 'id', number), name.strip()
