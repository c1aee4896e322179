"""Hugging Face's ViT and ViViT and ours compute the same from the same weights, both ways.

References run in double precision: torch's float32 on a CPU was seen to err by 1e-4, now and then.
"""

import json
from pathlib import Path

import jax
import numpy as np
import pytest

from vjax import models
from vjax.models import costs
from vjax.weights import huggingface, scenic, trees
from vjax.weights.huggingface import vit
from vjax.weights.scenic import names

torch = pytest.importorskip('torch', reason='needs the [parity] extra')
transformers = pytest.importorskip('transformers', reason='needs the [parity] extra')
safetensors = pytest.importorskip('safetensors.numpy')

MAPPING = Path(__file__).parents[2] / '../shared/scenic/hf_vivit_b_mapping.json'
SIZES = {
    'hidden_size': 32,
    'num_hidden_layers': 3,
    'num_attention_heads': 4,
    'intermediate_size': 48,
    'num_labels': 7,
}
IMAGE, VIDEO = 'ViTForImageClassification', 'VivitForVideoClassification'
# Name -> class, config, shape of an input.
CASES = {
    'vit': (IMAGE, {'image_size': 32, 'patch_size': 8}, (32, 32, 3)),
    'vit, unusual': (
        IMAGE,
        {
            'image_size': [32, 48],
            'patch_size': [8, 16],
            'hidden_act': 'gelu_new',
            'layer_norm_eps': 1e-2,
            'qkv_bias': False,
        },
        (32, 48, 3),
    ),
    'vivit': (
        VIDEO,
        {'image_size': 32, 'num_frames': 8, 'tubelet_size': [2, 8, 8]},
        (8, 32, 32, 3),
    ),
    'vivit, unusual': (
        VIDEO,
        {
            'image_size': [16, 32],
            'num_frames': 8,
            'tubelet_size': [4, 8, 16],
            'hidden_act': 'gelu',
            'layer_norm_eps': 1e-2,
            'qkv_bias': False,
        },
        (8, 16, 32, 3),
    ),
}
OURS = {'num_classes': 7, 'width': 32, 'depth': 3, 'num_heads': 4, 'mlp_dim': 48}
# Name -> model, class, shape of an input.
EXPORTS = {
    'vit': (models.build('vit', patch=(8, 8), **OURS), IMAGE, (32, 32, 3)),
    'vit, unusual': (
        models.build('vit', patch=(8, 16), gelu='erf', norm_epsilon=1e-2, **OURS),
        IMAGE,
        (32, 48, 3),
    ),
    'vivit': (models.build('vivit', tubelet=(2, 8, 8), **OURS), VIDEO, (8, 32, 32, 3)),
    'vivit, unusual': (
        models.build('vivit', tubelet=(4, 8, 16), gelu='erf', norm_epsilon=1e-2, **OURS),
        VIDEO,
        (8, 16, 32, 3),
    ),
}


def randomise(model):
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model.eval()


def inputs(shape):
    return np.random.default_rng(0).uniform(-1, 1, (2, *shape)).astype('f')


def reference_logits(model, batch):
    """In double precision, with channels where PyTorch has them."""
    with torch.no_grad():
        return model.double()(torch.tensor(np.moveaxis(batch, -1, -3)).double()).logits.numpy()


def ours(model, flat, batch, **options):
    apply = jax.jit(model.apply, static_argnames='features')
    return apply({'params': trees.unflatten(flat)}, batch, **options)


@pytest.fixture(scope='module', params=CASES)
def saved(request, tmp_path_factory):
    """A reference, the folder that it has saved itself in, and the shape of its inputs."""
    architecture, config, shape = CASES[request.param]
    cls = getattr(transformers, architecture)
    reference = randomise(cls(cls.config_class(**SIZES | config)))
    path = tmp_path_factory.mktemp('saved')
    reference.save_pretrained(path)
    return reference, path, shape


def test_logits_of_what_is_read_equal_hugging_faces(saved):
    reference, path, shape = saved
    source = huggingface.read(path)
    expected = reference_logits(reference, inputs(shape))
    logits = ours(source.model, source.params, inputs(shape))
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4)
    assert np.std(expected, axis=0).mean() > 0.1


def test_files_name_tensors_otherwise_than_memory(saved):
    reference, path, _ = saved
    source = huggingface.read(path)
    memory = {name: leaf.float().numpy() for name, leaf in reference.state_dict().items()}
    assert memory.keys() != safetensors.load_file(path / 'model.safetensors').keys()
    params = trees.flatten(huggingface.params(memory, source.model))
    assert params.keys() == source.params.keys()
    for name, leaf in source.params.items():
        np.testing.assert_array_equal(params[name], leaf)


def test_what_is_read_and_written_is_the_same_file_and_model(saved, tmp_path):
    reference, path, shape = saved
    source = huggingface.read(path)
    huggingface.write(tmp_path / 'out', source.model, source.params, source.classes, shape)
    before = safetensors.load_file(path / 'model.safetensors')
    after = safetensors.load_file(tmp_path / 'out/model.safetensors')
    for name, tensor in before.items():
        np.testing.assert_array_equal(after[name], tensor)
    # Biases that were not there are zeros.
    assert bool(after.keys() - before.keys()) == (not reference.config.qkv_bias)
    assert not any(after[name].any() for name in after.keys() - before.keys())
    again = load(type(reference), tmp_path / 'out')
    batch = inputs(shape)
    np.testing.assert_allclose(
        reference_logits(again, batch), reference_logits(reference, batch), rtol=0, atol=1e-7
    )


def test_shards_are_read_together(saved, tmp_path):
    reference, path, _ = saved
    reference.float().save_pretrained(tmp_path, max_shard_size='20KB')
    assert len(list(tmp_path.glob('*.safetensors'))) > 2
    source = huggingface.read(tmp_path)
    for name, leaf in huggingface.read(path).params.items():
        np.testing.assert_array_equal(source.params[name], leaf)


@pytest.mark.parametrize('case', EXPORTS)
def test_logits_of_what_is_written_equal_ours(case, tmp_path):
    model, architecture, shape = EXPORTS[case]
    rng = np.random.default_rng(0)
    flat = {
        path: 0.3 * rng.standard_normal(leaf.shape, np.float32) + path.endswith('scale')
        for path, leaf in trees.flatten(costs.param_shapes(model, shape)).items()
    }
    classes = tuple(f'class {i}' for i in range(7))
    huggingface.write(tmp_path / 'out', model, flat, {'label': classes}, shape)
    loaded = load(getattr(transformers, architecture), tmp_path / 'out')
    assert loaded.config.id2label == dict(enumerate(classes))
    assert loaded.dtype == torch.float32
    expected = ours(model, flat, inputs(shape))
    np.testing.assert_allclose(reference_logits(loaded, inputs(shape)), expected, rtol=0, atol=1e-4)
    assert np.std(expected, axis=0).mean() > 0.1


def load(cls, path):
    """The model in the folder, every one of whose tensors it must have and want."""
    model, info = cls.from_pretrained(path, output_loading_info=True)
    for problem in ('missing_keys', 'unexpected_keys', 'mismatched_keys', 'error_msgs'):
        assert not info[problem]
    return model.eval()


@pytest.mark.parametrize(
    ('case', 'architecture'), [('vit', 'ViTModel'), ('vivit, unusual', 'VivitModel')]
)
def test_tokens_of_a_headless_model_equal_hugging_faces(case, architecture, tmp_path):
    cls = getattr(transformers, architecture)
    _, config, shape = CASES[case]
    reference = randomise(cls(cls.config_class(**SIZES | config)))
    reference.save_pretrained(tmp_path)
    source = huggingface.read(tmp_path)
    assert source.unused.keys() == {'pooler.dense.weight', 'pooler.dense.bias'}
    batch = inputs(shape)
    with torch.no_grad():
        pixels = torch.tensor(np.moveaxis(batch, -1, -3)).double()
        expected = reference.double()(pixels).last_hidden_state.numpy()
    tokens = ours(source.model, source.params, batch, features=True)
    np.testing.assert_allclose(tokens, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize('case', ['vit', 'vivit'])
def test_the_processor_gives_the_input_that_the_model_was_trained_on(case, tmp_path):
    """The centre, with values in [-1, 1]; here nothing has to be resized."""
    pytest.importorskip('PIL')
    model, _, shape = EXPORTS[case]
    flat = trees.flatten(costs.param_shapes(model, shape))
    flat = {path: np.zeros(leaf.shape, leaf.dtype) for path, leaf in flat.items()}
    huggingface.write(tmp_path / 'out', model, flat, None, shape, short_side=40)
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path / 'out')
    *time, height, width, _ = shape
    frames = np.random.default_rng(0).integers(0, 256, (*time, 40, 50, 3), np.uint8)
    pixels = processor(list(frames) if time else frames, return_tensors='np')['pixel_values'][0]
    expected = frames[..., 4 : 4 + height, 9 : 9 + width, :] / 127.5 - 1
    np.testing.assert_allclose(np.moveaxis(pixels, -3, -1), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    'processor',
    [
        transformers.VivitImageProcessor(),  # Values in [-3, 1].
        transformers.VivitImageProcessor(do_normalize=False),
        transformers.ViTImageProcessor(image_mean=[0.4, 0.5, 0.6], image_std=[0.2, 0.3, 0.4]),
    ],
)
def test_a_vivit_computes_what_it_does_behind_its_processor(processor, tmp_path):
    architecture, config, shape = CASES['vivit']
    cls = getattr(transformers, architecture)
    reference = randomise(cls(cls.config_class(**SIZES | config)))
    reference.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    frames = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    how = {'return_tensors': 'np', 'do_resize': False, 'do_center_crop': False}
    if isinstance(processor, transformers.ViTImageProcessor):
        del how['do_center_crop']
        theirs = processor(list(frames), **how)['pixel_values'][None]
    else:
        theirs = processor(list(frames), **how)['pixel_values']
    expected = reference_logits(reference, np.moveaxis(theirs, -3, -1))
    source = huggingface.read(tmp_path)
    logits = ours(source.model, source.params, frames[None] / np.float32(127.5) - 1)
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4)


@pytest.mark.skipif(
    not MAPPING.exists(), reason='the published mapping is not beside this checkout'
)
def test_the_published_checkpoint_has_the_tensors_of_the_mapping():
    config = transformers.VivitConfig(num_labels=400).to_dict()
    model = huggingface.model(config)
    shapes = trees.flatten(costs.param_shapes(model, (32, 224, 224, 3)))
    zeros = {path: np.broadcast_to(np.float32(0), leaf.shape) for path, leaf in shapes.items()}
    mapping = json.loads(MAPPING.read_text())
    flat = scenic.flat_params(trees.unflatten(zeros), model)
    assert {name: tuple(leaf['shape']) for name, leaf in mapping.items()} == {
        name: leaf.shape for name, leaf in flat.items()
    }
    table = scenic.vivit.names(model)
    paired = {}
    for path in shapes:
        theirs, stacked = vit.names_in_file(path, model)
        found = names.find(table, path)
        paired |= dict(zip(found if stacked else [found], theirs, strict=True))
    assert paired == {name: leaf['hf'].removeprefix('vivit.') for name, leaf in mapping.items()}
