"""Where arrays live: a mesh with named axes, and rules from parameter paths to partition specs.

The axes are `data` and `fsdp`, over which the clips of a batch are split, `time`, over which the frames of
a clip are, and `tensor`, over which heads and hidden units are. Parameters and what an optimiser keeps of
them may be split over `fsdp` (ZeRO, arXiv 1910.02054) and `tensor` (Megatron, arXiv 1909.08053).
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import optax
from jax.experimental import mesh_utils
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from vjax.axes import AXES, TIME_AXIS, num_parts, present
from vjax.errors import UserError
from vjax.training import rules

# Rules for the parameters of all models, by name; '...' stands for axes that are not split.
_FSDP = (('.*', 'fsdp(fsdp)'),)
PRESETS: dict[str, rules.Rules] = {
    'replicated': (('.*', ()),),
    'fsdp': _FSDP,
    'fsdp+tensor': (
        # Every head, and every hidden unit, whole on one device: one sum after each pair of products.
        (r'(.*/)?(query|key|value)/kernel', ('...', 'fsdp', 'tensor', '')),
        (r'(.*/)?(query|key|value)/bias', ('...', 'tensor', '')),
        (r'(.*/)?out/kernel', ('...', 'tensor', '', 'fsdp')),
        (r'(.*/)?up/kernel', ('...', 'fsdp', 'tensor')),
        (r'(.*/)?up/bias', ('...', 'tensor')),
        (r'(.*/)?down/kernel', ('...', 'tensor', 'fsdp')),
        *_FSDP,
    ),
}


def make_mesh(axes: Mapping[str, int], devices: Sequence[Any] | None = None) -> Mesh:
    """A mesh over all devices with the named axes; one size may be -1: what the others leave.

    Args:
        axes: name -> size.
        devices: other devices than this program's, to compile for.

    Raises:
        UserError: from `mesh_sizes`, or the devices are those of several slices of TPUs.
    """
    devices = jax.devices() if devices is None else devices
    sizes = mesh_sizes(axes, len(devices))
    if devices[0].platform == 'tpu' and len({getattr(d, 'slice_index', 0) for d in devices}) > 1:
        raise UserError(
            'these TPUs are several slices, and a run takes one; give each a run of its own.'
        )
    # As jax.make_mesh does, which on some chips refuses a mesh that splits one of the torus's axes.
    grid = mesh_utils.create_device_mesh(
        tuple(sizes.values()), devices, allow_split_physical_axes=True
    )
    # Explicit axes are jax's default by now, but Flax Linen's layers need Auto.
    return Mesh(grid, tuple(sizes), axis_types=(AxisType.Auto,) * len(sizes))


def mesh_sizes(axes: Mapping[str, int], num_devices: int) -> dict[str, int]:
    """The sizes of the axes of a mesh, by name, with -1 replaced by what the others leave.

    Raises:
        UserError: an axis has another name, or the sizes do not multiply to the number of devices.
    """
    sizes = dict(axes)
    for name in sizes:
        if name not in AXES:
            raise UserError(f'config.sharding.mesh.{name}: the axes are {", ".join(AXES)}.')
    open_axes = [name for name, size in sizes.items() if size == -1]
    fixed = math.prod(size for size in sizes.values() if size != -1)
    if len(open_axes) == 1 and fixed > 0 and num_devices % fixed == 0:
        sizes[open_axes[0]] = num_devices // fixed
    wrong = min(sizes.values(), default=0) < 1 or math.prod(sizes.values()) != num_devices
    if 'data' not in sizes or wrong:
        raise UserError(
            f'config.sharding.mesh={dict(axes)} does not fit; it needs an axis '
            f"'data', sizes that multiply to {num_devices}, the number of devices, and at most one -1."
        )
    return sizes


def check_batch(mesh: Mesh | AbstractMesh, batch_size: int, microbatches: int, key: str) -> None:
    """Refuses a batch that the devices cannot share evenly.

    Raises:
        UserError: naming the `key` that the batch size was set by.
    """
    splits = num_parts(mesh)
    share = splits * microbatches
    if batch_size < 1 or batch_size % share:
        parts = f'{splits} devices' + f' x {microbatches} microbatches' * (microbatches > 1)
        raise UserError(
            f'{key}={batch_size} cannot be shared evenly by {parts}; make it a multiple of {share}.'
        )


def check_time(mesh: Mesh, model: Any, clip_shape: tuple[int, ...]) -> None:
    """Refuses to split the frames of a clip for a model that cannot work on them apart.

    Raises:
        UserError: the mesh has an axis `time` of more than one device, and the model is no factorised
            encoder or has a number of frames, before or after embedding, that the axis does not divide.
    """
    size = mesh.shape.get(TIME_AXIS, 1)
    if size == 1:
        return
    if getattr(model, 'attention', None) not in ('factorised_encoder', 'average_pool'):
        raise UserError(
            f'config.sharding.mesh.time={size} splits the frames of a clip, which only a factorised '
            f"encoder has apart (config.model.attention='factorised_encoder'); make it 1."
        )
    for frames, where in (
        (clip_shape[0], 'of a clip'),
        (model.token_grid(clip_shape)[0], 'that there are after the embedding'),
    ):
        if frames % size:
            raise UserError(
                f'config.sharding.mesh.time={size} does not divide the {frames} frames {where}.'
            )


def replicated(mesh: Mesh) -> NamedSharding:
    """Arrays whole on every device."""
    return NamedSharding(mesh, P())


def parameter_shardings(
    mesh: Mesh, parameter_rules: rules.Rules, params: Any, preset: str = 'replicated'
) -> Any:
    """The tree of NamedShardings that `config.sharding` gives to `params`.

    A rule's value is a partition spec as a tuple of axis names, one for each dimension, '' for a
    dimension that is not split and '...' for any number of them; or `fsdp(axis)` to split the largest
    dimension the axis divides.

    Args:
        mesh: where to.
        parameter_rules: `config.sharding.parameters`.
        params: shapes are enough.
        preset: which of `PRESETS` holds for parameters that have no rule.

    Raises:
        UserError: from `rules.match`, or where a spec does not fit the mesh or a parameter's shape.
    """
    if preset not in PRESETS:
        raise UserError(
            f"config.sharding.preset='{preset}' is not one of {', '.join(map(repr, PRESETS))}."
        )

    def sharding(path, leaf, value):
        name = rules.path_name(path)
        if isinstance(value, str) and (fsdp := re.fullmatch(r'fsdp\((\w+)\)', value)):
            spec = _fsdp_spec(leaf.shape, fsdp[1], mesh)
        elif isinstance(value, str):
            raise UserError(
                f"config.sharding.parameters: '{value}' is neither a tuple of axis names nor "
                f"'fsdp(axis)'."
            )
        else:
            spec = _explicit_spec(leaf.ndim, value)
        for axis in filter(None, spec):
            if axis not in mesh.shape:
                raise UserError(
                    f"config.sharding: parameters are to be split over '{axis}', but the mesh has only "
                    f'{list(mesh.shape)}; set config.sharding.mesh.{axis}.'
                )
        axes = [axis for axis in spec if axis]
        if len(set(axes)) < len(axes):
            raise UserError(
                f"config.sharding: {tuple(value)} splits two dimensions of '{name}' over one axis."
            )
        splits = [mesh.shape[axis] if axis else 1 for axis in spec]
        if len(spec) > leaf.ndim or any(n % k for n, k in zip(leaf.shape, splits, strict=False)):
            raise UserError(
                f"config.sharding: {tuple(value)} does not split '{name}' of shape "
                f'{leaf.shape} evenly over the mesh {dict(mesh.shape)}.'
            )
        return NamedSharding(mesh, P(*spec))

    values = rules.match(parameter_rules, params, 'sharding.parameters', PRESETS[preset])
    # A value may be a tuple, hence not a leaf: walk the parameters and look their values up.
    return jax.tree_util.tree_map_with_path(sharding, params, values)


def _explicit_spec(ndim: int, value: Sequence[str]) -> list[str | None]:
    spec = [axis or None for axis in value]
    if '...' in spec:
        i = spec.index('...')
        spec[i : i + 1] = [None] * max(0, ndim - len(spec) + 1)
        if '...' in spec:
            raise UserError(f"config.sharding: {tuple(value)} has more than one '...'.")
    return spec


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


def array_sharding(mesh: Mesh, name: str, ndim: int) -> NamedSharding:
    """Where the array `name` of a batch lives: frames are split over `time` where the mesh has it."""
    spec = [present(mesh)]
    if name == 'video' and TIME_AXIS in mesh.shape:
        spec += [None] * (ndim - 5) + [TIME_AXIS]  # After the views, in evaluation.
    return NamedSharding(mesh, P(*spec))
