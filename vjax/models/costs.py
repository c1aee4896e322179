"""What a model costs, counted without allocating it.

The papers' 'GFLOPs' are multiply-adds of one forward pass for one view. XLA counts a multiply-add as
two operations; half its count of the pass before optimisation is the papers' figure to 3-4 digits.
"""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp


def param_shapes(model: nn.Module, input_shape: tuple[int, ...]) -> Any:
    """The parameters' shapes (jax.ShapeDtypeStruct) for examples of the given shape.

    Args:
      model: A model of this package.
      input_shape: Shape of one example without its batch axis, (time, height, width, channels).
    """
    batch = jax.ShapeDtypeStruct((1, *input_shape), jnp.float32)
    return jax.eval_shape(model.init, jax.random.key(0), batch)['params']


def count_params(params: Any) -> int:
    """Number of parameters in a tree of arrays or of their shapes."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))


def gflops(model: nn.Module, input_shape: tuple[int, ...]) -> float:
    """Multiply-adds, in billions, of the forward pass for one example.

    Measured on the unrolled form, because XLA counts the body of a scan once, as lowered for the CPU
    in float32 without remat; nothing is compiled.

    Args:
      model: A model of this package.
      input_shape: Shape of one example without its batch axis, (time, height, width, channels).
    """
    model = model.clone(unroll=True, remat='none', dtype='float32')
    variables = {'params': param_shapes(model, input_shape)}
    batch = jax.ShapeDtypeStruct((1, *input_shape), jnp.float32)
    with jax.default_device(jax.local_devices(backend='cpu')[0]):
        cost = jax.jit(model.apply).lower(variables, batch).cost_analysis()
    return cost['flops'] / 2 / 1e9
