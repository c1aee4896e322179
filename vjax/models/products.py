"""Matrix products, in the form that the device is fast at."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array


def platform() -> str:
    """What the devices of `jax.set_mesh` are: 'cpu', 'tpu'; '' where nobody has said it."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    return device.platform if device else ''


def single_cpu() -> bool:
    """Whether the mesh of `jax.set_mesh` is one CPU: the program is for it and nothing is sharded."""
    return platform() == 'cpu' and jax.sharding.get_abstract_mesh().size == 1


def einsum_float32(subscripts: str, *arrays: Array) -> Array:
    """`jnp.einsum` whose sums and result are float32, whatever the arrays are."""
    return jnp.einsum(subscripts, *arrays, preferred_element_type=jnp.float32)


def dot_general(
    x: Array, kernel: Array, dimension_numbers: Any, precision: Any = None, **options: Any
) -> Array:
    """`jax.lax.dot_general` of x's last axes with the kernel's first, as Flax's Dense layers ask for it.

    On a CPU the other axes are one meanwhile: the gradient of the kernel is a sum over one axis then, for
    which XLA copies nothing. (Elsewhere merged axes would have to be laid out anew.)
    """
    if not single_cpu():
        return jax.lax.dot_general(x, kernel, dimension_numbers, precision, **options)
    (axes, _), _ = dimension_numbers
    inner = math.prod(x.shape[axis] for axis in axes)
    outer = x.shape[: x.ndim - len(axes)], kernel.shape[len(axes) :]
    product = jax.lax.dot_general(
        x.reshape(-1, inner),
        kernel.reshape(inner, -1),
        (((1,), (0,)), ((), ())),
        precision,
        **options,
    )
    return product.reshape(*outer[0], *outer[1])
