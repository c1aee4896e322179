"""VideoPrism: what makes it unlike ViViT's Model 2. Parity is in tests/weights."""

import functools

import einops
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from vjax import models
from vjax.errors import UserError
from vjax.models import costs, layers, variants, videoprism

SHAPE = (4, 8, 12, 3)  # Four by two by three tubelets.


def model(**fields):
    sizes = {'num_classes': 5, 'width': 8, 'depth': 2, 'temporal_depth': 3, 'num_heads': 2}
    sizes |= {'mlp_dim': 12, 'tubelet': (1, 4, 4)}
    return models.build('videoprism', **{**sizes, **fields})


def clips(batch=8, shape=SHAPE, seed=0):
    return jnp.asarray(np.random.default_rng(seed).uniform(-1, 1, (batch, *shape)), 'float32')


def apply(model, params, video, **kwargs):
    return jax.jit(functools.partial(model.apply, **kwargs))({'params': params}, video)


def test_gives_the_same_logits_and_attention_maps_with_and_without_a_mesh(random_params):
    prism, video = model(auxiliary_depth=1), clips()
    params = random_params(prism, video, scale=1)
    logits, state = apply(prism, params, video, mutable='intermediates')
    assert logits.shape == (8, 5)
    assert logits.dtype == jnp.float32
    assert np.std(logits, axis=0).min() > 1e-3
    assert prism.token_grid(SHAPE) == (4, 2, 3)
    assert prism.num_tokens(SHAPE) == 24

    sown = jax.tree_util.tree_leaves_with_path(state['intermediates'])
    sown = {jax.tree_util.keystr(k[:-1], simple=True, separator='/'): v for k, v in sown}
    assert {name: leaf.shape for name, leaf in sown.items()} == {
        'spatial_encoder/blocks/attention/attention': (2, 32, 2, 6, 6),
        'spatial_encoder/tokens': (32, 6, 8),
        'temporal_encoder/blocks/attention/attention': (3, 48, 2, 4, 4),
        'temporal_encoder/tokens': (48, 4, 8),
        'auxiliary_encoder/blocks/attention/attention': (1, 8, 2, 24, 24),
        'auxiliary_encoder/tokens': (8, 24, 8),
        'head/pool/attention/attention': (8, 2, 1, 24),
        'head/embedding': (8, 8),
    }
    mesh = jax.make_mesh((4, 2), ('data', 'fsdp'), axis_types=(AxisType.Auto,) * 2)
    with jax.set_mesh(mesh):
        sharded = apply(prism, params, jax.device_put(video, PartitionSpec(('data', 'fsdp'))))
    assert len(sharded.sharding.device_set) == 8
    np.testing.assert_allclose(sharded, logits, atol=1e-5)


def test_frames_are_apart_in_space_and_together_in_time(random_params):
    """Another last frame changes nothing in space but that frame's, and all in time after it."""
    prism, video = model(), clips(2)
    params = random_params(prism, video, scale=1)
    changed = video.at[:, 3].set(0.3)
    spatial = [
        apply(prism, params, v, mutable='intermediates', features=True)[1]['intermediates']
        for v in (video, changed)
    ]
    frames = [
        einops.rearrange(sown['spatial_encoder']['tokens'][0], '(b t) n d -> t b n d', t=4)
        for sown in spatial
    ]
    np.testing.assert_array_equal(frames[0][:3], frames[1][:3])
    tokens = [apply(prism, params, v, features=True) for v in (video, changed)]
    assert tokens[0].shape == (2, 24, 8)
    assert (np.abs(tokens[0] - tokens[1]).max(axis=-1) > 1e-4).all()


def test_every_place_goes_through_time_by_itself(random_params):
    """Without positions in space, places of other contents are permuted and nothing else."""
    prism, video = model(), clips(2)
    params = random_params(prism, video, scale=1)
    space = params['spatial_encoder']['position_embedding']
    space['table'] = jnp.zeros_like(space['table'])
    cells = einops.rearrange(video, 'b t (h p) (w q) c -> b t (h w) p q c', p=4, q=4)
    order = np.random.default_rng(1).permutation(6)
    permuted = einops.rearrange(cells[:, :, order], 'b t (h w) p q c -> b t (h p) (w q) c', h=2)
    tokens, other = (
        einops.rearrange(apply(prism, params, v, features=True), 'b (t n) d -> b t n d', t=4)
        for v in (video, permuted)
    )
    np.testing.assert_allclose(other, tokens[:, :, order], atol=1e-5)
    assert np.abs(tokens[:, :, order] - tokens).max() > 0.1


def test_the_cap_bounds_logits_and_leaves_small_ones(random_params):
    rng = np.random.default_rng(0)
    query, key = (jnp.asarray(rng.normal(size=(2, 5, 3, 4)), 'f') for _ in range(2))
    scores = layers.Attention(3).scores(query, key)
    capped = videoprism.CappedAttention(3, cap=2.0)
    np.testing.assert_allclose(capped.scores(query, key), 2 * np.tanh(scores / 2), atol=1e-6)
    assert np.abs(scores).max() > 2.5
    np.testing.assert_allclose(
        capped.scores(0.01 * query, key), 0.01 * scores, atol=1e-5, rtol=1e-3
    )
    assert np.abs(capped.scores(1e4 * query, key)).max() <= 2
    np.testing.assert_array_equal(videoprism.CappedAttention(3).scores(query, key), scores)

    prism, video = model(), clips(2)
    params = random_params(prism, video, scale=2)
    tokens = [apply(p, params, video, features=True) for p in (prism, model(logit_cap=1.0))]
    assert np.abs(tokens[0] - tokens[1]).max() > 0.1


def test_an_untrained_scale_of_the_pooling_is_one():
    tokens = clips(2, (5, 8))
    plain, scaled = layers.Attention(2, qkv_width=12), videoprism.ScaledAttention(2, qkv_width=12)
    variables = scaled.init(jax.random.key(0), tokens[:, :1], tokens, train=False)
    params = dict(variables['params'])
    assert params['per_dim_scale'].shape == (6,)
    out = scaled.apply(variables, tokens[:, :1], tokens, train=False)
    scale = params.pop('per_dim_scale')
    expected = plain.apply({'params': params}, tokens[:, :1], tokens, train=False)
    np.testing.assert_allclose(out, expected, atol=1e-6)
    other = scaled.apply(
        {'params': params | {'per_dim_scale': scale + 3}}, tokens[:, :1], tokens, train=False
    )
    assert np.abs(other - out).max() > 1e-3


def test_gap_classifies_the_mean_of_the_tokens(random_params):
    prism, video = model(classifier='gap'), clips(2)
    params = random_params(prism, video, scale=1)
    tokens = apply(prism, params, video, features=True)
    head = params['head']['logits']
    expected = tokens.mean(axis=1) @ head['kernel'] + np.broadcast_to(head['bias'], (2, 5))
    np.testing.assert_allclose(apply(prism, params, video), expected, atol=1e-5)


def test_bfloat16_gives_float32_logits_near_those_of_float32(random_params):
    prism, video = model(temporal_depth=1), clips(2)
    params = random_params(prism, video)
    logits = apply(prism, params, video)
    half = apply(prism.clone(dtype='bfloat16'), params, video)
    assert half.dtype == jnp.float32
    np.testing.assert_allclose(half, logits, atol=0.05)
    assert not np.array_equal(half, logits)


@pytest.mark.slow
def test_how_it_is_computed_changes_no_gradient(random_params):
    prism, video = model(temporal_depth=1, auxiliary_depth=1), clips(1, (2, 4, 8, 3))
    params = random_params(prism, video)

    def gradient(model):
        return jax.jit(jax.grad(lambda p: model.apply({'params': p}, video).mean()))(params)

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5),
        gradient(prism),
        gradient(prism.clone(remat='full', unroll=True)),
    )


def test_rates_act_in_training_alone(random_params):
    rates = {'dropout': 0.5, 'attention_dropout': 0.5, 'stochastic_depth': 0.5}
    prism, video = model(**rates), clips(2)
    params = random_params(prism, video, scale=1)
    plain = apply(model(), params, video)
    np.testing.assert_array_equal(apply(prism, params, video), plain)
    train = functools.partial(prism.apply, train=True)
    logits = jax.jit(train)({'params': params}, video, rngs={'dropout': jax.random.key(0)})
    assert np.abs(logits - plain).max() > 1e-2


@pytest.mark.parametrize(
    ('fields', 'shape', 'sentence'),
    [
        ({'temporal_depth': 0}, SHAPE, 'temporal_depth=0 should be at least 1'),
        ({'auxiliary_depth': -1}, SHAPE, 'auxiliary_depth=-1 should be at least 0'),
        ({'logit_cap': -1.0}, SHAPE, 'logit_cap=-1.0 should be at least 0'),
        ({'pool_width': 5}, SHAPE, 'num_heads=2 does not divide pool_width=5'),
        ({'num_heads': 3}, SHAPE, 'num_heads=3 does not divide width=8'),
        ({'classifier': 'token'}, SHAPE, "classifier='token' is not one of map, gap"),
        ({'position_grid': (4, 2)}, SHAPE, r'position_grid=\(4, 2\) should be time, height, width'),
        ({'gelu': 'exact'}, SHAPE, "gelu='exact' is not one of tanh, erf"),
        ({}, (4, 9, 12, 3), 'height=9 is not divisible by 4 of tubelet'),
        ({}, (8, 12, 3), 'the model takes clips'),
    ],
)
def test_what_cannot_work_is_named(fields, shape, sentence):
    with pytest.raises(UserError, match=sentence):
        model(**fields).num_tokens(shape)


@pytest.mark.parametrize(
    ('variant', 'clip', 'encoders', 'gflops'),
    [
        ('B/18x1', (16, 288, 288, 3), 114_365_184, 513.8),
        ('L/18x1', (8, 288, 288, 3), 353_965_056, 775.9),
        ('g/18x1', (8, 288, 288, 3), 1_112_755_072, 2389),
    ],
)
def test_costs_of_the_published_sizes(variant, clip, encoders, gflops):
    """Parameters are those of transformers' VideoPrismVisionModel; GFLOPs were printed nowhere."""
    prism = models.build('videoprism', num_classes=400, **variants.video(variant))
    shapes = costs.param_shapes(prism, clip)
    del shapes['head']
    assert costs.count_params(shapes) == encoders
    assert costs.gflops(prism, clip) == pytest.approx(gflops, rel=1e-3)
