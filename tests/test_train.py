"""The trainer end to end, on a few rendered videos."""

import errno
import functools
import json
import math
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, Mesh

from vjax import cli, models, weights
from vjax import config as configs
from vjax import train as command
from vjax.data import pipeline, records
from vjax.data.sections import Augment
from vjax.errors import TryAgain, UserError
from vjax.evaluate import evaluate_run
from vjax.train import train
from vjax.training import assembly, feeding, optimizer, runs, sharding, workdirs
from vjax.training.checkpoints import Checkpoints
from vjax.training.losses import Classification
from vjax.training.speed import METRICS
from vjax.training.step import abstract_state, init_state, make_train_step
from vjax.weights import surgery

ROOT = Path(__file__).parents[1]
CONFIGS = sorted(path.relative_to(ROOT) for path in (ROOT / 'configs').rglob('*.py'))


def tiny(dataset, *overrides, arg='tiny'):
    overrides = [f'--config.dataset.path={dataset}', *(f'--config.{o}' for o in overrides)]
    return cli.load_config(f'configs/vivit/moving_digits.py:{arg}', overrides)


def six_steps(dataset, *overrides):
    """Six steps in three windows of reports, three checkpoints, two evaluations."""
    settings = ('num_steps=6', 'log_every=2', 'checkpoint.every=2', 'eval.every=3')
    return tiny(dataset, *settings, *overrides)


def numbers(workdir):
    """The lines of metrics.jsonl without what a clock measured."""
    lines = [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in METRICS} for line in lines]


def assert_same_run(one, other):
    assert numbers(one) == numbers(other)
    jax.tree.map(
        np.testing.assert_array_equal, runs.load_run(one).params, runs.load_run(other).params
    )


@pytest.fixture(scope='module')
def straight(digits, tmp_path_factory):
    workdir = tmp_path_factory.mktemp('straight')
    train(six_steps(digits), workdir)
    return workdir


# --- Every config ---


ARGUMENTS = [
    'configs/vivit/kinetics400.py:variant=L/16x2,attention=spacetime',
    'configs/vivit/kinetics400.py:attention=factorised_dot_product',
    'configs/mtv/kinetics400.py:variant=B/4',
    'configs/mtv/moving_digits.py:fusion=bottleneck,tiny',
    'configs/token_learner/imagenet.py:variant=L/16,tokens=8,location=12,version=1.0,fuser',
    'configs/token_learner/kinetics400.py:attention=factorised_encoder,location=6,version=1.1',
    'configs/token_learner/moving_digits.py:attention=factorised_encoder,fuser,tiny',
    'configs/lookupvit/kinetics400.py:variant=B/16x2,grid=7x7',
    'configs/lookupvit/kinetics400.py:grids=3x3+5x5+7x7+10x10',
    'configs/lookupvit/kinetics400.py:attention=spacetime',
    'configs/lookupvit/kinetics400.py:attention=spacetime,grid=8x7x7,grids=8x7x7+16x5x5,tiny',
    'configs/lookupvit/something_something_v2.py:attention=spacetime,tiny',
    'configs/lookupvit/moving_digits.py:grids=,grid=5x5,tiny',
]


@pytest.mark.parametrize(
    'path', [*(f'{path}{arg}' for path in CONFIGS for arg in ('', ':tiny')), *ARGUMENTS]
)
def test_every_config_is_locked_and_describes_a_model(path):
    config = cli.load_config(path, [])
    assert config.is_locked
    configs.check(config)
    config.model.num_classes = config.dataset.num_classes
    for fields in configs.variations(config):
        model = models.build(**config.model.to_dict() | fields)
        batch = jax.ShapeDtypeStruct((1, *configs.clip_shape(config)), 'float32')
        params = jax.eval_shape(lambda m=model: runs.init_params(m, config))
        logits = jax.eval_shape(model.apply, {'params': params}, batch)
        assert logits.shape == (1, config.dataset.num_classes)


@pytest.mark.slow
@pytest.mark.parametrize('path', CONFIGS, ids=str)
def test_every_tiny_variant_trains_two_steps(path, digits, tmp_path):
    overrides = [f'--config.dataset.path={digits}', '--config.eval.batch_size=8']
    train(cli.load_config(f'{path}:tiny', overrides), tmp_path)
    losses = [line['train/loss'] for line in numbers(tmp_path) if 'train/loss' in line]
    assert losses
    assert all(map(math.isfinite, losses))
    assert runs.load_run(tmp_path).step == 2


@pytest.mark.parametrize(
    ('ours', 'theirs', 'depth', 'resized'),
    [
        (
            'vivit/something_something_v2.py',
            'vivit/kinetics400.py:variant=L/16x2',
            ('model.temporal_depth=4',),
            ('spatial_encoder/position_embedding/table',),
        ),
        (
            'vivit/epic_kitchens.py',
            'vivit/kinetics400.py:variant=L/16x2',
            ('model.temporal_depth=4',),
            (),
        ),
        *(
            (
                f'mtv/{dataset}.py',
                'mtv/kinetics400.py',
                (),
                (
                    *(f'view_{i}/class_token/table' for i in range(3)),
                    'global_encoder/position_embedding/table',
                ),
            )
            for dataset in ('something_something_v2', 'epic_kitchens')
        ),
    ],
)
def test_a_config_starts_from_the_one_that_it_says(ours, theirs, depth, resized):
    """With nothing of it left but the classifier, and position embeddings resized."""

    def load(path, *overrides):
        config = cli.load_config(f'configs/{path}', [f'--config.{o}' for o in overrides])
        config.model.num_classes = config.dataset.num_classes
        model = models.build(**config.model)
        shapes = jax.eval_shape(lambda: runs.init_params(model, config))
        return config, model, weights.flatten(shapes)

    _, model, shapes = load(theirs, *depth)
    zeros = {path: np.broadcast_to(np.float32(0), leaf.shape) for path, leaf in shapes.items()}
    source = weights.Source(theirs, model, zeros)
    config, model, shapes = load(ours)
    how = weights.Adapt(**config.adapt)
    arrays, report = weights.adapt([source], model, shapes, configs.clip_shape(config), how)
    assert report.left.keys() == {'head/logits/kernel', 'head/logits/bias'}
    assert report.changed.keys() == set(resized)
    assert arrays.keys() | report.left.keys() == shapes.keys()


@pytest.mark.slow
@pytest.mark.parametrize('attention', ['factorised_self_attention', 'spacetime', 'average_pool'])
def test_every_attention_of_a_config_trains(attention, digits, tmp_path):
    train(tiny(digits, arg=f'tiny,attention={attention}'), tmp_path)
    assert runs.load_run(tmp_path).step == 2


# --- What a run leaves ---


def test_a_run_leaves_metrics_config_and_environment(straight):
    lines = numbers(straight)
    assert [line['step'] for line in lines if 'train/loss' in line] == [2, 4, 6]
    assert [line['step'] for line in lines if 'validation/top1' in line] == [3, 6]
    assert all(line['validation/num_videos'] == 12 for line in lines if 'validation/top1' in line)
    about = json.loads((straight / 'config.json').read_text())
    assert about['config']['model']['num_classes'] == 6
    assert about['classes'] == sorted(about['classes'])
    environment = json.loads((straight / 'environment.json').read_text())
    assert environment['packages']['jax'] == jax.__version__
    assert list((straight / 'tensorboard').glob('events*'))


def test_every_report_says_where_the_time_went(straight):
    lines = [json.loads(line) for line in (straight / 'metrics.jsonl').read_text().splitlines()]
    reports = [line for line in lines if 'train/loss' in line]
    assert len(reports) == 3
    for report in reports:
        assert METRICS.keys() - report.keys() == {'mfu'}  # A processor's peak is not known.
        parts = [report[f'{name}_ms'] for name in ('input_wait', 'device_wait', 'host')]
        assert min(parts) >= 0
        assert sum(parts) == pytest.approx(1000 * 8 / report['clips_per_second'])
        assert report['model_tflops'] > 0
        assert report['recompilations'] == 0
    # Two steps each; evaluations are not part of them.
    steps = [2 * 8 / report['clips_per_second'] for report in reports]
    assert sum(steps) < reports[-1]['seconds']


@pytest.mark.slow
def test_the_devices_are_never_more_than_a_step_behind(digits, tmp_path, monkeypatch):
    """When a batch is taken, all steps are done but the one that was dispatched last."""
    reports, behind, train_batches = [], [], pipeline.train_batches

    def recording(*args, **kwargs):
        made = assembly.assemble(*args, **kwargs)

        def step(state, batch):
            state, report = made.steps[0](state, batch)
            reports.append(report)
            return state, report

        return made._replace(steps=[step])

    def batches(*args, **kwargs):
        for batch in train_batches(*args, **kwargs):
            behind.append(sum(not report['loss'].is_ready() for report in reports[:-1]))
            yield batch

    monkeypatch.setattr(command, 'assemble', recording)
    monkeypatch.setattr(pipeline, 'train_batches', batches)
    # Without reports, evaluations and checkpoints, each of which waits for the devices.
    settings = ('num_steps=8', 'log_every=8', 'eval.every=0', 'checkpoint.every=8')
    train(tiny(digits, *settings), tmp_path)
    assert behind == [0] * 8


# --- Exact resume ---


@pytest.mark.parametrize('profile', ['', pytest.param('2-5', marks=pytest.mark.slow)])
@pytest.mark.usefixtures('stop_after_three')
def test_a_run_stopped_by_a_signal_saves_and_goes_on_exactly(
    profile, straight, digits, tmp_path, monkeypatch, caplog
):
    """A profile of steps before and after the signal changes nothing."""
    with pytest.raises(SystemExit) as stopped:
        train(six_steps(digits, f'profile={profile}'), tmp_path)
    assert stopped.value.code == 128 + signal.SIGTERM
    assert runs.load_run(tmp_path).step == 3
    monkeypatch.undo()
    caplog.set_level('INFO')
    train(six_steps(digits, f'profile={profile}'), tmp_path)
    assert 'resuming' in caplog.text
    assert 'at step 3' in caplog.text
    profiles = (tmp_path / 'tensorboard/plugins/profile').glob('*/*.xplane.pb')
    expected = ['steps_2-5', 'steps_4-5'] if profile else []
    assert sorted(file.parent.name for file in profiles) == expected
    assert_same_run(straight, tmp_path)
    caplog.clear()
    written = (tmp_path / 'environment.json').stat().st_mtime_ns
    train(six_steps(digits), tmp_path)
    assert 'is finished: all 6 steps are done' in caplog.text
    # What it was trained on, and not what only looked at it.
    assert (tmp_path / 'environment.json').stat().st_mtime_ns == written


@pytest.mark.slow
@pytest.mark.usefixtures('stop_after_three')
def test_a_kill_during_the_evaluation_that_a_signal_left_costs_no_checkpoint(
    digits, tmp_path, monkeypatch, caplog
):
    """The only checkpoint, first killed as its metrics are written."""
    settings = ('checkpoint.every=3', 'checkpoint.keep_last=1')

    def kept(workdir):
        checkpoints = Checkpoints(workdir)
        return checkpoints.steps, checkpoints.best_step()

    with pytest.raises(SystemExit):
        train(six_steps(digits, *settings), tmp_path / 'stopped')
    monkeypatch.undo()
    assert kept(tmp_path / 'stopped') == ([3], None)
    saved_at = runs.load_run(tmp_path / 'stopped').saved_at

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr('vjax.training.checkpoints.write_atomically', killed)
        with pytest.raises(KeyboardInterrupt):
            train(six_steps(digits, *settings), tmp_path / 'stopped')
    assert kept(tmp_path / 'stopped') == ([3], None)
    assert runs.load_run(tmp_path / 'stopped').saved_at == saved_at
    caplog.set_level('INFO')
    train(six_steps(digits, *settings), tmp_path / 'stopped')
    assert 'at step 3' in caplog.text
    train(six_steps(digits, *settings), tmp_path / 'straight')
    assert kept(tmp_path / 'stopped') == kept(tmp_path / 'straight')


@pytest.mark.parametrize(
    ('code', 'kind'), [(errno.ESTALE, TryAgain), (errno.EIO, TryAgain), (errno.EACCES, UserError)]
)
def test_what_may_pass_is_no_mistake_of_the_user(code, kind, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(Path, 'read_text', fail)
    with pytest.raises(kind, match=r'cannot read .*config\.json'):
        runs.read_about(tmp_path)


@pytest.mark.slow
@pytest.mark.usefixtures('stop_after_three')
def test_a_signal_leaves_no_evaluation_that_is_no_longer_wanted(digits, tmp_path, monkeypatch):
    with pytest.raises(SystemExit):
        train(six_steps(digits, 'checkpoint.every=3'), tmp_path)
    monkeypatch.undo()

    def never(*_, **__):
        raise AssertionError

    monkeypatch.setattr(command, 'evaluate', never)
    train(six_steps(digits, 'checkpoint.every=3', 'eval.every=0'), tmp_path)
    assert runs.load_run(tmp_path).step == 6


@pytest.mark.slow
@pytest.mark.parametrize('where', ['evaluate', 'Checkpoints.add_metrics'])
def test_a_kill_in_an_evaluation_costs_no_step(
    where, straight, digits, tmp_path, monkeypatch, caplog
):
    """Of three; and its line of metrics.jsonl, if it came to that, is not there twice."""

    def killed(*_, **__):
        raise RuntimeError('killed')

    monkeypatch.setattr(f'vjax.train.{where}', killed)
    with pytest.raises(RuntimeError, match='killed'):
        train(six_steps(digits), tmp_path)
    monkeypatch.undo()
    caplog.set_level('INFO')
    train(six_steps(digits), tmp_path)
    assert 'from its checkpoint at step 3' in caplog.text
    assert_same_run(straight, tmp_path)


@pytest.mark.slow
def test_a_run_killed_at_a_random_moment_goes_on_exactly(digits, tmp_path):
    """Sixty steps straight, and sixty with kill -9 and SIGTERM at random moments: equal to the bit."""
    command = [
        *(sys.executable, '-m', 'vjax.train', '--config=configs/vivit/moving_digits.py:tiny'),
        f'--config.dataset.path={digits}',
        *('--config.num_steps=60', '--config.log_every=7'),
        *('--config.checkpoint.every=5', '--config.eval.every=20'),
    ]
    environment = {k: v for k, v in os.environ.items() if k != 'XLA_FLAGS'}

    def start(workdir):
        return subprocess.Popen(
            [*command, f'--workdir={workdir}'],
            cwd=ROOT,
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )

    def newest(workdir):
        names = [path.name for path in (workdir / 'checkpoints').glob('*')]
        return max((int(name) for name in names if name.isdecimal()), default=0)

    start(tmp_path / 'straight').communicate()
    assert newest(tmp_path / 'straight') == 60
    draw, killed = random.Random(0), tmp_path / 'killed'
    for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL):
        process = start(killed)
        target = newest(killed) + draw.randrange(1, 15)
        while newest(killed) < target and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(number)
        _, said = process.communicate()
        assert 'damaged' not in said
        assert newest(killed) < 60
        if number == signal.SIGKILL:
            assert process.returncode == -signal.SIGKILL
        else:
            assert process.returncode == 128 + signal.SIGTERM
            assert 'SIGTERM at step' in said
    _, said = start(killed).communicate()
    assert 'resuming' in said
    assert 'damaged' not in said
    assert_same_run(tmp_path / 'straight', killed)


@pytest.mark.slow
def test_a_damaged_latest_checkpoint_is_stepped_over_and_the_run_ends_the_same(
    straight, digits, tmp_path, monkeypatch, caplog
):
    train(six_steps(digits), tmp_path)
    latest = tmp_path / 'checkpoints' / '6'
    victim = max((p for p in latest.rglob('*') if p.is_file()), key=lambda p: p.stat().st_size)
    victim.write_bytes(victim.read_bytes()[:100])
    train(six_steps(digits), tmp_path)
    assert re.search(r'checkpoint 6 of .* is damaged', caplog.text)
    assert_same_run(straight, tmp_path)


# --- One step, on other devices and in other pieces ---


def two_steps(dataset, mesh, *overrides):
    """Parameters and the last report after two steps on the given mesh."""
    params, reports = some_steps(dataset, mesh, 2, *overrides)
    return params, reports[-1]


@functools.cache
def some_steps(dataset, mesh, num_steps, *overrides):
    """Parameters and reports after some steps on the given mesh."""
    config = configs.resolve(six_steps(dataset, *overrides), records.open_dataset(dataset))
    model = models.build(**config.model)

    def init():
        return runs.init_params(model, config)

    tx, schedule = optimizer.build(jax.eval_shape(init), 6, **config.optimizer)
    with jax.set_mesh(mesh):
        state = abstract_state(
            init,
            tx,
            ema=False,
            mesh=mesh,
            parameter_rules=config.sharding.parameters,
            preset=config.sharding.preset,
        )
        shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
        state = jax.jit(lambda: init_state(init(), tx, ema=False), out_shardings=shardings)()
        step = jax.jit(
            make_train_step(
                model,
                tx,
                schedule,
                trains=jax.tree.map(lambda _: True, state.params),
                seed=0,
                classification=Classification({'label': 6}, 'softmax', 0.1),
                augmentation=Augment(**config.augment.to_dict() | dict(flip=0.5, color_drop=0.5)),
                size=48,
                mirror=None,
                mixup=config.loss.mixup,
                cutmix=config.loss.cutmix,
                accumulate=config.accumulate,
                ema_decay=0.0,
                log_every=2,
            ),
            out_shardings=(shardings, sharding.replicated(mesh)),
        )
        batches = pipeline.train_batches(
            records.open_dataset(dataset),
            'train',
            clip=config.clip.to_dict(),
            augment=config.augment.to_dict(),
            batch_size=16,
            seed=0,
            num_steps=num_steps,
        )
        reports = []
        for batch in batches:
            state, report = step(state, feeding.to_devices(batch, mesh))
            reports.append(jax.device_get(report))
    return jax.device_get(state.params), reports


def one_device():
    return Mesh(np.array(jax.devices()[:1]), ('data',), axis_types=(AxisType.Auto,))


# Plain SGD: Adam turns rounding in a gradient near zero into a whole step.
SGD = ('optimizer.name=sgd', 'optimizer.learning_rate=0.05')


@pytest.mark.parametrize(
    'overrides',
    [
        (),
        pytest.param(
            ('loss.mixup=0.3', 'loss.cutmix=1.0', 'augment.rand_augment=1', 'augment.erase=0.5'),
            marks=pytest.mark.slow,
        ),
        pytest.param(('model.dropout=0.1', 'model.stochastic_depth=0.1'), marks=pytest.mark.slow),
    ],
)
def test_eight_devices_equal_one(digits, overrides):
    one, one_report = two_steps(digits, one_device(), *SGD, *overrides)
    eight, eight_report = two_steps(digits, sharding.make_mesh({'data': 8}), *SGD, *overrides)
    difference = optax.tree.norm(jax.tree.map(np.subtract, one, eight), ord='inf')
    assert float(difference) <= 1e-5
    assert one_report['loss'] == pytest.approx(eight_report['loss'], abs=1e-5)


@pytest.mark.slow
def test_sharded_parameters_equal_replicated_ones(digits):
    one, _ = two_steps(digits, one_device(), *SGD)
    mesh = sharding.make_mesh({'data': 8})
    fsdp, _ = two_steps(digits, mesh, *SGD, "sharding.parameters=(('.*','fsdp(data)'),)")
    difference = optax.tree.norm(jax.tree.map(np.subtract, one, fsdp), ord='inf')
    assert float(difference) <= 1e-5


MESHES = [
    ('fsdp', {'data': 1, 'fsdp': 8}),
    ('fsdp', {'data': 2, 'fsdp': 4}),
    ('fsdp', {'data': 4, 'fsdp': 2}),
    ('fsdp+tensor', {'data': 2, 'fsdp': 2, 'tensor': 2}),
    ('fsdp+tensor', {'data': 4, 'fsdp': 1, 'tensor': 2}),
    ('replicated', {'data': 8, 'fsdp': 1}),
    ('replicated', {'data': 2, 'fsdp': 4}),
    ('replicated', {'data': 4, 'time': 2}),
    ('fsdp', {'data': 2, 'fsdp': 2, 'time': 2}),
]


AUGMENTED = (*SGD, 'loss.mixup=0.3', 'augment.rand_augment=1', 'augment.erase=0.5')


@pytest.fixture(scope='module')
def on_one_device(digits):
    return some_steps(digits, one_device(), 20, *AUGMENTED)


@pytest.mark.slow
@pytest.mark.parametrize(('preset', 'axes'), MESHES)
def test_every_mesh_trains_the_same(on_one_device, digits, preset, axes):
    one, reports = on_one_device
    params, same = some_steps(
        digits, sharding.make_mesh(axes), 20, *AUGMENTED, f'sharding.preset={preset}'
    )
    difference = optax.tree.norm(jax.tree.map(np.subtract, one, params), ord='inf')
    assert float(difference) <= 1e-5
    losses = [float(report['loss']) for report in reports]
    assert [float(report['loss']) for report in same] == pytest.approx(losses, abs=1e-5)


@pytest.mark.parametrize('accumulate', [2, pytest.param(4, marks=pytest.mark.slow)])
def test_microbatches_equal_one_batch(digits, accumulate):
    whole, whole_report = two_steps(digits, one_device(), *SGD)
    parts, parts_report = two_steps(digits, one_device(), *SGD, f'accumulate={accumulate}')
    difference = optax.tree.norm(jax.tree.map(np.subtract, whole, parts), ord='inf')
    assert float(difference) <= 1e-5
    for name in ('loss', 'top1', 'grad_norm'):
        assert parts_report[name] == pytest.approx(whole_report[name], abs=1e-5)


# --- Starting from weights ---


@pytest.mark.slow
def test_a_run_starts_from_the_weights_of_another(straight, digits, tmp_path, caplog):
    """Also when it was killed in its first save, and is started again."""
    (tmp_path / 'checkpoints' / '4.orbax-checkpoint-tmp').mkdir(parents=True)
    caplog.set_level('INFO')
    config = six_steps(digits, f'init_from={straight}', 'optimizer.learning_rate=0.0')
    train(config, tmp_path)
    assert f'starting from the weights of {straight}, at step 0' in caplog.text
    jax.tree.map(
        np.testing.assert_array_equal,
        runs.load_run(straight).params,
        runs.load_run(tmp_path).params,
    )


def test_weights_of_another_model_are_refused_by_name(straight, digits, tmp_path):
    config = six_steps(digits, f'init_from={straight}', 'model.mlp_dim=48')
    with pytest.raises(UserError, match='mlp_dim=32 there and 48 here'):
        train(config, tmp_path)


# --- What cannot work ---


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_checkpoint(digits, tmp_path):
    config = six_steps(
        digits, 'optimizer.name=sgd', 'optimizer.learning_rate=1e30', 'optimizer.clip_norm=0.0'
    )
    with pytest.raises(
        UserError, match=r'not finite at step (\d); the checkpoint of step \d is kept'
    ) as stop:
        train(config, tmp_path)
    bad_step = int(re.search(r'at step (\d)', str(stop.value))[1])
    kept = [int(path.name) for path in (tmp_path / 'checkpoints').glob('[0-9]')]
    assert kept
    assert max(kept) < bad_step


def test_a_state_that_cannot_be_scored_is_not_kept(digits, tmp_path):
    """The second update ruins the model, the first has a rate of 0."""
    ruinous = ('optimizer.learning_rate=1e20', 'optimizer.warmup_fraction=1.0')
    often = ('eval.every=1', 'checkpoint.every=1', 'checkpoint.keep_best=0')
    for _ in range(2):
        with pytest.raises(
            UserError, match=r'validation loss is not finite at step 2; the checkpoint of step 1 is'
        ):
            train(six_steps(digits, *ruinous, *often), tmp_path)
        assert [path.name for path in (tmp_path / 'checkpoints').glob('[0-9]*')] == ['1']


@pytest.mark.slow
@pytest.mark.usefixtures('stop_after_three')
def test_a_report_is_of_no_steps_before_a_resume_that_changed_their_number(
    digits, tmp_path, monkeypatch
):
    with pytest.raises(SystemExit):
        train(six_steps(digits, 'log_every=6'), tmp_path / 'twos')
    monkeypatch.undo()
    shutil.copytree(tmp_path / 'twos', tmp_path / 'ones')
    for name, number in (('ones', 1), ('twos', 2)):
        train(six_steps(digits, f'log_every={number}'), tmp_path / name)
    ones, twos = (
        {line['step']: line for line in numbers(tmp_path / name) if 'train/loss' in line}
        for name in ('ones', 'twos')
    )
    assert ones.keys() == {4, 5, 6}
    assert twos.keys() == {4, 6}
    assert twos[4] == ones[4]  # Not of steps 1 to 4.
    mean = (ones[5]['train/loss'] + ones[6]['train/loss']) / 2
    assert twos[6]['train/loss'] == pytest.approx(mean, rel=1e-5)


@pytest.mark.parametrize(
    ('overrides', 'sentence'),
    [
        (('log_every=10000000000',), r'log_every.*from 1 to 2147483647'),
        (('model.num_classes=7',), r'num_classes=7, but the data set .* has 6 classes'),
        (('dataset.train=training',), "dataset.train='training'.*only the splits"),
        (('batch_size=12',), 'batch_size=12 cannot be shared evenly by 8 devices'),
        (("optimizer.freeze=('encoder',)",), "'encoder'"),
        (('init_from=nowhere',), "'nowhere' is no workdir"),
    ],
)
def test_a_run_that_cannot_work_is_refused(digits, tmp_path, overrides, sentence):
    with pytest.raises(UserError, match=sentence):
        train(tiny(digits, *overrides), tmp_path)


def test_a_missing_data_set_is_named(tmp_path):
    with pytest.raises(UserError, match='nowhere'):
        train(tiny(tmp_path / 'nowhere'), tmp_path / 'run')
    assert not (tmp_path / 'run').exists()


def test_a_workdir_of_another_config_is_refused(straight, digits):
    with pytest.raises(UserError, match=r'optimizer.learning_rate: 0.002 -> 0.1.*init_from'):
        train(six_steps(digits, 'optimizer.learning_rate=0.1'), straight)


def of_the_first_shuffling(workdir):
    """Makes a run one from when its order of the videos was another, and had no name."""
    about = json.loads((workdir / 'config.json').read_text())
    del about['shuffling']
    (workdir / 'config.json').write_text(json.dumps(about))


@pytest.mark.usefixtures('stop_after_three')
def test_a_run_of_another_order_of_the_videos_does_not_go_on(digits, tmp_path, monkeypatch):
    with pytest.raises(SystemExit):
        train(six_steps(digits), tmp_path)
    monkeypatch.undo()
    of_the_first_shuffling(tmp_path)
    with pytest.raises(UserError, match=r'were shuffled otherwise.*init_from'):
        train(six_steps(digits), tmp_path)


def test_a_finished_run_of_another_order_of_the_videos_stays_one(straight, digits, tmp_path):
    shutil.copytree(straight, tmp_path / 'run')
    of_the_first_shuffling(tmp_path / 'run')
    assert train(six_steps(digits), tmp_path / 'run') == {}
    assert json.loads((tmp_path / 'run' / 'config.json').read_text())['shuffling'] == 1


def test_two_trainings_do_not_write_to_one_workdir(digits, tmp_path):
    with (
        workdirs.claim(tmp_path / 'run'),
        pytest.raises(UserError, match=r'another vjax\.train is writing to'),
    ):
        train(six_steps(digits), tmp_path / 'run')
    assert [path.name for path in (tmp_path / 'run').iterdir()] == ['.lock']
    with workdirs.claim(tmp_path / 'run'):
        pass


def test_a_workdir_below_a_link_that_leads_nowhere_is_named(tmp_path):
    (tmp_path / 'data').symlink_to(tmp_path / 'not mounted')
    with (
        pytest.raises(UserError, match=r"the link '.*data' leads to '.*not mounted', which is not"),
        workdirs.claim(tmp_path / 'data' / 'run'),
    ):
        pass


def test_weights_that_a_resumed_run_has_no_use_for_are_said(straight, digits, caplog):
    train(six_steps(digits, 'init_from=elsewhere'), straight)
    assert 'config.init_from=elsewhere is not used' in caplog.text


def test_a_resumed_run_says_where_its_data_set_is_now(straight, digits, tmp_path):
    shutil.copytree(straight, tmp_path / 'run')
    (tmp_path / 'moved').symlink_to(digits)
    overrides = ('init_from=elsewhere', 'eval.batch_size=16')
    train(six_steps(tmp_path / 'moved', *overrides), tmp_path / 'run')
    before, now = (
        json.loads((folder / 'config.json').read_text()) for folder in (straight, tmp_path / 'run')
    )
    assert now['config'] == before['config'] | {
        'dataset': before['config']['dataset'] | {'path': str(tmp_path / 'moved')},
        'eval': before['config']['eval'] | {'batch_size': 16},
    }
    assert now | {'config': None} == before | {'config': None}


def test_the_encoder_of_a_probe_is_told_the_grid_that_it_was_trained_on(straight):
    trained = runs.load_run(straight)
    probe = models.build('probe', num_classes=3, encoder=trained.model, num_heads=2, mlp_dim=8)
    told = runs.with_grid(probe, trained.config)
    grid = trained.model.token_grid(configs.clip_shape(trained.config))
    assert told == probe.clone(encoder=trained.model.clone(position_grid=grid))


def test_a_run_knows_the_grid_that_its_positions_were_trained_on(straight):
    """As many tokens of another clip are not the same places."""
    trained = runs.load_run(straight)
    time, height, width = trained.model.token_grid(configs.clip_shape(trained.config))
    assert trained.model.position_grid == ()
    longer = {'num_frames': trained.config.clip.num_frames * 4}
    longer['size'] = longer['short_side'] = trained.config.clip.size // 2
    overrides = [f'--config.clip.{key}={value}' for key, value in longer.items()]
    run = runs.load_run(straight, overrides=overrides)
    assert run.model.position_grid == (time, height, width)
    other = run.model.token_grid(configs.clip_shape(run.config))
    assert other == (4 * time, height // 2, width // 2)
    (source,) = runs.read_sources(str(straight), run.model, configs.clip_shape(run.config))
    assert source.model.position_grid == (time, height, width)
    table = source.params['spatial_encoder/position_embedding/table']
    how = weights.Adapt(**run.config.adapt)
    shape = configs.clip_shape(run.config)
    path = 'spatial_encoder/position_embedding/table'
    take = surgery.resize_table(source.model, trained.model, path, table, shape, how)
    assert take.how.startswith(f'{height}x{width} positions resized to {height // 2}x{width // 2}')


# --- Evaluation ---


def test_the_best_of_all_evaluations_is_kept(digits, tmp_path, monkeypatch):
    """Not of those that fall on a checkpoint."""
    top1 = iter([0.2, 0.7, 0.1])
    scores = ({'loss': 1.0, 'top1': each, 'num_videos': 12} for each in top1)
    monkeypatch.setattr(command, 'evaluate', lambda *_: next(scores))
    train(
        six_steps(digits, 'eval.every=2', 'checkpoint.every=100', 'checkpoint.keep_last=1'),
        tmp_path,
    )
    assert Checkpoints(tmp_path).steps == [4, 6]
    assert Checkpoints(tmp_path).best_step() == 4


def test_evaluation_does_not_depend_on_the_batch_size(straight):
    results = [evaluate_run(straight, views='2x1', batch_size=size) for size in (8, 16)]
    assert results[0]['num_videos'] == results[1]['num_videos'] == 12
    assert results[0]['top1'] == results[1]['top1']
    assert results[0]['loss'] == pytest.approx(results[1]['loss'], abs=1e-6)
    saved = json.loads((straight / 'evaluation.json').read_text())
    assert saved['views'] == '2x1'
    assert saved['split'] == 'test'


@pytest.mark.slow
def test_the_moving_average_is_what_is_evaluated(digits, tmp_path):
    train(six_steps(digits, 'ema=0.5'), tmp_path)
    run = runs.load_run(tmp_path)
    assert run.config.ema == 0.5
    checkpoints = Checkpoints(tmp_path)
    fresh = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), run.params
    )
    last = checkpoints.load_model(6, {'params': fresh, 'ema': fresh})['params']
    assert float(optax.tree.norm(jax.tree.map(lambda a, b: a - b, last, run.params))) > 1e-3
    scores = [line for line in numbers(tmp_path) if 'validation/loss' in line][-1]
    result = evaluate_run(tmp_path, split='validation')
    assert result['loss'] == pytest.approx(scores['validation/loss'], abs=1e-6)


@pytest.mark.parametrize('which', ['best', 'latest', '4'])
def test_a_checkpoint_is_chosen_by_name(straight, which):
    run = runs.load_run(straight, which)
    scored = [line for line in numbers(straight) if 'validation/top1' in line]
    assert [line['step'] for line in scored] == [3, 6]
    best = max(scored, key=lambda line: (line['validation/top1'], line['step']))
    assert run.step == {'best': best['step'], 'latest': 6, '4': 4}[which]


@pytest.mark.parametrize('which', ['5', 'first'])
def test_a_checkpoint_that_is_not_there_is_refused(straight, which):
    with pytest.raises(UserError, match=rf'--checkpoint={which}: '):
        runs.load_run(straight, which)
