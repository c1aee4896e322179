"""Parameters of Scenic's ViT and ViViT <-> parameters of vjax's, leaf by leaf.

Scenic (google-research/scenic) numbers its blocks, `Transformer/encoderblock_3/LayerNorm_0/scale`,
where vjax stacks them, `encoder/blocks/attention_norm/scale`[3]. Otherwise the trees differ in names
alone, so one table of names and `model`, which reads Scenic's constructor arguments, are all there
is. A tree is a flat dict from 'a/b/c' to array on Scenic's side, nested dicts on vjax's.
"""

import itertools
from collections.abc import Collection, Mapping
from typing import Any

import jax
import numpy as np

from vjax import models
from vjax.errors import UserError
from vjax.models import costs

# Names in vjax -> names in Scenic: of modules or leaves, with {} for the number of a block.
_OUTSIDE = {
    'embedding': 'embedding',
    'encoder/pool/probe': 'MAPHead_0/probe',
    'encoder/pool/attention': 'MAPHead_0/MultiHeadDotProductAttention_0',
    'encoder/pool/mlp_norm': 'MAPHead_0/LayerNorm_0',
    'encoder/pool/mlp/up': 'MAPHead_0/MlpBlock_0/Dense_0',
    'encoder/pool/mlp/down': 'MAPHead_0/MlpBlock_0/Dense_1',
    'head/pre_logits': 'pre_logits',
    'head/logits': 'output_projection',
}
_ENCODERS = {
    'encoder': 'Transformer',
    'spatial_encoder': 'SpatialTransformer',
    'temporal_encoder': 'TemporalTransformer',
}
_BLOCK = {
    'attention_norm': 'LayerNorm_0',
    'attention': 'MultiHeadDotProductAttention_0',
    'mlp_norm': 'LayerNorm_1',
    'mlp/up': 'MlpBlock_0/Dense_0',
    'mlp/down': 'MlpBlock_0/Dense_1',
}
_BLOCK_OF_MODEL_3 = {
    'time_norm': 'LayerNorm_time',
    'time_attention': 'MultiHeadDotProductAttention_time',
    'space_norm': 'LayerNorm_space',
    'space_attention': 'MultiHeadDotProductAttention_space',
    'mlp_norm': 'LayerNorm_mlp',
    'mlp/up': 'MlpBlock/Dense_0',
    'mlp/down': 'MlpBlock/Dense_1',
}
_MODULES = {
    'scenic.projects.baselines.vit.ViT': 'vit',
    'scenic.projects.vivit.model.ViViT': 'vivit',
    'scenic.projects.vivit.model.SpaceTimeViViT': 'vivit',
}
_ATTENTIONS = {
    'spacetime': 'spacetime',
    'factorized_encoder': 'factorised_encoder',
    'factorized_self_attention_block': 'factorised_self_attention',
    'factorized_dot_product_attention': 'factorised_dot_product',
}
_TUBELET_INITS = {
    'central_frame_initializer': 'central_frame',
    'average_frame_initializer': 'average_frame',
}


def model(module: str, constructor: Mapping[str, Any]) -> Any:
    """The vjax model that Scenic builds as `module(**constructor)`.

    Args:
      module: Dotted name of Scenic's class, such as 'scenic.projects.vivit.model.ViViT'.
      constructor: Its arguments, ConfigDicts as dicts. What only concerns initialisation in Scenic
        (`attention_kernel_init_method`) and what only concerns its outputs is ignored.

    Raises:
      UserError: vjax has no such model, or an argument has no counterpart.
    """
    if module not in _MODULES:
        raise UserError(f'no mapping for {module!r}: it is one of {", ".join(_MODULES)}')
    left = dict(constructor)
    spatial = 'spatial_' if module.endswith('SpaceTimeViViT') else ''
    fields = {
        'num_classes': left.pop('num_classes'),
        'width': left.pop('hidden_size'),
        'depth': left.pop(f'{spatial}num_layers'),
        'num_heads': left.pop(f'{spatial}num_heads'),
        'mlp_dim': left.pop(f'{spatial}mlp_dim'),
        'classifier': left.pop('classifier', 'gap'),
        'representation_size': left.pop('representation_size', None) or 0,
        'dropout': left.pop('dropout_rate', 0.1),
        'attention_dropout': left.pop('attention_dropout_rate', 0.1),
        'dtype': np.dtype(left.pop('dtype', 'float32')).name,
    }
    patch = tuple(left.pop('patches')['size'])
    if _MODULES[module] == 'vit':
        fields['patch'] = patch
        fields['stochastic_depth'] = left.pop('stochastic_depth', 0.0)
        if left.pop('positional_embedding', 'learned_1d') != 'learned_1d':
            raise UserError('only positional_embedding="learned_1d" has a counterpart in vjax')
    else:
        fields['stochastic_depth'] = left.pop('stochastic_droplayer_rate', 0.0)
        fields |= _embedding(left.pop('temporal_encoding_config'), patch)
        fields |= _attention(left.pop('attention_config', None) or {})
    if spatial:
        fields['temporal_depth'] = left.pop('temporal_num_layers')
        fields['temporal_num_heads'] = left.pop('temporal_num_heads')
        fields['temporal_mlp_dim'] = left.pop('temporal_mlp_dim')
    for key in ('return_prelogits', 'return_preclassifier'):
        if left.pop(key, False):
            raise UserError(f'{key}=True has no counterpart: a vjax model returns logits')
    if left:
        raise UserError(f'arguments of {module} without a counterpart in vjax: {", ".join(left)}')
    return models.build(_MODULES[module], **fields)


def _embedding(config: Mapping[str, Any], patch: tuple[int, ...]) -> dict:
    """Fields of section 3.2 from `temporal_encoding_config`; Scenic's patch is (h, w, t)."""
    if config['method'] == 'temporal_sampling':
        return {
            'embedding': 'uniform_frames',
            'num_sampled_frames': config['n_sampled_frames'],
            'tubelet': (1, *patch[:2]),
        }
    if config['method'] != '3d_conv':
        raise UserError(f'temporal_encoding_config.method={config["method"]!r} has no counterpart')
    height, width, time = patch
    return {
        'tubelet': (time, height, width),
        'tubelet_init': _TUBELET_INITS.get(config.get('kernel_init_method'), 'random'),
    }


def _attention(config: Mapping[str, Any]) -> dict:
    """Fields of section 3.3 from `attention_config`."""
    kind = config.get('type', 'spacetime')
    if kind not in _ATTENTIONS:
        raise UserError(f'attention_config.type={kind!r} has no counterpart in vjax')
    if kind == 'factorized_encoder' and config.get('spatial_only_baseline', False):
        return {'attention': 'average_pool'}
    return {
        'attention': _ATTENTIONS[kind],
        'attention_order': config.get('attention_order', 'time_space'),
    }


def params(flat: Mapping[str, np.ndarray], model: Any) -> dict:
    """The model's parameters, as nested dicts of arrays, from Scenic's.

    Args:
      flat: Scenic's parameters, 'Transformer/encoder_norm/scale' -> array.
      model: The vjax model, for example from `model`. The size of its input follows from the position
        embeddings in `flat`.

    Raises:
      UserError: leaves are missing, unexpected or of another shape; it names them.
    """
    shapes = flatten(costs.param_shapes(model, _input_shape(flat, model)))
    names = {path: _names(path, leaf.shape, model) for path, leaf in shapes.items()}

    expected = set(itertools.chain.from_iterable(names.values()))
    _refuse('missing from the Scenic parameters', expected - set(flat))
    _refuse('unexpected in the Scenic parameters', set(flat) - expected)
    wrong = []
    for path, leaf in shapes.items():
        shape = leaf.shape[1:] if _is_stacked(path, model) else leaf.shape
        wrong += [
            f'{name} {np.shape(flat[name])} instead of {shape}'
            for name in names[path]
            if np.shape(flat[name]) != shape
        ]
    _refuse('of another shape in the Scenic parameters', wrong)

    return unflatten(
        {
            path: np.stack([flat[name] for name in names[path]])
            if _is_stacked(path, model)
            else np.asarray(flat[names[path][0]])
            for path in shapes
        }
    )


def flat_params(params: Mapping, model: Any) -> dict[str, np.ndarray]:
    """The inverse of `params`: Scenic's flat parameters from those of a vjax model."""
    flat = {}
    for path, leaf in flatten(params).items():
        leaves = leaf if _is_stacked(path, model) else [leaf]
        flat |= dict(zip(_names(path, leaf.shape, model), map(np.asarray, leaves), strict=True))
    return flat


def flatten(tree: Any) -> dict[str, Any]:
    """Nested dicts -> {'a/b/c': leaf}."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator='/'): leaf for path, leaf in leaves}


def unflatten(flat: Mapping[str, Any]) -> dict:
    """{'a/b/c': leaf} -> nested dicts."""
    tree = {}
    for path, leaf in flat.items():
        *parents, last = path.split('/')
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = leaf
    return tree


def _names(path: str, shape: tuple[int, ...], model: Any) -> list[str]:
    """Scenic's names of one vjax leaf: one, or one for each block."""
    table = dict(_OUTSIDE)
    attention = getattr(model, 'attention', None)
    block = _BLOCK_OF_MODEL_3 if attention == 'factorised_self_attention' else _BLOCK
    for ours, theirs in _ENCODERS.items():
        table[f'{ours}/class_token'] = 'cls' if ours == 'encoder' else f'cls_{theirs}'
        table[f'{ours}/position_embedding'] = f'{theirs}/posembed_input/pos_embedding'
        table[f'{ours}/norm'] = f'{theirs}/encoder_norm'
        for name, scenic in block.items():
            table[f'{ours}/blocks/{name}'] = f'{theirs}/encoderblock_{{}}/{scenic}'
    prefix = path
    while prefix not in table:
        prefix = prefix.rpartition('/')[0]
    template = table[prefix] + path.removeprefix(prefix)
    return [template.format(i) for i in range(shape[0] if '{}' in template else 1)]


def _is_stacked(path: str, model: Any) -> bool:
    """Whether vjax's leaf has a leading axis that Scenic's leaves lack.

    Blocks have their depth. The kernel for single frames has time, of length 1.
    """
    if path == 'embedding/kernel':
        return getattr(model, 'embedding', None) == 'uniform_frames'
    return '/blocks/' in path


def _input_shape(flat: Mapping[str, np.ndarray], model: Any) -> tuple[int, ...]:
    """The shape of an example for which the model has position embeddings like those in `flat`.

    Not the original one: all of space lies along the height, and along with time in Models 1, 3, 4.
    """

    def rows(transformer):
        table = np.shape(flat.get(f'{transformer}/posembed_input/pos_embedding', ()))
        has_class_token = model.classifier == 'token'
        return max(table[1] - has_class_token, 1) if len(table) == 3 else 1

    kernel = np.shape(flat.get('embedding/kernel', ()))
    channels = kernel[-2] if len(kernel) > 2 else 3
    if hasattr(model, 'patch'):
        height, width = model.patch
        return rows('Transformer') * height, width, channels
    time, height, width = model.tubelet
    space = 'Transformer'
    if model.attention in ('factorised_encoder', 'average_pool'):
        space = 'SpatialTransformer'
        steps = rows('TemporalTransformer')
        # Sampling frames may return one more than it was asked for, from enough of them.
        candidates = (n * time for n in range(1, 64 * steps + 1))
        time = next(
            (n for n in candidates if model.grid((n, height, width, channels))[0] == steps), time
        )
    return time, rows(space) * height, width, channels


def _refuse(what: str, items: Collection[str]) -> None:
    """Raises a UserError that names the first of the items, if there are any."""
    if items:
        shown = ', '.join(sorted(items)[:6])
        more = f' and {len(items) - 6} more' if len(items) > 6 else ''
        raise UserError(f'{what}: {shown}{more}')
