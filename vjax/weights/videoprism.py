"""VideoPrism's published npz files (google-deepmind/videoprism) -> vjax's VideoPrism.

The names in a file are paths in a flax tree, 'params/spatial_encoder/transformers_stack/x_layers/...',
with a leading axis for layers that are scanned, or 'x_layers_0', 'x_layers_1', ... for those that are
not. The contrastive models have all that below 'params/vision_encoder', and beside it auxiliary layers,
the attention pooling that stands before vjax's classifier, and a text encoder, which is not used.
Three conventions are theirs: the scale of a LayerNorm is stored minus one, the output projection of
attention is [dim, heads, head_dim], and pixels are in [0, 1].
"""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import einops
import jax.numpy as jnp
import numpy as np

from vjax import models
from vjax.errors import UserError
from vjax.models import costs
from vjax.weights.files import npz
from vjax.weights.source import Source
from vjax.weights.trees import flatten

_TEXT = 'params/text_encoder/'
_POOLER = 'contrastive_vision_pooler'
# Their modules, or parameters, -> ours.
_NAMES = {
    'patch_projection/linear': 'embedding',
    'spatial_pos_emb/emb_var': 'spatial_encoder/position_embedding/table',
    'spatial_ln': 'spatial_encoder/norm',
    'temporal_pos_emb/emb_var': 'temporal_encoder/position_embedding/table',
    'temporal_ln': 'temporal_encoder/norm',
    f'{_POOLER}/pooling_attention_query': 'head/pool/probe',
    f'{_POOLER}/pooling_attention/query': 'head/pool/attention/query',
    f'{_POOLER}/pooling_attention/key': 'head/pool/attention/key',
    f'{_POOLER}/pooling_attention/value': 'head/pool/attention/value',
    f'{_POOLER}/pooling_attention/post': 'head/pool/attention/out',
    f'{_POOLER}/pooling_attention/per_dim_scale/per_dim_scale': 'head/pool/attention/per_dim_scale',
    f'{_POOLER}/pooling_attention_layer_norm': 'head/pool/norm',
}
_BLOCKS = re.compile(
    r'(spatial|temporal|auxiliary)_encoder/transformers_stack/x_layers(?:_(\d+))?/'
)
_BLOCK_NAMES = {
    'layer_norm': 'attention_norm',
    'self_attention/query': 'attention/query',
    'self_attention/key': 'attention/key',
    'self_attention/value': 'attention/value',
    'self_attention/post': 'attention/out',
    'ff_layer/layer_norm': 'mlp_norm',
    'ff_layer/ffn_layer1/linear': 'mlp/up',
    'ff_layer/ffn_layer2/linear': 'mlp/down',
}
_LEAVES = {'w': 'kernel', 'b': 'bias', 'kernel': 'kernel', 'bias': 'bias', 'scale': 'scale'}
# Their axes -> ours, where they differ.
_AXES = {
    'embedding/kernel': '(p q c) d -> 1 p q c d',
    'table': 'n d -> 1 n d',
    'probe': 'one d -> 1 one d',
    'out/kernel': '... d h k -> ... h k d',
}
# What sizes are read from, and its rank.
_SIZED = {
    'embedding/kernel': 2,
    'spatial_encoder/position_embedding/table': 2,
    'temporal_encoder/position_embedding/table': 2,
    'spatial_encoder/blocks/attention/query/kernel': 4,
    'temporal_encoder/blocks/attention/query/kernel': 4,
    'spatial_encoder/blocks/mlp/up/kernel': 3,
}


def read(path: Path, model: Any) -> Source:
    """What a VideoPrism npz file holds: the encoders alone, or those of a contrastive model.

    Args:
      path: The file.
      model: The model that is to be loaded; it matters only for what a file leaves open, the number
        of classes and, where there is no pooling, its width.

    Raises:
      UserError: the file is damaged, or does not hold a VideoPrism.
    """
    name = f'videoprism:{path}'
    names = npz.names(path)
    unused = {key: 'vjax has no text encoder' for key in names if key.startswith(_TEXT)}
    arrays = {}
    for key, array in npz.read(path, wanted=lambda key: key not in unused).items():
        ours, layer = vjax_name(key)
        if not ours or not jnp.issubdtype(array.dtype, jnp.floating):
            raise UserError(f'{name} has an unexpected {key!r}: it is no VideoPrism checkpoint.')
        layers = arrays.setdefault(ours, {})
        if layer in layers:
            raise UserError(f'{name} has {ours} twice.')
        layers[layer] = array.astype(np.float32, copy=False)
    arrays = {ours: _stack(name, ours, layers) for ours, layers in arrays.items()}
    for ours, rank in _SIZED.items():
        if ours not in arrays or arrays[ours].ndim != rank:
            what = f'{ours} of shape {arrays[ours].shape}' if ours in arrays else f'no {ours}'
            raise UserError(f'{name} has {what}: it is no VideoPrism checkpoint.')
    source = _infer(name, arrays, model)
    params = _convert(arrays, source)
    _check(name, params, source)
    return Source(name, source, params, None, unused)


def vjax_name(name: str) -> tuple[str, int | None]:
    """'params/spatial_ln/bias' -> ('spatial_encoder/norm/bias', None); ('', None) if it is unknown.

    The second is the layer, where the file keeps layers apart.
    """
    root = re.match('params/(vision_encoder/)?', name)
    if not root:
        return '', None
    bare, prefix, names, layer = name[root.end() :], '', _NAMES, None
    block = _BLOCKS.match(bare)
    if block:
        prefix, names, bare = f'{block[1]}_encoder/blocks/', _BLOCK_NAMES, bare[block.end() :]
        layer = None if block[2] is None else int(block[2])
    module, _, leaf = bare.rpartition('/')
    if module in names and leaf in _LEAVES:
        return f'{prefix}{names[module]}/{_LEAVES[leaf]}', layer
    # Those that are parameters themselves.
    is_leaf = names is _NAMES and bare.endswith(('emb_var', 'attention_query', 'per_dim_scale'))
    return (names[bare], None) if is_leaf and bare in names else ('', None)


def to_signed(kernel: np.ndarray, bias: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Kernel [..., dim] and bias of a patch embedding for [0, 1] -> those for pixels in [-1, 1]."""
    kernel = kernel / 2
    return kernel, _float32(bias + _sum_over_patch(kernel))


def to_unit(kernel: np.ndarray, bias: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The inverse of `to_signed`."""
    return 2 * kernel, _float32(bias - _sum_over_patch(kernel))


def _sum_over_patch(kernel: np.ndarray) -> np.ndarray:
    return kernel.reshape(-1, kernel.shape[-1]).sum(axis=0, dtype=np.float64)


def _float32(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float32)


def _stack(name: str, ours: str, layers: Mapping[int | None, np.ndarray]) -> np.ndarray:
    """The array, or those of separate layers on a leading axis."""
    if layers.keys() == {None}:
        return layers[None]
    shapes = {array.shape for array in layers.values()}
    if layers.keys() != set(range(len(layers))) or len(shapes) > 1:
        raise UserError(f'{name} has not every layer of {ours} once, in one shape.')
    return np.stack([layers[i] for i in range(len(layers))])


def _infer(name: str, arrays: Mapping[str, np.ndarray], model: Any) -> Any:
    """The model whose parameters have the shapes of those in the file."""
    pixels, width = arrays['embedding/kernel'].shape
    time, places = (
        len(arrays[f'{axis}_encoder/position_embedding/table']) for axis in ('temporal', 'spatial')
    )
    patch, side = math.isqrt(pixels // 3), math.isqrt(places)
    if pixels != 3 * patch**2 or places != side**2:
        raise UserError(
            f'{name} has patches of {pixels} values in {places} places; VideoPrism has square patches '
            'of three colours in square frames.'
        )
    query = arrays['spatial_encoder/blocks/attention/query/kernel']
    temporal = arrays['temporal_encoder/blocks/attention/query/kernel']
    auxiliary = arrays.get('auxiliary_encoder/blocks/attention/query/kernel', ())
    # Of equal widths the one that is written as in the model.
    pool_width = given = getattr(model, 'pool_width', 0)
    if 'head/pool/attention/query/bias' in arrays:
        pool_width = arrays['head/pool/attention/query/bias'].size
        pool_width = given if (given or 4 * width) == pool_width else pool_width
    return models.build(
        'videoprism',
        num_classes=getattr(model, 'num_classes', 1),
        width=width,
        depth=query.shape[0],
        num_heads=query.shape[2],
        mlp_dim=arrays['spatial_encoder/blocks/mlp/up/kernel'].shape[-1],
        tubelet=(1, patch, patch),
        temporal_depth=temporal.shape[0],
        auxiliary_depth=len(auxiliary),
        pool_width=pool_width,
        position_grid=(time, side, side),
    )


def _convert(arrays: Mapping[str, np.ndarray], model: Any) -> dict[str, np.ndarray]:
    """Their axes and conventions into ours; what does not fit the axes is left as it is."""
    _, *patch = model.tubelet
    sizes = {'embedding/kernel': dict(zip('pq', patch, strict=True))}
    params = {}
    for ours, array in arrays.items():
        for suffix, axes in _AXES.items():
            if ours.endswith(suffix):
                try:
                    array = einops.rearrange(array, axes, **sizes.get(suffix, {}))
                except einops.EinopsError:
                    break
        params[ours] = array + 1 if ours.endswith('/scale') else array
    kernel, bias = (params.get(f'embedding/{leaf}') for leaf in ('kernel', 'bias'))
    if bias is not None and bias.shape == kernel.shape[-1:]:
        params['embedding/kernel'], params['embedding/bias'] = to_signed(kernel, bias)
    return params


def _check(name: str, params: Mapping[str, np.ndarray], model: Any) -> None:
    """Refuses parameters that are not the model's, its classifier and perhaps its pooling apart."""
    clip = tuple(n * m for n, m in zip(model.position_grid, model.tubelet, strict=True))
    shapes = flatten(costs.param_shapes(model, (*clip, 3)))
    has_pool = any(path.startswith('head/') for path in params)
    body = 'head/logits/' if has_pool else 'head/'
    expected = {path: leaf.shape for path, leaf in shapes.items() if not path.startswith(body)}
    for path in sorted(expected.keys() | params.keys()):
        found = params[path].shape if path in params else 'missing'
        if found != expected.get(path):
            should = expected.get(path, 'absent')
            raise UserError(f'{name}: {path} is {found} and should be {should} beside the others.')
