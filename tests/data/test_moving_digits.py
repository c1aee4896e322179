import collections
import csv
import itertools
import re
import subprocess
import sys

import numpy as np
import pytest
from scipy import stats

from vjax.data import moving_digits, moving_digits_tasks, video
from vjax.errors import UserError

SETS = ['motion6', 'curl', 'order12']  # Of the others, the motions are those of motion6.


def paths(motion_set, label, count, seed=7):
    """State paths [count, time, 4] of a class, in units of the periods; nothing is rendered."""
    rng = np.random.default_rng([seed, moving_digits.SETS[motion_set].index(label)])
    drawn = [moving_digits_tasks.draw_states(rng, label) for _ in range(count)]
    return np.stack(drawn) / moving_digits_tasks.PERIODS


@pytest.mark.parametrize('motion_set', SETS)
def test_a_single_frame_has_the_same_distribution_in_every_class(motion_set):
    # Chi-square on a grid over the whole torus: the joint distribution, not only each coordinate.
    for label in moving_digits.SETS[motion_set]:
        states = paths(motion_set, label, 2500)
        for time in (0, 9, 19):
            cells = np.minimum((states[:, time] * 4).astype(int), 3) @ [64, 16, 4, 1]
            assert stats.chisquare(np.bincount(cells, minlength=256)).pvalue > 1e-4, (label, time)


@pytest.mark.parametrize('motion_set', SETS)
def test_played_backwards_a_class_is_its_reversed_class(motion_set):
    def features(states):
        # Displacements between far frames, and where the middle lies: what tells classes apart.
        moves = (np.diff(states[:, [0, 5, 10, 14, 19]], axis=1) + 0.5) % 1 - 0.5
        return np.concatenate([moves.reshape(len(states), -1), states[:, 9]], axis=1).T

    for label in moving_digits.SETS[motion_set]:
        partner = moving_digits_tasks.reversed_class(motion_set, label)
        assert moving_digits_tasks.reversed_class(motion_set, partner) == label
        backwards = features(paths(motion_set, label, 1000)[:, ::-1])
        for mine, other in zip(
            backwards, features(paths(motion_set, partner, 1000, 8)), strict=True
        ):
            assert stats.ks_2samp(mine, other).pvalue > 1e-5, (label, partner)


def test_reversed_class_by_name():
    names = {
        ('motion6', 'left'): 'right',
        ('motion6', 'grow'): 'shrink',
        ('curl', 'orbit_ccw'): 'orbit_cw',
        ('order12', 'right_then_up'): 'down_then_left',
        ('order12', 'up_then_down'): 'up_then_down',
    }
    for (motion_set, name), partner in names.items():
        assert moving_digits_tasks.reversed_class(motion_set, name) == partner
    with pytest.raises(ValueError, match='no class of motion6'):
        moving_digits_tasks.reversed_class('motion6', 'orbit_cw')


@pytest.mark.parametrize(
    ('label', 'coordinate', 'sign'),
    [
        ('left', 0, -1),
        ('right', 0, 1),
        ('up', 1, -1),
        ('down', 1, 1),
        ('grow', 3, 1),
        ('shrink', 3, -1),
    ],
)
def test_the_picture_moves_as_the_name_says(label, coordinate, sign):
    """The digit's place and size, measured from the painted opacity alone."""
    index = moving_digits.SETS['motion6'].index(label)
    scene = moving_digits.draw_scene('motion6', 0, 'train', index)
    alpha = moving_digits.opacity(*scene.digits)
    assert alpha.shape == (20, 48, 48)
    mass = alpha.sum(axis=(1, 2))
    # The mean on a circle, which a digit that wraps around does not disturb.
    circle = np.exp(2j * np.pi * (np.arange(48) + 0.5) / 48)
    x, y = (np.angle((alpha.sum(axis=axis) * circle).sum(axis=1)) for axis in (1, 2))
    moved = {0: np.diff(np.unwrap(x)), 1: np.diff(np.unwrap(y)), 3: np.diff(np.log(mass))}
    assert np.sign(np.median(moved[coordinate])) == sign
    if coordinate == 3:
        # All but the jump from the largest to the smallest.
        assert np.mean(np.sign(moved[3]) == sign) >= 18 / 19
    else:
        assert np.all(np.sign(moved[coordinate]) == sign)
        assert np.ptp(mass) < 0.02 * mass.mean()


def test_splits_share_no_digit_and_no_part_of_a_photograph():
    splits = list(moving_digits.NUM_VIDEOS)
    digits = {split: set(moving_digits.digits_of(split).tolist()) for split in splits}
    assert sum(map(len, digits.values())) == len(set.union(*digits.values())) == 1797
    for photograph, reduction in itertools.product((0, 1), (1, 2)):
        regions = sorted(moving_digits.region(split, photograph, reduction) for split in splits)
        for (_, _, right, _), (left, _, _, _) in itertools.pairwise(regions):
            assert right < left
    for split in splits:
        for index in range(200):
            scene = moving_digits.draw_scene('motion6', 0, split, index)
            left, top, right, bottom = moving_digits.region(
                split, scene.photograph, scene.reduction
            )
            assert scene.digits[0].image in digits[split]
            assert scene.digits[0].numeral == index // 6 % 10
            y, x = scene.corner
            assert top <= y
            assert y + moving_digits._WINDOW <= bottom
            assert left <= x
            assert x + moving_digits._WINDOW <= right
            assert scene.camera.min() >= 0
            assert scene.camera.max() + moving_digits.SIZE + 1 <= moving_digits._WINDOW


def test_classes_are_balanced_and_nothing_else_depends_on_them():
    scenes = [moving_digits.draw_scene('motion6', 0, 'train', i) for i in range(2400)]
    by_class = {
        label: [s for s in scenes if moving_digits.labels('motion6', s) == (label,)]
        for label in moving_digits.SETS['motion6']
    }
    for group in by_class.values():
        assert len(group) == 400
        assert np.bincount([s.digits[0].numeral for s in group]).tolist() == [40] * 10
        assert sum(s.disc is not None for s in group) == 100
    attributes = {
        'light': lambda s: s.light,
        'noise': lambda s: s.noise,
        'photograph': lambda s: s.photograph,
        'camera': lambda s: s.camera[-1, 0] - s.camera[0, 0],
        'red': lambda s: s.digits[0].colour[0],
        'column': lambda s: s.corner[1],
    }
    for name, attribute in attributes.items():
        samples = [[attribute(s) for s in group] for group in by_class.values()]
        assert stats.kruskal(*samples).pvalue > 1e-3, name


# --- Several labels a video ---


def test_two_motions_are_every_pair_equally_often_whichever_is_in_front():
    scenes = [moving_digits.draw_scene('two_motions', 0, 'test', i) for i in range(480)]
    motions = moving_digits.SETS['two_motions']
    assert motions == moving_digits.SETS['motion6']
    pairs = collections.Counter(tuple(d.motion for d in scene.digits) for scene in scenes)
    assert pairs == dict.fromkeys(itertools.permutations(motions, 2), 16)
    for scene in scenes[:30]:
        (label,) = moving_digits.labels('two_motions', scene)
        assert sorted(label.split('|')) == label.split('|')
        assert set(label.split('|')) == {digit.motion for digit in scene.digits}
        assert scene.disc is None


def test_one_frame_of_two_digits_tells_nothing_of_their_motions():
    # Chi-square on the halves of each coordinate of both digits at once: also of how they lie to each
    # other, as if one of two that meet had to come from the left.
    scenes = [moving_digits.draw_scene('two_motions', 5, 'train', i) for i in range(4500)]
    floor = np.array([0, 0, 0, np.log(0.75)])
    for motion in moving_digits.SETS['two_motions']:
        chosen = [s for s in scenes if any(d.motion == motion for d in s.digits)]
        assert len(chosen) == 1500
        for time in (0, 10, 19):
            states = np.stack([[d.states[time] - floor for d in s.digits] for s in chosen])
            halves = (states / moving_digits_tasks.PERIODS * 2).astype(int).reshape(-1, 8)
            assert set(np.unique(halves)) == {0, 1}
            cells = np.bincount(halves @ 2 ** np.arange(8), minlength=256)
            assert stats.chisquare(cells).pvalue > 1e-4, (motion, time)
            # The vector from one to the other, the one of this motion first.
            order = [int(s.digits[0].motion != motion) for s in chosen]
            rows = np.arange(len(chosen))
            apart = states[rows, order] - states[rows, np.subtract(1, order)]
            eighths = (apart / moving_digits_tasks.PERIODS % 1 * 8).astype(int)[:, [0, 1]]
            cells = np.bincount(eighths @ [8, 1], minlength=64)
            assert stats.chisquare(cells).pvalue > 1e-4, (motion, time)


def test_two_digits_are_both_in_the_picture_the_second_in_front():
    covered = 0
    for index in range(12):
        scene = moving_digits.draw_scene('two_motions', 0, 'train', index)
        frames, _ = moving_digits.render('two_motions', 0, 'train', index)
        back, front = (moving_digits.opacity(digit) for digit in scene.digits)
        seen = (back > 0.99) & (front < 0.01), front > 0.99
        for digit, pixels in zip(scene.digits, seen, strict=True):
            assert pixels.sum() > 40
            # The noise's standard deviation is 0.02 at most.
            assert np.abs(frames[pixels] / 255 - digit.colour).mean() < 0.03
        covered += ((back > 0.99) & (front > 0.99)).any()
    assert covered > 0


def test_digit_and_motion_are_independent_of_each_other():
    scenes = [moving_digits.draw_scene('digit_and_motion', 0, 'test', i) for i in range(480)]
    pairs = collections.Counter(moving_digits.labels('digit_and_motion', scene) for scene in scenes)
    motions = moving_digits.SETS['digit_and_motion']
    assert pairs == dict.fromkeys(itertools.product('01234', motions), 16)
    # Nearly upright and larger, unlike in motion6; else it moves as there.
    tilts = np.array([scene.digits[0].states[:, 2] for scene in scenes])
    assert 0.19 < np.abs(tilts).max() <= 0.2
    assert np.ptp(tilts, axis=1).max() == 0
    assert abs(tilts.mean()) < 0.03
    plain = moving_digits.draw_scene('motion6', 0, 'test', 77).digits[0]
    digit = moving_digits.draw_scene('digit_and_motion', 0, 'test', 77).digits[0]
    np.testing.assert_array_equal(digit.states[:, :2], plain.states[:, :2])
    np.testing.assert_allclose(digit.states[:, 3], plain.states[:, 3] + np.log(1.3))


# --- Files ---


def test_render_is_a_function_of_its_arguments():
    first, (label,) = moving_digits.render('motion6', 3, 'test', 17)
    assert first.shape == (20, 48, 48, 3)
    assert first.dtype == np.uint8
    assert label == moving_digits.SETS['motion6'][17 % 6]
    again, _ = moving_digits.render('motion6', 3, 'test', 17)
    np.testing.assert_array_equal(first, again)
    for other in (
        ('motion6', 4, 'test', 17),
        ('motion6', 3, 'train', 17),
        ('motion6', 3, 'test', 23),
    ):
        assert np.any(moving_digits.render(*other)[0] != first)


def test_generate_writes_files_that_decode_to_what_was_rendered(tmp_path, monkeypatch):
    small = {'num_train': 12, 'num_validation': 4, 'num_test': 8}
    moving_digits.generate(tmp_path, 'curl', **small, workers=2)
    with (tmp_path / 'train.csv').open() as file:
        header, *rows = list(csv.reader(file))
    assert header == ['path', 'label']
    assert len(rows) == 12
    assert rows == sorted(rows)
    labels = dict(rows)
    index = 5
    name = moving_digits.file_name('curl', 0, 'train', index)
    frames, (label,) = moving_digits.render('curl', 0, 'train', index)
    assert labels[f'videos/train/{name}'] == label
    film = video.decode(tmp_path / f'videos/train/{name}')
    assert film.fps == pytest.approx(12)
    assert len(film.frames) == 20
    assert np.abs(np.stack(film.frames).astype(int) - frames).mean() < 6

    # Again, with one file gone and by another number of workers: the same bytes, the rest untouched.
    lost = tmp_path / f'videos/train/{name}'
    content = lost.read_bytes()
    kept = {
        file: file.stat().st_mtime_ns for file in tmp_path.glob('videos/*/*.mp4') if file != lost
    }
    assert len(kept) == 23
    lost.unlink()
    moving_digits.generate(tmp_path, 'curl', **small, workers=1)
    assert lost.read_bytes() == content
    assert {file: file.stat().st_mtime_ns for file in kept} == kept
    assert not list(tmp_path.glob('videos/*/.*'))

    with pytest.raises(UserError, match='another rendering'):
        moving_digits.generate(tmp_path, 'motion6', **small)
    with pytest.raises(UserError, match='another rendering'):
        moving_digits.generate(tmp_path, 'curl', **small, seed=1)


@pytest.mark.parametrize(
    ('motion_set', 'header', 'labels'),
    [
        ('two_motions', ['path', 'labels'], r'(\w+)\|(?!\1)\w+'),
        (
            'digit_and_motion',
            ['path', 'digit', 'motion'],
            r'[0-4],(left|right|up|down|grow|shrink)',
        ),
    ],
)
def test_generate_writes_several_labels(tmp_path, motion_set, header, labels):
    moving_digits.generate(
        tmp_path, motion_set, num_train=0, num_validation=0, num_test=3, workers=1
    )
    with (tmp_path / 'test.csv').open() as file:
        first, *rows = list(csv.reader(file))
    assert first == header
    assert len(rows) == 3
    found = {path: tuple(values) for path, *values in rows}
    for i in range(3):
        name = f'videos/test/{moving_digits.file_name(motion_set, 0, "test", i)}'
        assert found[name] == moving_digits.render(motion_set, 0, 'test', i)[1]
        assert re.fullmatch(labels, ','.join(found[name]))


def test_file_names_tell_nothing():
    names = [moving_digits.file_name('motion6', 0, 'train', i) for i in range(2400)]
    assert len(set(names)) == 2400
    # The class of each place in the alphabet: neighbours agree as often as by chance.
    classes = np.argsort(names) % 6
    assert 0.13 < np.mean(classes[1:] == classes[:-1]) < 0.21


def test_wrong_arguments_are_user_errors(tmp_path):
    with pytest.raises(UserError, match="no set 'motion7'"):
        moving_digits.generate(tmp_path, 'motion7')
    with pytest.raises(UserError, match='num_test'):
        moving_digits.generate(tmp_path, num_test=-1)


def test_the_command_line(tmp_path):
    command = [
        sys.executable,
        '-m',
        'vjax.data.moving_digits',
        f'--out={tmp_path}',
        '--set=order12',
    ]
    counts = ['--num_train=2', '--num_validation=0', '--num_test=1', '--workers=1']
    done = subprocess.run([*command, *counts], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert '3 videos' in done.stdout
    assert (tmp_path / 'validation.csv').read_text() == 'path,label\n'
    done = subprocess.run([*command, '--set=motion5'], capture_output=True, text=True)
    assert done.returncode == 2
