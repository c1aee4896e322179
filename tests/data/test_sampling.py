"""Frame indices: against Scenic's table, against numpy, and their invariants."""

import json
import pathlib

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from vjax.data import sampling

TABLE = pathlib.Path(__file__).parents[3] / 'shared' / 'scenic' / 'aux' / 'aux_clip_sampling.json'
lengths = st.integers(1, 400)
frames = st.integers(1, 64)
strides = st.integers(1, 8)


def views(length, num_frames, step, num_views, short_clips='loop'):
    timing = {'num_frames': num_frames, 'step': step}
    starts = sampling.view_starts(length, **timing, num_views=num_views)
    return [
        sampling.frame_indices(start, length, **timing, short_clips=short_clips).numpy().tolist()
        for start in starts
    ]


def test_indices_equal_scenics_table():
    if not TABLE.exists():
        pytest.skip(f'{TABLE.name} is not here')
    table = json.loads(TABLE.read_text())
    assert table
    for name, entry in table.items():
        length, num_frames, stride = (
            int(part.lstrip('lenframstid')) for part in name.split('_')
        )  # len5_frames32_stride2
        assert views(length, num_frames, stride, 1) == [entry['middle']], name
        assert views(length, num_frames, stride, 4) == entry['linspace4'], name
        bound = entry['random_offset_max_exclusive']
        starts = {
            int(
                sampling.random_start(
                    length, num_frames=num_frames, step=stride, seed=tf.constant([7, i])
                )
            )
            for i in range(20)
        }
        assert starts <= set(range(bound)), name


@given(lengths, frames, strides, st.integers(2, 12))
@settings(max_examples=25, deadline=None)
def test_views_equal_numpys_linspace(length, num_frames, stride, num_views):
    starts = sampling.view_starts(
        length, num_frames=num_frames, step=stride, num_views=num_views
    ).numpy()
    room = max(0, length - num_frames * stride)
    np.testing.assert_array_equal(starts, np.linspace(0, room, num_views).astype(np.int32))


def test_views_equal_numpys_linspace_inside_a_compiled_dataset():
    rooms = np.arange(2000)
    data = tf.data.Dataset.from_tensor_slices(rooms).map(
        lambda room: sampling.view_starts(room + 1, num_frames=1, step=1, num_views=10)
    )
    found = np.stack(list(data.as_numpy_iterator()))
    expected = np.stack([np.linspace(0, room, 10).astype(np.int32) for room in rooms])
    np.testing.assert_array_equal(found, expected)


@given(lengths, frames, strides, st.sampled_from([23.976, 24.0, 25.0, 29.97, 30.0, 59.94, 12.0]))
@settings(max_examples=25, deadline=None)
def test_a_rate_in_time_equals_the_stride_it_stands_for(length, num_frames, stride, rate):
    stored = np.float32(rate)  # As the record keeps it.
    step = sampling.frame_step(1, rate / stride, stored)
    for num_views in (1, 3):
        assert views(length, num_frames, step, num_views) == views(
            length, num_frames, stride, num_views
        )
    for i in range(3):
        drawn = [
            int(
                sampling.random_start(
                    length, num_frames=num_frames, step=s, seed=tf.constant([3, i])
                )
            )
            for s in (step, stride)
        ]
        assert drawn[0] == drawn[1]


def test_a_rate_in_time_takes_the_nearest_frames():
    step = sampling.frame_step(99, 10.0, 25.0)  # 2.5 frames
    indices = sampling.frame_indices(4, 100, num_frames=5, step=step, short_clips='loop')
    assert indices.numpy().tolist() == [4, 7, 9, 12, 14]
    slow = sampling.frame_step(99, 30.0, 15.0)  # Half a frame: every frame twice.
    indices = sampling.frame_indices(0, 100, num_frames=6, step=slow, short_clips='loop')
    assert indices.numpy().tolist() == [0, 1, 1, 2, 2, 3]


@given(lengths, frames, st.floats(0.2, 9), st.integers(0, 2**31 - 1))
@settings(max_examples=25, deadline=None)
def test_training_clips_stay_inside_videos_that_are_long_enough(length, num_frames, step, draw):
    start = int(
        sampling.random_start(length, num_frames=num_frames, step=step, seed=tf.constant([draw, 1]))
    )
    indices = {
        short_clips: sampling.frame_indices(
            start, length, num_frames=num_frames, step=step, short_clips=short_clips
        ).numpy()
        for short_clips in sampling.SHORT_CLIPS
    }
    for found in indices.values():
        assert found.min() >= 0
        assert found.max() < length
    assert (np.diff(indices['pad']) >= 0).all()
    unbounded = start + np.floor(np.arange(num_frames) * step + 0.5)
    if unbounded[-1] < length:
        np.testing.assert_array_equal(indices['loop'], unbounded)
        np.testing.assert_array_equal(indices['pad'], unbounded)
    else:
        assert start == 0
        np.testing.assert_array_equal(indices['loop'], unbounded % length)
        np.testing.assert_array_equal(indices['pad'], np.minimum(unbounded, length - 1))


def test_steps_are_not_rounded_to_float32():
    # 5 * 1.9 is 9.5 in float64, and less in float32.
    for step in (1.9, tf.constant(1.9, tf.float64)):
        indices = sampling.frame_indices(0, 99, num_frames=6, step=step, short_clips='loop')
        assert indices.numpy().tolist() == [0, 2, 4, 6, 8, 10]


def test_every_possible_start_is_drawn_equally_often():
    draws = [
        int(sampling.random_start(11, num_frames=4, step=2, seed=tf.constant([0, i])))
        for i in range(1000)
    ]
    counts = np.bincount(draws, minlength=5)
    assert len(counts) == 5  # 0 .. 11 - 3 * 2 - 1
    assert counts.min() > 150  # 200 expected, standard deviation 13


def test_orders():
    indices = tf.constant([3, 5, 7, 9, 11])

    def reordered(order, training, seed):
        return (
            sampling.reorder(indices, order, training=training, seed=tf.constant([0, seed]))
            .numpy()
            .tolist()
        )

    assert reordered('forward', True, 0) == [3, 5, 7, 9, 11]
    assert reordered('reversed', True, 0) == [11, 9, 7, 5, 3]
    assert reordered('still', False, 0) == [7] * 5
    still = [reordered('still', True, i) for i in range(100)]
    assert all(len(set(clip)) == 1 for clip in still)
    assert {clip[0] for clip in still} == {3, 5, 7, 9, 11}
    shuffled = [reordered('shuffled', True, i) for i in range(50)]
    assert all(sorted(clip) == [3, 5, 7, 9, 11] for clip in shuffled)
    assert len({tuple(clip) for clip in shuffled}) > 20
    assert shuffled == [reordered('shuffled', True, i) for i in range(50)]
