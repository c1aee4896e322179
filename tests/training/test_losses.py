import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vjax.training import losses
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


def test_a_training_hit_is_one_of_all_heads_at_what_the_mixed_target_has_most_of():
    classification = Classification({'a': 3, 'b': 2}, 'softmax', 0.1)
    target = classification.targets(jnp.array([[0, 1], [2, 0]], jnp.int32))
    mixed = 0.7 * target + 0.3 * target[::-1]
    logits = jnp.array([[5.0, 1, 2, 0, 1], [5, 1, 2, 1, 0]])  # Of the second, only b is right.
    np.testing.assert_array_equal(classification.hits(logits, mixed), [1, 0])
    mixed = 0.3 * target + 0.7 * target[::-1]
    np.testing.assert_array_equal(classification.hits(logits, mixed), [0, 0])


@pytest.mark.parametrize('value', [0.0, np.nan])
@pytest.mark.parametrize('multi_label', [False, True])
def test_logits_that_say_nothing_are_no_hit_in_training(value, multi_label):
    classification = Classification({'label': 4}, 'sigmoid', 0.0, multi_label)
    target = jnp.eye(4)
    np.testing.assert_array_equal(classification.hits(jnp.full((4, 4), value), target), np.zeros(4))


# --- Any number of labels ---

MULTI_HOT = [[0, 1, 1, 0], [0, 0, 0, 0], [1, 1, 1, 1]]


def multi_label(smoothing):
    return Classification({'action': 4}, 'sigmoid', smoothing, multi_label=True)


def test_multi_hot_targets_are_smoothed_between_yes_and_no():
    label = jnp.array(MULTI_HOT, jnp.int32)
    np.testing.assert_array_equal(multi_label(0.0).targets(label), MULTI_HOT)
    smooth = np.where(MULTI_HOT, 0.95, 0.05)
    np.testing.assert_allclose(multi_label(0.1).targets(label), smooth, rtol=1e-6)
    one_class = Classification({'action': 4}, 'sigmoid', 0.1)
    # Of one-hot targets, the mass is spread over the classes.
    np.testing.assert_allclose(
        one_class.targets(jnp.array([[1]], jnp.int32)), [[0.025, 0.925, 0.025, 0.025]], rtol=1e-6
    )


@pytest.mark.parametrize('smoothing', [0.0, 0.1])
def test_the_multi_label_loss_and_its_gradient_are_those_of_torch(smoothing):
    torch = pytest.importorskip('torch', reason='needs the [parity] extra')
    rng = np.random.default_rng(0)
    logits = rng.normal(scale=4, size=(3, 4)).astype(np.float32)
    logits[0, :2] = 60, -60  # Where the logarithm of a sigmoid is lost.
    target = np.where(MULTI_HOT, 1 - smoothing / 2, smoothing / 2).astype(np.float32)
    theirs = torch.tensor(logits, requires_grad=True)
    loss = torch.nn.BCEWithLogitsLoss(reduction='none')(theirs, torch.tensor(target)).sum(dim=1)
    loss.sum().backward()

    def ours(logits):
        classification = multi_label(smoothing)
        found = classification.loss(logits, classification.targets(jnp.array(MULTI_HOT, jnp.int32)))
        return found.sum(), found

    grad, found = jax.grad(ours, has_aux=True)(jnp.asarray(logits))
    # Both are float32: a few roundings of sums of four terms.
    np.testing.assert_allclose(found, loss.detach().numpy(), rtol=1e-5)
    np.testing.assert_allclose(grad, theirs.grad.numpy(), atol=1e-6)


@pytest.mark.parametrize('smoothing', [0.0, 0.3])
def test_a_multi_label_hit_has_just_the_classes_that_the_mixed_target_has_most_of(smoothing):
    target = multi_label(smoothing).targets(jnp.array(MULTI_HOT, jnp.int32))
    mixed = 0.8 * target + 0.2 * target[::-1]
    right = jnp.array([[-1.0, 2, 3, -4], [-1, -1, -1, -1], [1, 1, 1, 1]])
    np.testing.assert_array_equal(multi_label(smoothing).hits(right, mixed), [1, 1, 1])
    for wrong in (right.at[:, 2].multiply(-1), right.at[:, 0].set(0)):
        np.testing.assert_array_equal(multi_label(smoothing).hits(wrong, mixed), [0, 0, 0])
