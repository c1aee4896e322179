"""The order of the videos: each epoch all of them, no epoch like another."""

import itertools

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from vjax.data.shuffling import video_of_turn


def epoch(number, num_videos, seed=0):
    turns = tf.range(num_videos, dtype=tf.int64) + number * num_videos
    return video_of_turn(turns, num_videos=num_videos, seed=seed).numpy()


seeds = st.integers(0, 2**32 - 1)


@given(st.integers(1, 600), st.integers(0, 2**31), seeds)
@settings(max_examples=25, deadline=None)
def test_an_epoch_is_all_videos(num_videos, number, seed):
    assert (np.sort(epoch(number, num_videos, seed)) == np.arange(num_videos)).all()


@given(st.integers(1, 50), st.lists(st.integers(0, 400), min_size=1, max_size=6), seeds)
@settings(max_examples=10, deadline=None)
def test_a_turn_has_its_video_whatever_is_asked_beside_it(num_videos, turns, seed):
    together = video_of_turn(tf.constant(turns, tf.int64), num_videos=num_videos, seed=seed)
    alone = [
        int(video_of_turn(tf.constant([turn], tf.int64), num_videos=num_videos, seed=seed)[0])
        for turn in turns
    ]
    assert together.numpy().tolist() == alone


def test_every_bit_of_seed_and_epoch_counts():
    orders = {tuple(epoch(0, 2400, seed=0))}
    orders |= {tuple(epoch(2**bit, 2400, seed=0)) for bit in range(31)}
    orders |= {tuple(epoch(0, 2400, seed=2**bit)) for bit in range(32)}
    assert len(orders) == 64


@pytest.mark.parametrize(
    ('num_videos', 'batch'), [(2_400, 32), (9_537, 64), (168_913, 64), (240_436, 64)]
)
def test_videos_of_a_batch_meet_again_as_often_as_by_chance(num_videos, batch):
    """In the next epochs, and with the next seed; numpy's shuffles are within these bounds, too."""
    num_batches = num_videos // batch

    def batches(number, seed=0):
        """The batch of each video; those of what is left over are no batch."""
        found = np.full(num_videos, -1)
        order = epoch(number, num_videos, seed)[: num_batches * batch]
        found[order] = np.arange(len(order)) // batch
        return found

    chance = num_batches * batch * (batch - 1) / 2 * (batch - 1) / (num_videos - 1)
    ones = [batches(0), batches(1), batches(2), batches(0, seed=1), batches(256)]
    for one, other in itertools.combinations(ones, 2):
        both = (one >= 0) & (other >= 0)
        _, counts = np.unique(one[both] * num_batches + other[both], return_counts=True)
        met = (counts * (counts - 1) / 2).sum()
        # Six standard deviations of a Poisson distribution, and what the videos left over make of it.
        assert abs(met - chance) < 6 * np.sqrt(chance) + 0.02 * chance
