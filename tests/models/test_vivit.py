"""ViViT: the properties that make each of its models what it is. Parity is in tests/weights."""

import functools
import json
from pathlib import Path

import einops
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from flax.nnx import bridge
from jax.sharding import AxisType, PartitionSpec

from vjax.errors import UserError
from vjax.models import layers, vivit
from vjax.models.vivit import ViViT

SHAPE = (8, 8, 12, 3)  # Four by two by three tubelets.
TABLE = Path(__file__).parents[2] / '../shared/scenic/aux/aux_uniform_frame_sampling.json'


def model(attention='spacetime', **fields):
    sizes = {'num_classes': 5, 'width': 8, 'depth': 2, 'temporal_depth': 3, 'num_heads': 2}
    sizes |= {'mlp_dim': 12, 'tubelet': (2, 4, 4)}
    classifier = 'gap' if attention in vivit.FACTORISED_BLOCKS else 'token'
    return ViViT(**{**sizes, 'attention': attention, 'classifier': classifier, **fields})


def clips(batch=8, shape=SHAPE, seed=0):
    return jnp.asarray(np.random.default_rng(seed).uniform(-1, 1, (batch, *shape)), 'float32')


def apply(model, params, video, **kwargs):
    return jax.jit(functools.partial(model.apply, **kwargs))({'params': params}, video)


ATTENTION_SHAPES = {  # Of the sown weights: depth, merged batch, heads, queries, keys.
    'spacetime': {'encoder/blocks/attention/attention': (2, 8, 2, 25, 25)},
    'factorised_encoder': {
        'spatial_encoder/blocks/attention/attention': (2, 32, 2, 7, 7),
        'temporal_encoder/blocks/attention/attention': (3, 8, 2, 5, 5),
    },
    'factorised_self_attention': {
        'encoder/blocks/time_attention/attention': (2, 48, 2, 4, 4),
        'encoder/blocks/space_attention/attention': (2, 32, 2, 6, 6),
    },
    'factorised_dot_product': {
        'encoder/blocks/attention/attention_time': (2, 48, 1, 4, 4),
        'encoder/blocks/attention/attention_space': (2, 32, 1, 6, 6),
    },
    'average_pool': {'spatial_encoder/blocks/attention/attention': (2, 32, 2, 7, 7)},
}


@pytest.mark.parametrize('attention', vivit.ATTENTIONS)
def test_gives_the_same_logits_and_attention_maps_with_and_without_a_mesh(attention, random_params):
    vit, video = model(attention), clips()
    params = random_params(vit, video, scale=1)
    logits, state = apply(vit, params, video, mutable='intermediates')
    assert logits.shape == (8, 5)
    assert logits.dtype == jnp.float32
    assert np.std(logits, axis=0).min() > 0.01  # Clips are told apart.
    assert vit.token_grid(SHAPE) == (4, 2, 3)
    assert vit.num_tokens(SHAPE) == 24

    sown = jax.tree_util.tree_leaves_with_path(state['intermediates'])
    sown = {jax.tree_util.keystr(k[:-1], simple=True, separator='/'): v for k, v in sown}
    maps = {name: leaf for name, leaf in sown.items() if 'attention' in name}
    assert {name: leaf.shape for name, leaf in maps.items()} == ATTENTION_SHAPES[attention]
    for leaf in maps.values():
        np.testing.assert_allclose(leaf.sum(axis=-1), 1, atol=1e-5)

    mesh = jax.make_mesh((4, 2), ('data', 'fsdp'), axis_types=(AxisType.Auto,) * 2)
    with jax.set_mesh(mesh):
        sharded = apply(vit, params, jax.device_put(video, PartitionSpec(('data', 'fsdp'))))
    assert len(sharded.sharding.device_set) == 8
    np.testing.assert_allclose(sharded, logits, atol=1e-5)


@pytest.mark.parametrize('attention', ['factorised_encoder', 'average_pool'])
def test_only_the_temporal_encoder_sees_the_order_of_frames(attention, random_params):
    vit, video = model(attention), clips(batch=1)
    params = random_params(vit, video)
    tubelets = einops.rearrange(video, 'b (t p) ... -> b t p ...', p=2)[:, ::-1]
    backwards = einops.rearrange(tubelets, 'b t p ... -> b (t p) ...')
    logits = apply(vit, params, jnp.concatenate([video, backwards]))
    difference = np.abs(logits[0] - logits[1]).max()
    assert (difference > 1e-3) == (attention == 'factorised_encoder')
    assert difference < 1e-5 or attention == 'factorised_encoder'


def test_unrolling_both_encoders_changes_nothing(random_params):
    vit, video = model('factorised_encoder'), clips(batch=2)
    params = random_params(vit, video)
    unrolled = apply(vit.clone(unroll=True), params, video)
    np.testing.assert_allclose(unrolled, apply(vit, params, video), atol=1e-5)


def test_model_2_draws_independently_for_every_frame(random_params):
    vit = model('average_pool', stochastic_depth=0.5, dropout=0.1, attention_dropout=0.1)
    still = jnp.repeat(clips(batch=1)[:, :1], 8, axis=1)
    params = random_params(vit, still)

    def frames(**kwargs):
        _, state = apply(vit, params, still, mutable='intermediates', **kwargs)
        return np.asarray(state['intermediates']['spatial_encoder']['tokens'][0])

    evaluated, trained = frames(), frames(train=True, rngs={'dropout': jax.random.key(0)})
    np.testing.assert_allclose(
        evaluated, np.broadcast_to(evaluated[:1], evaluated.shape), atol=1e-6
    )
    for i in range(4):
        for j in range(i):
            assert np.abs(trained[i] - trained[j]).max() > 1e-3


def test_training_without_any_rate_needs_no_rng_and_changes_nothing(random_params):
    vit, video = model('factorised_self_attention'), clips(batch=2)
    params = random_params(vit, video)
    trained = apply(vit, params, video, train=True)
    np.testing.assert_array_equal(trained, apply(vit, params, video))


def test_model_3_orders_mirror_each_other(random_params):
    """Time-then-space is space-then-time of the transposed tokens, with the attentions swapped."""
    block = functools.partial(vivit.FactorisedSelfAttentionBlock, num_heads=2, mlp_dim=12)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 12, 8)), 'float32')
    time_first, space_first = block(time=3, order='time_space'), block(time=4, order='space_time')
    params = random_params(time_first, x, None, train=False)
    swapped = {
        k.replace('time', '_').replace('space', 'time').replace('_', 'space', 1)
        if k.startswith('time')
        else k.replace('space', 'time'): v
        for k, v in params.items()
    }
    assert params.keys() == swapped.keys()
    transposed = einops.rearrange(x, 'b (t s) d -> b (s t) d', t=3)
    run = lambda module, params, x: jax.jit(  # noqa: E731
        lambda params, x: module.apply({'params': params}, x, None, train=False)
    )(params, x)
    np.testing.assert_allclose(
        einops.rearrange(run(space_first, swapped, transposed), 'b (s t) d -> b (t s) d', t=3),
        run(time_first, params, x),
        atol=1e-5,
    )
    other = block(time=3, order='space_time')
    assert np.abs(run(other, params, x) - run(time_first, params, x)).max() > 1e-3


def test_model_4_is_attention_masked_to_one_place_or_one_frame(random_params):
    time, space, heads = 3, 4, 4
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, time * space, 8)), 'float32')
    attention = vivit.FactorisedDotProductAttention(heads, time=time)
    params = random_params(attention, x, x, train=False)

    class Masked(layers.Attention):
        def attend(self, query, key, value, train):
            t, s = np.divmod(np.arange(time * space), space)
            same = np.stack([s[:, None] == s] * 2 + [t[:, None] == t] * 2)
            scores = jnp.einsum('bqhk,bmhk->bhqm', query, key) / np.sqrt(8 // heads)
            weights = jax.nn.softmax(jnp.where(same[None], scores, -jnp.inf))
            return jnp.einsum('bhqm,bmhk->bqhk', weights, value)

    def run(module):
        return jax.jit(lambda p: module.apply({'params': p}, x, x, train=False))(params)

    np.testing.assert_allclose(run(attention), run(Masked(heads)), atol=1e-5)


def test_bfloat16_is_for_the_blocks_alone(random_params):
    vit, video = model('factorised_dot_product', dtype='bfloat16'), clips(batch=2)
    init = jax.eval_shape(vit.init, jax.random.key(0), video)
    assert {leaf.dtype for leaf in jax.tree.leaves(init)} == {jnp.dtype('float32')}
    params = random_params(vit, video)
    logits, state = apply(vit, params, video, mutable='intermediates')
    assert logits.dtype == jnp.float32
    blocks = state['intermediates']['encoder']['blocks']
    assert blocks['attention']['attention_time'][0].dtype == jnp.bfloat16


@pytest.mark.parametrize('method', ['random', 'central_frame', 'average_frame'])
def test_tubelet_init(method):
    kernel = vivit.TUBELET_INITIALIZERS[method](jax.random.key(0), (4, 8, 8, 3, 64), jnp.float32)
    frames = np.abs(kernel).max(axis=(1, 2, 3, 4))
    if method == 'central_frame':
        assert (frames > 0).tolist() == [False, False, True, False]
    else:
        assert (frames > 0).all()
    assert (kernel[1] == kernel[2]).all() == (method == 'average_frame')
    # Variance 1 / fan-in of the whole tubelet, where the kernel is not zero.
    np.testing.assert_allclose(np.std(kernel[2]), (4 * 8 * 8 * 3) ** -0.5, rtol=0.03)


@pytest.mark.parametrize(
    ('num_frames', 'num_sampled', 'indices'),
    [
        (8, 2, [3, 5, 7]),  # One more than asked for, as in Scenic.
        (33, 2, [11, 22]),
        (32, 8, [4, 7, 11, 14, 18, 21, 25, 28]),
        (8, 4, [2, 3, 5, 6]),
        (3, 8, [0, 1, 2]),
    ],
)
def test_uniform_frames(num_frames, num_sampled, indices):
    assert vivit.uniform_frames(num_frames, num_sampled).tolist() == indices


@pytest.mark.skipif(not TABLE.exists(), reason='the table of Scenic is not beside this checkout')
def test_uniform_frames_are_scenics():
    for key, indices in json.loads(TABLE.read_text()).items():
        assert vivit.uniform_frames(*map(int, key.split('->'))).tolist() == indices, key


def test_uniform_frames_embedding_sees_only_its_frames(random_params):
    vit = model(embedding='uniform_frames', num_sampled_frames=3, depth=1, tubelet=(1, 4, 4))
    assert vit.num_tokens(SHAPE) == 3 * 2 * 3
    video = clips(batch=1)
    params = random_params(vit, video)
    changed = [video.at[:, frame].add(1.0) for frame in range(8)]
    logits = apply(vit, params, jnp.concatenate([video, *changed]))
    seen = np.abs(logits[1:] - logits[:1]).max(axis=1) > 1e-4
    assert np.flatnonzero(seen).tolist() == [2, 4, 6]


def test_wraps_as_an_nnx_module(random_params):
    vit, video = model(depth=1), clips(batch=2)
    wrapped = nnx.jit(lambda: bridge.lazy_init(bridge.ToNNX(vit, rngs=nnx.Rngs(0)), video))()
    params = random_params(vit, video)
    structure = jax.tree.structure(nnx.state(wrapped, nnx.Param))
    nnx.update(wrapped, jax.tree.unflatten(structure, jax.tree.leaves(params)))
    logits = nnx.jit(lambda module, video: module(video))(wrapped, video)
    np.testing.assert_allclose(logits, apply(vit, params, video), atol=1e-6)


@pytest.mark.parametrize(
    ('fields', 'shape', 'message'),
    [
        (
            {},
            (31, 8, 12, 3),
            r'num_frames=31 is not divisible by 2 of tubelet=\(2, 4, 4\): the nearest 30 and 32 are',
        ),
        ({}, (1, 8, 12, 3), r'num_frames=1 .*: the nearest 2 is'),
        ({}, (8, 9, 12, 3), r'height=9 .*: the nearest 8 and 12 are'),
        ({}, (8, 8, 13, 3), r'width=13 .*: the nearest 12 and 16 are'),
        ({}, (8, 12, 3), 'takes clips'),
        ({'attention': 'factorized_encoder'}, SHAPE, r"did you mean 'factorised_encoder'\?"),
        (
            {'attention': 'factorised_self_attention', 'classifier': 'token'},
            SHAPE,
            'has no class token: use classifier="gap"',
        ),
        (
            {'attention': 'factorised_dot_product', 'num_heads': 1, 'classifier': 'gap'},
            SHAPE,
            'num_heads=1 is odd',
        ),
        ({'num_heads': 3}, SHAPE, 'num_heads=3 does not divide width=8'),
        ({'temporal_num_heads': 3}, SHAPE, 'temporal_num_heads=3 does not divide width=8'),
        ({'classifier': 'sum'}, SHAPE, "classifier='sum' is not one of token, gap, map"),
        ({'attention_order': 'time'}, SHAPE, 'not one of time_space, space_time'),
        ({'embedding': 'uniform_frames'}, SHAPE, 'needs num_sampled_frames'),
        (
            {'embedding': 'uniform_frames', 'num_sampled_frames': 4},
            SHAPE,
            r'tubelet=\(2, 4, 4\) must be \(1, 4, 4\)',
        ),
        ({'tubelet_init': 'centre'}, SHAPE, 'not one of random, central_frame, average_frame'),
        ({'tubelet_init': 'average_frame', 'tubelet': (1, 4, 4)}, SHAPE, 'more than one frame'),
        ({'dropout': 1.5}, SHAPE, r'dropout=1\.5 is not a rate'),
    ],
)
def test_what_does_not_fit_is_named(fields, shape, message):
    vit = model(**fields)
    with pytest.raises(UserError, match=message):
        vit.check(shape)
    with pytest.raises(UserError, match=message):
        vit.num_tokens(shape)
