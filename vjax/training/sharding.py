"""Where arrays live: a mesh with named axes, and rules from parameter paths to partition specs."""

import math
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import optax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from vjax.errors import UserError
from vjax.training import rules


def make_mesh(axes: Mapping[str, int]) -> Mesh:
    """A mesh over all devices with the named axes; one size may be -1: what the others leave.

    The first axis, `data`, is the one that batches are split over.

    Raises:
        UserError: the sizes do not multiply to the number of devices.
    """
    sizes = dict(axes)
    num_devices = jax.device_count()
    open_axes = [name for name, size in sizes.items() if size == -1]
    fixed = math.prod(size for size in sizes.values() if size != -1)
    if len(open_axes) == 1 and fixed > 0 and num_devices % fixed == 0:
        sizes[open_axes[0]] = num_devices // fixed
    if 'data' not in sizes or math.prod(sizes.values()) != num_devices:
        raise UserError(
            f'config.sharding.mesh={dict(axes)} does not fit {num_devices} devices; it needs an axis '
            f"'data', sizes that multiply to {num_devices}, and at most one -1."
        )
    # Explicit axes are jax's default by now, but Flax Linen's layers need Auto.
    return jax.make_mesh(
        tuple(sizes.values()), tuple(sizes), axis_types=(AxisType.Auto,) * len(sizes)
    )


def check_batch(mesh: Mesh, batch_size: int, microbatches: int, key: str) -> None:
    """Refuses a batch that the devices cannot share evenly.

    Raises:
        UserError: naming the `key` that the batch size was set by.
    """
    share = mesh.shape['data'] * microbatches
    if batch_size % share:
        parts = f'{mesh.shape["data"]} devices' + f' x {microbatches} microbatches' * (
            microbatches > 1
        )
        raise UserError(
            f'{key}={batch_size} cannot be shared evenly by {parts}; make it a multiple of {share}.'
        )


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Arrays split on their leading axis."""
    return NamedSharding(mesh, P('data'))


def replicated(mesh: Mesh) -> NamedSharding:
    """Arrays whole on every device."""
    return NamedSharding(mesh, P())


def parameter_shardings(mesh: Mesh, parameter_rules: rules.Rules, params: Any) -> Any:
    """The tree of NamedShardings that `config.sharding.parameters` gives to `params`.

    A rule's value is a partition spec as a tuple of axis names, one for each dimension, '' for a
    dimension that is not split; or `fsdp(axis)` to split the largest dimension the axis divides.

    Raises:
        UserError: from `rules.match`, or where a spec does not fit the mesh or a parameter's shape.
    """

    def sharding(path, leaf, value):
        name = rules.path_name(path)
        if isinstance(value, str) and value.startswith('fsdp(') and value.endswith(')'):
            spec = _fsdp_spec(leaf.shape, value[len('fsdp(') : -1], mesh)
        elif isinstance(value, str):
            raise UserError(
                f"config.sharding.parameters: '{value}' is neither a tuple of axis names nor "
                f"'fsdp(axis)'."
            )
        else:
            spec = [axis or None for axis in value]
        for axis in filter(None, spec):
            if axis not in mesh.shape:
                raise UserError(
                    f"config.sharding.parameters: the mesh has no axis '{axis}', only "
                    f'{list(mesh.shape)}.'
                )
        splits = [mesh.shape[axis] if axis else 1 for axis in spec]
        if len(spec) > leaf.ndim or any(n % k for n, k in zip(leaf.shape, splits, strict=False)):
            raise UserError(
                f"config.sharding.parameters: {tuple(value)} does not split '{name}' of shape "
                f'{leaf.shape} evenly over the mesh {dict(mesh.shape)}.'
            )
        return NamedSharding(mesh, P(*spec))

    values = rules.match(parameter_rules, params, 'sharding.parameters')
    # A value may be a tuple, hence not a leaf: walk the parameters and look their values up.
    return jax.tree_util.tree_map_with_path(sharding, params, values)


def _fsdp_spec(shape: tuple[int, ...], axis: str, mesh: Mesh) -> list[str | None]:
    size = mesh.shape.get(axis, 1)
    candidates = [i for i, n in enumerate(shape) if n % size == 0 and n >= size]
    spec: list[str | None] = [None] * len(shape)
    if candidates and (size > 1 or axis not in mesh.shape):
        spec[max(candidates, key=lambda i: shape[i])] = axis
    return spec


def optimizer_shardings(
    mesh: Mesh, tx: optax.GradientTransformation, opt_state: Any, param_shardings: Any
) -> Any:
    """Shardings of an optimiser's state: moments like their parameters, everything else replicated."""
    return optax.tree_map_params(
        tx,
        # Frozen parameters have no moments, but a place where theirs would be.
        lambda leaf, sharding: leaf if isinstance(leaf, optax.MaskedNode) else sharding,
        opt_state,
        param_shardings,
        transform_non_params=lambda _: replicated(mesh),
        is_leaf=lambda leaf: isinstance(leaf, optax.MaskedNode),
    )


def to_devices(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Global arrays over the mesh from each process's slice of a batch; the copy is asynchronous."""
    sharding = batch_sharding(mesh)
    return {
        name: jax.make_array_from_process_local_data(sharding, array)
        for name, array in batch.items()
    }
