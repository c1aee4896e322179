"""transformers' VideoPrism and ours compute the same from the same weights, both ways."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from vjax import models, weights
from vjax.errors import UserError
from vjax.models import costs, variants
from vjax.weights import huggingface
from vjax.weights.huggingface import videoprism

torch = pytest.importorskip('torch', reason='needs the [parity] extra')
transformers = pytest.importorskip('transformers', reason='needs the [parity] extra')

SHAPE = (3, 24, 24, 3)
CONFIG = {
    'image_size': 24,
    'num_frames': 3,
    'tubelet_size': [1, 6, 6],
    'hidden_size': 16,
    'num_attention_heads': 2,
    'intermediate_size': 64,
    'num_spatial_layers': 2,
    'num_temporal_layers': 2,
    'num_auxiliary_layers': 2,
    'attn_logit_softcapping': 5.0,
}
# Theirs in double precision, ours in float32: the difference is ours alone.
ATOL = 1e-4


@functools.cache
def reference(name):
    """One of transformers' classes, in which no parameter is what it was initialised to."""
    torch.manual_seed(0)
    if name == 'VideoPrismClipModel':
        text = transformers.VideoPrismTextConfig(
            vocab_size=7, hidden_size=16, intermediate_size=16, num_hidden_layers=1,
            num_attention_heads=2, max_position_embeddings=4,
        )  # fmt: skip
        vision = transformers.VideoPrismVisionConfig(**CONFIG)
        config = transformers.VideoPrismConfig(
            text_config=text.to_dict(), vision_config=vision.to_dict()
        )
    else:
        config = transformers.VideoPrismVisionConfig(**CONFIG, num_labels=5)
    model = getattr(transformers, name)(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.4 * torch.randn_like(parameter))
    return model


def tensors(model):
    """Its state, from before `outputs` makes it double."""
    return {name: leaf.float().numpy() for name, leaf in model.state_dict().items()}


def clips(shape=SHAPE, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, (2, *shape)).astype('f')


def outputs(model, video, **kwargs):
    """Theirs for a video of ours: their pixels are in [0, 1], and channels come before height."""
    pixels = torch.tensor((video.astype(float) + 1) / 2).permute(0, 1, 4, 2, 3)
    with torch.no_grad():
        return model.double()(pixels, **kwargs)


def apply(model, params, video, **kwargs):
    model = jax.jit(functools.partial(model.apply, **kwargs))
    return model({'params': weights.unflatten(params)}, jnp.asarray(video))


def source(name, tmp_path):
    reference(name).float().save_pretrained(tmp_path / name)
    return weights.read(f'huggingface:{tmp_path / name}', None)[0]


def npz(name, path):
    """Weights of transformers' model in a file like the published ones."""
    state, config = tensors(reference(name)), CONFIG
    heads, arrays = config['num_attention_heads'], {}

    def put(module, theirs, stack=None):
        pick = lambda leaf: (  # noqa: E731
            state[f'{theirs}.{leaf}'] if stack is None
            else np.stack([state[f'{stack}.{i}.{theirs}.{leaf}'] for i in range(2)])
        )  # fmt: skip
        kernel, bias = pick('weight'), pick('bias')
        if module.endswith(('query', 'key', 'value')):
            kernel = np.swapaxes(kernel, -1, -2)
            arrays[f'{module}/w'] = kernel.reshape(*kernel.shape[:-1], heads, -1)
            arrays[f'{module}/b'] = bias.reshape(*bias.shape[:-1], heads, -1)
        elif module.endswith('post'):
            arrays[f'{module}/w'] = kernel.reshape(*kernel.shape[:-1], heads, -1)
            arrays[f'{module}/b'] = bias
        elif module.endswith(('ln', 'norm')):
            arrays[f'{module}/scale'], arrays[f'{module}/bias'] = kernel, bias
        else:
            arrays[f'{module}/kernel'] = np.swapaxes(kernel, -1, -2)
            arrays[f'{module}/bias'] = bias

    def put_layers(module, stack):
        module = f'{module}/transformers_stack/x_layers'
        put(f'{module}/layer_norm', 'layernorm_before', stack)
        for ours, theirs in zip(('query', 'key', 'value', 'post'), 'qkvo', strict=True):
            put(f'{module}/self_attention/{ours}', f'attention.{theirs}_proj', stack)
        put(f'{module}/ff_layer/layer_norm', 'layernorm_after', stack)
        put(f'{module}/ff_layer/ffn_layer1/linear', 'mlp.fc1', stack)
        put(f'{module}/ff_layer/ffn_layer2/linear', 'mlp.fc2', stack)

    vision, theirs = '', ''
    if name == 'VideoPrismVideoModel':
        vision, theirs = 'vision_encoder/', 'vision_model.'
        put_layers('auxiliary_encoder', 'auxiliary_layers')
        pooler = 'contrastive_vision_pooler/pooling_attention'
        for one, other in zip(('query', 'key', 'value', 'post'), 'qkvo', strict=True):
            put(f'{pooler}/{one}', f'head.{other}_proj')
        arrays[f'{pooler}/per_dim_scale/per_dim_scale'] = state['head.per_dim_scale']
        arrays[f'{pooler}_query'] = state['head.pooling_attention_query'][0]
        put(f'{pooler}_layer_norm', 'head_layernorm')
        arrays['text_encoder/cls_emb'] = np.zeros((1, 1, 16), 'f')
    for axis, number in (('spatial', 1), ('temporal', 2)):
        put_layers(f'{vision}{axis}_encoder', f'{theirs}{axis}_layers')
        put(f'{vision}{axis}_ln', f'{theirs}layernorm{number}')
        table = state[f'{theirs}{axis}_embeddings.position_embeddings'][0]
        arrays[f'{vision}{axis}_pos_emb/emb_var'] = table
    embedding = f'{theirs}spatial_embeddings.patch_embeddings.projection'
    kernel = state[f'{embedding}.weight'][:, :, 0].transpose(2, 3, 1, 0).reshape(-1, 16)
    arrays[f'{vision}patch_projection/linear/kernel'] = kernel
    arrays[f'{vision}patch_projection/linear/bias'] = state[f'{embedding}.bias']
    np.savez(path, **{f'params/{key}': array for key, array in arrays.items()})
    found = weights.read(f'videoprism:{path}', None)[0]
    return found._replace(model=found.model.clone(logit_cap=5.0))


def test_tokens_of_the_published_layout_equal_theirs(tmp_path):
    found = npz('VideoPrismVisionModel', tmp_path / 'weights.npz')
    video = 1.5 * clips()
    expected = outputs(reference('VideoPrismVisionModel'), video).last_hidden_state.numpy()
    tokens = apply(found.model, found.params, video, features=True)
    np.testing.assert_allclose(tokens, expected, rtol=0, atol=ATOL)
    assert np.std(expected, axis=(0, 1)).min() > 0.1
    # The soft cap is part of it.
    uncapped = found.model.clone(logit_cap=0.0)
    assert np.abs(apply(uncapped, found.params, video, features=True) - expected).max() > 1e-2


def test_embeddings_of_the_published_layout_equal_theirs(tmp_path):
    found = npz('VideoPrismVideoModel', tmp_path / 'weights.npz')
    assert found.unused == {'params/text_encoder/cls_emb': 'vjax has no text encoder'}
    check_embeddings(found)


@pytest.mark.parametrize('name', ['VideoPrismVideoModel', 'VideoPrismClipModel'])
def test_embeddings_of_hugging_face_equal_theirs(name, tmp_path):
    found = source(name, tmp_path)
    text = {key for key in tensors(reference(name)) if key.startswith('text_model.')}
    assert found.unused.keys() >= (text if name == 'VideoPrismClipModel' else set())
    check_embeddings(found, reference(name))


def check_embeddings(found, theirs=None):
    theirs = theirs or reference('VideoPrismVideoModel')
    theirs = getattr(theirs, 'video_model', theirs)
    expected = outputs(theirs, clips())
    tokens = apply(found.model, found.params, clips(), features=True)
    np.testing.assert_allclose(tokens, expected.last_hidden_state, rtol=0, atol=ATOL)

    classes = found.model.num_classes
    logits = {'head/logits/kernel': np.zeros((16, classes)), 'head/logits/bias': np.zeros(classes)}
    _, state = apply(found.model, found.params | logits, clips(), mutable='intermediates')
    embedding = state['intermediates']['head']['embedding'][0]
    normalised = embedding / jnp.linalg.norm(embedding, axis=-1, keepdims=True)
    np.testing.assert_allclose(normalised, expected.pooler_output[:, 0], rtol=0, atol=1e-5)
    theirs.config.apply_l2norm = False
    plain = outputs(theirs, clips()).pooler_output[:, 0].numpy()
    theirs.config.apply_l2norm = True
    np.testing.assert_allclose(embedding, plain, rtol=0, atol=ATOL)
    assert np.std(plain, axis=0).mean() > 1e-2


@pytest.mark.parametrize('shape', [SHAPE, (5, 18, 18, 3), (2, 30, 30, 3)])
def test_logits_equal_theirs_at_other_sizes_too(shape, tmp_path):
    name = 'VideoPrismForVideoClassification'
    found = source(name, tmp_path)
    assert found.model.position_grid == (3, 4, 4)
    video, resize = clips(shape), {'interpolate_pos_encoding': True}
    expected = outputs(reference(name), video, **resize).logits[:, 0].numpy()
    logits = apply(found.model, found.params, video)
    np.testing.assert_allclose(logits, expected, rtol=0, atol=ATOL)
    assert np.std(expected, axis=0).mean() > 1e-2


def test_an_export_is_what_was_imported(tmp_path):
    name = 'VideoPrismForVideoClassification'
    found = source(name, tmp_path)
    classes = {'label': ('a', 'b', 'c', 'd', 'e')}
    huggingface.write(tmp_path / 'export', found.model, found.params, classes, SHAPE)
    files = [load_file(tmp_path / folder / 'model.safetensors') for folder in (name, 'export')]
    assert files[0].keys() == files[1].keys()
    for key, tensor in files[0].items():
        np.testing.assert_allclose(files[1][key], tensor, rtol=0, atol=1e-6, err_msg=key)
    again = weights.read(f'huggingface:{tmp_path / "export"}', None)[0]
    assert again.model == found.model
    assert again.classes == classes


def test_an_export_loads_in_transformers(tmp_path):
    sizes = {'width': 16, 'depth': 1, 'num_heads': 4, 'mlp_dim': 64, 'tubelet': (1, 6, 6)}
    model = models.build('videoprism', num_classes=3, temporal_depth=2, **sizes)
    shape = (2, 12, 18, 3)
    rng = np.random.default_rng(1)
    shapes = weights.flatten(costs.param_shapes(model, shape))
    params = {path: (0.4 * rng.normal(size=x.shape)).astype('f') for path, x in shapes.items()}
    huggingface.write(tmp_path / 'export', model, params, None, shape)
    theirs, loading = transformers.VideoPrismForVideoClassification.from_pretrained(
        tmp_path / 'export', output_loading_info=True
    )
    assert not any(loading.values()), loading
    logits = apply(model, params, clips(shape))
    found = outputs(theirs.eval(), clips(shape))
    np.testing.assert_allclose(logits, found.logits[:, 0], rtol=0, atol=ATOL)
    assert np.std(logits, axis=0).mean() > 1e-2

    encoders = transformers.VideoPrismVisionModel.from_pretrained(tmp_path / 'export')
    tokens = apply(model, params, clips(shape), features=True)
    expected = outputs(encoders.eval(), clips(shape)).last_hidden_state
    np.testing.assert_allclose(tokens, expected, rtol=0, atol=ATOL)


def test_transformers_is_told_to_give_pixels_in_zero_to_one():
    model = models.build('videoprism', num_classes=2, **variants.video('Ti/18x1'))
    content = videoprism.processor(model, (2, 36, 54, 3), 40)
    assert content['do_rescale']
    assert content['rescale_factor'] == 1 / 255
    assert not content['do_normalize']
    assert content['size'] == {'shortest_edge': 40}
    assert content['crop_size'] == {'height': 36, 'width': 54}


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'auxiliary_depth': 1}, 'auxiliary_depth=1 has no counterpart'),
        ({'classifier': 'gap'}, "classifier='gap' has no counterpart"),
        ({'positions': 'factorised'}, "positions='factorised' has no counterpart"),
        ({'pool_width': 96}, 'pool_width=96 has no counterpart .* it is 768'),
        ({'logit_cap': 0.0}, 'logit_cap=0'),
        ({'tubelet': (2, 18, 18)}, 'tubelets of 2 frames'),
    ],
)
def test_what_hugging_face_cannot_express_is_refused(changes, message):
    fields = variants.video('Ti/18x1') | changes
    model = models.build('videoprism', num_classes=2, **fields)
    with pytest.raises(UserError, match=message):
        videoprism.config(model, None, (4, 36, 36, 3))


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'hidden_act': 'relu'}, "hidden_act='relu' is not one of"),
        ({'qkv_bias': False}, 'qkv_bias=False'),
        ({'attn_logit_softcapping': 0}, 'attn_logit_softcapping=0.0 should be above 0'),
        ({'tubelet_size': [2, 6, 6]}, 'tubelets of 2 frames'),
        ({'num_attention_heads': 3}, 'num_heads=3 does not divide'),
        ({'head_dim': 4}, 'head_dim=4 is not hidden_size=16'),
        ({'vision_config': 3}, 'vision_config=3 should be a mapping'),
    ],
)
def test_a_config_that_means_something_else_is_refused(changes, message):
    with pytest.raises(UserError, match=message):
        videoprism.model(CONFIG | changes)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda state: state.pop('head.per_dim_scale'), 'missing tensors: head.per_dim_scale$'),
        (lambda state: state.update(extra=np.zeros(2, 'f')), 'unexpected tensors: extra'),
        (
            lambda state: state.update({'head_layernorm.bias': np.zeros(7, 'f')}),
            r'head_layernorm.bias has the shape \(7,\)',
        ),
        (
            lambda state: state.pop('vision_model.layernorm1.weight'),
            'missing tensors: vision_model.layernorm1.weight',
        ),
        (
            lambda state: [state.pop(k) for k in list(state) if 'temporal_layers.1.' in k],
            'has 2 of vision_model.temporal_layers and the tensors are of 1',
        ),
    ],
)
def test_tensors_that_do_not_fit_are_named(change, message):
    state = tensors(reference('VideoPrismForVideoClassification'))
    change(state)
    with pytest.raises(UserError, match=message):
        videoprism.params(state, videoprism.model(CONFIG | {'num_labels': 5}))


@pytest.mark.parametrize('variant', ['B', 'L'])
def test_the_published_sizes_have_as_many_parameters_as_theirs(variant):
    fields = variants.video(f'{variant}/18x1')
    config = transformers.VideoPrismVisionConfig(
        hidden_size=fields['width'],
        num_spatial_layers=fields['depth'],
        num_attention_heads=fields['num_heads'],
        intermediate_size=fields['mlp_dim'],
        num_frames={'B': 16, 'L': 8}[variant],
        num_labels=400,
    )
    with torch.device('meta'):
        theirs = transformers.VideoPrismForVideoClassification(config)
    model = models.build('videoprism', num_classes=400, **fields)
    shapes = costs.param_shapes(model, (config.num_frames, 288, 288, 3))
    assert costs.count_params(shapes) == sum(p.numel() for p in theirs.parameters())
    del shapes['head']
    encoders = sum(p.numel() for p in theirs.vision_model.parameters())
    assert costs.count_params(shapes) == encoders
    if variant == 'B':
        assert encoders == 114_365_184
