"""Scenic's checkpoints: which model a file holds is read from it, and its parameters are that model's."""

import dataclasses
import functools
import json
import tracemalloc
from pathlib import Path

import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vjax import models, weights
from vjax.errors import UserError
from vjax.models import costs
from vjax.training import optimizer
from vjax.weights import scenic
from vjax.weights.adapt import FREE_FIELDS
from vjax.weights.files import msgpack
from vjax.weights.scenic import checkpoint
from vjax.weights.trees import flatten, unflatten

SCENIC = Path(__file__).parents[2] / '../shared/scenic'
LEGACY = SCENIC / 'legacy_checkpoints/vivit_spacetime'
TREES = sorted((SCENIC / 'param_trees').glob('[a-z]*.json'))
ORACLES = sorted((SCENIC / 'oracles').glob('*.json'))

SIZES = {'num_classes': 5, 'width': 16, 'depth': 3, 'num_heads': 2, 'mlp_dim': 24}
VIVIT = {**SIZES, 'tubelet': (2, 8, 8)}
GAP = {'classifier': 'gap'}
SAMPLED = {'embedding': 'uniform_frames', 'num_sampled_frames': 3, 'tubelet': (1, 8, 8)}
TEMPORAL = {'temporal_depth': 2, 'temporal_num_heads': 4, 'temporal_mlp_dim': 8}
MTV = {
    'num_classes': 5,
    'widths': (8, 12),
    'depths': (2, 3),
    'num_heads': (2, 3),
    'mlp_dims': (16, 24),
    'tubelets': ((4, 8, 8), (2, 8, 8)),
    'fusion_layers': (1, 2),
    'global_depth': 1,
    'global_num_heads': 2,
    'global_mlp_dim': 24,
}
COLUMNS = ('widths', 'depths', 'num_heads', 'mlp_dims', 'tubelets')
EQUAL = {'widths': (8, 8), 'num_heads': (2, 2)}
LEARNER = {**SIZES, 'learned_tokens': 4, 'location': 1}
# Every model that Scenic has, by name and fields.
MODELS = {
    'vit': ('vit', {**SIZES, 'patch': (8, 8)}),
    'vit_gap_representation': (
        'vit',
        {**SIZES, 'patch': (8, 4), 'representation_size': 7, **GAP},
    ),
    'vit_map': ('vit', {**SIZES, 'patch': (8, 8), 'classifier': 'map'}),
    'model_1': ('vivit', VIVIT),
    'model_1_gap': ('vivit', {**VIVIT, **GAP}),
    'model_1_frames': ('vivit', {**VIVIT, **SAMPLED}),
    'model_2': ('vivit', {**VIVIT, **TEMPORAL, 'attention': 'factorised_encoder'}),
    'model_2_like_space': ('vivit', {**VIVIT, 'attention': 'factorised_encoder', **GAP}),
    'model_2_like_space_said': (
        'vivit',
        {**VIVIT, 'attention': 'factorised_encoder', 'temporal_num_heads': 2},
    ),
    'model_2_frames': ('vivit', {**VIVIT, **SAMPLED, 'attention': 'factorised_encoder'}),
    'model_3': (
        'vivit',
        {
            **VIVIT,
            **GAP,
            'attention': 'factorised_self_attention',
            'attention_order': 'space_time',
        },
    ),
    'model_4': ('vivit', {**VIVIT, **GAP, 'attention': 'factorised_dot_product'}),
    'average_pool': ('vivit', {**VIVIT, **TEMPORAL, 'attention': 'average_pool'}),
    'token_learner': ('token_learner', {**LEARNER, 'patch': (8, 8)}),
    'token_learner_v10_fuser': (
        'token_learner',
        {**LEARNER, 'patch': (8, 8), 'version': '1.0', 'fuser': True, 'pooling': 'mean'},
    ),
    'token_learner_default_location': (
        'token_learner',
        {**LEARNER, 'patch': (8, 8), 'fuser': True, 'location': -1},
    ),
    'token_learner_video': ('token_learner_video', {**LEARNER, 'tubelet': (2, 8, 8)}),
    'token_learner_video_fuser': (
        'token_learner_video',
        {**LEARNER, 'tubelet': (2, 8, 8), 'fuser': True},
    ),
    'mtv': ('mtv', MTV),
    'mtv_gap': ('mtv', {**MTV, **GAP}),
    'mtv_ascending_key': (
        'mtv',
        {**MTV, 'fuse_in_descending_order': False, 'cross_view_width': 'key'},
    ),
    'mtv_equal_key': ('mtv', {**MTV, **EQUAL, 'cross_view_width': 'key'}),
    'mtv_heads_tell': ('mtv', {**MTV, **EQUAL, 'num_heads': (2, 4), 'cross_view_width': 'key'}),
    'mtv_over_time': ('mtv', {**MTV, 'merge': 'time', 'global_width': 10}),
    'mtv_alone': ('mtv', {**MTV, 'fusion': 'none'}),
    'mtv_one_view': ('mtv', {**MTV, **{name: MTV[name][:1] for name in COLUMNS}}),
    'mtv_bottleneck': ('mtv', {**MTV, 'fusion': 'bottleneck', 'bottleneck_tokens': 3}),
    'mtv_bottleneck_equal': (
        'mtv',
        {**MTV, **EQUAL, 'fusion': 'bottleneck', 'fuse_in_descending_order': False},
    ),
}


def build(name):
    kind, fields = MODELS[name]
    model = models.build(kind, **fields)
    shape = (32, 32, 3) if hasattr(model, 'patch') else (8, 32, 32, 3)
    return model, costs.param_shapes(model, shape)


def drawn(shapes, seed=0):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype('f'), shapes)


def zeros(shapes):
    """Of the shapes, without the memory."""
    return jax.tree.map(lambda leaf: np.broadcast_to(np.float32(0), leaf.shape), shapes)


def same(one, other):
    """Whether models are equal but for what training alone makes use of."""
    names = [field.name for field in dataclasses.fields(one)]
    names = [name for name in names if name not in FREE_FIELDS - {'num_classes', 'classifier'}]
    assert type(one) is type(other)
    assert {name: getattr(one, name) for name in names} == {
        name: getattr(other, name) for name in names
    }


# What a run adds to the parameters, as flax.optim, optax and flax before Linen left it.
def layout_a(flat):
    state = {'step': 3, 'param_states': {'momentum': np.ones(7, 'f')}}
    return {'optimizer': {'state': state, 'target': unflatten(flat)}, 'global_step': 3, 'rng': None}


def layout_a_bare(flat):
    return {'optimizer': {'target': unflatten(flat)}}


def layout_b(flat):
    state = optax.sgd(0.1, momentum=0.9).init(unflatten(flat))
    state = flax.serialization.to_state_dict(state)
    rest = {'global_step': 3, 'model_state': {}, 'metadata': {'chrono': {'steps': 2.5}}}
    return {'params': unflatten(flat), 'opt_state': state, **rest}


def layout_c(flat):
    block = {'MultiHeadDotProductAttention_0': 1, 'LayerNorm_1': 2, 'MlpBlock_0': 3}
    learner = {'LayerNorm_0': 2}  # Beside layers that have names.
    old = {}
    for name, leaf in flat.items():
        for module, number in (block if 'encoderblock_' in name else learner).items():
            name = name.replace(f'/{module}/', f'/{module[:-1]}{number}/')
        old[name] = leaf
    return {'optimizer': {'target': {'params': unflatten(old)}}}


LAYOUTS = [layout_a, layout_a_bare, layout_b, layout_c]


def write(path, tree):
    path.write_bytes(flax.serialization.to_bytes(tree))
    return path


@pytest.mark.parametrize('name', MODELS)
def test_parameters_tell_their_model(name):
    model, shapes = build(name)
    same(scenic.infer(scenic.flat_params(zeros(shapes), model), model), model)


OTHERS = {
    'mtv': {'cross_view_width': 'key', 'fuse_in_descending_order': False, 'fusion_layers': (0,)},
    'mtv_ascending_key': {'cross_view_width': 'query', 'fuse_in_descending_order': True},
    'mtv_heads_tell': {'cross_view_width': 'query'},
    'mtv_bottleneck': {'fusion': 'none', 'bottleneck_tokens': 9, 'fuse_in_descending_order': False},
    'mtv_over_time': {'merge': 'channel', 'global_width': 0, 'widths': (4, 4, 4)},
    'model_2': {'temporal_depth': 9, 'temporal_num_heads': 1, 'attention': 'average_pool'},
    'model_2_frames': {'num_sampled_frames': 5},
    'token_learner_v10_fuser': {'location': -1, 'version': '1.1', 'fuser': False},
}


@pytest.mark.parametrize('name', OTHERS)
def test_what_parameters_tell_is_not_taken_from_the_config(name):
    model, shapes = build(name)
    flat = scenic.flat_params(zeros(shapes), model)
    same(scenic.infer(flat, model.clone(**OTHERS[name])), model)


def test_two_frames_of_eight_are_three():
    """An accident of Scenic's: see `vivit.uniform_frames`."""
    model = build_only('model_2_frames').clone(num_sampled_frames=2)
    flat = scenic.flat_params(zeros(costs.param_shapes(model, (8, 32, 32, 3))), model)
    assert flat['TemporalTransformer/posembed_input/pos_embedding'].shape[1] == 1 + 3
    same(scenic.infer(flat, model), model)


FILES = [
    ('vit_map', layout_c),
    ('model_1_frames', layout_a),
    ('model_3', layout_b),
    ('model_4', layout_a_bare),
    ('average_pool', layout_c),
    ('token_learner_v10_fuser', layout_b),
    ('token_learner_video', layout_a),
    ('mtv_over_time', layout_b),
]


@pytest.mark.parametrize(('name', 'layout'), FILES)
def test_a_model_is_read_from_its_file(name, layout, tmp_path):
    model, shapes = build(name)
    params = drawn(shapes)
    tree = layout(scenic.flat_params(params, model))
    source = checkpoint.read(write(tmp_path / 'any_name', tree), model)
    same(source.model, model)
    expected = flatten(params)
    assert source.params.keys() == expected.keys()
    for path in expected:
        np.testing.assert_array_equal(source.params[path], expected[path])


@pytest.mark.parametrize('layout', LAYOUTS, ids=lambda layout: layout.__name__)
def test_layouts(layout, tmp_path):
    model, shapes = build('model_2')
    params = drawn(shapes)
    tree = layout(scenic.flat_params(params, model))
    (tmp_path / 'run').mkdir()
    path = write(tmp_path / 'run/checkpoint_7', tree)
    for place in (path, path.parent):
        (source,) = weights.read(f'scenic:{place}', model)
        jax.tree.map(np.testing.assert_array_equal, unflatten(source.params), params)
        assert source.name == f'scenic:{place}'
    expected = {
        'layout_a': {'optimizer/state', 'global_step', 'rng'},
        'layout_b': {'opt_state', 'global_step', 'model_state', 'metadata'},
    }
    assert set(source.unused) == expected.get(layout.__name__, set())
    assert source.unused.get('opt_state', "the optimiser's state") == "the optimiser's state"


@pytest.mark.parametrize('path', TREES, ids=lambda path: path.stem)
def test_models_of_published_sizes(path):
    tree = json.loads(path.read_text())
    constructor = dict(tree['constructor'])
    model = scenic.model(constructor.pop('module'), constructor)
    flat = {
        name: np.broadcast_to(np.float32(0), shape) for name, (shape, _) in tree['tree'].items()
    }
    assert scenic.names.linen(flat).keys() == flat.keys()
    found = scenic.infer(flat, model)
    same(found, model)
    # What a file leaves open apart, the model to be loaded has no part in it.
    other = scenic.infer(flat, models.build('vit', **SIZES, patch=(8, 8)))
    assert type(other) is type(model)
    assert other.num_classes == model.num_classes


@pytest.mark.parametrize('path', ORACLES, ids=lambda path: path.stem)
def test_files_of_oracles_are_the_models_that_scenic_built(path, tmp_path):
    oracle, arrays = json.loads(path.read_text()), np.load(path.with_suffix('.npz'))
    flat = {k.removeprefix('params/'): arrays[k] for k in arrays if k.startswith('params/')}
    model = scenic.model(oracle['module'], oracle['constructor'])
    source = checkpoint.read(write(tmp_path / 'a', {'params': unflatten(flat)}), model)
    same(source.model, model)
    # With these parameters a model's logits are Scenic's: see test_scenic.py.
    params = scenic.params(flat, model)
    jax.tree.map(np.testing.assert_array_equal, unflatten(source.params), params)


needs_legacy = pytest.mark.skipif(
    not LEGACY.exists(), reason='the old checkpoint is not beside this checkout'
)
OPTIMIZER = {
    'name': 'sgd',
    'learning_rate': 0.1,
    'warmup_fraction': 0.0,
    'decay': 'cosine',
    'end_learning_rate': 0.1,
    'momentum': 0.9,
    'b1': 0.9,
    'b2': 0.999,
    'moment_dtype': 'float32',
    'clip_norm': 0.0,
    'weight_decay': (('.*', 0.0),),
    'learning_rate_scale': (('.*', 1.0),),
    'freeze': (),
}


@needs_legacy
def test_a_genuine_file_goes_on_as_it_did():
    """A checkpoint of Scenic with flax 0.5, written after one step of SGD, and that step again."""
    path = LEGACY / 'checkpoint_1'
    expected = np.load(LEGACY / 'expected.npz')
    like = models.build('vivit', **{**SIZES, 'depth': 7, 'num_classes': 3}, tubelet=(4, 4, 4))
    (source,) = weights.read(f'scenic:{path}', like)
    model, after = source.model, unflatten(source.params)
    assert (model.depth, model.width, model.num_classes, model.tubelet) == (2, 32, 10, (2, 8, 8))
    assert set(source.unused) > {'optimizer/state', 'rng'}

    place = 'optimizer/state/param_states/'
    arrays, _ = msgpack.read(path, (place.removesuffix('/'),))
    momentum = {key.removeprefix(place).removesuffix('/momentum'): x for key, x in arrays.items()}
    # The first step's momentum is its gradient.
    gradients = unflatten(checkpoint.params(momentum, model))
    before = jax.tree.map(lambda param, gradient: param + 0.1 * gradient, after, gradients)

    @jax.jit
    @functools.partial(jax.value_and_grad, has_aux=True)
    def loss(params):
        logits = model.apply({'params': params}, jnp.asarray(expected['input']))
        labels = jnp.array([3, 7])
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), logits

    (_, logits), _ = loss(after)
    np.testing.assert_allclose(logits, expected['logits_after_one_step'], rtol=0, atol=2e-5)
    (value, logits), ours = loss(before)
    np.testing.assert_allclose(logits, expected['logits_before'], rtol=0, atol=2e-5)
    np.testing.assert_allclose(value, expected['loss_before'], rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=2e-5), ours, gradients)

    transformation, _ = optimizer.build(before, 10, **OPTIMIZER)

    @jax.jit
    def step(params, gradients):
        updates, _ = transformation.update(gradients, transformation.init(params), params)
        return optax.apply_updates(params, updates)

    (_, logits), _ = loss(step(before, ours))
    np.testing.assert_allclose(logits, expected['logits_after_one_step'], rtol=0, atol=2e-5)


HOW = weights.Adapt('auto', True, 'central_frame', 'paper', (), ())


def load(source, model, shape=(8, 32, 32, 3)):
    return weights.adapt([source], model, flatten(costs.param_shapes(model, shape)), shape, HOW)


@pytest.mark.parametrize(
    ('name', 'changes', 'message'),
    [
        ('model_2', {'temporal_depth': 24}, 'temporal_depth=2 there and 24 here'),
        ('model_2', {'temporal_mlp_dim': 24}, 'temporal_mlp_dim=8 there and 24 here'),
        ('model_1', {'width': 32, 'depth': 4}, 'depth=3 there and 4 here, width=16 there and 32'),
        ('model_1', {'gelu': 'erf'}, 'trained with gelu=tanh and config.model.gelu is erf'),
        ('model_3', {'attention': 'factorised_dot_product'}, 'factorised_self_attention there'),
        ('mtv', {'fusion_layers': (1,)}, r'fusion_layers=\(1, 2\) there and \(1,\) here'),
        ('token_learner_video', {'learned_tokens': 8}, 'learned_tokens=4 there and 8 here'),
        (
            'token_learner_video_fuser',
            {'location': -1},
            'location=1 there and -1 here',
        ),
    ],
)
def test_another_size_than_the_config_is_named(name, changes, message, tmp_path):
    model, shapes = build(name)
    flat = scenic.flat_params(zeros(shapes), model)
    model = model.clone(**changes)
    source = checkpoint.read(write(tmp_path / 'a', layout_a(flat)), model)
    with pytest.raises(UserError, match=message):
        load(source, model)


@pytest.mark.parametrize(
    ('name', 'tables'),
    [
        ('model_1', ['encoder/position_embedding/table']),
        ('model_2', ['temporal_encoder/position_embedding/table']),
        ('model_3', ['encoder/position_embedding/table']),
        (
            'mtv',
            [
                'global_encoder/position_embedding/table',
                'view_0/class_token/table',
                'view_1/class_token/table',
            ],
        ),
    ],
)
def test_another_number_of_frames_is_said(name, tables, tmp_path):
    model, shapes = build(name)
    flat = scenic.flat_params(drawn(shapes), model)
    source = checkpoint.read(write(tmp_path / 'a', layout_b(flat)), model)
    _, report = load(source, model)
    assert not report.changed
    arrays, report = load(source, model, (16, 32, 32, 3))
    assert sorted(report.changed) == tables
    assert all('resized' in why for why in report.changed.values())
    shapes = flatten(costs.param_shapes(model, (16, 32, 32, 3)))
    assert {path: array.shape for path, array in arrays.items()} == {
        path: leaf.shape for path, leaf in shapes.items() if path not in report.left
    }


def test_a_video_model_gets_an_image_models_vit():
    vit, shapes = build('vit')
    flat = scenic.flat_params(zeros(shapes), vit)
    for name in MODELS:
        same(scenic.infer(flat, build_only(name)), vit)
    # Models of sampled frames embed images, too: the same number of positions may be either's.
    video = build_only('model_1_frames').clone(position_grid=(4, 2, 2))
    assert type(scenic.infer(flat, video)).__name__ == 'ViViT'


def build_only(name):
    kind, fields = MODELS[name]
    return models.build(kind, **fields)


def test_a_file_without_a_head(tmp_path):
    model, shapes = build('model_2')
    params = drawn(shapes)
    flat = scenic.flat_params(params, model)
    flat = {name: leaf for name, leaf in flat.items() if 'output_projection' not in name}
    source = checkpoint.read(write(tmp_path / 'a', layout_b(flat)), model)
    del params['head']
    assert source.params.keys() == flatten(params).keys()
    _, report = load(source, model)
    assert report.left['head/logits/kernel'] == 'the source has no classifier'


def test_what_the_model_lacks_keeps_its_name(tmp_path):
    model, shapes = build('model_1')
    flat = scenic.flat_params(zeros(shapes), model) | {'extra/scale': np.ones(3, 'f')}
    source = checkpoint.read(write(tmp_path / 'a', layout_b(flat)), model)
    with pytest.raises(UserError, match=r'what config.model lacks: extra'):
        load(source, model)


def test_parameters_that_lack_something_are_named(tmp_path):
    model, shapes = build('model_1')
    flat = scenic.flat_params(zeros(shapes), model)
    for gone, message in {
        'Transformer/encoderblock_1/LayerNorm_0/scale': 'missing from the Scenic parameters: Trans',
        'embedding/kernel': 'no ViT, ViViT, MTV or TokenLearner of Scenic consists of Transformer',
        'Transformer/encoderblock_0/MlpBlock_0/Dense_0/kernel': 'should have 2 axes, and is missing',
    }.items():
        rest = {name: leaf for name, leaf in flat.items() if name != gone}
        path = write(tmp_path / 'a', layout_b(rest))
        with pytest.raises(UserError, match=f'scenic:.*/a is not a model .*: .*{message}'):
            checkpoint.read(path, model)


def test_files_that_are_no_checkpoints(tmp_path):
    model = build_only('model_1')
    path = write(tmp_path / 'a', {'weights': {'a': np.zeros(1)}, 'step': 3})
    message = 'has neither optimizer/target nor params, and weights, step: it is no checkpoint'
    with pytest.raises(UserError, match=message):
        checkpoint.read(path, model)
    tree = {'x': np.zeros(1)}
    path = write(tmp_path / 'a', {'optimizer': {'target': tree}, 'params': tree})
    with pytest.raises(UserError, match='has optimizer/target and params'):
        checkpoint.read(path, model)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match='is truncated'):
        checkpoint.read(path, model)
    np.savez(tmp_path / 'b.npz', a=np.zeros(3))
    with pytest.raises(UserError, match=r'is an .npz file, .*: try vit:.*/b.npz'):
        checkpoint.read(tmp_path / 'b.npz', model)
    with pytest.raises(UserError, match=r'is a folder with no file checkpoint\*'):
        checkpoint.read(tmp_path, model)
    (tmp_path / 'checkpoint_1').mkdir()
    with pytest.raises(UserError, match='is a folder, as Orbax writes them'):
        checkpoint.read(tmp_path, model)
    (tmp_path / 'checkpoint_2').touch()
    with pytest.raises(UserError, match='checkpoint_1, checkpoint_2: name one of them'):
        checkpoint.read(tmp_path, model)


def test_the_optimisers_state_takes_no_memory(tmp_path):
    model, shapes = build('model_1')
    flat = scenic.flat_params(drawn(shapes), model)
    state = {str(i): np.zeros(2**20, 'f') for i in range(8)}
    tree = {'optimizer': {'state': state, 'target': unflatten(flat)}}
    path = write(tmp_path / 'a', tree)
    del state, tree
    checkpoint.read(path, model)  # What is traced and kept once is no matter of the file.
    tracemalloc.start()
    checkpoint.read(path, model)
    assert tracemalloc.get_traced_memory()[1] < 2**22 < path.stat().st_size / 8
    tracemalloc.stop()


def test_sampled_frames_whose_tokens_are_as_many_as_an_images(tmp_path):
    """64 tokens: 8 x 8 of an image, or 4 frames of 4 x 4; the clip that the model is for tells."""
    fields = {'width': 16, 'depth': 1, 'num_heads': 2, 'mlp_dim': 32, 'classifier': 'gap'}
    sampled = {**SAMPLED, 'num_sampled_frames': 4}
    model = models.build('vivit', num_classes=3, **fields, **sampled)
    clip = (8, 32, 32, 3)
    flat = scenic.flat_params(zeros(costs.param_shapes(model, clip)), model)
    path = write(tmp_path / 'file', layout_b(flat))
    assert type(weights.read(f'scenic:{path}', model)[0].model).__name__ == 'ViT'
    (source,) = weights.read(f'scenic:{path}', model, clip)
    same(source.model, model)
