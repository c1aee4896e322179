"""mixup and cutmix."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from vjax.data.augment import mix
from vjax.data.augment.mixing import cut

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
VIDEO = jnp.asarray(RNG.normal(size=(5, 2, 6, 7, 3)), jnp.float32)
TARGET = jax.nn.one_hot(jnp.arange(5), 7)
ALL = jnp.ones(5)
mixed = jax.jit(mix, static_argnames=('mixup', 'cutmix'))


def test_nothing_is_mixed_where_both_are_off():
    video, target = mix(VIDEO, TARGET, ALL, KEY, mixup=0.0, cutmix=0.0)
    assert video is VIDEO
    assert target is TARGET


def test_mixup_blends_with_the_reversed_batch():
    video, target = mixed(VIDEO, TARGET, ALL, KEY, mixup=0.4, cutmix=0.0)
    weight = float(target[0, 0])
    assert 0 < weight < 1
    np.testing.assert_allclose(target.sum(1), 1, atol=1e-6)
    np.testing.assert_allclose(target, weight * TARGET + (1 - weight) * TARGET[::-1], atol=1e-6)
    np.testing.assert_allclose(video, weight * VIDEO + (1 - weight) * VIDEO[::-1], atol=1e-6)


@pytest.mark.parametrize('both', [False, True])
def test_cutmix_pastes_a_tube_and_the_target_has_exactly_its_area(both):
    seen = set()
    for key in jax.random.split(KEY, 40):
        video, target = mixed(VIDEO, TARGET, ALL, key, mixup=0.8 if both else 0.0, cutmix=1.0)
        own = np.asarray(video == VIDEO)[0]
        other = np.asarray(video == VIDEO[::-1])[0]
        if not (own | other).all():
            assert both  # This was mixup.
            continue
        pasted = ~own
        np.testing.assert_array_equal(pasted, np.broadcast_to(pasted[:1, :, :, :1], own.shape))
        rows, columns = pasted[0, :, :, 0].any(1), pasted[0, :, :, 0].any(0)
        assert pasted[0, :, :, 0].sum() == rows.sum() * columns.sum()
        part = np.float32(pasted[0, :, :, 0].mean())
        np.testing.assert_array_equal(target[0, 0], np.float32(1) - part)
        np.testing.assert_allclose(target[0, 4], part, atol=1e-7)
        np.testing.assert_allclose(target.sum(1), 1, atol=1e-6)
        seen.add(round(float(part), 3))
    assert len(seen) > 5


@pytest.mark.parametrize(('mixup', 'cutmix'), [(0.4, 0.0), (0.0, 1.0), (0.4, 1.0)])
def test_nobody_meets_what_is_no_video(mixup, cutmix):
    """As a record that cannot be decoded is a black clip of class 0 under a mask."""
    video, target = VIDEO.at[0].set(-1), TARGET
    for key in jax.random.split(KEY, 20):
        got, got_target = mixed(video, target, ALL.at[0].set(0), key, mixup=mixup, cutmix=cutmix)
        np.testing.assert_array_equal(got[4], video[4])
        np.testing.assert_array_equal(got_target[4], target[4])
        as_ever, its_target = mixed(video, target, ALL, key, mixup=mixup, cutmix=cutmix)
        np.testing.assert_array_equal(got[1:4], as_ever[1:4])
        np.testing.assert_array_equal(got_target[1:4], its_target[1:4])


def test_mixup_and_cutmix_serve_half_of_the_steps_each():
    video = jnp.asarray([0.0, 1.0])[:, None, None, None, None] * jnp.ones((1, 1, 8, 8, 1))
    target, mask = jnp.eye(2), jnp.ones(2)
    keys = jax.random.split(KEY, 1000)
    run = jax.jit(jax.vmap(lambda key: mix(video, target, mask, key, mixup=0.8, cutmix=1.0)))
    videos, targets = run(keys)
    blended = np.asarray(((videos > 0) & (videos < 1)).any((1, 2, 3, 4, 5)))
    assert abs(blended.mean() - 0.5) < 4.5 * 0.5 / np.sqrt(1000)
    # Either way the target says how much of the pixels is the example's own.
    np.testing.assert_allclose(1 - videos[:, 0].mean((1, 2, 3, 4)), targets[:, 0, 0], atol=1e-5)


@pytest.mark.parametrize('alpha', [0.3, 4.0])
def test_mixup_weights_are_beta_distributed(alpha):
    video, target = jnp.zeros((2, 1, 1, 1, 1)), jnp.eye(2)
    keys = jax.random.split(KEY, 2000)

    def weight(key):
        return mix(video, target, jnp.ones(2), key, mixup=alpha, cutmix=0.0)[1][0, 0]

    draw = jax.jit(jax.vmap(weight))
    weights = draw(keys)
    assert abs(float(weights.mean()) - 0.5) < 0.03
    assert abs(float(weights.var()) - 1 / (4 * (2 * alpha + 1))) < 0.01


def test_cut_rectangles_are_those_of_the_paper():
    """Alpha 1, as for ImageNet: sides sqrt(1 - U) of the frame, centres uniform, borders cut off."""
    height, width = 60, 80
    run = jax.jit(jax.vmap(lambda key: cut(key, 1.0, height, width)))
    own, part = map(np.asarray, run(jax.random.split(KEY, 3000)))
    np.testing.assert_allclose(part, own.mean((1, 2)), atol=1e-6)
    rng = np.random.default_rng(1)
    ratio = np.sqrt(1 - rng.uniform(size=100_000))
    expected = {}
    for axis, length in (('rows', height), ('columns', width)):
        extent = (length * ratio).astype(int)
        start = rng.integers(0, length, ratio.size) - extent // 2
        expected[axis] = np.minimum(start + extent, length) - np.maximum(start, 0)
    found = {'rows': (own == 0).any(2).sum(1), 'columns': (own == 0).any(1).sum(1)}
    quantiles = [0.05, 0.25, 0.5, 0.75, 0.95]
    for axis in found:  # Of 60 and 80 pixels; the standard error of a median is about 0.5.
        np.testing.assert_allclose(
            np.quantile(found[axis], quantiles), np.quantile(expected[axis], quantiles), atol=3
        )
    area = expected['rows'] * expected['columns'] / (height * width)
    assert abs((1 - part).mean() - area.mean()) < 4.5 * area.std() / np.sqrt(3000)


def test_a_sharded_batch_is_mixed_the_same():
    mesh = jax.make_mesh((8,), ('data',), axis_types=(AxisType.Auto,))
    arrays = (
        jnp.tile(VIDEO[:1], (8, 1, 1, 1, 1)) * jnp.arange(8)[:, None, None, None, None],
        jnp.eye(8),
        jnp.ones(8),
    )
    alone = mixed(*arrays, KEY, mixup=0.8, cutmix=1.0)
    placed = jax.device_put(arrays, NamedSharding(mesh, PartitionSpec('data')))
    together = mixed(*placed, KEY, mixup=0.8, cutmix=1.0)
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
    assert together[0].sharding.shard_shape(together[0].shape)[0] == 1
