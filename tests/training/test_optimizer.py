import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vjax.errors import UserError
from vjax.training import optimizer

SCHEDULES = Path(__file__).parents[3] / 'shared/scenic/aux/aux_lr_schedules.json'
SETTINGS = dict(
    learning_rate=0.1,
    warmup_fraction=0.0,
    decay='cosine',
    end_learning_rate=0.0,
    momentum=0.9,
    b1=0.9,
    b2=0.999,
    moment_dtype='float32',
    clip_norm=0.0,
    weight_decay=(('.*', 0.0),),
    learning_rate_scale=(('.*', 1.0),),
    freeze=(),
)


def params():
    return {'a': {'kernel': jnp.array([1.0, -2.0]), 'bias': jnp.array([0.5])}}


def gradients(seed=0):
    keys = jax.random.split(jax.random.key(seed))
    return {
        'a': {'kernel': jax.random.normal(keys[0], (2,)), 'bias': jax.random.normal(keys[1], (1,))}
    }


def trained(num_steps=5, **changes):
    tx, _ = optimizer.build(params(), 100, **SETTINGS | changes)
    values, state = params(), tx.init(params())
    for i in range(num_steps):
        updates, state = tx.update(gradients(i), state, values)
        values = optax.apply_updates(values, updates)
    return values


@pytest.mark.skipif(not SCHEDULES.exists(), reason='the reference schedules are not at hand')
def test_the_schedule_equals_the_published_ones():
    checked = 0
    for name, entry in json.loads(SCHEDULES.read_text()).items():
        if isinstance(entry, str) or 'cosine' not in entry['lr_configs']['factors']:
            continue
        settings = entry['lr_configs']
        num_steps, warmup = settings['steps_per_cycle'], settings['warmup_steps']
        if warmup != int(warmup):
            continue  # vjax's warm-up is a whole number of steps.
        schedule = optimizer.learning_rate_schedule(
            settings['base_learning_rate'], warmup / num_steps, 'cosine', 0.0, num_steps
        )
        for step, value in entry['values'].items():
            if int(step) >= num_steps:
                continue  # The published schedule starts again; vjax's stays at zero.
            difference = abs(float(schedule(int(step))) - value)
            assert difference <= 2e-6 * settings['base_learning_rate'], (name, step)
            checked += 1
    assert checked > 20


def test_the_schedule_ends_at_zero_and_stays_there():
    schedule = optimizer.learning_rate_schedule(0.1, 0.1, 'cosine', 0.0, 50)
    assert float(schedule(0)) == 0.0
    assert float(schedule(5)) == pytest.approx(0.1)
    assert float(schedule(50)) == pytest.approx(0.0, abs=1e-9)
    assert float(schedule(60)) == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize('decay', optimizer.DECAYS)
def test_the_schedule_ends_at_its_end_and_stays_there(decay):
    schedule = optimizer.learning_rate_schedule(5e-3, 0.25, decay, 1e-5, 40)
    values = [float(schedule(step)) for step in range(50)]
    assert values[0] == 0.0
    assert max(values) == values[10] == pytest.approx(5e-3)
    np.testing.assert_allclose(values[40:], 1e-5, rtol=1e-4)
    halfway = (5e-3 + 1e-5) / 2
    assert values[25] == pytest.approx(halfway)
    quarter = 5e-3 - (5e-3 - 1e-5) / 3
    assert (values[20] == pytest.approx(quarter, rel=1e-4)) == (decay == 'linear')


def test_sgd_is_momentum_with_coupled_weight_decay():
    rate, decay = 0.1, 0.01
    schedule = optimizer.learning_rate_schedule(rate, 0.0, 'cosine', 0.0, 100)
    value, velocity = np.array([1.0, -2.0]), np.zeros(2)
    for i in range(5):
        gradient = np.asarray(gradients(i)['a']['kernel']) + decay * value
        velocity = 0.9 * velocity + gradient
        value = value - float(schedule(i)) * velocity
    got = trained(name='sgd', weight_decay=(('.*', decay),))['a']['kernel']
    np.testing.assert_allclose(got, value, rtol=1e-5)


def test_adamw_equals_optax_with_a_mask():
    schedule = optimizer.learning_rate_schedule(0.1, 0.0, 'cosine', 0.0, 100)
    tx = optax.adamw(schedule, weight_decay=0.3, mask={'a': {'kernel': True, 'bias': False}})
    values, state = params(), tx.init(params())
    for i in range(5):
        updates, state = tx.update(gradients(i), state, values)
        values = optax.apply_updates(values, updates)
    got = trained(name='adamw', weight_decay=(('.*/kernel', 0.3), ('.*', 0.0)))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), got, values)


def test_a_learning_rate_factor_scales_the_update():
    whole = trained(1, name='sgd')['a']
    half = trained(1, name='sgd', learning_rate_scale=(('.*/bias', 0.5), ('.*', 1.0)))['a']
    start = params()['a']
    np.testing.assert_allclose(
        half['bias'] - start['bias'], 0.5 * (whole['bias'] - start['bias']), rtol=1e-5
    )
    np.testing.assert_array_equal(half['kernel'], whole['kernel'])


@pytest.mark.parametrize('name', ['sgd', 'adamw'])
def test_frozen_parameters_stay_and_have_no_moments(name):
    tx, _ = optimizer.build(params(), 100, **SETTINGS | dict(name=name, freeze=('a/kernel',)))
    moments = [leaf for leaf in jax.tree.leaves(tx.init(params())) if leaf.shape == (2,)]
    assert not moments
    got = trained(name=name, freeze=('a/kernel',), weight_decay=(('.*', 0.1),))
    np.testing.assert_array_equal(got['a']['kernel'], params()['a']['kernel'])
    assert not np.array_equal(got['a']['bias'], params()['a']['bias'])


def test_what_is_frozen_is_named_and_not_everything():
    assert optimizer.trains(('a/kernel',), params()) == {'a': {'kernel': False, 'bias': True}}
    assert optimizer.trains((), params()) == {'a': {'kernel': True, 'bias': True}}
    with pytest.raises(UserError, match='names all parameters; there is nothing to train'):
        optimizer.build(params(), 100, **SETTINGS | dict(name='sgd', freeze=('a/.*',)))
    with pytest.raises(
        UserError, match=r"optimizer\.freeze: the rule for 'b' is the first match of no"
    ):
        optimizer.trains(('b',), params())


def test_gradients_are_clipped_by_their_global_norm():
    tx, _ = optimizer.build(params(), 100, **SETTINGS | dict(name='sgd', clip_norm=0.01))
    updates, _ = tx.update(gradients(), tx.init(params()), params())
    assert float(optax.tree.norm(updates)) == pytest.approx(0.1 * 0.01, rel=1e-5)


def test_an_unknown_optimiser_is_refused():
    with pytest.raises(UserError, match='sgd, adamw'):
        optimizer.build(params(), 100, **SETTINGS | dict(name='adam'))


def test_ema_forgets_the_start_and_then_decays():
    ema = {'w': jnp.array(0.0)}
    for step in range(1, 2001):
        ema = optimizer.update_ema(ema, {'w': jnp.array(1.0)}, 0.99, jnp.int32(step))
    assert float(ema['w']) == pytest.approx(1.0, abs=1e-4)
    one = optimizer.update_ema({'w': jnp.array(0.0)}, {'w': jnp.array(1.0)}, 0.99, jnp.int32(10**6))
    assert float(one['w']) == pytest.approx(0.01, rel=1e-4)


# --- Factors for each layer of stacked blocks ---


def stacked():
    """Three layers on a leading axis, and the same three as parameters of their own."""
    keys = jax.random.split(jax.random.key(1), 4)
    kernel, bias = jax.random.normal(keys[0], (3, 2, 4)), jax.random.normal(keys[1], (3, 4))
    layers = [{'kernel': kernel[i], 'bias': bias[i]} for i in range(3)]
    head = {'kernel': jax.random.normal(keys[2], (4,))}
    together = {'blocks': {'kernel': kernel, 'bias': bias}, 'head': head}
    return together, {f'block_{i}': layer for i, layer in enumerate(layers)} | {'head': head}


@pytest.mark.parametrize('name', ['sgd', 'adamw'])
def test_first_moments_in_half_the_bytes_train_alike(name):
    tx, _ = optimizer.build(params(), 100, **SETTINGS | dict(name=name, moment_dtype='bfloat16'))
    moments = [leaf.dtype for leaf in jax.tree.leaves(tx.init(params())) if leaf.shape]
    kernel_and_bias = 2
    assert moments.count(jnp.bfloat16) == kernel_and_bias
    assert moments.count(jnp.float32) == (kernel_and_bias if name == 'adamw' else 0)

    expected = trained(name=name)['a']['kernel']
    got = trained(name=name, moment_dtype='bfloat16')['a']['kernel']
    moved = np.abs(expected - params()['a']['kernel'])
    assert got.dtype == jnp.float32
    assert 0 < np.abs(got - expected).max() < 0.01 * moved.max()


@pytest.mark.parametrize('name', [pytest.param('sgd', marks=pytest.mark.slow), 'adamw'])
def test_factors_of_stacked_layers_are_those_of_unrolled_ones(name):
    factors = (0.25, 0.5, 1.0)
    together, apart = stacked()
    settings = dict(name=name, weight_decay=(('.*/kernel', 0.3), ('.*', 0.0)), clip_norm=0.5)
    by_layer = (('blocks/.*', factors), ('.*', 2.0))
    one_by_one = [(f'block_{i}/.*', factor) for i, factor in enumerate(factors)] + [('.*', 2.0)]
    results = []
    for params, scale in ((together, by_layer), (apart, one_by_one)):
        tx, _ = optimizer.build(
            params, 100, **SETTINGS | settings | dict(learning_rate_scale=scale)
        )
        values, state = params, tx.init(params)
        for _ in range(4):
            # The gradient of a quartic: no two steps' are alike.
            grads = jax.tree.map(lambda p: 0.3 * p**3, values)
            updates, state = tx.update(grads, state, values)
            values = optax.apply_updates(values, updates)
        results.append(values)
    got, expected = results
    for i in range(3):
        for leaf in ('kernel', 'bias'):
            # The norm that clips sums the same squares in another order.
            np.testing.assert_allclose(
                got['blocks'][leaf][i], expected[f'block_{i}'][leaf], rtol=1e-5, atol=1e-7
            )
    np.testing.assert_allclose(got['head']['kernel'], expected['head']['kernel'], rtol=1e-5)
    assert not np.allclose(got['blocks']['kernel'][0], together['blocks']['kernel'][0], atol=1e-3)


def test_a_factor_of_zero_stops_a_layer_and_frozen_layers_need_none():
    together, _ = stacked()
    scale = (('blocks/kernel', (0.0, 1.0, 0.0)), ('.*', 1.0))
    tx, _ = optimizer.build(
        together,
        100,
        **SETTINGS | dict(name='adamw', learning_rate_scale=scale, freeze=('blocks/bias',)),
    )
    updates, _ = tx.update(together, tx.init(together), together)
    moved = [bool(np.any(layer)) for layer in updates['blocks']['kernel']]
    assert moved == [False, True, False]
    assert not np.any(updates['blocks']['bias'])


@pytest.mark.parametrize(
    ('pattern', 'factors', 'message'),
    [
        ('blocks/.*', (0.5, 1.0), r"2 factors to 'blocks/bias', which has 3 layers; give one"),
        ('head/.*', (1.0, 1.0, 1.0), r"3 factors to 'head/kernel', which has 4 layers"),
        ('blocks/.*', (), r"0 factors to 'blocks/bias', which has 3 layers"),
    ],
)
def test_another_number_of_factors_than_layers_is_refused(pattern, factors, message):
    settings = SETTINGS | dict(name='sgd', learning_rate_scale=((pattern, factors), ('.*', 1.0)))
    with pytest.raises(UserError, match=message):
        optimizer.build(stacked()[0], 100, **settings)
