"""Scenic's models and ours compute the same from the same parameters, and share their trees.

Oracles and trees of all families; what is special to TokenLearner and MTV has files of its own.
"""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vjax.errors import UserError
from vjax.models import costs
from vjax.weights import scenic

SCENIC = Path(__file__).parents[2] / '../shared/scenic'
ORACLES = sorted((SCENIC / 'oracles').glob('*.json'))
# Trees at published sizes; those of Scenic's ViT need the size of the image, too.
TREES = sorted((SCENIC / 'param_trees').glob('[a-z]*.json'))

VIT = {
    'num_classes': 10,
    'mlp_dim': 64,
    'num_layers': 2,
    'num_heads': 2,
    'patches': {'size': [8, 8]},
    'hidden_size': 32,
    'classifier': 'token',
    'representation_size': None,
    'dropout_rate': 0.0,
    'attention_dropout_rate': 0.0,
}
VIVIT = {
    **VIT,
    'patches': {'size': [8, 8, 2]},
    'temporal_encoding_config': {
        'method': '3d_conv',
        'kernel_init_method': 'central_frame_initializer',
    },
    'attention_config': {'type': 'spacetime'},
}
FACTORISED = {
    **{k: v for k, v in VIVIT.items() if k not in ('mlp_dim', 'num_layers', 'num_heads')},
    **{f'spatial_{k}': VIT[k] for k in ('mlp_dim', 'num_layers', 'num_heads')},
    'temporal_mlp_dim': 48,
    'temporal_num_layers': 3,
    'temporal_num_heads': 4,
    'attention_config': {'type': 'factorized_encoder'},
}
MODULES = {
    'vit': 'scenic.projects.baselines.vit.ViT',
    'vivit': 'scenic.projects.vivit.model.ViViT',
    'factorised': 'scenic.projects.vivit.model.SpaceTimeViViT',
}


def attention(kind, **config):
    return {'attention_config': {'type': kind, **config}}


# Everything that Scenic's constructors say and vjax has, beyond the oracles at hand.
CONSTRUCTORS = {
    'vit_gap': ('vit', {**VIT, 'classifier': 'gap'}),
    'vit_map': ('vit', {**VIT, 'classifier': 'map', 'stochastic_depth': 0.1}),
    'spacetime_gap': ('vivit', {**VIVIT, 'classifier': 'gap'}),
    'spacetime_token_prelogits': ('vivit', {**VIVIT, 'representation_size': 16}),
    'temporal_sampling_gap': (
        'vivit',
        {
            **VIVIT,
            'classifier': 'gap',
            'temporal_encoding_config': {'method': 'temporal_sampling', 'n_sampled_frames': 4},
        },
    ),
    'self_attention_space_time': (
        'vivit',
        {
            **VIVIT,
            'classifier': 'gap',
            **attention(
                'factorized_self_attention_block',
                attention_order='space_time',
                attention_kernel_init_method='zero',
            ),
        },
    ),
    'dot_product': (
        'vivit',
        {**VIVIT, 'classifier': 'gap', **attention('factorized_dot_product_attention')},
    ),
    'encoder_gap': ('factorised', {**FACTORISED, 'classifier': 'gap'}),
    'encoder_token': ('factorised', FACTORISED),
    'encoder_temporal_sampling': (
        'factorised',
        {
            **FACTORISED,
            'temporal_encoding_config': {'method': 'temporal_sampling', 'n_sampled_frames': 2},
        },
    ),
    'encoder_token_spatial_only': (
        'factorised',
        {**FACTORISED, **attention('factorized_encoder', spatial_only_baseline=True)},
    ),
}


@pytest.mark.skipif(not ORACLES, reason='the Scenic oracles are not beside this checkout')
@pytest.mark.parametrize('path', ORACLES, ids=lambda path: path.stem)
def test_logits_equal_scenics(path):
    oracle, arrays = json.loads(path.read_text()), np.load(path.with_suffix('.npz'))
    flat = {k.removeprefix('params/'): arrays[k] for k in arrays if k.startswith('params/')}
    model = scenic.model(oracle['module'], oracle['constructor'])
    params = scenic.params(flat, model)
    logits = jax.jit(model.apply)({'params': params}, jnp.asarray(arrays['input']))
    # 2e-5 tells right from wrong, down to the epsilon of a norm.
    np.testing.assert_allclose(logits, arrays['logits'], rtol=0, atol=2e-5)
    assert costs.count_params(params) == oracle['num_params']

    back = scenic.flat_params(params, model)
    assert back.keys() == flat.keys()
    for name in flat:
        np.testing.assert_array_equal(back[name], flat[name])


@pytest.mark.skipif(not TREES, reason='the Scenic parameter trees are not beside this checkout')
@pytest.mark.parametrize('path', TREES, ids=lambda path: path.stem)
def test_trees_at_published_sizes_equal_scenics(path):
    tree = json.loads(path.read_text())
    constructor = dict(tree['constructor'])
    model = scenic.model(constructor.pop('module'), constructor)
    shapes = costs.param_shapes(model, tuple(tree['input_shape'][1:]))
    # Broadcast zeros have the shapes without the memory.
    zeros = jax.tree.map(lambda leaf: np.broadcast_to(np.float32(0), leaf.shape), shapes)
    flat = scenic.flat_params(zeros, model)
    assert {name: [list(leaf.shape), 'float32'] for name, leaf in flat.items()} == tree['tree']
    assert costs.count_params(shapes) == tree['num_params']


@pytest.mark.parametrize('name', CONSTRUCTORS)
def test_the_mapping_is_a_bijection(name):
    module, constructor = CONSTRUCTORS[name]
    model = scenic.model(MODULES[module], constructor)
    shape = (32, 32, 3) if module == 'vit' else (8, 32, 32, 3)
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: rng.normal(size=leaf.shape).astype('f'), costs.param_shapes(model, shape)
    )
    flat = scenic.flat_params(params, model)
    assert not any('blocks' in name or 'position_embedding' in name for name in flat)
    assert sum(leaf.size for leaf in flat.values()) == costs.count_params(params)
    again = scenic.params(flat, model)
    assert jax.tree.structure(again) == jax.tree.structure(params)
    jax.tree.map(np.testing.assert_array_equal, again, params)


def names(name):
    module, constructor = CONSTRUCTORS[name]
    model = scenic.model(MODULES[module], constructor)
    shapes = costs.param_shapes(model, (32, 32, 3) if module == 'vit' else (8, 32, 32, 3))
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, 'f'), shapes)
    return {name: leaf.shape for name, leaf in scenic.flat_params(zeros, model).items()}


def test_names_of_what_no_oracle_shows():
    assert {'MAPHead_0/probe', 'MAPHead_0/LayerNorm_0/scale'} <= names('vit_map').keys()
    assert names('spacetime_token_prelogits')['pre_logits/kernel'] == (32, 16)
    assert names('temporal_sampling_gap')['embedding/kernel'] == (8, 8, 3, 32)
    spatial_only = names('encoder_token_spatial_only')
    assert 'cls_SpatialTransformer' in spatial_only
    assert not any('Temporal' in name for name in spatial_only)
    gap = names('encoder_gap')
    assert not any('cls' in name for name in gap)
    assert gap['TemporalTransformer/encoderblock_2/MlpBlock_0/Dense_0/kernel'] == (32, 48)
    assert gap['TemporalTransformer/posembed_input/pos_embedding'] == (1, 4, 32)


class TestWrongParameters:
    @pytest.fixture
    def model(self):
        return scenic.model(MODULES['vivit'], VIVIT)

    @pytest.fixture
    def flat(self, model):
        shapes = costs.param_shapes(model, (8, 32, 32, 3))
        zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, 'f'), shapes)
        return scenic.flat_params(zeros, model)

    def test_missing(self, model, flat):
        del flat['cls'], flat['Transformer/encoderblock_1/LayerNorm_0/scale']
        with pytest.raises(
            UserError, match=r'missing.*: Transformer/encoderblock_1/LayerNorm_0/scale, cls$'
        ):
            scenic.params(flat, model)

    def test_unexpected(self, model, flat):
        flat['Transformer/encoderblock_2/LayerNorm_0/scale'] = np.zeros(32, 'f')
        with pytest.raises(UserError, match=r'unexpected.*encoderblock_2/LayerNorm_0/scale'):
            scenic.params(flat, model)

    def test_another_shape(self, model, flat):
        flat['output_projection/bias'] = np.zeros(7, 'f')
        with pytest.raises(UserError, match=r'output_projection/bias \(7,\) instead of \(10,\)'):
            scenic.params(flat, model)

    def test_nothing_at_all(self, model):
        with pytest.raises(UserError, match=r'missing.* and \d+ more'):
            scenic.params({}, model)


@pytest.mark.parametrize(
    ('module', 'changes', 'message'),
    [
        ('scenic.projects.mbt.model.MBT', {}, 'no mapping for'),
        (MODULES['vivit'], {'typo': 1}, 'without a counterpart in vjax: typo'),
        (MODULES['vivit'], attention('factorized_transformer_block'), 'has no counterpart'),
        (MODULES['vivit'], {'return_prelogits': True}, 'a vjax model returns logits'),
        (MODULES['vivit'], {'temporal_encoding_config': {'method': '2d'}}, 'has no counterpart'),
    ],
)
def test_constructors_without_a_counterpart(module, changes, message):
    with pytest.raises(UserError, match=message):
        scenic.model(module, {**VIVIT, **changes})
