"""Scenic's ViT and ViViT: arguments of their constructors, names of their parameters."""

import functools
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from vjax import models
from vjax.errors import UserError
from vjax.weights.scenic.names import (
    BLOCK,
    HEAD,
    POOL,
    Names,
    common_fields,
    encoder_sizes,
    head_sizes,
    input_channels,
    position_rows,
    shape,
    stacked,
    under,
)

MODULES = {
    'scenic.projects.baselines.vit.ViT': 'vit',
    'scenic.projects.vivit.model.ViViT': 'vivit',
    'scenic.projects.vivit.model.SpaceTimeViViT': 'vivit',
}
CLASSES = ('ViT', 'ViViT')

_BLOCK_OF_MODEL_3 = {
    'time_norm': 'LayerNorm_time',
    'time_attention': 'MultiHeadDotProductAttention_time',
    'space_norm': 'LayerNorm_space',
    'space_attention': 'MultiHeadDotProductAttention_space',
    'mlp_norm': 'LayerNorm_mlp',
    'mlp/up': 'MlpBlock/Dense_0',
    'mlp/down': 'MlpBlock/Dense_1',
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


def fields(module: str, left: dict[str, Any]) -> dict[str, Any]:
    """The fields of the vjax model; takes what it understands out of the arguments `left`."""
    spatial = 'spatial_' if module.endswith('SpaceTimeViViT') else ''
    fields = {
        **common_fields(left),
        'width': left.pop('hidden_size'),
        'depth': left.pop(f'{spatial}num_layers'),
        'num_heads': left.pop(f'{spatial}num_heads'),
        'mlp_dim': left.pop(f'{spatial}mlp_dim'),
        'representation_size': left.pop('representation_size', None) or 0,
    }
    patch = tuple(left.pop('patches')['size'])
    if MODULES[module] == 'vit':
        fields['patch'] = patch
        fields['stochastic_depth'] = left.pop('stochastic_depth', 0.0)
        if left.pop('positional_embedding', 'learned_1d') != 'learned_1d':
            raise UserError('only positional_embedding="learned_1d" has a counterpart in vjax')
    else:
        fields['stochastic_depth'] = left.pop('stochastic_droplayer_rate', 0.0)
        fields |= embedding_fields(left.pop('temporal_encoding_config'), patch)
        fields |= _attention(left.pop('attention_config', None) or {})
    if spatial:
        fields['temporal_depth'] = left.pop('temporal_num_layers')
        fields['temporal_num_heads'] = left.pop('temporal_num_heads')
        fields['temporal_mlp_dim'] = left.pop('temporal_mlp_dim')
    return fields


def embedding_fields(config: Mapping[str, Any], patch: tuple[int, ...]) -> dict:
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


def infer_vit(flat: Mapping[str, np.ndarray]) -> Any:
    """The ViT whose parameters are `flat`, numerics and all else that shapes do not tell as in Scenic.

    Raises:
      UserError: a leaf that tells a size is missing, or has not the axes that it should have.
    """
    *patch, _, width = shape(flat, 'embedding/kernel', 4)
    return models.build(
        'vit',
        **head_sizes(flat),
        **encoder_sizes(flat, 'Transformer'),
        width=width,
        patch=patch,
        classifier=infer_classifier(flat),
    )


def infer_classifier(flat: Mapping[str, np.ndarray], class_token: str = 'cls') -> str:
    """What a head looks at."""
    if class_token in flat:
        return 'token'
    return 'map' if 'MAPHead_0/probe' in flat else 'gap'


def infer(flat: Mapping[str, np.ndarray], like: Any) -> Any:
    """The ViT or ViViT whose parameters are `flat`.

    Args:
      flat: Scenic's parameters.
      like: A vjax model of any kind, which decides what parameters do not tell: whether blocks of ViT
        are those of Model 1 or 4, what comes first in Model 3, how many frames are sampled.

    Raises:
      UserError: a leaf that tells a size is missing, or has not the axes that it should have.
    """
    if is_of_images(flat, like):
        return infer_vit(flat)
    fields = {**unused_fields(like), **infer_embedding(flat, like), **head_sizes(flat)}
    if any(name.startswith('SpatialTransformer/') for name in flat):
        fields |= {
            'attention': 'average_pool',
            'classifier': infer_classifier(flat, 'cls_SpatialTransformer'),
            **encoder_sizes(flat, 'SpatialTransformer'),
        }
        if any(name.startswith('TemporalTransformer/') for name in flat):
            fields['attention'] = 'factorised_encoder'
            for name, size in encoder_sizes(flat, 'TemporalTransformer').items():
                same = name != 'depth' and size == fields[name]
                # There are two ways to say that it is as in the spatial encoder.
                fields[f'temporal_{name}'] = 0 if same and not _says(like, name, size) else size
        return models.build('vivit', **fields)
    if _has_model_3(flat):
        attention, mlp = 'MultiHeadDotProductAttention_space', 'MlpBlock'
        fields |= encoder_sizes(flat, 'Transformer', attention, mlp)
        fields['attention'] = 'factorised_self_attention'
    else:
        fields |= encoder_sizes(flat, 'Transformer')
        halves = getattr(like, 'attention', '') == 'factorised_dot_product' and 'cls' not in flat
        fields['attention'] = 'factorised_dot_product' if halves else 'spacetime'
    return models.build('vivit', **fields, classifier=infer_classifier(flat))


def unused_fields(like: Any) -> dict[str, Any]:
    """The fields of a ViViT that some kinds of attention make no use of, as `like` has them."""
    unused = ('attention_order', 'temporal_depth', 'temporal_num_heads', 'temporal_mlp_dim')
    return {name: getattr(like, name) for name in unused if hasattr(like, name)}


def _says(like: Any, name: str, size: int) -> bool:
    return getattr(like, f'temporal_{name}', 0) == size


def _has_model_3(flat: Mapping[str, np.ndarray]) -> bool:
    return any('/LayerNorm_time/' in name for name in flat)


def is_of_images(flat: Mapping[str, np.ndarray], like: Any) -> bool:
    """Whether the embedding, and all else, is that of an image model.

    A video model that samples frames embeds images, too. If `like` is one, positions decide, where
    nothing else does: those of an image are taken to be of a square grid, unless `like` says with
    `position_grid` that the same number is its own.
    """
    if len(np.shape(flat.get('embedding/kernel', ()))) != 4:
        return False
    if any(name.startswith('SpatialTransformer/') for name in flat) or _has_model_3(flat):
        return False
    if getattr(like, 'embedding', '') != 'uniform_frames':
        return True
    rows = position_rows(flat, 'Transformer', has_class_token='cls' in flat)
    grid = like.position_grid
    return math.isqrt(rows) ** 2 == rows and not (grid and math.prod(grid) == rows)


def infer_embedding(flat: Mapping[str, np.ndarray], like: Any) -> dict:
    """Width, and the fields of section 3.2, of a video model."""
    if len(np.shape(flat.get('embedding/kernel', ()))) != 4:
        *tubelet, _, width = shape(flat, 'embedding/kernel', 5)
        return {'width': width, 'tubelet': tubelet}
    *patch, _, width = shape(flat, 'embedding/kernel', 4)
    frames = getattr(like, 'num_sampled_frames', 0)
    has_class_token = 'cls_TemporalTransformer' in flat
    steps = position_rows(flat, 'TemporalTransformer', has_class_token=has_class_token)
    if 'TemporalTransformer/posembed_input/pos_embedding' in flat and steps - frames not in (0, 1):
        frames = steps  # They may be one more than were asked for: see `uniform_frames`.
    return {
        'width': width,
        'tubelet': (1, *patch),
        'embedding': 'uniform_frames',
        'num_sampled_frames': frames or 1,
    }


def names(model: Any) -> Names:
    """Names of parameters in vjax -> those in Scenic."""
    attention = getattr(model, 'attention', None)
    table = {'embedding': 'embedding', **HEAD}
    if getattr(model, 'embedding', None) == 'uniform_frames':
        table['embedding/kernel'] = ['embedding/kernel']  # With a time axis of length 1.
    if attention in ('factorised_encoder', 'average_pool'):
        table |= encoder_names('spatial_encoder', 'SpatialTransformer', model.depth)
        table |= encoder_names('temporal_encoder', 'TemporalTransformer', model.temporal_depth)
        for space in ('spatial', 'temporal'):
            table[f'{space}_encoder/class_token'] = f'cls_{space.title()}Transformer'
        return table
    block = _BLOCK_OF_MODEL_3 if attention == 'factorised_self_attention' else BLOCK
    table |= encoder_names('encoder', 'Transformer', model.depth, block)
    return table | {'encoder/class_token': 'cls'} | under('encoder/pool', 'MAPHead_0', POOL)


def encoder_names(ours: str, theirs: str, depth: int, block: Names = BLOCK) -> Names:
    """The names of a `layers.Encoder`, its class token excepted."""
    layers = [f'{theirs}/encoderblock_{i}' for i in range(depth)]
    return {
        f'{ours}/position_embedding/table': f'{theirs}/posembed_input/pos_embedding',
        f'{ours}/norm': f'{theirs}/encoder_norm',
        **stacked(f'{ours}/blocks', layers, block),
    }


def input_shape(flat: Mapping[str, np.ndarray], model: Any) -> tuple[int, ...]:
    """The shape of an example for which the model has position embeddings like those in `flat`.

    Not the original one: all of space lies along the height, and along with time in Models 1, 3, 4.
    """

    has_class_token = model.classifier == 'token'
    rows = functools.partial(position_rows, flat, has_class_token=has_class_token)
    channels = input_channels(flat, 'embedding')
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
            (n for n in candidates if model.token_grid((n, height, width, channels))[0] == steps),
            time,
        )
    return time, rows(space) * height, width, channels
