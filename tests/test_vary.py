"""Models that are not the same in every step: fields drawn anew, several classifiers, other fields
when evaluated.
"""

import collections
import functools
import json
import shutil

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given

from vjax import cli, models, recipes
from vjax import config as configs
from vjax.data.augment import normalise
from vjax.data.sections import Augment
from vjax.errors import UserError
from vjax.evaluate import evaluate_run
from vjax.evaluate import main as evaluate_main
from vjax.train import train
from vjax.training import assembly, runs
from vjax.training.losses import Classification
from vjax.training.step import draw, init_state, make_train_step

pytestmark = pytest.mark.slow  # Training on several grids compiles each of them.

GRIDS = ((1, 1), (2, 2))


def lookup(dataset, *overrides):
    settings = (f'dataset.path={dataset}', 'num_steps=6', 'eval.every=6', *overrides)
    overrides = [f'--config.{override}' for override in settings]
    return cli.load_config('configs/lookupvit/moving_digits.py:tiny', overrides)


def losses(workdir):
    lines = [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]
    return [line['train/loss'] for line in lines if 'train/loss' in line]


@pytest.fixture(scope='module')
def varied(digits, tmp_path_factory):
    workdir = tmp_path_factory.mktemp('varied')
    config = lookup(digits)
    assert config.vary.grid == GRIDS
    train(config, workdir)
    return workdir


@given(st.integers(0, 2**32 - 1), st.integers(1, 10**6), st.integers(1, 6))
def test_a_draw_is_pure_and_within_its_choices(seed, step, num_choices):
    chosen = draw(seed, step, num_choices)
    assert 0 <= chosen < num_choices
    assert draw(seed, step, num_choices) == chosen


def test_draws_are_uniform_and_differ_between_seeds():
    counts = collections.Counter(draw(0, step, 4) for step in range(4000))
    assert min(counts.values()) > 900
    assert max(counts.values()) < 1100
    assert [draw(0, step, 4) for step in range(20)] != [draw(1, step, 4) for step in range(20)]


def test_each_step_is_the_one_of_its_grid(varied, digits, tmp_path):
    """The first step with each grid alone is the first step of the run that drew it."""
    first = GRIDS[draw(0, 1, 2)]
    assert {draw(0, step, 2) for step in range(1, 7)} == {0, 1}
    of_grid = {}
    for grid in GRIDS:
        workdir = tmp_path / str(grid)
        train(
            lookup(digits, 'vary.grid=((1,1),)' if grid == (1, 1) else 'vary.grid=((2,2),)'),
            workdir,
        )
        of_grid[grid] = losses(workdir)
    # The head starts at zero, hence so does the loss: the second step tells the first one's grid.
    second = draw(0, 2, 2) == draw(0, 1, 2)
    assert (losses(varied)[1] == of_grid[first][1]) == second
    assert losses(varied) not in of_grid.values()


@pytest.mark.usefixtures('stop_after_three')
def test_a_resumed_run_draws_what_it_would_have_drawn(varied, digits, tmp_path, monkeypatch):
    with pytest.raises(SystemExit):
        train(lookup(digits), tmp_path)
    monkeypatch.undo()
    assert runs.load_run(tmp_path).step == 3
    train(lookup(digits), tmp_path)
    assert losses(tmp_path) == losses(varied)
    jax.tree.map(
        np.testing.assert_array_equal, runs.load_run(varied).params, runs.load_run(tmp_path).params
    )


@pytest.mark.parametrize(
    ('vary', 'message'),
    [
        ({'gird': ((1, 1),)}, r"has no field 'gird' that could vary; did you mean 'grid'\?"),
        ({'grid': ()}, r'config\.vary\.grid=\(\) leaves no value to draw'),
        ({'grid': (3, 3)}, r'should be a tuple of values like config\.model\.grid=\(2, 1\)'),
        ({'heads': 'average'}, "has no field 'heads' that could vary"),
        ({'attention': 'spacetime'}, 'should be a tuple of values like config'),
        ({'num_classes': (3, 4)}, "has no field 'num_classes' that could vary"),
        ({'grid': ((1, 1), (9, 9))}, r'config\.vary: grid=\(9, 9\) exceeds the grid'),
    ],
)
def test_what_cannot_vary_is_refused(vary, message, digits):
    config = lookup(digits)
    with config.unlocked():
        config.vary = vary
    with pytest.raises(UserError, match=message):
        configs.check(config)


def test_a_field_that_changes_parameters_cannot_vary(digits, tmp_path):
    config = lookup(digits)
    with config.unlocked():
        config.vary = {'mlp_dim': (16, 32)}
    with pytest.raises(UserError, match='changes the shapes of parameters'):
        train(config, tmp_path / 'run')


def test_one_run_is_evaluated_at_every_grid(varied, tmp_path, capsys):
    scores = {}
    for grid in ('(1, 1)', '(2, 2)', '(4, 3)'):
        out = tmp_path / f'{grid}.json'
        run = [f'--workdir={varied}', '--batch_size=8', f'--out={out}']
        evaluate_main([*run, f'--config.model.grid={grid}'])
        scores[grid] = json.loads(out.read_text())['loss']
    assert len(set(scores.values())) == 3
    same = evaluate_run(varied, batch_size=8, overrides=['--config.model.grid=(4, 3)'])
    assert same['loss'] == scores['(4, 3)']
    assert 'top-1' in capsys.readouterr().out


def test_a_run_is_evaluated_on_clips_of_another_size(varied):
    own = evaluate_run(varied, batch_size=8)
    larger = evaluate_run(
        varied,
        batch_size=8,
        overrides=['--config.clip.size=64', '--config.clip.short_side=64'],
    )
    assert larger['num_videos'] == own['num_videos']
    assert larger['loss'] != own['loss']


@pytest.mark.parametrize(
    ('override', 'message'),
    [
        ('--config.model.width=32', 'changes the shapes of parameters, which .* already trained'),
        (
            '--config.model.gird=(1, 1)',
            "there is no key 'gird' in config.model; did you mean 'grid'",
        ),
        ('--config.model.grid=(9, 9)', r'grid=\(9, 9\) exceeds the grid'),
        ('--config.batch_size=many', r'=many: config\.batch_size takes a whole number'),
        ('--config.clip.fps=fast', r'=fast: config\.clip\.fps takes a number'),
        ('--config.loss.name=sofmax', "config.loss.name='sofmax' is not one of softmax, sigmoid"),
        ('--config.model.position_grid=(4, 4)', r'position_grid=\(4, 4\) should be time, height'),
        ('--config.model.position_grid=(2, 9, 9)', 'changes the shapes of parameters'),
    ],
)
def test_an_override_that_does_not_fit_a_run_is_refused(override, message, varied):
    with pytest.raises(UserError, match=message):
        runs.load_run(varied, overrides=[override])


def test_overrides_that_fit_a_run(varied):
    run = runs.load_run(varied, overrides=['--config.clip.fps=6.5', '--config.ema=0.9'])
    assert run.config.clip.fps == 6.5
    jax.tree.map(np.testing.assert_array_equal, run.params, runs.load_run(varied).params)


def test_a_run_of_an_older_version_is_named_as_such(varied, tmp_path):
    shutil.copytree(varied, tmp_path / 'old')
    path = tmp_path / 'old' / 'config.json'
    about = json.loads(path.read_text())
    del about['config']['vary']
    path.write_text(json.dumps(about))
    with pytest.raises(
        UserError, match=r"another version of vjax: the config lacks 'config\.vary'"
    ):
        runs.load_run(tmp_path / 'old')


def test_a_run_from_before_a_key_goes_on(varied, tmp_path):
    shutil.copytree(varied, tmp_path / 'old')
    path = tmp_path / 'old' / 'config.json'
    about = json.loads(path.read_text())
    later = dict(configs.leaves(about['config']))
    for key in configs.LATER:
        *sections, name = key.split('.')
        section = functools.reduce(lambda at, each: at.get(each, {}), sections, about['config'])
        section.pop(name, None)
    path.write_text(json.dumps(about))
    assert dict(configs.leaves(about['config'])) != later
    assert dict(configs.leaves(runs.read_about(tmp_path / 'old')['config'])) == later
    jax.tree.map(
        np.testing.assert_array_equal,
        runs.load_run(tmp_path / 'old').params,
        runs.load_run(varied).params,
    )


def test_each_grid_is_compiled_once(digits, tmp_path, monkeypatch):
    traces = collections.Counter()

    def counting(model, *args, **kwargs):
        step = make_train_step(model, *args, **kwargs)

        def traced(state, batch):
            traces[model.grid] += 1
            return step(state, batch)

        return traced

    monkeypatch.setattr(assembly, 'make_train_step', counting)
    train(lookup(digits, 'num_steps=12', 'eval.every=0'), tmp_path)
    assert traces == {(1, 1): 1, (2, 2): 1}


@pytest.mark.parametrize('renamed', [False, True])
def test_starting_from_a_run_of_other_classes_leaves_every_classifier(varied, renamed, caplog):
    """The two classifiers of LookupViT on space-time, too: all that is called logits under head."""
    run = runs.load_run(varied)
    with run.config.unlocked():
        run.config.init_from = str(varied)
    classes = {
        head: tuple(f'new {name}' if renamed else name for name in names)
        for head, names in run.classes.items()
    }
    arrays, report = runs.start_from(run.config, run.model, run.params, classes)
    left = {'head/logits/bias', 'head/logits/kernel'} if renamed else set()
    assert report.left.keys() == left
    assert arrays.keys().isdisjoint(left)
    np.testing.assert_array_equal(
        arrays['spatial_encoder/norm/scale'], run.params['spatial_encoder']['norm']['scale']
    )


def test_several_classifiers_are_each_trained():
    """The loss of sown heads is the mean of theirs, not that of their mean."""
    fields = {'num_classes': 3, 'width': 8, 'depth': 1, 'num_heads': 2, 'mlp_dim': 16}
    model = models.build('lookupvit', **fields, patch=(4, 4), grid=(2, 2))
    rng = np.random.default_rng(0)
    video = jnp.asarray(rng.integers(0, 256, (8, 1, 16, 16, 3)), 'uint8')
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 16, 16, 3))))
    params = jax.tree.map(
        lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), 'float32'), shapes['params']
    )
    classification = Classification({'label': 3}, 'softmax', 0.1)
    batch = {
        'video': video,
        'box': jnp.tile(jnp.asarray([0.0, 0.0, 16.0, 16.0]), (8, 1)),
        'position': jnp.arange(8, dtype='uint32'),
        'label': jnp.asarray(rng.integers(0, 3, (8, 1)), 'int32'),
        'mask': jnp.ones(8),
    }
    tx = optax.sgd(1.0)
    step = make_train_step(
        model,
        tx,
        lambda _: 1.0,
        trains=jax.tree.map(lambda _: True, params),
        seed=0,
        classification=classification,
        augmentation=Augment(**recipes.base().augment),
        size=16,
        mirror=None,
        mixup=0.0,
        cutmix=0.0,
        accumulate=1,
        ema_decay=0.0,
        log_every=1,
    )
    state, report = jax.jit(step)(init_state(params, tx, ema=False), batch)

    def mean_of_losses(params):
        _, sown = model.apply({'params': params}, normalise(video), mutable='head_logits')
        (heads,) = sown['head_logits']['logits']
        assert heads.shape == (2, 8, 3)
        target = classification.targets(batch['label'])
        return jnp.mean(jnp.stack([classification.loss(head, target) for head in heads]))

    loss, grads = jax.jit(jax.value_and_grad(mean_of_losses))(params)
    assert float(report['loss']) == pytest.approx(float(loss), rel=1e-5)
    moved = jax.tree.map(lambda before, after: before - after, params, state.params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-4), moved, grads)
