"""Our configs have the values of the published ones, but for what is named here."""

import dataclasses
import json
import operator
from pathlib import Path

import jax
import pytest

from vjax import cli, models
from vjax import config as configs
from vjax.models import costs, token_learner
from vjax.training import runs
from vjax.weights import scenic

CONFIGS = Path(__file__).parents[1] / 'configs'
SCENIC = Path(__file__).parents[1] / '../shared/scenic'
pytestmark = pytest.mark.skipif(
    not SCENIC.exists(), reason='the published configs are not beside this checkout'
)
MTV_B = 'variant=B/2+S/4+Ti/8'
MTV_L = 'variant=L/2+B/4+S/8+Ti/16'
# Scenic says the sizes of the temporal encoder; for us 0 is that of the spatial one.
AS_SPATIAL = {'temporal_num_heads': 0, 'temporal_mlp_dim': 0}
# Published file -> our config, the tree of its parameters, the values of ours that differ, and the
# fields of our model that are not those of Scenic's.
PUBLISHED = {
    'vivit/configs/kinetics400/vivit_base_k400.py': (
        'vivit/kinetics400.py:attention=spacetime',
        'vivit_b_16x2_spacetime_k400',
        {},
        {},
    ),
    'vivit/configs/kinetics400/vivit_base_factorised_encoder.py': (
        'vivit/kinetics400.py:variant=B/16x2',
        'vivit_b_16x2_fe_k400',
        {},
        AS_SPATIAL,
    ),
    'vivit/configs/kinetics400/vivit_large_factorised_encoder.py': (
        'vivit/kinetics400.py:variant=L/16x2',
        'vivit_l_16x2_fe_k400',
        {},
        AS_SPATIAL,
    ),
    'vivit/configs/kinetics600/vivit_large_factorised_encoder.py': (
        'vivit/kinetics600.py',
        'vivit_l_16x2_fe_k600',
        {},
        AS_SPATIAL,
    ),
    'vivit/configs/something_something_v2/vivit_large_factorised_encoder.py': (
        'vivit/something_something_v2.py',
        'vivit_l_16x2_fe_ssv2_256',
        {},
        AS_SPATIAL,
    ),
    'vivit/configs/epic_kitchens/vivit_large_factorised_encoder.py': (
        'vivit/epic_kitchens.py',
        'vivit_l_16x2_fe_epic',
        {},
        AS_SPATIAL,
    ),
    'mtv/configs/kinetics/k400_mtv_b2_cva.py': (
        f'mtv/kinetics400.py:{MTV_B}',
        'mtv_b_k400',
        {},
        {},
    ),
    'mtv/configs/kinetics/k600_mtv_b2_cva.py': (
        f'mtv/kinetics600.py:{MTV_B}',
        'mtv_b_k600',
        {},
        {},
    ),
    'mtv/configs/kinetics/k600_mtv_l2_cva.py': (
        f'mtv/kinetics600.py:{MTV_L}',
        'mtv_l_k600',
        {},
        {},
    ),
    'mtv/configs/kinetics/k700_mtv_b2_cva.py': (
        f'mtv/kinetics700.py:{MTV_B}',
        'mtv_b_k700',
        {},
        {},
    ),
    'mtv/configs/kinetics/k700_mtv_l2_cva.py': (
        f'mtv/kinetics700.py:{MTV_L}',
        'mtv_l_k700',
        {},
        {},
    ),
    'mtv/configs/mit/mit_mtv_l2_cva.py': (
        'mtv/moments_in_time.py',
        'mtv_l_mit',
        {},
        {},
    ),
    'mtv/configs/ssv2/ssv2_mtv_b2_cva.py': (
        'mtv/something_something_v2.py',
        'mtv_b_ssv2',
        {},
        {},
    ),
    'mtv/configs/epic_kitchens/epic_mtv_b2_cva.py': (
        'mtv/epic_kitchens.py',
        'mtv_b_ek',
        {},
        {},
    ),
    'token_learner/configs/im1k_token_learner_config.py': (
        'token_learner/imagenet.py',
        'token_learner_b16_in1k_v11',
        {},
        # -1 is three quarters of the depth; Scenic's trainer, not its model, fills the head's bias.
        {'location': -1, 'head_bias': -10.0},
    ),
}
# What Scenic's pipelines and trainers always do, or never.
FIXED = {
    'clip.order': 'forward',
    'augment.flip': 0.5,
    'augment.flip_labels': 'ignore',
    'augment.random_crop': True,
    'augment.area': (),
    'augment.repeats': 1,
    'augment.auto_augment': '',
    'augment.rand_augment_std': 0.0,
    'augment.rand_augment_probability': 1.0,
    'augment.erase': 0.0,
    'loss.cutmix': 0.0,
    'optimizer.learning_rate_scale': (('.*', 1.0),),
    'optimizer.freeze': (),
    'accumulate': 1,
    'ema': 0.0,
}
IMAGENET = {
    'clip.num_frames': 1,
    'clip.short_side': 256,  # Scenic's defaults: the middle of it for evaluations, 32 pixels less.
    'clip.size': 224,
    'augment.scale_jitter': (1.0, 1.0),
    # Inception's crops, of TensorFlow's sample_distorted_bounding_box.
    'augment.random_crop': False,
    'augment.area': (0.08, 1.0),
    'augment.aspect': (3 / 4, 4 / 3),
    'augment.rand_augment': 0,
    'augment.color_jitter': 0.0,
    'augment.color_drop': 0.0,
    'dataset.num_classes': 1000,
}
IMAGENET_TRAIN = 1_281_167
# Scenic's 'adam' with weight decay is decoupled, and its 'momentum' is of 0.9 where nothing is said.
OPTIMIZERS = {'momentum': 'sgd', 'adam': 'adamw'}


def read(name):
    """Our config, the published one, and the tree of its parameters."""
    path, tree, *_ = PUBLISHED[name]
    published = json.loads((SCENIC / 'published_configs.json').read_text())
    return (
        cli.load_config(f'configs/{path}', []),
        published[f'scenic/projects/{name}'],
        json.loads((SCENIC / 'param_trees' / f'{tree}.json').read_text()),
    )


def theirs(published):
    """The values of a published config under our names."""
    schedule, settings = published['lr_configs'], published['optimizer_configs']
    linear = 'linear_decay' in schedule['factors']
    values = FIXED | {
        'batch_size': published['batch_size'],
        'num_epochs': published['num_training_epochs'],
        'loss.name': 'sigmoid' if 'multilabel' in published['model_name'] else 'softmax',
        'loss.label_smoothing': published.get('label_smoothing') or 0.0,
        'loss.mixup': published.get('mixup', {}).get('alpha', 0.0),
        'optimizer.name': OPTIMIZERS[published['optimizer']],
        'optimizer.momentum': settings.get('momentum', 0.9),
        'optimizer.b1': settings.get('beta1', 0.9),
        'optimizer.b2': settings.get('beta2', 0.999),
        'optimizer.weight_decay': (('.*', settings.get('weight_decay', 0.0)),),
        'optimizer.clip_norm': published['max_grad_norm'],
        'optimizer.learning_rate': schedule['base_learning_rate'],
        'optimizer.decay': 'linear' if linear else 'cosine',
        'optimizer.end_learning_rate': schedule.get('end_learning_rate', 0.0),
    }
    assert not published['l2_decay_factor']  # Scenic's other weight decay.
    data = published['dataset_configs']
    if not data:
        return values | IMAGENET | {'model.head_bias': published['init_head_bias']}
    augment = data['augmentation_params']
    distorted = augment.get('do_rand_augment', False)
    # RandAugment takes the place of colour jitter in Scenic, whatever the file says about colours.
    colors = augment['do_color_augment'] and not distorted
    assert augment['do_jitter_scale']  # Ours has no switch, and no probability.
    assert augment['prob_scale_jitter'] == 1
    values |= {
        'clip.num_frames': data['num_frames'],
        'clip.stride': data['stride'],
        'clip.short_side': data['min_resize'],
        'clip.size': data['crop_size'],
        'augment.scale_jitter': (augment['scale_min_factor'], augment['scale_max_factor']),
        'augment.color_jitter': augment['prob_color_augment'] if colors else 0.0,
        'augment.color_drop': augment['prob_color_drop'] if colors else 0.0,
        'augment.rand_augment': augment['rand_augment_num_layers'] if distorted else 0,
    }
    if distorted:
        values |= {
            'augment.rand_augment_magnitude': augment['rand_augment_magnitude'],
            'augment.rand_augment_ops': 'colors',
        }
    num_classes = data.get('num_classes') or sum(data.get('class_splits', ()))
    return values | ({'dataset.num_classes': num_classes} if num_classes else {})


def arguments(published, tree):
    """Those of Scenic's constructor: the tree's, with the values of the published config."""
    values = dict(published['model'])
    for part in ('spatial', 'temporal'):
        sizes = values.pop(f'{part}_transformer', {})
        values |= {f'{part}_{size}': value for size, value in sizes.items()}
    if 'tokenizer' in values:
        del values['stochastic_depth']  # Scenic's TokenLearner never receives it.
    return tree['constructor'] | values


@pytest.mark.parametrize('name', PUBLISHED)
def test_a_config_has_the_published_values(name):
    config, published, _ = read(name)
    expected = theirs(published)
    found = {key: operator.attrgetter(key)(config) for key in expected}
    assert {key: found[key] for key in found if found[key] != expected[key]} == PUBLISHED[name][2]


@pytest.mark.parametrize('name', PUBLISHED)
def test_a_config_warms_up_for_as_many_steps(name):
    config, published, _ = read(name)
    schedule, fraction = published['lr_configs'], config.optimizer.warmup_fraction
    total = schedule.get('steps_per_cycle', schedule.get('total_steps'))
    if not total:  # The size of the data set is left open.
        assert fraction == 2.5 / published['num_training_epochs']
        return
    assert config.num_epochs * config.eval.every == total  # The whole steps of each epoch.
    if published['dataset_name'] == 'imagenet':  # 10,000 out of all steps that ours takes.
        total = round(config.num_epochs * IMAGENET_TRAIN / config.batch_size)
    assert abs(round(fraction * total) - schedule['warmup_steps']) <= 1


@pytest.mark.parametrize('name', PUBLISHED)
def test_a_config_has_the_model_that_scenic_builds(name):
    config, published, tree = read(name)
    different = PUBLISHED[name][3]
    constructor = arguments(published, tree)
    original = scenic.model(constructor.pop('module'), constructor)
    config.model.num_classes = config.dataset.num_classes
    model = models.build(**config.model)
    assert type(model) is type(original)
    original = original.clone(remat=model.remat)  # What is computed again changes no result.
    found, expected = (
        {field.name: getattr(built, field.name) for field in dataclasses.fields(built)}
        for built in (model, original)
    )
    assert {key: found[key] for key in found if found[key] != expected[key]} == different
    # What differs means the same.
    for size in ('num_heads', 'mlp_dim'):
        if f'temporal_{size}' in different:
            assert expected[f'temporal_{size}'] == expected[size]
    if 'location' in different:
        assert token_learner.learner_layer(model) == expected['location']

    clip = configs.clip_shape(config)
    assert clip[-len(tree['input_shape']) + 1 :] == tuple(tree['input_shape'][1:])
    params = jax.eval_shape(lambda: runs.init_params(model, config))
    assert costs.count_params(params) == tree['num_params']


@pytest.mark.parametrize('name', PUBLISHED)
def test_a_config_says_where_training_is_unlike_scenics(name):
    file = CONFIGS / PUBLISHED[name][0].partition(':')[0]
    assert 'configs/README.md says in what' in ' '.join(file.read_text().split())
    assert "## Unlike Scenic's training" in (CONFIGS / 'README.md').read_text()


def test_every_published_config_is_here():
    published = json.loads((SCENIC / 'published_configs.json').read_text())
    assert {name.removeprefix('scenic/projects/') for name in published} == set(PUBLISHED)
