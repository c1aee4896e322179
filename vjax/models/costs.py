"""What a model costs, counted without allocating it.

The papers' 'GFLOPs' are multiply-adds of one forward pass for one view. XLA counts a multiply-add as
two operations; half its count of the pass before optimisation is the papers' figure to 3-4 digits.
"""

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.extend
import jax.numpy as jnp

from vjax.models.probe import AttentiveProbe


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
    model = _with(model, unroll=True, remat='none', dtype='float32')
    variables = {'params': param_shapes(model, input_shape)}
    batch = jax.ShapeDtypeStruct((1, *input_shape), jnp.float32)
    with jax.default_device(jax.local_devices(backend='cpu')[0]):
        cost = jax.jit(model.apply).lower(variables, batch).cost_analysis()
    return cost['flops'] / 2 / 1e9


def _with(model: nn.Module, **fields: Any) -> nn.Module:
    """The model with other fields, its encoder too where that is a model by itself."""
    nested = {
        name: _with(value, **fields)
        for name, value in vars(model).items()
        if isinstance(value, nn.Module) and name != 'parent'
    }
    return model.clone(**fields, **nested)


def matrix_products(model: nn.Module, input_shape: tuple[int, ...]) -> int:
    """Multiply-adds of the forward pass's matrix products alone, exactly, for one example.

    What complexity formulas count: without norms, softmax, activations and sums.

    Args:
      model: A model of this package.
      input_shape: Shape of one example without its batch axis, (time, height, width, channels).
    """
    return _products(model.apply, param_shapes(model, input_shape), input_shape)


def training_flops(model: nn.Module, input_shape: tuple[int, ...], trains: Any = None) -> int:
    """FLOPs that a training step owes to one example: what an MFU counts.

    As in PaLM (arXiv 2204.02311, appendix B): those of the forward pass's matrix products, and twice as
    many for the backward pass; what remat computes again does not count. Where parameters are frozen,
    as a probe's encoder is, those of the gradients that are wanted: the pixels' is not (0.4 % of a
    ViViT-B), and counts only where all are trained.

    Args:
      model: A model of this package.
      input_shape: Shape of one example without its batch axis, (time, height, width, channels).
      trains: Tree that says of each parameter whether it is trained; None if all are.
    """
    params = param_shapes(model, input_shape)
    if trains is None:
        trains = jax.tree.map(lambda _: True, params)
    if all(jax.tree.leaves(trains)) and not isinstance(model, AttentiveProbe):
        return 6 * matrix_products(model, input_shape)
    model = _with(model, remat='none')

    def total(variables, batch):
        params = stop_gradients(variables['params'], trains)
        return model.apply({'params': params}, batch).sum()

    return 2 * _products(jax.grad(total), params, input_shape)


def stop_gradients(params: Any, trains: Any) -> Any:
    """The parameters, with no gradient for those that are not trained."""
    return jax.tree.map(
        lambda leaf, trains: leaf if trains else jax.lax.stop_gradient(leaf), params, trains
    )


def _products(apply: Callable[..., Any], params: Any, input_shape: tuple[int, ...]) -> int:
    batch = jax.ShapeDtypeStruct((1, *input_shape), jnp.float32)
    return multiply_adds(jax.make_jaxpr(apply)({'params': params}, batch).jaxpr)


def multiply_adds(jaxpr: jax.extend.core.Jaxpr) -> int:
    """Those of all matrix products in a jaxpr, a scan's as often as it runs."""
    total = 0
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == 'dot_general':
            contracted = eqn.params['dimension_numbers'][0][0]
            inner = math.prod(eqn.invars[0].aval.shape[axis] for axis in contracted)
            total += math.prod(eqn.outvars[0].aval.shape) * inner
        times = eqn.params['length'] if eqn.primitive.name == 'scan' else 1
        inner = jax.extend.core.jaxprs_in_params(eqn.params)
        total += times * sum(multiply_adds(each) for each in inner)
    return total
