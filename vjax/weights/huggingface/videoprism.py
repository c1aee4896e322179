"""`VideoPrismForVideoClassification` and its relatives <-> vjax's VideoPrism.

The relatives are `VideoPrismVisionModel`, the encoders alone, and, on the way in, the video half of the
contrastive `VideoPrismClipModel` by itself (`VideoPrismVideoModel`) or beside its text half, which is
not used. Hugging Face shares the conventions of the published npz files: see `vjax.weights.videoprism`.
"""

import re
from collections.abc import Collection, Mapping
from typing import Any

import einops
import jax.numpy as jnp
import numpy as np

from vjax import models
from vjax.errors import UserError
from vjax.models import costs
from vjax.weights.huggingface import entries
from vjax.weights.trees import flatten, unflatten
from vjax.weights.videoprism import to_signed, to_unit

UNUSED = {r'text_model\..*': 'vjax has no text encoder'}

CONTRASTIVE = ('VideoPrismClipModel', 'VideoPrismVideoModel')
# An entry that is missing from config.json has Hugging Face's default.
DEFAULTS = {
    'image_size': 288,
    'num_frames': 16,
    'tubelet_size': [1, 18, 18],
    'num_channels': 3,
    'hidden_size': 768,
    'num_attention_heads': 12,
    'intermediate_size': 3072,
    'hidden_act': 'gelu_python',
    'hidden_dropout_prob': 0.0,
    'attention_probs_dropout_prob': 0.0,
    'layer_norm_eps': 1e-6,
    'qkv_bias': True,
    'num_spatial_layers': 12,
    'num_temporal_layers': 4,
    'attn_logit_softcapping': 50.0,
    'num_auxiliary_layers': 2,
}
GELUS = {
    'gelu_python': 'erf',
    'gelu': 'erf',
    'gelu_pytorch_tanh': 'tanh',
    'gelu_new': 'tanh',
    'gelu_fast': 'tanh',
}

# Our modules, or parameters, -> theirs; the blocks' behind the number of the layer.
_NAMES = {
    'embedding': 'vision_model.spatial_embeddings.patch_embeddings.projection',
    'spatial_encoder/position_embedding/table': 'vision_model.spatial_embeddings.position_embeddings',
    'spatial_encoder/norm': 'vision_model.layernorm1',
    'temporal_encoder/position_embedding/table': 'vision_model.temporal_embeddings.position_embeddings',
    'temporal_encoder/norm': 'vision_model.layernorm2',
    'head/pool/probe': 'head.pooling_attention_query',
    'head/pool/attention/per_dim_scale': 'head.per_dim_scale',
    'head/pool/attention/query': 'head.q_proj',
    'head/pool/attention/key': 'head.k_proj',
    'head/pool/attention/value': 'head.v_proj',
    'head/pool/attention/out': 'head.o_proj',
    'head/pool/norm': 'head_layernorm',
    'head/logits': 'classifier',
}
_LAYERS = {
    'spatial_encoder/blocks/': 'vision_model.spatial_layers',
    'temporal_encoder/blocks/': 'vision_model.temporal_layers',
    'auxiliary_encoder/blocks/': 'auxiliary_layers',
}
_BLOCK_NAMES = {
    'attention_norm': 'layernorm_before',
    'attention/query': 'attention.q_proj',
    'attention/key': 'attention.k_proj',
    'attention/value': 'attention.v_proj',
    'attention/out': 'attention.o_proj',
    'mlp_norm': 'layernorm_after',
    'mlp/up': 'mlp.fc1',
    'mlp/down': 'mlp.fc2',
}
# Their axes and ours, for what differs.
_AXES = {
    r'embedding/kernel': ('d c t h w', 't h w c d'),
    r'.*/(query|key|value)/kernel': ('(h k) d', 'd h k'),
    r'.*/(query|key|value)/bias': ('(h k)', 'h k'),
    r'.*/out/kernel': ('d (h k)', 'h k d'),
    r'.*/(up|down|logits)/kernel': ('o i', 'i o'),
}


def model(config: Mapping[str, Any]) -> Any:
    """The vjax model of a `VideoPrismVisionConfig`, or of the one within a `VideoPrismConfig`.

    Raises:
      UserError: an entry is invalid, or means what vjax does not compute.
    """
    contrastive = set(config.get('architectures') or ()) & set(CONTRASTIVE)
    classes, _ = entries.labels(config)
    config = _vision(config)
    if not isinstance(config['hidden_act'], str) or config['hidden_act'] not in GELUS:
        raise UserError(
            f'hidden_act={config["hidden_act"]!r:.100} is not one of {", ".join(GELUS)}'
        )
    if config['qkv_bias'] is not True:
        raise UserError(f'qkv_bias={config["qkv_bias"]!r:.100}: VideoPrism has biases')
    cap = entries.number(config, 'attn_logit_softcapping')
    if not cap > 0:
        raise UserError(f'attn_logit_softcapping={cap} should be above 0')
    tubelet = entries.wholes(config, 'tubelet_size', 3)
    _check_tubelet(tubelet)
    width = entries.whole(config, 'hidden_size')
    mlp_dim = entries.whole(config, 'intermediate_size')
    num_heads = entries.whole(config, 'num_attention_heads')
    if config.get('head_dim') not in (None, width // num_heads):
        raise UserError(
            f'head_dim={config["head_dim"]!r:.100} is not hidden_size={width} over '
            f'num_attention_heads={num_heads}'
        )
    height_width = entries.wholes(config, 'image_size', 2)
    built = models.build(
        'videoprism',
        num_classes=classes,
        width=width,
        depth=entries.whole(config, 'num_spatial_layers'),
        num_heads=num_heads,
        mlp_dim=mlp_dim,
        tubelet=tubelet,
        temporal_depth=entries.whole(config, 'num_temporal_layers'),
        auxiliary_depth=entries.whole(config, 'num_auxiliary_layers') if contrastive else 0,
        logit_cap=cap,
        pool_width=0 if mlp_dim == 4 * width else mlp_dim,
        position_grid=(
            entries.whole(config, 'num_frames'),
            *(size // patch for size, patch in zip(height_width, tubelet[1:], strict=True)),
        ),
        dropout=entries.number(config, 'hidden_dropout_prob'),
        attention_dropout=entries.number(config, 'attention_probs_dropout_prob'),
        gelu=GELUS[config['hidden_act']],
        norm_epsilon=entries.number(config, 'layer_norm_eps'),
    )
    built.check((*_clip(built), 3))
    return built


def config(model: Any, classes: Collection[str] | None, input_shape: tuple[int, ...]) -> dict:
    """The content of config.json, of a `VideoPrismForVideoClassification`.

    Raises:
      UserError: a field of the model has no counterpart.
    """
    _check_tubelet(model.tubelet)
    pool_width = model.pool_width or 4 * model.width
    same = (
        ('classifier', model.classifier, 'map'),
        ('auxiliary_depth', model.auxiliary_depth, 0),
        ('positions', model.positions, 'learned'),
        ('pool_width', pool_width, model.mlp_dim),
    )
    for name, found, needed in same:
        if found != needed:
            raise UserError(
                f'{name}={found!r} has no counterpart in VideoPrismForVideoClassification, where it is '
                f'{needed!r}'
            )
    if not model.logit_cap:
        raise UserError('logit_cap=0 has no counterpart in Hugging Face, whose cap divides')
    *_, channels = input_shape
    model.check(input_shape)
    time, height, width = _clip(model, input_shape)
    names = entries.unnamed(model.num_classes) if classes is None else classes
    return {
        'architectures': ['VideoPrismForVideoClassification'],
        'model_type': 'videoprism_vision_model',
        'image_size': [height, width],
        'num_frames': time,
        'tubelet_size': list(model.tubelet),
        'num_channels': channels,
        'hidden_size': model.width,
        'num_attention_heads': model.num_heads,
        'intermediate_size': model.mlp_dim,
        'hidden_act': next(name for name, gelu in GELUS.items() if gelu == model.gelu),
        'hidden_dropout_prob': model.dropout,
        'attention_probs_dropout_prob': model.attention_dropout,
        'layer_norm_eps': model.norm_epsilon,
        'qkv_bias': True,
        'num_spatial_layers': model.depth,
        'num_temporal_layers': model.temporal_depth,
        'attn_logit_softcapping': model.logit_cap,
        'id2label': {str(i): name for i, name in enumerate(names)},
        'label2id': {name: i for i, name in enumerate(names)},
    }


def params(state: Mapping[str, np.ndarray], model: Any) -> dict:
    """The model's parameters, as nested dicts; without pooling or classifier where they are missing.

    Raises:
      UserError: tensors are missing, unexpected or of another shape.
    """
    state = _by_full_name(state)
    _check_counts(state, model)
    flat, missing = {}, []
    for path, shape in _shapes(state, model).items():
        names = tensor_names(path, model)
        known = [name for name in names if name in state]
        if not known and _absent(path, state):
            continue
        missing += [name for name in names if name not in state]
        found = [_to_vjax(name, state.pop(name), path, shape, model) for name in known]
        if found and len(found) == len(names):
            flat[path] = np.stack(found) if '/blocks/' in path else found[0]
    _refuse('missing tensors', missing)
    _refuse('unexpected tensors', state)
    flat['embedding/kernel'], flat['embedding/bias'] = to_signed(
        flat['embedding/kernel'], flat['embedding/bias']
    )
    return unflatten(flat)


def state(params: Mapping, model: Any) -> dict[str, np.ndarray]:
    """The inverse of `params`, by the names of a `VideoPrismForVideoClassification`.

    Raises:
      UserError: a parameter has no counterpart.
    """
    flat = {path: np.asarray(leaf, np.float32) for path, leaf in flatten(params).items()}
    flat['embedding/kernel'], flat['embedding/bias'] = to_unit(
        flat['embedding/kernel'], flat['embedding/bias']
    )
    tensors = {}
    for path, array in flat.items():
        names = tensor_names(path, model)
        layers = array if '/blocks/' in path else [array]
        for name, layer in zip(names, layers, strict=True):
            theirs, ours = _axes(path)
            if theirs:
                layer = einops.rearrange(layer, f'{ours} -> {theirs}')
            tensors[name] = np.ascontiguousarray(layer - 1 if path.endswith('/scale') else layer)
    return tensors


def check(state: Mapping[str, np.ndarray], config: Mapping[str, Any]) -> None:
    """Raises a UserError where the tensors contradict entries that are no fields of a model."""
    found = _by_full_name(state)
    channels = found[_tensor_name('embedding/kernel', _NAMES)].shape[1]
    if channels != _vision(config)['num_channels']:
        raise UserError(
            f'num_channels={_vision(config)["num_channels"]!r:.100} and the kernel takes {channels}'
        )
    classifies = 'VideoPrismForVideoClassification' in (config.get('architectures') or ())
    if classifies and 'classifier.weight' not in found:
        raise UserError(
            'the tensors are missing the classifier of VideoPrismForVideoClassification'
        )


def processor(model: Any, input_shape: tuple[int, ...], short_side: int) -> dict:
    """preprocessor_config.json: the short side resized, the centre cut out, values in [0, 1]."""
    del model
    _, height, width, _ = input_shape
    return {
        'video_processor_type': 'LlavaOnevisionVideoProcessor',  # The one that they take.
        'do_resize': True,
        'size': {'shortest_edge': short_side},
        'resample': 2,  # PIL's number for bilinear.
        'do_center_crop': True,
        'crop_size': {'height': height, 'width': width},
        'do_rescale': True,
        'rescale_factor': 1 / 255,
        'do_normalize': False,
    }


def tensor_names(path: str, model: Any) -> list[str]:
    """Theirs for our parameter at `path`: one, or one for each layer.

    Raises:
      UserError: there is none.
    """
    for blocks, depth in _depths(model).items():
        if path.startswith(blocks):
            inner = _tensor_name(path.removeprefix(blocks), _BLOCK_NAMES)
            return [f'{_LAYERS[blocks]}.{i}.{inner}' for i in range(depth)]
    return [_tensor_name(path, _NAMES)]


def _tensor_name(path: str, names: Mapping[str, str]) -> str:
    if path in names:
        return names[path]
    module, _, leaf = path.rpartition('/')
    if module not in names:
        raise UserError(f'the parameter {path!r} has no counterpart in Hugging Face')
    return f'{names[module]}.{"bias" if leaf == "bias" else "weight"}'


def _by_full_name(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The tensors that are used, float32, by name in `VideoPrismForVideoClassification`.

    The other classes leave out a prefix or have one more.
    """
    found = {}
    for name, tensor in state.items():
        if any(re.fullmatch(pattern, name) for pattern in UNUSED):
            continue
        full = name.removeprefix('video_model.')
        if full.startswith(('layernorm', 'spatial_', 'temporal_')):
            full = f'vision_model.{full}'
        if full in found:
            raise UserError(f'the tensor {name} is there twice, under two names')
        if not jnp.issubdtype(tensor.dtype, jnp.floating):
            raise UserError(f'the tensor {name} is of {tensor.dtype}, no floating-point numbers')
        found[full] = np.asarray(tensor, np.float32)
    return found


def _check_counts(state: Mapping[str, np.ndarray], model: Any) -> None:
    """Compares the layers, before a wrong number makes for long lists or large shapes."""
    for blocks, depth in _depths(model).items():
        layers = _LAYERS[blocks]
        found = {name[len(layers) + 1 :].split('.')[0] for name in state if name.startswith(layers)}
        if len(found) != depth:
            raise UserError(
                f'config.json has {depth} of {layers} and the tensors are of {len(found)}'
            )


def _absent(path: str, state: Mapping[str, Any]) -> bool:
    """Whether all of the classifier, or of the pooling, that the path is of is not there."""
    if path.startswith('head/logits/'):
        return not any(name.startswith('classifier.') for name in state)
    return path.startswith('head/') and not any(name.startswith('head') for name in state)


def _shapes(state: Mapping[str, np.ndarray], model: Any) -> dict[str, tuple[int, ...]]:
    """Of all parameters, by path, in the positions' own grid."""
    kernel = state.get(_tensor_name('embedding/kernel', _NAMES), np.zeros(()))
    channels = kernel.shape[1] if kernel.ndim == 5 else 3
    shapes = flatten(costs.param_shapes(model, (*_clip(model), channels)))
    return {path: leaf.shape for path, leaf in shapes.items()}


def _to_vjax(
    name: str, tensor: np.ndarray, path: str, shape: tuple[int, ...], model: Any
) -> np.ndarray:
    """A tensor in our axes and conventions; pixels stay theirs."""
    expected = shape[1:] if '/blocks/' in path else shape
    theirs, ours = _axes(path)
    found = tensor
    if theirs:
        sizes = {'h': model.num_heads} if '(h k)' in theirs else {}
        try:
            found = einops.rearrange(tensor, f'{theirs} -> {ours}', **sizes)
        except einops.EinopsError:
            expected = ()
    if found.shape != expected:
        raise UserError(
            f'the tensor {name} has the shape {tensor.shape}, which is not what config.json says'
        )
    return found + 1 if path.endswith('/scale') else found


def _axes(path: str) -> tuple[str, str]:
    """Their axes and ours for the parameter, '' for no difference."""
    return next((axes for pattern, axes in _AXES.items() if re.fullmatch(pattern, path)), ('', ''))


def _clip(model: Any, input_shape: tuple[int, ...] = ()) -> tuple[int, int, int]:
    """Frames and pixels for which the position embeddings need not be resized."""
    grid = model.position_grid or model.token_grid(input_shape)
    return tuple(n * m for n, m in zip(grid, model.tubelet, strict=True))


def _depths(model: Any) -> dict[str, int]:
    return dict(
        zip(_LAYERS, (model.depth, model.temporal_depth, model.auxiliary_depth), strict=True)
    )


def _vision(config: Mapping[str, Any]) -> dict[str, Any]:
    """The entries about videos, the absent ones too."""
    vision = config.get('vision_config') or config
    if not isinstance(vision, Mapping):
        raise UserError(f'vision_config={vision!r:.100} should be a mapping')
    return DEFAULTS | vision


def _check_tubelet(tubelet: tuple[int, ...]) -> None:
    if tubelet[0] != 1:
        raise UserError(
            f'tubelets of {tubelet[0]} frames: VideoPrism in Hugging Face has them of one'
        )


def _refuse(what: str, names: Collection[str]) -> None:
    if names:
        more = f' and {len(names) - 6} more' if len(names) > 6 else ''
        raise UserError(f'{what}: {", ".join(sorted(names)[:6])}{more}')
