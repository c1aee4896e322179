"""Readers of the annotations of public data sets, as their authors publish them.

`read` turns the files of one split into a list of examples (`items.Item`): which file, which seconds of
it, which labels. `FORMATS` has what there is to know of each data set before: where it is to be had, on
which terms, and what the reader is to be given. The formats themselves are described in their modules.
"""

import dataclasses
import difflib
import os
from collections.abc import Callable, Mapping

from etils import epath

from vjax.data.annotations import (
    charades,
    diving48,
    epic_kitchens,
    files,
    folders,
    hmdb51,
    jester,
    kinetics,
    labels_csv,
    moments_in_time,
    something_something,
    ucf101,
)
from vjax.data.annotations.items import Annotations, Item
from vjax.data.annotations.source import Source
from vjax.errors import UserError

__all__ = ['FORMATS', 'Annotations', 'Format', 'Item', 'Source', 'read']


@dataclasses.dataclass(frozen=True)
class Format:
    """A data set, or a format of one's own.

    Attributes:
        name: as in --dataset=NAME.
        title: as its authors write it.
        homepage: where users get the data; empty for one's own.
        licence: remark on what it may be used for, in one sentence; the licence itself counts.
        annotations: what --annotations should be; empty where there is none.
        read: the reader.
        folds: how many partitions into splits there are; 0 where there is one, without a number.
    """

    name: str
    title: str
    homepage: str
    licence: str
    annotations: str
    read: Callable[[Source], Annotations]
    folds: int = 0


def _kinetics(name: str, title: str) -> Format:
    return Format(
        name,
        title,
        'https://github.com/cvdfoundation/kinetics-dataset',
        'The annotations are CC BY 4.0 (Google); the videos are of YouTube and belong to those who '
        'uploaded them.',
        'the CSV of the split, such as annotations/train.csv, or its folder',
        kinetics.read,
    )


_QUALCOMM = (
    "Free for research after agreeing to Qualcomm's data licence; not for commercial use, and not to "
    'be passed on.'
)

FORMATS: Mapping[str, Format] = {
    entry.name: entry
    for entry in (
        Format(
            'csv',
            'a labels file',
            '',
            'Your own.',
            'a CSV with the columns path,label; see vjax/data/annotations/labels_csv.py',
            labels_csv.read,
        ),
        Format('folders', 'a folder per class', '', 'Your own.', '', folders.read),
        _kinetics('kinetics400', 'Kinetics-400'),
        _kinetics('kinetics600', 'Kinetics-600'),
        _kinetics('kinetics700', 'Kinetics-700'),
        _kinetics('kinetics700_2020', 'Kinetics-700-2020'),
        Format(
            'something_something_v2',
            'Something-Something V2',
            'https://www.qualcomm.com/developer/software/something-something-v-2-dataset',
            _QUALCOMM,
            'the folder of labels.json, train.json and validation.json, or one of the lists in it',
            something_something.read,
        ),
        Format(
            'ucf101',
            'UCF101',
            'https://www.crcv.ucf.edu/data/UCF101.php',
            'For research; the clips are of YouTube and belong to those who uploaded them.',
            'the folder ucfTrainTestlist',
            ucf101.read,
            folds=3,
        ),
        Format(
            'hmdb51',
            'HMDB51',
            'https://serre-lab.clps.brown.edu/resource/hmdb-a-large-human-motion-database/',
            'CC BY 4.0; many of the clips are of films, which belong to their makers.',
            'the folder of the files CLASS_test_split1.txt, unpacked from test_train_splits.rar',
            hmdb51.read,
            folds=3,
        ),
        Format(
            'moments_in_time',
            'Moments in Time',
            'http://moments.csail.mit.edu/',
            'For non-commercial research and education, after an application to the authors.',
            'the folder of trainingSet.csv, validationSet.csv and moments_categories.txt',
            moments_in_time.read,
        ),
        Format(
            'epic_kitchens100',
            'EPIC-KITCHENS-100',
            'https://epic-kitchens.github.io/',
            'CC BY-NC 4.0: not for commercial use.',
            'the folder of EPIC_100_train.csv, EPIC_100_validation.csv and the lists of classes',
            epic_kitchens.read,
        ),
        Format(
            'charades',
            'Charades',
            'https://prior.allenai.org/projects/charades',
            'For non-commercial use, on the terms of the license.txt that comes with it.',
            'the folder of Charades_v1_train.csv, Charades_v1_test.csv and Charades_v1_classes.txt',
            charades.read,
        ),
        Format(
            'diving48',
            'Diving48',
            'http://www.svcl.ucsd.edu/projects/resound/dataset.html',
            'For research; the clips are of broadcasts on the web and belong to their makers.',
            'the folder of Diving48_V2_train.json, Diving48_V2_test.json and Diving48_vocab.json',
            diving48.read,
        ),
        Format(
            'jester',
            'Jester',
            'https://www.qualcomm.com/developer/software/jester-dataset',
            _QUALCOMM,
            'the folder of jester-v1-train.csv, jester-v1-validation.csv and jester-v1-labels.csv',
            jester.read,
        ),
    )
}


def read(
    dataset: str,
    annotations: str | os.PathLike,
    videos: str | os.PathLike,
    split: str,
    *,
    fold: int | None = None,
) -> Annotations:
    """Reads the annotations of one split, and looks up where its videos are.

    A video that is nowhere has the path that it should have. Files are not opened, so that a segment
    past the end of its file shows only when it is decoded.

    Args:
        dataset: a key of `FORMATS`.
        annotations: file or folder, on a disk or in a bucket (gs://, s3://); '' where none is needed.
        videos: folder of the videos, likewise.
        split: its name; 'val' and 'training' are understood as well where the data set has lists for
            'train', 'validation' and 'test'.
        fold: 1, 2 or 3 of a data set with folds; else None.

    Raises:
        UserError: an argument is wrong, or the annotations are: the sentence names the file and the
            line, or the number of the entry.
    """
    if dataset not in FORMATS:
        near = difflib.get_close_matches(dataset, FORMATS, n=1, cutoff=0.4)
        hint = f' (did you mean {near[0]!r}?)' if near else ''
        raise UserError(f'--dataset={dataset} is none of {", ".join(FORMATS)}{hint}.')
    entry = FORMATS[dataset]
    if entry.folds and fold not in range(1, entry.folds + 1):
        given = 'is missing' if fold is None else f'{fold} is not one of them'
        raise UserError(f'--fold {given}: {dataset} has the folds 1 to {entry.folds}.')
    if not entry.folds and fold is not None:
        raise UserError(f'--fold={fold}: {dataset} has no folds; leave it out.')
    if entry.annotations and not os.fspath(annotations):
        raise UserError(f'--annotations is missing: {dataset} needs {entry.annotations}.')
    if not entry.annotations and os.fspath(annotations):
        raise UserError(
            f'--annotations={os.fspath(annotations)}: {dataset} has none, its folders are the classes; '
            'leave it out, or leave --dataset out for a CSV.'
        )
    source = Source(dataset, epath.Path(annotations), epath.Path(videos), split, fold)
    if entry.annotations:
        files.check_exists(source.annotations)
    made = entry.read(source)
    if not made.items:
        raise UserError(f'{os.fspath(annotations)} names no videos for --split={split}.')
    return made
