"""What a mirrored clip shows: classes that are named after left and right.

Something-Something v2 has "Pulling something from left to right", Jester "Swiping Left" and "Turning
Hand Clockwise"; mirrored, such a clip shows another class, or none of them. The tables are numpy's, made
once per run.
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, Int32

# Whole words, also in camelCase, but neither 'bright' nor 'leftover'.
SIDE = re.compile(
    r'(?<![A-Za-z])(?:left|right)(?![a-z])'
    r'|(?:Left|Right)(?![a-z])'
    r'|(?<![A-Za-z])(?:LEFT|RIGHT)(?![A-Za-z])'
)
# A turn has several opposites (counter-, anti-); such classes are never flipped.
TURN = re.compile('clockwise', re.IGNORECASE)
OTHER = {
    'left': 'right',
    'right': 'left',
    'Left': 'Right',
    'Right': 'Left',
    'LEFT': 'RIGHT',
    'RIGHT': 'LEFT',
}


@dataclasses.dataclass(frozen=True)
class Mirror:
    """What flips do to labels.

    Attributes:
        tables: of each head, the class that each class becomes; -1 where it must not be flipped.
        multi_label: whether a label is multi-hot, not a class of each head.
    """

    tables: tuple[Int32[np.ndarray, '_'], ...]
    multi_label: bool

    def allows(self, label: Int[Array, '_']) -> Bool[Array, '']:
        """Whether the clip of this label may be flipped."""
        if self.multi_label:
            return jnp.all((label == 0) | (self.tables[0] >= 0))
        return jnp.all(self._exchanged(label) >= 0)

    def __call__(self, label: Int[Array, '_']) -> Int[Array, '_']:
        """The label of the flipped clip, where flips are allowed."""
        if self.multi_label:  # Where a class becomes another, that one becomes it.
            places = np.arange(len(self.tables[0]))
            return label[np.where(self.tables[0] >= 0, self.tables[0], places)]
        return self._exchanged(label).astype(label.dtype)

    def _exchanged(self, label):
        return jnp.stack([jnp.asarray(table)[label[i]] for i, table in enumerate(self.tables)])


def find_mirror(
    flip_labels: str, classes: Mapping[str, Sequence[str]], *, multi_label: bool
) -> Mirror | None:
    """What `config.augment.flip_labels` asks for in a data set; None where flips change no label.

    Args:
        flip_labels: 'ignore', 'keep' (clips of classes with a side are not flipped) or 'mirror' (they
            are, and left and right change places in the label, where there is such a class).
        classes: names of each head's classes, in the order of their numbers.
        multi_label: whether labels are multi-hot.
    """
    if flip_labels == 'ignore':
        return None
    tables = tuple(mirrored(names, exchange=flip_labels == 'mirror') for names in classes.values())
    if all(np.array_equal(table, np.arange(len(table))) for table in tables):
        return None
    return Mirror(tables, multi_label)


def mirrored(names: Sequence[str], *, exchange: bool) -> Int32[np.ndarray, '_']:
    """The number of the class that each class becomes in a mirror, -1 where there is none.

    Without `exchange`, classes that become others have none, either.
    """
    numbers = {name: number for number, name in enumerate(names)}
    table = []
    for number, name in enumerate(names):
        other = SIDE.sub(lambda word: OTHER[word.group()], name)
        if TURN.search(name) or (other != name and not exchange):
            table.append(-1)
        else:
            table.append(number if other == name else numbers.get(other, -1))
    return np.asarray(table, np.int32)
