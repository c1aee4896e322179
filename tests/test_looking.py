"""The figures of experiments.looking: what a ratio of 1 means, and that masks lie on the digits."""

import numpy as np
import pytest

from experiments.looking import run
from vjax import cli, visualize
from vjax.data import moving_digits


@pytest.fixture(scope='module')
def clip():
    return cli.load_config('configs/vivit/moving_digits.py', []).clip


@pytest.mark.parametrize('index', [0, 3, 50])
def test_a_mask_is_where_the_digit_is_in_the_clips_frames(index, clip):
    """Where a mask is full the frame has the digit's colour, and only there."""
    mask = run.masks(index, clip)
    assert mask.shape == (8, 48, 48)
    frames, _ = moving_digits.render('motion6', 0, 'test', index)
    (digit,) = moving_digits.draw_scene('motion6', 0, 'test', index).digits
    shown = frames[2:18:2] / 255
    far = np.abs(shown - digit.colour).mean(axis=-1)
    assert far[mask > 0.99].mean() < 0.05
    assert far[mask < 0.01].mean() > 0.2
    assert np.abs(far - (1 - mask) * far[mask < 0.01].mean()).mean() < 0.1


def test_a_map_without_contrast_has_ratio_one(clip):
    mask = run.masks(3, clip)
    np.testing.assert_allclose(run.ratio(np.full((4, 6, 6), 0.3), mask), 1, rtol=1e-5)


def test_a_ratio_is_the_share_of_weight_over_the_share_of_area():
    mask = np.zeros((4, 8, 8), np.float32)
    mask[:2, :4, :2] = 1  # Half of the first of 2 x 2 x 2 tubelets: a 16th of the area.
    weights = np.zeros((2, 2, 2, 2))
    weights[0, 0, 0, 0] = 5
    weights[1, 0, 0, 0], weights[1, 1, 1, 1] = 1, 3
    np.testing.assert_allclose(run.ratio(weights, mask), [0.5 * 16, 0.125 * 16])


def test_the_table_has_a_line_for_each_map(tmp_path, monkeypatch):
    monkeypatch.setattr(run, 'HERE', tmp_path)
    rows = {key: [1.0, 3.0] for key in ('digit', 'other', 'itself')}
    own = run.summary({**rows, 'tokens': [np.array([1.0, 2.0]), np.array([3.0, 2.0])]})
    assert own['ratio'] == 2
    assert own['within_95'] == pytest.approx(1.96)
    assert own['videos_above_1'] == 0.5
    assert own['by_token'] == [2, 2]
    measured = {'top1': 0.5, 'maps': {'rollout': own, 'gather': own}}
    models = {'ViViT': {'trained': measured, 'untrained': measured}}
    run.write_table({'command': 'python', 'num_videos': 2, 'models': models})
    lines = (tmp_path / 'table.md').read_text().splitlines()
    assert len(lines) == 6
    assert '2.00 ± 1.96' in lines[4]


def test_a_rows_name_is_as_large_as_its_cells():
    cell = visualize.caption(np.zeros((3, 96, 96, 3), np.uint8), 'left', 12)
    made = run.heading('TokenLearner, 8 tokens', like=cell)
    assert made.shape == (3, cell.shape[1], 130, 3)
