"""Our configs have the values of the published ones, but for what is named here."""

import json
from pathlib import Path

import jax
import pytest

from vjax import cli, models
from vjax.models import costs
from vjax.training import runs

SCENIC = Path(__file__).parents[1] / '../shared/scenic'
pytestmark = pytest.mark.skipif(
    not SCENIC.exists(), reason='the published configs are not beside this checkout'
)
MTV_B = 'variant=B/2+S/4+Ti/8'
MTV_L = 'variant=L/2+B/4+S/8+Ti/16'
# Published file -> our config, the tree of its parameters, and the values of ours that differ.
PUBLISHED = {
    'vivit/configs/kinetics400/vivit_base_k400.py': (
        'vivit/kinetics400.py:attention=spacetime',
        'vivit_b_16x2_spacetime_k400',
        {},
    ),
    'vivit/configs/kinetics400/vivit_base_factorised_encoder.py': (
        'vivit/kinetics400.py:variant=B/16x2',
        'vivit_b_16x2_fe_k400',
        {},
    ),
    'vivit/configs/kinetics400/vivit_large_factorised_encoder.py': (
        'vivit/kinetics400.py:variant=L/16x2',
        'vivit_l_16x2_fe_k400',
        {},
    ),
    'vivit/configs/kinetics600/vivit_large_factorised_encoder.py': (
        'vivit/kinetics600.py',
        'vivit_l_16x2_fe_k600',
        {},
    ),
    'vivit/configs/something_something_v2/vivit_large_factorised_encoder.py': (
        'vivit/something_something_v2.py',
        'vivit_l_16x2_fe_ssv2_256',
        {},
    ),
    'vivit/configs/epic_kitchens/vivit_large_factorised_encoder.py': (
        'vivit/epic_kitchens.py',
        'vivit_l_16x2_fe_epic',
        {},
    ),
    'mtv/configs/kinetics/k400_mtv_b2_cva.py': (
        f'mtv/kinetics400.py:{MTV_B}',
        'mtv_b_k400',
        {},
    ),
    'mtv/configs/kinetics/k600_mtv_b2_cva.py': (
        f'mtv/kinetics600.py:{MTV_B}',
        'mtv_b_k600',
        {},
    ),
    'mtv/configs/kinetics/k600_mtv_l2_cva.py': (
        f'mtv/kinetics600.py:{MTV_L}',
        'mtv_l_k600',
        {},
    ),
    'mtv/configs/kinetics/k700_mtv_b2_cva.py': (
        f'mtv/kinetics700.py:{MTV_B}',
        'mtv_b_k700',
        {},
    ),
    'mtv/configs/kinetics/k700_mtv_l2_cva.py': (
        f'mtv/kinetics700.py:{MTV_L}',
        'mtv_l_k700',
        {},
    ),
    'mtv/configs/mit/mit_mtv_l2_cva.py': (
        'mtv/moments_in_time.py',
        'mtv_l_mit',
        {},
    ),
    'mtv/configs/ssv2/ssv2_mtv_b2_cva.py': (
        'mtv/something_something_v2.py',
        'mtv_b_ssv2',
        # RandAugment takes the place of colour jitter in Scenic.
        {'color_jitter': 0.0, 'color_drop': 0.0},
    ),
    'mtv/configs/epic_kitchens/epic_mtv_b2_cva.py': (
        'mtv/epic_kitchens.py',
        'mtv_b_ek',
        {'color_jitter': 0.0, 'color_drop': 0.0},
    ),
    'token_learner/configs/im1k_token_learner_config.py': (
        'token_learner/imagenet.py',
        'token_learner_b16_in1k_v11',
        # Scenic's model never receives its rate; 312 steps are no whole epoch.
        {'stochastic_depth': 0.0, 'warmup_fraction': 10_000 / (90 * 312.8)},
    ),
}


def theirs(published):
    """The values of a published config under our names."""
    data, augment = published['dataset_configs'], {}
    values = {
        'batch_size': published['batch_size'],
        'num_epochs': published['num_training_epochs'],
        'learning_rate': published['lr_configs']['base_learning_rate'],
        'label_smoothing': published.get('label_smoothing') or 0.0,
        'mixup': published.get('mixup', {}).get('alpha', 0.0),
        'clip_norm': published['max_grad_norm'],
        'stochastic_depth': published['model'].get('stochastic_depth', 0.0)
        or published['model'].get('stochastic_droplayer_rate', 0.0),
        'classifier': published['model']['classifier'],
        'dropout': published['model']['dropout_rate'],
    }
    if data:
        augment = data['augmentation_params']
        colours = augment['do_color_augment']
        values |= {
            'num_frames': data['num_frames'],
            'stride': data['stride'],
            'short_side': data['min_resize'],
            'size': data['crop_size'],
            'scale_jitter': (augment['scale_min_factor'], augment['scale_max_factor']),
            'color_jitter': augment['prob_color_augment'] if colours else 0.0,
            'color_drop': augment['prob_color_drop'] if colours else 0.0,
            'warmup_fraction': 2.5 / published['num_training_epochs'],
        }
        schedule = published['lr_configs']
        if schedule['steps_per_cycle']:  # Some are left at zero, for the user to fill in.
            warmup = schedule['warmup_steps'] / schedule['steps_per_cycle']
            assert warmup == pytest.approx(values['warmup_fraction'], rel=1e-3)
    return values


def ours(config):
    sections = (config.loss, config.clip, config.augment, config.optimizer, config.model, config)
    return {key: section[key] for section in sections for key in section}


@pytest.mark.parametrize('name', PUBLISHED)
def test_a_config_has_the_published_values(name):
    path, tree, different = PUBLISHED[name]
    config = cli.load_config(f'configs/{path}', [])
    published = json.loads((SCENIC / 'published_configs.json').read_text())
    expected = theirs(published[f'scenic/projects/{name}']) | different
    found = ours(config)
    for key, value in expected.items():
        assert found[key] == (
            value if isinstance(value, str) else pytest.approx(value, rel=1e-3)
        ), key

    config.model.num_classes = config.dataset.num_classes
    model = models.build(**config.model)
    params = jax.eval_shape(lambda: runs.init_params(model, config))
    leaves = json.loads((SCENIC / 'param_trees' / f'{tree}.json').read_text())
    assert costs.count_params(params) == leaves['num_params']


def test_every_published_config_is_here():
    published = json.loads((SCENIC / 'published_configs.json').read_text())
    assert {name.removeprefix('scenic/projects/') for name in published} == set(PUBLISHED)
