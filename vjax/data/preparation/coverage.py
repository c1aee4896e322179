"""Which of the annotated videos are there: public data sets lose some every year."""

import collections
import os
import posixpath
from collections.abc import Mapping

from vjax.data.annotations.items import Annotations
from vjax.data.preparation import reports, storage

COVERAGE = 'coverage.csv'
_HEADER = ('split', 'head', 'class', 'annotated', 'present')


def missing(videos: storage.Folder, annotations: Annotations) -> list[str]:
    """Paths of the annotated videos (files, or folders of images) that do not exist, each once, in order.

    Folders are listed once instead of asking for each file, which takes hours on some file systems.
    """
    listed: dict[str, set[str]] = {}

    def exists(path):
        path = storage.joined(videos.path, path)
        # Names in a bucket are no more than names.
        folder, name = (
            posixpath.split(path) if storage.is_url(path) else os.path.split(os.path.normpath(path))
        )
        if folder not in listed:
            listed[folder] = storage.folder(folder or '.').names()
        return name in listed[folder]

    return [path for path in dict.fromkeys(i.path for i in annotations.items) if not exists(path)]


def per_class(
    annotations: Annotations, missing: list[str]
) -> Mapping[tuple[str, str], tuple[int, int]]:
    """(head, class) -> how many of its videos are annotated, and how many of those are missing."""
    gone = set(missing)
    annotated, lost = collections.Counter(), collections.Counter()
    for item in annotations.items:
        for head, labels in zip(annotations.heads, item.labels, strict=True):
            for label in set(labels):
                annotated[head, label] += 1
                lost[head, label] += item.path in gone
    return {key: (annotated[key], lost[key]) for key in sorted(annotated)}


def summary(annotations: Annotations, missing: list[str]) -> str:
    """How many videos are missing, and of which classes most of them, in words."""
    gone = set(missing)
    count = sum(item.path in gone for item in annotations.items)
    worst = sorted(per_class(annotations, missing).items(), key=lambda entry: -entry[1][1])[:3]
    names = ', '.join(f'{name!r} ({lost} of {of})' for (_, name), (of, lost) in worst if lost)
    share = count / len(annotations.items)
    return (
        f'{count:,} of {len(annotations.items):,} annotated videos are missing ({share:.1%}), the '
        f'first is {missing[0]!r}; most of {names}'
    )


def write(out: storage.Folder, split: str, annotations: Annotations, missing: list[str]) -> None:
    """Writes the counts of all classes to coverage.csv, leaving the rows of other splits."""
    rows = [
        [split, head, name, annotated, annotated - lost]
        for (head, name), (annotated, lost) in per_class(annotations, missing).items()
    ]
    reports.replace_rows(out, COVERAGE, _HEADER, split, rows)


def clear(out: storage.Folder, split: str) -> None:
    """Takes the rows of a split out of coverage.csv, if there is one: its videos have come since."""
    if COVERAGE in out.names():
        reports.replace_rows(out, COVERAGE, _HEADER, split, [])
