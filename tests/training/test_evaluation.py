"""Evaluation over batches: exact whatever the batches, and the step that they go through."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from einops import reduce
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import AxisType, Mesh

from vjax import recipes
from vjax.data.sections import Augment
from vjax.errors import UserError
from vjax.training import metrics, sharding
from vjax.training.evaluation import collect, evaluate
from vjax.training.losses import Classification
from vjax.training.step import init_state, make_eval_step, make_train_step

KINDS = {
    'one class': Classification({'label': 6}, 'softmax', 0.1),
    'two heads': Classification({'noun': 4, 'verb': 2}, 'softmax', 0.1),
    'any classes': Classification({'label': 6}, 'sigmoid', 0.1, multi_label=True),
}


def one_device():
    return Mesh(np.array(jax.devices()[:1]), ('data',), axis_types=(AxisType.Auto,))


def random_label(rng, classification, num):
    if classification.multi_label:
        return rng.integers(0, 2, (num, 6)).astype(np.int32)
    sizes = classification.heads.values()
    return np.stack([rng.integers(0, size, num) for size in sizes], axis=1).astype(np.int32)


def random_rows(rng, classification, num):
    """What a step makes of `num` videos; few distinct logits, so that there are ties."""
    return {
        'logits': rng.integers(-3, 4, (num, 6)).astype(np.float32) / 2,
        'loss': rng.random(num).astype(np.float32),
        'label': random_label(rng, classification, num),
        'mask': np.ones(num, np.float32),
        'index': np.arange(num, dtype=np.int32),
    }


def echo(_, batch):
    """A step whose batches hold what it is to give."""
    return dict(batch)


# --- Exact, whatever the batches ---


@pytest.mark.parametrize('kind', KINDS)
@settings(deadline=None, max_examples=25)
@given(data=st.data())
def test_scores_depend_on_neither_order_nor_batches_nor_padding_nor_hosts(kind, data):
    classification = KINDS[kind]
    num = data.draw(st.integers(1, 20))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    rows = random_rows(rng, classification, num)
    whole = metrics.Outputs(**{name: rows[name] for name in metrics.Outputs._fields})
    expected = metrics.scores(classification, whole)

    # Padding has wild values; hosts and batches are a shuffle that is cut anywhere.
    num_padding = data.draw(st.integers(0, 7))
    padding = random_rows(rng, classification, num_padding)
    padding['logits'] = padding['logits'] + np.where(rng.random((num_padding, 1)) < 0.5, np.nan, 99)
    padding |= {'loss': padding['loss'] * np.nan, 'mask': padding['mask'] * 0}
    padding['index'] = rng.integers(0, num + 1, num_padding).astype(np.int32)
    rows = {name: np.concatenate([rows[name], padding[name]]) for name in rows}
    order = rng.permutation(num + num_padding)
    cuts = sorted(data.draw(st.sets(st.integers(1, num + num_padding))))
    parts = [part for part in np.split(order, cuts) if len(part)]
    batches = ({name: array[part] for name, array in rows.items()} for part in parts)

    outputs = collect(echo, None, batches, one_device())
    for name in metrics.Outputs._fields:
        np.testing.assert_array_equal(getattr(outputs, name), getattr(whole, name))
    found = metrics.scores(classification, outputs)
    assert found['num_videos'] == num
    np.testing.assert_equal(found, expected)  # To the bit, and NaN where NaN is expected.


def test_no_batch_has_no_scores_and_no_video_is_an_error():
    rng = np.random.default_rng(0)
    assert evaluate(echo, None, [], one_device(), KINDS['one class']) == {}
    rows = random_rows(rng, KINDS['one class'], 4)
    rows['mask'] *= 0
    with pytest.raises(UserError, match=r'none of the videos .* can be decoded'):
        evaluate(echo, None, [rows], one_device(), KINDS['one class'])


class MeanColour:
    """A model by hand: the mean of each channel, times a matrix."""

    def apply(self, variables, video, *, mutable=None, **_):
        features = reduce(video, 'b t h w c -> b c', 'mean')
        logits = jnp.dot(features, variables['params']['kernel'])
        return (logits, {}) if mutable else logits


@pytest.mark.parametrize('kind', KINDS)
def test_an_evaluation_on_eight_devices_is_that_of_each_video_alone(kind):
    classification, rng = KINDS[kind], np.random.default_rng(0)
    num, views = 21, 3
    video = rng.integers(0, 256, (num, views, 2, 4, 4, 3)).astype(np.uint8)
    label = random_label(rng, classification, num)
    params = {'kernel': rng.normal(scale=9, size=(3, 6)).astype(np.float32)}
    features = reduce(video.astype(np.float64) * 2 / 255 - 1, 'b v t h w c -> b c', 'mean')
    # In float64, and without the label smoothing that the classification has.
    logits = features @ params['kernel'].astype(np.float64)
    bounds = [0, *np.cumsum(list(classification.heads.values()))]
    if classification.multi_label:
        loss = np.sum(np.logaddexp(0, np.where(label, -logits, logits)), axis=1)
    else:
        loss = 0
        for i, (start, end) in enumerate(itertools.pairwise(bounds)):
            part = logits[:, start:end]
            own = np.take_along_axis(part, label[:, i : i + 1], axis=1)[:, 0]
            loss = loss + (np.log(np.sum(np.exp(part), axis=1)) - own) / (len(bounds) - 1)

    mesh = sharding.make_mesh({'data': 8})
    step = jax.jit(
        make_eval_step(MeanColour(), classification), out_shardings=sharding.replicated(mesh)
    )
    params = jax.device_put(params, sharding.replicated(mesh))
    found = []
    for batch_size in (8, 24):
        place = np.arange(-(-num // batch_size) * batch_size)
        real = place < num
        index = np.where(real, place, 0)
        whole = {
            'video': video[index],
            'label': label[index],
            'mask': real.astype(np.float32),
            'index': place.astype(np.int32),
        }
        batches = (
            {name: array[start : start + batch_size] for name, array in whole.items()}
            for start in range(0, len(place), batch_size)
        )
        with jax.set_mesh(mesh):
            outputs = collect(step, params, batches, mesh)
        np.testing.assert_array_equal(outputs.index, np.arange(num))
        np.testing.assert_array_equal(outputs.label, label)
        # Sums of 96 pixels and 3 products of size 9 in float32.
        np.testing.assert_allclose(outputs.logits, logits, atol=1e-5)
        np.testing.assert_allclose(outputs.loss, loss, atol=1e-5)
        found.append(metrics.scores(classification, outputs))
    assert found[0] == pytest.approx(found[1], abs=1e-5)


# --- Training on any number of labels ---


def test_training_finds_several_labels_and_reports_how_many_videos_it_has_right():
    """Bright channels are the labels: a linear model of mean colours can have all of them right."""
    rng = np.random.default_rng(0)
    label = np.array([[i >> c & 1 for c in range(3)] for i in range(8)] * 4, np.int32)
    noise = rng.integers(-20, 21, (32, 2, 8, 8, 3))
    video = np.where(label, 200, 50)[:, None, None, None] + noise
    batch = {
        'video': video.astype(np.uint8),
        'box': np.tile(np.array([0, 0, 8, 8], np.float32), (32, 1)),
        'position': np.arange(32, dtype=np.int32),
        'label': label,
        'mask': (np.arange(32) < 24).astype(np.float32),
    }
    # What is masked is wrong and must not be learnt, or right and must not be counted.
    batch['label'] = np.where(np.arange(32)[:, None] < 26, label, 1 - label)
    classification = Classification({'label': 3}, 'sigmoid', 0.1, multi_label=True)
    tx = optax.adam(0.1)
    step = jax.jit(
        make_train_step(
            MeanColour(),
            tx,
            lambda _: 0.1,
            trains={'kernel': True},
            seed=0,
            classification=classification,
            augmentation=Augment(**recipes.base().augment),
            size=8,
            mirror=None,
            mixup=0.0,
            cutmix=0.0,
            accumulate=2,
            ema_decay=0.0,
            log_every=1,
        )
    )
    state = init_state({'kernel': jnp.zeros((3, 3))}, tx, ema=False)
    reports = []
    for _ in range(60):
        state, report = step(state, batch)
        reports.append(jax.device_get(report))
    assert 'top1' not in reports[0]
    # Logits of zero: three questions, each ln 2, and nothing right.
    assert reports[0]['loss'] == pytest.approx(3 * np.log(2), rel=1e-5)
    assert reports[0]['exact_match'] == 0
    assert reports[-1]['exact_match'] == 1
    assert reports[-1]['loss'] < 1

    rows = {**batch, 'label': label, 'video': batch['video'][:, None]}
    rows |= {'mask': np.ones(32, np.float32), 'index': np.arange(32, dtype=np.int32)}
    step = jax.jit(make_eval_step(MeanColour(), classification))
    params = state.params
    del rows['box'], rows['position']
    scores = evaluate(step, params, [rows], one_device(), classification)
    assert scores['mAP'] == scores['exact_match'] == 1
