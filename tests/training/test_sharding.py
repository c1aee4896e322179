import jax
import jax.numpy as jnp
import optax
import pytest
from jax.sharding import PartitionSpec as P

from vjax import models
from vjax.errors import UserError
from vjax.training import sharding

PARAMS = {
    'kernel': jax.ShapeDtypeStruct((16, 24), jnp.float32),
    'bias': jax.ShapeDtypeStruct((6,), jnp.float32),
}


def test_an_open_axis_takes_the_devices_that_are_left():
    assert dict(sharding.make_mesh({'data': -1}).shape) == {'data': 8}
    assert dict(sharding.make_mesh({'data': -1, 'fsdp': 2}).shape) == {'data': 4, 'fsdp': 2}


def test_an_axis_of_another_name_is_refused():
    with pytest.raises(UserError, match=r'config\.sharding\.mesh\.model: the axes are data, fsdp'):
        sharding.make_mesh({'data': -1, 'model': 2})


@pytest.mark.parametrize(
    'axes',
    [
        *({'data': 3}, {'data': -1, 'fsdp': 3}, {'fsdp': 8}, {'data': -1, 'fsdp': -1}),
        *({'data': -1, 'fsdp': -8}, {'data': 0}, {'data': -2, 'fsdp': -4}),
    ],
)
def test_a_mesh_that_does_not_fit_is_refused(axes):
    with pytest.raises(UserError, match='multiply to 8, the number of devices'):
        sharding.make_mesh(axes)


@pytest.mark.parametrize('batch_size', [12, 0, -8])
def test_a_batch_that_devices_cannot_share_is_refused(batch_size):
    mesh = sharding.make_mesh({'data': 8})
    sharding.check_batch(mesh, 16, 2, '--batch_size')
    with pytest.raises(UserError, match=f'--batch_size={batch_size} cannot be shared evenly by 8'):
        sharding.check_batch(mesh, batch_size, 1, '--batch_size')


def test_rules_give_partition_specs():
    mesh = sharding.make_mesh({'data': 4, 'fsdp': 2})
    got = sharding.parameter_shardings(mesh, [('kernel', ('', 'fsdp')), ('.*', ())], PARAMS)
    assert got['kernel'].spec == P(None, 'fsdp')
    assert got['bias'].spec == P()


def vivit(**changes):
    fields = dict(width=16, depth=2, num_heads=4, mlp_dim=32, tubelet=(2, 4, 4), num_classes=3)
    return models.build('vivit', **fields | {'attention': 'factorised_encoder'} | changes)


CLIP = (8, 8, 8, 3)


def shapes(model):
    return jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, *CLIP)))['params'])


def test_the_tensor_preset_splits_heads_and_hidden_units():
    mesh = sharding.make_mesh({'data': 2, 'fsdp': 2, 'tensor': 2})
    got = sharding.parameter_shardings(mesh, (), shapes(vivit()), 'fsdp+tensor')
    block = got['spatial_encoder']['blocks']
    assert block['attention']['query']['kernel'].spec == P(None, 'fsdp', 'tensor', None)
    assert block['attention']['value']['bias'].spec == P(None, 'tensor', None)
    assert block['attention']['out']['kernel'].spec == P(None, 'tensor', None, 'fsdp')
    assert block['mlp']['up']['kernel'].spec == P(None, 'fsdp', 'tensor')
    assert block['mlp']['down']['kernel'].spec == P(None, 'tensor', 'fsdp')
    assert block['mlp']['down']['bias'].spec == P(None, 'fsdp')
    assert got['embedding']['kernel'].spec.count('fsdp') == 1


@pytest.mark.parametrize('preset', ['replicated', 'fsdp'])
def test_own_rules_come_before_the_preset(preset):
    mesh = sharding.make_mesh({'data': 4, 'fsdp': 2})
    got = sharding.parameter_shardings(mesh, [('kernel', ('fsdp',))], PARAMS, preset)
    assert got['kernel'].spec == P('fsdp')
    assert got['bias'].spec == (P('fsdp') if preset == 'fsdp' else P())


def test_an_unknown_preset_is_refused():
    with pytest.raises(UserError, match="preset='zero' is not one of 'replicated', 'fsdp', "):
        sharding.parameter_shardings(sharding.make_mesh({'data': 8}), (), PARAMS, 'zero')


def test_heads_that_the_tensor_axis_does_not_divide_are_refused():
    mesh = sharding.make_mesh({'data': 1, 'fsdp': 1, 'tensor': 8})
    with pytest.raises(UserError, match=r'does not split .*attention.* evenly'):
        sharding.parameter_shardings(mesh, (), shapes(vivit()), 'fsdp+tensor')


@pytest.mark.parametrize(
    ('changes', 'sentence'),
    [
        ({'attention': 'spacetime'}, 'only a factorised encoder'),
        ({'tubelet': (4, 4, 4)}, 'does not divide the 2 frames that there are after the embedding'),
    ],
)
def test_a_model_whose_frames_cannot_be_split_is_refused(changes, sentence):
    mesh = sharding.make_mesh({'data': 2, 'time': 4})
    sharding.check_time(mesh, vivit(), CLIP)
    sharding.check_time(sharding.make_mesh({'data': 8, 'time': 1}), vivit(**changes), CLIP)
    with pytest.raises(UserError, match=sentence):
        sharding.check_time(mesh, vivit(**changes), CLIP)


def test_frames_that_are_sampled_are_split_before():
    sampled = vivit(embedding='uniform_frames', num_sampled_frames=4, tubelet=(1, 4, 4))
    mesh = sharding.make_mesh({'data': 2, 'time': 4})
    with pytest.raises(UserError, match='time=4 does not divide the 10 frames of a clip'):
        sharding.check_time(mesh, sampled, (10, *CLIP[1:]))


def test_fsdp_splits_the_largest_dimension_that_divides():
    mesh = sharding.make_mesh({'data': 8})
    got = sharding.parameter_shardings(mesh, [('.*', 'fsdp(data)')], PARAMS)
    assert got['kernel'].spec == P(None, 'data')
    assert got['bias'].spec == P(None)


@pytest.mark.parametrize(
    ('name', 'value', 'sentence'),
    [
        ('bias', ('model',), "over 'model'"),
        ('bias', ('data',), 'evenly'),
        ('bias', 'zero', 'neither a tuple'),
        ('bias', 'fsdp()', 'neither a tuple'),
        ('kernel', ('data', 'data'), "splits two dimensions of 'kernel' over one axis"),
        ('kernel', ('...', '...', 'data'), r"has more than one '\.\.\.'"),
    ],
)
def test_a_wrong_spec_is_refused(name, value, sentence):
    mesh = sharding.make_mesh({'data': 8})
    with pytest.raises(UserError, match=sentence):
        sharding.parameter_shardings(mesh, [(name, value), ('.*', ())], PARAMS)


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


def test_a_batch_that_the_devices_cannot_share_is_refused():
    mesh = sharding.make_mesh({'data': 8})
    with pytest.raises(UserError, match='multiple of 8'):
        sharding.check_batch(mesh, 12, 1, 'config.batch_size')
