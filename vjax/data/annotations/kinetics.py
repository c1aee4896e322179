"""Kinetics-400, -600, -700 and -700-2020: clips of ten seconds of YouTube videos.

The annotation file is a CSV whose first line names the columns label, youtube_id, time_start, time_end,
split (and is_cc in some releases), in any order; labels that are not public leave out the first. CVDF's
copies of the data have it as annotations/train.csv, val.csv and test.csv.

A clip is a file of its own, ID_000010_000020.mp4 by the seconds in the YouTube video, anywhere in the
folder of the videos: flat, in train/ and val/, in a folder per class. One that is called ID.mp4 is
taken, too, where the list has one clip of this video only.
"""

import collections
import os

from vjax.data.annotations import files, tables
from vjax.data.annotations.items import Annotations, Item
from vjax.data.annotations.source import Source
from vjax.errors import UserError

_COLUMNS = ('label', 'youtube_id', 'time_start', 'time_end', 'split')
_NUM_CLASSES = {
    'kinetics400': 400,
    'kinetics600': 600,
    'kinetics700': 700,
    'kinetics700_2020': 700,
}
# Folders of CVDF's, with whole files for those that are damaged in its archives of Kinetics-400.
_REPLACEMENTS = ('replacement', 'replacement_for_corrupted_k400')


def read(source: Source) -> Annotations:
    """Reads one split; see the module.

    Raises:
        UserError: the file is not as the module says, has no labels, names a clip twice or one of
            another split, or has more classes than the data set.
    """
    kind = files.split_kind(source.split)
    path = os.fspath(_file(source, kind))
    right_splits, rows, seen = {source.split}, [], {}
    if kind is not None:
        right_splits.update(files.SPLIT_NAMES[kind])
    hint = f'some test lists of {source.dataset} have no labels: prepare another split'
    for line, (label, video, start, end, split) in tables.columns(path, _COLUMNS, missing=hint):
        label, video = label.strip(), video.strip()
        if split not in right_splits:
            if (given := split.strip().lower()) not in right_splits:
                raise UserError(
                    f'{path}, line {line}: the clip is of the split {given!r}, not of '
                    f'--split={source.split}.'
                )
            right_splits.add(split)
        if not (
            label and video and start.isdecimal() and end.isdecimal() and len(start + end) < 20
        ):
            _check(path, line, label, video, start, end)
        first, last = int(start), int(end)
        if last <= first:
            tables.check_segment(f'{path}, line {line}', float(first), float(last))
        name = f'{video}_{first:06d}_{last:06d}'
        if (known := seen.setdefault(name, line)) != line:
            raise UserError(f'{path}, line {line}: the clip {name!r} is already in line {known}.')
        rows.append((name, video, label))
    labels = {label: ((label,),) for _, _, label in rows}
    if len(labels) > _NUM_CLASSES[source.dataset]:
        raise UserError(
            f'{path} has {len(labels)} classes, more than --dataset={source.dataset} has.'
        )

    videos = files.VideoFiles(source.videos)
    num_clips = collections.Counter(video for _, video, _ in rows)
    folders = (*_REPLACEMENTS, *files.SPLIT_NAMES.get(kind, ()), source.split)
    items = []
    for name, video, label in rows:
        standard = f'{name}.mp4'
        if not videos.has(name) and num_clips[video] == 1 and videos.has(video):
            standard = f'{video}.mp4'
        prefer = (*folders, label, label.replace(' ', '_'))
        items.append(Item(name, videos.find(standard, prefer=prefer), labels[label]))
    return Annotations(('label',), tuple(items), None)


def _file(source: Source, kind: str | None) -> os.PathLike:
    """The CSV file of a split, or in a folder under one of its names: val.csv, kinetics-600_val.csv."""
    number = source.dataset.removeprefix('kinetics')
    prefixes = ('', *(f'kinetics{dash}{number}_' for dash in ('', '_', '-')))
    names = {
        k: [f'{prefix}{spelling}.csv' for prefix in prefixes for spelling in spellings]
        for k, spellings in files.SPLIT_NAMES.items()
    }
    return files.of_split(source.annotations, source.split, names, source.dataset)


def _check(path: str, line: int, label: str, video: str, start: str, end: str) -> None:
    """The slow way to say what is wrong in a row, if anything is."""
    where = f'{path}, line {line}'
    if not label or not video:
        raise UserError(f'{where}: the {"youtube_id" if label else "label"} is empty.')
    tables.whole_number(where, 'time_start', start)
    tables.whole_number(where, 'time_end', end)
