"""What is known of a kind of device."""

import itertools
import math
from collections.abc import Sequence

# FLOP/s of dense matrix products in bfloat16, by the name that jax gives a kind of device
# (`jax.Device.device_kind`). TPUs: Cloud TPU's pages of v5e, v5p and v6e (docs.cloud.google.com/tpu/docs);
# what jax calls them: jax.experimental.pallas.tpu. NVIDIA's cards: the data sheets of A100, H100 and H200,
# whose figures for H100 and H200 count zeros (sparsity) and are twice these. A card's slice has a name of
# its own (MIG) and is in no table.
PEAK_FLOPS = {
    'TPU v5 lite': 197e12,
    'TPU v5e': 197e12,
    'TPU v5': 459e12,
    'TPU v5p': 459e12,
    'TPU v6 lite': 918e12,
    'TPU v6e': 918e12,
    'NVIDIA A100-SXM4-40GB': 312e12,
    'NVIDIA A100-SXM4-80GB': 312e12,
    'NVIDIA A100-PCIE-40GB': 312e12,
    'NVIDIA A100 80GB PCIe': 312e12,
    'NVIDIA H100 80GB HBM3': 989e12,
    'NVIDIA H100 PCIe': 756e12,
    'NVIDIA H200': 989e12,
}
# Of a TPU: rows and columns, as in the layouts T(8,128) of compiled programs.
TPU_TILE = (8, 128)


def peak_flops(kind: str) -> float | None:
    """bfloat16 FLOP/s of one device of a kind; None where it is not known, as of processors."""
    return PEAK_FLOPS.get(kind)


def tiled_size(shape: Sequence[int], tile: tuple[int, int]) -> int:
    """Elements that an array takes in whole tiles, with those two axes innermost that waste least."""
    rows, columns = tile
    padded = [
        (-(-row // rows) * rows) * (-(-column // columns) * columns) / (row * column)
        for row, column in itertools.permutations(shape, 2)
    ]
    return round(math.prod(shape) * min(padded, default=1))
