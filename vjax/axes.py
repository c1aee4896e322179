"""Names of the axes of a mesh of devices: what models, data and training split arrays over."""

import math
from collections.abc import Sequence

from jax.sharding import AbstractMesh, Mesh

BATCH_AXES = ('data', 'fsdp')  # The clips of a batch.
TIME_AXIS = 'time'  # The frames of a clip.
TENSOR_AXIS = 'tensor'  # The heads of attention, the hidden units of an MLP.
AXES = (*BATCH_AXES, TIME_AXIS, TENSOR_AXIS)


def present(mesh: Mesh | AbstractMesh, axes: Sequence[str] = BATCH_AXES) -> tuple[str, ...]:
    """Those of the axes that a mesh has."""
    return tuple(axis for axis in axes if axis in mesh.axis_names)


def num_parts(mesh: Mesh | AbstractMesh, axes: Sequence[str] = BATCH_AXES) -> int:
    """How many parts there are of what is split over these axes, as far as a mesh has them."""
    return math.prod(mesh.shape[axis] for axis in present(mesh, axes))
