"""Image models into video models: against Scenic's surgery, and by what the result computes."""

import functools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
from hypothesis import given, settings
from hypothesis import strategies as st

from vjax import models, weights
from vjax.errors import UserError
from vjax.models import costs
from vjax.weights import positions, scenic, surgery
from vjax.weights.plan import Take
from vjax.weights.positions import Table

AUX = Path(__file__).parents[2] / '../shared/scenic/aux'
needs_scenic = pytest.mark.skipif(
    not AUX.exists(), reason='the Scenic oracles are not beside this checkout'
)

SIZES = {'width': 16, 'depth': 2, 'num_heads': 2, 'mlp_dim': 24}
CLIP = (4, 16, 16, 3)
# What people may choose from, at its defaults.
HOW = weights.Adapt(
    head='auto',
    class_token=True,
    tubelet='central_frame',
    temporal='paper',
    position_grid=(),
    allow=(),
)


def how(**changes):
    return weights.Adapt(**{**vars(HOW), **changes})


@functools.cache
def shapes_of(model, input_shape):
    return weights.flatten(costs.param_shapes(model, input_shape))


def random_params(model, input_shape, seed=0):
    rng = np.random.default_rng(seed)
    return {
        path: rng.normal(size=leaf.shape, scale=0.3).astype('f')
        for path, leaf in shapes_of(model, input_shape).items()
    }


def image_source(image=(16, 16, 3), seed=1, **changes):
    model = models.build('vit', **{'num_classes': 5, **SIZES, 'patch': (4, 4), **changes})
    return weights.Source('vit:random.npz', model, random_params(model, image, seed))


def vivit(**changes):
    fields = {'num_classes': 5, **SIZES, 'tubelet': (2, 4, 4), 'temporal_depth': 2}
    return models.build('vivit', **{**fields, **changes})


def load(sources, model, input_shape=CLIP, choices=HOW):
    """All parameters, with what is left from `random_params`, and the report."""
    fresh = random_params(model, input_shape, seed=9)
    sources = [sources] if isinstance(sources, weights.Source) else sources
    arrays, report = weights.adapt(
        sources, model, shapes_of(model, input_shape), input_shape, choices, fresh=fresh.get
    )
    assert arrays.keys() | report.left.keys() == fresh.keys()
    assert not arrays.keys() & report.left.keys()
    return {**fresh, **arrays}, report


# Against Scenic.


def scenic_params(model, input_shape, arrays, prefix, seed):
    """Scenic's parameters of a model, random but for those that the oracle names."""
    random = scenic.flat_params(weights.unflatten(random_params(model, input_shape, seed)), model)
    return {
        name: arrays[f'{prefix}/{name}'] if f'{prefix}/{name}' in arrays else random[name]
        for name in random
    }


ORACLES = {
    'fe_token_tile': (
        models.build('vivit', num_classes=10, width=32, depth=2, num_heads=2, mlp_dim=64,
                     tubelet=(2, 8, 8), attention='factorised_encoder', temporal_depth=2),
        (8, 32, 32, 3),
        how(class_token=False),
    ),
    'spacetime_token_tile_central': (
        models.build('vivit', num_classes=10, width=32, depth=2, num_heads=2, mlp_dim=64,
                     tubelet=(2, 8, 8)),
        (8, 32, 32, 3),
        HOW,
    ),
    'mtv_from_vit': (
        models.build('mtv', num_classes=10, widths=(16, 32), depths=(2, 2), num_heads=(2, 2),
                     mlp_dims=(32, 64), tubelets=((4, 8, 8), (2, 16, 16)), fusion_layers=(1,),
                     global_depth=1, global_num_heads=2, global_mlp_dim=32),
        (8, 32, 32, 3),
        HOW,
    ),
}  # fmt: skip


@needs_scenic
@pytest.mark.parametrize('name', ORACLES)
def test_surgery_equals_scenics(name):
    model, clip, choices = ORACLES[name]
    arrays = np.load(AUX / f'aux_init_{name}.npz')
    oracle = json.loads((AUX / f'aux_init_{name}.json').read_text())

    sources, theirs = [], {}
    for i, _ in enumerate(getattr(model, 'widths', [0])):
        prefix, label = (
            (f'source_view{i}', f'view{i}:') if name == 'mtv_from_vit' else ('source', '')
        )
        width = model.widths[i] if label else model.width
        vit = models.build('vit', num_classes=10, width=width, depth=2, num_heads=2,
                           mlp_dim=2 * width, patch=(8, 8))  # fmt: skip
        flat = scenic_params(vit, (32, 32, 3), arrays, prefix, seed=i)
        params = weights.flatten(scenic.params(flat, vit))
        sources.append(weights.Source(f'vit:{i}', vit, params))
        theirs |= {label + leaf: array for leaf, array in flat.items()}

    params, report = load(sources, model, clip, choices)
    ours = scenic.flat_params(weights.unflatten(params), model)
    fresh = scenic.flat_params(weights.unflatten(random_params(model, clip, seed=9)), model)
    assert ours.keys() == oracle['provenance'].keys()
    for leaf, provenance in oracle['provenance'].items():
        if provenance == 'transformed':
            np.testing.assert_allclose(ours[leaf], arrays[f'result/{leaf}'], atol=1e-6)
        elif provenance.startswith('copied from '):
            np.testing.assert_array_equal(
                ours[leaf], theirs[provenance.removeprefix('copied from ')]
            )
        else:
            assert provenance == 'target init (untouched)'
            if not leaf.startswith('output_projection'):  # The classes are the same: it goes along.
                np.testing.assert_array_equal(ours[leaf], fresh[leaf])
    assert len(report.left) + len(report.loaded) + len(report.changed) == len(params)


# What the result computes.


def tokens_of(model, params, x, encoder):
    """The final tokens of one of a model's encoders."""
    run = jax.jit(lambda p, x: model.apply({'params': p}, x, mutable='intermediates')[1])
    sown = run(weights.unflatten(params), jnp.asarray(x))
    return sown['intermediates'][encoder]['tokens'][0]


@pytest.fixture(scope='module')
def image():
    return np.random.default_rng(3).normal(size=(2, 16, 16, 3)).astype('f')


@pytest.mark.parametrize('tubelet', ['central_frame', 'filter_inflation'])
@pytest.mark.parametrize('time', [2, 4])
def test_a_repeated_frame_gives_the_image_models_tokens(image, tubelet, time):
    source = image_source()
    model = vivit(attention='factorised_encoder', tubelet=(time, 4, 4))
    params, report = load(source, model, CLIP, how(tubelet=tubelet))
    assert str(time) in report.changed['embedding/kernel']
    video = np.repeat(image[:, None], 4, axis=1)
    tokens = tokens_of(model, params, video, 'spatial_encoder')
    expected = tokens_of(source.model, source.params, image, 'encoder')
    expected = np.repeat(expected, 4 // time, axis=0)  # Frames are merged into the batch.
    # Sums of products in another order; tokens are normalised, hence of size 1.
    np.testing.assert_allclose(tokens, expected, atol=1e-5)


@pytest.mark.parametrize('order', ['time_space', 'space_time'])
def test_model_3_starts_with_attention_over_time_as_the_identity(image, order):
    source = image_source(classifier='gap')
    model = vivit(attention='factorised_self_attention', classifier='gap', attention_order=order)
    params, report = load(source, model)
    video = np.repeat(image[:, None], 4, axis=1)
    tokens = tokens_of(model, params, video, 'encoder')
    expected = tokens_of(source.model, source.params, image, 'encoder')
    np.testing.assert_allclose(tokens, np.tile(expected, (1, 2, 1)), atol=1e-5)
    # Not a dead end: the output's kernel gets a gradient, as queries, keys and values are not zero.
    assert {path for path in report.left if path.startswith('encoder')} == {
        path for path in params if '/time_' in path and '/out/' not in path
    }


def test_model_3_copies_attention_into_both_if_asked():
    source = image_source(classifier='gap')
    model = vivit(attention='factorised_self_attention', classifier='gap')
    params, report = load(source, model, CLIP, how(temporal='copy'))
    for axis in ('time', 'space'):
        np.testing.assert_array_equal(
            params[f'encoder/blocks/{axis}_attention/out/kernel'],
            source.params['encoder/blocks/attention/out/kernel'],
        )
    assert {path for path in report.left if path.startswith('encoder')} == {
        'encoder/blocks/time_norm/scale',
        'encoder/blocks/time_norm/bias',
    }
    _, report = load(source, model, CLIP, how(temporal='fresh'))
    assert 'encoder/blocks/time_attention/out/kernel' in report.left


class TestTemporalEncoder:
    def test_is_fresh(self):
        model = vivit(attention='factorised_encoder')
        for temporal in ('paper', 'fresh'):
            _, report = load(image_source(), model, CLIP, how(temporal=temporal))
            temporal_encoder = {path for path in report.left if path.startswith('temporal')}
            assert len(temporal_encoder) == 20  # 16 of a block, table, class token, norm.

    def test_is_a_copy_of_the_first_layers(self):
        source = image_source()
        model = vivit(attention='factorised_encoder', temporal_depth=1, temporal_mlp_dim=8)
        params, report = load(source, model, CLIP, how(temporal='copy'))
        name = 'blocks/attention/query/kernel'
        np.testing.assert_array_equal(
            params[f'temporal_encoder/{name}'], source.params[f'encoder/{name}'][:1]
        )
        assert report.changed[f'temporal_encoder/{name}'] == 'layer 0 of 2'
        assert 'size' in report.left['temporal_encoder/blocks/mlp/up/kernel']
        assert 'temporal_encoder/norm/scale' in report.left

    def test_cannot_be_deeper_than_its_original(self):
        model = vivit(attention='factorised_encoder', temporal_depth=3)
        with pytest.raises(UserError, match='temporal_depth=3 with the 2 layers'):
            load(image_source(), model, CLIP, how(temporal='copy'))


class TestClassToken:
    def test_goes_along_with_its_position(self):
        source = image_source()
        model = vivit(attention='factorised_encoder')
        params, _ = load(source, model)
        token = source.params['encoder/class_token']
        np.testing.assert_array_equal(params['spatial_encoder/class_token'], token)
        params, report = load(source, model, CLIP, how(class_token=False))
        assert 'spatial_encoder/class_token' in report.left
        assert report.unused == {'encoder/class_token': 'adapt.class_token=False'}

    def test_is_dropped_with_its_position(self):
        source = image_source()
        params, report = load(source, vivit(classifier='gap'))
        table = source.params['encoder/position_embedding/table'][:, 1:]
        np.testing.assert_array_equal(
            params['encoder/position_embedding/table'], np.tile(table, (1, 2, 1))
        )
        assert 'encoder/class_token' in report.unused

    @pytest.mark.parametrize('attention', ['spacetime', 'factorised_encoder'])
    def test_is_new_and_so_is_its_position(self, attention):
        source, model = image_source(classifier='gap'), vivit(attention=attention)
        params, report = load(source, model)
        encoder = 'encoder' if attention == 'spacetime' else 'spatial_encoder'
        name = f'{encoder}/position_embedding/table'
        fresh = random_params(model, CLIP, seed=9)[name]
        np.testing.assert_array_equal(params[name][:, :1], fresh[:, :1])
        np.testing.assert_array_equal(
            params[name][:, 1:17], source.params['encoder/position_embedding/table']
        )
        assert 'left at its initialisation' in report.changed[name]
        assert f'{encoder}/class_token' in report.left


def test_an_image_model_of_another_classifier():
    source = image_source()
    for classifier in ('gap', 'map'):
        model = source.model.clone(classifier=classifier)
        _, report = load(source, model, (16, 16, 3))
        assert 'encoder/class_token' in report.unused
        pool = {path for path in report.left if path.startswith('encoder/pool/')}
        assert bool(pool) == (classifier == 'map')


# Every family from every kind of image model.

VIEWS = {
    'num_classes': 5,
    'widths': (16, 16),
    'depths': (2, 2),
    'num_heads': (2, 2),
    'mlp_dims': (24, 24),
    'tubelets': ((4, 8, 8), (2, 4, 4)),
    'fusion_layers': (1,),
    'global_depth': 1,
    'global_num_heads': 2,
    'global_mlp_dim': 8,
}
TUBELET = {'num_classes': 5, **SIZES, 'tubelet': (2, 4, 4)}
PATCH = {'num_classes': 5, **SIZES, 'patch': (4, 4)}
FAMILIES = {
    'vit': ('vit', PATCH),
    'model_1': ('vivit', TUBELET),
    'model_2': ('vivit', {**TUBELET, 'attention': 'factorised_encoder'}),
    'model_2_map': ('vivit', {**TUBELET, 'attention': 'factorised_encoder', 'classifier': 'map'}),
    'model_3': (
        'vivit',
        {**TUBELET, 'attention': 'factorised_self_attention', 'classifier': 'gap'},
    ),
    'model_4': ('vivit', {**TUBELET, 'attention': 'factorised_dot_product', 'classifier': 'map'}),
    'average_pool': ('vivit', {**TUBELET, 'attention': 'average_pool'}),
    'uniform_frames': (
        'vivit',
        {
            **TUBELET,
            'tubelet': (1, 4, 4),
            'embedding': 'uniform_frames',
            'num_sampled_frames': 3,
        },
    ),
    'token_learner': ('token_learner', {**PATCH, 'location': 1, 'learned_tokens': 4}),
    'token_learner_first': ('token_learner', {**PATCH, 'location': 0, 'learned_tokens': 4}),
    'token_fuser': (
        'token_learner_video',
        {**TUBELET, 'location': 1, 'learned_tokens': 4, 'fuser': True},
    ),
    'token_learner_model_2': (
        'token_learner_video',
        {**TUBELET, 'location': 1, 'learned_tokens': 4, 'attention': 'factorised_encoder'},
    ),
    'mtv': ('mtv', VIEWS),
    'mtv_bottleneck': ('mtv', {**VIEWS, 'fusion': 'bottleneck', 'classifier': 'gap'}),
    'mtv_over_time': (
        'mtv',
        {**VIEWS, 'merge': 'time', 'global_width': 16, 'classifier': 'map'},
    ),
    'lookupvit': ('lookupvit', {**PATCH, 'grid': (2, 2)}),
    'lookupvit_learned': (
        'lookupvit',
        {**PATCH, 'grid': (2, 3), 'compressed_positions': 'learned', 'qk_norm': True},
    ),
    'lookupvivit': ('lookupvivit', {**TUBELET, 'grid': (2, 2), 'lookup_norm': True}),
    'lookupvivit_model_1': (
        'lookupvivit',
        {**TUBELET, 'grid': (2, 2, 2), 'attention': 'spacetime', 'compressed_positions': 'learned'},
    ),
}


@pytest.mark.parametrize('classifier', ['token', 'gap', 'map'])
@pytest.mark.parametrize('family', FAMILIES)
def test_every_parameter_is_accounted_for(family, classifier):
    name, fields = FAMILIES[family]
    model = models.build(name, **fields)
    input_shape = (20, 20, 3) if hasattr(model, 'patch') else (4, 24, 24, 3)
    sources = [image_source(classifier=classifier)] * len(getattr(model, 'tubelets', [0]))
    params, report = load(sources, model, input_shape)
    assert all(np.isfinite(array).all() for array in params.values())
    shapes = shapes_of(model, input_shape)
    assert {path: array.shape for path, array in params.items()} == {
        path: leaf.shape for path, leaf in shapes.items()
    }
    # A table of the source's grid, 4 x 4, becomes one of 5 x 5, or of 6 x 6.
    if family != 'mtv':
        assert any('4x4 positions resized to' in words for words in report.changed.values())
    # Every layer goes somewhere.
    blocks = [path for path in params if 'mlp/up/kernel' in path and 'pool' not in path]
    blocks = [path for path in blocks if not path.startswith(('temporal', 'global'))]
    assert sum(len(params[path]) for path in blocks if path not in report.left) == 2 * len(sources)
    # Every parameter of the sources is used or has a reason.
    if family.startswith('mtv'):
        assert {'view_0:encoder/norm/scale', 'view_1:encoder/norm/scale'} <= set(report.unused)
    else:
        assert not any(path.startswith('encoder/norm') for path in report.unused)


@pytest.mark.parametrize('kind', ['vit', 'spacetime'])
def test_a_probe_does_not_ask_for_the_summary_of_the_tokens(kind):
    source = image_source(classifier='map')
    encoder = source.model
    if kind != 'vit':
        encoder = vivit(classifier='map', attention=kind)
    probe = models.build('probe', num_classes=5, encoder=encoder, num_heads=2, mlp_dim=8, depth=1)
    _, report = load(source, probe, (16, 16, 3) if kind == 'vit' else CLIP)
    assert any(path.startswith('encoder/pool/') for path in report.unused)


def test_layers_before_and_after_token_learner():
    source = image_source(depth=3)
    model = models.build(
        'token_learner', **{**PATCH, 'depth': 3, 'location': 1, 'learned_tokens': 4}
    )
    params, report = load(source, model, (16, 16, 3))
    name = 'mlp_norm/bias'
    stack = source.params[f'encoder/blocks/{name}']
    np.testing.assert_array_equal(params[f'encoder/blocks/{name}'], stack[:1])
    np.testing.assert_array_equal(params[f'encoder/later_blocks/{name}'], stack[1:])
    assert report.changed[f'encoder/later_blocks/{name}'] == 'layers 1 to 2 of 3'
    assert all('token_learner' in path for path in report.left if path.startswith('encoder'))


def test_lookup_tokens_are_left_and_compressed_ones_are_the_image_models():
    source = image_source(classifier='gap')
    model = models.build('lookupvit', **{**PATCH, 'grid': (2, 2)})
    params, report = load(source, model, (16, 16, 3))
    for name, origin in (
        ('blocks/refine/attention/key/kernel', 'blocks/attention/key/kernel'),
        ('compressed_norm/scale', 'norm/scale'),
        ('position_embedding/table', 'position_embedding/table'),
    ):
        np.testing.assert_array_equal(params[f'encoder/{name}'], source.params[f'encoder/{origin}'])
    left = {path.split('/')[2] for path in report.left if path.startswith('encoder/blocks/')}
    assert left == {
        'gather', 'gather_compressed_norm', 'gather_lookup_norm', 'infuse', 'infuse_norm',
        'lookup_mlp', 'lookup_mlp_norm',
    }  # fmt: skip


# What does not fit.

SINES = {'positions': 'sincos', 'width': 24}


@pytest.mark.parametrize(
    ('source', 'target', 'message'),
    [
        ({}, {'depth': 3}, 'depth=2 there and depth=3 here'),
        ({}, {'width': 32}, 'width=16 there and width=32 here'),
        ({}, {'tubelet': (2, 8, 8)}, r'patch=\(4, 4\) there and tubelet=\(2, 8, 8\) here'),
        ({'gelu': 'erf'}, {}, 'gelu=erf.*: set config.model.gelu=erf'),
        ({'norm_epsilon': 1e-12}, {}, 'set config.model.norm_epsilon=1e-12'),
        ({'width': 24}, SINES, 'positions=learned there and sincos here'),
        (SINES, SINES, 'sines of two axes'),
    ],
)
def test_another_model(source, target, message):
    source = image_source(**source)
    with pytest.raises(UserError, match=message):
        load(source, vivit(**target))


def test_numerics_of_the_same_kind():
    source = image_source(gelu='erf')
    with pytest.raises(UserError, match=r'set config\.model\.gelu=erf'):
        load(source, source.model.clone(gelu='tanh'), (16, 16, 3))


def test_mtv_needs_an_image_model_of_the_right_size_for_each_view():
    model = models.build('mtv', **VIEWS)
    with pytest.raises(UserError, match='2 image models, not from 1: one for each view'):
        load(image_source(), model)
    with pytest.raises(UserError, match=r'width=32 there and widths\[1\]=16 here'):
        load([image_source(), image_source(width=32)], model)


def test_an_unexpected_parameter():
    source = image_source()
    source.params['surprise/kernel'] = np.zeros(3, 'f')
    with pytest.raises(UserError, match='lacks: surprise/kernel'):
        load(source, vivit())
    _, report = load(source, vivit(), CLIP, how(allow=('surprise/.*',)))
    assert 'surprise/kernel' in report.unused


def test_a_missing_parameter():
    source = image_source()
    del source.params['encoder/norm/bias']
    with pytest.raises(UserError, match='lacks: encoder/norm/bias'):
        load(source, vivit())
    _, report = load(source, vivit(), CLIP, how(allow=('encoder/norm/bias',)))
    assert 'encoder/norm/bias' in report.left


# Grids.

sizes = st.integers(1, 9)


@given(st.tuples(sizes, sizes), st.tuples(sizes, sizes), st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_resizing_is_scipys_zoom(old, new, seed):
    table = np.random.default_rng(seed).normal(size=(*old, 3))
    zoom = (new[0] / old[0], new[1] / old[1], 1)
    # Beyond the last position, where rounding may lead it, scipy would see zeros by default.
    expected = scipy.ndimage.zoom(table, zoom, order=1, mode='nearest')
    assert expected.shape == (*new, 3)
    np.testing.assert_allclose(positions.resize(table, new), expected, atol=1e-12)


def test_the_last_position_is_not_lost():
    """As it is to scipy, for these sizes, and hence to Scenic and big_vision."""
    line = np.arange(1.0, 29.0)[:, None]
    assert positions.resize(line, (14,))[-1] == 28
    assert scipy.ndimage.zoom(line, (0.5, 1), order=1)[-1] == 0


def test_resizing_by_hand():
    line = np.array([[0.0], [1.0], [4.0]])
    np.testing.assert_array_equal(positions.resize(line, (5,)), [[0.0], [0.5], [1.0], [2.5], [4.0]])
    np.testing.assert_array_equal(positions.resize(line, (2,)), [[0.0], [4.0]])
    np.testing.assert_array_equal(positions.resize(line, (1,)), [[0.0]])
    square = np.arange(4.0).reshape(2, 2, 1)
    np.testing.assert_array_equal(
        positions.resize(square, (3, 3))[..., 0], [[0, 0.5, 1], [1, 1.5, 2], [2, 2.5, 3]]
    )


def test_space_is_resized_then_repeated_over_time():
    source = image_source()
    model, clip = vivit(), (6, 24, 16, 3)
    params, report = load(source, model, clip)
    table = source.params['encoder/position_embedding/table'][0]
    resized = scipy.ndimage.zoom(table[1:].reshape(4, 4, 16), (1.5, 1, 1), order=1)
    expected = np.concatenate([table[:1], *[resized.reshape(24, 16)] * 3])
    np.testing.assert_allclose(params['encoder/position_embedding/table'][0], expected, atol=1e-6)
    assert (
        report.changed['encoder/position_embedding/table']
        == '4x4 positions resized to 6x4, repeated over 3 frames'
    )


@pytest.mark.parametrize('attention', ['spacetime', 'average_pool'])
def test_positions_for_each_axis(attention):
    source = image_source(positions='factorised')
    model = vivit(positions='factorised', attention=attention)
    params, report = load(source, model, (4, 16, 24, 3))
    joint = attention == 'spacetime'
    ours = f'{"encoder" if joint else "spatial_encoder"}/position_embedding/axis'
    theirs = 'encoder/position_embedding/axis'
    np.testing.assert_array_equal(params[f'{ours}_{0 + joint}'], source.params[f'{theirs}_0'])
    assert report.changed[f'{ours}_{1 + joint}'] == '4 positions resized to 6'
    np.testing.assert_array_equal(
        params[f'{ours}_{1 + joint}'][:, [0, -1]], source.params[f'{theirs}_1'][:, [0, -1]]
    )
    assert (f'{ours}_0' in report.left) == joint


def test_a_config_with_a_grid_of_its_own():
    """Position embeddings are for the grid that the model is made for, not for that of the clips."""
    model = vivit(position_grid=(2, 4, 4))
    _, report = load(image_source(), model, (8, 32, 32, 3))
    assert report.changed['encoder/position_embedding/table'].startswith(
        '4x4 positions repeated over 2 frames'
    )


class TestTrainedGrid:
    @pytest.mark.parametrize(
        ('count', 'grid', 'expected'),
        [
            (196, (16, 16), (14, 14)),
            (196, (14, 24), (14, 14)),
            (24, (8, 12), (4, 6)),
            (5, (9,), (5,)),
            (8 * 16, (8, 6, 6), (8, 4, 4)),
            (4 * 36, (8, 6, 6), (4, 6, 6)),
        ],
    )
    def test_follows_from_the_number(self, count, grid, expected):
        assert positions.trained_grid(count, grid, (), 'x') == expected

    @pytest.mark.parametrize(
        ('count', 'grid', 'message'),
        [
            (16, (2, 8), 'may be those of 2x8 or 4x4 tokens: say with adapt.position_grid'),
            (12, (4, 4), 'no square grid: say with adapt.position_grid'),
            (128, (2, 4, 4), 'may be those of 2x8x8 or 8x4x4 tokens'),
        ],
    )
    def test_is_asked_for(self, count, grid, message):
        with pytest.raises(UserError, match=message):
            positions.trained_grid(count, grid, (), 'x')

    def test_is_told(self):
        assert positions.trained_grid(12, (4, 4), (2, 6), 'x') == (2, 6)
        assert positions.trained_grid(24, (1, 4, 4), (2, 6), 'x') == (2, 2, 6)
        with pytest.raises(UserError, match=r'adapt.position_grid=\(3, 3\) is not that of the 12'):
            positions.trained_grid(12, (4, 4), (3, 3), 'x')


def test_positions_of_images_that_are_not_square():
    source = image_source(image=(8, 24, 3))
    with pytest.raises(UserError, match=r'the 12 position embeddings of vit:random\.npz'):
        load(source, vivit())
    _, report = load(source, vivit(), CLIP, how(position_grid=(2, 6)))
    assert '2x6 positions resized to 4x4' in report.changed['encoder/position_embedding/table']


# The same kind, another grid.


@pytest.mark.parametrize(
    ('name', 'fields', 'old', 'new', 'words'),
    [
        ('vit', PATCH, (16, 16, 3), (24, 24, 3), '4x4 positions resized to 6x6'),
        ('vivit', TUBELET, (4, 16, 16, 3), (8, 16, 16, 3), '2x4x4 positions resized to 4x4x4'),
        (
            'vivit',
            {**TUBELET, 'attention': 'factorised_encoder'},
            (4, 16, 16, 3),
            (8, 24, 24, 3),
            '4x4 positions resized to 6x6; 2 positions resized to 4',
        ),
        (
            'vivit',
            {**TUBELET, 'positions': 'factorised'},
            (4, 16, 16, 3),
            (8, 24, 16, 3),
            '2 positions resized to 4; 4 positions resized to 6',
        ),
        (
            'mtv',
            VIEWS,
            (4, 16, 16, 3),
            (8, 32, 32, 3),
            '2 positions resized to 4; 1 positions resized to 2; 2x2 positions resized to 4x4; '
            '4x4 positions resized to 8x8',
        ),
        (
            'mtv',
            {**VIEWS, 'merge': 'time', 'global_width': 16, 'fusion': 'bottleneck'},
            (8, 16, 16, 3),
            (16, 16, 16, 3),
            '2 + 4 positions resized to 4 + 8; 2 positions resized to 4; 4 positions resized to 8',
        ),
    ],
)
def test_the_same_kind_on_another_grid(name, fields, old, new, words):
    model = models.build(name, **fields)
    source = weights.Source('it', model, random_params(model, old))
    params, report = load(source, model, new)
    assert set(report.changed.values()) == set(words.split('; '))
    assert not report.left
    assert not report.unused
    _, again = load(weights.Source('again', model, params), model, new)
    assert not again.changed


def test_the_same_kind_to_a_model_without_class_tokens():
    source = image_source()
    _, report = load(source, source.model.clone(classifier='gap'), (20, 20, 3))
    assert report.changed['encoder/position_embedding/table'] == (
        "4x4 positions resized to 5x5, without the class token's position"
    )
    mtv = models.build('mtv', **VIEWS)
    source = weights.Source('it', mtv, random_params(mtv, CLIP))
    _, report = load(source, mtv.clone(classifier='gap'))
    assert {path for path in report.unused if 'class_token' in path} == {
        'view_0/class_token/table',
        'view_1/class_token/table',
        'global_encoder/class_token',
    }


def test_what_is_told_beats_an_equal_number():
    model = vivit(attention='average_pool')
    table = np.zeros((1, 17, 16), 'f')
    path = 'spatial_encoder/position_embedding/table'
    assert surgery.resize_table(model, model, path, table, CLIP, HOW) == Take(path)
    take = surgery.resize_table(model, model, path, table, CLIP, how(position_grid=(2, 2, 8)))
    assert take.how == '2x8 positions resized to 4x4'


def test_a_table_that_fits_is_taken_as_it_is():
    assert positions.take('a', Table((4, 4), 1), Table((4, 4), 1), 1) == Take('a', 1)
