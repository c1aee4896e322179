"""Random erasing."""

import jax
import jax.numpy as jnp
import numpy as np

from vjax.data.augment.erasing import draw_rectangle, erase

KEY = jax.random.key(0)


def test_erased_rectangles_have_the_papers_area_and_aspect():
    keys = jax.random.split(KEY, 2000)
    found = np.asarray(jax.jit(jax.vmap(lambda key: draw_rectangle(key, 60, 80)))(keys))
    rows, columns = found.any(2).sum(1), found.any(1).sum(1)
    np.testing.assert_array_equal(found.sum((1, 2)), rows * columns)  # Each one rectangle, whole.
    area = rows * columns / (60 * 80)
    assert (area > 0).all()
    # Sides are rounded: by half a pixel of at least sqrt(0.02 * 4800 * 0.3) = 5 of them.
    assert 0.02 * 0.8 < area.min() < 0.03
    assert 0.3 < area.max() < 1 / 3 * 1.1
    # Uniform area, but for a few large and flat ones that do not fit and are drawn anew.
    assert abs(area.mean() - (0.02 + 1 / 3) / 2) < 0.015
    aspect = np.log(rows / columns)
    assert np.abs(aspect).max() < np.log(1 / 0.3) * 1.15
    assert abs(aspect.mean()) < 0.08  # Log-uniform: standard deviation 0.7 / sqrt(2000) = 0.016.
    # Places are uniform: the middle of the free way is in the middle of the frame.
    top, left = found.any(2).argmax(1), found.any(1).argmax(1)
    assert abs(np.mean(top / (60 - rows)) - 0.5) < 0.03
    assert abs(np.mean(left / (80 - columns)) - 0.5) < 0.03


def test_erasing_fills_a_tube_with_noise():
    video = jnp.full((3, 40, 50, 3), 2.0)
    out = np.asarray(jax.jit(erase)(video, KEY))
    np.testing.assert_array_equal(out, np.repeat(out[:1], 3, axis=0))
    noise = out[0][(out[0] != 2).all(-1)]
    assert len(np.unique(noise)) > 0.99 * noise.size > 100
    assert noise.min() >= 0
    assert noise.max() <= 1
    assert abs(noise.mean() - 0.5) < 0.05
    kept = out[0][(out[0] == 2).any(-1)]
    assert (kept == 2).all()
