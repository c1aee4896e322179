"""Any number of labels a video, from the CSV to the prediction: what is in it, and how it moves."""

import csv
import json

import numpy as np
import pytest

from vjax import cli, evaluate, predict
from vjax.convert import convert
from vjax.errors import UserError
from vjax.prepare import prepare
from vjax.train import train
from vjax.training import runs
from vjax.training.checkpoints import Checkpoints

SPLITS = ('train', 'validation', 'test')


def rows_of(split, videos):
    """Path and labels of each video: its motion and two more, or, of every tenth, nothing."""
    with (videos / f'{split}.csv').open(encoding='utf-8', newline='') as file:
        for i, row in enumerate(csv.DictReader(file)):
            odd = ('odd',) if i % 2 else ()
            yield row['path'], () if i % 10 == 9 else ('digit', *odd, row['label'])


@pytest.fixture(scope='module')
def videos(digits):
    return digits.parent / 'videos'


@pytest.fixture(scope='module')
def dataset(videos, tmp_path_factory):
    folder = tmp_path_factory.mktemp('multi_label')
    for split in SPLITS:
        labels = folder / f'{split}.csv'
        with labels.open('w', encoding='utf-8', newline='') as file:
            rows = ((path, '|'.join(names)) for path, names in rows_of(split, videos))
            csv.writer(file).writerows([('path', 'labels'), *rows])
        prepare(videos, labels, folder / 'set', split, short_side=48, workers=1)
    return folder / 'set'


def two_steps(dataset, *overrides):
    overrides = [f'--config.{o}' for o in (f'dataset.path={dataset}', 'eval.every=1', *overrides)]
    return cli.load_config('configs/vivit/moving_digits.py:tiny', overrides)


SIGMOID = ('loss.name=sigmoid', 'checkpoint.every=1')


@pytest.fixture(scope='module')
def workdir(dataset, tmp_path_factory):
    workdir = tmp_path_factory.mktemp('run')
    train(two_steps(dataset, *SIGMOID), workdir)
    return workdir


def test_softmax_is_refused_before_anything_is_built(dataset, tmp_path):
    with pytest.raises(UserError, match=r'multi-label; set config\.loss\.name=sigmoid\.'):
        train(two_steps(dataset), tmp_path / 'run')
    assert not (tmp_path / 'run').exists()


def test_a_run_reports_what_several_labels_have(workdir):
    lines = [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]
    trained = [line for line in lines if 'train/loss' in line]
    # The head starts at zero: a loss of ln 2 for each class, and no answer.
    assert trained[0]['train/loss'] == pytest.approx(8 * np.log(2), abs=1e-3)
    assert trained[0]['train/exact_match'] == 0
    assert not any('top1' in name for line in lines for name in line)
    scored = {line['step']: line['validation/mAP'] for line in lines if 'validation/mAP' in line}
    assert scored.keys() == {1, 2}
    checkpoints = Checkpoints(workdir)
    assert checkpoints.best_step() == max(scored, key=lambda step: (scored[step], step))
    checkpoints.close()


def test_an_evaluation_writes_every_label_and_prediction(workdir, videos, tmp_path, capsys):
    files = [f'--{name}={tmp_path / name}.csv' for name in ('predictions', 'confusion')]
    evaluate.main([f'--workdir={workdir}', f'--out={tmp_path / "scores.json"}', *files])
    scores = json.loads((tmp_path / 'scores.json').read_text())
    assert {'loss', 'mAP', 'exact_match', 'ece', 'num_videos'} <= scores.keys()
    assert scores['num_videos'] == 12
    assert f'mAP {scores["mAP"]:.2%}' in capsys.readouterr().out
    with (tmp_path / 'predictions.csv').open(encoding='utf-8', newline='') as file:
        rows = list(csv.DictReader(file))
    found = [(row['source'], {*row['label'].split('|')} - {''}) for row in rows]
    assert found == [(path, {*names}) for path, names in rows_of('test', videos)]
    assert all(0 < float(row['probability_1']) < 1 for row in rows)
    with (tmp_path / 'confusion.csv').open(encoding='utf-8', newline='') as file:
        classes = {row['class']: row for row in csv.DictReader(file)}
    shown = [name for _, names in rows_of('test', videos) for name in names]
    for name, row in classes.items():
        counts = {column: int(count) for column, count in row.items() if column != 'class'}
        assert counts['true_positives'] + counts['false_negatives'] == shown.count(name)
        assert sum(counts.values()) == 12


def test_a_prediction_gives_each_class_a_probability_of_its_own(workdir, videos):
    path, _ = next(rows_of('test', videos))
    (result,) = predict.predict(workdir, [videos / path], top=8)
    assert {entry['label'] for entry in result['top']} == {*runs.load_run(workdir).classes['label']}
    # After two steps every answer is still near one half; of exclusive classes the sum is 1.
    assert sum(entry['score'] for entry in result['top']) > 2


@pytest.mark.slow
def test_a_converted_run_keeps_its_kind(workdir, tmp_path):
    convert(str(workdir), tmp_path / 'out')
    assert runs.load_run(tmp_path / 'out').multi_label
    scores = [evaluate.evaluate_run(path) for path in (workdir, tmp_path / 'out')]
    assert scores[0]['mAP'] == scores[1]['mAP']


@pytest.mark.slow
def test_a_run_is_used_on_videos_of_its_own_kind_only(workdir, videos, tmp_path):
    names = runs.load_run(workdir).classes['label']
    rows = [(path, labels[-1]) for path, labels in rows_of('test', videos) if labels]
    with (tmp_path / 'labels.csv').open('w', encoding='utf-8', newline='') as file:
        csv.writer(file).writerows([('path', 'label'), *rows])
    (tmp_path / 'classes.txt').write_text('\n'.join(names))
    prepare(
        videos,
        tmp_path / 'labels.csv',
        tmp_path / 'set',
        'test',
        short_side=48,
        workers=1,
        classes=tmp_path / 'classes.txt',
    )
    sentence = r'set .* are of one class each, .* trained on are multi-label'
    with pytest.raises(UserError, match=sentence):
        evaluate.evaluate_run(workdir, dataset_path=str(tmp_path / 'set'))
    with pytest.raises(UserError, match=r'config\.loss\.name=sigmoid'):
        evaluate.evaluate_run(workdir, overrides=['--config.loss.name=softmax'])
