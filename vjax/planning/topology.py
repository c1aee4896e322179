"""Devices to compile for: slices of TPU pods, which need not be there, or those of this machine."""

import dataclasses
import importlib.util
import math
import os
import re
from collections.abc import Sequence
from typing import Any

import jax
from jax.experimental import topologies

from vjax.devices import PEAK_FLOPS, TPU_TILE, peak_flops
from vjax.errors import UserError

EXAMPLES = 'v5e:4x8, v5p:2x2x4, v6e:4x4'


@dataclasses.dataclass(frozen=True)
class Chip:
    """A kind of chip.

    Attributes:
        name: what Cloud TPU calls it.
        memory: bytes of HBM; None where it is not known.
        peak_flops: bf16 FLOP/s; None where it is not known.
        clock: Hz, in which the compiler counts cycles; None where it is not known.
        interconnect: bytes/s that it sends, and as many that it receives, over all of its links.
        dimensions: of a slice's topology.
        accelerator: the prefix of its accelerator type.
        tile: rows and columns; of an array's last two axes, in any order, whole tiles are stored.
    """

    name: str
    memory: int | None = None
    peak_flops: float | None = None
    clock: float | None = None
    interconnect: float | None = None
    dimensions: int = 0
    accelerator: str = ''
    tile: tuple[int, int] = (1, 1)


# Memory and interconnect (half of the bidirectional one): Cloud TPU's pages of v5e, v5p and v6e
# (docs.cloud.google.com/tpu/docs), whose GB of HBM are GiB. Clocks are the peak over the FLOPs of a
# cycle: on v5e and v5p 4 and 8 MXUs of 128 x 128 by the same pages, hence the 1.50 and 1.75 GHz of part 2
# of 'How to Scale Your Model' (jax-ml.github.io/scaling-book). On v6e 2 ** 19, twice what its page's MXUs
# give: by the compiler's cycles, a product of 4096 x 4096 matrices has 4.6e5 in each.
CHIPS = {
    'v5e': Chip('v5e', 16 * 2**30, PEAK_FLOPS['TPU v5e'], 1.5e9, 200e9, 2, 'v5litepod', TPU_TILE),
    'v5p': Chip('v5p', 95 * 2**30, PEAK_FLOPS['TPU v5p'], 1.75e9, 600e9, 3, 'v5p', TPU_TILE),
    'v6e': Chip('v6e', 32 * 2**30, PEAK_FLOPS['TPU v6e'], 1.75e9, 400e9, 2, 'v6e', TPU_TILE),
}


def find(name: str) -> tuple[Sequence[Any], Chip]:
    """The devices of a topology such as 'v5e:4x8', or those of this machine: 'gpu', 'cpu'.

    Raises:
        UserError: there is no such topology, or what it needs is not installed.
    """
    if name in ('cpu', 'gpu'):
        return _local(name)
    generation, _, extents = name.partition(':')
    chip = CHIPS.get(generation)
    sizes = (
        [int(part) for part in extents.split('x')] if re.fullmatch(r'\d+(x\d+)*', extents) else []
    )
    if chip is None or len(sizes) != chip.dimensions or not all(sizes):
        raise UserError(
            f'--topology={name}: there is no such topology; name a chip ({", ".join(CHIPS)}) and the '
            f"extents of a slice, as in {EXAMPLES}, or 'gpu' or 'cpu' for the devices of this machine."
        )
    if importlib.util.find_spec('libtpu') is None:
        raise UserError(
            f'--topology={name} needs the compiler for TPUs, which is not installed (no TPU is needed): '
            "pip install 'vjax[plan]'."
        )
    # Otherwise libtpu looks for the TPU it runs on, in vain, and says so; or finds another plan at work.
    os.environ.setdefault('ALLOW_MULTIPLE_LIBTPU_LOAD', '1')
    os.environ.setdefault('TPU_SKIP_MDS_QUERY', '1')
    os.environ.setdefault('TPU_ACCELERATOR_TYPE', f'{chip.accelerator}-{math.prod(sizes)}')
    os.environ.setdefault('TPU_WORKER_HOSTNAMES', 'localhost')
    os.environ.setdefault('TPU_WORKER_ID', '0')
    try:
        topology = topologies.get_topology_desc(platform='tpu', topology_name=name)
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f'--topology={name}: the compiler for TPUs has no such slice ({_first_line(error)}); '
            f'others are {EXAMPLES}.'
        ) from None
    return topology.devices, chip


def _local(platform: str) -> tuple[Sequence[Any], Chip]:
    try:
        devices = jax.local_devices(backend=platform)
    except RuntimeError:
        raise UserError(
            f'--topology={platform}: this machine has no {platform} that jax can use; name a slice of '
            f'TPUs instead, as in {EXAMPLES}.'
        ) from None
    statistics = devices[0].memory_stats() or {}
    kind = devices[0].device_kind
    return devices, Chip(kind, statistics.get('bytes_limit'), peak_flops(kind))


def _first_line(error: Exception) -> str:
    return str(error).strip().split('\n')[0].rstrip('.')
