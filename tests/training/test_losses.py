import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from vjax.training import losses, metrics

AUX = Path(__file__).parents[3] / 'shared/scenic/aux'


def test_cross_entropy_of_equal_logits_is_the_log_of_the_class_count():
    loss = losses.softmax_cross_entropy(jnp.zeros((2, 7)), losses.one_hot(jnp.array([0, 3]), 7))
    np.testing.assert_allclose(loss, np.log(7), rtol=1e-6)


def test_smoothed_targets_are_distributions_with_the_right_mass():
    target = losses.one_hot(jnp.array([2]), 4, smoothing=0.2)
    np.testing.assert_allclose(target, [[0.05, 0.05, 0.85, 0.05]], rtol=1e-6)


@pytest.mark.skipif(not AUX.exists(), reason='the reference losses are not at hand')
@pytest.mark.parametrize('smoothing', [0.0, 0.1, 0.3])
@pytest.mark.parametrize('masked', [False, True])
def test_losses_equal_the_reference(smoothing, masked):
    expected = json.loads((AUX / 'aux_losses.json').read_text())
    arrays = np.load(AUX / 'aux_losses.npz')
    logits = jnp.asarray(arrays['logits'])
    target = jnp.asarray(arrays['onehot'])
    smooth = target * (1 - smoothing) + smoothing / target.shape[-1]
    np.testing.assert_allclose(
        smooth, losses.one_hot(jnp.argmax(target, -1), target.shape[-1], smoothing), atol=1e-6
    )
    mask = jnp.asarray(arrays['mask']) if masked else jnp.ones(len(logits))
    loss = jnp.sum(mask * losses.softmax_cross_entropy(logits, smooth)) / jnp.sum(mask)
    name = f'ce_onehot_ls{smoothing or None}_{"mask" if masked else "nomask"}'
    assert float(loss) == pytest.approx(expected[name], rel=1e-5)


def test_metrics_count_masked_examples_only():
    logits = jnp.array([[3.0, 1.0, 0.0], [0.0, 2.0, 1.0], [0.0, 0.0, 9.0]])
    label = jnp.array([0, 2, 0], jnp.int32)
    sums = metrics.evaluation_sums(logits, label, jnp.array([1.0, 1.0, 0.0]))
    assert float(sums['num']) == 2
    assert float(sums['top1']) == 1
    assert float(sums['top5']) == 2
    means = metrics.means(sums)
    assert means['top1'] == 0.5
    assert 'num' not in means


def test_equal_logits_are_not_a_hit():
    label = jnp.array([0, 1], jnp.int32)
    assert float(jnp.sum(metrics.in_top_k(jnp.zeros((2, 10)), label, 1))) == 0
    assert float(jnp.sum(metrics.in_top_k(jnp.zeros((2, 10)), label, 5))) == 0


def test_logits_that_are_not_numbers_are_not_a_hit():
    logits = jnp.full((2, 10), jnp.nan)
    assert float(jnp.sum(metrics.in_top_k(logits, jnp.array([0, 9], jnp.int32), 5))) == 0


@pytest.mark.parametrize('k', [1, 2, 5])
def test_top_k_equals_sorting(k):
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(50, 8)).astype(np.float32)
    label = rng.integers(0, 8, 50).astype(np.int32)
    expected = [y in np.argsort(-row)[:k] for row, y in zip(logits, label, strict=True)]
    np.testing.assert_array_equal(
        metrics.in_top_k(jnp.asarray(logits), jnp.asarray(label), k), expected
    )
