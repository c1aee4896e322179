"""The shared parts, against flax's own, against definitions, and on a mesh."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from vjax.models import layers, scan


def random(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def apply(module, params, *inputs, **kwargs):
    """The module's output, compiled as a whole: faster than op by op."""
    return jax.jit(functools.partial(module.apply, **kwargs))({'params': params}, *inputs)


def test_attention_equals_flaxs(random_params):
    queries, context = random(2, 3, 8), random(2, 5, 8, seed=1)
    ours, theirs = layers.Attention(num_heads=2), nn.MultiHeadDotProductAttention(num_heads=2)
    params = random_params(ours, queries, context, train=False)
    np.testing.assert_allclose(
        apply(ours, params, queries, context, train=False),
        apply(theirs, params, queries, context),
        atol=1e-6,
    )


def test_attention_pooling_is_scenics_map_head(random_params):
    tokens = random(2, 5, 8)
    pool = layers.AttentionPooling(num_heads=2, mlp_dim=12)
    params = random_params(pool, tokens, train=False)

    @jax.jit
    def reference(params, tokens):
        def run(module, params, *inputs):
            return module.apply({'params': params}, *inputs)

        probe = jnp.broadcast_to(params['probe'], (2, 1, 8))
        attention = nn.MultiHeadDotProductAttention(num_heads=2)
        x = run(attention, params['attention'], probe, tokens)
        y = run(nn.LayerNorm(), params['mlp_norm'], x)
        y = nn.gelu(run(nn.Dense(12), params['mlp']['up'], y))
        return (x + run(nn.Dense(8), params['mlp']['down'], y))[:, 0]

    np.testing.assert_allclose(
        apply(pool, params, tokens, train=False), reference(params, tokens), atol=1e-6
    )


@pytest.mark.parametrize('patch', [(2, 4), (2, 2, 4)])
def test_patch_embedding_is_a_convolution(patch, random_params):
    x = random(2, *(3 * size for size in patch), 3)
    embedding = layers.PatchEmbedding(width=5, patch=patch)
    params = random_params(embedding, x)
    convolution = nn.Conv(5, patch, strides=patch, padding='VALID')
    np.testing.assert_allclose(
        apply(embedding, params, x), apply(convolution, params, x), atol=1e-5
    )


class TestDropPath:
    BRANCH = np.broadcast_to(np.arange(1, 4097, dtype='f')[:, None, None], (4096, 2, 3))

    def drop(self, rate, seed=0, train=True):
        rngs = {'dropout': jax.random.key(seed)}
        rate = rate if rate is None else jnp.asarray(rate)
        drop = jax.jit(functools.partial(layers.DropPath().apply, train=train, rngs=rngs))
        return drop({}, self.BRANCH, rate)

    def test_keeps_or_drops_whole_examples_and_rescales(self):
        ratio = np.asarray(self.drop(0.25) / self.BRANCH)
        assert (ratio == ratio[:, :1, :1]).all()
        np.testing.assert_allclose(np.unique(ratio.round(5)), [0, 4 / 3], rtol=1e-4)
        kept = (ratio[:, 0, 0] > 0).mean()
        assert abs(kept - 0.75) < 5 * np.sqrt(0.75 * 0.25 / 4096)

    def test_draws_differ(self):
        assert (self.drop(0.5, seed=0) != self.drop(0.5, seed=1)).any()

    def test_is_the_identity_in_evaluation_and_without_a_rate(self):
        assert (self.drop(0.25, train=False) == self.BRANCH).all()
        assert (self.drop(None) == self.BRANCH).all()


def test_stochastic_depth_grows_linearly_and_branches_are_dropped_independently(random_params):
    depth, batch = 3, 2048
    encoder = layers.Encoder(depth, num_heads=1, mlp_dim=4, stochastic_depth=0.6)
    x = random(batch, 2, 4)
    _, state = apply(
        encoder,
        random_params(encoder, x, train=False),
        x,
        train=True,
        rngs={'dropout': jax.random.key(1)},
        capture_intermediates=lambda module, _: isinstance(module, layers.DropPath),
        mutable='intermediates',
    )
    blocks = state['intermediates']['blocks']
    dropped = [
        np.asarray((blocks[name]['__call__'][0] == 0).all(axis=(2, 3)))
        for name in ('DropPath_0', 'DropPath_1')
    ]
    for branch in dropped:
        np.testing.assert_allclose(branch.mean(axis=1), [0, 0.3, 0.6], atol=0.06)
    both = (dropped[0] & dropped[1]).mean(axis=1)
    np.testing.assert_allclose(both, [0, 0.09, 0.36], atol=0.06)


@dataclasses.dataclass
class Case:
    """A small encoder with parameters and input."""

    encoder: layers.Encoder
    x: jax.Array
    params: dict

    def run(self, **fields):
        def loss(params):
            out = self.encoder.clone(**fields).apply({'params': params}, self.x, train=False)
            return (out**2).sum(), out

        (_, out), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(self.params)
        return out, grads


@pytest.fixture(scope='module')
def case(random_params):
    encoder = layers.Encoder(depth=3, num_heads=2, mlp_dim=12)
    x = random(2, 5, 8)
    return Case(encoder, x, random_params(encoder, x, train=False))


@pytest.fixture(scope='module')
def expected(case):
    return case.run()


@pytest.mark.parametrize(
    'fields',
    [{'unroll': True}, {'remat': 'dots'}, {'remat': 'full'}, {'remat': 'offload'}],
    ids=str,
)
def test_neither_unrolling_nor_remat_changes_values_or_gradients(case, expected, fields):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
        case.run(**fields),
        expected,
    )


def test_remat_full_keeps_fewer_residuals(case):
    def residual_elements(remat):
        encoder = case.encoder.clone(remat=remat)
        _, pullback = jax.eval_shape(
            lambda params: jax.vjp(
                lambda p: encoder.apply({'params': p}, case.x, train=False), params
            ),
            case.params,
        )
        return sum(leaf.size for leaf in jax.tree.leaves(pullback))

    assert residual_elements('full') < residual_elements('dots') < residual_elements('none')


def test_bfloat16_blocks_stay_near_float32_and_the_rest_is_float32(case, expected):
    out, grads = case.run(dtype='bfloat16')
    assert out.dtype == jnp.float32
    assert {leaf.dtype for leaf in jax.tree.leaves(grads)} == {jnp.dtype('float32')}
    error = np.abs(out - expected[0]).max()
    assert 1e-5 < error < 0.1  # It did compute in bfloat16, and not wrongly.


def test_sown_attention_is_a_distribution_per_layer(case):
    _, state = apply(case.encoder, case.params, case.x, train=False, mutable='intermediates')
    (weights,) = state['intermediates']['blocks']['attention']['attention']
    assert weights.shape == (3, 2, 2, 6, 6)  # depth, batch, heads, queries, keys
    np.testing.assert_allclose(weights.sum(axis=-1), 1, atol=1e-5)
    assert (weights >= 0).all()
    (tokens,) = state['intermediates']['tokens']
    assert tokens.shape == (2, 6, 8)


class TestConstrainBatch:
    def mesh(self, names, shape):
        return jax.make_mesh(shape, names, axis_types=(AxisType.Auto,) * len(names))

    def test_is_the_identity_without_a_mesh(self):
        x = jnp.ones((3, 2))
        assert scan.constrain_batch(x) is x

    @pytest.mark.parametrize(
        ('names', 'axes'),
        [
            (('data', 'fsdp'), ('data', 'fsdp')),
            (('data', 'model'), ('data',)),
            (('a', 'model'), ()),
        ],
    )
    def test_shards_the_leading_axis_over_the_batch_axes(self, names, axes):
        with jax.set_mesh(self.mesh(names, (4, 2))):
            jaxpr = str(jax.make_jaxpr(scan.constrain_batch)(jnp.ones((8, 2))))
            out = jax.jit(scan.constrain_batch)(jnp.ones((8, 2)))
        assert ('sharding_constraint' in jaxpr) == bool(axes)
        if axes:
            assert out.sharding.spec[0] in (axes, axes[0])
            assert out.addressable_shards[0].data.shape == (
                8 // (4 * (2 if len(axes) > 1 else 1)),
                2,
            )

    def test_takes_a_batch_that_the_mesh_does_not_divide(self):
        with jax.set_mesh(self.mesh(('data',), (8,))):
            assert jax.jit(scan.constrain_batch)(jnp.ones((3, 2))).shape == (3, 2)

    def test_the_encoder_gives_the_same_on_a_mesh(self, case, expected):
        mesh = self.mesh(('data', 'fsdp'), (4, 2))
        x = jnp.concatenate([case.x] * 4)
        with jax.set_mesh(mesh):
            x = jax.device_put(x, PartitionSpec(('data', 'fsdp')))
            out = apply(case.encoder, case.params, x, train=False)
        np.testing.assert_allclose(out[:2], expected[0], atol=1e-5)
        assert len(out.sharding.device_set) == 8


def test_initialisers():
    encoder = layers.Encoder(depth=2, num_heads=2, mlp_dim=64)
    init = jax.jit(functools.partial(encoder.init, train=False))
    params = init(jax.random.key(0), jnp.zeros((1, 100, 32)))['params']
    assert not params['class_token'].any()
    assert params['position_embedding']['table'].shape == (1, 101, 32)
    assert abs(params['position_embedding']['table'].std() - 0.02) < 1e-3
    up = params['blocks']['mlp']['up']
    assert up['kernel'].shape == (2, 32, 64)
    assert abs(np.abs(up['kernel']).max() - np.sqrt(6 / (32 + 64))) < 1e-3  # Xavier uniform.
    assert 0 < np.abs(up['bias']).max() < 1e-5
    assert (up['kernel'][0] != up['kernel'][1]).any()  # Layers are drawn independently.
    head = layers.Head(3, representation_size=5).init(jax.random.key(0), jnp.zeros((1, 4)))[
        'params'
    ]
    assert not head['logits']['kernel'].any()
    assert head['pre_logits']['kernel'].any()
