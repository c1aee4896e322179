"""RandAugment's and AutoAugment's operations against Pillow, on the clip as one tall picture."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from einops import rearrange
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance, ImageOps

from vjax.data.augment import operations

SHAPE = (3, 18, 20, 3)
KEY = jax.random.key(0)
# Compiled once for each operation, whatever the strength.
JITTED = {}


def noise(seed=0, shape=SHAPE, low=0, high=256):
    return np.random.default_rng(seed).integers(low, high, shape, np.uint8)


def smooth(seed=0, shape=SHAPE):
    """Few levels, unevenly: what histograms are spread from."""
    values = np.random.default_rng(seed).normal(110, 25, shape)
    return np.clip(values, 20, 230).astype(np.uint8)


def apply(name, video, strength=0.0, *, bilinear=False, fill=128, key=KEY):
    name_of = name, bilinear, fill
    if name_of not in JITTED:
        JITTED[name_of] = jax.jit(operations.operation(name, smooth=bilinear, fill=fill))
    out = JITTED[name_of](jnp.asarray(video), jnp.float32(strength), key)
    assert out.dtype == jnp.uint8
    return np.asarray(out)


def tall(video, function):
    """A function of pictures on the clip as one."""
    picture = Image.fromarray(rearrange(video, 't h w c -> (t h) w c'))
    return rearrange(np.asarray(function(picture)), '(t h) w c -> t h w c', t=len(video))


def each(video, function):
    """A function of pictures on every frame."""
    return np.stack([np.asarray(function(Image.fromarray(frame))) for frame in video])


@pytest.mark.parametrize('video', [noise(), smooth(), noise(1, low=7, high=9)])
@pytest.mark.parametrize(
    ('name', 'reference'),
    [
        ('invert', ImageOps.invert),
        ('equalize', ImageOps.equalize),
        ('identity', lambda picture: picture),
    ],
)
def test_operations_without_strength_equal_pillow(name, reference, video):
    np.testing.assert_array_equal(apply(name, video), tall(video, reference))


def test_equalize_of_few_pixels_or_one_level_is_that_of_pillow():
    """Where a level's share is less than a pixel, nothing is spread."""
    for video in (noise(0, (1, 4, 5, 3)), np.full(SHAPE, 77, np.uint8)):
        np.testing.assert_array_equal(apply('equalize', video), video)
        np.testing.assert_array_equal(tall(video, ImageOps.equalize), video)


@pytest.mark.parametrize(
    'video', [smooth(), noise(0, low=30, high=200), np.full(SHAPE, 9, np.uint8)]
)
def test_autocontrast_equals_pillow(video):
    """But where a stretched level is whole, and Pillow's 84.9999999 is cut off to 84."""
    found = apply('autocontrast', video).astype(int)
    expected = tall(video, ImageOps.autocontrast).astype(int)
    low, high = video.min((0, 1, 2)).astype(int), video.max((0, 1, 2)).astype(int)
    whole = 255 * (video - low) % np.maximum(high - low, 1) == 0
    np.testing.assert_array_equal(found[~whole], expected[~whole])
    assert set(np.unique(found - expected)) <= {0, 1}


@given(st.integers(0, 256))
@settings(max_examples=10, deadline=None)
def test_solarize_equals_pillow(threshold):
    video = noise()
    expected = tall(video, lambda picture: ImageOps.solarize(picture, threshold))
    np.testing.assert_array_equal(apply('solarize', video, threshold), expected)


@pytest.mark.parametrize('bits', [1, 2, 3, 4, 5, 6, 7, 8])
def test_posterize_equals_pillow(bits):
    video = noise()
    expected = tall(video, lambda picture: ImageOps.posterize(picture, bits))
    np.testing.assert_array_equal(apply('posterize', video, bits), expected)


def test_posterize_to_no_bits_is_black():
    assert not apply('posterize', noise(), 0).any()


@pytest.mark.parametrize('addition', [0, 55, 110, 220])
def test_solarize_add_lightens_what_is_dark(addition):
    video = noise()
    lut = [min(255, i + addition) if i < 128 else i for i in range(256)] * 3
    expected = tall(video, lambda picture: picture.point(lut))
    np.testing.assert_array_equal(apply('solarize_add', video, addition), expected)


@pytest.mark.parametrize('factor', [0.1, 0.55, 1.0, 1.28, 1.9, 3.7])
@pytest.mark.parametrize('name', ['brightness', 'color', 'contrast', 'sharpness'])
def test_enhancements_equal_pillow(name, factor):
    """Results are cut off, not rounded: where XLA multiplies and adds in one, a level may be lost."""
    video = smooth()
    enhance = getattr(ImageEnhance, name.capitalize())
    # Frames have borders of their own; all else is of the clip.
    over = each if name == 'sharpness' else tall
    expected = over(video, lambda picture: enhance(picture).enhance(factor)).astype(int)
    found = apply(name, video, factor).astype(int)
    assert np.abs(found - expected).max() <= 1
    assert np.mean(found != expected) < 0.01


WARPS = [
    ('shear_x', 0.23, lambda s: (1, s, 0, 0, 1, 0)),
    ('shear_x', -0.3, lambda s: (1, s, 0, 0, 1, 0)),
    ('shear_y', 0.17, lambda s: (1, 0, 0, s, 1, 0)),
    ('translate_x', -6, lambda s: (1, 0, s, 0, 1, 0)),
    ('translate_y', 4, lambda s: (1, 0, 0, 0, 1, s)),
    ('translate_y', 4.3, lambda s: (1, 0, 0, 0, 1, s)),
]


@pytest.mark.parametrize('bilinear', [False, True])
@pytest.mark.parametrize(('name', 'strength', 'matrix'), WARPS)
def test_warps_equal_pillow(name, strength, matrix, bilinear):
    """Pillow computes in float64: what lies on an edge between pixels may fall on either side."""
    video = noise()
    how = Image.Resampling.BILINEAR if bilinear else Image.Resampling.NEAREST
    expected = each(
        video,
        lambda picture: picture.transform(
            picture.size, Image.Transform.AFFINE, matrix(strength), how, fillcolor=(128,) * 3
        ),
    )
    found = apply(name, video, strength, bilinear=bilinear)
    check_warped(found, expected, bilinear)


@pytest.mark.parametrize('bilinear', [False, True])
@pytest.mark.parametrize('degrees', [-30, -7.5, 12, 30, 60])
def test_rotation_equals_pillow(degrees, bilinear):
    video = noise()
    how = Image.Resampling.BILINEAR if bilinear else Image.Resampling.NEAREST
    expected = each(video, lambda picture: picture.rotate(degrees, how, fillcolor=(128, 128, 128)))
    check_warped(apply('rotate', video, degrees, bilinear=bilinear), expected, bilinear)


def check_warped(found, expected, bilinear):
    difference = np.abs(found.astype(int) - expected.astype(int))
    if bilinear:  # Interpolated values are cut off, too.
        assert np.mean(difference > 1) < 0.01
        assert np.mean(difference > 0) < 0.03
    else:
        assert np.mean(difference > 0) < 0.01


def test_cutout_fills_the_same_square_of_all_frames():
    video = noise(high=100)
    for seed in range(5):
        out = apply('cutout', video, 3, fill=200, key=jax.random.key(seed))
        filled = (out == 200).all((0, 3))
        np.testing.assert_array_equal(out[:, ~filled], video[:, ~filled])
        rows, columns = np.flatnonzero(filled.any(1)), np.flatnonzero(filled.any(0))
        assert filled.sum() == len(rows) * len(columns) > 0
        assert len(rows) == 6 or rows[0] == 0 or rows[-1] == 17
        assert len(columns) == 6 or columns[0] == 0 or columns[-1] == 19


def test_cutouts_centre_is_uniform():
    """The square of half side 0.5 is the centre's pixel alone."""
    video = jnp.zeros((1, 4, 4, 3), jnp.uint8)
    keys = jax.random.split(KEY, 4000)
    places = jax.vmap(lambda key: operations.cutout(video, jnp.float32(0.5), key, 1))(keys)
    counts = np.asarray(places[:, 0, :, :, 0]).sum(0)
    # 250 each; chi-squared of 15 degrees of freedom exceeds 38 once in 1000.
    assert counts.sum() == 4000
    assert np.sum((counts - 250) ** 2 / 250) < 38


def test_statistics_are_those_of_the_clip():
    """Frames of different brightness stay so: nothing is done to each on its own."""
    levels = np.repeat(np.arange(40, 160, 40, np.uint8), 100)
    video = rearrange(levels, '(t h w) -> t h w 1', t=3, h=10) + np.zeros((1, 1, 1, 3), np.uint8)
    video[0, 0, 0], video[2, 0, 0] = 30, 200
    for name in ('autocontrast', 'equalize', 'contrast'):
        means = apply(name, video, 1.9).mean((1, 2, 3))
        assert means[0] < means[1] < means[2]
    same = np.repeat(video[:1], 3, axis=0)
    for name in operations.COLORS | operations.WARPS:
        out = apply(name, same, 1.5)
        np.testing.assert_array_equal(out, np.repeat(out[:1], 3, axis=0))
