"""Several labels a video, from the CSV to the prediction: which digit it is, and how it moves."""

import csv
import dataclasses
import itertools
import json

import numpy as np
import pytest

from vjax import cli, describe, evaluate, predict
from vjax import prepare as prepare_module
from vjax.data import moving_digits, records, stores
from vjax.data.annotations.labels_csv import read_labels
from vjax.errors import UserError
from vjax.prepare import prepare
from vjax.train import train
from vjax.training import runs

MOTIONS = moving_digits.SETS['motion6']


def rows_of(split, count):
    """Path, digit and motion of the first videos of a split, as the fixture `digits` has them."""
    for i in range(count):
        (digit,) = moving_digits.draw_scene('motion6', 0, split, i).digits
        name = f'videos/{split}/{moving_digits.file_name("motion6", 0, split, i)}'
        yield name, f'digit {digit.numeral}', digit.motion


def write_csv(path, header, rows):
    with path.open('w', encoding='utf-8', newline='') as file:
        csv.writer(file).writerows([header, *rows])
    return path


@pytest.fixture(scope='module')
def two_heads(digits, tmp_path_factory):
    """The embedded data set prepared with two columns: its videos' folder, and its own."""
    folder = tmp_path_factory.mktemp('two_heads')
    videos = digits.parent / 'videos'
    for split, count in (('train', 48), ('validation', 12), ('test', 12)):
        labels = write_csv(
            folder / f'{split}.csv', ('path', 'digit', 'motion'), rows_of(split, count)
        )
        prepare(videos, labels, folder / 'set', split, short_side=48, workers=1)
    return videos, folder / 'set'


def two_steps(dataset, *overrides):
    overrides = [f'--config.{o}' for o in (f'dataset.path={dataset}', 'eval.every=2', *overrides)]
    return cli.load_config('configs/vivit/moving_digits.py:tiny', overrides)


@pytest.fixture(scope='module')
def workdir(two_heads, tmp_path_factory):
    workdir = tmp_path_factory.mktemp('run')
    train(two_steps(two_heads[1]), workdir)
    return workdir


# --- Prepared ---


def test_a_column_is_a_head(two_heads):
    dataset = records.open_dataset(two_heads[1])
    names = tuple(f'digit {i}' for i in range(8))
    assert list(dataset.classes.items()) == [('digit', names), ('motion', tuple(sorted(MOTIONS)))]
    assert dataset.splits['train'].videos_per_class == (6,) * 8 + (8,) * 6
    assert dataset.splits['test'].videos_per_class == (6, 6) + (0,) * 6 + (2,) * 6
    index = stores.open_store(dataset, 'test').index
    for i, row in enumerate(rows_of('test', 12)):
        ids = zip(dataset.classes.values(), index.label(i), strict=True)
        assert (index.names()[i], *(of[j] for of, j in ids)) == row


def test_one_named_column_is_one_named_head(two_heads, tmp_path):
    videos, _ = two_heads
    rows = [(path, motion) for path, _, motion in rows_of('test', 2)]
    labels = write_csv(tmp_path / 'labels.csv', ('Path', 'Verb'), rows)
    assert read_labels(labels) == (('verb',), rows)
    dataset = prepare(videos, labels, tmp_path / 'set', 'test', short_side=16, workers=1)
    assert dataset.classes == {'verb': tuple(sorted(motion for _, motion in rows))}
    assert records.open_dataset(tmp_path / 'set') == dataset


def test_a_class_list_for_each_head_decides_the_ids(two_heads, tmp_path, capsys):
    videos, _ = two_heads
    labels = write_csv(tmp_path / 'l.csv', ('path', 'digit', 'motion'), rows_of('test', 6))
    (tmp_path / 'digits.txt').write_text('digit 1\ndigit 0\n')
    (tmp_path / 'motions.txt').write_text('\n'.join(MOTIONS))
    prepare_module.main(
        [
            *(f'--videos={videos}', f'--annotations={labels}', f'--out={tmp_path / "set"}'),
            *('--split=test', '--short_side=16', '--workers=1'),
            *(f'--classes=motion={tmp_path / "motions.txt"}',),
            *('--classes', f'digit={tmp_path / "digits.txt"}'),
        ]
    )
    assert '8 classes (2 digit + 6 motion)' in capsys.readouterr().out
    classes = records.open_dataset(tmp_path / 'set').classes
    assert list(classes.items()) == [('digit', ('digit 1', 'digit 0')), ('motion', MOTIONS)]


def test_other_labels_than_those_of_the_data_set_are_refused(two_heads, tmp_path):
    videos, out = two_heads
    header, (row, *_) = ('path', 'digit', 'motion'), rows_of('test', 1)
    wrong = write_csv(tmp_path / 'wrong.csv', header, [(row[0], 'digit 0', 'lfet')])
    sentence = r"in the column 'motion' that .* does not know: 'lfet' \(did you mean 'left'\?\)"
    with pytest.raises(UserError, match=sentence):
        prepare(videos, wrong, out, 'new', short_side=48)
    # A class of the other head is as unknown as any.
    wrong = write_csv(tmp_path / 'wrong.csv', header, [(row[0], 'left', 'left')])
    with pytest.raises(UserError, match="in the column 'digit'"):
        prepare(videos, wrong, out, 'new', short_side=48)
    swapped = write_csv(tmp_path / 'swapped.csv', ('path', 'motion', 'digit'), [row])
    sentence = r'columns path,motion,digit, but .* is made with path,digit,motion'
    with pytest.raises(UserError, match=sentence):
        prepare(videos, swapped, out, 'new', short_side=48)
    one = write_csv(tmp_path / 'one.csv', ('path', 'label'), [row[:2]])
    with pytest.raises(UserError, match=r'columns path,label, but .* path,digit,motion'):
        prepare(videos, one, out, 'new', short_side=48)
    with pytest.raises(UserError, match="already has a split 'test', made from other annotations"):
        prepare(videos, write_csv(tmp_path / 'a.csv', header, [row]), out, 'test', short_side=48)


@pytest.mark.parametrize(
    ('classes', 'sentence'),
    [
        (
            ['digit={file}'],
            "no file for 'motion'; write --classes digit=FILE --classes motion=FILE",
        ),
        (['{file}'], 'does not say whose classes: write --classes digit=FILE'),
        (['digit={file}', '{file}'], 'does not say whose classes'),
        (['digit={file}', 'digit={file}'], 'one for each head'),
        (['digit={file}', 'verb={file}'], "no column 'verb'; write --classes digit=FILE"),
        (['digit={file}', 'motion=none.txt'], r'none\.txt cannot be read'),
        (['digit={file}', 'motion={file}'], "in the column 'motion' that --classes does not know"),
    ],
)
def test_wrong_class_lists_are_one_sentence(two_heads, tmp_path, classes, sentence):
    videos, _ = two_heads
    labels = write_csv(tmp_path / 'l.csv', ('path', 'digit', 'motion'), rows_of('test', 2))
    file = tmp_path / 'classes.txt'
    file.write_text('digit 0\ndigit 1\n')
    arguments = [f'--videos={videos}', f'--annotations={labels}', f'--out={tmp_path / "set"}']
    arguments += ['--split=test', *(f'--classes={c.format(file=file)}' for c in classes)]
    with pytest.raises(UserError, match=sentence) as error:
        prepare_module.main(arguments)
    assert '\n' not in str(error.value)
    assert not (tmp_path / 'set').exists() or not list((tmp_path / 'set').iterdir())


# --- Trained, evaluated, used ---


def check_scores(scores, prefix=''):
    keys = {'loss', *(f'{head}top{k}' for head in ('', 'digit/', 'motion/') for k in (1, 5))}
    keys |= {f'{head}/{m}' for head in ('digit', 'motion') for m in ('mean_class_accuracy', 'ece')}
    assert {prefix + key for key in keys} <= scores.keys()
    for k in (1, 5):
        of_heads = [scores[f'{prefix}{head}/top{k}'] for head in ('digit', 'motion')]
        assert 0 <= scores[f'{prefix}top{k}'] <= min(of_heads) <= max(of_heads) <= 1
    assert np.isfinite(scores[f'{prefix}loss'])


def test_a_run_has_the_heads_logits_and_metrics(workdir):
    about = json.loads((workdir / 'config.json').read_text())
    assert about['config']['model']['num_classes'] == 14
    assert list(about['classes']) == ['digit', 'motion']
    assert runs.load_run(workdir).params['head']['logits']['bias'].shape == (14,)
    lines = [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]
    # The head starts at zero: the loss is the sum of the logs of the class counts.
    assert lines[0]['train/loss'] == pytest.approx((np.log(8) + np.log(6)) / 2, abs=1e-3)
    assert 0 <= lines[0]['train/top1'] <= 1
    (scores,) = [line for line in lines if 'validation/loss' in line]
    check_scores(scores, 'validation/')


def test_evaluation_prints_and_writes_every_head(workdir, capsys):
    evaluate.main([f'--workdir={workdir}', '--views=2x1'])
    scores = json.loads((workdir / 'evaluation.json').read_text())
    check_scores(scores)
    first, *heads = capsys.readouterr().out.splitlines()
    assert f'top-1 {scores["top1"]:.2%}, top-5 {scores["top5"]:.2%}' in first
    assert [line.split(':')[0].strip() for line in heads] == ['digit', 'motion']
    assert f'top-1 {scores["motion/top1"]:.2%}' in heads[1]


def test_evaluation_writes_every_prediction_and_who_is_taken_for_whom(workdir, tmp_path):
    files = {'predictions': tmp_path / 'videos.csv', 'confusion': tmp_path / 'matrix.csv'}
    scores = evaluate.evaluate_run(workdir, out=tmp_path / 'scores.json', **files)
    assert scores['num_undecodable'] == 0
    with files['predictions'].open(encoding='utf-8', newline='') as file:
        videos = list(csv.DictReader(file))
    assert [int(video['index']) for video in videos] == list(range(12))
    labels = [(video['digit/label'], video['motion/label']) for video in videos]
    rows = list(rows_of('test', 12))
    assert [video['source'] for video in videos] == [row[0] for row in rows]
    assert labels == [row[1:] for row in rows]
    for head, names in runs.load_run(workdir).classes.items():
        with (tmp_path / f'matrix-{head}.csv').open(encoding='utf-8', newline='') as file:
            header, *rows = csv.reader(file)
        assert header == ['class', *names, '(none)']
        assert [row[0] for row in rows] == list(names)
        counts = np.array([row[1:] for row in rows], int)
        assert counts.sum() == 12
        assert np.trace(counts) / 12 == scores[f'{head}/top1']
        right = [video[f'{head}/label'] == video[f'{head}/class_1'] for video in videos]
        ties = counts[:, -1].sum() / 12
        assert scores[f'{head}/top1'] <= np.mean(right) <= scores[f'{head}/top1'] + ties
    with pytest.raises(UserError, match=r"--predictions='.*none/a\.csv': there is no folder"):
        evaluate.evaluate_run(workdir, predictions=tmp_path / 'none' / 'a.csv')


def test_a_prediction_names_the_best_combinations_and_each_heads_classes(
    workdir, two_heads, capsys
):
    videos, _ = two_heads
    file = str(videos / next(rows_of('test', 1))[0])
    predict.main([f'--workdir={workdir}', '--json', '--top=50', file])
    result = json.loads(capsys.readouterr().out)
    classes = runs.load_run(workdir).classes
    alone = {}
    for head, names in classes.items():
        found = result['heads'][head]
        assert {entry['label'] for entry in found} == set(names)
        alone[head] = {entry['label']: entry['score'] for entry in found}
        assert sum(alone[head].values()) == pytest.approx(1, abs=1e-5)
    # All 48 combinations: every product of the heads' probabilities, best first.
    top = result['top']
    assert {entry['label'] for entry in top} == {
        ' '.join(pair) for pair in itertools.product(*classes.values())
    }
    for entry in top:
        digit, motion = entry['classes']['digit'], entry['classes']['motion']
        assert entry['label'] == f'{digit} {motion}'
        expected = alone['digit'][digit] * alone['motion'][motion]
        assert entry['score'] == pytest.approx(expected, rel=1e-5)
    scores = [entry['score'] for entry in top]
    assert scores == sorted(scores, reverse=True)
    predict.main([f'--workdir={workdir}', '--top=2', file])
    best, second = top[:2]
    assert capsys.readouterr().out == (
        f'{file}: {best["label"]} {best["score"]:.1%}  {second["label"]} {second["score"]:.1%}\n'
    )


@pytest.mark.slow
def test_the_sigmoid_loss_trains_and_scores_each_class_alone(two_heads, tmp_path):
    videos, dataset = two_heads
    scores = train(
        two_steps(dataset, 'loss.name=sigmoid', 'loss.mixup=0.2', 'accumulate=1'), tmp_path
    )
    check_scores(scores)
    lines = [json.loads(line) for line in (tmp_path / 'metrics.jsonl').read_text().splitlines()]
    assert lines[0]['train/loss'] == pytest.approx(14 * np.log(2) / 2, abs=1e-3)
    evaluated = evaluate.evaluate_run(tmp_path, split='validation')
    assert evaluated['loss'] == pytest.approx(scores['loss'], abs=1e-5)
    file = videos / next(rows_of('test', 1))[0]
    (result,) = predict.predict(tmp_path, [file], top=8)
    assert sum(entry['score'] for entry in result['heads']['digit']) > 1.5


@pytest.mark.slow
def test_a_run_goes_on_with_the_same_heads_only(workdir, digits, two_heads, tmp_path):
    videos, _ = two_heads
    with pytest.raises(UserError, match=r'run of another config \(.*num_classes: 14 -> 6; classes'):
        train(two_steps(digits), workdir)
    sentence = r'other classes .*\(6 classes and 14 classes \(8 digit \+ 6 motion\)\)'
    with pytest.raises(UserError, match=sentence):
        evaluate.evaluate_run(workdir, dataset_path=str(digits))
    # The same columns the other way round are other heads.
    rows = [(path, motion, digit) for path, digit, motion in rows_of('train', 48)]
    labels = write_csv(tmp_path / 'swapped.csv', ('path', 'motion', 'digit'), rows)
    prepare(videos, labels, tmp_path / 'set', 'train', short_side=48, workers=1)
    with pytest.raises(UserError, match='run of another config'):
        train(two_steps(tmp_path / 'set'), workdir)
    with pytest.raises(UserError, match='other classes'):
        evaluate.evaluate_run(workdir, dataset_path=str(tmp_path / 'set'), split='train')


def test_a_run_is_not_evaluated_on_videos_of_any_number_of_labels(workdir, monkeypatch):
    opened = records.open_dataset

    def as_multi_label(path):
        return dataclasses.replace(opened(path), multi_label=True)

    monkeypatch.setattr(records, 'open_dataset', as_multi_label)
    sentence = r'of the data set .* are multi-label, .* trained on are of one class each'
    with pytest.raises(UserError, match=sentence):
        evaluate.evaluate_run(workdir)


def test_a_wrong_class_count_says_how_the_right_one_comes_about(two_heads, tmp_path):
    sentence = r'num_classes=6, but .* has 14 classes \(8 digit \+ 6 motion\); leave it unset'
    with pytest.raises(UserError, match=sentence):
        train(two_steps(two_heads[1], 'model.num_classes=6'), tmp_path)
    assert describe.describe(two_steps(two_heads[1]))['num_classes'] == 14


def test_the_best_of_one_head_are_its_classes_in_order():
    scores = {'label': np.log(np.array([0.2, 0.5, 0.3], np.float32))}
    best = predict.best({'label': ('a', 'b', 'c')}, scores, 2)
    assert [entry['label'] for entry in best] == ['b', 'c']
    assert best[0] == {'label': 'b', 'score': pytest.approx(0.5)}
