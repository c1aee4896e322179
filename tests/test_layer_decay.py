"""Layer-wise learning-rate decay: every parameter's factor, against the count of layers by hand."""

import jax
import numpy as np
import pytest

from vjax import cli, models, recipes
from vjax import config as configs
from vjax.errors import UserError
from vjax.models import costs
from vjax.training import optimizer
from vjax.training.rules import path_name

SIZES = {'width': 8, 'depth': 3, 'num_heads': 2, 'mlp_dim': 8}


def factors(model, input_shape, decay=0.5):
    """Path -> factor or factors, as the optimiser takes them."""
    rules = recipes.layer_decay(decay, model)
    model.num_classes = 2
    shapes = costs.param_shapes(models.build(**model), input_shape)
    found = optimizer.rules.match(rules, shapes, 'optimizer.learning_rate_scale')
    found = optimizer._layer_factors(found, shapes)
    return {
        path_name(path): np.ravel(value).tolist()
        for path, value in jax.tree_util.tree_leaves_with_path(found)
    }


def vivit(**fields):
    return recipes.model('vivit', tubelet=(2, 4, 4), **SIZES | fields)


@pytest.mark.parametrize(
    ('attention', 'classifier'),
    [('spacetime', 'token'), ('spacetime', 'map'), ('factorised_self_attention', 'gap')],
)
def test_one_encoder(attention, classifier):
    found = factors(vivit(attention=attention, classifier=classifier), (4, 8, 8, 3))
    for path, values in found.items():
        if path.startswith('encoder/blocks/'):
            assert values == [1 / 8, 1 / 4, 1 / 2], path
        elif path.startswith('embedding') or 'class_token' in path or 'position' in path:
            assert values == [1 / 16], path
        else:
            assert path.startswith(('encoder/norm/', 'encoder/pool/', 'head/'))
            assert values == [1], path
    assert {'embedding/kernel', 'encoder/position_embedding/table', 'head/logits/bias'} <= set(
        found
    )


def test_an_image_model_has_the_factors_of_a_spacetime_one():
    found = factors(recipes.model('vit', patch=(4, 4), **SIZES), (8, 8, 3))
    assert found == factors(vivit(attention='spacetime'), (4, 8, 8, 3))


def test_the_temporal_encoder_continues_the_count():
    found = factors(vivit(attention='factorised_encoder', temporal_depth=2), (4, 8, 8, 3))
    lowest = {'embedding/kernel', 'embedding/bias'} | {
        f'{which}_encoder/{what}'
        for which in ('spatial', 'temporal')
        for what in ('class_token', 'position_embedding/table')
    }
    for path, values in found.items():
        if path in lowest:
            assert values == [1 / 64], path
        elif path.startswith('spatial_encoder/blocks/'):
            assert values == [1 / 32, 1 / 16, 1 / 8], path
        elif path.startswith('spatial_encoder/norm/'):
            assert values == [1 / 4], path
        elif path.startswith('temporal_encoder/blocks/'):
            assert values == [1 / 4, 1 / 2], path
        else:
            assert path.startswith(('temporal_encoder/norm/', 'head/'))
            assert values == [1], path
    assert lowest <= set(found)


def test_a_mean_over_time_has_one_encoder():
    found = factors(vivit(attention='average_pool'), (4, 8, 8, 3))
    assert found['spatial_encoder/blocks/mlp/up/bias'] == [1 / 8, 1 / 4, 1 / 2]
    assert found['spatial_encoder/norm/scale'] == [1]


def test_videoprism_has_three_encoders_one_above_the_other():
    sizes = SIZES | {'temporal_depth': 2, 'auxiliary_depth': 1, 'tubelet': (1, 4, 4)}
    found = factors(recipes.model('videoprism', **sizes), (2, 8, 8, 3))
    assert found['auxiliary_encoder/blocks/mlp/up/bias'] == [1 / 2]
    assert found['temporal_encoder/blocks/mlp/up/bias'] == [1 / 8, 1 / 4]
    assert found['temporal_encoder/norm/scale'] == [1 / 2]
    assert found['spatial_encoder/blocks/mlp/up/bias'] == [1 / 64, 1 / 32, 1 / 16]
    assert (
        found['temporal_encoder/position_embedding/table'] == found['embedding/bias'] == [1 / 128]
    )
    assert found['head/pool/probe'] == found['head/logits/bias'] == [1]


def test_a_model_of_other_layers_is_refused():
    with pytest.raises(UserError, match="not of 'lookupvivit'"):
        recipes.layer_decay(0.75, recipes.model('lookupvivit'))


def test_the_recipe_shows_every_factor_and_says_when_the_depth_was_changed():
    path = 'configs/vivit/finetune_kinetics400.py'
    rules = dict(cli.load_config(f'{path}:layer_decay=0.5', []).optimizer.learning_rate_scale)
    assert rules['temporal_encoder/blocks/.*'] == (1 / 16, 1 / 8, 1 / 4, 1 / 2)
    assert len(rules['spatial_encoder/blocks/.*']) == 12
    config = cli.load_config(
        path, ['--config.model.temporal_depth=3', '--config.model.num_classes=2']
    )
    shapes = costs.param_shapes(models.build(**config.model), configs.clip_shape(config))
    with pytest.raises(UserError, match=r'4 factors .* which has 3 layers'):
        optimizer.build(shapes, 1, **config.optimizer)
