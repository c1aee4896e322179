"""Plans of a config with other batches, meshes, remat policies and microbatches, the best first."""

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import ml_collections

from vjax.axes import BATCH_AXES
from vjax.models.scan import REMAT_POLICIES

FACTORS = (0.5, 1, 2)
PIECES = (2, 4, 8)


def variations(config: ml_collections.ConfigDict, num_chips: int) -> Iterator[list[str]]:
    """Overrides '--config.KEY=VALUE' of each plan of a sweep, that of a config as it is first.

    Batches of half, the same and twice the size; parameters whole on each chip, split over all of them,
    or over all with two or four chips for each of the parts of a layer; each remat policy.
    """
    sizes = [int(config.batch_size * factor) for factor in FACTORS]
    policies = ('none', *REMAT_POLICIES) if 'remat' in config.model else (None,)
    yield []
    for size, mesh, policy in itertools.product(sizes, _meshes(num_chips), policies):
        remat = [f'--config.model.remat={policy}'] if policy else []
        yield [f'--config.batch_size={size}', *mesh, *remat]


def _meshes(num_chips: int) -> list[list[str]]:
    def mesh(preset, fsdp, tensor):
        axes = {'data': -1, 'fsdp': fsdp, 'time': 1, 'tensor': tensor}
        sizes = [f'--config.sharding.mesh.{axis}={size}' for axis, size in axes.items()]
        return [*sizes, f'--config.sharding.preset={preset}']

    meshes = [mesh('replicated', 1, 1)]
    if num_chips > 1:
        meshes.append(mesh('fsdp', num_chips, 1))
    meshes += [
        mesh('fsdp+tensor', num_chips // tensor, tensor)
        for tensor in (2, 4)
        if num_chips % tensor == 0 and num_chips > tensor
    ]
    return meshes


def in_microbatches(results: Sequence[dict[str, Any]]) -> Iterator[list[str]]:
    """Overrides of the best plan of each batch, in two, four and eight times as many microbatches.

    Only those in which every device has an example of each. What a layer of a large batch makes does not
    fit in a TPU's vector memory, where the next would find it (`experiments/throughput`).

    Args:
        results: plans of `variations`, with their `overrides`.
    """
    for size in sorted({result['batch_size'] for result in results}):
        best, *_ = rank([result for result in results if result['batch_size'] == size])
        splits = math.prod(best['mesh'].get(axis, 1) for axis in BATCH_AXES)
        for pieces in (best['accumulate'] * factor for factor in PIECES):
            if size % (pieces * splits) == 0:
                yield [*best['overrides'], f'--config.accumulate={pieces}']


def rank(results: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """What fits before what does not, then by clips per second, then by the memory needed."""
    return sorted(
        results,
        key=lambda result: (
            result['memory']['fits'] is False,
            -(result['clips_per_second'] or 0),
            result['memory']['peak'],
        ),
    )
