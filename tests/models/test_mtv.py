"""MTV: costs as measured on the original, and what makes it what it is. Parity is in tests/weights."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from vjax import models
from vjax.errors import UserError
from vjax.models import costs, layers, mtv, mtv_view, variants
from vjax.models.mtv import MTV

SHAPE = (8, 8, 12, 3)  # Two by two by three tubelets in the first view, four times in the second.
CLIP = (32, 224, 224, 3)
KEY = {'cross_view_width': 'key'}
MTV_B, MTV_L = 'B/2+S/4+Ti/8', 'L/2+B/4+S/8+Ti/16'

# Variant, fields, side of the clip, GFLOPs, parameters: measured on Scenic's models, as printed. With
# the keys' width the GFLOPs are the paper's.
COSTS = [
    (MTV_B, {}, 224, 376.6, 304_270_864),
    (MTV_B, KEY, 224, 384.0, 306_486_160),
    (MTV_B, {'fusion': 'bottleneck', 'bottleneck_tokens': 4}, 224, 369.6, 302.95e6),
    (MTV_B, {'fusion': 'none'}, 224, 369.2, 302.05e6),
    ('B/2+Ti/8', {}, 224, 329.1, 209.26e6),
    ('B/2+Ti/8', KEY, 224, 336.5, 211.47e6),
    ('B/4+S/8+Ti/16', {}, 224, 191.6, 307.79e6),
    ('B/4+S/8+Ti/16', KEY, 224, 195.3, 310.01e6),
    ('B/4+S/8+Ti/16', {'fusion': 'bottleneck'}, 224, 188.1, 306.46e6),
    ('B/4+S/8+Ti/16', {'fusion': 'none'}, 224, 187.9, 305.57e6),
    ('B/4', {}, 224, 144.6, 172.94e6),
    ('B/8+Ti/2', KEY, 224, 106.6, 211.9e6),
    ('B/8+S/4+Ti/2', KEY, 224, 152.0, 306.9e6),
    (MTV_B, {}, 320, 879.7, 304.5e6),
    (MTV_B, KEY, 320, 899.4, 306.8e6),
    (MTV_L, {'fusion_layers': (11, 23)}, 224, 1425.9, 875_908_752),
    (MTV_L, {'fusion_layers': (11, 23), **KEY}, 224, 1436.8, 879.96e6),
]
FAST = {(MTV_B, 384.0), ('B/4', 144.6)}
COSTS = [
    row if (row[0], row[3]) in FAST else pytest.param(*row, marks=pytest.mark.slow) for row in COSTS
]


def model(**fields):
    sizes = {'num_classes': 5, 'widths': (8, 12), 'depths': (1, 2), 'num_heads': (2, 3)}
    sizes |= {'mlp_dims': (12, 16), 'tubelets': ((4, 4, 4), (1, 4, 4)), 'fusion_layers': (0, 1)}
    sizes |= {'global_depth': 1, 'global_num_heads': 4, 'global_mlp_dim': 24}
    return MTV(**{**sizes, **fields})


def clips(batch=8, shape=SHAPE, seed=0):
    return jnp.asarray(np.random.default_rng(seed).uniform(-1, 1, (batch, *shape)), 'float32')


def apply(model, params, video, **kwargs):
    return jax.jit(functools.partial(model.apply, **kwargs))({'params': params}, video)


def paths(tree):
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator='/'): leaf for path, leaf in leaves}


@pytest.mark.parametrize(('variant', 'fields', 'side', 'gflops', 'params'), COSTS)
def test_costs(variant, fields, side, gflops, params):
    mtv = models.build('mtv', num_classes=400, **variants.views(variant), **fields)
    clip = (32, side, side, 3)
    count = costs.count_params(costs.param_shapes(mtv, clip))
    # Where the source rounds to 10 or 100 thousand, so does this.
    assert count == params if isinstance(params, int) else abs(count - params) <= 5e4
    assert costs.gflops(mtv, clip) == pytest.approx(gflops, rel=1e-3)


@pytest.mark.parametrize(
    'fields',
    [
        pytest.param({}, id='cross_view_attention', marks=pytest.mark.slow),
        pytest.param(
            {'fusion': 'bottleneck', 'merge': 'time', 'global_width': 8, 'classifier': 'map'},
            id='bottleneck_merge_over_time',
        ),
    ],
)
def test_gives_the_same_logits_with_and_without_a_mesh(fields, random_params):
    mtv, video = model(**fields), clips()
    params = random_params(mtv, video, scale=0.5)
    logits = apply(mtv, params, video)
    assert logits.shape == (8, 5)
    assert logits.dtype == jnp.float32
    assert np.std(logits, axis=0).min() > 0.01  # Clips are told apart.

    mesh = jax.make_mesh((4, 2), ('data', 'fsdp'), axis_types=(AxisType.Auto,) * 2)
    with jax.set_mesh(mesh):
        sharded = apply(mtv, params, jax.device_put(video, PartitionSpec(('data', 'fsdp'))))
    assert len(sharded.sharding.device_set) == 8
    np.testing.assert_allclose(sharded, logits, atol=1e-5)


def test_sows_attention_maps_and_tokens(random_params):
    mtv, video = model(depths=(2, 3), fusion_layers=(1, 2)), clips(batch=2)
    assert mtv.num_tokens(SHAPE) == 2 * 6 + 8 * 6
    variables = {'params': random_params(mtv, video)}
    run = functools.partial(mtv.apply, mutable='intermediates')
    sown = paths(jax.eval_shape(run, variables, video)[1]['intermediates'])
    assert {name.removesuffix('/0'): leaf.shape for name, leaf in sown.items()} == {
        # Depth, batch * slices, heads, queries, keys; every slice has one time of 7 or four of 7.
        'view_0/blocks_0/attention/attention': (1, 4, 2, 7, 7),
        'view_0/blocks_1/attention/attention': (1, 4, 2, 7, 7),
        'view_1/blocks_0/attention/attention': (1, 4, 3, 28, 28),
        'view_1/blocks_1/attention/attention': (1, 4, 3, 28, 28),
        'view_1/blocks_2/attention/attention': (1, 4, 3, 28, 28),
        'fusion_1/attention_0_1/attention': (4, 2, 7, 28),
        'fusion_2/attention_0_1/attention': (4, 2, 7, 28),
        'view_0/tokens': (2, 2, 7, 8),
        'view_1/tokens': (2, 8, 7, 12),
        'global_encoder/blocks/attention/attention': (1, 2, 4, 9, 9),
        'global_encoder/tokens': (2, 9, 20),
    }


@pytest.mark.parametrize(
    ('fields', 'params', 'shape'),
    [
        ({}, 'fusion_1/attention_0_1/key/kernel', (12, 2, 4)),
        (KEY, 'fusion_1/attention_0_1/key/kernel', (12, 3, 4)),
        ({'fuse_in_descending_order': False}, 'fusion_1/attention_1_0/query/kernel', (12, 3, 4)),
        (
            {'fuse_in_descending_order': False, **KEY},
            'fusion_1/attention_1_0/out/kernel',
            (2, 4, 12),
        ),
        ({'fusion': 'bottleneck'}, 'fusion_0_to_view_0/kernel', (12, 8)),
        ({'fusion': 'bottleneck'}, 'bottleneck/table', (1, 2, 4, 12)),
        ({'merge': 'time', 'global_width': 16}, 'view_1_to_global/kernel', (12, 16)),
        ({}, 'view_1/class_token/table', (1, 8, 1, 12)),
        ({}, 'view_0/position_embedding/table', (1, 7, 8)),
    ],
)
def test_parameters_of_what_views_share(fields, params, shape):
    assert paths(costs.param_shapes(model(**fields), SHAPE))[params].shape == shape


def test_fusion_by_attention_starts_as_the_identity():
    attention = mtv.CrossViewAttention((2, 3), 'query', True, 0.0, 0.0, 'float32')
    rng = np.random.default_rng(0)
    tokens = [jnp.asarray(rng.normal(size=(2, n, d)), 'float32') for n, d in ((7, 8), (28, 12))]

    @jax.jit
    def fuse(key):
        fused, variables = attention.init_with_output(key, tokens, [None, None], train=False)
        params = jax.tree.map(lambda leaf: leaf + 0.1, variables)
        return fused, attention.apply(params, tokens, [None, None], train=False)

    fresh, trained = fuse(jax.random.key(0))
    for i in range(2):
        np.testing.assert_array_equal(fresh[i], tokens[i])
        assert (np.abs(trained[i] - tokens[i]).max() > 1e-2) == (i == 0)  # The query alone.


@pytest.mark.parametrize(
    'fields',
    [
        pytest.param({}, id='cross_view_attention', marks=pytest.mark.slow),
        pytest.param(
            {'fusion': 'bottleneck', 'merge': 'time', 'global_width': 16},
            id='bottleneck_merge_over_time',
        ),
    ],
)
def test_gradients_reach_every_parameter(fields, random_params):
    mtv, video = model(**fields), clips(batch=2)
    params = random_params(mtv, video)

    def loss(params):
        return jnp.square(mtv.apply({'params': params}, video)).sum()

    gradients = paths(jax.jit(jax.grad(loss))(params))
    assert all(np.isfinite(leaf).all() for leaf in gradients.values())
    still = [name for name, leaf in gradients.items() if np.abs(leaf).max() == 0]
    # A bias of all keys adds the same to all scores of a query: rounding is all that arrives there.
    assert [name for name in still if not name.endswith('key/bias')] == []


def tokens_of_views(net, params, video):
    _, state = apply(net, params, video, mutable='intermediates')
    return [state['intermediates'][f'view_{i}']['tokens'][0] for i in range(len(net.widths))]


@pytest.mark.parametrize('fusion', ['cross_view_attention', 'bottleneck'])
def test_a_slice_of_time_sees_no_other_before_the_global_encoder(fusion, random_params):
    net, video = model(fusion=fusion), clips(batch=1)
    changed = jnp.concatenate([video, video.at[:, 5].add(1.0)])  # In the second slice of two.
    moved = [
        (np.abs(x[1] - x[0]).max(axis=(1, 2)) > 1e-4).tolist()
        for x in tokens_of_views(net, random_params(net, video), changed)
    ]
    assert moved == [[False, True], [False] * 4 + [True] * 4]


@pytest.mark.parametrize(
    ('fusion', 'reached'),
    [
        ('cross_view_attention', [False, True, True]),  # Norms are of tokens before the exchange.
        ('bottleneck', [True, True, True]),
    ],
)
def test_how_far_a_change_of_the_last_view_reaches_in_one_layer(fusion, reached, random_params):
    net = model(
        **dict.fromkeys(('widths', 'num_heads', 'mlp_dims'), (8, 8, 8)),
        depths=(1, 1, 1),
        tubelets=((4, 4, 4), (2, 4, 4), (1, 4, 4)),
        fusion=fusion,
        fusion_layers=(0,),
    )
    video = clips(batch=1)
    params, other = (random_params(net, video, seed=seed) for seed in (0, 1))
    changed = {**params, 'view_2': {**params['view_2'], 'embedding': other['view_2']['embedding']}}
    before, after = (tokens_of_views(net, p, video) for p in (params, changed))
    moved = [bool(np.abs(b - a).max() > 1e-3) for a, b in zip(before, after, strict=True)]
    assert moved == reached


def test_merging_over_channels_repeats_whole_passes():
    views = [jnp.arange(2.0).reshape(1, 2, 1), jnp.arange(4.0).reshape(1, 4, 1)]
    merged = model().bind({}).merge_views(views)
    np.testing.assert_array_equal(merged[0], [[0, 0], [1, 1], [0, 2], [1, 3]])


def test_unrolling_changes_nothing(random_params):
    net, video = model(), clips(batch=2)
    params = random_params(net, video)
    logits = apply(net, params, video)
    unrolled = apply(net.clone(unroll=True), params, video)
    np.testing.assert_allclose(unrolled, logits, atol=1e-5)


def test_remat_is_of_all_blocks_and_fusions(random_params):
    net, video = model(), clips(batch=2)
    params = random_params(net, video)

    def saved(net):
        loss = lambda params: net.apply({'params': params}, video).sum()  # noqa: E731
        return str(jax.make_jaxpr(jax.grad(loss))(params)).count('remat')

    # Of every scan, three in views and one behind them, and of both fusions; patches always are.
    assert saved(net) == len(net.widths)
    assert saved(net.clone(remat='full')) >= len(net.widths) + 6


def test_compiles_as_much_whatever_the_depth():
    def size(depths):
        net = model(depths=depths, global_depth=depths[1], fusion_layers=(1, 4))
        variables = {'params': costs.param_shapes(net, SHAPE)}
        video = jax.ShapeDtypeStruct((1, *SHAPE), jnp.float32)
        return len(jax.jit(net.apply).lower(variables, video).as_text().splitlines())

    assert size((8, 10)) == size((26, 40))  # Equal stretches would be shared.


def test_bfloat16_is_for_the_blocks_alone(random_params):
    net, video = model(dtype='bfloat16'), clips(batch=2)
    init = jax.eval_shape(net.init, jax.random.key(0), video)
    assert {leaf.dtype for leaf in jax.tree.leaves(init)} == {jnp.dtype('float32')}
    run = functools.partial(net.apply, mutable='intermediates')
    logits, state = jax.eval_shape(run, {'params': random_params(net, video)}, video)
    assert logits.dtype == jnp.float32
    sown = paths(state['intermediates'])
    assert sown['fusion_1/attention_0_1/attention/0'].dtype == jnp.bfloat16
    assert sown['view_1/blocks_1/attention/attention/0'].dtype == jnp.bfloat16
    assert sown['view_1/tokens/0'].dtype == jnp.float32


def test_draws_are_independent_for_every_slice(random_params):
    one = {'widths': (8,), 'num_heads': (2,), 'mlp_dims': (8,), 'tubelets': ((4, 4, 4),)}
    rates = {'stochastic_depth': 0.5, 'dropout': 0.1, 'attention_dropout': 0.1}
    net = model(**one, depths=(2,), classifier='gap', **rates)
    still = jnp.repeat(clips(batch=1)[:, :1], 8, axis=1)
    params = random_params(net, still)

    def difference(**kwargs):
        _, state = apply(net, params, still, mutable='intermediates', **kwargs)
        first, second = state['intermediates']['view_0']['tokens'][0][0]
        return np.abs(first - second).max()

    assert difference() < 1e-6
    assert difference(train=True, rngs={'dropout': jax.random.key(0)}) > 1e-3


def test_stochastic_depth_of_attention_is_the_querys_and_never_more():
    net = model(depths=(2, 5), stochastic_depth=0.4)
    rates = [net.fusion_rates(layer) for layer in range(5)]
    np.testing.assert_allclose(
        rates, [[0, 0], [0.4, 0.1], [0.4, 0.2], [0.4, 0.3], [0.4, 0.4]], atol=1e-6
    )


def test_stochastic_depth_drops_whole_slices_and_rescales_the_rest():
    attention = mtv.CrossViewAttention((2, 2), 'query', True, 0.0, 0.0, 'float32')
    tokens = [jnp.ones((64, 1, 4)), jnp.ones((64, 2, 4))]
    rate = [jnp.asarray(0.75), None]

    @jax.jit
    def fuse(key):
        variables = attention.init(key, tokens, rate, train=False)
        variables = jax.tree.map(lambda leaf: leaf + 0.1, variables)
        run = functools.partial(attention.apply, variables, tokens, rate)
        return run(train=False)[0], run(train=True, rngs={'dropout': key})[0]

    evaluated, trained = fuse(jax.random.key(0))
    gained = (trained - 1) / (evaluated - 1)
    kept = np.asarray(gained[:, 0, 0]) > 0
    assert 5 <= kept.sum() <= 27  # Of 64, a quarter; 3.3 deviations.
    expected = np.where(kept, 4.0, 0.0)[:, None, None]
    np.testing.assert_allclose(gained, np.broadcast_to(expected, gained.shape), rtol=1e-4)


def test_a_longer_clip_has_resized_tokens_and_positions(random_params):
    net, video = model(fusion='bottleneck'), clips(batch=1)
    params = random_params(net, video)
    longer = clips(batch=1, shape=(16, 16, 24, 3))
    assert np.isfinite(apply(net, params, longer)).all()

    # A model that says which grid its parameters are made for has that very tree.
    made_for = net.clone(position_grid=((2, 2, 3), (8, 2, 3)))
    shapes = costs.param_shapes(made_for, (16, 16, 24, 3))
    assert jax.tree.map(lambda leaf: leaf.shape, shapes) == jax.tree.map(np.shape, params)
    np.testing.assert_allclose(
        apply(made_for, params, longer), apply(net, params, longer), atol=1e-5
    )


def test_tokens_of_time_are_resized_linearly():
    table = jnp.arange(4.0).reshape(1, 4, 1, 1)
    module = mtv_view.TimeTokens(1, 1, layers.xavier)
    doubled = module.apply({'params': {'table': table}}, 8)
    np.testing.assert_allclose(
        doubled[0, :, 0, 0], [0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3], atol=1e-6
    )


def test_views_of_the_paper():
    net = models.build('mtv', num_classes=400, **variants.views(MTV_B))
    assert net.tubelets == ((8, 16, 16), (4, 16, 16), (2, 16, 16))
    assert net.num_tokens(CLIP) == (4 + 8 + 16) * 14 * 14
    assert [net.stretches(i) for i in range(3)] == [((0, 5), (5, 11), (11, 12))] * 3
    deep = models.build('mtv', num_classes=400, fusion_layers=(11, 23), **variants.views(MTV_L))
    deep.check(CLIP)
    assert deep.stretches(0) == ((0, 11), (11, 12))  # Nothing left at layer 23.
    assert deep.stretches(3) == ((0, 11), (11, 23), (23, 24))


@pytest.mark.parametrize(
    ('fields', 'shape', 'message'),
    [
        ({}, (8, 12, 3), 'takes clips'),
        (
            {},
            (10, 8, 12, 3),
            r'num_frames=10 is not divisible by 4 of tubelets\[0\]=\(4, 4, 4\): the nearest 8 and 12',
        ),
        ({}, (8, 10, 12, 3), r'height=10 .*: the nearest 8 and 12 are'),
        ({}, (8, 8, 13, 3), r'width=13 .*: the nearest 12 and 16 are'),
        ({'depths': (2,)}, SHAPE, 'depths has 1 entries and widths has 2: there should'),
        ({'widths': ()}, SHAPE, 'widths has 0 entries'),
        ({'mlp_dims': (12, 0)}, SHAPE, r'mlp_dims\[1\]=0 should be at least 1'),
        ({'num_heads': (2, 5)}, SHAPE, r'num_heads\[1\]=5 does not divide widths\[1\]=12'),
        (
            {'tubelets': ((4, 4, 4), (4, 0, 4))},
            SHAPE,
            r'tubelets\[1\]=\(4, 0, 4\) should be time, height',
        ),
        (
            {'tubelets': ((4, 4, 4), (3, 4, 4))},
            SHAPE,
            r'the 3 frames of tubelets\[1\] do not divide the 4',
        ),
        (
            {'tubelets': ((12, 4, 4), (4, 4, 4), (6, 4, 4))}
            | dict.fromkeys(('widths', 'depths', 'num_heads', 'mlp_dims'), (2, 2, 2)),
            SHAPE,
            'or a multiple of it, not of 12, 4, 6 frames: use merge="time"',
        ),
        ({'fusion': 'cross_attention'}, SHAPE, "did you mean 'cross_view_attention'"),
        ({'cross_view_width': 'value'}, SHAPE, 'not one of query, key'),
        ({'merge': 'space'}, SHAPE, 'not one of channel, time'),
        (
            {'fusion_layers': ()},
            SHAPE,
            r'fusion_layers=\(\) should increase, from 0 at least to 1 at most',
        ),
        ({'fusion_layers': (1, 0)}, SHAPE, r'fusion_layers=\(1, 0\) should increase'),
        (
            {'fusion_layers': (1, 2)},
            SHAPE,
            r'\(1, 2\) should increase, from 0 at least to 1 at most',
        ),
        ({'fusion_layers': (-1, 1)}, SHAPE, 'should increase, from 0'),
        ({'fusion': 'bottleneck', 'bottleneck_tokens': 0}, SHAPE, 'bottleneck_tokens=0'),
        ({'merge': 'time'}, SHAPE, 'global_width=0 .* merge="time" needs the width'),
        ({'global_width': 8}, SHAPE, 'global_width=8 .* merge="channel" has the sum'),
        ({'global_num_heads': 3}, SHAPE, 'global_num_heads=3 does not divide 20'),
        ({'global_depth': 0}, SHAPE, 'global_depth=0 should be at least 1'),
        ({'tubelet_init': 'average_frame'}, SHAPE, r'needs more frames in tubelets\[1\]'),
        ({'tubelet_init': 'centre'}, SHAPE, 'not one of random, central_frame, average_frame'),
        ({'position_grid': ((2, 2, 3),)}, SHAPE, 'position_grid has 1 entries and widths has 2'),
        (
            {'position_grid': ((2, 2, 0), (8, 2, 3))},
            SHAPE,
            r'position_grid\[0\]=\(2, 2, 0\) should',
        ),
        ({'classifier': 'sum'}, SHAPE, "classifier='sum' is not one of token, gap, map"),
        ({'dropout': 1.5}, SHAPE, r'dropout=1\.5 is not a rate'),
    ],
)
def test_what_does_not_fit_is_named(fields, shape, message):
    net = model(**fields)
    with pytest.raises(UserError, match=message):
        net.check(shape)
    with pytest.raises(UserError, match=message):
        net.num_tokens(shape)


def test_without_fusion_the_layers_of_fusion_do_not_matter():
    model(fusion='none', fusion_layers=(7, 3)).check(SHAPE)
    one = {'widths': (8,), 'depths': (2,), 'num_heads': (2,), 'mlp_dims': (8,)}
    net = model(**one, tubelets=((2, 4, 4),), fusion_layers=(5, 11))
    shapes = paths(costs.param_shapes(net, SHAPE))
    assert not any('fusion' in name for name in shapes)
