"""Metrics of a whole set, all from its logits at once: no batch size, padding or host enters them."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from einops import rearrange
from etils import epy
from jaxtyping import Bool, Float, Int
from scipy import special

from vjax.training.losses import Classification

with epy.lazy_imports():
    from sklearn import metrics as sklearn_metrics

NUM_BINS = 15  # Of the calibration error: those of arXiv:1706.04599.


class Outputs(NamedTuple):
    """What a model made of the examples of a set.

    Attributes:
        logits: the mean over an example's views.
        loss: in nats, without label smoothing.
        label: class id for each head; of a multi-label head, 0 or 1 for each class.
        index: the example's place in the set, ascending.
    """

    logits: Float[np.ndarray, 'examples classes']
    loss: Float[np.ndarray, 'examples']
    label: Int[np.ndarray, 'examples _']
    index: Int[np.ndarray, 'examples']


def scores(classification: Classification, outputs: Outputs) -> dict[str, float]:
    """All metrics of a set, shares in [0, 1]; and `num_videos`.

    Of every set, `loss` in nats. Of a head whose classes exclude each other:
        top1, top5: share of the examples whose class is among the best; see `in_top_k`.
        mean_class_accuracy: the mean over the classes that there are examples of, of their top1.
        ece: expected calibration error of the best class's probability.
    With several heads these are there for each, as in `noun/top1`; `top1` and `top5` alone are then
    those of the combination of the heads' classes (see `in_joint_top_k`).

    Of a multi-label head:
        mAP: see `mean_average_precision`.
        exact_match: share of the examples where just the right classes are more likely than not.
        ece: expected calibration error of all classes' probabilities, pooled.
    """
    found = {'loss': np.mean(outputs.loss, dtype=np.float64)}
    if classification.multi_label:
        logits, label = outputs.logits, outputs.label.astype(bool)
        probability = special.expit(logits.astype(np.float64))
        found |= {
            'mAP': mean_average_precision(logits, label),
            # A logit of 0 says neither yes nor no, and one that is not a number nothing.
            'exact_match': np.mean(np.all(np.where(label, logits > 0, logits < 0), axis=-1)),
            'ece': expected_calibration_error(probability.ravel(), label.ravel()),
        }
    else:
        log_p = log_probabilities(classification, outputs.logits)
        if len(log_p) > 1:
            joint = list(log_p.values())
            for k in (1, 5):
                found[f'top{k}'] = np.mean(in_joint_top_k(joint, outputs.label, k))
        for i, (head, logits) in enumerate(classification.split(outputs.logits).items()):
            label = outputs.label[:, i]
            top1 = in_top_k(logits, label, 1)
            of_head = {
                'top1': np.mean(top1),
                'top5': np.mean(in_top_k(logits, label, 5)),
                'mean_class_accuracy': mean_class_accuracy(top1, label),
                'ece': expected_calibration_error(np.exp(np.max(log_p[head], axis=-1)), top1),
            }
            found |= {prefix(classification, head) + name: x for name, x in of_head.items()}
    return {
        **{name: float(value) for name, value in found.items()},
        'num_videos': len(outputs.loss),
    }


def prefix(classification: Classification, head: str) -> str:
    """What the names of a head's own metrics begin with: 'noun/', or nothing where it is the only one."""
    return f'{head}/' if len(classification.heads) > 1 else ''


def log_probabilities(
    classification: Classification, logits: Float[np.ndarray, 'examples classes']
) -> dict[str, Float[np.ndarray, 'examples _']]:
    """What each head makes of its classes, as the loss understands logits; in float64."""
    parts = classification.split(logits.astype(np.float64))
    if classification.name == 'sigmoid':
        return {head: special.log_expit(part) for head, part in parts.items()}
    # Logits that are not finite give what is not a number, as in the loss.
    with np.errstate(invalid='ignore'):
        return {head: special.log_softmax(part, axis=-1) for head, part in parts.items()}


# --- Right or wrong ---


def in_top_k(
    logits: Float[np.ndarray, 'examples classes'], label: Int[np.ndarray, 'examples'], k: int
) -> Bool[np.ndarray, 'examples']:
    """Where fewer than `k` classes score at least as high as the label.

    Ties count against the label: logits that are all equal (a head left at initialisation) score 0,
    not the accuracy of whichever class comes first; so do logits that are not numbers.
    """
    own = np.take_along_axis(logits, label[:, None], axis=-1)
    # Not `logits >= own`, by which a NaN would beat nobody.
    rivals = np.sum(~(logits < own), axis=-1) - 1
    return (rivals < min(k, logits.shape[-1])) & ~np.isnan(own[:, 0])


def in_joint_top_k(
    parts: Sequence[Float[np.ndarray, 'examples _']],
    label: Int[np.ndarray, 'examples heads'],
    k: int,
) -> Bool[np.ndarray, 'examples']:
    """Where fewer than `k` combinations of classes score at least as high as the label's.

    A combination takes one class of each head, and its score is the sum of theirs: as log-probabilities,
    the product of the heads' probabilities. The k + 1 best combinations are made of each head's k + 1
    best classes, so no others are looked at; ties and scores that are not numbers count against the
    label, as in `in_top_k`.
    """
    own, best = np.zeros((len(label), 1)), np.zeros((len(label), 1))
    with np.errstate(invalid='ignore'):  # Infinities of both signs may be added.
        for i, of_head in enumerate(parts):
            # What is not a number is sorted behind the largest: here it is among the best.
            top = np.sort(of_head, axis=-1)[:, -(k + 1) :]
            own = own + np.take_along_axis(of_head, label[:, i, None], axis=-1)
            sums = rearrange(best, 'b i -> b i 1') + rearrange(top, 'b j -> b 1 j')
            best = rearrange(sums, 'b i j -> b (i j)')
    not_beaten = np.sum(~(best < own), axis=-1)  # The label's own combination is one of them.
    within = not_beaten <= min(k, math.prod(of_head.shape[-1] for of_head in parts))
    return within & ~np.isnan(own[:, 0])


def predicted(logits: Float[np.ndarray, 'examples classes']) -> Int[np.ndarray, 'examples']:
    """The class that scores more than every other, as `in_top_k` takes it; -1 if there is none."""
    best = np.argmax(np.where(np.isnan(logits), -np.inf, logits), axis=-1)
    return np.where(in_top_k(logits, best, 1), best, -1)


# --- Metrics that scikit-learn lacks, or refuses some sets of ---


def mean_class_accuracy(
    right: Bool[np.ndarray, 'examples'], label: Int[np.ndarray, 'examples']
) -> float:
    """The mean, over the classes that there are examples of, of the share of them that is right."""
    count = np.bincount(label)
    share = np.bincount(label, weights=right)[count > 0] / count[count > 0]
    return float(np.mean(share))


def expected_calibration_error(
    confidence: Float[np.ndarray, 'predictions'], right: Bool[np.ndarray, 'predictions']
) -> float:
    """How far probabilities are from shares of hits (arXiv:1706.04599, eq. 3).

    The predictions are sorted into 15 bins of confidence, (0, 1/15] to (14/15, 1]. The error is the mean
    over the predictions of the distance, in their bin, of the mean confidence from the share that is
    right; NaN where a confidence is.
    """
    if np.isnan(confidence).any():
        return math.nan
    bins = np.digitize(confidence, np.arange(1, NUM_BINS) / NUM_BINS, right=True)
    gaps = np.bincount(bins, weights=right - confidence)
    return float(np.sum(np.abs(gaps)) / len(confidence))


def mean_average_precision(
    logits: Float[np.ndarray, 'examples classes'], label: Bool[np.ndarray, 'examples classes']
) -> float:
    """mAP: the mean, over the classes that there are examples of, of their average precision.

    NaN where a logit is, or where there is no example of any class.
    """
    if np.isnan(logits).any() or not label.any():
        return math.nan
    return float(np.nanmean(average_precisions(logits, label)))


def average_precisions(
    logits: Float[np.ndarray, 'examples classes'], label: Bool[np.ndarray, 'examples classes']
) -> Float[np.ndarray, 'classes']:
    """The average precision of each class: the mean over its examples of the precision at their rank.

    It is not interpolated; examples of equal logits have the lowest of their ranks together, so that
    their order is nothing. NaN for a class that has no example, or a logit that is NaN.
    """
    found = np.full(logits.shape[-1], math.nan)
    for i in np.flatnonzero(label.any(axis=0) & ~np.isnan(logits).any(axis=0)):
        # scikit-learn refuses infinities.
        scores = np.nan_to_num(logits[:, i])
        found[i] = sklearn_metrics.average_precision_score(label[:, i], scores)
    return found


# --- Which class is taken for which ---


def confusion_matrix(
    logits: Float[np.ndarray, 'examples classes'], label: Int[np.ndarray, 'examples']
) -> Int[np.ndarray, 'classes classes_and_none']:
    """How many examples of each class (a row) have each class predicted; last, those with none."""
    num_classes = logits.shape[-1]
    guess = predicted(logits)
    guess = np.where(guess < 0, num_classes, guess)
    ids = np.arange(num_classes + 1)
    return sklearn_metrics.confusion_matrix(label, guess, labels=ids)[:num_classes]


def multi_label_confusion(
    logits: Float[np.ndarray, 'examples classes'], label: Int[np.ndarray, 'examples classes']
) -> Int[np.ndarray, 'classes 4']:
    """For each class its true positives, false positives, false negatives and true negatives.

    Positive is what is more likely than not.
    """
    truth, guess = label > 0, logits > 0
    cells = (truth & guess, ~truth & guess, truth & ~guess, ~truth & ~guess)
    return np.stack([np.sum(cell, axis=0) for cell in cells], axis=-1)
