"""Flips and the classes that are named after left and right."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vjax import recipes
from vjax.data.augment import augment, find_mirror
from vjax.data.augment.mirroring import mirrored
from vjax.data.sections import Augment

SOMETHING = (
    'Pulling something from left to right',
    'Pulling something from right to left',
    'Pushing something from left to right',
    'Throwing something',
    'Turning the camera left while filming something',
    'Turning the camera right while filming something',
)


@pytest.mark.parametrize(
    ('names', 'expected'),
    [
        (SOMETHING, [1, 0, -1, 3, 5, 4]),
        (('Swiping Left', 'Swiping Right', 'Stop Sign'), [1, 0, 2]),
        (('swipe_left', 'swipe_right', 'SWIPE-RIGHT', 'SWIPE-LEFT'), [1, 0, 3, 2]),
        (('TurnLeft', 'TurnRight', 'leftTurn'), [1, 0, -1]),
        (('bright light', 'BRIGHT', 'copyright', 'upright piano', 'leftover', 'Cleft'), range(6)),
        (('Turning Hand Clockwise', 'Turning Hand Counterclockwise', 'left'), [-1, -1, -1]),
        (('right hand clockwise', 'left hand clockwise'), [-1, -1]),
        ((), []),
    ],
)
def test_classes_become_those_with_left_and_right_exchanged(names, expected):
    assert mirrored(names, exchange=True).tolist() == list(expected)
    kept = [number if number == i else -1 for i, number in enumerate(expected)]
    assert mirrored(names, exchange=False).tolist() == kept


words = st.sampled_from(['left', 'right', 'Left', 'Right', 'hand', 'to', 'up'])


@given(st.lists(st.lists(words, max_size=4).map(' '.join), unique=True, max_size=12))
def test_exchanging_twice_changes_nothing(names):
    table = mirrored(names, exchange=True)
    for number, other in enumerate(table):
        assert other == -1 or table[other] == number


def test_there_is_no_mirror_where_flips_change_no_label():
    plain = {'label': ('up', 'down')}
    for flip_labels in ('ignore', 'keep', 'mirror'):
        assert find_mirror(flip_labels, plain, multi_label=False) is None
    assert find_mirror('ignore', {'label': SOMETHING}, multi_label=False) is None


def flipped(mirror, label, flip=1.0, num=None):
    """Which clips were flipped, and their labels."""
    label = jnp.asarray(label, jnp.int32)
    num = len(label)
    video = np.zeros((num, 1, 8, 8, 3), np.uint8)
    video[:, :, :, 4:] = 255
    batch = {
        'video': jnp.asarray(video),
        'box': jnp.tile(jnp.asarray([[0.0, 0, 8, 8]]), (num, 1)),
        'label': label,
        'position': jnp.arange(num),
    }
    settings = Augment(**recipes.base().augment.to_dict() | {'flip': flip})
    key = jax.random.key(3)
    out, label = jax.jit(lambda b: augment(b, key, settings, size=8, mirror=mirror))(batch)
    return (np.asarray(out[:, 0, 0, 0, 0]) > 0).tolist(), np.asarray(label).tolist()


def test_labels_of_one_head():
    label = [[i] for i in range(6)]
    mirror = find_mirror('mirror', {'label': SOMETHING}, multi_label=False)
    flips, labels = flipped(mirror, label)
    assert flips == [True, True, False, True, True, True]
    assert labels == [[1], [0], [2], [3], [5], [4]]
    keep = find_mirror('keep', {'label': SOMETHING}, multi_label=False)
    assert flipped(keep, label) == ([False] * 3 + [True] + [False] * 2, label)
    assert flipped(None, label) == ([True] * 6, label)


def test_one_head_can_forbid_the_flip_of_all():
    classes = {'verb': ('turn', 'hold'), 'noun': ('left hand', 'right hand', 'left foot')}
    mirror = find_mirror('mirror', classes, multi_label=False)
    flips, labels = flipped(mirror, [[0, 0], [1, 1], [1, 2]])
    assert flips == [True, True, False]
    assert labels == [[0, 1], [1, 0], [1, 2]]


def test_multi_hot_labels():
    mirror = find_mirror('mirror', {'label': SOMETHING}, multi_label=True)
    label = [[1, 0, 0, 1, 0, 0], [0, 0, 1, 1, 0, 0], [1, 1, 0, 0, 0, 1], [0] * 6]
    flips, labels = flipped(mirror, label)
    assert flips == [True, False, True, True]
    assert labels == [[0, 1, 0, 1, 0, 0], label[1], [1, 1, 0, 0, 1, 0], [0] * 6]


def test_label_and_video_change_together():
    mirror = find_mirror('mirror', {'label': ('left', 'right')}, multi_label=False)
    label = [[i % 2] for i in range(200)]
    flips, labels = flipped(mirror, label, flip=0.3)
    assert [(before != after) for before, after in zip(label, labels, strict=True)] == flips
    assert 32 < sum(flips) < 88  # 60, standard deviation 6.5.
