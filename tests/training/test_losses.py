import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vjax.training import losses, metrics
from vjax.training.losses import Classification

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
    label = jnp.array([[0], [2], [0]], jnp.int32)
    mask = jnp.array([1.0, 1.0, 0.0])
    sums = metrics.evaluation_sums(
        Classification({'label': 3}, 'softmax', 0.1), logits, label, mask
    )
    assert sums.keys() == {'loss', 'top1', 'top5', 'num'}
    hard = losses.softmax_cross_entropy(logits, losses.one_hot(label[:, 0], 3))
    assert float(sums['loss']) == pytest.approx(float(hard[0] + hard[1]), rel=1e-6)
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


# --- Several heads, and the sigmoid loss ---

HEADS = {'noun': 7, 'verb': 4}


def random_logits(num_examples=300, heads=HEADS, seed=0):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(num_examples, sum(heads.values()))).astype(np.float32) * 3
    label = np.stack([rng.integers(0, size, num_examples) for size in heads.values()], axis=1)
    return jnp.asarray(logits), jnp.asarray(label, jnp.int32)


@pytest.mark.parametrize('smoothing', [0.0, 0.2])
def test_the_softmax_loss_is_the_mean_of_the_heads_cross_entropies(smoothing):
    logits, label = random_logits()
    classification = Classification(HEADS, 'softmax', smoothing)
    noun = optax.smooth_labels(jax.nn.one_hot(label[:, 0], 7), smoothing)
    verb = optax.smooth_labels(jax.nn.one_hot(label[:, 1], 4), smoothing)
    expected = optax.softmax_cross_entropy(logits[:, :7], noun)
    expected += optax.softmax_cross_entropy(logits[:, 7:], verb)
    target = classification.targets(label)
    np.testing.assert_allclose(target, np.concatenate([noun, verb], axis=1), atol=1e-6)
    np.testing.assert_allclose(classification.loss(logits, target), expected / 2, rtol=1e-5)


@pytest.mark.parametrize('heads', [{'label': 11}, HEADS], ids=len)
@pytest.mark.parametrize('smoothing', [0.0, 0.1])
def test_the_sigmoid_loss_sums_binary_cross_entropies(heads, smoothing):
    logits, label = random_logits(heads=heads)
    logits = logits.at[0, 0].set(200.0).at[1, 0].set(-200.0)
    classification = Classification(heads, 'sigmoid', smoothing)
    target = classification.targets(label)
    expected = optax.sigmoid_binary_cross_entropy(logits, target).sum(axis=-1) / len(heads)
    np.testing.assert_allclose(classification.loss(logits, target), expected, rtol=1e-5)


def brute_force(scores, label, k):
    """The joint top-k hits by looking at every combination."""
    hits = []
    for i in range(len(label)):
        sums = np.zeros(())
        for of_head in scores:
            sums = sums[..., None] + of_head[i].astype(np.float64)
        rivals = np.sum(~(sums < sums[tuple(label[i])])) - 1
        hits.append(rivals < min(k, sums.size))
    return np.array(hits)


@pytest.mark.filterwarnings('ignore:invalid value')  # Infinities of both signs are added.
@pytest.mark.parametrize('sizes', [(9,), (7, 4), (2, 2), (1, 3), (12, 1), (3, 8, 5)], ids=str)
@pytest.mark.parametrize('k', [1, 2, 5])
@pytest.mark.parametrize('odd', [(), (np.nan,), (np.inf, -np.inf), (np.nan, np.inf, -np.inf)])
def test_joint_top_k_equals_looking_at_every_combination(sizes, k, odd):
    rng = np.random.default_rng(0)
    # Few whole numbers: many ties, and sums without rounding.
    scores = [rng.integers(-4, 5, (400, size)).astype(np.float32) for size in sizes]
    for of_head in scores:
        for value in odd:
            of_head[rng.random(of_head.shape) < 0.05] = value
    label = np.stack([rng.integers(0, size, 400) for size in sizes], axis=1).astype(np.int32)
    # Half of the labels are likely ones.
    label[::2] = np.stack(
        [np.nan_to_num(of_head[::2]).argmax(axis=1) for of_head in scores], axis=1
    )
    hits = metrics.in_joint_top_k([jnp.asarray(x) for x in scores], jnp.asarray(label), k)
    expected = brute_force(scores, label, k)
    np.testing.assert_array_equal(hits, expected)
    assert 0 < expected.mean() <= 1
    if len(sizes) == 1:
        alone = metrics.in_top_k(jnp.asarray(scores[0]), jnp.asarray(label[:, 0]), k)
        np.testing.assert_array_equal(hits, alone)


@pytest.mark.parametrize('name', losses.NAMES)
def test_the_sums_of_several_heads(name):
    logits, label = random_logits()
    mask = jnp.asarray(np.arange(300) % 3 > 0, jnp.float32)
    sums = metrics.evaluation_sums(Classification(HEADS, name, 0.1), logits, label, mask)
    heads = {f'{head}/top{k}' for head in HEADS for k in (1, 5)}
    assert sums.keys() == {'loss', 'top1', 'top5', 'num'} | heads
    x = np.asarray(logits, np.float64)
    if name == 'softmax':
        p = [np.exp(x[:, :7]), np.exp(x[:, 7:])]
        log_p = [np.log(part / part.sum(axis=1, keepdims=True)) for part in p]
    else:
        log_p = [-np.log1p(np.exp(-x[:, :7])), -np.log1p(np.exp(-x[:, 7:]))]
    for k in (1, 5):
        joint = brute_force(log_p, np.asarray(label), k)
        assert float(sums[f'top{k}']) == np.sum(joint * np.asarray(mask))
        noun = metrics.in_top_k(logits[:, :7], label[:, 0], k)
        assert float(sums[f'noun/top{k}']) == float(jnp.sum(mask * noun))
        assert sums[f'top{k}'] <= min(sums[f'noun/top{k}'], sums[f'verb/top{k}'])
    exact = Classification(HEADS, name, 0.0)
    expected = jnp.sum(mask * exact.loss(logits, exact.targets(label)))
    assert float(sums['loss']) == pytest.approx(float(expected), rel=1e-6)


def test_a_training_hit_is_one_of_all_heads_at_what_the_mixed_target_has_most_of():
    classification = Classification({'a': 3, 'b': 2}, 'softmax', 0.1)
    target = classification.targets(jnp.array([[0, 1], [2, 0]], jnp.int32))
    mixed = 0.7 * target + 0.3 * target[::-1]
    logits = jnp.array([[5.0, 1, 2, 0, 1], [5, 1, 2, 1, 0]])  # Of the second, only b is right.
    np.testing.assert_array_equal(metrics.training_hits(classification, logits, mixed), [1, 0])
    np.testing.assert_array_equal(
        metrics.training_hits(classification, logits, 0.3 * target + 0.7 * target[::-1]), [0, 0]
    )
