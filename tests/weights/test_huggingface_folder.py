"""Hugging Face's folders without Hugging Face's libraries: what is read, written and refused."""

import itertools
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from vjax import models
from vjax.errors import UserError
from vjax.weights import huggingface, trees
from vjax.weights.huggingface import entries, families, folder

SIZES = {
    'hidden_size': 12,
    'num_hidden_layers': 2,
    'num_attention_heads': 3,
    'intermediate_size': 20,
    'num_channels': 3,
    'layer_norm_eps': 1e-5,
}
CLASSES = tuple(f'class {i}' for i in (5, 3, 8, 1, 0, 2, 11, 10, 9, 7, 6, 4))
LABELS = {'id2label': dict(sorted((str(i), name) for i, name in enumerate(CLASSES)))}
CONFIGS = {
    'vit': {
        'architectures': ['ViTForImageClassification'],
        'model_type': 'vit',
        'hidden_act': 'gelu',
        'image_size': [8, 12],
        'patch_size': 4,
        **SIZES,
        **LABELS,
    },
    'vivit': {
        'architectures': ['VivitForVideoClassification'],
        'model_type': 'vivit',
        'hidden_act': 'gelu_fast',
        'image_size': 8,
        'num_frames': 6,
        'tubelet_size': [2, 4, 4],
        **SIZES,
        **LABELS,
    },
}
KINDS = list(CONFIGS)
INPUT_SHAPES = {'vit': (8, 12, 3), 'vivit': (6, 8, 8, 3)}
HEADLESS = {'vit': 'ViTModel', 'vivit': 'VivitModel'}
IN_MEMORY = {
    'encoder.layer': 'layers',
    'attention.attention.query': 'attention.q_proj',
    'attention.attention.key': 'attention.k_proj',
    'attention.attention.value': 'attention.v_proj',
    'attention.output.dense': 'attention.o_proj',
    'intermediate.dense': 'mlp.fc1',
    'output.dense': 'mlp.fc2',
}


def tensors_of(kind):
    """Random tensors under the names that transformers writes, in PyTorch's layout."""
    rng = np.random.default_rng(0)
    width, hidden = SIZES['hidden_size'], SIZES['intermediate_size']
    tokens, kernel = (6, (4, 4)) if kind == 'vit' else (12, (2, 4, 4))
    shapes = {
        'embeddings.cls_token': (1, 1, width),
        'embeddings.position_embeddings': (1, 1 + tokens, width),
        'embeddings.patch_embeddings.projection.weight': (width, 3, *kernel),
        'embeddings.patch_embeddings.projection.bias': (width,),
        'layernorm.weight': (width,),
        'layernorm.bias': (width,),
    }
    for layer in range(SIZES['num_hidden_layers']):
        for name, shape in {
            'attention.attention.query': (width, width),
            'attention.attention.key': (width, width),
            'attention.attention.value': (width, width),
            'attention.output.dense': (width, width),
            'intermediate.dense': (hidden, width),
            'output.dense': (width, hidden),
            'layernorm_before': (width,),
            'layernorm_after': (width,),
        }.items():
            shapes[f'encoder.layer.{layer}.{name}.weight'] = shape
            shapes[f'encoder.layer.{layer}.{name}.bias'] = shape[:1]
    shapes = {f'{kind}.{name}': shape for name, shape in shapes.items()}
    shapes |= {'classifier.weight': (len(CLASSES), width), 'classifier.bias': (len(CLASSES),)}
    return {name: rng.standard_normal(shape, np.float32) for name, shape in shapes.items()}


@pytest.fixture
def write_folder(tmp_path):
    """Writes such a folder, with changes to what it holds; None removes an entry or tensor."""
    count = itertools.count()

    def write(kind, changes=None, tensors=None):
        path = tmp_path / f'{kind}{next(count)}'
        path.mkdir()
        config = CONFIGS[kind] | (changes or {})
        config = {key: value for key, value in config.items() if value is not None}
        (path / 'config.json').write_text(json.dumps(config))
        found = tensors_of(kind) | (tensors or {})
        found = {name: tensor for name, tensor in found.items() if tensor is not None}
        save_file(found, path / 'model.safetensors')
        return path

    return write


@pytest.fixture(scope='module')
def written(tmp_path_factory):
    """A folder of each kind as it was read."""
    result = {}
    for kind in KINDS:
        path = tmp_path_factory.mktemp(kind)
        (path / 'config.json').write_text(json.dumps(CONFIGS[kind]))
        save_file(tensors_of(kind), path / 'model.safetensors')
        result[kind] = folder.read(path)
    return result


@pytest.mark.parametrize('kind', KINDS)
def test_a_folder_is_a_model_its_parameters_and_its_classes(kind, written):
    source, tensors = written[kind], tensors_of(kind)
    expected = {
        'vit': models.build('vit', patch=(4, 4), gelu='erf', position_grid=(2, 3), **OURS),
        'vivit': models.build('vivit', tubelet=(2, 4, 4), position_grid=(3, 2, 2), **OURS),
    }
    assert source.model == expected[kind]
    assert source.classes == {'label': CLASSES}
    assert not source.unused
    assert sum(leaf.size for leaf in source.params.values()) == sum(
        leaf.size for leaf in tensors.values()
    )
    # Row 5 of a query's matrix gives unit 1 of head 1.
    query = tensors[f'{kind}.encoder.layer.1.attention.attention.query.weight']
    ours = source.params['encoder/blocks/attention/query/kernel']
    np.testing.assert_array_equal(ours[1, :, 1, 1], query[5])
    out = tensors[f'{kind}.encoder.layer.0.attention.output.dense.weight']
    ours = source.params['encoder/blocks/attention/out/kernel']
    np.testing.assert_array_equal(ours[0, 1, 1], out[:, 5])
    kernel = tensors[f'{kind}.embeddings.patch_embeddings.projection.weight']
    np.testing.assert_array_equal(
        source.params['embedding/kernel'], np.moveaxis(kernel, (0, 1), (-1, -2))
    )


OURS = {
    'num_classes': 12,
    'width': 12,
    'depth': 2,
    'num_heads': 3,
    'mlp_dim': 20,
    'norm_epsilon': 1e-5,
}


def test_entries_that_a_file_leaves_out_are_those_of_the_published_models():
    model = families.model({'model_type': 'vivit'})
    assert (model.width, model.depth, model.tubelet) == (768, 12, (2, 16, 16))
    assert (model.gelu, model.norm_epsilon, model.num_classes) == ('tanh', 1e-6, 2)
    model = families.model({'architectures': ['ViTModel'], 'model_type': 'vit'})
    assert (model.patch, model.gelu, model.norm_epsilon) == ((16, 16), 'erf', 1e-12)


@pytest.mark.parametrize('kind', KINDS)
def test_names_in_memory_are_read_too(kind, written):
    renamed = {}
    for name, tensor in tensors_of(kind).items():
        for file, memory in IN_MEMORY.items():
            name = name.replace(file, memory)
        renamed[name] = tensor
    assert renamed.keys().isdisjoint(name for name in tensors_of(kind) if 'encoder' in name)
    params = trees.flatten(huggingface.params(renamed, written[kind].model))
    assert params.keys() == written[kind].params.keys()
    for path, leaf in params.items():
        np.testing.assert_array_equal(leaf, written[kind].params[path])


@pytest.mark.parametrize('kind', KINDS)
def test_a_headless_model_has_no_prefix_and_a_pooler_that_is_not_used(kind, written, tmp_path):
    tensors = {
        name.removeprefix(f'{kind}.'): tensor
        for name, tensor in tensors_of(kind).items()
        if not name.startswith('classifier')
    }
    pooler = {'pooler.dense.weight': np.ones((12, 12), 'f'), 'pooler.dense.bias': np.ones(12, 'f')}
    save_file(tensors | pooler, tmp_path / 'model.safetensors')
    config = CONFIGS[kind] | {'architectures': [HEADLESS[kind]]}
    (tmp_path / 'config.json').write_text(json.dumps(config))
    source = folder.read(tmp_path)
    assert source.unused.keys() == pooler.keys()
    assert source.classes is None
    assert written[kind].params.keys() - source.params.keys() == {
        'head/logits/kernel',
        'head/logits/bias',
    }


def test_absent_biases_of_queries_keys_and_values_are_zeros(write_folder):
    absent = {
        f'vit.encoder.layer.{layer}.attention.attention.{name}.bias': None
        for layer in range(2)
        for name in ('query', 'key', 'value')
    }
    source = folder.read(write_folder('vit', {'qkv_bias': False}, absent))
    assert source.params['encoder/blocks/attention/key/bias'].shape == (2, 3, 4)
    assert not source.params['encoder/blocks/attention/key/bias'].any()
    assert source.params['encoder/blocks/attention/out/bias'].all()


def test_shards_are_read_together(written, tmp_path):
    tensors = tensors_of('vivit')
    weight_map = {name: f'model-{i % 2}.safetensors' for i, name in enumerate(tensors)}
    for file in set(weight_map.values()):
        part = {name: tensors[name] for name in tensors if weight_map[name] == file}
        save_file(part, tmp_path / file)
    index = tmp_path / 'model.safetensors.index.json'
    index.write_text(json.dumps({'weight_map': weight_map}))
    (tmp_path / 'config.json').write_text(json.dumps(CONFIGS['vivit']))
    params = folder.read(tmp_path).params
    for path, leaf in written['vivit'].params.items():
        np.testing.assert_array_equal(params[path], leaf)


@given(st.permutations(range(13)))
def test_classes_are_in_the_order_of_their_numbers(order):
    names = [f'name {i}' for i in range(13)]
    found = entries.labels({'id2label': {str(i): names[i] for i in order}})
    assert found == (13, tuple(names))


def test_labels_that_nobody_chose_are_no_names():
    assert entries.labels({'id2label': {'0': 'LABEL_0', '1': 'LABEL_1'}}) == (2, None)
    assert entries.labels({'id2label': {'0': 'LABEL_1', '1': 'LABEL_0'}})[1] is not None
    assert entries.labels({}) == (2, None)
    assert entries.labels({'num_labels': 7}) == (7, None)


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'architectures': ['BertModel']}, r"architectures=\['BertModel'\] has no counterpart"),
        ({'architectures': None, 'model_type': None}, 'model_type=None has no counterpart'),
        ({'model_type': 'vivid'}, "model_type='vivid' does not fit the architecture"),
        ({'hidden_act': 'quick_gelu'}, "hidden_act='quick_gelu' is not one of gelu"),
        ({'hidden_size': '12'}, "hidden_size='12' should be a whole number"),
        ({'num_hidden_layers': 10**9}, 'num_hidden_layers=1000000000 should be a whole number'),
        ({'num_hidden_layers': 3}, 'num_hidden_layers=3 and the tensors are of 2'),
        ({'num_attention_heads': 5}, 'num_heads=5 does not divide width=12'),
        ({'hidden_size': 24}, r'position_embeddings is \(1, 7, 12\) and .* make it \(1, 7, 24\)'),
        ({'image_size': 8}, r'position_embeddings is \(1, 7, 12\) and .* make it \(1, 5, 12\)'),
        ({'image_size': [8, 13]}, 'width=13 is not divisible'),
        ({'patch_size': [2, 8], 'image_size': [4, 24]}, r'projection.weight is \(12, 3, 4, 4\)'),
        ({'intermediate_size': 24}, r'intermediate\.dense\.bias \(20,\) instead of \(24,\)'),
        ({'num_channels': 4}, 'num_channels=4 and the kernel takes 3'),
        ({'qkv_bias': False}, 'qkv_bias=False and the tensors have biases'),
        ({'head_dim': 8}, 'head_dim=8 is not hidden_size=12 over num_attention_heads=3'),
        ({'layer_norm_eps': 0}, 'norm_epsilon=0.0 should be above 0'),
        ({'layer_norm_eps': 'small'}, "layer_norm_eps='small' should be a number"),
        ({'quantization_config': {}}, 'quantization_config'),
        ({'id2label': {'0': 'a', '2': 'b'}}, 'id2label has 2 entries and none for class 1'),
        ({'id2label': ['a', 'b']}, 'id2label=.* should map the number'),
        ({'id2label': {'0': 'a', '1': 'b'}}, r'classifier\.bias \(12,\) instead of \(2,\)'),
    ],
)
def test_a_config_that_vjax_cannot_follow_is_one_sentence(changes, message, write_folder):
    refused(write_folder('vit', changes), message)


@pytest.mark.parametrize(
    ('tensors', 'message'),
    [
        ({'vivit.layernorm.bias': None}, 'tensors are missing: layernorm.bias'),
        ({'vivit.embeddings.position_embeddings': None}, 'missing: embeddings.position_embedd'),
        ({'classifier.bias': None}, 'tensors are missing: classifier.bias'),
        ({'classifier.bias': None, 'classifier.weight': None}, 'missing the classifier of Vivit'),
        ({'vivit.extra.bias': np.zeros(1, 'f')}, 'no place in the model: extra.bias'),
        ({'layernorm.bias': np.zeros(12, 'f')}, 'the tensor .*layernorm.bias is there twice'),
        ({'vivit.layernorm.bias': np.zeros(12, np.int8)}, 'layernorm.bias is of int8'),
    ],
)
def test_tensors_that_do_not_fit_are_named(tensors, message, write_folder):
    refused(write_folder('vivit', tensors=tensors), message)


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        (None, 'config.json cannot be read: No such file'),
        (b'{"a": 1', 'config.json is not JSON'),
        (b'[' * 100_000, 'config.json is not JSON'),
        (b'\xff\xfe\x00', 'config.json is not JSON'),
        (b'[]', 'config.json is not a JSON object but list'),
    ],
)
def test_a_damaged_config_is_one_sentence(content, message, write_folder):
    path = write_folder('vit')
    (path / 'config.json').unlink()
    if content is not None:
        (path / 'config.json').write_bytes(content)
    refused(path, message)


def test_a_truncated_file_is_one_sentence(write_folder):
    path = write_folder('vit')
    content = (path / 'model.safetensors').read_bytes()
    (path / 'model.safetensors').write_bytes(content[:-100])
    refused(path, 'model.safetensors is truncated')


def test_a_file_is_no_folder(write_folder):
    refused(write_folder('vit') / 'model.safetensors', 'is no folder')


def refused(path, message):
    with pytest.raises(UserError, match=message) as caught:
        folder.read(path)
    sentence = str(caught.value)
    assert str(path) in sentence
    assert '\n' not in sentence
    assert sentence.endswith('.')
    assert not sentence.endswith('..')


@pytest.mark.parametrize('kind', KINDS)
def test_what_is_read_is_written_bit_for_bit(kind, written, tmp_path):
    source = written[kind]
    huggingface.write(
        tmp_path / 'out', source.model, source.params, source.classes, INPUT_SHAPES[kind]
    )
    saved, expected = load_file(tmp_path / 'out/model.safetensors'), tensors_of(kind)
    assert saved.keys() == expected.keys()
    for name, tensor in expected.items():
        np.testing.assert_array_equal(saved[name], tensor)
    config = json.loads((tmp_path / 'out/config.json').read_text())
    assert config.items() >= CONFIGS[kind].items()
    assert [config['label2id'][name] for name in CLASSES] == list(range(12))
    assert folder.read(tmp_path / 'out').model == source.model
    assert [path.name for path in tmp_path.iterdir()] == ['out']
    assert len({path.stat().st_mode for path in (tmp_path / 'out').iterdir()}) == 1


@pytest.fixture
def export(written, tmp_path):
    """Writes the ViViT, or with other fields than it has, to a new folder."""
    source = written['vivit']

    def write(classes=None, input_shape=INPUT_SHAPES['vivit'], short_side=0, **changes):
        model = source.model.clone(**changes)
        path = tmp_path / 'below' / 'out'
        huggingface.write(path, model, source.params, classes, input_shape, short_side)
        return path

    return write


def test_several_heads_become_one_classifier(export):
    path = export({'verb': ('open', 'shut'), 'noun': tuple(map(str, range(10)))})
    names = list(json.loads((path / 'config.json').read_text())['id2label'].values())
    assert names[:3] == ['verb: open', 'verb: shut', 'noun: 0']


def test_classes_without_names_stay_without(export):
    assert folder.read(export()).classes is None


def test_frames_are_resized_as_evaluation_does(export):
    content = json.loads((export(short_side=10) / 'preprocessor_config.json').read_text())
    assert content['size'] == {'shortest_edge': 10}
    assert content['crop_size'] == {'height': 8, 'width': 8}


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'attention': 'factorised_encoder'}, "attention='factorised_encoder' has no counterpart"),
        ({'classifier': 'gap'}, "classifier='gap' has no counterpart"),
        ({'embedding': 'uniform_frames'}, "embedding='uniform_frames' has no counterpart"),
        ({'representation_size': 8}, 'representation_size=8 has no counterpart'),
        ({'positions': 'sincos'}, "positions='sincos' has no counterpart"),
        ({'position_grid': (3, 4, 4)}, r'position_grid=\(3, 4, 4\) is not the grid \(3, 2, 2\)'),
        ({'input_shape': (12, 8, 8, 3)}, r'position_grid=\(3, 2, 2\) is not the grid \(6, 2, 2\)'),
        ({'position_grid': (), 'input_shape': (12, 8, 8, 3)}, r'table is \(1, 13, 12\) and'),
        ({'input_shape': (5, 8, 8, 3)}, 'num_frames=5 is not divisible'),
        ({'num_classes': 11, 'classes': {'label': CLASSES}}, '12 classes are named and'),
        ({'num_classes': 11}, r'head/logits/bias is \(12,\) and'),
    ],
)
def test_what_hugging_face_cannot_express_is_named(changes, message, export, tmp_path):
    with pytest.raises(UserError, match=message):
        export(**changes)
    assert not list(tmp_path.iterdir())


def test_models_of_other_papers_have_no_counterpart(tmp_path):
    model = models.build(
        'token_learner', num_classes=2, width=8, depth=2, num_heads=2, mlp_dim=8, patch=(4, 4)
    )
    with pytest.raises(UserError, match='no counterpart of TokenLearnerViT'):
        huggingface.write(tmp_path / 'out', model, {}, None, (8, 8, 3))


def test_a_missing_parameter_is_named(written, tmp_path):
    source = written['vit']
    params = {path: leaf for path, leaf in source.params.items() if path != 'head/logits/bias'}
    with pytest.raises(UserError, match='the parameter head/logits/bias of the model is missing'):
        huggingface.write(tmp_path / 'out', source.model, params, None, INPUT_SHAPES['vit'])


def test_an_existing_folder_stays_as_it_is(export, tmp_path):
    path = tmp_path / 'below' / 'out'
    path.mkdir(parents=True)
    with pytest.raises(UserError, match='out exists already'):
        export()
    assert not list(path.iterdir())


def test_a_failure_leaves_nothing(export, tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(folder, 'save_file', fail)
    with pytest.raises(UserError, match=r'cannot be written: .*No space left'):
        export()
    assert not list((tmp_path / 'below').iterdir())


@pytest.mark.parametrize(
    ('config', 'model_type'),
    [
        ({'architectures': ['VideoPrismForVideoClassification']}, 'videoprism_vision_model'),
        ({'model_type': 'videoprism_vision_model'}, 'videoprism_vision_model'),
        ({'architectures': ['VideoPrismClipModel']}, 'videoprism'),
    ],
)
def test_videoprism_is_known_by_its_architectures_and_its_type(config, model_type):
    family = families.of_config(config)
    assert (family.ours, family.model_type) == ('VideoPrism', model_type)
