"""The device's half of the input."""

import colorsys

import dm_pix as pix
import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from vjax import recipes
from vjax.data.augment import augment as augment_batch
from vjax.data.augment import colors, normalise
from vjax.data.sections import Augment

NEUTRAL = recipes.base().augment.to_dict()
STRONG = NEUTRAL | {'flip': 0.5, 'color_jitter': 0.8, 'color_drop': 0.3, 'erase': 0.5}
ALL = STRONG | {'rand_augment': 2, 'rand_augment_ops': 'colors'}
KEY = jax.random.key(0)


def augment(batch, key, *, size, **settings):
    return compiled(batch, key, size, tuple(settings.items()))


def clips(batch, key, size, settings):
    return augment_batch(batch, key, Augment(**dict(settings)), size=size, mirror=None)[0]


# As in training; run one by one, the operations take seconds.
compiled = jax.jit(clips, static_argnums=(2, 3))
jitter_colors = jax.jit(colors.jitter_colors)


def make_batch(num=4, time=3, window=12, box=(2, 1, 8, 8), seed=0):
    rng = np.random.default_rng(seed)
    return {
        'label': jnp.arange(num, dtype=jnp.int32)[:, None],
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


def test_neutral_augmentation_is_a_crop():
    batch = make_batch()
    out = augment(batch, KEY, size=8, **NEUTRAL)
    np.testing.assert_allclose(out, normalise(batch['video'][:, :, 2:10, 1:9]), atol=1e-6)


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
    np.testing.assert_allclose(jitter_colors(video, KEY), x, atol=1e-4)


def test_hue_saturation_and_value_are_colorsys_also_of_channels_that_are_equal():
    levels = np.asarray([0, 1, 2, 100, 254, 255]) / 255
    pixels = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(-1, 3)
    truth = np.asarray([colorsys.rgb_to_hsv(*pixel) for pixel in pixels])
    # As channels that were computed twice may be: off by less than any two levels.
    for off in (0, 1e-7, -1e-7):
        image = jnp.asarray(pixels + off * np.eye(3)[np.arange(len(pixels)) % 3], jnp.float32)
        found = np.asarray(colors.rgb_to_hsv(image[None]))[:, 0].T
        # A grey has no hue, and red is at either end of the circle.
        turns = np.abs(found[:, 0] - truth[:, 0])[truth[:, 1] > 0]
        np.testing.assert_allclose(np.minimum(turns, 1 - turns), 0, atol=1e-5)
        # Nor has black a saturation.
        saturation, value = found[:, 1:].T
        np.testing.assert_allclose(saturation * value, truth[:, 1] * truth[:, 2], atol=1e-6)
        np.testing.assert_allclose(value, truth[:, 2], atol=1e-6)


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
    np.testing.assert_allclose(jitter_colors(frame[None], KEY)[0], x, atol=1e-6)


def test_operations_that_are_off_leave_no_trace():
    batch = make_batch()

    def program(**changes):
        settings = tuple((NEUTRAL | changes).items())
        return compiled.lower(batch, KEY, 8, settings).as_text()

    off = program()
    for trace in ('reverse', 'while', 'case', 'threefry', 'gather', 'scatter', 'select'):
        assert f'stablehlo.{trace}' not in off
    assert 'stablehlo.reverse' in program(flip=0.5)
    assert 'stablehlo.case' in program(rand_augment=1)
    changes = [{'color_jitter': 0.5}, {'color_drop': 0.5}, {'erase': 0.5}, {'rand_augment': 1}]
    for change in [*changes, {'auto_augment': 'svhn'}, {'area': (0.1, 1.0)}]:
        assert len(program(**change)) > len(off)
    # What only the host reads, or what belongs to what is off.
    for change in [{'repeats': 2}, {'rand_augment_magnitude': 3.0}, {'flip_labels': 'mirror'}]:
        assert program(**change) == off


def test_a_batch_is_the_same_on_any_number_of_devices_and_stays_where_it_is():
    """To the bit, and no video goes from one device to another."""
    batch = make_batch(num=8, time=2, window=24, box=(2.3, 1.1, 19.7, 20.9))
    settings = tuple(ALL.items())
    alone = np.asarray(compiled(batch, KEY, 16, settings))
    mesh = jax.make_mesh((4,), ('data',), axis_types=(AxisType.Auto,), devices=jax.devices()[:4])
    sharded = jax.device_put(batch, NamedSharding(mesh, PartitionSpec('data')))
    with jax.set_mesh(mesh):
        program = jax.jit(clips, static_argnums=(2, 3)).lower(sharded, KEY, 16, settings).compile()
        together = program(sharded, KEY)
    np.testing.assert_array_equal(together, alone)
    assert together.sharding.shard_shape(together.shape)[0] == 2
    text = program.as_text()
    assert 'conditional' in text  # The switch is one still.
    for talk in ('all-gather', 'all-reduce', 'all-to-all', 'collective-permute'):
        assert talk not in text


def test_distorted_clips_are_bytes_in_range():
    batch = make_batch(num=4, box=(2.3, 1.1, 7.7, 8.9))
    out = (
        (np.asarray(augment(batch, KEY, size=8, **NEUTRAL | {'auto_augment': 'svhn'})) + 1)
        * 255
        / 2
    )
    assert out.min() >= 0
    assert out.max() <= 255
    np.testing.assert_allclose(out, np.round(out), atol=1e-4)


def test_a_region_alone_does_not_see_its_surroundings():
    batch = make_batch(box=(3, 2, 6, 5))
    noise = batch['video']
    dark = jnp.zeros_like(noise).at[:, :, 3:9, 2:7].set(noise[:, :, 3:9, 2:7])
    both = [
        augment(batch | {'video': video}, KEY, size=8, **NEUTRAL | {'area': (0.1, 1.0)})
        for video in (noise, dark)
    ]
    np.testing.assert_array_equal(*both)
    around = [augment(batch | {'video': video}, KEY, size=8, **NEUTRAL) for video in (noise, dark)]
    assert np.abs(np.asarray(around[0]) - around[1]).max() > 0.1


def test_contrast_does_not_flicker():
    """Frames of different brightness go through one and the same change."""
    video = jnp.linspace(0.2, 0.8, 4)[:, None, None, None] * jnp.ones((1, 5, 5, 3))
    out = np.asarray(jitter_colors(video, jax.random.key(3)))
    levels = rearrange(out, 't h w c -> t (h w c)')
    np.testing.assert_allclose(levels, levels[:, :1] * np.ones((1, 75)), atol=1e-5)
    assert np.ptp(np.diff(levels[:, 0])) < 1e-4  # Even steps in, even steps out.
