"""What a device does at best: the rate of large matrix products."""

import statistics
import time

import jax
import jax.numpy as jnp

SIZES = {'cpu': 2048, 'gpu': 8192}  # Rows and columns.
PRODUCTS = 8  # In a call, so that its start does not count.
CALLS = 7


class Products:
    """Products of square matrices one after the other, compiled and run once."""

    def __init__(self, dtype: str, size: int = 0):
        size = size or SIZES[jax.default_backend()]
        keys = jax.random.split(jax.random.key(0))
        # Values of one size throughout: zeros and infinities would take less power.
        self._left, right = (jax.random.normal(key, (size, size), dtype) for key in keys)
        self._right = right / jnp.sqrt(size).astype(dtype)
        self._call = jax.jit(lambda x, y: jax.lax.fori_loop(0, PRODUCTS, lambda _, x: x @ y, x))
        self._call(self._left, self._right).block_until_ready()
        self.flops = 2 * size**3 * PRODUCTS

    def seconds(self) -> float:
        """Of one call."""
        start = time.perf_counter()
        self._call(self._left, self._right).block_until_ready()
        return time.perf_counter() - start


def rate(products: Products) -> float:
    """FLOP/s, the median of `CALLS` calls."""
    return products.flops / statistics.median(products.seconds() for _ in range(CALLS))
