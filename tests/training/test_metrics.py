"""Metrics of whole sets, against scikit-learn and against definitions written out."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special
from sklearn import metrics as sklearn_metrics

from vjax.training import losses, metrics
from vjax.training.losses import Classification

HEADS = {'noun': 7, 'verb': 4}
ONE = {'label': 6}


def random_outputs(heads=HEADS, num=300, seed=0):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(num, sum(heads.values()))).astype(np.float32) * 3
    label = np.stack([rng.integers(0, size, num) for size in heads.values()], axis=1)
    loss = rng.random(num).astype(np.float32)
    return metrics.Outputs(logits, loss, label.astype(np.int32), np.arange(num))


# --- In the top k ---


def test_equal_logits_are_not_a_hit():
    label = np.array([0, 1])
    assert not metrics.in_top_k(np.zeros((2, 10)), label, 1).any()
    assert not metrics.in_top_k(np.zeros((2, 10)), label, 5).any()


def test_logits_that_are_not_numbers_are_not_a_hit():
    assert not metrics.in_top_k(np.full((2, 10), np.nan), np.array([0, 9]), 5).any()
    assert not metrics.in_top_k(np.full((2, 3), np.nan), np.array([0, 2]), 5).any()


@pytest.mark.parametrize('k', [1, 2, 5])
def test_top_k_equals_sorting(k):
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(50, 8)).astype(np.float32)
    label = rng.integers(0, 8, 50)
    expected = [y in np.argsort(-row)[:k] for row, y in zip(logits, label, strict=True)]
    np.testing.assert_array_equal(metrics.in_top_k(logits, label, k), expected)


def brute_force(parts, label, k):
    """The joint top-k hits by looking at every combination."""
    hits = []
    for i in range(len(label)):
        sums = np.zeros(())
        for of_head in parts:
            sums = sums[..., None] + of_head[i].astype(np.float64)
        rivals = np.sum(~(sums < sums[tuple(label[i])])) - 1
        hits.append(rivals < min(k, sums.size) and not np.isnan(sums[tuple(label[i])]))
    return np.array(hits)


@pytest.mark.filterwarnings('ignore:invalid value')  # Infinities of both signs are added.
@pytest.mark.parametrize('sizes', [(9,), (7, 4), (2, 2), (1, 3), (12, 1), (3, 8, 5)], ids=str)
@pytest.mark.parametrize('k', [1, 2, 5])
@pytest.mark.parametrize('odd', [(), (np.nan,), (np.inf, -np.inf), (np.nan, np.inf, -np.inf)])
def test_joint_top_k_equals_looking_at_every_combination(sizes, k, odd):
    rng = np.random.default_rng(0)
    # Few whole numbers: many ties, and sums without rounding.
    parts = [rng.integers(-4, 5, (200, size)).astype(np.float64) for size in sizes]
    for of_head in parts:
        for value in odd:
            of_head[rng.random(of_head.shape) < 0.05] = value
    label = np.stack([rng.integers(0, size, 200) for size in sizes], axis=1)
    # Half of the labels are likely ones.
    label[::2] = np.stack([np.nan_to_num(of_head[::2]).argmax(axis=1) for of_head in parts], axis=1)
    hits = metrics.in_joint_top_k(parts, label, k)
    expected = brute_force(parts, label, k)
    np.testing.assert_array_equal(hits, expected)
    assert 0 < expected.mean() <= 1
    if len(sizes) == 1:
        np.testing.assert_array_equal(hits, metrics.in_top_k(parts[0], label[:, 0], k))


# --- All scores ---


def test_the_scores_of_exclusive_classes_are_those_of_scikit_learn():
    outputs = random_outputs(ONE)
    # Half of the labels are likely ones, and a class has no example.
    outputs.label[::2, 0] = outputs.logits[::2].argmax(axis=1)
    outputs.label[outputs.label == 3] = 2
    label, logits = outputs.label[:, 0], outputs.logits
    scores = metrics.scores(Classification(ONE, 'softmax', 0.1), outputs)
    assert scores.keys() == {'loss', 'top1', 'top5', 'mean_class_accuracy', 'ece', 'num_videos'}
    assert scores['num_videos'] == 300
    assert scores['loss'] == pytest.approx(outputs.loss.astype(np.float64).mean(), abs=1e-12)
    guess = logits.argmax(axis=1)
    assert scores['top1'] == pytest.approx(sklearn_metrics.accuracy_score(label, guess), abs=1e-12)
    expected = sklearn_metrics.top_k_accuracy_score(label, logits, k=5, labels=range(6))
    assert scores['top5'] == pytest.approx(expected, abs=1e-12)
    expected = sklearn_metrics.recall_score(
        label, guess, average='macro', labels=np.unique(label), zero_division=0
    )
    assert scores['mean_class_accuracy'] == pytest.approx(expected, abs=1e-12)
    assert scores['mean_class_accuracy'] != pytest.approx(scores['top1'], abs=1e-3)


@pytest.mark.parametrize('name', losses.NAMES)
def test_the_scores_of_several_heads_are_joint_and_each_heads_own(name):
    outputs = random_outputs()
    scores = metrics.scores(Classification(HEADS, name, 0.1), outputs)
    own = {f'{h}/{m}' for h in HEADS for m in ('top1', 'top5', 'mean_class_accuracy', 'ece')}
    assert scores.keys() == {'loss', 'top1', 'top5', 'num_videos'} | own
    x = outputs.logits.astype(np.float64)
    if name == 'softmax':
        p = [np.exp(x[:, :7]), np.exp(x[:, 7:])]
        log_p = [np.log(part / part.sum(axis=1, keepdims=True)) for part in p]
    else:
        log_p = [-np.log1p(np.exp(-x[:, :7])), -np.log1p(np.exp(-x[:, 7:]))]
    for k in (1, 5):
        joint = brute_force(log_p, outputs.label, k)
        assert scores[f'top{k}'] == joint.mean()
        assert scores[f'top{k}'] <= min(scores[f'noun/top{k}'], scores[f'verb/top{k}'])
    # Each head scores as it would alone.
    for i, (head, part) in enumerate({'noun': x[:, :7], 'verb': x[:, 7:]}.items()):
        alone = outputs._replace(logits=part.astype(np.float32), label=outputs.label[:, i : i + 1])
        expected = metrics.scores(Classification({head: HEADS[head]}, name, 0.0), alone)
        for key in ('top1', 'top5', 'mean_class_accuracy', 'ece'):
            assert scores[f'{head}/{key}'] == expected[key]


def precision_written_out(score, label):
    """Average precision by its definition: the mean over the examples of the precision at their rank."""
    precisions = []
    for positive in np.flatnonzero(label):
        at_least = score >= score[positive]
        precisions.append(np.sum(label & at_least) / np.sum(at_least))
    return np.mean(precisions)


@pytest.mark.parametrize('ties', [False, True])
def test_the_scores_of_several_labels_are_their_definitions(ties):
    rng = np.random.default_rng(0)
    label = rng.random((80, 5)) < [0.5, 0.1, 0.9, 0.0, 1.0]  # No example, and nothing but examples.
    logits = (rng.normal(size=(80, 5)) + 1.5 * label).astype(np.float32)
    if ties:
        logits = np.round(logits)
    logits[:20] = np.where(label[:20], 3.5, -0.5)
    logits[0, 1], logits[1, 1] = np.inf, -np.inf
    outputs = metrics.Outputs(logits, np.ones(80), label.astype(np.int32), np.arange(80))
    classification = Classification({'action': 5}, 'sigmoid', 0.1, multi_label=True)
    scores = metrics.scores(classification, outputs)
    assert scores.keys() == {'loss', 'mAP', 'exact_match', 'ece', 'num_videos'}
    columns = [precision_written_out(logits[:, i], label[:, i]) for i in (0, 1, 2, 4)]
    assert scores['mAP'] == pytest.approx(np.mean(columns), abs=1e-12)
    right = [
        all((x > 0) if y else (x < 0) for x, y in zip(*row, strict=True))
        for row in zip(logits, label, strict=True)
    ]
    assert scores['exact_match'] == np.mean(right)
    assert 0.2 < scores['exact_match'] < 1
    p = special.expit(logits.astype(np.float64))
    assert scores['ece'] == pytest.approx(ece_written_out(p.ravel(), label.ravel()), abs=1e-12)


def test_map_without_any_example_or_with_a_nan_is_no_number():
    label = np.eye(4, dtype=bool)
    assert metrics.mean_average_precision(np.eye(4, dtype=np.float32), label) == 1
    assert math.isnan(metrics.mean_average_precision(np.eye(4), np.zeros((4, 4), bool)))
    logits = np.eye(4)
    logits[2, 3] = np.nan
    assert math.isnan(metrics.mean_average_precision(logits, label))


# --- Calibration ---


def ece_written_out(confidence, right):
    """arXiv:1706.04599, eq. 3, a bin at a time."""
    total = 0.0
    for m in range(15):
        inside = (confidence > m / 15) & (confidence <= (m + 1) / 15)
        inside |= (confidence == 0) & (m == 0)
        if inside.any():
            gap = abs(np.mean(right[inside]) - np.mean(confidence[inside]))
            total += np.sum(inside) / len(confidence) * gap
    return total


@settings(deadline=None, max_examples=50)
@given(
    st.lists(
        # Half of them lie between two bins.
        st.tuples(st.floats(0, 1) | st.sampled_from(np.arange(16) / 15), st.booleans()),
        min_size=1,
        max_size=60,
    )
)
def test_the_calibration_error_is_that_of_the_paper(pairs):
    confidence, right = np.array([c for c, _ in pairs]), np.array([r for _, r in pairs])
    error = metrics.expected_calibration_error(confidence, right)
    assert error == pytest.approx(ece_written_out(confidence, right), abs=1e-12)
    assert 0 <= error <= 1


def test_the_calibration_error_of_known_predictions():
    # Of ten that are 0.8 sure, eight are right; of ten that are 0.6 sure, one.
    confidence = np.repeat([0.8, 0.6], 10)
    right = np.arange(20) % 10 < np.repeat([8, 1], 10)
    error = metrics.expected_calibration_error(confidence, right)
    assert error == pytest.approx(0.25, abs=1e-12)
    # The upper end of a bin belongs to it: 0.2 to that of 0.15, not of 0.25.
    error = metrics.expected_calibration_error(np.array([0.2, 0.15, 0.25]), np.arange(3) == 0)
    assert error == pytest.approx((0.8 - 0.15 + 0.25) / 3, abs=1e-12)
    assert math.isnan(metrics.expected_calibration_error(np.array([0.5, np.nan]), right[:2]))


def test_the_confidence_is_the_probability_of_the_best_class():
    outputs = random_outputs(ONE)
    p = special.softmax(outputs.logits.astype(np.float64), axis=1)
    expected = ece_written_out(p.max(axis=1), p.argmax(axis=1) == outputs.label[:, 0])
    scores = metrics.scores(Classification(ONE, 'softmax', 0.0), outputs)
    assert scores['ece'] == pytest.approx(expected, abs=1e-12)


# --- Confusion ---


def test_the_confusion_matrix_has_the_hits_on_its_diagonal_and_ties_in_its_last_column():
    outputs = random_outputs(ONE, num=60)
    logits, label = outputs.logits, outputs.label[:, 0]
    logits[:4] = 0  # Ties.
    logits[4, 2] = np.nan
    logits[5, :2] = np.inf
    counts = metrics.confusion_matrix(logits, label)
    assert counts.shape == (6, 7)
    np.testing.assert_array_equal(counts.sum(axis=1), np.bincount(label, minlength=6))
    assert np.trace(counts) == metrics.in_top_k(logits, label, 1).sum()
    assert counts[:, 6].sum() == 6
    known = np.arange(60) >= 6
    expected = np.zeros((6, 6), int)
    np.add.at(expected, (label[known], logits[known].argmax(axis=1)), 1)
    np.testing.assert_array_equal(counts[:, :6], expected)


@settings(deadline=None, max_examples=50)
@given(st.data())
def test_what_is_predicted_is_what_top_1_counts(data):
    num_classes = data.draw(st.integers(1, 4))
    values = st.sampled_from([0.0, 1.0, 2.0, -np.inf, np.inf, np.nan])
    row = st.lists(values, min_size=num_classes, max_size=num_classes)
    logits = np.array(data.draw(st.lists(row, min_size=1, max_size=8)), np.float32)
    for label in range(num_classes):
        labels = np.full(len(logits), label)
        hits = metrics.predicted(logits) == labels
        np.testing.assert_array_equal(hits, metrics.in_top_k(logits, labels, 1))


def test_the_confusion_of_several_labels_counts_each_class_alone():
    label = np.array([[1, 0], [1, 1], [0, 0]])
    logits = np.array([[1.0, 1.0], [-1.0, 2.0], [-3.0, np.nan]])
    np.testing.assert_array_equal(
        metrics.multi_label_confusion(logits, label), [[1, 0, 1, 1], [1, 1, 0, 1]]
    )
