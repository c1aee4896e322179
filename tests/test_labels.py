"""Videos of several labels, rendered: which labels reach the model. experiments/labels trains them."""

import csv
import json

import numpy as np
import pytest

from vjax import cli, evaluate, predict
from vjax.data import moving_digits
from vjax.errors import UserError
from vjax.prepare import main as prepare_main
from vjax.train import train
from vjax.training import runs

pytestmark = pytest.mark.slow  # A minute of compiling.

TASKS = ('two_motions', 'digit_and_motion')
# Thirty test videos have all motions, pairs of them, and digits.
COUNTS = {'train': 16, 'validation': 0, 'test': 30}


@pytest.fixture(scope='module', params=TASKS)
def task(request):
    return request.param


@pytest.fixture(scope='module')
def videos(task, tmp_path_factory):
    """A few videos of a set, with their annotations."""
    folder = tmp_path_factory.mktemp(task)
    counts = (f'--num_{split}={count}' for split, count in COUNTS.items())
    moving_digits.main([f'--set={task}', f'--out={folder}', '--workers=1', *counts])
    return folder


@pytest.fixture(scope='module')
def workdir(task, videos, tmp_path_factory):
    """A run of two steps on them."""
    folder = tmp_path_factory.mktemp('run')
    for split in ('test', 'train'):  # The first one settles the classes.
        source = (f'--videos={videos}', f'--annotations={videos / f"{split}.csv"}')
        target = (f'--out={folder / "set"}', f'--split={split}', '--short_side=48', '--workers=1')
        prepare_main([*source, *target])
    path = f'--config.dataset.path={folder / "set"}'
    config = cli.load_config(f'configs/vivit/moving_digits.py:task={task},tiny', [path])
    train(config, folder / 'run')
    return folder / 'run'


def annotations(videos, split):
    """Path -> the other columns."""
    with (videos / f'{split}.csv').open(encoding='utf-8', newline='') as file:
        return {row.pop('path'): row for row in csv.DictReader(file)}


def test_the_heads_are_those_of_the_set(task, workdir):
    run = runs.load_run(workdir)
    motions = sorted(moving_digits.SETS['motion6'])
    classes = {head: list(names) for head, names in run.classes.items()}
    if task == 'two_motions':
        assert (run.multi_label, classes) == (True, {'label': motions})
        loss = 6 * np.log(2)  # The head starts at zero.
    else:
        numerals = [str(i) for i in range(5)]
        assert (run.multi_label, classes) == (False, {'digit': numerals, 'motion': motions})
        loss = (np.log(5) + np.log(6)) / 2
    lines = [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]
    assert lines[0]['train/loss'] == pytest.approx(loss, abs=1e-3)


def test_an_evaluation_compares_with_the_rendered_labels(task, workdir, videos, tmp_path):
    written = tmp_path / 'predictions.csv'
    scores = evaluate.evaluate_run(workdir, predictions=written, out=tmp_path / 'scores.json')
    with written.open(encoding='utf-8', newline='') as file:
        rows = {row['source']: row for row in csv.DictReader(file)}
    truth = annotations(videos, 'test')
    assert scores['num_videos'] == len(rows) == 30
    if task == 'two_motions':
        assert {path: row['label'].split('|') for path, row in rows.items()} == {
            path: row['labels'].split('|') for path, row in truth.items()
        }
        assert 1 / 3 < scores['mAP'] < 0.7  # Two of six labels each; after two steps.
    else:
        for head in ('digit', 'motion'):
            label = {path: row[f'{head}/label'] for path, row in rows.items()}
            assert label == {path: row[head] for path, row in truth.items()}
            right = [row[f'{head}/class_1'] == row[f'{head}/label'] for row in rows.values()]
            assert scores[f'{head}/top1'] <= np.mean(right)
        assert 0 <= scores['top1'] <= scores['motion/top1'] < 0.6


def test_a_video_file_gets_a_probability_for_each_class(task, workdir, videos):
    path = next(iter(annotations(videos, 'test')))
    (result,) = predict.predict(workdir, [videos / path], top=60)
    if task == 'two_motions':
        assert len(result['top']) == 6
        # Each of its own: after two steps still near one half.
        assert sum(entry['score'] for entry in result['top']) > 1.5
    else:
        assert len(result['top']) == 30
        assert sum(entry['score'] for entry in result['top']) == pytest.approx(1, abs=1e-4)
        assert {head: len(found) for head, found in result['heads'].items()} == {
            'digit': 5,
            'motion': 6,
        }


def test_an_unknown_task_is_one_sentence():
    with pytest.raises(UserError, match=r"'task=motion7' is not one of motion6, two_motions,"):
        cli.load_config('configs/vivit/moving_digits.py:task=motion7', [])
