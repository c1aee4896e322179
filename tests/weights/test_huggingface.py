"""Hugging Face's VivitForVideoClassification and ours compute the same from the same weights."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vjax.errors import UserError
from vjax.models import costs
from vjax.weights import huggingface, scenic

torch = pytest.importorskip('torch', reason='needs the [parity] extra')
transformers = pytest.importorskip('transformers', reason='needs the [parity] extra')

MAPPING = Path(__file__).parents[2] / '../shared/scenic/hf_vivit_b_mapping.json'


@pytest.fixture(scope='module')
def reference():
    torch.manual_seed(0)
    config = transformers.VivitConfig(
        image_size=32,
        num_frames=8,
        tubelet_size=[2, 8, 8],
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=48,
        num_labels=7,
    )
    # In double precision: torch's float32 on a CPU was seen to err by 1e-4, now and then.
    reference = transformers.VivitForVideoClassification(config).eval().double()
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return reference


@pytest.fixture
def state(reference):
    return {name: leaf.numpy().astype('f') for name, leaf in reference.state_dict().items()}


def test_logits_equal_hugging_faces(reference, state):
    video = np.random.default_rng(0).uniform(-1, 1, (2, 8, 32, 32, 3))
    with torch.no_grad():
        expected = reference(torch.tensor(video).permute(0, 1, 4, 2, 3)).logits.numpy()
    model = huggingface.model(reference.config.to_dict())
    params = huggingface.params(state, model)
    logits = jax.jit(model.apply)({'params': params}, jnp.asarray(video, jnp.float32))
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4)
    assert np.std(expected, axis=0).min() > 1e-2


def test_files_name_tensors_otherwise_than_memory(reference, state, tmp_path):
    safetensors = pytest.importorskip('safetensors.numpy')
    reference.save_pretrained(tmp_path)
    saved = safetensors.load_file(tmp_path / 'model.safetensors')
    assert saved.keys() != state.keys()
    model = huggingface.model(json.loads((tmp_path / 'config.json').read_text()))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6),
        huggingface.params(saved, model),
        huggingface.params(state, model),
    )


@pytest.mark.skipif(
    not MAPPING.exists(), reason='the published mapping is not beside this checkout'
)
def test_the_published_checkpoint_has_the_tensors_of_the_mapping():
    model = huggingface.model(
        {**transformers.VivitConfig().to_dict(), 'id2label': dict.fromkeys(range(400))}
    )
    shapes = costs.param_shapes(model, (32, 224, 224, 3))
    zeros = jax.tree.map(lambda leaf: np.broadcast_to(np.float32(0), leaf.shape), shapes)
    flat = scenic.flat_params(zeros, model)
    mapping = json.loads(MAPPING.read_text())
    assert {name: tuple(leaf['shape']) for name, leaf in mapping.items()} == {
        name: leaf.shape for name, leaf in flat.items()
    }
    for name, leaf in mapping.items():
        assert huggingface.scenic_name(leaf['hf']) == name


def test_an_unknown_tensor_is_refused(reference, state):
    model = huggingface.model(reference.config.to_dict())
    state['vivit.pooler.dense.weight'] = np.zeros((32, 32), 'f')
    with pytest.raises(UserError, match=r"unexpected tensor 'vivit\.pooler\.dense\.weight'"):
        huggingface.params(state, model)


def test_a_missing_tensor_is_named(reference, state):
    model = huggingface.model(reference.config.to_dict())
    del state['classifier.bias']
    with pytest.raises(UserError, match=r'missing.*output_projection/bias'):
        huggingface.params(state, model)


@pytest.mark.parametrize(
    ('changes', 'message'), [({'hidden_act': 'gelu'}, 'tanh'), ({'layer_norm_eps': 1e-12}, '1e-6')]
)
def test_other_numerics_are_refused(reference, changes, message):
    with pytest.raises(UserError, match=message):
        huggingface.model({**reference.config.to_dict(), **changes})
