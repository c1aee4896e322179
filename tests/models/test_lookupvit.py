"""LookupViT and LookupViViT: costs of the reading that is implemented, and its properties.

There are no official code and weights to compare with.
"""

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
from vjax.models.lookupvit import LookupBlock, LookupEncoder, LookupViT, LookupViViT

SIZES = {'num_classes': 5, 'width': 8, 'depth': 2, 'num_heads': 2, 'mlp_dim': 12, 'grid': (2, 3)}
IMAGE, CLIP = (16, 16, 3), (8, 16, 16, 3)
MODELS = {  # Lookup grids: 4 x 4, three times; 4 x 4 x 4.
    'image': lambda **fields: LookupViT(**SIZES | {'patch': (4, 4)} | fields),
    'factorised': lambda **fields: LookupViViT(
        **SIZES | {'tubelet': (2, 4, 4), 'temporal_depth': 2} | fields
    ),
    'spacetime': lambda **fields: LookupViViT(
        **SIZES | {'tubelet': (2, 4, 4), 'attention': 'spacetime', 'grid': (2, 2, 3)} | fields
    ),
}


def random(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def examples(kind, batch=2):
    return random(batch, *(IMAGE if kind == 'image' else CLIP))


def apply(module, params, *inputs, **kwargs):
    """The module's output, compiled as a whole: faster than op by op."""
    return jax.jit(functools.partial(module.apply, **kwargs))({'params': params}, *inputs)


def leaves(tree):
    paths = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(k, simple=True, separator='/'): v for k, v in paths}


# Costs.

SLOW = pytest.mark.slow
# Parameters with 1000 classes, and multiply-adds (billions) by compressed grid, as another
# implementation of this reading counts them: not numbers of the paper.
TABLE = [
    ('B/16', 224, 137_024_720, {3: 6.70, 5: 8.50, 7: 11.23, 10: 17.09}),
    pytest.param('L/16', 224, 481_893_328, {3: 23.49, 5: 29.81, 7: 39.34, 10: 59.77}, marks=SLOW),
    pytest.param('B/16', 384, 137_316_560, {3: 17.83, 5: 19.80, 7: 22.79, 10: 29.20}, marks=SLOW),
    pytest.param('L/16', 384, 482_282_448, {3: 62.42, 5: 69.20, 7: 79.42, 10: 101.32}, marks=SLOW),
]


@pytest.mark.parametrize(('variant', 'pixels', 'params', 'gflops'), TABLE)
def test_costs_of_images(variant, pixels, params, gflops):
    model = models.build('lookupvit', num_classes=1000, **variants.image(variant))
    image = (pixels, pixels, 3)
    for side, expected in gflops.items():
        sized = model.clone(grid=(side, side))
        assert costs.count_params(costs.param_shapes(sized, image)) == params
        # The table divides the shared logits by sqrt(D / H), where `Attention` divides the queries.
        scaling = model.depth * model.num_heads * sized.num_tokens(image) * side**2 / 2e9
        assert costs.gflops(sized, image) + scaling == pytest.approx(expected, abs=0.005)


@pytest.mark.parametrize(
    ('attention', 'billions'),
    [
        ('factorised_encoder', {(3, 3): 109, (5, 5): 138, (7, 7): 181, (10, 10): 275}),
        ('spacetime', {(16, 5, 5): 173, (16, 7, 7): 255, (8, 7, 7): 171}),
    ],
)
def test_costs_of_videos(attention, billions):
    """Matrix products alone: these figures were derived by hand, to three digits."""
    model = models.build('lookupvivit', num_classes=400, **variants.video('B/16x2'))
    for grid, expected in billions.items():
        sized = model.clone(attention=attention, grid=grid)
        counted = costs.matrix_products(sized, (32, 224, 224, 3)) / 1e9
        assert counted == pytest.approx(expected, rel=3e-3)


@pytest.mark.parametrize(
    ('n', 'm', 'd', 'reading'),
    [
        (196, 25, 768, {}),
        (64, 64, 32, {}),
        (7, 3, 8, {}),
        (7, 3, 8, {'infusion_projection': False, 'lookup_mlp_ratio': 1.0}),
    ],
)
def test_a_blocks_multiply_adds_are_exactly_the_formula(n, m, d, reading):
    block = LookupBlock(4, 4 * d, **reading)

    streams = tuple(jax.ShapeDtypeStruct((1, length, d), jnp.float32) for length in (m, n))
    formula = (3 * n * m + 2 * m**2) * d + (4 * n + 15 * m) * d**2
    variables = jax.eval_shape(
        functools.partial(block.init, train=False), jax.random.key(0), streams, None
    )
    forward = functools.partial(block.apply, train=False)
    jaxpr = jax.make_jaxpr(forward)(variables, streams, None).jaxpr
    assert costs.multiply_adds(jaxpr) == formula


# The block.


def layer_norm(x, params):
    x = x - x.mean(axis=-1, keepdims=True)
    return (
        x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + 1e-6) * params['scale'] + params['bias']
    )


def softmax(x, axis):
    x = np.exp(x - x.max(axis=axis, keepdims=True))
    return x / x.sum(axis=axis, keepdims=True)


def heads(x, params):
    return np.einsum('btd,dhk->bthk', x, params['kernel']) + params['bias']


def merge(x, params):
    return np.einsum('bthk,hkd->btd', x, params['kernel']) + params['bias']


def mlp(x, params):
    x = x @ params['up']['kernel'] + params['up']['bias']
    x = 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
    return x @ params['down']['kernel'] + params['down']['bias']


def block_in_numpy(compressed, lookup, p, reuse='logits', **options):
    """The block as its specification reads, in float64."""
    gather, refine, infuse = p['gather'], p['refine'], p['infuse']
    from_compressed = layer_norm(compressed, p['gather_compressed_norm'])
    from_lookup = layer_norm(lookup, p['gather_lookup_norm'])
    query, key = heads(from_compressed, gather['query']), heads(from_lookup, gather['key'])
    if options.get('qk_norm'):
        query, key = layer_norm(query, gather['query_norm']), layer_norm(key, gather['key_norm'])
    logits = np.einsum('bmhk,bnhk->bhmn', query, key) / np.sqrt(query.shape[-1])
    weights = softmax(logits, axis=-1)
    value = heads(from_lookup, gather['value'])
    compressed = compressed + merge(np.einsum('bhmn,bnhk->bmhk', weights, value), gather['out'])

    x, attention = layer_norm(compressed, refine['attention_norm']), refine['attention']
    query, key, value = (heads(x, attention[name]) for name in ('query', 'key', 'value'))
    own = softmax(np.einsum('bqhk,bmhk->bhqm', query, key) / np.sqrt(query.shape[-1]), axis=-1)
    compressed = compressed + merge(np.einsum('bhqm,bmhk->bqhk', own, value), attention['out'])
    compressed = compressed + mlp(layer_norm(compressed, refine['mlp_norm']), refine['mlp'])

    if reuse == 'logits':
        weights = softmax(np.swapaxes(logits, 2, 3), axis=-1)
    else:
        weights = np.swapaxes(weights, 2, 3)
    value = heads(layer_norm(compressed, p['infuse_norm']), infuse['value'])
    y = np.einsum('bhnm,bmhk->bnhk', weights, value)
    if options.get('infusion_projection', True):
        y = merge(y, infuse['out'])
    lookup = lookup + y.reshape(lookup.shape)
    if options.get('lookup_norm'):
        lookup = layer_norm(lookup, p['infused_norm'])
    return compressed, lookup + mlp(layer_norm(lookup, p['lookup_mlp_norm']), p['lookup_mlp'])


@pytest.mark.parametrize(
    'options',
    [
        {},
        {'reuse': 'weights', 'lookup_norm': True},
        {'qk_norm': True, 'infusion_projection': False, 'lookup_mlp_ratio': 1.0},
    ],
    ids=str,
)
def test_a_block_is_its_specification(options, random_params):
    block, streams = LookupBlock(2, 12, **options), (random(2, 3, 8), random(2, 7, 8, seed=1))
    params = random_params(block, streams, None, train=False, scale=0.7)
    hidden = round(options.get('lookup_mlp_ratio', 0.5) * 8)
    assert params['lookup_mlp']['up']['kernel'].shape == (8, hidden)
    (compressed, lookup), state = apply(
        block, params, streams, None, train=False, mutable='intermediates'
    )
    doubled = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), (*streams, params))
    expected = block_in_numpy(*doubled, **options)
    np.testing.assert_allclose(compressed, expected[0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(lookup, expected[1], rtol=1e-4, atol=1e-5)

    (gather,), (infuse,) = (state['intermediates'][name][name] for name in ('gather', 'infuse'))
    assert gather.shape == infuse.shape == (2, 2, 3, 7)  # batch, heads, compressed, lookup
    np.testing.assert_allclose(gather.sum(axis=3), 1, atol=1e-5)
    if options.get('reuse') == 'weights':
        np.testing.assert_array_equal(infuse, gather)
    else:
        np.testing.assert_allclose(infuse.sum(axis=2), 1, atol=1e-5)


def test_the_block_is_equivariant_to_the_order_of_either_stream(random_params):
    block, compressed, lookup = LookupBlock(2, 12), random(2, 5, 8), random(2, 9, 8, seed=1)
    params = random_params(block, (compressed, lookup), None, train=False)
    run = jax.jit(lambda *streams: block.apply({'params': params}, streams, None, train=False))
    rng = np.random.default_rng(0)
    shuffled, permuted = rng.permutation(5), rng.permutation(9)
    expected = run(compressed, lookup)
    for order, other in ((np.arange(5), permuted), (shuffled, np.arange(9))):
        out = run(compressed[:, order], lookup[:, other])
        np.testing.assert_allclose(out[0], expected[0][:, order], atol=1e-5)
        np.testing.assert_allclose(out[1], expected[1][:, other], atol=1e-5)
    assert np.abs(expected[0] - expected[0][:, shuffled]).max() > 0.1
    assert np.abs(expected[1] - expected[1][:, permuted]).max() > 0.1


# The encoder.


def interpolation(size, new):
    """Linear interpolation between the nearest two of `size` cells, as a matrix [new, size]."""
    at = np.clip((np.arange(new) + 0.5) * size / new - 0.5, 0, size - 1)
    return np.maximum(0, 1 - np.abs(at[:, None] - np.arange(size)))


@pytest.mark.parametrize(
    ('shape', 'grid', 'positions'),
    [((9, 4), (2, 3), 'learned'), ((3, 9, 4), (2, 2, 3), 'sincos')],
)
def test_compressed_tokens_start_as_the_resized_lookup_tokens(
    shape, grid, positions, random_params
):
    width = 8 if len(shape) == 2 else 6
    features = random(2, *shape, width)
    encoder = LookupEncoder(depth=0, num_heads=2, mlp_dim=12, positions=positions)
    params = random_params(encoder, features, grid, train=False)
    for name in ('norm', 'compressed_norm'):
        params[name] = {'scale': np.ones(width, 'f'), 'bias': np.zeros(width, 'f')}
    run = functools.partial(encoder.apply, {'params': params}, train=False)

    compressed, lookup = run(features, shape)
    np.testing.assert_array_equal(compressed, lookup)

    table = layers.PositionEmbedding(positions).apply(
        {'params': params.get('position_embedding', {})}, shape, width
    )
    tokens = np.asarray(features + table.reshape(1, *shape, width))
    for axis, (size, new) in enumerate(zip(shape, grid, strict=True), start=1):
        tokens = np.moveaxis(np.tensordot(interpolation(size, new), tokens, (1, axis)), 0, axis)
    expected = layer_norm(tokens.reshape(2, -1, width), params['norm'])
    np.testing.assert_allclose(run(features, grid)[0], expected, atol=1e-4)
    np.testing.assert_array_equal(run(features, grid)[1], lookup)
    antialiased = encoder.clone(antialias=True).apply(
        {'params': params}, features, grid, train=False
    )
    assert np.abs(antialiased[0] - expected).max() > 0.01


def test_unrolling_changes_nothing(random_params):
    model, image = MODELS['image'](), examples('image')
    params = random_params(model, image)
    unrolled = apply(model.clone(unroll=True), params, image)
    np.testing.assert_allclose(unrolled, apply(model, params, image), atol=1e-5)


def test_stochastic_depth_drops_the_five_branches_independently(random_params):
    encoder = LookupEncoder(depth=3, num_heads=1, mlp_dim=4, stochastic_depth=0.6)
    features = random(1024, 2, 2, 4)
    _, state = apply(
        encoder,
        random_params(encoder, features, (1, 2), train=False),
        features,
        grid=(1, 2),
        train=True,
        rngs={'dropout': jax.random.key(1)},
        capture_intermediates=lambda module, _: isinstance(module, layers.DropPath),
        mutable='intermediates',
    )
    branches = [
        (np.asarray(leaf) == 0).all(axis=(2, 3))
        for name, leaf in leaves(state['intermediates']['blocks']).items()
        if 'DropPath' in name
    ]
    assert len(branches) == 5
    for i, branch in enumerate(branches):
        np.testing.assert_allclose(branch.mean(axis=1), [0, 0.3, 0.6], atol=0.07)
        for other in branches[:i]:
            both = (branch & other).mean(axis=1)
            np.testing.assert_allclose(both, [0, 0.09, 0.36], atol=0.07)


# The models.


@pytest.mark.parametrize(
    'kind', ['image', *(pytest.param(kind, marks=SLOW) for kind in ('factorised', 'spacetime'))]
)
def test_gives_the_same_logits_and_maps_with_and_without_a_mesh(kind, random_params):
    model, batch = MODELS[kind](), examples(kind, batch=8)
    params = random_params(model, batch, scale=1)
    logits, state = apply(model, params, batch, mutable='intermediates')
    assert logits.shape == (8, 5)
    assert logits.dtype == jnp.float32
    assert np.std(logits, axis=0).min() > 0.01  # Examples are told apart.
    merged, compressed, lookup = {
        'image': (8, 6, 16),
        'factorised': (32, 6, 16),
        'spacetime': (8, 12, 64),
    }[kind]
    encoder = 'spatial_encoder' if kind == 'factorised' else 'encoder'
    sown = state['intermediates'][encoder]
    assert sown['compressed_tokens'][0].shape == (merged, compressed, 8)
    assert sown['tokens'][0].shape == (merged, lookup, 8)
    for name in ('gather', 'infuse'):
        (weights,) = sown['blocks'][name][name]
        assert weights.shape == (2, merged, 2, compressed, lookup)
    assert model.num_tokens(batch.shape[1:]) == lookup * merged // 8

    mesh = jax.make_mesh((4, 2), ('data', 'fsdp'), axis_types=(AxisType.Auto,) * 2)
    with jax.set_mesh(mesh):
        sharded = apply(model, params, jax.device_put(batch, PartitionSpec(('data', 'fsdp'))))
    assert len(sharded.sharding.device_set) == 8
    np.testing.assert_allclose(sharded, logits, atol=1e-5)


@pytest.mark.parametrize('kind', ['image', pytest.param('spacetime', marks=SLOW)])
def test_one_set_of_parameters_serves_every_grid(kind, random_params):
    model, batch = MODELS[kind](), examples(kind)
    params = random_params(model, batch)
    shapes = jax.tree.map(jnp.shape, params)
    time = (2,) if kind == 'spacetime' else ()
    logits = [apply(model, params, batch, grid=(*time, side, side)) for side in (2, 4)]
    assert np.abs(logits[0] - logits[1]).max() > 1e-3
    other = model.clone(grid=(*time, 2, 2))
    assert jax.tree.map(jnp.shape, random_params(other, batch)) == shapes
    np.testing.assert_array_equal(apply(other, params, batch), logits[0])


@pytest.mark.parametrize(
    ('kind', 'fields'),
    [
        ('image', {}),
        pytest.param('image', {'heads': 'compressed'}, marks=pytest.mark.slow),
        pytest.param('factorised', {'temporal_depth': 1}, marks=SLOW),
        pytest.param(
            'factorised', {'temporal_depth': 1, 'temporal_input': 'compressed'}, marks=SLOW
        ),
        pytest.param('spacetime', {}, marks=SLOW),
    ],
)
def test_gradients_reach_every_parameter_that_is_read(kind, fields, random_params):
    model, batch = MODELS[kind](**fields), examples(kind)
    params = random_params(model, batch)
    labels = jax.nn.one_hot(jnp.arange(2), 5)
    loss = lambda params: (model.apply({'params': params}, batch) * labels).sum()  # noqa: E731
    unreached = set()
    for name, gradient in leaves(jax.jit(jax.grad(loss))(params)).items():
        layered = gradient if '/blocks/' in name else gradient[None]
        small = [i for i, layer in enumerate(layered) if np.abs(layer).max() < 1e-7]
        # A softmax over the keys does not see what it adds to the logits of all of them.
        if small and not name.endswith('/attention/key/bias'):
            unreached |= {(name.split('/', 1)[1], *small)}

    read_whole = 'compressed' not in fields.values()
    last_only = [name for name, *layers in unreached if layers == [1]]
    assert len(unreached) == (0 if read_whole else len(last_only) + 2)
    if not read_whole:  # Of lookup tokens, nobody reads what the last block and the norm make.
        assert {('norm/scale', 0), ('norm/bias', 0)} < unreached
        assert {name.split('/')[1] for name in last_only} == {
            'gather',  # Its key's bias: only infusion, over compressed tokens, sees that.
            'infuse',
            'infuse_norm',
            'lookup_mlp',
            'lookup_mlp_norm',
        }
        assert [name for name in last_only if '/gather/' in name] == ['blocks/gather/key/bias']


def test_the_heads(random_params):
    model, image = MODELS['image'](representation_size=7), examples('image')
    params = random_params(model, image, scale=0.5)
    logits, state = apply(model, params, image, mutable=['head_logits', 'intermediates'])
    (sown,) = state['head_logits']['logits']
    assert sown.shape == (2, 2, 5)  # heads, batch, classes
    assert np.abs(sown[0] - sown[1]).max() > 1e-2
    np.testing.assert_allclose(logits, sown.mean(axis=0), atol=1e-6)

    # Each is a linear classifier of the mean of its stream.
    for name, tokens, of_head in zip(
        ('compressed', 'lookup'), ('compressed_tokens', 'tokens'), sown, strict=True
    ):
        mean = state['intermediates']['encoder'][tokens][0].mean(axis=1)
        expected = layers.Head(5, 7).apply({'params': params['head'][name]}, mean)
        np.testing.assert_allclose(of_head, expected, atol=1e-5)

    # Training without any rate changes nothing.
    np.testing.assert_array_equal(apply(model, params, image, train=True), logits)

    # The compressed head alone needs no other parameters; neither does it sow.
    alone = model.clone(heads='compressed')
    out, state = apply(alone, params, image, mutable='head_logits')
    np.testing.assert_allclose(out, sown[0], atol=1e-6)
    assert not state

    assert set(jax.eval_shape(model.init, jax.random.key(0), image)) == {'params'}


def test_the_factorised_encoder_composes_the_image_and_a_sequence_encoder(random_params):
    model, video = MODELS['factorised'](temporal_depth=1), examples('factorised')
    params = random_params(model, video, scale=0.5)
    logits, state = apply(model, params, video, mutable=['intermediates', 'head_logits'])
    assert 'head_logits' not in state

    # Frame by frame through the image's encoder, with a tubelet's own embedding.
    tubelets = einops.rearrange(video, 'b (t p) h w c -> (b t) p h w c', p=2)
    embedding = layers.PatchEmbedding(8, (2, 4, 4))
    features = embedding.apply({'params': params['embedding']}, tubelets)[:, 0]
    encoder = LookupEncoder(depth=2, num_heads=2, mlp_dim=12)
    streams = apply(encoder, params['spatial_encoder'], features, grid=(2, 3), train=False)
    compressed, lookup = (x.mean(axis=1).reshape(2, 4, 8) for x in streams)
    temporal = layers.Encoder(depth=1, num_heads=2, mlp_dim=12, classifier='gap')
    for vectors, out in (
        ((compressed + lookup) / 2, logits),
        (compressed, apply(model.clone(temporal_input='compressed'), params, video)),
    ):
        encoded = apply(temporal, params['temporal_encoder'], vectors, train=False)
        expected = layers.Head(5).apply({'params': params['head']}, encoded)
        np.testing.assert_allclose(out, expected, atol=1e-5)


def test_bfloat16_is_for_the_blocks_alone(random_params):
    model, image = MODELS['image'](dtype='bfloat16', qk_norm=True, depth=1), examples('image')
    params = random_params(model, image)
    logits, state = apply(model, params, image, mutable='intermediates')
    assert logits.dtype == jnp.float32
    encoder = state['intermediates']['encoder']
    assert encoder['blocks']['infuse']['infuse'][0].dtype == jnp.bfloat16
    assert encoder['tokens'][0].dtype == jnp.float32
    error = np.abs(logits - apply(model.clone(dtype='float32'), params, image)).max()
    assert 1e-5 < error < 0.05  # It did compute in bfloat16, and not wrongly.


def test_learned_compressed_positions_belong_to_one_grid(random_params):
    model, image = MODELS['image'](compressed_positions='learned'), examples('image')
    params = random_params(model, image)
    table = params['encoder']['compressed_position_embedding']['table']
    assert table.shape == (1, 6, 8)
    changed = jax.tree.map(np.copy, params)
    changed['encoder']['compressed_position_embedding']['table'] += random(1, 6, 8)
    assert np.abs(apply(model, params, image) - apply(model, changed, image)).max() > 1e-3
    with pytest.raises(UserError, match=r'are those of grid=\(2, 3\), not of \(3, 3\)'):
        model.apply({'params': params}, image, grid=(3, 3))


@pytest.mark.parametrize(
    ('kind', 'fields', 'message'),
    [
        (
            'image',
            {'grid': (2, 2, 2)},
            r'grid=\(2, 2, 2\) should be height, width, each at least 1',
        ),
        ('image', {'grid': (0, 2)}, r'grid=\(0, 2\) should be height, width, each at least 1'),
        (
            'image',
            {'grid': (5, 2)},
            r'grid=\(5, 2\) exceeds the grid of the lookup tokens, \(4, 4\)',
        ),
        ('factorised', {'grid': (2, 2, 2)}, r'grid=\(2, 2, 2\) should be height, width, '),
        ('spacetime', {'grid': (2, 2)}, r'grid=\(2, 2\) should be time, height, width, '),
        ('spacetime', {'grid': (5, 2, 2)}, r'exceeds the grid of the lookup tokens, \(4, 4, 4\)'),
        ('image', {'classifier': 'token'}, 'has no class token.*use classifier="gap"'),
        ('image', {'reuse': 'logit'}, "reuse='logit' is not one of logits, weights; did you mean"),
        ('image', {'heads': 'mean'}, "heads='mean' is not one of average, compressed, summed"),
        ('image', {'compressed_positions': 'no'}, 'is not one of resized, learned'),
        ('image', {'lookup_mlp_ratio': 0.01}, 'leaves no units of width=8'),
        ('image', {'num_heads': 3}, 'num_heads=3 does not divide width=8'),
        ('factorised', {'temporal_input': 'lookup'}, 'is not one of compressed, both'),
        (
            'factorised',
            {'attention': 'factorised_self_attention'},
            'is not one of factorised_encoder, spacetime',
        ),
    ],
)
def test_what_does_not_fit_is_named(kind, fields, message):
    model, batch = MODELS[kind](**fields), examples(kind)
    with pytest.raises(UserError, match=message):
        model.check(batch.shape[1:])
    with pytest.raises(UserError, match=message):
        model.num_tokens(batch.shape[1:])


def test_a_calls_grid_is_checked_too():
    model = MODELS['image']()
    model.check(IMAGE, (4, 4))
    with pytest.raises(UserError, match=r'grid=\(4, 5\) exceeds'):
        model.check(IMAGE, (4, 5))
    with pytest.raises(UserError, match=r'grid=\(4, 5\) exceeds'):
        model.apply({'params': {}}, examples('image'), grid=(4, 5))
