"""Attention in parts, by blocks of queries or by heads, is attention, and is used where it pays."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractDevice, AbstractMesh, AxisType

from vjax import models
from vjax.models import blockwise, headwise, layers, products

HEADS, HEAD_DIM = 2, 8
MORE_SIZES = (300, 300), (700, 2001), (1, 600)
either_remat = pytest.mark.parametrize(
    'remat', [pytest.param('none', marks=pytest.mark.slow), 'dots']
)
both_kinds = pytest.mark.parametrize('kind', [blockwise, headwise], ids=['blockwise', 'headwise'])


def ordinary(query, key, value):
    scores = jnp.einsum('bqhk,bmhk->bhqm', query, key, preferred_element_type=jnp.float32)
    weights = jax.nn.softmax(scores / HEAD_DIM**0.5).astype(value.dtype)
    return jnp.einsum('bhqm,bmhk->bqhk', weights, value)


def arrays(num_queries, num_keys, dtype=jnp.float32, batch=2):
    rng = np.random.default_rng(0)
    shapes = [(batch, n, HEADS, HEAD_DIM) for n in (num_queries, num_keys, num_keys, num_queries)]
    return [jnp.asarray(rng.standard_normal(shape), dtype) for shape in shapes]


def value_and_gradients(attention, qkv, gradient):
    result, pull_back = jax.vjp(attention, *qkv)
    return [result, *pull_back(gradient)]


def mesh(num_devices=1):
    return jax.make_mesh(
        (num_devices,), ('data',), axis_types=(AxisType.Auto,), devices=jax.devices()[:num_devices]
    )


# One block, blocks that do not divide the queries or the keys, fewer queries than a block.
@both_kinds
@pytest.mark.parametrize(
    'sizes', [(5, 7), (1031, 781), *(pytest.param(n, marks=pytest.mark.slow) for n in MORE_SIZES)]
)
def test_values_and_gradients_are_those_of_whole_arrays(kind, sizes):
    *qkv, gradient = arrays(*sizes)

    for ours, expected in zip(
        value_and_gradients(kind.attention, qkv, gradient),
        value_and_gradients(ordinary, qkv, gradient),
        strict=True,
    ):
        scale = np.abs(expected).max()
        np.testing.assert_allclose(ours / scale, expected / scale, rtol=0, atol=2e-6)


# All heads of a chip at once, two of four, one at a time.
@pytest.mark.parametrize(('room', 'group'), [(2**20, 4), (2 * 4 * 40 * 128, 2), (1, 1)])
def test_chips_share_examples_and_heads_and_take_some_heads_at_a_time(room, group, monkeypatch):
    monkeypatch.setattr(headwise, 'SCORES', room)
    *qkv, gradient = arrays(37, 53, batch=16)
    expected = value_and_gradients(ordinary, qkv, gradient)
    groups, whole = [], headwise._group
    monkeypatch.setattr(headwise, '_group', lambda *n: groups.append(whole(*n)) or groups[-1])
    shape, names = (2, 2, 2), ('data', 'fsdp', 'tensor')
    axis_types = (AxisType.Auto,) * 3
    with jax.set_mesh(jax.make_mesh(shape, names, axis_types=axis_types)):
        step = jax.jit(lambda: value_and_gradients(headwise.attention, qkv, gradient))
        for ours, theirs in zip(step(), expected, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-6 * np.abs(theirs).max())
        collectives = step.lower().compile().as_text()
    assert groups == [group, group]  # Forth and back.
    assert 'all-reduce' not in collectives


@both_kinds
def test_large_scores_do_not_overflow(kind):
    query, key, value, _ = arrays(300, 300)
    result = kind.attention(10 * query, 10 * key, value)
    np.testing.assert_allclose(result, ordinary(10 * query, 10 * key, value), rtol=0, atol=1e-3)
    scores = jnp.einsum('bqhk,bmhk->bhqm', 10 * query, 10 * key) / HEAD_DIM**0.5
    assert np.isinf(jnp.exp(scores)).any()


@both_kinds
def test_bfloat16_is_as_near_to_float32_as_whole_arrays_are(kind):
    *exact, gradient = arrays(300, 300)
    exact = value_and_gradients(ordinary, exact, gradient)
    *low, gradient = arrays(300, 300, jnp.bfloat16)
    ours = value_and_gradients(kind.attention, low, gradient)
    theirs = value_and_gradients(ordinary, low, gradient)
    assert {x.dtype for x in ours} == {jnp.dtype('bfloat16')}
    # FlashAttention's backward pass starts from the rounded result, ordinary attention's from weights.
    for x, y, true, most in zip(ours, theirs, exact, (1.1, 1.2, 1.2, 1.2), strict=True):
        errors = [float(jnp.abs(a.astype(jnp.float32) - true).mean()) for a in (x, y)]
        assert errors[0] < most * errors[1]


@both_kinds
def test_the_backward_pass_keeps_no_weights(kind):
    *qkv, _ = arrays(512, 512)

    def kept(attention):
        pull_back = jax.eval_shape(lambda *qkv: jax.vjp(attention, *qkv)[1], *qkv)
        return max(leaf.size for leaf in jax.tree.leaves(pull_back))

    assert kept(ordinary) == 2 * HEADS * 512 * 512
    assert kept(kind.attention) == 2 * HEADS * 512 * HEAD_DIM


@pytest.mark.parametrize('num_devices', [0, 1, 2])
def test_it_pays_for_many_keys_on_a_single_cpu(num_devices):
    few, many = (jnp.zeros((1, n, HEADS, HEAD_DIM)) for n in (blockwise.KEYS - 1, blockwise.KEYS))
    if not num_devices:
        assert not blockwise.pays(many)  # Nobody has said what the program is for.
        return
    with jax.set_mesh(mesh(num_devices)):
        assert not blockwise.pays(few)
        assert blockwise.pays(many) == (num_devices == 1)


@pytest.mark.parametrize(
    ('platform', 'keys', 'batch', 'pays'),
    [
        ('tpu', headwise.KEYS, 4, True),
        ('tpu', headwise.KEYS - 1, 4, False),
        ('tpu', headwise.KEYS, 3, False),
        ('gpu', headwise.KEYS, 4, False),
    ],
)
def test_heads_are_taken_apart_for_many_keys_on_tpus(platform, keys, batch, pays):
    query = jnp.zeros((batch, 5, HEADS, HEAD_DIM))
    key = jnp.zeros((batch, keys, HEADS, HEAD_DIM))

    def asked(sizes, names):
        device = AbstractDevice(platform, 1, platform)
        with jax.sharding.use_abstract_mesh(AbstractMesh(sizes, names, abstract_device=device)):
            return headwise.pays(query, key)

    assert asked((2,), ('data',)) == pays
    assert not asked((2, 4), ('data', 'tensor'))  # Two heads.
    assert not headwise.pays(query, key)


SIZES = {'width': 16, 'depth': 2, 'num_heads': 2, 'mlp_dim': 32, 'num_classes': 3}
VIDEO = {'name': 'vivit', 'tubelet': (2, 4, 4), **SIZES}
CAPPED = {**VIDEO, 'name': 'videoprism', 'temporal_depth': 1, 'logit_cap': 5.0}


@pytest.fixture
def calls_of_a_model(random_params, monkeypatch):
    """Trains a model, with attention of a kind where a mesh is set, as without: the number of calls."""

    def count(kind, mesh, **fields):
        model = models.build(**fields)
        video = jax.random.uniform(jax.random.key(1), (4, 4, 16, 16, 3), minval=-1)
        params = random_params(model, video)

        def loss(params):
            logits = model.apply({'params': params}, video, train=True)
            return jnp.sum(logits * jnp.arange(3.0)[None])

        expected = jax.jit(jax.value_and_grad(loss))(params)
        calls, attention = [], kind.attention
        monkeypatch.setattr(kind, 'attention', lambda *qkv: calls.append(1) or attention(*qkv))
        with jax.set_mesh(mesh):
            found = jax.jit(jax.value_and_grad(loss))(params)
        for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            most = 2e-5 * np.abs(theirs).max() + 1e-6
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=most)
        return len(calls)

    return count


@pytest.mark.parametrize(
    'fields',
    [VIDEO, pytest.param(CAPPED, marks=pytest.mark.slow)],
    ids=lambda fields: fields['name'],
)
@either_remat
def test_a_model_computes_the_same_on_a_single_cpu(fields, remat, calls_of_a_model, monkeypatch):
    monkeypatch.setattr(blockwise, 'KEYS', 4)
    monkeypatch.setattr(blockwise, 'ROWS', 8)
    calls = calls_of_a_model(blockwise, mesh(), **fields, remat=remat)
    assert bool(calls) == (fields['name'] == 'vivit')  # Capped scores are not ordinary.


@either_remat
def test_a_model_computes_the_same_by_heads(remat, calls_of_a_model, monkeypatch):
    monkeypatch.setattr(headwise, 'pays', lambda *_: True)
    shape, names, axis_types = (2, 2), ('data', 'tensor'), (AxisType.Auto,) * 2
    chips = jax.make_mesh(shape, names, axis_types=axis_types, devices=jax.devices()[:4])
    assert calls_of_a_model(headwise, chips, **VIDEO, remat=remat)


def test_weights_that_are_asked_for_are_there():
    attention = layers.Attention(HEADS)
    x = jnp.asarray(np.random.default_rng(0).standard_normal((1, 200, 16)), jnp.float32)
    with jax.set_mesh(mesh()):
        params = attention.init(jax.random.key(0), x, x, train=False)
        y, sown = attention.apply(params, x, x, train=False, mutable='intermediates')
        np.testing.assert_allclose(attention.apply(params, x, x, train=False), y, atol=2e-6)
    assert sown['intermediates']['attention'][0].shape == (1, HEADS, 200, 200)


def test_attention_with_dropout_drops_weights_on_a_single_cpu_too():
    attention = layers.Attention(HEADS, dropout=0.5)
    x = jnp.ones((1, 200, 16))
    with jax.set_mesh(mesh()):
        params = attention.init(jax.random.key(0), x, x, train=False)
        y = attention.apply(params, x, x, train=False)
        dropped = attention.apply(params, x, x, train=True, rngs={'dropout': jax.random.key(1)})
    assert np.abs(y - dropped).max() > 1e-3


@pytest.mark.parametrize(
    ('x', 'kernel', 'axes'),
    [((2, 3, 4), (4, 5), 1), ((2, 3, 4), (4, 2, 5), 1), ((2, 3, 2, 4), (2, 4, 5), 2)],
)
def test_products_are_the_same_on_a_single_cpu(x, kernel, axes):
    rng = np.random.default_rng(0)
    x, kernel = (jnp.asarray(rng.standard_normal(shape), jnp.float32) for shape in (x, kernel))
    numbers = ((tuple(range(x.ndim - axes, x.ndim)), tuple(range(axes))), ((), ()))
    expected = jax.lax.dot_general(x, kernel, numbers)
    assert np.array_equal(products.dot_general(x, kernel, numbers), expected)
    with jax.set_mesh(mesh()):
        found = jax.make_jaxpr(lambda *xs: products.dot_general(*xs, numbers))(x, kernel)
        np.testing.assert_allclose(products.dot_general(x, kernel, numbers), expected, atol=1e-6)
    (product,) = (eqn for eqn in found.eqns if eqn.primitive.name == 'dot_general')
    assert [var.aval.ndim for var in product.invars] == [2, 2]
