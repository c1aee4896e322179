"""What a reader is asked for."""

import dataclasses

from etils import epath


@dataclasses.dataclass(frozen=True)
class Source:
    """One split of a data set, and where it is.

    Attributes:
        dataset: its name, a key of `vjax.data.annotations.FORMATS`.
        annotations: file or folder; see each format.
        videos: folder of the videos.
        split: its name.
        fold: of a data set that has several partitions into splits, counted from 1; else None.
    """

    dataset: str
    annotations: epath.Path
    videos: epath.Path
    split: str
    fold: int | None = None
