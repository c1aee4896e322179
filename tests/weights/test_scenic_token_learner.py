"""Scenic's TokenLearner and ours compute the same from the same parameters, and share their trees."""

import jax
import numpy as np
import pytest

from vjax.errors import UserError
from vjax.models import costs
from vjax.models.token_learner import TokenLearnerViT, TokenLearnerViViT
from vjax.models.vit import ViT
from vjax.models.vivit import ViViT
from vjax.weights import scenic

MODULE = 'scenic.projects.token_learner.model.TokenLearnerViT'
IMAGE = (32, 32, 3)
VIDEO = (8, 32, 32, 3)


def constructor(kind, **tokenizer):
    """Arguments of a tiny model; keywords are those of the tokenizer."""
    tokenizer = {
        'type': kind,
        'patches': {'size': [8, 8, 2] if kind == 'video' else [8, 8]},
        'num_tokens': 4,
        'tokenlearner_loc': 1,
        'use_tokenfuse': False,
        **tokenizer,
    }
    if kind == 'video':
        config = {'method': '3d_conv', 'kernel_init_method': 'central_frame_initializer'}
        tokenizer = {'temporal_encoding_config': config, **tokenizer}
    return {
        'num_classes': 10,
        'mlp_dim': 64,
        'num_layers': 3,
        'num_heads': 2,
        'tokenizer': tokenizer,
        'hidden_size': 32,
        'representation_size': None,
        'classifier': 'gap',
        'dropout_rate': 0.0,
        'attention_dropout_rate': 0.0,
    }


SAMPLING = {'method': 'temporal_sampling', 'n_sampled_frames': 3}
# What the class builds: constructor, class of ours, shape of an example.
CONSTRUCTORS = {
    'image_v11': (constructor('dynamic'), TokenLearnerViT, IMAGE),
    'image_v10_fuser': (
        constructor('dynamic', use_v11=False, use_tokenfuse=True),
        TokenLearnerViT,
        IMAGE,
    ),
    'video_v11': (constructor('video', use_v11=True), TokenLearnerViViT, VIDEO),
    'video_v11_fuser': (constructor('video', use_tokenfuse=True), TokenLearnerViViT, VIDEO),
    'video_v10_first_layer': (
        constructor('video', use_v11=False, tokenlearner_loc=0),
        TokenLearnerViViT,
        VIDEO,
    ),
    'video_sampling': (
        constructor('video', temporal_encoding_config=SAMPLING),
        TokenLearnerViViT,
        VIDEO,
    ),
    'prelogits': (
        {**constructor('dynamic'), 'representation_size': 16},
        TokenLearnerViT,
        IMAGE,
    ),
    'patch': (constructor('patch', use_tokenfuse=True), ViT, IMAGE),
    'image_without': (constructor('dynamic', tokenlearner_loc=3), ViT, IMAGE),
    'video_without': (constructor('video', tokenlearner_loc=12), ViViT, VIDEO),
}


@pytest.mark.parametrize('name', CONSTRUCTORS)
def test_the_mapping_is_a_bijection(name):
    arguments, cls, shape = CONSTRUCTORS[name]
    model = scenic.model(MODULE, arguments)
    assert type(model) is cls
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: rng.normal(size=leaf.shape).astype('f'), costs.param_shapes(model, shape)
    )
    flat = scenic.flat_params(params, model)
    assert {'embedding', 'Transformer', 'output_projection'} <= {n.split('/')[0] for n in flat}
    assert not any('blocks' in name or 'token_learner' in name for name in flat)
    assert sum(leaf.size for leaf in flat.values()) == costs.count_params(params)
    again = scenic.params(flat, model)
    assert jax.tree.structure(again) == jax.tree.structure(params)
    jax.tree.map(np.testing.assert_array_equal, again, params)


def test_fields():
    model = scenic.model(MODULE, CONSTRUCTORS['video_v11_fuser'][0])
    assert (model.learned_tokens, model.location, model.version, model.fuser) == (4, 1, '1.1', True)
    assert (model.tubelet, model.tubelet_init) == ((2, 8, 8), 'central_frame')
    assert (model.classifier, model.attention, model.depth) == ('gap', 'spacetime', 3)
    model = scenic.model(MODULE, CONSTRUCTORS['image_v10_fuser'][0])
    assert (model.patch, model.version, model.fuser) == ((8, 8), '1.0', True)


def names(name):
    arguments, _, shape = CONSTRUCTORS[name]
    model = scenic.model(MODULE, arguments)
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, 'f'), costs.param_shapes(model, shape))
    return {name: leaf.shape for name, leaf in scenic.flat_params(zeros, model).items()}


def test_names_of_what_no_oracle_shows():
    fused = names('video_v11_fuser')
    for name in ('TokenLearnerModuleV11_1/token_masking/Dense_1', 'TokenFuser_1/Dense_0'):
        assert fused[f'Transformer/{name}/bias'] == (4,)
    assert fused['embedding/kernel'] == (2, 8, 8, 3, 32)
    assert fused['Transformer/posembed_input/pos_embedding'] == (1, 64, 32)
    assert not any('_2/' in name for name in fused if 'encoderblock' not in name)
    first = names('video_v10_first_layer')
    assert first['Transformer/TokenLearnerModule_0/Conv_1/kernel'] == (3, 3, 4, 4)
    assert 'Transformer/encoderblock_0/LayerNorm_0/scale' in first
    assert names('video_sampling')['embedding/kernel'] == (8, 8, 3, 32)
    assert names('prelogits')['pre_logits/kernel'] == (32, 16)
    for name in ('patch', 'image_without', 'video_without'):
        assert not any('Token' in name for name in names(name))


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (constructor('cnn'), "tokenizer.type='cnn'"),
        (constructor('dynamic', num_heads=3), 'without a counterpart in vjax: tokenizer.num_heads'),
        ({**constructor('dynamic'), 'stochastic_depth': 0.1}, 'counterpart in vjax: stochastic'),
    ],
)
def test_constructors_without_a_counterpart(arguments, message):
    with pytest.raises(UserError, match=message):
        scenic.model(MODULE, arguments)


def test_scenic_has_no_factorised_token_learner():
    model = scenic.model(MODULE, CONSTRUCTORS['video_v11'][0])
    with pytest.raises(UserError, match='Scenic has no TokenLearner with attention='):
        scenic.flat_params({}, model.clone(attention='factorised_encoder'))
