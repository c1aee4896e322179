"""Hugging Face `VivitForVideoClassification` -> vjax's ViViT, Model 1.

Hugging Face has converted `google/vivit-b-16x2-kinetics400` from Scenic; its tensors are Scenic's,
transposed to PyTorch's order and with the heads flattened. So the way to vjax leads through Scenic's
names.
"""

import re
from collections.abc import Mapping
from typing import Any

import einops
import numpy as np

from vjax import models
from vjax.errors import UserError
from vjax.weights import scenic

# Modules in Hugging Face's checkpoint files, or as transformers 5 calls them in memory -> in Scenic.
_MODULES = {
    r'embeddings\.cls_token': 'cls',
    r'embeddings\.position_embeddings': 'Transformer/posembed_input/pos_embedding',
    r'embeddings\.patch_embeddings\.projection': 'embedding',
    r'layernorm': 'Transformer/encoder_norm',
    r'classifier': 'output_projection',
}
_BLOCK = r'(?:encoder\.layer|layers)\.(\d+)\.'
_BLOCK_MODULES = {
    r'layernorm_before': 'LayerNorm_0',
    r'layernorm_after': 'LayerNorm_1',
    r'attention\.(?:attention\.query|q_proj)': 'MultiHeadDotProductAttention_0/query',
    r'attention\.(?:attention\.key|k_proj)': 'MultiHeadDotProductAttention_0/key',
    r'attention\.(?:attention\.value|v_proj)': 'MultiHeadDotProductAttention_0/value',
    r'attention\.(?:output\.dense|o_proj)': 'MultiHeadDotProductAttention_0/out',
    r'intermediate\.dense|mlp\.fc1': 'MlpBlock_0/Dense_0',
    r'output\.dense|mlp\.fc2': 'MlpBlock_0/Dense_1',
}
# Hugging Face's axes -> Scenic's, for the leaves whose axes differ; the first match wins.
_AXES = {
    r'(query|key|value)/kernel': '(h k) d -> d h k',
    r'(query|key|value)/bias': '(h k) -> h k',
    r'out/kernel': 'd (h k) -> h k d',
    r'embedding/kernel': 'd c t h w -> t h w c d',
    r'(Dense_\d|output_projection)/kernel': 'o i -> i o',
}


def model(config: Mapping[str, Any]) -> Any:
    """The vjax model of a `VivitConfig` (as a dict, the content of config.json).

    Raises:
      UserError: an activation or epsilon is not the one that vjax computes with.
    """
    if config['hidden_act'] not in ('gelu_fast', 'gelu_new', 'gelu_pytorch_tanh'):
        raise UserError(
            f'hidden_act={config["hidden_act"]!r} is not GELU in its tanh approximation'
        )
    if config['layer_norm_eps'] != 1e-6:
        raise UserError(f'layer_norm_eps={config["layer_norm_eps"]} is not 1e-6')
    return models.build(
        'vivit',
        num_classes=len(config['id2label']),
        width=config['hidden_size'],
        depth=config['num_hidden_layers'],
        num_heads=config['num_attention_heads'],
        mlp_dim=config['intermediate_size'],
        tubelet=tuple(config['tubelet_size']),
        dropout=config['hidden_dropout_prob'],
        attention_dropout=config['attention_probs_dropout_prob'],
    )


def params(state: Mapping[str, np.ndarray], model: Any) -> dict:
    """The model's parameters, as nested dicts, from a `VivitForVideoClassification` state dict.

    Args:
      state: Tensors as numpy arrays, by name.
      model: The vjax model, for example from `model`.

    Raises:
      UserError: tensors are missing, unexpected or of another shape.
    """
    flat = {}
    for name, tensor in state.items():
        target = scenic_name(name)
        axes = next((v for k, v in _AXES.items() if re.search(f'{k}$', target)), None)
        if axes:
            sizes = {'h': model.num_heads} if '(h k)' in axes else {}
            tensor = einops.rearrange(np.asarray(tensor), axes, **sizes)
        flat[target] = tensor
    return scenic.params(flat, model)


def scenic_name(name: str) -> str:
    """'vivit.layernorm.weight' -> 'Transformer/encoder_norm/scale'; a UserError if it is unknown."""
    bare = name.removeprefix('vivit.')
    block = re.match(_BLOCK, bare)
    if block:
        bare, modules = bare[block.end() :], _BLOCK_MODULES
    else:
        modules = _MODULES
    for pattern, module in modules.items():
        match = re.fullmatch(rf'(?:{pattern})(?:\.(weight|bias))?', bare)
        if match:
            weight = 'scale' if 'norm' in module.lower() else 'kernel'
            leaf = {'weight': f'/{weight}', 'bias': '/bias', None: ''}[match[1]]
            return f'Transformer/encoderblock_{block[1]}/{module}{leaf}' if block else module + leaf
    raise UserError(f'unexpected tensor {name!r}: not one of VivitForVideoClassification')
