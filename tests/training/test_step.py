"""One training step: of parameters that are frozen nothing is computed."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vjax import models, recipes
from vjax.data.sections import Augment
from vjax.models import variants
from vjax.training import optimizer, rules
from vjax.training.losses import Classification
from vjax.training.step import init_state, make_train_step

FROZEN = ('(embedding|encoder)/.*',)


@pytest.fixture(scope='module')
def model():
    sizes = variants.video('Ti/16x2') | dict(depth=6, width=64, num_heads=2, mlp_dim=256)
    return models.build('vivit', num_classes=3, attention='spacetime', unroll=True, **sizes)


@pytest.fixture(scope='module')
def batch():
    rng = np.random.default_rng(0)
    return {
        'video': rng.integers(0, 255, (8, 4, 32, 32, 3), np.uint8),
        'box': np.tile(np.array([0, 0, 32, 32], np.float32), (8, 1)),
        'position': np.arange(8, dtype=np.int32),
        'label': rng.integers(0, 3, (8, 1)).astype(np.int32),
        'mask': np.ones(8, np.float32),
    }


def one_step(model, batch, freeze, accumulate):
    """The compiled step, the parameters before it, the state after it, and its report."""
    params = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 4, 32, 32, 3)))['params']
    # Away from zero, where the classifier starts and hands no gradient on.
    params = jax.tree.map(lambda leaf: leaf + 0.01, params)
    trains = optimizer.trains(freeze, params)
    labels = jax.tree.map(str, trains)
    tx = optax.partition({'True': optax.sgd(1.0), 'False': optax.set_to_zero()}, labels)
    step = make_train_step(
        model,
        tx,
        lambda _: 1.0,
        trains=trains,
        seed=0,
        classification=Classification({'label': 3}, 'softmax', 0.0),
        augmentation=Augment(**recipes.base().augment),
        size=32,
        mirror=None,
        mixup=0.0,
        cutmix=0.0,
        accumulate=accumulate,
        ema_decay=0.0,
        log_every=1,
    )
    state = init_state(params, tx, ema=False)
    compiled = jax.jit(step).lower(state, batch).compile()
    return compiled, params, *compiled(state, batch)


@pytest.mark.parametrize('accumulate', [1, pytest.param(2, marks=pytest.mark.slow)])
def test_what_is_frozen_costs_nothing_and_is_in_no_norm(model, batch, accumulate):
    whole, before, all_trained, _ = one_step(model, batch, (), accumulate)
    step, _, state, report = one_step(model, batch, FROZEN, accumulate)
    frozen = rules.match([(FROZEN[0], True), ('.*', False)], before, '')
    changes = []
    for path, is_frozen in jax.tree_util.tree_leaves_with_path(frozen):
        old, trained, new = (
            np.asarray(leaves[path])
            for leaves in map(
                dict,
                map(
                    jax.tree_util.tree_leaves_with_path, (before, all_trained.params, state.params)
                ),
            )
        )
        if is_frozen:
            np.testing.assert_array_equal(new, old)
        else:
            np.testing.assert_allclose(new, trained, atol=1e-6)
            changes.append(new - old)
    # At a rate of 1 the update is the gradient.
    norm = np.sqrt(sum(np.square(change).sum() for change in changes))
    assert float(report['grad_norm']) == pytest.approx(norm, rel=1e-4)
    assert step.cost_analysis()['flops'] < 0.5 * whole.cost_analysis()['flops']
    kept = [compiled.memory_analysis().temp_size_in_bytes for compiled in (step, whole)]
    assert kept[0] < 0.7 * kept[1]
