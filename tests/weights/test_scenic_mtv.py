"""Scenic's MTV and ours compute the same from the same parameters, and share their trees.

What the oracles at hand do not show is compared to a derivation in NumPy that knows Scenic's names
and goes through the slices of time one by one; the oracles show that it is right.
"""

import json
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vjax.errors import UserError
from vjax.models import costs
from vjax.weights import scenic

SCENIC = Path(__file__).parents[2] / '../shared/scenic'
ORACLES = sorted((SCENIC / 'oracles').glob('mtv*.json'))
CONFIGS = SCENIC / 'published_configs.json'
MTV = 'scenic.projects.mtv.model.MTV'


def view(width, patch, heads, depth):
    sizes = {'hidden_size': width, 'num_heads': heads, 'num_layers': depth, 'mlp_dim': 2 * width}
    return {**sizes, 'patches': {'size': list(patch)}}


LONG, MIDDLE = view(8, (8, 8, 4), 2, 2), view(12, (8, 8, 2), 3, 3)
SHORT = view(16, (8, 8, 1), 4, 4)
COARSE = view(12, (16, 8, 2), 3, 3)  # Other patches, hence another number of tokens.
CVA = {
    'type': 'cross_view_attention',
    'fuse_in_descending_order': True,
    'use_query_config': True,
    'fusion_layers': [1, 2],
}
BOTTLENECK = {'type': 'bottleneck', 'bottleneck_tokens': 3, 'fusion_layers': [1, 2]}
BASE = {
    'view_configs': [LONG, MIDDLE],
    'cross_view_fusion': CVA,
    'temporal_encoding_config': {
        'method': '3d_conv',
        'kernel_init_method': 'central_frame_initializer',
    },
    'global_encoder_config': {
        'num_heads': 2,
        'mlp_dim': 24,
        'num_layers': 1,
        'hidden_size': 14,
        'merge_axis': 'channel',
    },
    'input_token_temporal_dims': [2, 4],
    'num_classes': 5,
    'classifier': 'token',
    'dropout_rate': 0.0,
    'attention_dropout_rate': 0.0,
    'stochastic_depth': 0.1,
}
THREE = {**BASE, 'view_configs': [LONG, MIDDLE, SHORT]}
OVER_TIME = {'global_encoder_config': {**BASE['global_encoder_config'], 'merge_axis': 'time'}}


def fusion(base, **changes):
    return {'cross_view_fusion': {**base, **changes}}


# Views have 2, 3 and 4 layers: at layers 2 and 3 one or two of them have no block left.
CONSTRUCTORS = {
    'attention_gap_default_order': {
        **BASE,
        'classifier': 'gap',
        'cross_view_fusion': {
            'type': 'cross_view_attention',
            'use_query_config': True,
            'fusion_layers': [2, 1, 7],  # Scenic minds neither the order nor the last.
        },
    },
    'attention_ascending_key': {
        **BASE,
        **fusion(CVA, fuse_in_descending_order=False, use_query_config=False),
    },
    'attention_key_other_patches_over_time': {
        **BASE,
        **OVER_TIME,
        'view_configs': [LONG, COARSE],
        **fusion(CVA, use_query_config=False, fusion_layers=[0]),
    },
    'three_views': {**THREE, **fusion(CVA, fusion_layers=[1, 3])},
    'one_view': {**BASE, 'view_configs': [MIDDLE], 'cross_view_fusion': None},
    'bottleneck_three_views': {**THREE, **fusion(BOTTLENECK, fusion_layers=[0, 1, 3])},
}
SLOW = {
    'three_views_over_time_gap': {
        **THREE,
        **OVER_TIME,
        'cross_view_fusion': None,
        'classifier': 'gap',
    },
    'attention': BASE,
    'three_views_ascending_gap': {
        **THREE,
        'classifier': 'gap',
        **fusion(CVA, fuse_in_descending_order=False, fusion_layers=[0, 2, 3]),
    },
    'three_views_key': {**THREE, **fusion(CVA, use_query_config=False, fusion_layers=[2])},
    'no_fusion': {**BASE, 'cross_view_fusion': None},
    'over_time': {**BASE, **OVER_TIME},
    'short_before_long': {**BASE, 'view_configs': [MIDDLE, LONG]},
    'bottleneck': {**BASE, 'cross_view_fusion': BOTTLENECK},
    'bottleneck_ascending_gap': {
        **THREE,
        'classifier': 'gap',
        **fusion(BOTTLENECK, fuse_in_descending_order=False, fusion_layers=[1, 2]),
    },
}
CASES = [pytest.param(constructor, id=name) for name, constructor in CONSTRUCTORS.items()]
CASES += [
    pytest.param(constructor, id=name, marks=pytest.mark.slow) for name, constructor in SLOW.items()
]
SHAPE = (8, 16, 24, 3)


class Reference:
    """MTV in NumPy, from Scenic's flat parameters and constructor, for a single clip."""

    def __init__(self, flat, constructor):
        self.flat = {name: np.asarray(leaf, np.float64) for name, leaf in flat.items()}
        self.views = constructor['view_configs']
        self.fusion = constructor['cross_view_fusion'] or {'type': None, 'fusion_layers': []}
        self.descending = self.fusion.get('fuse_in_descending_order', True)
        self.config = constructor['global_encoder_config']
        self.has_token = constructor['classifier'] == 'token'

    def __call__(self, clip):
        times = [len(clip) // view['patches']['size'][2] for view in self.views]
        frames = [self.tokenise(clip, i) for i in range(len(self.views))]
        vectors = [[] for _ in self.views]
        for index in range(min(times)):
            counts = [time // min(times) for time in times]
            slices = [
                np.concatenate(frames[i][index * count : (index + 1) * count])
                for i, count in enumerate(counts)
            ]
            for i, tokens in enumerate(self.encode(slices, index)):
                for step in np.split(tokens, counts[i]):
                    vectors[i].append(step[0] if self.has_token else step.mean(axis=0))
        return self.classify([np.stack(view) for view in vectors])

    def tokenise(self, clip, i):
        """The tokens [n, d] of every index of time, with positions."""
        high, wide, deep = self.views[i]['patches']['size']
        kernel = self.flat[f'embedding_view{i}/kernel']
        frames = []
        for t in range(len(clip) // deep):
            tokens = [self.flat[f'cls_view{i}'][0, t, 0]] if self.has_token else []
            for y in range(clip.shape[1] // high):
                for x in range(clip.shape[2] // wide):
                    cut = clip[t * deep :, y * high :, x * wide :][:deep, :high, :wide]
                    tokens.append(
                        np.einsum('thwc,thwcd->d', cut, kernel)
                        + self.flat[f'embedding_view{i}/bias']
                    )
            positions = self.flat[f'MultiviewEncoder/posembed_input_view{i}/pos_embedding']
            frames.append(np.stack(tokens) + positions[0])
        return frames

    def encode(self, tokens, index):
        """All layers of all views on one slice of time."""
        bottleneck = None
        if self.fusion['type'] == 'bottleneck':
            bottleneck = self.flat['bottleneck'][0, index]
        order = list(range(len(self.views)))[:: -1 if self.descending else 1]
        for layer in range(max(view['num_layers'] for view in self.views)):
            here = layer in self.fusion['fusion_layers']
            attends = here and self.fusion['type'] == 'cross_view_attention'
            name = f'MultiviewEncoder/cross_view_encoderblock_{layer}'
            if attends:
                tokens = self.attend_across(name, tokens)
            for i in order:
                if layer >= self.views[i]['num_layers']:
                    continue
                x = tokens[i]
                if here and bottleneck is not None:
                    if bottleneck.shape[1] != x.shape[1]:
                        linear = f'MultiviewEncoder/bottleneck_linear_{layer}_view{i}'
                        bottleneck = self.dense(linear, bottleneck)
                    x = np.concatenate([x, bottleneck])
                if attends:
                    parts = [f'{name}/{p}_view{i}' for p in ('msa_ln', 'msa', 'mlp_ln', 'mlp')]
                else:
                    parts = self.parts(f'MultiviewEncoder/encoderblock_{layer}_view{i}')
                x = self.block(parts, x)
                if here and bottleneck is not None:
                    x, bottleneck = x[: len(tokens[i])], x[len(tokens[i]) :]
                tokens[i] = x
        return tokens

    def attend_across(self, name, tokens):
        normed = [self.norm(f'{name}/cross_attention_ln_view{i}', x) for i, x in enumerate(tokens)]
        fused = list(tokens)
        for i in range(1, len(tokens)):
            query, key = (i - 1, i) if self.descending else (i, i - 1)
            attention = f'{name}/cross_attention_view{query}_{key}'
            sized_like = self.views[query if self.fusion['use_query_config'] else key]
            heads = sized_like['num_heads']
            sizes = heads, sized_like['hidden_size'] // heads
            assert self.flat[f'{attention}/query/bias'].shape == sizes
            fused[query] = fused[query] + self.attention(attention, normed[query], normed[key])
        return fused

    def classify(self, vectors):
        if self.config['merge_axis'] == 'time':
            linear = 'global_encoder_linear_view'
            x = np.concatenate([self.dense(f'{linear}{i}', x) for i, x in enumerate(vectors)])
        else:
            longest = max(len(x) for x in vectors)
            x = np.stack([np.concatenate([x[t % len(x)] for x in vectors]) for t in range(longest)])
        if self.has_token:
            x = np.concatenate([self.flat['cls_global'][0], x])
        x = x + self.flat['global_encoder/posembed_input/pos_embedding'][0]
        for layer in range(self.config['num_layers']):
            x = self.block(self.parts(f'global_encoder/encoderblock_{layer}'), x)
        x = self.norm('global_encoder/encoder_norm', x)
        return self.dense('output_projection', x[0] if self.has_token else x.mean(axis=0))

    def parts(self, block):
        names = 'LayerNorm_0', 'MultiHeadDotProductAttention_0', 'LayerNorm_1', 'MlpBlock_0'
        return [f'{block}/{name}' for name in names]

    def block(self, parts, x):
        norm_0, attention, norm_1, mlp = parts
        y = self.norm(norm_0, x)
        x = x + self.attention(attention, y, y)
        y = self.dense(f'{mlp}/Dense_0', self.norm(norm_1, x))
        y = y * (1 + np.tanh(math.sqrt(2 / math.pi) * (y + 0.044715 * y**3))) / 2
        return x + self.dense(f'{mlp}/Dense_1', y)

    def attention(self, name, queries, context):
        query, key, value = (
            np.einsum('nd,dhk->hnk', x, self.flat[f'{name}/{part}/kernel'])
            + self.flat[f'{name}/{part}/bias'][:, None]
            for x, part in ((queries, 'query'), (context, 'key'), (context, 'value'))
        )
        weights = np.exp(query @ key.transpose(0, 2, 1) / math.sqrt(query.shape[-1]))
        attended = weights / weights.sum(axis=-1, keepdims=True) @ value
        kernel = self.flat[f'{name}/out/kernel']
        return np.einsum('hnk,hkd->nd', attended, kernel) + self.flat[f'{name}/out/bias']

    def norm(self, name, x):
        x = x - x.mean(axis=-1, keepdims=True)
        x = x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + 1e-6)
        return x * self.flat[f'{name}/scale'] + self.flat[f'{name}/bias']

    def dense(self, name, x):
        return x @ self.flat[f'{name}/kernel'] + self.flat[f'{name}/bias']


@pytest.mark.skipif(not ORACLES, reason='the Scenic oracles are not beside this checkout')
@pytest.mark.parametrize('path', ORACLES, ids=lambda path: path.stem)
def test_the_derivation_gives_scenics_logits(path):
    oracle, arrays = json.loads(path.read_text()), np.load(path.with_suffix('.npz'))
    flat = {k.removeprefix('params/'): arrays[k] for k in arrays if k.startswith('params/')}
    reference = Reference(flat, oracle['constructor'])
    expected = np.stack([reference(clip) for clip in arrays['input']])
    np.testing.assert_allclose(expected, arrays['logits'], rtol=0, atol=2e-5)


@pytest.mark.parametrize('constructor', CASES)
def test_logits_equal_the_derivation(constructor):
    model = scenic.model(MTV, constructor)
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: rng.normal(size=leaf.shape, scale=0.3).astype('f'),
        costs.param_shapes(model, SHAPE),
    )
    flat = scenic.flat_params(params, model)
    clip = rng.uniform(-1, 1, SHAPE).astype('f')
    logits = jax.jit(model.apply)({'params': params}, jnp.asarray(clip)[None])[0]
    reference = Reference(flat, constructor)
    np.testing.assert_allclose(logits, reference(clip), rtol=0, atol=2e-5)
    assert np.std(logits) > 0.1

    # The way back, which knows no shape of a clip.
    again = scenic.params(flat, model)
    assert jax.tree.structure(again) == jax.tree.structure(params)
    jax.tree.map(np.testing.assert_array_equal, again, params)
    assert sum(leaf.size for leaf in flat.values()) == costs.count_params(params)


@pytest.mark.skipif(not CONFIGS.exists(), reason='the published configs are not beside this one')
def test_published_configs_are_models():
    configs = json.loads(CONFIGS.read_text())
    published = {name: config['model'] for name, config in configs.items() if '/mtv/' in name}
    assert len(published) == 8
    for name, config in published.items():
        model = scenic.model(MTV, {**config, 'num_classes': 3})
        model.check((32, 224, 224, 3))
        assert model.fusion_layers == ((11, 23) if '_l2_' in name else (5, 11))
        assert model.cross_view_width == 'query'
        assert model.stochastic_depth == (0.0 if 'k700_mtv_b2' in name else 0.1)


def test_wrong_parameters_are_named():
    model = scenic.model(MTV, BASE)
    shapes = costs.param_shapes(model, SHAPE)
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, 'f'), shapes)
    flat = scenic.flat_params(zeros, model)
    name = 'MultiviewEncoder/cross_view_encoderblock_1/msa_ln_view0/scale'
    with pytest.raises(UserError, match=f'missing.*: {name}$'):
        scenic.params({k: v for k, v in flat.items() if k != name}, model)
    with pytest.raises(UserError, match=r'unexpected.*: bottleneck$'):
        scenic.params({**flat, 'bottleneck': flat['cls_global']}, model)
    with pytest.raises(UserError, match=r'cls_view1 \(1, 3, 1, 12\) instead of \(1, 4, 1, 12\)'):
        scenic.params({**flat, 'cls_view1': np.zeros((1, 3, 1, 12), 'f')}, model)
    with pytest.raises(UserError, match=r'missing.* and \d+ more'):
        scenic.params({}, model)


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'keep_spatiotemporal_features': True}, 'keep_spatiotemporal_features=True has no'),
        ({'final_endpoint': 'pre_logits'}, 'only final_endpoint="logits"'),
        ({'cross_view_fusion': {**CVA, 'type': 'mlp'}}, "type='mlp' has no counterpart"),
        ({'view_configs': [LONG]}, 'of a single view has no counterpart'),
        (
            {'temporal_encoding_config': {'method': 'temporal_sampling', 'n_sampled_frames': 2}},
            'is not for MTV',
        ),
        (
            {'global_encoder_config': {**BASE['global_encoder_config'], 'typo': 1}},
            r'global_encoder_config\.typo has no counterpart',
        ),
        ({'typo': 1}, 'without a counterpart in vjax: typo'),
    ],
)
def test_constructors_without_a_counterpart(changes, message):
    with pytest.raises(UserError, match=message):
        scenic.model(MTV, {**BASE, **changes})
