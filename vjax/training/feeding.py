"""What of every batch a process reads, and its way to the devices."""

from collections.abc import Mapping

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Int

from vjax.axes import num_parts, present
from vjax.training.sharding import array_sharding


def rows_of_batch(mesh: Mesh, batch_size: int) -> Int[np.ndarray, 'rows']:
    """The places of a batch that this process reads, in order: those that its devices hold.

    They need not lie side by side: a mesh of TPUs follows the wires between the chips, and a host has a
    square of these. Processes whose devices hold parts of the same clips read the same.
    """
    parts = _parts(mesh)
    size = batch_size // num_parts(mesh)
    return (parts[:, None] * size + np.arange(size)).reshape(-1)


def to_devices(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Global arrays over the mesh from each process's `rows_of_batch`; the copy is asynchronous."""
    parts = _parts(mesh)

    def to_device(name, array):
        size = len(array) // len(parts)

        def shard(index):
            rows, *rest = index
            first = np.searchsorted(parts, (rows.start or 0) // size) * size
            return array[(slice(first, first + size), *rest)]

        shape = (num_parts(mesh) * size, *array.shape[1:])
        return jax.make_array_from_callback(shape, array_sharding(mesh, name, array.ndim), shard)

    return {name: to_device(name, array) for name, array in batch.items()}


def _parts(mesh: Mesh) -> Int[np.ndarray, 'parts']:
    """Which of the `num_parts` equal parts of every batch this process's devices hold, in order."""
    where = NamedSharding(mesh, P(present(mesh)))
    slices = where.addressable_devices_indices_map((num_parts(mesh),)).values()
    return np.array(sorted({rows.start or 0 for (rows,) in slices}))
