"""Scenic's TokenLearner: arguments of its constructor, names of its parameters.

One class, whose `tokenizer.type` says whether it is a plain ViT ('patch'), one with TokenLearner
('dynamic') or its form for videos ('video'). Without a layer that TokenLearner could stand before, it
is a plain ViT or ViViT as well.
"""

from typing import Any

from vjax.errors import UserError
from vjax.models.token_learner import learner_layer
from vjax.weights.scenic import vivit
from vjax.weights.scenic.names import BLOCK, Names, common_fields, stacked, under

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
