"""Attention rollout against products of whole matrices, and of attention whose rollout is known."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vjax import models
from vjax.errors import UserError
from vjax.models import rollout
from vjax.models.positions import resize_grid

SIZES = dict(num_classes=3, width=8, depth=2, num_heads=2, mlp_dim=8)
CLIP = (4, 8, 12, 3)  # A grid of 2 x 2 x 3 tubelets.
TUBELET = (2, 4, 4)
GRID = (2, 2, 3)


def attention(*shape, seed=0):
    """Random attention, far from uniform, that sums to 1 over its last axis."""
    logits = np.random.default_rng([seed, *shape]).normal(scale=3, size=shape)
    return jax.nn.softmax(jnp.asarray(logits, jnp.float32))


def sow(model, input_shape=CLIP, batch=2):
    """Intermediates of the shapes that the model sows: random attention and maps, no arithmetic."""
    video = jnp.zeros((batch, *input_shape))

    def apply():
        return model.init_with_output(jax.random.key(0), video, mutable=True)[1]

    shapes = jax.eval_shape(apply)['intermediates']
    flat, tree = jax.tree.flatten(shapes)
    return jax.tree.unflatten(tree, [attention(*s.shape, seed=i) for i, s in enumerate(flat)])


def weights_of(part):
    """The attention that a block, or scanned blocks, sowed."""
    return part['attention']['attention'][0]


def residual(matrix):
    return (np.asarray(matrix) + np.eye(len(matrix))) / 2


def layer(weights, example=0):
    """(A + I) / 2 of one example of one layer's attention [batch, heads, tokens, tokens]."""
    return residual(np.asarray(weights)[example].mean(axis=0))


def run(model, sown, input_shape=CLIP):
    return {k: np.asarray(v) for k, v in rollout.rollouts(model, sown, input_shape).items()}


def check(model, sown, expected, example=1):
    """The rollout of one of two clips."""
    found = run(model, sown)['rollout'][example]
    np.testing.assert_allclose(found, np.reshape(expected, GRID), atol=1e-6)


def test_rows_are_those_of_the_product_of_the_layers():
    weights = attention(3, 2, 4, 5, 5)
    product = layer(weights[2]) @ layer(weights[1]) @ layer(weights[0])
    for token in range(5):
        start = jnp.zeros((2, 5)).at[:, token].set(1)
        row = rollout.through_blocks(start, weights)
        np.testing.assert_allclose(row[0], product[token], atol=1e-6)
        np.testing.assert_allclose(row.sum(axis=1), 1, atol=1e-6)


@pytest.mark.parametrize('depth', [1, 4])
def test_attention_to_oneself_to_all_and_to_one(depth):
    start = jnp.array([[0.7, 0.2, 0.1, 0.0]])
    eye, left = jnp.eye(4), 2.0**-depth

    def known(matrix):
        stacked = jnp.broadcast_to(matrix, (depth, 1, 3, 4, 4))
        return rollout.through_blocks(start, stacked)

    np.testing.assert_allclose(known(eye), start, atol=1e-6)
    np.testing.assert_allclose(
        known(jnp.ones((4, 4)) / 4), left * start + (1 - left) / 4, atol=1e-6
    )
    to_last = jnp.broadcast_to(eye[3], (4, 4))
    np.testing.assert_allclose(known(to_last), left * start + (1 - left) * eye[3:], atol=1e-6)


def test_half_precision_is_summed_in_float32():
    weights = attention(6, 1, 2, 50, 50)
    start = jnp.full((1, 50), 1 / 50)
    exact = rollout.through_blocks(start, weights)
    half = rollout.through_blocks(start, weights.astype(jnp.bfloat16))
    assert half.dtype == jnp.float32
    np.testing.assert_allclose(half, exact, rtol=0.01)


@pytest.mark.parametrize('classifier', ['token', 'gap', 'map'])
def test_vivit_by_classifier(classifier):
    model = models.build('vivit', **SIZES, tubelet=TUBELET, classifier=classifier)
    sown = sow(model)
    weights = weights_of(sown['encoder']['blocks'])
    product = layer(weights[1]) @ layer(weights[0])
    num_tokens = len(product)
    start = {
        'token': np.eye(num_tokens)[0],
        'gap': np.full(num_tokens, 1 / num_tokens),
    }
    if classifier == 'map':
        start['map'] = weights_of(sown['encoder']['pool'])[0, :, 0].mean(axis=0)
    check(model, sown, (start[classifier] @ product)[-12:], example=0)


def test_an_image_has_one_index_of_time():
    model = models.build('vit', **SIZES, patch=(4, 4))
    assert run(model, sow(model, (8, 12, 3)), (8, 12, 3))['rollout'].shape == (2, 1, 2, 3)
    assert run(model, sow(model, (1, 8, 12, 3)), (1, 8, 12, 3))['rollout'].shape == (2, 1, 2, 3)


@pytest.mark.parametrize('attention_name', ['factorised_encoder', 'average_pool'])
def test_factorised_encoder_is_a_product_of_frames_and_places(attention_name):
    model = models.build(
        'vivit', **SIZES, tubelet=TUBELET, attention=attention_name, temporal_depth=1
    )
    sown = sow(model)
    frames = np.full(2, 1 / 2)
    if attention_name == 'factorised_encoder':
        temporal = weights_of(sown['temporal_encoder']['blocks'])
        frames = layer(temporal[0], example=1)[0, 1:]
    spatial = weights_of(sown['spatial_encoder']['blocks'])
    expected = []
    for t in range(2):  # Of the second video: its frames are the third and the fourth.
        example = 2 + t
        row = (layer(spatial[1], example) @ layer(spatial[0], example))[0, 1:]
        expected.append(frames[t] * row.reshape(2, 3))
    check(model, sown, expected)


def dense(weights, axis, example):
    """Attention over one axis of 2 x 6 tokens as a matrix of all to all."""
    weights = np.asarray(weights).mean(axis=1)
    whole = np.zeros((2, 6, 2, 6))
    for t in range(2):
        for s in range(6):
            if axis == 'time':
                whole[t, s, :, s] = weights[example * 6 + s, t]
            else:
                whole[t, s, t, :] = weights[example * 2 + t, s]
    return whole.reshape(12, 12)


@pytest.mark.parametrize('order', ['time_space', 'space_time'])
def test_factorised_self_attention(order):
    model = models.build(
        'vivit',
        **SIZES,
        tubelet=TUBELET,
        attention='factorised_self_attention',
        attention_order=order,
        classifier='gap',
    )
    sown = sow(model)
    blocks = sown['encoder']['blocks']
    product = np.eye(12)
    for i in range(2):
        for axis in order.split('_'):
            weights = blocks[f'{axis}_attention']['attention'][0][i]
            product = residual(dense(weights, axis, 1)) @ product
    check(model, sown, product.mean(axis=0))


def test_factorised_dot_product():
    model = models.build(
        'vivit', **SIZES, tubelet=TUBELET, attention='factorised_dot_product', classifier='gap'
    )
    sown = sow(model)
    blocks = sown['encoder']['blocks']['attention']
    product = np.eye(12)
    for i in range(2):
        halves = [dense(blocks[f'attention_{a}'][0][i], a, 1) for a in ('time', 'space')]
        product = residual(sum(halves) / 2) @ product
    check(model, sown, product.mean(axis=0))


def learned_matrix(maps, example, axis=-1):
    """[2 frames x tokens, 2 x 6 places] of TokenLearner's maps; by tokens where axis is 0."""
    whole = np.zeros((2, maps.shape[1], 2, 6))
    for t in range(2):
        own = np.asarray(maps[example * 2 + t]).reshape(-1, 6)
        whole[t, :, t] = own / own.sum(axis=axis, keepdims=True)
    return whole.reshape(-1, 12)


@pytest.mark.parametrize('fuser', [False, True])
def test_token_learner(fuser):
    model = models.build(
        'token_learner_video',
        **SIZES | {'depth': 3},
        tubelet=TUBELET,
        location=1,
        learned_tokens=4,
        fuser=fuser,
    )
    sown = sow(model)
    encoder = sown['encoder']
    product = layer(weights_of(encoder['blocks'])[0], 1)
    if fuser:
        blocks = encoder['fused_blocks']
        for i in range(2):
            learned = learned_matrix(blocks['token_learner']['token_maps'][0][i], 1)
            fused = learned_matrix(blocks['token_fuser']['fusion_maps'][0][i], 1, axis=0).T
            mixed = layer(weights_of(blocks)[i], 1)
            product = (np.eye(12) + fused @ mixed @ learned) / 2 @ product
    else:
        product = learned_matrix(encoder['token_learner']['token_maps'][0], 1) @ product
        for weights in weights_of(encoder['later_blocks']):
            product = layer(weights, 1) @ product
    check(model, sown, product.mean(axis=0))


@pytest.mark.parametrize('heads', ['average', 'compressed'])
@pytest.mark.parametrize('reuse', ['logits', 'weights'])
def test_lookupvit_is_a_product_of_matrices_of_both_streams(heads, reuse):
    model = models.build(
        'lookupvivit',
        **SIZES,
        tubelet=TUBELET,
        attention='spacetime',
        grid=(1, 2, 2),
        heads=heads,
        reuse=reuse,
    )
    sown = sow(model)
    blocks = sown['encoder']['blocks']
    of = lambda weights, i: np.asarray(weights[0][i][1]).mean(axis=0)  # noqa: E731
    resized = np.stack(
        [
            np.asarray(resize_grid(one.reshape(1, *GRID, 1), (1, 2, 2), antialias=False)).ravel()
            for one in jnp.eye(12)
        ],
        axis=1,
    )
    compressed, lookup = resized, np.eye(12)
    for i in range(2):
        infuse = np.asarray(blocks['infuse']['infuse'][0][i][1])
        infuse = (infuse / infuse.sum(axis=1, keepdims=True)).mean(axis=0).T
        compressed = (compressed + of(blocks['gather']['gather'], i) @ lookup) / 2
        compressed = residual(of(blocks['refine']['attention']['attention'], i)) @ compressed
        lookup = (lookup + infuse @ compressed) / 2
    expected = compressed.mean(axis=0)
    if heads == 'average':
        expected = (expected + lookup.mean(axis=0)) / 2
    found = run(model, sown)['rollout'][1]
    np.testing.assert_allclose(found, expected.reshape(GRID), atol=1e-6)
    assert math.isclose(found.sum(), 1, rel_tol=1e-5)


@pytest.mark.parametrize(
    'temporal_input', ['both', pytest.param('compressed', marks=pytest.mark.slow)]
)
def test_lookupvit_by_frames(temporal_input):
    model = models.build(
        'lookupvivit',
        **SIZES,
        tubelet=TUBELET,
        temporal_depth=1,
        grid=(2, 1),
        temporal_input=temporal_input,
    )
    sown = sow(model)
    frames = layer(weights_of(sown['temporal_encoder']['blocks'])[0], 1).mean(axis=0)
    alone = models.build(
        'lookupvit',
        **SIZES,
        patch=(4, 4),
        grid=(2, 1),
        heads={'both': 'summed', 'compressed': 'compressed'}[temporal_input],
    )
    places = run(alone, {'encoder': sown['spatial_encoder']}, CLIP[1:])['rollout'][2:, 0]
    found = run(model, sown)['rollout'][1]
    np.testing.assert_allclose(found, frames[:, None, None] * places, atol=1e-6)


VIEWS = dict(
    num_classes=3,
    widths=(8, 8),
    depths=(1, 3),
    num_heads=(2, 2),
    mlp_dims=(8, 8),
    tubelets=((4, 4, 6), (2, 4, 4)),
    fusion_layers=(1,),
    bottleneck_tokens=2,
    global_depth=1,
    global_num_heads=2,
    global_mlp_dim=8,
    global_width=0,
)


@pytest.mark.parametrize('classifier', ['token', pytest.param('gap', marks=pytest.mark.slow)])
@pytest.mark.parametrize('descending', [True, False])
def test_mtv_with_cross_view_attention(descending, classifier):
    """One clip of 4 frames: one slice, in which the first view has 1 index of time, the second 2."""
    model = models.build('mtv', **VIEWS, fuse_in_descending_order=descending, classifier=classifier)
    sown = sow(model, batch=2)
    extra = int(classifier == 'token')
    sizes = [4 + extra, 2 * (6 + extra)]
    first, second = np.split(np.eye(sum(sizes)), sizes[:1])

    def block(i, name, k):
        return layer(weights_of(sown[f'view_{i}'][name])[k], 1)

    first, second = block(0, 'blocks_0', 0) @ first, block(1, 'blocks_0', 0) @ second
    query, key = (0, 1) if descending else (1, 0)
    across = np.asarray(sown['fusion_1'][f'attention_{query}_{key}']['attention'][0][1]).mean(
        axis=0
    )
    if descending:
        first = (first + across @ second) / 2
    else:
        second = (second + across @ first) / 2
    second = block(1, 'blocks_1', 1) @ block(1, 'blocks_1', 0) @ second

    second = second.reshape(2, 6 + extra, -1)
    vectors = [x[..., 0, :] if extra else x.mean(axis=-2) for x in (first[None], second)]
    merged = (vectors[0].repeat(2, axis=0) + vectors[1]) / 2
    encode = layer(weights_of(sown['global_encoder']['blocks'])[0], 1)
    row = encode[0, 1:] @ merged if extra else encode.mean(axis=0) @ merged
    first, second = np.split(row, sizes[:1])
    found = run(model, sown)
    np.testing.assert_allclose(found['view_0'][1].ravel(), first[extra:], atol=1e-6)
    second = second.reshape(2, -1)[:, extra:].reshape(GRID)
    np.testing.assert_allclose(found['view_1'][1], second, atol=1e-6)


@pytest.mark.parametrize('descending', [True, False])
def test_mtv_with_bottleneck(descending):
    """The bottleneck visits the second view and then the first, or the other way round."""
    model = models.build(
        'mtv',
        **VIEWS | {'depths': (2, 3)},
        fusion='bottleneck',
        fuse_in_descending_order=descending,
        classifier='gap',
    )
    sown = sow(model)
    state = list(np.split(np.eye(18), [4, 16]))  # Two views and the bottleneck.

    def block(i, name, k=0):
        return layer(weights_of(sown[f'view_{i}'][name])[k], 1)

    for i in (0, 1):
        state[i] = block(i, 'blocks_0') @ state[i]
    for i in (1, 0) if descending else (0, 1):
        both = block(i, 'blocks_1') @ np.concatenate([state[i], state[2]])
        state[i], state[2] = both[:-2], both[-2:]
    state[1] = block(1, 'blocks_2') @ state[1]
    vectors = state[0].mean(axis=0)[None].repeat(2, axis=0), state[1].reshape(2, 6, -1).mean(axis=1)
    encode = layer(weights_of(sown['global_encoder']['blocks'])[0], 1)
    row = encode.mean(axis=0) @ (sum(vectors) / 2)
    found = run(model, sown)
    np.testing.assert_allclose(found['view_0'][1].ravel(), row[:4], atol=1e-6)
    np.testing.assert_allclose(found['view_1'][1].ravel(), row[4:16], atol=1e-6)


def test_mtv_merged_over_time():
    """Merged over time, each view's weight is that of its own places in the sequence."""
    model = models.build(
        'mtv',
        **VIEWS | {'global_width': 8, 'global_depth': 1},
        merge='time',
        fusion='none',
        classifier='gap',
    )
    sown = sow(model)
    encode = layer(weights_of(sown['global_encoder']['blocks'])[0], 1)
    times = encode.mean(axis=0)
    found = run(model, sown)
    np.testing.assert_allclose(found['view_0'][1].sum(), times[0], atol=1e-6)
    np.testing.assert_allclose(found['view_1'][1].sum(), times[1:].sum(), atol=1e-6)


@pytest.mark.parametrize('classifier', ['gap', 'map'])
def test_videoprism(classifier):
    model = models.build(
        'videoprism',
        **SIZES,
        tubelet=TUBELET,
        temporal_depth=1,
        auxiliary_depth=1,
        classifier=classifier,
        pool_width=8,
    )
    sown = sow(model)
    spatial, temporal, auxiliary = (
        weights_of(sown[f'{name}_encoder']['blocks'])
        for name in ('spatial', 'temporal', 'auxiliary')
    )
    product = np.eye(12)
    for weights in spatial:
        product = residual(dense(weights, 'space', 1)) @ product
    product = residual(dense(temporal[0], 'time', 1)) @ product
    product = layer(auxiliary[0], 1) @ product
    start = np.full(12, 1 / 12)
    if classifier == 'map':
        start = weights_of(sown['head']['pool'])[1, :, 0].mean(axis=0)
    check(model, sown, start @ product)


def test_a_probe_reads_all_tokens_of_its_encoder():
    encoder = models.build('vivit', **SIZES, tubelet=TUBELET)
    model = models.build('probe', num_classes=3, encoder=encoder, num_heads=2, mlp_dim=8, depth=2)
    sown = sow(model)
    row = weights_of(sown['pool'])[1, :, 0].mean(axis=0)
    row = row @ layer(weights_of(sown['blocks'])[0], 1)
    inner = weights_of(sown['encoder']['encoder']['blocks'])
    row = row @ layer(inner[1], 1) @ layer(inner[0], 1)
    check(model, sown, row[1:])


def test_an_unknown_model_is_refused():
    with pytest.raises(UserError, match='a Dense looks at is not known'):
        rollout.rollouts(nn.Dense(3), {}, CLIP)
