"""A probe end to end: starts from a run, leaves its encoder as it was, is evaluated and goes on."""

import jax
import numpy as np
import pytest

from vjax import cli, models, weights
from vjax.evaluate import evaluate_run
from vjax.predict import predict
from vjax.train import train
from vjax.training import optimizer, runs

pytestmark = pytest.mark.slow  # Three trainings.


def load(path, dataset, *overrides):
    overrides = (f'dataset.path={dataset}', *overrides)
    return cli.load_config(f'configs/{path}:tiny', [f'--config.{o}' for o in overrides])


def params(workdir):
    return weights.flatten(jax.device_get(runs.load_run(workdir).params))


@pytest.fixture(scope='module')
def trained(digits, tmp_path_factory):
    workdir = tmp_path_factory.mktemp('trained')
    train(load('vivit/moving_digits.py', digits, 'eval.every=0'), workdir)
    return workdir


@pytest.fixture(scope='module')
def probed(trained, digits, tmp_path_factory):
    workdir = tmp_path_factory.mktemp('probed')
    # Weight decay and a moving average would both move what is not frozen.
    settings = (f'init_from={trained}', 'ema=0.5', 'eval.every=0')
    train(load('probe/moving_digits.py', digits, *settings), workdir)
    return workdir


def test_the_encoder_stays_to_the_bit_and_the_head_is_trained(trained, probed):
    source, found = params(trained), params(probed)
    run = runs.load_run(probed)
    before = weights.flatten(jax.jit(lambda: runs.init_params(run.model, run.config))())
    for path, array in source.items():
        if not path.startswith('head/'):
            np.testing.assert_array_equal(found.pop(f'encoder/{path}'), array, err_msg=path)
    assert not any(path.startswith('encoder/') for path in found)
    assert not np.array_equal(before['encoder/embedding/kernel'], source['embedding/kernel'])
    for path in found:
        # The keys' biases shift all logits of a softmax alike.
        assert path.endswith('key/bias') or not np.array_equal(found[path], before[path]), path


def test_it_keeps_no_moments_of_the_encoder(probed):
    run = runs.load_run(probed)
    tree = run.params
    tx, _ = optimizer.build(tree, 2, **run.config.optimizer)
    moments = sum(leaf.size for leaf in jax.tree.leaves(tx.init(tree)) if leaf.ndim)
    own = sum(
        leaf.size for name in ('blocks', 'pool', 'head') for leaf in jax.tree.leaves(tree[name])
    )
    assert moments == 2 * own


def test_a_probe_is_evaluated_and_predicts(probed, digits):
    scores = evaluate_run(probed, split='test', out=probed / 'test.json')
    assert scores['num_videos'] == 12
    assert 0 <= scores['top1'] <= 1
    video = next((digits.parent / 'videos').rglob('*.mp4'))
    (result,) = predict(probed, [video])
    assert sum(entry['score'] for entry in result['top']) <= 1 + 1e-6
    # The nested fields are overridden like any others.
    run = runs.load_run(probed, overrides=['--config.model.encoder.dropout=0.1'])
    assert run.model.encoder.dropout == 0.1


@pytest.mark.parametrize('path', ['probe/moving_digits.py', 'vivit/finetune_moving_digits.py'])
def test_what_a_config_starts_from(path, trained, probed, digits):
    """A probe from a probe: all of it. A fine-tuned model from a run of the same classes: likewise."""
    source = probed if path.startswith('probe') else trained
    config = load(path, digits, f'init_from={source}', 'model.num_classes=6')
    model = models.build(**config.model)
    shapes = jax.eval_shape(lambda: runs.init_params(model, config))
    arrays, report = runs.start_from(config, model, shapes, runs.load_run(source).classes)
    assert not report.left
    expected = params(source)
    assert arrays.keys() == expected.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, expected[name], err_msg=name)
