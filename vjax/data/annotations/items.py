"""What every annotation format is read into."""

import dataclasses
import math
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True)
class Item:
    """One example: a video file, or a segment of one, and its labels.

    Attributes:
        name: what reports call it, unique in the split: the path, or an id that the format gives.
        path: of the file, relative to the folder of the videos, or absolute.
        labels: for each head its class names; exactly one, unless the data set is multi-label.
        start: seconds of the file at which the segment begins.
        end: seconds of the file before which it ends: the segment is [start, end).
        spans: of a multi-label item, the seconds (of the item) in which each label of the only head
            holds, [start, end); empty where all hold all the time. A label that holds several times
            stands there as often, and one whose span is empty (start == end) holds in no clip.
        fps: frames per second, where `path` is a folder of frames, which do not say it themselves.
    """

    name: str
    path: str
    labels: tuple[tuple[str, ...], ...]
    start: float = 0.0
    end: float = math.inf
    spans: tuple[tuple[float, float], ...] = ()
    fps: float | None = None


@dataclasses.dataclass(frozen=True)
class Annotations:
    """One split of a data set.

    Attributes:
        heads: names of the heads, ('label',) where there is one.
        items: in the order of the annotation file.
        classes: for each head the official class names in the order of their ids, where the format
            has such a list; None where the ids are the places in the sorted labels.
        multi_label: whether an item has any number of labels, of one head.
    """

    heads: tuple[str, ...]
    items: tuple[Item, ...]
    classes: Mapping[str, tuple[str, ...]] | None
    multi_label: bool = False
