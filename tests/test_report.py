"""The page of a run: what is in it, that it is nothing but text, and that a browser shows it."""

import base64
import collections
import csv
import hashlib
import html.parser
import io
import json
import re
import shutil
from pathlib import Path

import av
import matplotlib
import numpy as np
import pytest

from vjax import cli, evaluate, report, text
from vjax import config as configs
from vjax import train as command
from vjax.data import moving_digits, records
from vjax.errors import UserError
from vjax.prepare import prepare
from vjax.reports import films, findings, header, history, page, plots, sections, settings
from vjax.reports.contents import Contents, Evidence
from vjax.training import metrics, outputs, runs
from vjax.training.losses import Classification

CONFIG = 'configs/vivit/moving_digits.py:tiny'
# In the place of down, grow, left, right, shrink, up.
HOSTILE = (
    '<script>alert(1)</script>',
    '"><img src=x onerror=alert(1)>',
    r"$\frac{1}{0}$ & 'quotes'",
    '</title></style></svg><h1>日本語',
    'javascript:alert(1) \u202eltr',
    '{{ 7 * 7 }} ]]> --> \x08',
)
FILE = '"><img src=x onerror=alert(1)>\u202e & é.mp4'


def two_steps(dataset, *overrides):
    overrides = [f'--config.{o}' for o in (f'dataset.path={dataset}', 'eval.every=1', *overrides)]
    return cli.load_config(CONFIG, overrides)


def prepare_again(digits, folder, header, rows_of):
    """The fixture's videos with other labels: the folder of the data set."""
    videos = digits.parent / 'videos'
    for split in ('train', 'validation'):
        with (videos / f'{split}.csv').open(encoding='utf-8', newline='') as file:
            rows = [rows_of(row['path'], row['label']) for row in csv.DictReader(file)]
        labels = folder / f'{split}.csv'
        with labels.open('w', encoding='utf-8', newline='') as file:
            csv.writer(file).writerows([header, *rows])
        prepare(videos, labels, folder / 'set', split, short_side=48, workers=1)
    return folder / 'set'


@pytest.fixture(scope='module')
def hostile(digits, tmp_path_factory):
    """A run whose classes and one of whose files are called what they should not be."""
    folder = tmp_path_factory.mktemp('hostile')
    videos = folder / 'videos'
    shutil.copytree(digits.parent / 'videos', videos)
    names = dict(zip(sorted(moving_digits.SETS['motion6']), HOSTILE, strict=True))
    renamed = {}
    for path in sorted((videos / 'videos/validation').iterdir())[:1]:
        path.rename(path.with_name(FILE))
        renamed[f'videos/validation/{path.name}'] = f'videos/validation/{FILE}'

    def rows_of(path, label):
        return renamed.get(path, path), names[label]

    dataset = prepare_again(folder / 'set', folder, ('path', 'label'), rows_of)
    arguments = {'dataset.path': dataset, 'eval.every': 2, 'seed': 3}
    overrides = [f'--config.{key}={value}' for key, value in arguments.items()]
    command.main([f'--config={CONFIG}', f'--workdir={folder / "run"}', *overrides])
    return folder / 'run'


@pytest.fixture(scope='module')
def hostile_page(hostile):
    report.main([f'--workdir={hostile}'])
    return Page(hostile / 'report.html')


class Page(html.parser.HTMLParser):
    """What a parser makes of a page: its elements, and the text inside each kind of them."""

    def __init__(self, source):
        super().__init__()
        self.source = source.read_text(encoding='utf-8') if hasattr(source, 'read_text') else source
        self.elements, self.texts, self._open = [], collections.defaultdict(list), []
        self._parts = []
        self.feed(self.source)

    def handle_starttag(self, tag, attrs):
        if tag not in ('b', 'bdi', 'code', 'span'):
            self._parts.append((tag, ' '))
        self.elements.append((tag, dict(attrs)))
        self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        while self._open and self._open.pop() != tag:
            pass

    def handle_data(self, data):
        if self._open:
            self.texts[self._open[-1]].append(data)
            self._parts.append((self._open[-1], data))

    def all(self, tag):
        return [attrs for name, attrs in self.elements if name == tag]

    def text(self):
        """What is read of it, its white space as a browser has it."""
        found = (data for tag, data in self._parts if tag not in ('script', 'style'))
        return ' '.join(''.join(found).split())


def assert_asks_nobody(seen):
    """Nothing on the page is fetched or run but its own script."""
    (script,) = seen.all('script')
    assert not script
    digest = hashlib.sha256(seen.texts['script'][0].encode()).digest()
    (policy,) = [m['content'] for m in seen.all('meta') if 'http-equiv' in m]
    assert policy.startswith("default-src 'none'; ")
    assert f"script-src 'sha256-{base64.b64encode(digest).decode()}'" in policy
    assert 'http' not in policy
    for tag, attrs in seen.elements:
        assert not [name for name in attrs if name.startswith('on')], (tag, attrs)
        for name in ('src', 'href', 'xlink:href', 'poster', 'action', 'data', 'srcset'):
            value = attrs.get(name)
            assert value is None or value.startswith(('data:', '#')), (tag, name, value[:60])
        assert tag not in ('iframe', 'object', 'embed', 'form', 'base', 'image', 'foreignobject')
        for reference in re.findall(r'url\((.*?)\)', ' '.join(v or '' for v in attrs.values())):
            assert reference.startswith('#')
    assert '@import' not in seen.source
    ids = [attrs['id'] for _, attrs in seen.elements if 'id' in attrs]
    assert len(ids) == len({*ids})
    for _, attrs in seen.elements:
        assert {*attrs.get('aria-labelledby', '').split()} <= {*ids}


def decoded(uri):
    """The frames of a video in a data URI, and its stream."""
    kind, _, content = uri.partition(';base64,')
    assert kind == 'data:video/mp4'
    with av.open(io.BytesIO(base64.b64decode(content, validate=True))) as container:
        (stream,) = container.streams
        context = stream.codec_context
        found = (context.name, context.profile, context.pix_fmt)
        return [frame.to_ndarray(format='rgb24') for frame in container.decode(stream)], found


# --- Names from outside ---


def test_hostile_names_are_text(hostile_page):
    assert_asks_nobody(hostile_page)
    for name in HOSTILE:
        shown = ' '.join(text.printable(name).split())
        assert shown in ' '.join(' '.join(hostile_page.texts['bdi']).split())  # In the table
        # Names on the axes of the confusion matrix are shortened, and formulas to nobody.
        assert text.shortened(shown, 24) in ' '.join(hostile_page.texts['text'])
    assert FILE in hostile_page.text()
    assert any(FILE in (video['aria-label'] or '') for video in hostile_page.all('video'))
    assert not hostile_page.all('img')


def test_every_character_has_a_sign():
    assert text.printable('a\nb\x00\x7f\x85\ud800\ufffe') == 'a␊b␀␡���'
    assert text.shortened('a' * 30, 9) == 'aaaaaa…aa'
    assert text.shortened('short', 9) == 'short'


# --- What a page says ---


def test_the_page_says_what_evaluate_says(hostile, hostile_page, tmp_path):
    scores = evaluate.evaluate_run(hostile, split='validation', out=tmp_path / 'scores.json')
    assert f'Top-1 {100 * scores["top1"]:.1f} %' in hostile_page.text()
    assert f'{scores["loss"]:.3f} nats' in hostile_page.text()
    assert '12 videos: validation, 1x1 views, step 2' in hostile_page.text()
    about = runs.read_about(hostile)
    found, result = outputs.read(hostile / outputs.FILE)
    assert result == scores | {'saved_at': runs.find_checkpoint(hostile)[1]}
    assert runs.find_checkpoint(hostile) == (2, runs.load_run(hostile).saved_at)
    classification = configs.classification(
        runs.load_config(hostile), {'label': about['classes']}, False
    )
    # Every class is a row, with the videos it has.
    (head,) = findings.heads({'label': about['classes']}, classification, found)
    assert [row.support for row in head.rows] == [2] * 6
    assert head.matrix.sum() == 12
    assert np.trace(head.matrix) / 12 == scores['top1']


def test_videos_are_of_the_worst_and_best_and_play(hostile, hostile_page):
    shown = hostile_page.all('video')
    assert len(shown) == sections.NUM_WORST + sections.NUM_BEST == 12
    for film in shown:
        frames, kind = decoded(film['src'])
        assert kind == ('h264', 'Constrained Baseline', 'yuv420p')
        assert len(frames) > 5
        assert np.std(np.stack(frames).mean(axis=(2, 3))) > 0  # Something moves.
        assert film['poster'].startswith('data:image/jpeg;base64,')
        assert 'controls' in film
    found, _ = outputs.read(hostile / outputs.FILE)
    names = hostile_page.texts['bdi']
    p = np.exp(-found.loss)  # Of the only label.
    worst = report.stores.open_store(
        report.records.open_dataset(runs.load_config(hostile).dataset.path), 'validation'
    ).index.names()[found.index[np.argmin(p)]]
    sources = [name for name in names if name.startswith('videos/validation/')]
    assert sources[0] == worst
    assert len({*sources}) == 12


def test_what_cannot_be_read_or_does_not_move_has_its_place(contents_of_guesses, monkeypatch):
    whole = contents_of_guesses({'label': 'abcdef'})
    picture = films.Film('', 'data:image/jpeg;base64,', 2, 2, 1.0, 1.0)
    monkeypatch.setattr(films, 'film', lambda store, place: picture if place % 2 else None)
    seen = Page(page.render(whole))
    assert_asks_nobody(seen)
    assert not seen.all('video')
    assert len(seen.all('img')) == 6
    assert seen.text().count('This video cannot be read.') == 6


def test_the_recipe_and_what_was_changed_of_it(hostile, hostile_page):
    about = runs.read_about(hostile)
    assert about['recipe']['name'] == CONFIG
    changes = {change['key']: change for change in settings.settings(about)['changes']}
    assert changes.keys() == {'dataset.path', 'seed', 'model.num_classes'}
    assert (changes['seed']['now'], changes['seed']['before']) == ('3', '0')
    assert changes['model.num_classes']['before'] == 'left to the data set'
    assert f'What differs from {CONFIG}: Key This run Config file' in hostile_page.text()
    assert 'dataset.path' in hostile_page.texts['bdi']


def test_a_recipe_and_an_argument_are_text(contents_of_guesses):
    whole = contents_of_guesses({'label': 'abcdef'})
    recipe = {'name': 'a/<b>.py:x=</title><script>', 'config': whole.about['config']}
    environment = {'command': ['<script>', 'a b'], 'devices': ['<i>'], 'num_devices': 3}
    about = whole.about | {'recipe': recipe}
    seen = Page(page.render(whole._replace(about=about, environment=environment)))
    assert_asks_nobody(seen)
    assert 'a/<b> x=</title><script>' in seen.text()
    assert 'Nothing differs from a/<b>.py:x=</title><script>.' in seen.text()
    assert 'Devices 3 × <i>' in seen.text()
    assert 'Median per device 3.0 clips/s' in seen.text()


def test_a_run_without_validation_is_said_to_be_one(contents_of_guesses):
    whole = contents_of_guesses({'label': 'abcdef'})
    for every, entries, sentence in (
        (0, whole.entries[:2], 'trained without validation: config.eval.every is 0.'),
        (2, whole.entries[:2], 'had no split “validation”.'),
        (2, whole.entries[:1], 'was not validated yet: it will be after step 2.'),
        (2, whole.entries, None),
    ):
        config = whole.about['config'] | {'eval': {'every': every}}
        changed = whole._replace(about=whole.about | {'config': config}, entries=entries)
        said = [notice for notice in header.notices(changed) if 'validat' in notice]
        assert not said if sentence is None else sentence in said[0]


def test_without_an_evaluation_the_last_validation_counts(contents_of_guesses):
    whole = contents_of_guesses({'label': 'abcdef'}, evidence=None)
    logged = [
        {'step': step, 'validation/loss': 0.5, 'validation/top1': top1, 'validation/num_videos': 12}
        for step, top1 in ((1, 0.1), (2, 0.75))
    ]
    seen = Page(page.render(whole._replace(entries=[*whole.entries[:2], *logged])))
    assert_asks_nobody(seen)
    assert 'Top-1 75.0 %' in seen.text()
    assert '12 videos: validation, as logged at step 2' in seen.text()
    assert not seen.all('table') or 'sortable' not in str(seen.all('table'))


def test_several_heads_have_a_table_each(contents_of_guesses):
    classes = {'digit': ('0', '1', '<2>'), 'motion': ('left', 'right', 'up', 'down')}
    whole = contents_of_guesses(classes)
    seen = Page(page.render(whole))
    assert_asks_nobody(seen)
    result = whole.evidence.result
    for name, label in (
        ('top1', 'Top-1, all heads right'),
        ('digit/top1', 'Top-1, digit'),
        ('motion/top1', 'Top-1, motion'),
    ):
        assert f'{label} {100 * result[name]:.1f} %' in seen.text()
    titles = seen.texts['title']
    assert 'Confusion matrix: digit' in titles
    assert 'Confusion matrix: motion' in titles
    assert len([t for t in seen.all('table') if t.get('class') == 'sortable']) == 2
    assert {'0', '1', '<2>', 'left', 'right', 'up', 'down'} <= {*seen.texts['bdi']}
    # Without a recipe, what every config starts from is what it is compared with.
    assert 'does not say which config file' in seen.text()


def test_any_number_of_labels_has_average_precisions(contents_of_guesses):
    whole = contents_of_guesses({'label': ('run', 'jump', '<sit>')}, multi_label=True)
    seen = Page(page.render(whole))
    assert_asks_nobody(seen)
    found, result = whole.evidence.outputs, whole.evidence.result
    assert f'mAP {100 * result["mAP"]:.1f} %' in seen.text()
    assert 'AP' in seen.texts['button']
    assert not any('Confusion' in title for title in seen.texts['title'])
    precisions = metrics.average_precisions(found.logits, found.label > 0)
    assert np.mean(precisions) == pytest.approx(result['mAP'])
    for value in precisions:
        assert f'{100 * value:.1f} %' in seen.text()
    assert len(seen.all('video')) == 12


@pytest.mark.slow
@pytest.mark.parametrize(
    ('columns', 'labels_of', 'overrides', 'shown'),
    [
        (
            ('motion', 'kind'),
            lambda x: (x, 'size' if x in ('grow', 'shrink') else 'place'),
            (),
            'kind',
        ),
        (('labels',), lambda x: (f'digit|{x}',), ('loss.name=sigmoid',), 'mAP'),
    ],
)
def test_runs_of_several_labels_have_a_page(digits, tmp_path, columns, labels_of, overrides, shown):
    def rows_of(path, label):
        return (path, *labels_of(label))

    dataset = prepare_again(digits, tmp_path, ('path', *columns), rows_of)
    command.train(two_steps(dataset, *overrides), tmp_path / 'run')
    report.main([f'--workdir={tmp_path / "run"}'])
    seen = Page(tmp_path / 'run/report.html')
    assert_asks_nobody(seen)
    assert shown in seen.text()
    assert len(seen.all('video')) == 12


def test_an_unfinished_run_is_said_to_be_one(hostile, tmp_path):
    run = tmp_path / 'run'
    run.mkdir()
    for name in ('config.json', 'environment.json'):
        shutil.copy(hostile / name, run)
    report.main([f'--workdir={run}'])
    seen = Page(run / 'report.html')
    assert_asks_nobody(seen)
    assert 'it stands before its first report' in seen.text()
    assert 'There is no checkpoint yet' in seen.text()
    assert 'No scores yet' in seen.text()
    # A line that a killed run did not finish is no line.
    first = (hostile / 'metrics.jsonl').read_text().splitlines(keepends=True)[0]
    (run / 'metrics.jsonl').write_text(first + '{"step": 2, "train/lo')
    report.main([f'--workdir={run}'])
    seen = Page(run / 'report.html')
    assert 'at step 1 of 2' in seen.text()
    assert 'Unfinished' in seen.text()
    assert 'Loss over the training steps, in nats' in seen.texts['title']
    assert (run / outputs.FILE).exists() is False


def test_a_page_is_made_far_from_the_videos(hostile, tmp_path):
    run = tmp_path / 'run'
    shutil.copytree(hostile, run)
    about = json.loads((run / 'config.json').read_text())
    about['config']['dataset']['path'] = 'nowhere'
    (run / 'config.json').write_text(json.dumps(about))
    (run / outputs.FILE).unlink(missing_ok=True)
    report.main([f'--workdir={run}'])
    assert (
        "There are no videos to look at: there is no data set 'nowhere'"
        in Page(run / 'report.html').text()
    )
    # With the evaluation's outputs there are scores and classes.
    evaluate.evaluate_run(
        hostile, split='validation', views='2x1', out=tmp_path / 'x', outputs=run / outputs.FILE
    )
    report.main([f'--workdir={run}'])
    seen = Page(run / 'report.html')
    assert 'validation, 2x1 views, step 2' in seen.text()
    assert not seen.all('video')
    with pytest.raises(UserError, match='nowhere'):
        report.report(run, dataset_path='nowhere')


@pytest.mark.slow
def test_an_evaluation_on_a_split_that_the_data_set_lacks_is_not_of_it(hostile, tmp_path):
    run, other = tmp_path / 'run', tmp_path / 'other'
    shutil.copytree(hostile, run)
    own = Path(json.loads((run / 'config.json').read_text())['config']['dataset']['path'])
    shutil.copytree(own, other)
    evaluate.evaluate_run(
        run, split='train', views='1x1', out=tmp_path / 'x', outputs=run / outputs.FILE
    )
    description = json.loads((other / records.DESCRIPTION).read_text(encoding='utf-8'))
    del description['splits']['train']
    (other / records.DESCRIPTION).write_text(json.dumps(description), encoding='utf-8')
    report.main([f'--workdir={run}', f'--dataset={other}'])
    assert 'validation, 1x1 views, step 2' in Page(run / 'report.html').text()


def test_only_the_evaluation_that_is_asked_for_is_taken(hostile, tmp_path, monkeypatch):
    run = tmp_path / 'run'
    shutil.copytree(hostile, run)
    evaluation = evaluate.evaluation_of(run, split='validation', views='2x1')
    made = []

    def evaluate_again(workdir, **how):
        made.append(how)
        return evaluation

    monkeypatch.setattr(report, 'evaluation_of', evaluate_again)
    monkeypatch.setattr(page, 'render', lambda contents: '')
    monkeypatch.setattr(report, 'describe', lambda config: {})
    evaluation.save_outputs(run / outputs.FILE)
    for asked in ({}, {'split': 'validation'}, {'views': '2x1'}, {'checkpoint': '2'}):
        report.report(run, **asked)
        assert not made
    report.report(run, views='1x1')
    assert made.pop()['views'] == '1x1'
    report.report(run, split='train')
    assert made.pop()['split'] == 'train'
    # Another checkpoint, one of the same step that another training left, another data set.
    found, result = outputs.read(run / outputs.FILE)
    for other in ({'step': 1}, {'saved_at': 7}, {'fingerprint': 'f'}, {'overrides': ['--x']}):
        outputs.write(run / outputs.FILE, found, result | other)
        report.report(run)
        assert made.pop()['split'] == 'validation'
    (run / outputs.FILE).write_bytes(b'PK nothing')
    with pytest.raises(UserError, match=r'outputs\.npz.*delete it'):
        report.report(run)


def test_what_cannot_be_is_said_before_anything_is_done(hostile, tmp_path):
    before = {path.name for path in hostile.iterdir()}
    with pytest.raises(UserError, match='there is no folder'):
        report.report(hostile, tmp_path / 'none' / 'page.html')
    with pytest.raises(UserError, match="has no split 'none'"):
        report.report(hostile, split='none')
    with pytest.raises(UserError, match="views '4'"):
        report.report(hostile, views='4')
    with pytest.raises(UserError, match='has the steps'):
        report.report(hostile, checkpoint='7')
    assert {path.name for path in hostile.iterdir()} == before


# --- Figures ---


def test_many_classes_keep_the_page_small():
    rng = np.random.default_rng(0)
    names = [f'class {i} of many' for i in range(400)]
    label = np.sort(rng.integers(400, size=2000))[:, None]
    logits = rng.normal(size=(2000, 400)).astype(np.float32)
    logits[np.arange(2000), label[:, 0]] += 3
    logits[label[:, 0] == 17, 23] = 99
    found = metrics.Outputs(logits, np.ones(2000, np.float32), label, np.arange(2000))
    kind = Classification({'label': 400}, 'softmax', 0.0)
    result = metrics.scores(kind, found) | {
        'num_undecodable': 3,
        'views': '4x3',
        'split': 'validation',
        'order': 'forward',
        'dataset': 'd',
        'fingerprint': 'f',
        'step': 9,
        'overrides': [],
    }
    config = json.loads(
        cli.load_config('configs/vivit/kinetics400.py', []).copy_and_resolve_references().to_json()
    )
    config['num_steps'] = 100_000
    about = {
        'config': config,
        'classes': names,
        'multi_label': False,
        'fingerprint': 'f',
        'settings': {},
    }
    steps = range(1, 100_001, 5)
    entries = [
        {'step': i, 'train/loss': 1 / i, 'train/learning_rate': 0.1, 'clips_per_second': 5.0}
        for i in steps
    ]
    costs = {'clip': (32, 224, 224, 3), 'params': 1, 'gflops_per_view': 1.0}
    contents = Contents(
        'w', about, entries, {}, costs, Evidence(found, result, kind, None), 'No videos.', 'made'
    )
    source = page.render(contents)
    assert len(source) < 600_000
    seen = Page(source)
    assert {*names} <= {*seen.texts['bdi']}
    (most,) = [c for c in header.scores(contents)['tiles'] if c['label'] == 'Top-5']
    assert most['value'] == f'{100 * result["top5"]:.1f}'
    assert '3 videos of the split could not be decoded, and left out of all scores.' in seen.text()
    (head,) = findings.heads({'label': names}, kind, found)
    assert (head.confusions[0].truth, head.confusions[0].taken_for) == (names[17], names[23])
    assert head.confusions[0].share == 1
    assert len(head.confusions) == 15


def test_the_speed_says_where_the_time_of_a_step_goes():
    """The medians without the first report, of those figures that a run logged."""
    step = {'input_wait_ms': 10.0, 'device_wait_ms': 80.0, 'host_ms': 4.0, 'clips_per_second': 9.0}
    first = {'input_wait_ms': 500.0, 'device_wait_ms': 0.0, 'host_ms': 9e3, 'clips_per_second': 1.0}
    entries = [{'step': 1, **first, 'mfu': 0.01}, {'step': 2, **step, 'mfu': 0.4}]
    contents = Contents('w', {}, entries, {}, {}, None, '', '')
    rows = dict(sections.speed(contents)['rows'])
    assert rows['Of a step, waiting for input'] == '10.0 ms'
    assert rows['Of a step, waiting for the devices'] == '80.0 ms'
    assert rows['Of a step, the rest on the host'] == '4.0 ms'
    assert rows['MFU, of the bfloat16 peak'] == '40.0 %'
    old = contents._replace(entries=[{'step': 1, 'clips_per_second': 1.0}])
    assert [
        name for name, _ in sections.speed(old)['rows'] if 'step' in name or 'MFU' in name
    ] == []


def test_a_long_curve_keeps_its_shape():
    long = history.Curve('loss', tuple(range(10_000)), tuple(float(i) for i in range(10_000)))
    short = history.thinned(long)
    assert len(short.steps) == history.MOST_POINTS
    np.testing.assert_allclose(short.values, np.array(short.steps) - 12, atol=0.6)
    assert history.thinned(short) is short


def test_scores_are_held_against_what_takes_no_looking():
    low, high = findings.interval(0.5, 100)
    assert (low, high) == pytest.approx((0.4038, 0.5962), abs=1e-4)  # Wilson's, as published.
    assert findings.interval(1.0, 10) == pytest.approx((0.7225, 1.0), abs=1e-4)
    kind = Classification({'a': 2, 'b': 2}, 'softmax', 0.0)
    label = np.array([[0, 0], [0, 1], [0, 1], [1, 1]])
    found = metrics.Outputs(
        np.zeros((4, 4), np.float32), np.zeros(4, np.float32), label, label[:, 0]
    )
    assert findings.baselines(kind, found) == {'top1': 0.5, 'a/top1': 0.75, 'b/top1': 0.75}
    # Equal logits are no answer, and so right of nobody.
    assert not any(
        v.right or v.guesses for v in findings.verdicts({'a': 'xy', 'b': 'zw'}, kind, found, 0)
    )


def test_the_worst_are_not_the_best():
    merits = np.array([0.0, -np.inf, -1.0, -3.0, -2.0])
    assert findings.worst_and_best(merits, 3, 4) == ([1, 3, 4], [0, 2])
    assert findings.worst_and_best(merits[:1], 8, 4) == ([0], [])
    kind = Classification({'label': 2}, 'softmax', 0.0)
    logits = np.array([[np.nan, 0], [0, 0], [5, 0]], np.float32)
    found = metrics.Outputs(logits, np.zeros(3), np.zeros((3, 1), int), np.arange(3))
    np.testing.assert_allclose(
        findings.merit(kind, found), [-np.inf, np.log(0.5), -0.006715], atol=1e-6
    )


def test_charts_are_drawn_in_the_colour_of_the_text():
    curves = [history.Curve('a', (1, 2), (0.1, 0.9))]
    svg = plots.lines(curves, title='T & <t>', percent=True)
    with matplotlib.rc_context({'axes.facecolor': 'red', 'font.size': 40}):
        assert plots.lines(curves, title='T & <t>', percent=True) == svg
    assert 'currentColor' in svg
    assert '#000000' not in svg
    assert 'font-family' not in svg
    assert '<style' not in svg
    assert 'T &amp; &lt;t&gt;' in svg
