"""Which parameter of a source becomes which of a model: what plans are made of, and the user's choices."""

import dataclasses
import re
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from vjax.errors import UserError
from vjax.models.fields import check_choice


@dataclasses.dataclass(frozen=True)
class Adapt:
    """How weights are made to fit a model that they were not trained as: `config.adapt`.

    Attributes:
      head: 'keep' takes the classifier along, 'drop' leaves it at its initialisation, and 'auto' takes
        it if its classes are the model's.
      class_token: Whether an image model's class token goes along. Scenic leaves it behind on the way
        to a factorised encoder, though not its place in the position embeddings, which goes along
        wherever both models have one.
      tubelet: How a 2-D kernel becomes one of tubelets (ViViT, section 3.4): 'central_frame', zeros but
        for the frame in the middle; or 'filter_inflation', repeated and divided by the number of frames.
      temporal: What relates frames to each other, which an image model has not. 'paper': a fresh
        temporal encoder in Model 2, and temporal attention in Model 3 that starts as the identity.
        'copy': of the image model's first blocks, or attention. 'fresh': initialised like the rest.
      position_grid: The grid that the source's position embeddings were made for, where their number
        does not tell; () if it does.
      allow: Patterns of names that may be missing from the source, or that the model need not use.
    """

    head: str
    class_token: bool
    tubelet: str
    temporal: str
    position_grid: tuple[int, ...]
    allow: tuple[str, ...]

    def __post_init__(self):
        check_choice('head', self.head, ('auto', 'keep', 'drop'))
        check_choice('tubelet', self.tubelet, ('central_frame', 'filter_inflation'))
        check_choice('temporal', self.temporal, ('paper', 'copy', 'fresh'))
        for pattern in self.allow:
            try:
                re.compile(pattern)
            except re.error as error:
                raise UserError(f'allow: {pattern!r} is no regular expression: {error}') from None


class Take(NamedTuple):
    """Where a parameter of the model comes from.

    Attributes:
      path: The source's parameter.
      source: Which of several sources; MTV has one for each view.
      change: What is done to it; None to take it as it is.
      how: What `change` does, for the report.
      fresh: Whether `change` is given the model's own initialisation too, because part of it stays.
    """

    path: str
    source: int = 0
    change: Callable[..., np.ndarray] | None = None
    how: str = ''
    fresh: bool = False


class Plan(NamedTuple):
    """What is expected of every parameter; the classifier's are not part of it.

    Attributes:
      takes: Path in the model -> where it comes from.
      zeros: Path in the model -> why it starts at zero.
      left: Path in the model -> why it keeps its initialisation.
      unused: (source, path in it) -> why the model has no use for it.
      made: Path in the model -> an array that is computed, and how.
    """

    takes: dict[str, Take]
    zeros: dict[str, str]
    left: dict[str, str]
    unused: dict[tuple[int, str], str]
    made: dict[str, tuple[np.ndarray, str]]

    @classmethod
    def empty(cls) -> 'Plan':
        return cls(*({} for _ in cls._fields))
