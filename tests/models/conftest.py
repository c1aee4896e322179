"""What the tests of models share."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest


@pytest.fixture(scope='session')
def random_params():
    """A function that gives a module random parameters, without running its initialisers.

    Zeros and ones, where an initialiser has them, hide mistakes; and this compiles nothing.
    """

    def make(module, *inputs, seed=0, scale=0.3, **kwargs):
        rng = np.random.default_rng(seed)
        init = lambda key: module.init(key, *inputs, **kwargs)['params']  # noqa: E731
        shapes = jax.eval_shape(init, jax.random.key(0))
        return jax.tree.map(lambda leaf: jnp.float32(scale * rng.normal(size=leaf.shape)), shapes)

    return make
