"""What is wrong with a compiled step: arrays, or work, that every chip has and few should have."""

import math

import jax

from vjax.axes import TENSOR_AXIS, num_parts
from vjax.planning import hlo
from vjax.planning.compiled import Compiled
from vjax.training.rules import path_name

LARGE = 2**20  # Bytes below which an array may be anywhere.
SLACK = 1.25  # More than this times what is necessary is worth a word, if it is much, too:
MUCH_MEMORY = 2**28  # bytes
MUCH_WORK = 1e10  # FLOPs


def replicated_parameters(compiled: Compiled) -> list[str]:
    """A sentence if large parameters are whole on every chip, and the mesh could split them."""
    axes = [axis for axis in ('fsdp', TENSOR_AXIS) if compiled.mesh.shape.get(axis, 1) > 1]
    whole = [
        path_name(path)
        for path, leaf in jax.tree_util.tree_leaves_with_path(compiled.assembly.abstract.params)
        if axes
        and leaf.sharding.is_fully_replicated
        and math.prod(leaf.shape) * leaf.dtype.itemsize > LARGE
    ]
    if not whole:
        return []
    return [
        f'{len(whole)} parameters of more than 1 MiB are whole on every chip, although the mesh has '
        f'{" and ".join(axes)}: {_some(whole)}; set config.sharding.preset or config.sharding.parameters.'
    ]


def gathered_activations(compiled: Compiled, program: hlo.Program) -> list[str]:
    """A sentence if arrays that are no parameters are gathered on chips.

    A gathered parameter has the elements of one, or of one layer of it, whatever its shape by then. A
    product of tokens and a split parameter gathers the smaller of the two: so tokens that are smaller
    than the largest parameter of a layer are as they should be.
    """
    tensor = compiled.mesh.shape.get(TENSOR_AXIS, 1)
    known, largest = set(), 0
    for leaf in jax.tree.leaves(compiled.assembly.abstract.params):
        of_a_layer = leaf.size // leaf.shape[0] if leaf.shape else 1
        known.update(size // part for size in (leaf.size, of_a_layer) for part in {1, tensor})
        if not leaf.sharding.is_fully_replicated:
            largest = max(largest, of_a_layer)
    found: dict[str, int] = {}
    for kind, one in hlo.each_collective(program):
        if kind != 'all-gather':
            continue
        for shape in one.shapes:
            if shape.bytes > LARGE and shape.size > largest and shape.size not in known:
                name = f'{shape.dtype}[{",".join(map(str, shape.dims))}]'
                found[name] = found.get(name, 0) + one.count
    if not found:
        return []
    named = [f'{name} ({count} x a step)' for name, count in found.items()]
    return [f'arrays that are no parameters are gathered on chips: {_some(named)}.']


def repeated_work(compiled: Compiled, flops: int, necessary: float) -> list[str]:
    """A sentence if a chip computes much more than its share."""
    if flops <= SLACK * necessary or flops - necessary < MUCH_WORK:
        return []
    batch = num_parts(compiled.mesh)
    return [
        f'each chip computes {flops / necessary:.1f} times its share of the model: some of it is '
        f'repeated on several chips (the batch is split over {batch} of {compiled.mesh.size}).'
    ]


def too_much_memory(peak: int, necessary: int) -> list[str]:
    """A sentence if the peak is much above what must be there."""
    if peak <= SLACK * necessary or peak - necessary < MUCH_MEMORY:
        return []
    return [
        f'the peak is {peak / necessary:.2f} times the state, the gradients and the activations that the '
        'backward pass needs.'
    ]


def _some(names: list[str]) -> str:
    return ', '.join(names[:3]) + ', ...' * (len(names) > 3)
