"""Hugging Face's ViT and ViViT <-> vjax's ViT and ViViT, Model 1.

The tensors are those of the original JAX models, in PyTorch's order of axes, with the heads flattened.
Names are those in files, 'vit.encoder.layer.0.attention.attention.query.weight'; transformers 5 has
others in memory, 'vit.layers.0.attention.q_proj.weight', and translates.
"""

import itertools
import math
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import einops
import jax.numpy as jnp
import numpy as np

from vjax import models
from vjax.errors import UserError
from vjax.models import costs
from vjax.weights.huggingface import entries
from vjax.weights.scenic import names
from vjax.weights.trees import flatten, unflatten

UNUSED = {
    r'pooler\.dense\.(weight|bias)': 'a dense layer for pre-training, behind which is no classifier',
    r'embeddings\.mask_token': 'only pre-training masks patches',
}

# What transformers takes for entries that a config.json leaves out.
_DEFAULTS = {
    'vit': {'hidden_act': 'gelu', 'layer_norm_eps': 1e-12, 'patch_size': 16},
    'vivit': {
        'hidden_act': 'gelu_fast',
        'layer_norm_eps': 1e-6,
        'tubelet_size': (2, 16, 16),
        'num_frames': 32,
    },
}
_COMMON_DEFAULTS = {
    'hidden_size': 768,
    'num_hidden_layers': 12,
    'num_attention_heads': 12,
    'intermediate_size': 3072,
    'image_size': 224,
    'num_channels': 3,
    'hidden_dropout_prob': 0.0,
    'attention_probs_dropout_prob': 0.0,
    'qkv_bias': True,
}
_GELUS = {
    'gelu': 'erf',
    'gelu_python': 'erf',
    'gelu_fast': 'tanh',
    'gelu_new': 'tanh',
    'gelu_accurate': 'tanh',
    'gelu_pytorch_tanh': 'tanh',
    'gelu_python_tanh': 'tanh',
}

# Modules and leaves in vjax -> in a file, as `names.find` reads them.
_OUTSIDE = {
    'embedding': 'embeddings.patch_embeddings.projection',
    'encoder/class_token': 'embeddings.cls_token',
    'encoder/position_embedding/table': 'embeddings.position_embeddings',
    'encoder/norm': 'layernorm',
    'head/logits': 'classifier',
}
_BLOCK = {
    'attention_norm': 'layernorm_before',
    'attention/query': 'attention.attention.query',
    'attention/key': 'attention.attention.key',
    'attention/value': 'attention.attention.value',
    'attention/out': 'attention.output.dense',
    'mlp_norm': 'layernorm_after',
    'mlp/up': 'intermediate.dense',
    'mlp/down': 'output.dense',
}
_LEAVES = {'/kernel': '.weight', '/scale': '.weight', '/bias': '.bias'}
# In memory -> in a file, behind the prefix.
_IN_MEMORY = {
    r'^layers\.': 'encoder.layer.',
    r'\.attention\.q_proj\.': '.attention.attention.query.',
    r'\.attention\.k_proj\.': '.attention.attention.key.',
    r'\.attention\.v_proj\.': '.attention.attention.value.',
    r'\.attention\.o_proj\.': '.attention.output.dense.',
    r'\.mlp\.fc1\.': '.intermediate.dense.',
    r'\.mlp\.fc2\.': '.output.dense.',
}
_QKV_BIAS = re.compile(r'.*attention\.(query|key|value)\.bias')
# Leaves whose axes differ: in vjax, in a file. h heads, k width of a head, d width of a token.
_AXES = {
    r'embedding/kernel': ('h w c d', 'd c h w'),
    r'.*/(query|key|value)/kernel': ('d h k', '(h k) d'),
    r'.*/(query|key|value)/bias': ('h k', '(h k)'),
    r'.*/out/kernel': ('h k d', 'd (h k)'),
    r'.*/(up|down|logits)/kernel': ('i o', 'o i'),
}


def model(config: Mapping[str, Any]) -> Any:
    """The vjax model of a `ViTConfig` or `VivitConfig`; see `families.model`."""
    kind = config.get('model_type')
    if kind not in _DEFAULTS:
        raise UserError(f'model_type={kind!r:.100} does not fit the architecture')
    config = _COMMON_DEFAULTS | _DEFAULTS[kind] | config
    act = config['hidden_act']
    if not isinstance(act, str) or act not in _GELUS:
        raise UserError(f'hidden_act={act!r:.100} is not one of {", ".join(_GELUS)}')
    if 'quantization_config' in config:
        raise UserError('quantization_config: vjax reads weights of floating-point numbers alone')
    fields = {
        'num_classes': entries.labels(config)[0],
        'width': entries.whole(config, 'hidden_size'),
        'depth': entries.whole(config, 'num_hidden_layers'),
        'num_heads': entries.whole(config, 'num_attention_heads'),
        'mlp_dim': entries.whole(config, 'intermediate_size'),
        'dropout': entries.number(config, 'hidden_dropout_prob'),
        'attention_dropout': entries.number(config, 'attention_probs_dropout_prob'),
        'gelu': _GELUS[act],
        'norm_epsilon': entries.number(config, 'layer_norm_eps'),
    }
    if config.get('head_dim') not in (None, fields['width'] // fields['num_heads']):
        raise UserError(
            f'head_dim={config["head_dim"]!r:.100} is not hidden_size={fields["width"]} over '
            f'num_attention_heads={fields["num_heads"]}'
        )
    size = entries.wholes(config, 'image_size', 2)
    if kind == 'vit':
        extents = fields['patch'] = entries.wholes(config, 'patch_size', 2)
    else:
        size = (entries.whole(config, 'num_frames'), *size)
        extents = fields['tubelet'] = entries.wholes(config, 'tubelet_size', 3)
    # A square can be told from the number of tokens, other grids cannot.
    grid = tuple(pixels // extent for pixels, extent in zip(size, extents, strict=True))
    built = models.build(kind, **fields, position_grid=grid)
    built.check((*size, entries.whole(config, 'num_channels')))
    return built


def params(state: Mapping[str, np.ndarray], model: Any) -> dict:
    """The parameters of either model; see `families.params`. Without biases of q, k, v they are 0."""
    found = _by_file_name(state)
    _check_counts(found, model)
    shapes = _param_shapes(model, _input_shape(found, model))
    with_head = any(name.startswith('classifier.') for name in found)
    with_bias = any(_QKV_BIAS.fullmatch(name) for name in found)

    result, wanted, missing, wrong = {}, set(), [], []
    for path, leaf in shapes.items():
        if path.startswith('head/') and not with_head:
            continue
        theirs, stacked = names_in_file(path, model)
        if _QKV_BIAS.fullmatch(theirs[0]) and not with_bias:
            result[path] = np.zeros(leaf.shape, leaf.dtype)
            continue
        wanted |= set(theirs)
        axes = _axes(path, model)
        shape = _their_shape(axes, leaf.shape[stacked:])
        lacking = [name for name in theirs if name not in found]
        unlike = [name for name in theirs if name in found and found[name].shape != shape]
        missing += lacking
        wrong += [f'{name} {found[name].shape} instead of {shape}' for name in unlike]
        if not lacking and not unlike:
            parts = [_rearrange(found[name], *reversed(axes), model.num_heads) for name in theirs]
            result[path] = np.stack(parts) if stacked else parts[0]
    _refuse('tensors are missing', missing)
    _refuse('tensors have no place in the model', found.keys() - wanted)
    _refuse('tensors are not of the size that config.json says', wrong)
    return unflatten(result)


def state(params: Mapping, model: Any) -> dict[str, np.ndarray]:
    """The tensors of the architecture with a classifier; see `families.state`."""
    prefix = 'vit.' if type(model).__name__ == 'ViT' else 'vivit.'
    result = {}
    for path, leaf in flatten(params).items():
        theirs, stacked = names_in_file(path, model)
        leaf = np.asarray(leaf)
        for name, part in zip(theirs, leaf if stacked else [leaf], strict=True):
            full = name if name.startswith('classifier.') else prefix + name
            result[full] = _rearrange(part, *_axes(path, model), model.num_heads)
    return result


def config(model: Any, classes: Sequence[str] | None, input_shape: tuple[int, ...]) -> dict:
    """`ViTConfig` or `VivitConfig` of a model; see `families.config`."""
    for field, only in {
        'attention': 'spacetime',
        'classifier': 'token',
        'embedding': 'tubelet',
        'representation_size': 0,
        'positions': 'learned',
    }.items():
        value = getattr(model, field, only)
        if value != only:
            raise UserError(
                f"{field}={value!r} has no counterpart in Hugging Face's "
                f'{"ViT" if hasattr(model, "patch") else "ViViT"}, only {field}={only!r}'
            )
    model.check(input_shape)
    extents = model.patch if hasattr(model, 'patch') else model.tubelet
    *size, channels = input_shape[-len(extents) - 1 :]
    grid = tuple(pixels // extent for pixels, extent in zip(size, extents, strict=True))
    if model.position_grid and tuple(model.position_grid) != grid:
        raise UserError(
            f'position_grid={tuple(model.position_grid)} is not the grid {grid} of the input, and '
            'Hugging Face cannot say so: write the model for the size that it was trained on'
        )
    named = classes or entries.unnamed(model.num_classes)
    result = {
        'hidden_size': model.width,
        'num_hidden_layers': model.depth,
        'num_attention_heads': model.num_heads,
        'intermediate_size': model.mlp_dim,
        'hidden_act': {'erf': 'gelu', 'tanh': 'gelu_fast'}[model.gelu],
        'hidden_dropout_prob': model.dropout,
        'attention_probs_dropout_prob': model.attention_dropout,
        'layer_norm_eps': model.norm_epsilon,
        'qkv_bias': True,
        'num_channels': channels,
        'image_size': _one_if_equal(size[-2:]),
        'id2label': {str(i): name for i, name in enumerate(named)},
        'label2id': {name: i for i, name in enumerate(named)},
    }
    if len(extents) == 2:
        return result | {'patch_size': _one_if_equal(extents)}
    return result | {'num_frames': size[0], 'tubelet_size': list(extents)}


def check(state: Mapping[str, np.ndarray], config: Mapping[str, Any]) -> None:
    """Raises a UserError where the tensors contradict entries that are no fields of a model."""
    found = _by_file_name(state)
    config = _COMMON_DEFAULTS | config
    channels = found['embeddings.patch_embeddings.projection.weight'].shape[1]
    if channels != config['num_channels']:
        raise UserError(f'num_channels={config["num_channels"]} and the kernel takes {channels}')
    has_bias = any(_QKV_BIAS.fullmatch(name) for name in found)
    if has_bias != config['qkv_bias']:
        raise UserError(
            f'qkv_bias={config["qkv_bias"]!r:.100} and the tensors have '
            f'{"biases" if has_bias else "no biases"} of queries, keys and values'
        )


def processor(model: Any, input_shape: tuple[int, ...], short_side: int) -> dict:
    """preprocessor_config.json: the short side resized, the centre cut out, values in [-1, 1]."""
    *_, height, width, _ = input_shape
    result = {
        'do_resize': True,
        'size': {'shortest_edge': short_side},
        'resample': 2,  # PIL's number for bilinear.
        'do_center_crop': True,
        'crop_size': {'height': height, 'width': width},
        'do_rescale': True,
    }
    if hasattr(model, 'patch'):
        return result | {
            'image_processor_type': 'ViTImageProcessor',
            'rescale_factor': 1 / 255,
            'do_normalize': True,
            'image_mean': [0.5, 0.5, 0.5],
            'image_std': [0.5, 0.5, 0.5],
        }
    # Its offset is -1, always in the VivitVideoProcessor: nothing is left to normalise.
    return result | {
        'image_processor_type': 'VivitImageProcessor',
        'video_processor_type': 'VivitVideoProcessor',
        'rescale_factor': 1 / 127.5,
        'offset': True,
        'do_normalize': False,
    }


def _by_file_name(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The tensors that are used, by name in a file without prefix."""
    found = {}
    for full, tensor in state.items():
        name = re.sub(r'^(vit|vivit)\.', '', full)
        for pattern, replacement in _IN_MEMORY.items():
            name = re.sub(pattern, replacement, name)
        if any(re.fullmatch(pattern, name) for pattern in UNUSED):
            continue
        if name in found:
            raise UserError(f'the tensor {full} is there twice, under two names')
        if not jnp.issubdtype(tensor.dtype, jnp.floating):
            raise UserError(f'the tensor {full} is of {tensor.dtype}, no floating-point numbers')
        found[name] = tensor
    return found


def _check_counts(found: Mapping[str, np.ndarray], model: Any) -> None:
    """Compares depth and positions, before a wrong number makes for long lists or large shapes."""
    blocks = {match[1] for name in found if (match := re.match(r'encoder\.layer\.(\d+)\.', name))}
    if len(blocks) != model.depth:
        raise UserError(f'num_hidden_layers={model.depth} and the tensors are of {len(blocks)}')
    for name in ('embeddings.position_embeddings', 'embeddings.patch_embeddings.projection.weight'):
        if name not in found:
            raise UserError(f'tensors are missing: {name}')
    positions = found['embeddings.position_embeddings']
    tokens = 1 + math.prod(model.position_grid)
    shape = (1, tokens, model.width)
    if positions.ndim != 3 or (model.position_grid and positions.shape != shape):
        raise UserError(
            f'embeddings.position_embeddings is {positions.shape} and the sizes in config.json make '
            f'it {shape}'
        )


def _input_shape(found: Mapping[str, np.ndarray], model: Any) -> tuple[int, ...]:
    """Of an example with as many tokens as there are positions."""
    extents = model.patch if hasattr(model, 'patch') else model.tubelet
    kernel = found['embeddings.patch_embeddings.projection.weight'].shape
    if kernel[2:] != tuple(extents):
        raise UserError(
            f'embeddings.patch_embeddings.projection.weight is {kernel} and not of {tuple(extents)} '
            'pixels as config.json says'
        )
    tokens = found['embeddings.position_embeddings'].shape[1] - 1
    grid = model.position_grid or (*(1,) * (len(extents) - 1), tokens)
    return (*(n * extent for n, extent in zip(grid, extents, strict=True)), kernel[1])


def _param_shapes(model: Any, input_shape: tuple[int, ...]) -> dict[str, Any]:
    return flatten(costs.param_shapes(model, input_shape))


def names_in_file(path: str, model: Any) -> tuple[list[str], bool]:
    """The names in a file, without prefix, of the vjax parameter `path`, and whether it is stacked."""
    layers = [f'encoder.layer.{i}.' for i in range(model.depth)]
    table = _OUTSIDE | {
        f'encoder/blocks/{ours}': [layer + theirs for layer in layers]
        for ours, theirs in _BLOCK.items()
    }
    found = names.find(table, path)
    theirs = [found] if isinstance(found, str) else found
    for leaf, suffix in _LEAVES.items():
        theirs = [
            name.removesuffix(leaf) + suffix if name.endswith(leaf) else name for name in theirs
        ]
    return theirs, not isinstance(found, str)


def _axes(path: str, model: Any) -> tuple[str, str]:
    """Patterns of the axes of a leaf, without that of stacked blocks: vjax's, Hugging Face's."""
    for pattern, (ours, theirs) in _AXES.items():
        if re.fullmatch(pattern, path):
            if path == 'embedding/kernel' and hasattr(model, 'tubelet'):
                return f't {ours}', theirs.replace('c', 'c t')
            return ours, theirs
    return '...', '...'


def _their_shape(axes: tuple[str, str], shape: tuple[int, ...]) -> tuple[int, ...]:
    """What a leaf of this shape in vjax is in a file."""
    if axes == ('...', '...'):
        return shape
    sizes = dict(zip(axes[0].split(), shape, strict=True))
    groups = re.findall(r'\(([^)]*)\)|(\S+)', axes[1])
    return tuple(math.prod(sizes[axis] for axis in (a or b).split()) for a, b in groups)


def _rearrange(array: np.ndarray, source: str, target: str, num_heads: int) -> np.ndarray:
    sizes = {'h': num_heads} if '(h k)' in source else {}
    return einops.rearrange(array, f'{source} -> {target}', **sizes)


def _one_if_equal(sizes: Sequence[int]) -> int | list[int]:
    """16 for (16, 16): the form that every version of transformers reads."""
    return sizes[0] if len(set(sizes)) == 1 else list(sizes)


def _refuse(what: str, items: Collection[str]) -> None:
    if items:
        shown = ', '.join(itertools.islice(sorted(items), 6))
        more = f' and {len(items) - 6} more' if len(items) > 6 else ''
        raise UserError(f'{what}: {shown}{more}')
