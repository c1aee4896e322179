"""VideoPrism's published layout: names, axes, folded conventions, and what a damaged file says."""

import numpy as np
import pytest

from vjax import models, weights
from vjax.errors import UserError
from vjax.models import costs
from vjax.weights import videoprism

D, HEADS, MLP, PATCH, TIME, SIDE, DEPTH = 8, 2, 12, 3, 5, 2, {'spatial': 3, 'temporal': 2}
HOW = {
    'head': 'auto',
    'class_token': True,
    'tubelet': 'central_frame',
    'temporal': 'paper',
    'position_grid': (),
    'allow': (),
}


def layers(depth, rng):
    """Stacked layers: names below 'x_layers' -> array."""
    normal = lambda *shape: rng.normal(size=(depth, *shape)).astype('f')  # noqa: E731
    arrays = {'layer_norm/scale': normal(D), 'layer_norm/bias': normal(D)}
    for name in ('query', 'key', 'value', 'post'):
        arrays[f'self_attention/{name}/w'] = normal(D, HEADS, D // HEADS)
        arrays[f'self_attention/{name}/b'] = normal(
            *(D,) if name == 'post' else (HEADS, D // HEADS)
        )
    arrays |= {'ff_layer/layer_norm/scale': normal(D), 'ff_layer/layer_norm/bias': normal(D)}
    for i, (rows, columns) in enumerate(((D, MLP), (MLP, D)), 1):
        arrays[f'ff_layer/ffn_layer{i}/linear/kernel'] = normal(rows, columns)
        arrays[f'ff_layer/ffn_layer{i}/linear/bias'] = normal(columns)
    return arrays


def encoders(*, scanned=True):
    """A file of the encoders alone."""
    rng = np.random.default_rng(0)
    normal = lambda *shape: rng.normal(size=shape).astype('f')  # noqa: E731
    arrays = {
        'patch_projection/linear/kernel': normal(PATCH**2 * 3, D),
        'patch_projection/linear/bias': normal(D),
    }
    for axis, length in (('spatial', SIDE**2), ('temporal', TIME)):
        arrays[f'{axis}_pos_emb/emb_var'] = normal(length, D)
        arrays |= {f'{axis}_ln/scale': normal(D), f'{axis}_ln/bias': normal(D)}
        stack = f'{axis}_encoder/transformers_stack/x_layers'
        for name, array in layers(DEPTH[axis], rng).items():
            if scanned:
                arrays[f'{stack}/{name}'] = array
            else:
                arrays |= {f'{stack}_{i}/{name}': array[i] for i in range(len(array))}
    return {f'params/{name}': array for name, array in arrays.items()}


def contrastive(pool_width=4 * D):
    """A file of the video-text model."""
    rng = np.random.default_rng(1)
    normal = lambda *shape: rng.normal(size=shape).astype('f')  # noqa: E731
    arrays = {
        name.replace('params/', 'params/vision_encoder/'): array
        for name, array in encoders().items()
    }
    stack = 'params/auxiliary_encoder/transformers_stack/x_layers'
    arrays |= {f'{stack}/{name}': array for name, array in layers(2, rng).items()}
    pooler, head_dim = 'params/contrastive_vision_pooler/pooling_attention', pool_width // HEADS
    for name in ('query', 'key', 'value', 'post'):
        arrays[f'{pooler}/{name}/w'] = normal(D, HEADS, head_dim)
        arrays[f'{pooler}/{name}/b'] = normal(*(D,) if name == 'post' else (HEADS, head_dim))
    arrays[f'{pooler}/per_dim_scale/per_dim_scale'] = normal(head_dim)
    arrays[f'{pooler}_query'] = normal(1, D)
    arrays |= {f'{pooler}_layer_norm/{name}': normal(D) for name in ('scale', 'bias')}
    return arrays | {'params/text_encoder/token_emb/emb_var': np.zeros((9, D), 'f')}


def model(**fields):
    sizes = {'num_classes': 4, 'width': D, 'depth': 3, 'temporal_depth': 2, 'num_heads': HEADS}
    sizes |= {'mlp_dim': MLP, 'tubelet': (1, PATCH, PATCH)}
    return models.build('videoprism', **{**sizes, **fields})


def read(tmp_path, arrays, target=None):
    np.savez(tmp_path / 'weights.npz', **arrays)
    return weights.read(f'videoprism:{tmp_path / "weights.npz"}', target or model())[0]


def adapt(source, target, shape, **how):
    shapes = weights.flatten(costs.param_shapes(target, shape))
    return weights.adapt([source], target, shapes, shape, weights.Adapt(**HOW | how))


def test_the_model_is_read_from_the_shapes(tmp_path):
    source = read(tmp_path, encoders())
    assert source.model == model(position_grid=(TIME, SIDE, SIDE))
    assert source.classes is None
    assert not source.unused
    assert not any(path.startswith('head/') for path in source.params)


def test_values_are_where_they_belong(tmp_path):
    """One of each kind, against the numbers in the file."""
    arrays = encoders()
    params = read(tmp_path, arrays).params
    stack = 'params/spatial_encoder/transformers_stack/x_layers'
    np.testing.assert_array_equal(
        params['spatial_encoder/blocks/attention/query/kernel'],
        arrays[f'{stack}/self_attention/query/w'],
    )
    post = params['spatial_encoder/blocks/attention/out/kernel']
    assert post[2, 1, 3, 5] == arrays[f'{stack}/self_attention/post/w'][2, 5, 1, 3]
    np.testing.assert_array_equal(
        params['spatial_encoder/blocks/attention_norm/scale'],
        arrays[f'{stack}/layer_norm/scale'] + 1,
    )
    np.testing.assert_array_equal(
        params['temporal_encoder/blocks/mlp_norm/bias'],
        arrays[f'{stack}/ff_layer/layer_norm/bias'.replace('spatial', 'temporal')],
    )
    np.testing.assert_array_equal(
        params['temporal_encoder/norm/scale'], arrays['params/temporal_ln/scale'] + 1
    )
    table = params['spatial_encoder/position_embedding/table']
    np.testing.assert_array_equal(table[0], arrays['params/spatial_pos_emb/emb_var'])
    np.testing.assert_array_equal(
        params['spatial_encoder/blocks/mlp/down/kernel'],
        arrays[f'{stack}/ff_layer/ffn_layer2/linear/kernel'],
    )


def test_pixels_in_minus_one_to_one_are_embedded_like_theirs_in_zero_to_one(tmp_path):
    arrays = encoders()
    params = read(tmp_path, arrays).params
    pixels = np.random.default_rng(2).uniform(size=(PATCH, PATCH, 3)).astype('f')
    theirs = pixels.ravel() @ arrays['params/patch_projection/linear/kernel']
    ours = (2 * pixels - 1).ravel() @ params['embedding/kernel'].reshape(-1, D)
    np.testing.assert_allclose(
        ours + params['embedding/bias'],
        theirs + arrays['params/patch_projection/linear/bias'],
        atol=1e-5,
    )
    unfolded = videoprism.to_unit(params['embedding/kernel'], params['embedding/bias'])
    kernel = arrays['params/patch_projection/linear/kernel'].reshape(1, PATCH, PATCH, 3, D)
    np.testing.assert_array_equal(unfolded[0], kernel)
    np.testing.assert_allclose(
        unfolded[1], arrays['params/patch_projection/linear/bias'], atol=1e-6
    )


def test_layers_that_are_not_scanned_are_stacked(tmp_path):
    scanned, apart = (read(tmp_path, encoders(scanned=scanned)) for scanned in (True, False))
    assert apart.model == scanned.model
    assert apart.params.keys() == scanned.params.keys()
    for path, array in scanned.params.items():
        np.testing.assert_array_equal(apart.params[path], array, err_msg=path)


def test_a_contrastive_file_has_auxiliary_layers_and_pooling_and_its_text_is_unused(tmp_path):
    arrays = contrastive()
    source = read(tmp_path, arrays)
    assert source.model == model(auxiliary_depth=2, position_grid=(TIME, SIDE, SIDE))
    assert source.unused == {'params/text_encoder/token_emb/emb_var': 'vjax has no text encoder'}
    pooler = 'params/contrastive_vision_pooler/pooling_attention'
    head = {path: array for path, array in source.params.items() if path.startswith('head/')}
    assert {path: array.shape for path, array in head.items() if 'query' in path} == {
        'head/pool/attention/query/kernel': (D, HEADS, 16),
        'head/pool/attention/query/bias': (HEADS, 16),
    }
    np.testing.assert_array_equal(head['head/pool/probe'][0], arrays[f'{pooler}_query'])
    np.testing.assert_array_equal(
        head['head/pool/attention/per_dim_scale'], arrays[f'{pooler}/per_dim_scale/per_dim_scale']
    )
    np.testing.assert_array_equal(
        head['head/pool/norm/scale'], arrays[f'{pooler}_layer_norm/scale'] + 1
    )


@pytest.mark.parametrize(
    ('width', 'given', 'expected'), [(24, 0, 24), (32, 0, 0), (32, 32, 32), (24, 32, 24)]
)
def test_the_width_of_the_pooling_is_the_files(width, given, expected, tmp_path):
    source = read(tmp_path, contrastive(width), model(pool_width=given, auxiliary_depth=2))
    assert source.model.pool_width == expected


def test_encoders_leave_pooling_and_classifier_at_their_initialisation(tmp_path):
    shape = (TIME, SIDE * PATCH, SIDE * PATCH, 3)
    source = read(tmp_path, encoders())
    arrays, report = adapt(source, model(), shape)
    assert arrays.keys() == source.params.keys()
    assert set(report.left.values()) == {'the source has no classifier'}
    assert 'head/pool/probe' in report.left
    assert 'head/logits/kernel' in report.left
    assert not report.changed


def test_a_contrastive_files_pooling_is_loaded_and_its_classifier_left(tmp_path):
    shape = (TIME, SIDE * PATCH, SIDE * PATCH, 3)
    target = model(auxiliary_depth=2)
    source = read(tmp_path, contrastive(), target)
    arrays, report = adapt(source, target, shape)
    assert arrays.keys() == source.params.keys()
    assert report.left.keys() == {'head/logits/kernel', 'head/logits/bias'}
    assert report.unused == source.unused
    with pytest.raises(UserError, match='auxiliary_depth=2 there and 0 here'):
        adapt(source, model(), shape)


def test_a_model_that_resizes_its_positions_takes_the_files_as_they_are(tmp_path):
    source = read(tmp_path, encoders())
    shape = (2, 4 * PATCH, 3 * PATCH, 3)
    _, report = adapt(source, model(position_grid=(TIME, SIDE, SIDE)), shape)
    assert not report.changed
    arrays, report = adapt(source, model(), shape)
    assert report.changed.keys() == {
        'spatial_encoder/position_embedding/table',
        'temporal_encoder/position_embedding/table',
    }
    assert arrays['spatial_encoder/position_embedding/table'].shape == (1, 12, D)


SPATIAL = 'params/spatial_encoder/transformers_stack/x_layers'
DAMAGES = {
    "unexpected 'params/decoder/kernel'": {'params/decoder/kernel': np.zeros(3, 'f')},
    "unexpected 'spatial_ln/scale'": {'spatial_ln/scale': np.zeros(D, 'f')},
    "unexpected 'params/spatial_ln/scale'": {'params/spatial_ln/scale': np.zeros(D, 'i4')},
    'has spatial_encoder/norm/bias twice': {'params/vision_encoder/spatial_ln/bias': np.zeros(D)},
    'no embedding/kernel: it is no VideoPrism': {'params/patch_projection/linear/kernel': None},
    r'kernel of shape \(27,\): it is no': {'params/patch_projection/linear/kernel': np.zeros(27)},
    'square patches of three colours': {'params/patch_projection/linear/kernel': np.zeros((16, D))},
    'in 3 places': {'params/spatial_pos_emb/emb_var': np.zeros((3, D))},
    'temporal_encoder/norm/bias is missing and should be': {'params/temporal_ln/bias': None},
    r'mlp/down/bias is \(3, 9\) and should be \(3, 8\)': {
        f'{SPATIAL}/ff_layer/ffn_layer2/linear/bias': np.zeros((3, 9))
    },
    r'attention/out/kernel is \(3, 8\) and should be': {
        f'{SPATIAL}/self_attention/post/w': np.zeros((3, 8))
    },
    'embedding/bias is missing': {'params/patch_projection/linear/bias': None},
    'not every layer of spatial_encoder/blocks/mlp_norm/bias once': {
        f'{SPATIAL}_7/ff_layer/layer_norm/bias': np.zeros(D)
    },
    'num_heads=3 does not divide': {f'{SPATIAL}/self_attention/query/w': np.zeros((3, D, 3, 4))},
    'pool/attention/key/bias is missing': {
        'params/contrastive_vision_pooler/pooling_attention/query/b': np.zeros((HEADS, 16))
    },
}


@pytest.mark.parametrize('sentence', DAMAGES)
def test_a_damaged_file_is_one_sentence(sentence, tmp_path):
    arrays = encoders() | DAMAGES[sentence]
    arrays = {name: array for name, array in arrays.items() if array is not None}
    with pytest.raises(UserError, match=sentence):
        read(tmp_path, arrays)


def test_another_model_is_refused_by_name(tmp_path):
    vivit = models.build(
        'vivit', num_classes=4, width=D, depth=1, num_heads=2, mlp_dim=MLP, tubelet=(1, 3, 3),
        gelu='erf',
    )  # fmt: skip
    source = read(tmp_path, encoders(), vivit)
    with pytest.raises(UserError, match='ViViT cannot start from VideoPrism'):
        adapt(source, vivit, (TIME, SIDE * PATCH, SIDE * PATCH, 3))
