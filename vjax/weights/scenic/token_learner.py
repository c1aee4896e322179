"""Scenic's TokenLearner: arguments of its constructor, names of its parameters.

One class, whose `tokenizer.type` says whether it is a plain ViT ('patch'), one with TokenLearner
('dynamic') or its form for videos ('video'). Without a layer that TokenLearner could stand before, it
is a plain ViT or ViViT as well.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from vjax import models
from vjax.errors import UserError
from vjax.models.token_learner import learner_layer
from vjax.weights.scenic import vivit
from vjax.weights.scenic.names import (
    BLOCK,
    Names,
    common_fields,
    encoder_sizes,
    head_sizes,
    shape,
    stacked,
    under,
)

MODULES = {'scenic.projects.token_learner.model.TokenLearnerViT': 'token_learner'}
CLASSES = ('TokenLearnerViT', 'TokenLearnerViViT')

_MODELS = {'patch': 'vit', 'dynamic': 'token_learner', 'video': 'token_learner_video'}
_WITHOUT_LEARNER = {'vit': 'vit', 'token_learner': 'vit', 'token_learner_video': 'vivit'}

_SCORES = {
    'scores/up': 'token_masking/Dense_0',
    'scores/down': 'token_masking/Dense_1',
}
_LEARNERS = {
    '1.0': (
        'TokenLearnerModule',
        {'norm': 'LayerNorm_0', **{f'convolution_{i}': f'Conv_{i}' for i in range(4)}},
    ),
    '1.1': ('TokenLearnerModuleV11', {'norm': 'LayerNorm_0', **_SCORES}),
}
_FUSER = {
    'token_norm': 'fuser_mix_norm1',
    'mix': 'Dense_0',
    'mix_norm': 'fuser_mix_norm2',
    'feature_norm': 'LayerNorm_0',
    **_SCORES,
}

input_shape = vivit.input_shape


def fields(module: str, left: dict[str, Any]) -> dict[str, Any]:
    """The fields of the vjax model, and its name as 'model'; takes them out of the arguments `left`."""
    fields = {
        **common_fields(left),
        'width': left.pop('hidden_size'),
        'depth': left.pop('num_layers'),
        'num_heads': left.pop('num_heads'),
        'mlp_dim': left.pop('mlp_dim'),
        'representation_size': left.pop('representation_size', None) or 0,
    }
    tokenizer = dict(left.pop('tokenizer'))
    kind = tokenizer.pop('type')
    if kind not in _MODELS:
        raise UserError(f'tokenizer.type={kind!r} of {module} has no counterpart in vjax')
    patch = tuple(tokenizer.pop('patches')['size'])
    if kind == 'video':
        config = tokenizer.pop('temporal_encoding_config')
        fields |= vivit.embedding_fields(config, patch)
    else:
        fields['patch'] = patch
    learner = {
        'learned_tokens': tokenizer.pop('num_tokens', None),
        'location': tokenizer.pop('tokenlearner_loc', None),
        'version': '1.1' if tokenizer.pop('use_v11', True) else '1.0',
        'fuser': tokenizer.pop('use_tokenfuse', False),
    }
    left |= {f'tokenizer.{name}': value for name, value in tokenizer.items()}
    name = _MODELS[kind]
    if kind == 'patch' or learner['location'] >= fields['depth']:
        return {**fields, 'model': _WITHOUT_LEARNER[name]}
    return {**fields, **learner, 'model': name}


def infer(flat: Mapping[str, np.ndarray], like: Any) -> Any:
    """The model with TokenLearner whose parameters are `flat`.

    Args:
      flat: Scenic's parameters.
      like: A vjax model of any kind. Without TokenFuser it decides before which layer TokenLearner is,
        and with version 1.0 how it pools; Scenic's defaults hold if it has no TokenLearner.

    Raises:
      UserError: a leaf that tells a size is missing, or has not the axes that it should have.
    """
    fields = {
        **head_sizes(flat),
        **encoder_sizes(flat, 'Transformer'),
        'classifier': vivit.infer_classifier(flat),
    }
    first = next(module for module, _ in _LEARNERS.values() if _count(flat, module))
    fields['version'] = next(key for key, (module, _) in _LEARNERS.items() if module == first)
    if fields['version'] == '1.0':
        fields['learned_tokens'] = shape(flat, f'Transformer/{first}_0/Conv_0/kernel', 4)[3]
        fields['pooling'] = getattr(like, 'pooling', 'sum')
    else:
        hidden, tokens = shape(flat, f'Transformer/{first}_0/token_masking/Dense_1/kernel', 2)
        fields |= {'learned_tokens': tokens, 'bottleneck': hidden}
    fusers = _count(flat, 'TokenFuser')
    fields['fuser'] = bool(fusers)
    if fusers:
        scores = shape(flat, 'Transformer/TokenFuser_0/token_masking/Dense_1/kernel', 2)
        fields |= {'bottleneck': scores[0], 'location': fields['depth'] - fusers}
        # There are two ways to say the same layer.
        if fields['location'] == fields['depth'] * 3 // 4 and getattr(like, 'location', -1) == -1:
            fields['location'] = -1
    else:
        location = getattr(like, 'location', -1)
        fields['location'] = location if location < fields['depth'] else -1
        fields.setdefault('bottleneck', getattr(like, 'bottleneck', 64))
    if vivit.is_of_images(flat, like):
        *patch, _, width = shape(flat, 'embedding/kernel', 4)
        return models.build('token_learner', width=width, patch=patch, **fields)
    fields |= vivit.infer_embedding(flat, like) | vivit.unused_fields(like)
    return models.build('token_learner_video', **fields)


def _count(flat: Mapping[str, np.ndarray], module: str) -> int:
    """How many modules of that kind are in the encoder."""
    prefix = f'Transformer/{module}_'
    return len({name.split('/')[1] for name in flat if name.startswith(prefix)})


def names(model: Any) -> Names:
    """Names of parameters in vjax -> those in Scenic."""
    if getattr(model, 'attention', 'spacetime') != 'spacetime':
        raise UserError(f'Scenic has no TokenLearner with attention={model.attention!r}')
    location, depth = learner_layer(model), model.depth
    kind, learner = _LEARNERS[model.version]
    layers = [f'Transformer/encoderblock_{i}' for i in range(location, depth)]
    table = vivit.names(model.clone(depth=location))  # The layers before TokenLearner are a ViT's.
    if not model.fuser:
        table |= under('encoder/token_learner', f'Transformer/{kind}_0', learner)
        return table | stacked('encoder/later_blocks', layers, BLOCK)
    count = range(depth - location)  # They are numbered by themselves.
    learners = [f'Transformer/{kind}_{i}' for i in count]
    fusers = [f'Transformer/TokenFuser_{i}' for i in count]
    table |= stacked('encoder/fused_blocks', layers, BLOCK)
    table |= stacked('encoder/fused_blocks/token_learner', learners, learner)
    return table | stacked('encoder/fused_blocks/token_fuser', fusers, _FUSER)
