import functools
import math
import operator

import pytest
from ml_collections import ConfigDict

from vjax import cli
from vjax import config as configs
from vjax.data import records
from vjax.errors import UserError

DIGITS = 'configs/vivit/moving_digits.py'


@pytest.fixture
def config():
    return cli.load_config(f'{DIGITS}:tiny', [])


def test_arguments_are_pairs_and_flags_of_the_defaults_types():
    args = configs.parse_arg('variant=L/16x2,tiny,depth=4', variant='B/16x2', tiny=False, depth=2)
    assert vars(args) == {'variant': 'L/16x2', 'tiny': True, 'depth': 4}
    assert vars(configs.parse_arg(None, tiny=False)) == {'tiny': False}
    assert configs.parse_arg('tiny=false', tiny=True).tiny is False


@pytest.mark.parametrize(
    ('arg', 'sentence'),
    [
        ('varaint=B/16x2', "did you mean 'variant'"),
        ('variant', 'needs a value'),
        ('tiny=maybe', 'is a flag'),
        ('depth=two', "'two' is no int"),
    ],
)
def test_a_wrong_argument_is_named(arg, sentence):
    with pytest.raises(UserError, match=sentence):
        configs.parse_arg(arg, variant='B/16x2', tiny=False, depth=2)


@pytest.mark.parametrize('views', ['4', '4x', 'x3', '0x1', '4x3x2', 'axb', '-1x1'])
def test_views_are_two_counts(views):
    assert configs.parse_views('4x3') == (4, 3)
    with pytest.raises(UserError, match='temporal x spatial'):
        configs.parse_views(views)


def test_profiled_steps_are_a_range():
    assert configs.parse_steps('100-110') == range(100, 111)
    assert configs.parse_steps('7') == range(7, 8)
    assert not configs.parse_steps('')


def test_profiled_steps_are_steps_of_the_run(config, digits):
    dataset = records.open_dataset(digits)
    config.num_steps = 6
    config.profile = '6-9'
    configs.resolve(config, dataset)
    config.profile = '7-9'
    with pytest.raises(UserError, match="profile='7-9', but the run ends with step 6"):
        configs.resolve(config, dataset)


@pytest.mark.parametrize('steps', ['0-3', '5-4', '3-', '-3', '1-2-3', 'all', '1:3', '-', '0'])
def test_profiled_steps_that_are_none_are_refused(config, steps):
    config.profile = steps
    with pytest.raises(UserError, match=rf"^config\.profile='{steps}' should be a range of steps"):
        configs.check(config)


@pytest.mark.parametrize(
    ('change', 'sentence'),
    [
        ('clip.num_frames=7', 'num_frames=7 is not divisible by 2 of tubelet'),
        ('clip.size=40', None),
        ('clip.size=36', 'height=36 is not divisible'),
        ('clip.size=64', 'short_side'),
        ('clip.order=backwards', 'order'),
        ('clip.short_clips=repeat', 'short_clips'),
        ('augment.flip=1.5', 'flip'),
        ('model.name=vivid', "did you mean 'vivit'"),
        ('model.attention=factorized_encoder', "did you mean 'factorised_encoder'"),
        ('model.num_heads=3', 'num_heads=3 does not divide'),
        ('batch_size=0', 'batch_size=0 should be at least 1'),
        ('batch_size=7', None),
        ('accumulate=3', 'accumulate=3'),
        ('eval.views=3', 'temporal x spatial'),
        ('num_steps=0', 'num_steps or config.num_epochs'),
        ('num_steps=-5', 'num_steps=-5 should be from 0 to'),
        ('ema=1.5', 'ema=1.5 should be from 0 to 1'),
        ('optimizer.learning_rate=nan', 'learning_rate=nan'),
        ('optimizer.name=lamb', "'lamb' is not one of sgd, adamw"),
        ('optimizer.moment_dtype=int8', "'int8' is not one of float32, bfloat16"),
        ('loss.name=sigmoid', None),
        ('loss.name=hinge', "loss.name='hinge' is not one of softmax, sigmoid"),
        ('model.num_heads=0', 'num_heads=0 should be at least 1'),
        ('model.tubelet=(0,8,8)', 'tubelet'),
        ('model.temporal_depth=0', 'average_pool'),
        ('num_epochs=inf', r'num_epochs=inf should be finite'),
        (
            "optimizer.weight_decay=(('.*', -0.5),)",
            r"weight_decay: -0\.5 for '\.\*' should be at least 0",
        ),
        ("optimizer.learning_rate_scale=(('.*', -1.0),)", r'learning_rate_scale: -1\.0 for'),
        ("optimizer.learning_rate_scale=(('.*', (1.0, -1.0)),)", r'\(1\.0, -1\.0\) for'),
        ("optimizer.learning_rate_scale=(('.*', ()),)", None),  # `optimizer.build` knows how many.
        ('optimizer.b2=1.0', r'b2=1 should be below 1'),
    ],
)
def test_a_value_that_cannot_work_is_named(change, sentence):
    config = cli.load_config(f'{DIGITS}:tiny', [f'--config.{change}'])
    if sentence is None:
        configs.check(config)
    else:
        with pytest.raises(UserError, match=sentence):
            configs.check(config)


@pytest.mark.parametrize(
    ('key', 'value', 'sentence'),
    [
        ('model.temporal_num_heads', -2, 'temporal_num_heads=-2 should be at least 0'),
        ('model.temporal_mlp_dim', -5, 'temporal_mlp_dim=-5 should be at least 0'),
        ('model.representation_size', -3, 'representation_size=-3 should be at least 0'),
        ('model.head_bias', math.nan, r'config\.model\.head_bias=nan should be finite'),
        ('augment.scale_jitter', (1.0, math.inf), r'scale_jitter=.* should be finite'),
        ('optimizer.weight_decay', (('.*', math.nan),), r'weight_decay=.* should be finite'),
    ],
)
def test_a_number_that_cannot_work_is_named(key, value, sentence):
    config = cli.load_config(f'{DIGITS}:tiny', [])
    section, name = key.split('.')
    with config.unlocked():
        config[section][name] = value
    with pytest.raises(UserError, match=sentence):
        configs.check(config)


@pytest.mark.parametrize(
    ('change', 'sentence'),
    [
        ('optimizer.weight_decay=0.1', r"weight_decay=.*such as \(\('\.\*/kernel', 0\.05\)"),
        ("optimizer.weight_decay=(('.*','a'),)", r'weight_decay=.*item 1 of item 0.*float'),
        ('optimizer.learning_rate_scale=0.1', r'learning_rate_scale=.*such as'),
        ('optimizer.freeze=(3,)', r'freeze=\(3,\): item 0'),
        ('sharding.parameters=3', r'sharding\.parameters=.*such as'),
        ("model.tubelet=('a',8,8)", r"^config\.model and .*: tubelet=\('a', 8, 8\): item 0"),
        ('model.tubelet=(2,16,16.0)', r'tubelet=.*item 2.*int'),
        ("augment.area=('a','b')", r"^config\.augment\.area=\('a', 'b'\): item 0"),
        ('adapt.allow=(3,)', r'^config\.adapt\.allow=\(3,\): item 0'),
    ],
)
def test_a_value_within_a_sequence_is_of_the_right_type(change, sentence):
    config = cli.load_config(f'{DIGITS}:tiny', [f'--config.{change}'])
    with pytest.raises(UserError, match=sentence):
        configs.check(config)


@pytest.mark.parametrize(
    ('key', 'value', 'sentence'),
    [
        ('batch_size', None, r'config\.batch_size=None: '),
        ('optimizer.learning_rate', '0.1', r"config\.optimizer\.learning_rate='0\.1': "),
        ('clip.size', '16', r"config\.clip\.size='16': "),
        ('clip', 3, r'config\.clip=3 should be a section with num_frames'),
        ('model', 3, r'config\.model=3 should be a section'),
        ('vary', 3, r'config\.vary=3 should be a section'),
        ('sharding.mesh.fsdp', 'all', r"config\.sharding\.mesh\.fsdp='all': "),
        ('dataset.path', None, r'config\.dataset\.path=None: '),
        ('model.num_classes', '6', r"config\.model\.num_classes='6': "),
    ],
)
def test_a_file_that_gives_a_value_of_another_type(config, key, value, sentence):
    values = config.to_dict()
    *path, name = key.split('.')
    functools.reduce(operator.getitem, path, values)[name] = value
    with pytest.raises(UserError, match=sentence):
        configs.check(ConfigDict(values))


@pytest.mark.parametrize('key', ['name', 'num_classes'])
def test_a_model_has_a_name_and_a_number_of_classes(config, key):
    values = config.to_dict()
    del values['model'][key]
    with pytest.raises(UserError, match=rf"lacks 'config\.model\.{key}'"):
        configs.check(ConfigDict(values))


def test_lists_do_for_tuples(config):
    values = config.to_dict()
    values['optimizer']['weight_decay'] = [['.*', 0]]
    values['optimizer']['learning_rate_scale'] = [['blocks/.*', [0.1, 1]], ['.*', 1]]
    values['model']['tubelet'] = [2, 8, 8]
    configs.check(ConfigDict(values))


@pytest.mark.parametrize('section', [*configs.KEYS, 'clip', 'augment', 'model'])
def test_no_section_takes_an_unknown_key_or_lacks_one(config, section):
    extended = ConfigDict(config.to_dict())
    (extended[section] if section else extended)['misspelt'] = 1
    with pytest.raises(UserError, match='misspelt'):
        configs.check(extended)
    if section == 'model':
        return  # Most of a model's fields have defaults.
    for key in config[section] if section else config:
        shortened = ConfigDict(config.to_dict())
        del (shortened[section] if section else shortened)[key]
        with pytest.raises(UserError, match=key):
            configs.check(shortened)


@pytest.mark.parametrize('value', [3, None])
def test_a_choice_that_is_no_text_is_named_as_well(config, value):
    changed = ConfigDict(config.to_dict())
    with changed.ignore_type():
        changed.optimizer.name = value
    with pytest.raises(UserError, match=f'config.optimizer.name={value}: '):
        configs.check(changed)


def test_multi_label_data_takes_the_sigmoid_loss(config):
    classes = {'action': ('a', 'b', 'c')}
    with pytest.raises(
        UserError, match=r"loss\.name='softmax' .* set config\.loss\.name=sigmoid\."
    ):
        configs.classification(config, classes, True)
    assert not configs.classification(config, classes, False).multi_label
    config.loss.name = 'sigmoid'
    classification = configs.classification(config, classes, True)
    assert classification.multi_label
    assert classification.heads == {'action': 3}


def test_differences_name_what_must_not_change(config):
    saved = config.to_dict()
    current = config.to_dict()
    current['optimizer']['learning_rate'] = 0.5
    current['log_every'] = 7
    current['profile'] = '3-4'
    current['eval']['every'] = 9
    assert configs.differences(saved, current) == ['optimizer.learning_rate: 0.002 -> 0.5']
