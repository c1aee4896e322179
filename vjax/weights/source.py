"""What every reader of somebody else's checkpoint returns."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np


class Source(NamedTuple):
    """A model that was trained elsewhere, in vjax's terms.

    Attributes:
      name: What the user called it, such as 'vit:B_16.npz'; for sentences.
      model: The vjax model that computes the same; where the file has no classifier, its `num_classes`
        means nothing.
      params: The parameters in vjax's names and layout, 'encoder/norm/scale' -> array. The
        classifier's are missing where the file has none.
      classes: Each head's class names in the order of the logits; None where the file names none.
      untrained: Parameters that are missing because they were never trained, and why.
      unused: What else the file holds, and why it has no place in the model.
      positions: Position embeddings [cells, width] of a grid (height, width), for a model that computes
        them in another way than vjax's: `params` then has no table, and one is made of these.
      multi_label: Whether the file says that its classifier answers for each class by itself (a sigmoid).
    """

    name: str
    model: Any
    params: Mapping[str, np.ndarray]
    classes: Mapping[str, tuple[str, ...]] | None = None
    unused: Mapping[str, str] = {}
    untrained: Mapping[str, str] = {}
    positions: Callable[[tuple[int, int]], np.ndarray] | None = None
    multi_label: bool = False
