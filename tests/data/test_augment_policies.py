"""What RandAugment and AutoAugment draw."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vjax import recipes
from vjax.data.augment import policies
from vjax.data.sections import Augment
from vjax.errors import UserError

BASE = recipes.base().augment.to_dict()
KEY = jax.random.key(7)
NUM = 6000
SIGNED = ('rotate', 'shear_x', 'shear_y', 'translate_x', 'translate_y')
ENHANCING = ('color', 'contrast', 'brightness', 'sharpness')


def drawn(shape=(224, 224), num=NUM, **changes):
    """Names and strengths of the layers of many clips."""
    settings = Augment(**BASE | changes)
    draw = jax.jit(jax.vmap(lambda key: policies.draw(key, settings, shape)))
    layers = draw(jax.random.split(KEY, num))
    names = np.asarray(policies.names_of(settings))
    return names[np.asarray(layers.operation)], np.asarray(layers.strength, np.float64)


def strengths(**changes):
    """Operation -> the strengths that occur, rounded."""
    names, values = drawn(rand_augment=2, **changes)
    return {
        name: sorted(set(np.round(values[names == name], 3).tolist())) for name in set(names.flat)
    }


@pytest.mark.parametrize(
    ('ops', 'num'), [('paper', 14), ('all', 17), ('colors', 12), ('increasing', 15)]
)
def test_operations_are_equally_probable_in_each_layer(ops, num):
    names, _ = drawn(rand_augment=3, rand_augment_ops=ops)
    assert names.shape == (NUM, 3)
    for layer in names.T:
        found, counts = np.unique(layer, return_counts=True)
        assert len(found) == num
        # Chi-squared of num - 1 degrees of freedom: mean num - 1, variance 2 (num - 1).
        excess = np.sum((counts - NUM / num) ** 2 / (NUM / num)) - (num - 1)
        assert excess < 4 * np.sqrt(2 * (num - 1))
    # Layers do not know of each other: pairs of the first two are as probable as all others.
    _, counts = np.unique(names[:, 0] + ' ' + names[:, 1], return_counts=True)
    assert abs(counts.mean() - NUM / num**2) < 0.05 * NUM / num**2
    assert abs(counts.var() / counts.mean() - 1) < 0.4


def test_strengths_of_the_paper_are_those_of_torchvision():
    """Its table at magnitude 9 of 0 .. 30 and 224 pixels."""
    expected = {name: [0.0] for name in ('identity', 'autocontrast', 'equalize')}
    expected |= {name: [0.73, 1.27] for name in ENHANCING}
    expected |= {'shear_x': [-0.09, 0.09], 'shear_y': [-0.09, 0.09], 'rotate': [-9.0, 9.0]}
    expected |= {'posterize': [7.0], 'solarize': [178.5]}
    expected |= {'translate_x': [-30.0, 30.0], 'translate_y': [-30.0, 30.0]}  # 30.45, cut off.
    assert strengths(rand_augment_ops='paper', rand_augment_magnitude=9) == expected


@pytest.mark.parametrize(
    ('magnitude', 'enhance', 'bits', 'threshold', 'added', 'half', 'degrees', 'pixels'),
    [
        (10, 1.9, 4, 0, 110, 40, 30, 100),
        (15, 2.8, 6, 128, 165, 60, 45, 150),
        (20, 3.7, 8, 0, 220, 80, 60, 200),
        (3, 0.64, 1, 76, 33, 12, 9, 30),
    ],
)
def test_strengths_of_all_are_those_of_tensorflow(
    magnitude, enhance, bits, threshold, added, half, degrees, pixels
):
    """The magnitudes of the published ViViT and MTV, and one more; 224 pixels.

    A comparison of bytes with 256, 384 or 512 is one with 0, 128 or 0 in a TensorFlow graph.
    """
    expected = {'identity': [0.0], 'autocontrast': [0.0], 'equalize': [0.0], 'invert': [0.0]}
    expected |= {name: [enhance] for name in ENHANCING}
    expected |= {'posterize': [float(bits)], 'solarize': [float(threshold)]}
    expected |= {'solarize_add': [float(added)], 'cutout': [float(half)]}
    assert strengths(rand_augment_ops='colors', rand_augment_magnitude=magnitude) == expected
    shear = round(0.03 * magnitude, 3)
    expected |= {'shear_x': [-shear, shear], 'shear_y': [-shear, shear]}
    expected |= {'rotate': [-degrees, degrees]}
    expected |= {'translate_x': [-pixels, pixels], 'translate_y': [-pixels, pixels]}
    assert strengths(rand_augment_ops='all', rand_augment_magnitude=magnitude) == expected


def test_increasing_strengths_are_those_of_timm():
    """At magnitude 7 of 10 and 224 pixels."""
    expected = {'autocontrast': [0.0], 'equalize': [0.0], 'invert': [0.0]}
    expected |= {name: [0.37, 1.63] for name in ENHANCING}
    expected |= {'posterize': [2.0], 'solarize': [77.0], 'solarize_add': [77.0]}
    expected |= {'shear_x': [-0.21, 0.21], 'shear_y': [-0.21, 0.21], 'rotate': [-21.0, 21.0]}
    expected |= {'translate_x': [-70.56, 70.56], 'translate_y': [-70.56, 70.56]}
    found = strengths(rand_augment_ops='increasing', rand_augment_magnitude=7)
    assert found == expected


@pytest.mark.parametrize('level', range(11))
def test_increasing_strengths_equal_timms_arithmetic(level):
    """In integers, where float32 must not lose one."""
    one = jnp.ones(1)
    posterize, solarize, added = (
        float(policies.increasing_strength(name, one * level / 10, one, (224, 224))[0])
        for name in ('posterize', 'solarize', 'solarize_add')
    )
    assert (posterize, solarize, added) == (
        4 - 4 * level // 10,
        256 - 256 * level // 10,
        11 * level,
    )


def test_signs_are_even_and_translations_follow_their_side():
    names, values = drawn(
        shape=(32, 64), rand_augment=2, rand_augment_ops='paper', rand_augment_magnitude=30
    )
    for name in (*SIGNED, *ENHANCING):
        found = values[names == name]
        positive = np.mean(found > (0 if name in SIGNED else 1))
        assert abs(positive - 0.5) < 4 * 0.5 / np.sqrt(len(found))
    assert np.abs(values[names == 'translate_x']).max() == int(150 / 331 * 64)
    assert np.abs(values[names == 'translate_y']).max() == int(150 / 331 * 32)


def test_noise_of_the_magnitude_is_normal_and_layers_are_left_out():
    names, values = drawn(
        num=4 * NUM,
        rand_augment=4,
        rand_augment_ops='increasing',
        rand_augment_magnitude=7,
        rand_augment_std=0.5,
        rand_augment_probability=0.5,
    )
    assert abs(np.mean(names == 'identity') - 0.5) < 0.01  # Standard deviation 0.0016.
    magnitudes = np.abs(values[names == 'rotate']) / 3
    assert len(magnitudes) > 2500
    assert abs(magnitudes.mean() - 7) < 4 * 0.5 / np.sqrt(len(magnitudes))
    assert abs(magnitudes.std() - 0.5) < 0.03
    assert magnitudes.max() <= 10
    # A clip's layers have magnitudes of their own.
    twice = (names[:, 0] == 'rotate') & (names[:, 1] == 'rotate')
    assert (np.abs(values[twice, 0]) != np.abs(values[twice, 1])).all()
    beyond = drawn(
        rand_augment=2,
        rand_augment_ops='increasing',
        rand_augment_magnitude=10,
        rand_augment_std=2.0,
    )
    assert np.abs(beyond[1][beyond[0] == 'rotate']).max() <= 30.001


@pytest.mark.parametrize('policy', ['imagenet', 'cifar10', 'svhn'])
def test_auto_augment_draws_sub_policies_evenly_and_operations_by_their_probability(policy):
    pairs = policies.read_policy(policy)
    assert len(pairs) == 25
    assert all(len(pair) == 2 for pair in pairs)
    num = 3 * NUM
    names, _ = drawn(num=num, auto_augment=policy)
    expected = {}
    for first, second in pairs:
        for a, b in itertools.product((True, False), repeat=2):
            outcome = first[0] if a else 'identity', second[0] if b else 'identity'
            p = (first[1] if a else 1 - first[1]) * (second[1] if b else 1 - second[1])
            expected[outcome] = expected.get(outcome, 0) + p / 25
    assert sum(expected.values()) == pytest.approx(1)
    found = dict.fromkeys(expected, 0)
    for pair in map(tuple, names.tolist()):
        found[pair] += 1  # And no other: a KeyError.
    for pair, p in expected.items():
        assert abs(found[pair] / num - p) < 4.5 * np.sqrt(p * (1 - p) / num) + 1e-9


def test_auto_augments_magnitudes_are_those_of_torchvision():
    """Of the ten that each range is divided into."""
    names, values = drawn(num=4 * NUM, auto_augment='imagenet', shape=(331, 331))
    found = {
        name: sorted(set(np.round(values[names == name], 3).tolist())) for name in set(names.flat)
    }
    ninths = {
        name: {m for p in policies.read_policy('imagenet') for n, _, m in p if n == name}
        for name in found
    }
    for name, ms in ninths.items():
        if name in ('rotate', 'shear_x'):
            most = {'rotate': 30, 'shear_x': 0.3}[name]
            assert found[name] == sorted(round(s * most * m / 9, 3) for m in ms for s in (-1, 1))
        elif name in ENHANCING:
            expected = {round(1 + s * 0.9 * m / 9, 3) for m in ms for s in (-1, 1)}
            assert found[name] == pytest.approx(sorted(expected))
        elif name == 'solarize':
            assert found[name] == pytest.approx(sorted(255 - 255 * m / 9 for m in ms), abs=1e-3)
        elif name == 'posterize':
            assert found[name] == sorted({8.0 - round(4 * m / 9) for m in ms})


def test_the_same_key_draws_the_same_and_others_something_else():
    settings = Augment(**BASE | {'rand_augment': 2})
    video = jnp.asarray(np.random.default_rng(0).integers(0, 256, (2, 12, 12, 3), np.uint8))
    distort = jax.jit(lambda key: policies.distort(video, key, settings))
    np.testing.assert_array_equal(distort(KEY), distort(KEY))
    outs = {np.asarray(distort(key)).tobytes() for key in jax.random.split(KEY, 12)}
    assert len(outs) >= 10


@pytest.mark.parametrize(
    ('changes', 'sentence'),
    [
        ({'rand_augment': -1}, 'rand_augment is -1'),
        ({'rand_augment_magnitude': 31}, 'from 0 to 30'),
        ({'rand_augment_magnitude': float('nan')}, 'from 0 to 30'),
        ({'rand_augment_std': -0.5}, 'rand_augment_std'),
        ({'rand_augment_probability': 1.5}, 'probability'),
        ({'rand_augment_ops': 'some'}, "choose from .*'increasing'"),
        (
            {'rand_augment': 2, 'rand_augment_ops': 'increasing', 'rand_augment_magnitude': 15},
            'end at 10',
        ),
        ({'auto_augment': 'kinetics'}, "choose from .*'imagenet'"),
        ({'auto_augment': 'svhn', 'rand_augment': 1}, 'exclude each other'),
        ({'flip_labels': 'swap'}, "choose from .*'mirror'"),
        ({'erase': 2}, 'erase is 2; it is a probability'),
        ({'repeats': 0}, 'repeats is 0'),
        ({'area': (0.5,)}, 'area'),
        ({'area': (0.5, 1.5)}, 'area'),
        ({'area': (0.9, 0.5)}, 'area'),
        ({'aspect': (0.0, 1.0)}, 'aspect'),
        ({'aspect': (2.0, 1.0)}, 'aspect'),
    ],
)
def test_impossible_settings_are_refused(changes, sentence):
    with pytest.raises(UserError, match=sentence):
        Augment(**BASE | changes)


@pytest.mark.parametrize('side', [24, 48, 224, 331])
def test_whole_pixels_are_not_lost_to_rounding(side):
    """float32's 2.9999998 pixels are 3."""
    magnitudes = np.arange(1, 31)
    plus = jnp.ones(30)
    half = policies.tensorflow_strength('cutout', plus * magnitudes / 10, plus, (side, side))
    assert half.tolist() == [40 * side * m // 2240 for m in magnitudes]
    moved = policies.paper_strength('translate_x', plus * magnitudes / 30, plus, (side, side))
    assert moved.tolist() == [150 * side * m // (331 * 30) for m in magnitudes]
