import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

from vjax.errors import UserError
from vjax.training import sharding

PARAMS = {
    'kernel': jax.ShapeDtypeStruct((16, 24), jnp.float32),
    'bias': jax.ShapeDtypeStruct((6,), jnp.float32),
}


def test_an_open_axis_takes_the_devices_that_are_left():
    assert dict(sharding.make_mesh({'data': -1}).shape) == {'data': 8}
    assert dict(sharding.make_mesh({'data': -1, 'fsdp': 2}).shape) == {'data': 4, 'fsdp': 2}


@pytest.mark.parametrize(
    'axes', [{'data': 3}, {'data': -1, 'fsdp': 3}, {'fsdp': 8}, {'data': -1, 'x': -1}]
)
def test_a_mesh_that_does_not_fit_is_refused(axes):
    with pytest.raises(UserError, match='does not fit 8 devices'):
        sharding.make_mesh(axes)


def test_rules_give_partition_specs():
    mesh = sharding.make_mesh({'data': 4, 'fsdp': 2})
    got = sharding.parameter_shardings(mesh, [('kernel', ('', 'fsdp')), ('.*', ())], PARAMS)
    assert got['kernel'].spec == P(None, 'fsdp')
    assert got['bias'].spec == P()


def test_fsdp_splits_the_largest_dimension_that_divides():
    mesh = sharding.make_mesh({'data': 8})
    got = sharding.parameter_shardings(mesh, [('.*', 'fsdp(data)')], PARAMS)
    assert got['kernel'].spec == P(None, 'data')
    assert got['bias'].spec == P(None)


@pytest.mark.parametrize(
    ('value', 'sentence'),
    [(('model',), "no axis 'model'"), (('data',), 'evenly'), ('zero', 'neither a tuple')],
)
def test_a_wrong_spec_is_refused(value, sentence):
    mesh = sharding.make_mesh({'data': 8})
    with pytest.raises(UserError, match=sentence):
        sharding.parameter_shardings(mesh, [('bias', value), ('.*', ())], PARAMS)


def test_moments_live_where_their_parameters_do():
    mesh = sharding.make_mesh({'data': 8})
    tx = optax.adamw(0.1)
    state = jax.eval_shape(tx.init, PARAMS)
    of_params = sharding.parameter_shardings(mesh, [('.*', 'fsdp(data)')], PARAMS)
    shardings = sharding.optimizer_shardings(mesh, tx, state, of_params)
    assert shardings[0].mu['kernel'].spec == P(None, 'data')
    assert shardings[0].count.spec == P()


@pytest.mark.parametrize('name', ['sgd', 'adamw'])
def test_frozen_parameters_have_no_moments_to_place(name):
    mesh = sharding.make_mesh({'data': 8})
    scale = {'sgd': optax.trace(0.9), 'adamw': optax.scale_by_adam()}[name]
    labels = {'kernel': 'trained', 'bias': 'frozen'}
    tx = optax.partition({'trained': scale, 'frozen': optax.set_to_zero()}, labels)
    state = jax.eval_shape(tx.init, PARAMS)
    of_params = sharding.parameter_shardings(mesh, [('.*', 'fsdp(data)')], PARAMS)
    shardings = sharding.optimizer_shardings(mesh, tx, state, of_params)
    assert jax.tree.structure(shardings) == jax.tree.structure(state)
    specs = [leaf.spec for leaf in jax.tree.leaves(shardings)]
    assert specs.count(P(None, 'data')) == {'sgd': 1, 'adamw': 2}[name]


def test_a_batch_is_split_over_the_data_axis():
    mesh = sharding.make_mesh({'data': 8})
    array = sharding.to_devices({'x': np.arange(16)}, mesh)['x']
    assert array.sharding.spec == P('data')
    assert array.addressable_shards[0].data.shape == (2,)
    with pytest.raises(UserError, match='multiple of 8'):
        sharding.check_batch(mesh, 12, 1, 'config.batch_size')
