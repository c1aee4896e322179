"""TokenLearner and TokenFuser, against their definitions, and the models that they make."""

import functools

import einops
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from vjax import models
from vjax.errors import UserError
from vjax.models import costs, layers, variants
from vjax.models.token_learner import (
    TokenFuser,
    TokenLearner,
    TokenLearnerEncoder,
    TokenLearnerViT,
    TokenLearnerViViT,
)

SIZES = {'num_classes': 5, 'width': 8, 'depth': 3, 'num_heads': 2, 'mlp_dim': 12}
SIZES |= {'learned_tokens': 3, 'location': 1, 'bottleneck': 6}
CLIP = (6, 8, 16, 3)  # Three by two by four tubelets.
KINDS = [(version, fuser) for version in ('1.0', '1.1') for fuser in (False, True)]


def vit(**fields):
    return TokenLearnerViT(**{**SIZES, 'patch': (4, 4), **fields})


def vivit(**fields):
    return TokenLearnerViViT(**{**SIZES, 'tubelet': (2, 4, 4), 'temporal_depth': 2, **fields})


def random(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def apply(module, params, *inputs, **kwargs):
    return jax.jit(functools.partial(module.apply, **kwargs))({'params': params}, *inputs)


def apply_and_sow(module, params, *inputs, **kwargs):
    """The output, and what is sown by the path of its module."""
    out, state = apply(module, params, *inputs, mutable='intermediates', **kwargs)
    leaves = jax.tree_util.tree_leaves_with_path(state['intermediates'])
    return out, {jax.tree_util.keystr(k[:-1], simple=True, separator='/'): v for k, v in leaves}


def norm(x, params):
    x = (x - x.mean(axis=-1, keepdims=True)) / np.sqrt(x.var(axis=-1, keepdims=True) + 1e-6)
    return x * params['scale'] + params['bias']


def gelu(x):
    return x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def mlp(x, params):
    hidden = gelu(x @ params['up']['kernel'] + params['up']['bias'])
    return hidden @ params['down']['kernel'] + params['down']['bias']


def double(params):
    """The parameters as NumPy arrays of more precision than there is to test."""
    return jax.tree.map(lambda leaf: np.asarray(leaf, 'f8'), params)


class TestTokenLearner:
    @pytest.mark.parametrize('pooling', ['sum', 'mean'])
    def test_version_1_0_by_its_definition(self, pooling, random_params):
        x = random(2, 3, 5, 8)
        learner = TokenLearner(4, '1.0', pooling)
        params = random_params(learner, x, train=False)
        assert {k: v['kernel'].shape for k, v in params.items() if k != 'norm'} == {
            f'convolution_{i}': (3, 3, 4 if i else 8, 4) for i in range(4)
        }

        numpy = double(params)
        maps = norm(np.asarray(x, 'f8'), numpy['norm'])
        for i in range(4):
            padded = np.pad(gelu(maps) if i else maps, ((0, 0), (1, 1), (1, 1), (0, 0)))
            kernel = numpy[f'convolution_{i}']['kernel']
            maps = np.zeros((2, 3, 5, 4))
            for row, column in np.ndindex(3, 3):
                maps += padded[:, row : row + 3, column : column + 5] @ kernel[row, column]
        maps = sigmoid(maps)
        expected = np.einsum('bhwn,bhwd->bnd', maps, x) / (15 if pooling == 'mean' else 1)
        tokens, sown = apply_and_sow(learner, params, x, train=False)
        np.testing.assert_allclose(tokens, expected, atol=1e-5)
        maps = einops.rearrange(maps, 'b h w n -> b n h w')
        np.testing.assert_allclose(sown['token_maps'], maps, atol=1e-5)

    def test_version_1_1_by_its_definition(self, random_params):
        x = random(2, 3, 5, 8)
        learner = TokenLearner(4, bottleneck=6)
        params = random_params(learner, x, train=False, scale=1)
        numpy = double(params)
        maps = np.exp(mlp(norm(np.asarray(x, 'f8'), numpy['norm']), numpy['scores']))
        maps /= maps.sum(axis=(1, 2), keepdims=True)
        expected = np.einsum('bhwn,bhwd->bnd', maps, x)
        tokens, sown = apply_and_sow(learner, params, x, train=False)
        np.testing.assert_allclose(tokens, expected, atol=1e-5)
        assert sown['token_maps'].shape == (2, 4, 3, 5)
        np.testing.assert_allclose(sown['token_maps'].sum(axis=(2, 3)), 1, atol=1e-5)
        maps = einops.rearrange(maps, 'b h w n -> b n h w')
        np.testing.assert_allclose(sown['token_maps'], maps, atol=1e-5)

    @pytest.mark.parametrize('version', ['1.0', '1.1'])
    def test_only_version_1_0_sees_where_features_are(self, version, random_params):
        x = random(1, 4, 4, 8)
        learner = TokenLearner(3, version)
        params = random_params(learner, x, train=False)
        shuffled = np.random.default_rng(1).permutation(x.reshape(1, 16, 8), axis=1)
        tokens = apply(
            learner, params, jnp.concatenate([x, shuffled.reshape(x.shape)]), train=False
        )
        difference = np.abs(tokens[0] - tokens[1]).max()
        assert difference < 1e-5 if version == '1.1' else difference > 1e-2

    def test_dropout_is_on_the_scores_when_training(self, random_params):
        x = random(2, 3, 5, 8)
        learner = TokenLearner(4, dropout=0.5)
        params = random_params(learner, x, train=False)
        tokens = [
            apply(learner, params, x, train=True, rngs={'dropout': jax.random.key(seed)})
            for seed in (0, 0, 1)
        ]
        assert (tokens[0] == tokens[1]).all()
        assert np.abs(tokens[0] - tokens[2]).max() > 1e-3


def test_fuser_by_its_definition(random_params):
    tokens, x = random(2, 4, 8), random(2, 3, 5, 8, seed=1)
    fuser = TokenFuser(bottleneck=6)
    params = random_params(fuser, tokens, x, train=False)
    numpy = double(params)
    mixed = norm(np.asarray(tokens, 'f8'), numpy['token_norm'])
    mixed = np.einsum('bmd,mn->bnd', mixed, numpy['mix']['kernel'])
    mixed = norm(mixed + numpy['mix']['bias'][:, None], numpy['mix_norm'])
    maps = sigmoid(mlp(norm(np.asarray(x, 'f8'), numpy['feature_norm']), numpy['scores']))
    expected = np.einsum('bhwn,bnd->bhwd', maps, mixed)
    fused, sown = apply_and_sow(fuser, params, tokens, x, train=False)
    np.testing.assert_allclose(fused, expected, atol=1e-5)
    maps = einops.rearrange(maps, 'b h w n -> b n h w')
    np.testing.assert_allclose(sown['fusion_maps'], maps, atol=1e-5)


def encoder(**fields):
    sizes = {k: v for k, v in SIZES.items() if k not in ('num_classes', 'width')}
    return TokenLearnerEncoder(**{**sizes, 'classifier': 'gap', **fields})


@pytest.mark.parametrize(
    ('location', 'version', 'fuser'), [(0, '1.1', True), *((1, *kind) for kind in KINDS)]
)
def test_a_video_is_learned_frame_by_frame_and_attended_as_a_whole(
    location, version, fuser, random_params
):
    """The encoder, spelt out with a loop over layers and one over frames."""
    x = random(2, 3, 2, 4, 8)
    encode = encoder(depth=2, location=location, version=version, fuser=fuser)
    params = random_params(encode, x, train=False)
    assert params.get('blocks', {}).keys() == (set() if location == 0 else params['blocks'].keys())

    @jax.jit
    def reference(params, x):
        def run(module, params, *inputs):
            return module.apply({'params': params}, *inputs, train=False)

        def layer(group, i):
            return jax.tree.map(lambda leaf: leaf[i], params[group])

        def learn(params, x):
            frames = [x[:, 8 * t : 8 * t + 8].reshape(2, 2, 4, 8) for t in range(3)]
            learner = TokenLearner(3, version, bottleneck=6)
            return [run(learner, params, frame) for frame in frames], frames

        block = layers.EncoderBlock(num_heads=2, mlp_dim=12)
        apply_block = lambda params, x: block.apply({'params': params}, x, None, train=False)  # noqa: E731
        x = x.reshape(2, 24, 8)
        x = x + jnp.broadcast_to(params['position_embedding']['table'], x.shape)
        for i in range(2):
            if i < location:
                x = apply_block(layer('blocks', i), x)
            elif not fuser:
                if i == location:
                    tokens, _ = learn(params['token_learner'], x)
                    x = jnp.concatenate(tokens, axis=1)
                x = apply_block(layer('later_blocks', i - location), x)
            else:
                fused = dict(layer('fused_blocks', i - location))
                tokens, frames = learn(fused.pop('token_learner'), x)
                fuse = functools.partial(run, TokenFuser(bottleneck=6), fused.pop('token_fuser'))
                tokens = apply_block(fused, jnp.concatenate(tokens, axis=1))
                tokens = jnp.split(tokens, 3, axis=1)
                fused = [fuse(t, f).reshape(2, 8, 8) for t, f in zip(tokens, frames, strict=True)]
                x = x + jnp.concatenate(fused, axis=1)
        return layers.LayerNorm().apply({'params': params['norm']}, x).mean(axis=1)

    np.testing.assert_allclose(
        apply(encode, params, x, train=False), reference(params, x), atol=1e-5
    )


def test_maps_of_a_frame_depend_on_it_alone_and_tokens_on_all(random_params):
    x = random(1, 3, 2, 4, 8)
    encode = encoder(location=0)
    params = random_params(encode, x, train=False)
    changed = jnp.concatenate([x, x.at[:, 1].add(random(2, 4, 8, seed=1))])
    _, sown = apply_and_sow(encode, params, changed, train=False)
    maps, tokens = sown['token_learner/token_maps'].reshape(2, 3, -1), sown['tokens']
    assert tokens.shape == (2, 3 * 3, 8)
    tokens = tokens.reshape(2, 3, -1)
    assert (np.abs(maps[0] - maps[1]).max(axis=-1) > 1e-3).tolist() == [False, True, False]
    assert (np.abs(tokens[0] - tokens[1]).max(axis=-1) > 1e-3).all()


def test_fused_layers_start_as_the_identity():
    x = random(2, 3, 2, 4, 8)
    encode = encoder(fuser=True)
    init = jax.jit(functools.partial(encode.init, train=False))
    params = init(jax.random.key(0), x)['params']
    assert not params['fused_blocks']['token_fuser']['mix']['kernel'].any()
    assert all(params['fused_blocks'][name] for name in ('attention', 'mlp', 'token_learner'))
    plain = layers.Encoder(depth=1, num_heads=2, mlp_dim=12, classifier='gap')
    without = {k: v for k, v in params.items() if k != 'fused_blocks'}
    np.testing.assert_allclose(
        apply(encode, params, x, train=False), apply(plain, without, x, train=False), atol=1e-6
    )


def test_the_number_of_learned_tokens_does_not_depend_on_the_image():
    def sown(model, height, width, params):
        image = jax.ShapeDtypeStruct((1, height, width, 3), jnp.float32)
        apply = functools.partial(model.apply, mutable='intermediates')
        _, state = jax.eval_shape(apply, {'params': params}, image)
        return jax.tree.map(lambda leaf: leaf.shape, state['intermediates']['encoder'])

    plain, fused = vit(position_grid=(2, 2)), vit(position_grid=(2, 2), fuser=True)
    params = [costs.param_shapes(model, (8, 8, 3)) for model in (plain, fused)]
    for height, width in [(8, 8), (12, 20)]:
        h, w = height // 4, width // 4
        assert plain.num_tokens((height, width, 3)) == h * w
        shapes = sown(plain, height, width, params[0])
        assert shapes['tokens'][0] == (1, 3, 8)
        assert shapes['token_learner']['token_maps'][0] == (1, 3, h, w)
        shapes = sown(fused, height, width, params[1])
        assert shapes['tokens'][0] == (1, h * w, 8)
        assert shapes['fused_blocks']['token_learner']['token_maps'][0] == (2, 1, 3, h, w)
        assert shapes['fused_blocks']['token_fuser']['fusion_maps'][0] == (2, 1, 3, h, w)


# The fused ones have all parameters of the others.
@pytest.mark.parametrize(
    ('version', 'fuser'),
    [kind if kind[1] else pytest.param(*kind, marks=pytest.mark.slow) for kind in KINDS],
)
def test_gradients_reach_every_parameter(version, fuser, random_params):
    model, x = vivit(version=version, fuser=fuser, depth=2), random(2, *CLIP)
    params = random_params(model, x)
    loss = lambda params: (model.apply({'params': params}, x) ** 2).sum()  # noqa: E731
    leaves = jax.tree_util.tree_leaves_with_path(jax.jit(jax.grad(loss))(params))
    # What a softmax's scores, or a norm's features, have in common makes no difference to it.
    blind = {'attention/key/bias', 'mix/bias'} | (
        {'scores/down/bias'} if version == '1.1' else set()
    )
    for path, leaf in leaves:
        name = jax.tree_util.keystr(path, simple=True, separator='/')
        expected = 'fuser/scores' in name or not name.endswith(tuple(blind))
        assert (np.abs(leaf).max() > 1e-6) == expected, name


@pytest.mark.slow
def test_neither_unrolling_nor_remat_changes_values_or_gradients(random_params):
    encode, x = encoder(fuser=True), random(2, 3, 2, 4, 8)
    params = random_params(encode, x, train=False)

    def run(**fields):
        apply = functools.partial(encode.clone(**fields).apply, train=False)
        loss = lambda params: (apply({'params': params}, x) ** 2).sum()  # noqa: E731
        return jax.jit(jax.value_and_grad(loss))(params)

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4),
        run(unroll=True, remat='full'),
        run(),
    )


def test_bfloat16_stays_near_float32_and_maps_and_residuals_are_float32(random_params):
    model, x = vivit(version='1.0', fuser=True), random(2, *CLIP)
    params = random_params(model, x)
    logits, sown = apply_and_sow(model.clone(dtype='bfloat16'), params, x)
    assert logits.dtype == jnp.float32
    error = np.abs(logits - apply(model, params, x)).max() / np.abs(logits).max()
    assert 1e-5 < error < 0.1
    for name in ('encoder/tokens', 'encoder/fused_blocks/token_learner/token_maps'):
        assert sown[name].dtype == jnp.float32
    assert sown['encoder/fused_blocks/token_fuser/fusion_maps'].dtype == jnp.bfloat16


MAPS = {  # By attention: where the maps are, and their layers, merged batch, tokens, height, width.
    ('spacetime', False): {'encoder/token_learner': (24, 3, 2, 4)},
    ('spacetime', True): {'encoder/fused_blocks/token_learner': (2, 24, 3, 2, 4)},
    ('factorised_encoder', True): {'spatial_encoder/fused_blocks/token_learner': (2, 24, 3, 2, 4)},
}


@pytest.mark.parametrize(
    ('attention', 'fuser'),
    [kind if kind[1] else pytest.param(*kind, marks=pytest.mark.slow) for kind in MAPS],
)
def test_video_models_give_the_same_with_and_without_a_mesh(attention, fuser, random_params):
    model, video = vivit(attention=attention, fuser=fuser), random(8, *CLIP)
    params = random_params(model, video, scale=1)
    logits, sown = apply_and_sow(model, params, video)
    assert logits.shape == (8, 5)
    assert np.std(logits, axis=0).min() > 0.01
    assert model.num_tokens(CLIP) == 24
    maps = {
        name.removesuffix('/token_maps'): leaf.shape
        for name, leaf in sown.items()
        if name.endswith('token_maps')
    }
    assert maps == MAPS[attention, fuser]
    if attention == 'factorised_encoder':
        assert params['temporal_encoder']['blocks']['mlp_norm']['scale'].shape == (2, 8)

    mesh = jax.make_mesh((4, 2), ('data', 'fsdp'), axis_types=(AxisType.Auto,) * 2)
    with jax.set_mesh(mesh):
        sharded = apply(model, params, jax.device_put(video, PartitionSpec(('data', 'fsdp'))))
    assert len(sharded.sharding.device_set) == 8
    np.testing.assert_allclose(sharded, logits, atol=1e-4)


def test_the_encoder_of_frames_is_that_of_images(random_params):
    """Model 2's baseline is the mean over frames of the image model's encoder."""
    model, video = vivit(attention='average_pool'), random(2, *CLIP)
    params = random_params(model, video)
    still = video[:, :2]
    frames = jnp.concatenate([still] * 3, axis=1)
    logits = apply(model, params, frames)
    encode = encoder(depth=3)

    @jax.jit
    def reference(params, still):
        embedding = layers.PatchEmbedding(8, (2, 4, 4))
        features = embedding.apply({'params': params['embedding']}, still)[:, 0]
        x = encode.apply({'params': params['spatial_encoder']}, features, train=False)
        return layers.Head(5).apply({'params': params['head']}, x)

    np.testing.assert_allclose(logits, reference(params, still), atol=1e-5)


@pytest.mark.parametrize(('depth', 'layers_before'), [(12, 9), (24, 18), (1, 0)])
def test_stands_before_three_quarters_of_the_depth_by_default(depth, layers_before):
    model = vit(depth=depth, location=-1)
    encoder = costs.param_shapes(model, (8, 8, 3))['encoder']
    assert encoder['later_blocks']['mlp_norm']['scale'].shape == (depth - layers_before, 8)
    assert ('blocks' in encoder) == (layers_before > 0)


# Variant, size, learned tokens, location, other fields, GFLOPs of Scenic's model. The paper prints
# 28.7, 47.1, 47.7 and, for the last, 178.1: that one is not what Scenic's model costs either.
IMAGES = [
    ('B/16', 384, 8, 6, {'fuser': True}, 28.74),
    ('B/16', 384, 8, 6, {}, 28.36),
    ('B/32', 384, 8, 6, {}, 7.02),
    ('S/16', 384, 8, 6, {}, 7.98),
    ('B/16', 384, 8, 10, {'depth': 21}, 47.07),
    ('B/16', 384, 16, 10, {'depth': 21}, 47.71),
    ('L/16', 512, 16, 12, {}, 184.5),
]
PLAIN_IMAGES = [('S/32', 384, 3.44), ('B/16', 384, 55.63), ('L/16', 512, 363.12)]
VIDEOS = [  # Of version 1.0; the paper prints 766. Patches of 10 pixels divide a crop of 220.
    ('L/16x2', 224, 12, 765.92, 307_662_992),
    ('L/16x2', 224, 18, 1105.8, 307_662_992),
    ('L/10x2', 220, 18, 4029.6, 311_423_120),
]


@pytest.mark.parametrize(('variant', 'size', 'num', 'location', 'fields', 'gflops'), IMAGES)
def test_gflops_of_images(variant, size, num, location, fields, gflops):
    fields = {**variants.image(variant), 'learned_tokens': num, 'location': location, **fields}
    model = models.build('token_learner', num_classes=1000, **fields)
    assert costs.gflops(model, (size, size, 3)) == pytest.approx(gflops, rel=1e-3)


@pytest.mark.parametrize(('variant', 'size', 'gflops'), PLAIN_IMAGES)
def test_gflops_without_learned_tokens(variant, size, gflops):
    fields = {**variants.image(variant), 'num_classes': 1000, 'classifier': 'gap'}
    model = models.build('vit', **fields)
    assert costs.gflops(model, (size, size, 3)) == pytest.approx(gflops, rel=1e-3)


@pytest.mark.parametrize(('variant', 'size', 'location', 'gflops', 'params'), VIDEOS)
def test_gflops_and_parameters_of_videos(variant, size, location, gflops, params):
    fields = {**variants.video(variant), 'location': location, 'version': '1.0'}
    model = models.build('token_learner_video', num_classes=400, **fields)
    clip = (32, size, size, 3)
    assert costs.count_params(costs.param_shapes(model, clip)) == params
    assert costs.gflops(model, clip) == pytest.approx(gflops, rel=1e-3)


@pytest.mark.parametrize(
    ('build', 'fields', 'message'),
    [
        (vit, {'classifier': 'token'}, 'no class token: use "gap" or "map"'),
        (vivit, {'classifier': 'token'}, 'no class token: use "gap" or "map"'),
        (vit, {'version': '1.2'}, r'version=\'1\.2\' is not one of the strings "1\.0" and "1\.1"'),
        (vit, {'pooling': 'men'}, r"pooling='men' is not one of sum, mean; did you mean 'mean'\?"),
        (vit, {'pooling': 'mean'}, r'pooling=\'mean\' needs version="1\.0"'),
        (vivit, {'learned_tokens': 0}, 'learned_tokens=0 should be at least 1'),
        (vit, {'bottleneck': 0}, 'bottleneck=0 should be at least 1'),
        (vit, {'location': 3}, 'location=3 is not one of the layers 0 to 2, nor -1'),
        (vivit, {'location': -2}, 'location=-2 is not one of the layers'),
        (vivit, {'attention': 'factorised_self_attention'}, 'which TokenLearner replaces: use'),
        (vivit, {'attention': 'factorised_dot_product'}, 'which TokenLearner replaces: use'),
        (vit, {'num_heads': 3}, 'num_heads=3 does not divide width=8'),
    ],
)
def test_what_does_not_fit_is_named(build, fields, message):
    model = build(**fields)
    shape = CLIP if build is vivit else CLIP[1:]
    with pytest.raises(UserError, match=message):
        model.check(shape)
    with pytest.raises(UserError, match=message):
        model.num_tokens(shape)
