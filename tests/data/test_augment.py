"""The device's half of the input."""

import colorsys

import dm_pix as pix
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from einops import rearrange
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from vjax.data import augment as augmentation
from vjax.data.augment import mixup, normalise, resampling_weights

NEUTRAL = {'flip': 0.0, 'color_jitter': 0.0, 'color_drop': 0.0}
STRONG = {'flip': 0.5, 'color_jitter': 0.8, 'color_drop': 0.3}
KEY = jax.random.key(0)
# Compiled, as in training; run one by one, the operations take seconds.
resample = jax.jit(augmentation.resample, static_argnames='size')
augment = jax.jit(
    augmentation.augment, static_argnames=('size', 'flip', 'color_jitter', 'color_drop')
)


def make_batch(num=4, time=3, window=12, box=(2, 1, 8, 8), seed=0):
    rng = np.random.default_rng(seed)
    return {
        'video': jnp.asarray(rng.integers(0, 256, (num, time, window, window, 3), np.uint8)),
        'box': jnp.tile(jnp.asarray(box, jnp.float32)[None], (num, 1)),
        'position': jnp.arange(10, 10 + num, dtype=jnp.int32),
    }


def test_normalise_maps_bytes_to_plus_minus_one():
    values = jnp.arange(256, dtype=jnp.uint8)
    out = np.asarray(normalise(values))
    assert out.dtype == np.float32
    assert (out[0], out[255]) == (-1, 1)
    np.testing.assert_allclose(out, np.arange(256) * 2 / 255 - 1, atol=1e-6)


@given(st.integers(0, 6), st.integers(0, 6), st.sampled_from([1, 7, 10]))
@settings(max_examples=8, deadline=None)
def test_whole_boxes_are_cut_out_exactly(top, left, size):
    video = make_batch(1, window=16)['video'][0].astype(jnp.float32)
    box = jnp.asarray([top, left, size, size], jnp.float32)
    expected = video[:, top : top + size, left : left + size]
    np.testing.assert_array_equal(resample(video, box, size), expected)


def test_neutral_augmentation_is_a_crop():
    batch = make_batch()
    out = augment(batch, KEY, size=8, **NEUTRAL)
    np.testing.assert_allclose(out, normalise(batch['video'][:, :, 2:10, 1:9]), atol=1e-6)


@given(
    st.floats(1, 20), st.floats(1, 20), st.floats(0, 1), st.floats(0, 1), st.sampled_from([5, 12])
)
@settings(max_examples=8, deadline=None)
def test_resampling_equals_jax_image(height, width, y, x, size):
    top, left = y * (20 - height), x * (20 - width)
    box = jnp.asarray([top, left, height, width], jnp.float32)
    video = make_batch(1, time=2, window=20)['video'][0].astype(jnp.float32)
    zoom = jnp.asarray([size / height, size / width])
    expected = jax.image.scale_and_translate(
        video, (2, size, size, 3), (1, 2), zoom, -zoom * box[:2], method='linear', antialias=True
    )
    np.testing.assert_allclose(resample(video, box, size), expected, atol=0.02)


@given(st.floats(0, 5), st.floats(0.5, 15), st.integers(1, 12))
@settings(max_examples=20, deadline=None)
def test_resampling_weights_are_averages(start, extent, size):
    weights = np.asarray(resampling_weights(jnp.float32(start), jnp.float32(extent), 20, size))
    assert weights.min() >= 0
    np.testing.assert_allclose(weights.sum(1), 1, atol=1e-5)


def test_a_constant_clip_stays_constant_in_time_and_in_range():
    batch = make_batch(num=8, time=1, box=(0.5, 1.25, 9.3, 7.1))
    batch['video'] = jnp.repeat(batch['video'], 3, axis=1)
    out = np.asarray(augment(batch, KEY, size=8, **STRONG))
    np.testing.assert_allclose(out, np.repeat(out[:, :1], 3, axis=1), atol=1e-6)
    assert out.min() >= -1
    assert out.max() <= 1


def test_draws_belong_to_positions_not_to_places_in_the_batch():
    batch = make_batch(num=8)
    whole = augment(batch, KEY, size=8, **STRONG)
    order = jnp.asarray([4, 2, 5, 0, 1, 7, 6, 3])
    reordered = augment(jax.tree.map(lambda a: a[order], batch), KEY, size=8, **STRONG)
    np.testing.assert_array_equal(whole[order], reordered)
    # The same clip at other positions is drawn anew.
    same = jax.tree.map(lambda a: jnp.repeat(a[:1], 8, axis=0), batch)
    same['position'] = batch['position']
    drawn = np.asarray(augment(same, KEY, size=8, **STRONG))
    assert len({clip.tobytes() for clip in drawn}) > 5


def test_flip_mirrors_the_width_of_all_frames():
    batch = make_batch(num=64, time=1)
    plain = np.asarray(augment(batch, KEY, size=8, **NEUTRAL))
    always = np.asarray(augment(batch, KEY, size=8, **NEUTRAL | {'flip': 1.0}))
    np.testing.assert_allclose(always, plain[:, :, :, ::-1], atol=1e-6)
    # Flipping the input and the box flips the output.
    mirrored = batch | {'video': batch['video'][:, :, :, ::-1]}
    box = batch['box']
    mirrored['box'] = box.at[:, 1].set(12 - box[:, 1] - box[:, 3])
    np.testing.assert_allclose(
        augment(mirrored, KEY, size=8, **NEUTRAL), plain[:, :, :, ::-1], atol=1e-6
    )
    half = np.asarray(augment(batch, KEY, size=8, **NEUTRAL | {'flip': 0.5}))
    flipped = np.isclose(half, always, atol=1e-6).all((1, 2, 3, 4))
    assert (np.isclose(half, plain, atol=1e-6).all((1, 2, 3, 4)) | flipped).all()
    assert 16 < flipped.sum() < 48  # 32 expected, standard deviation 4


def test_color_drop_leaves_the_luma():
    batch = make_batch()
    plain = np.asarray(augment(batch, KEY, size=8, **NEUTRAL))
    grey = np.asarray(augment(batch, KEY, size=8, **NEUTRAL | {'color_drop': 1.0}))
    luma = (plain * [0.2989, 0.587, 0.114]).sum(-1, keepdims=True)
    np.testing.assert_allclose(grey, np.repeat(luma, 3, -1), atol=1e-3)


def test_jitter_equals_its_operations_on_the_whole_clip():
    """Against operations written here in numpy and colorsys, with the draws found from outside."""
    video = make_batch(1, time=3, window=6)['video'][0].astype(jnp.float32) / 255
    keys = jax.random.split(KEY, 4)
    ranges = ((-32 / 255, 32 / 255), (0.6, 1.4), (0.6, 1.4), (-0.2, 0.2))
    brightness, saturation, contrast, hue = (
        float(jax.random.uniform(key, (), minval=low, maxval=high))
        for key, (low, high) in zip(keys, ranges, strict=True)
    )

    def hsv(x, change):
        pixels = [colorsys.hsv_to_rgb(*change(*colorsys.rgb_to_hsv(*p))) for p in x.reshape(-1, 3)]
        return np.asarray(pixels).reshape(x.shape)

    x = np.clip(np.asarray(video, np.float64) + brightness, 0, 1)
    x = hsv(x, lambda h, s, v: (h, min(s * saturation, 1), v))
    mean = x.mean((0, 1, 2), keepdims=True)  # One mean for the clip.
    x = np.clip((x - mean) * contrast + mean, 0, 1)
    x = hsv(x, lambda h, s, v: ((h + hue) % 1, s, v))
    np.testing.assert_allclose(augmentation.jitter_colors(video, KEY), x, atol=1e-4)


def test_jitter_of_one_frame_equals_dm_pix_on_the_picture():
    frame = make_batch(1, time=1, window=6)['video'][0, 0].astype(jnp.float32) / 255
    keys = jax.random.split(KEY, 4)
    x = frame
    for key, op, low, high in zip(
        keys,
        (pix.adjust_brightness, pix.adjust_saturation, pix.adjust_contrast, pix.adjust_hue),
        (-32 / 255, 0.6, 0.6, -0.2),
        (32 / 255, 1.4, 1.4, 0.2),
        strict=True,
    ):
        x = jnp.clip(op(x, jax.random.uniform(key, (), minval=low, maxval=high)), 0, 1)
    np.testing.assert_allclose(augmentation.jitter_colors(frame[None], KEY)[0], x, atol=1e-6)


def test_operations_that_are_off_leave_no_trace():
    batch = make_batch()

    def program(**changes):
        return augment.lower(batch, KEY, size=8, **NEUTRAL | changes).as_text()

    assert 'stablehlo.reverse' not in program()
    assert 'stablehlo.reverse' in program(flip=0.5)
    sizes = [len(program(**{name: 0.5})) for name in ('color_jitter', 'color_drop')]
    assert min(sizes) > len(program())


def test_mixup_blends_with_the_reversed_batch():
    rng = np.random.default_rng(0)
    video = jnp.asarray(rng.normal(size=(5, 2, 4, 4, 3)), jnp.float32)
    target = jax.nn.one_hot(jnp.arange(5), 7)
    mixed, mixed_target = mixup(video, target, KEY, 0.4)
    weight = float(mixed_target[0, 0])
    assert 0 < weight < 1
    np.testing.assert_allclose(mixed_target.sum(1), 1, atol=1e-6)
    np.testing.assert_allclose(
        mixed_target, weight * target + (1 - weight) * target[::-1], atol=1e-6
    )
    np.testing.assert_allclose(mixed, weight * video + (1 - weight) * video[::-1], atol=1e-6)


@pytest.mark.parametrize('alpha', [0.3, 4.0])
def test_mixup_weights_are_beta_distributed(alpha):
    video, target = jnp.zeros((2, 1)), jnp.eye(2)
    keys = jax.random.split(KEY, 2000)
    weights = jax.vmap(lambda key: mixup(video, target, key, alpha)[1][0, 0])(keys)
    assert abs(float(weights.mean()) - 0.5) < 0.03
    assert abs(float(weights.var()) - 1 / (4 * (2 * alpha + 1))) < 0.01


def test_a_sharded_batch_gives_the_same_and_stays_sharded():
    mesh = jax.make_mesh((8,), ('data',), axis_types=(AxisType.Auto,))
    batch = make_batch(num=8)
    sharded = jax.device_put(batch, NamedSharding(mesh, PartitionSpec('data')))

    def inputs(batch):
        video = augmentation.augment(batch, KEY, size=8, **STRONG)
        return video, *mixup(video, jnp.eye(8), KEY, 0.5)

    alone, together = jax.jit(inputs)(batch), jax.jit(inputs)(sharded)
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
    assert together[0].sharding.shard_shape(together[0].shape)[0] == 1


def test_contrast_does_not_flicker():
    """Frames of different brightness go through one and the same change."""
    video = jnp.linspace(0.2, 0.8, 4)[:, None, None, None] * jnp.ones((1, 5, 5, 3))
    out = np.asarray(augmentation.jitter_colors(video, jax.random.key(3)))
    levels = rearrange(out, 't h w c -> t (h w c)')
    np.testing.assert_allclose(levels, levels[:, :1] * np.ones((1, 75)), atol=1e-5)
    assert np.ptp(np.diff(levels[:, 0])) < 1e-4  # Even steps in, even steps out.
