"""Scenic's MTV: arguments of its constructor, names of its parameters."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from vjax.errors import UserError
from vjax.weights.scenic.names import (
    BLOCK,
    HEAD,
    Names,
    common_fields,
    input_channels,
    position_rows,
)
from vjax.weights.scenic.vivit import embedding_fields, encoder_names

MODULES = {'scenic.projects.mtv.model.MTV': 'mtv'}
CLASSES = ('MTV',)

_ENCODER = 'MultiviewEncoder'


def fields(module: str, left: dict[str, Any]) -> dict[str, Any]:
    """The fields of the vjax model; takes what it understands out of the arguments `left`."""
    del module
    if left.pop('keep_spatiotemporal_features', False):
        raise UserError('keep_spatiotemporal_features=True has no counterpart in vjax')
    if left.pop('final_endpoint', 'logits') != 'logits':
        raise UserError('only final_endpoint="logits" has a counterpart in vjax')
    left.pop('variant', None)  # Says again what view_configs say.
    left.pop('input_token_temporal_dims', None)  # Follow from the clip.
    views = left.pop('view_configs')
    encoding = left.pop('temporal_encoding_config')
    embeddings = [embedding_fields(encoding, tuple(view['patches']['size'])) for view in views]
    if any('embedding' in embedding for embedding in embeddings):
        raise UserError('temporal_encoding_config.method="temporal_sampling" is not for MTV')
    fields = {
        **common_fields(left),
        'stochastic_depth': left.pop('stochastic_depth', 0.0),
        'widths': tuple(view['hidden_size'] for view in views),
        'depths': tuple(view['num_layers'] for view in views),
        'num_heads': tuple(view['num_heads'] for view in views),
        'mlp_dims': tuple(view['mlp_dim'] for view in views),
        'tubelets': tuple(embedding['tubelet'] for embedding in embeddings),
        'tubelet_init': embeddings[0]['tubelet_init'],
    }
    fields |= _fusion(left.pop('cross_view_fusion'), fields['depths'])
    return fields | _global_encoder(left.pop('global_encoder_config'))


def _fusion(config: Mapping[str, Any] | None, depths: tuple[int, ...]) -> dict:
    """Fields of the fusion from `cross_view_fusion`; None is none."""
    if config is None:
        return {'fusion': 'none', 'fusion_layers': ()}
    if config['type'] not in ('cross_view_attention', 'bottleneck'):
        raise UserError(f'cross_view_fusion.type={config["type"]!r} has no counterpart in vjax')
    if len(depths) == 1:
        raise UserError('cross_view_fusion of a single view has no counterpart in vjax')
    # Scenic takes layers in any order, and passes over those that no view has.
    fusion_layers = {layer for layer in config['fusion_layers'] if 0 <= layer < max(depths)}
    fields = {
        'fusion': config['type'],
        'fusion_layers': tuple(sorted(fusion_layers)),
        'fuse_in_descending_order': config.get('fuse_in_descending_order', True),
    }
    if config['type'] == 'bottleneck':
        return fields | {'bottleneck_tokens': config['bottleneck_tokens']}
    return fields | {'cross_view_width': 'query' if config['use_query_config'] else 'key'}


def _global_encoder(config: Mapping[str, Any]) -> dict:
    """Fields of the global encoder from `global_encoder_config`."""
    left = dict(config)
    hidden_size = left.pop('hidden_size', 0)
    fields = {
        'merge': left.pop('merge_axis', 'channel'),
        'global_depth': left.pop('num_layers'),
        'global_num_heads': left.pop('num_heads'),
        'global_mlp_dim': left.pop('mlp_dim'),
    }
    if left:
        raise UserError(f'global_encoder_config.{min(left)} has no counterpart in vjax')
    # Merged along channels the width is the sum of the views', whatever hidden_size says.
    return fields | ({'global_width': hidden_size} if fields['merge'] == 'time' else {})


def names(model: Any) -> Names:
    """Names of parameters in vjax -> those in Scenic."""
    table = {
        **HEAD,
        **encoder_names('global_encoder', 'global_encoder', model.global_depth),
        'global_encoder/class_token': 'cls_global',
        'bottleneck/table': 'bottleneck',
    }
    for i in range(len(model.depths)):
        table |= {
            f'view_{i}/embedding': f'embedding_view{i}',
            f'view_{i}/class_token/table': f'cls_view{i}',
            f'view_{i}/position_embedding/table': _positions(i),
            f'view_{i}_to_global': f'global_encoder_linear_view{i}',
        }
        for start, stop in model.stretches(i):
            blocks = [_block(model, layer, i) for layer in range(start, stop)]
            table |= {
                f'view_{i}/blocks_{start}/{name}': [block[name] for block in blocks]
                for name in BLOCK
            }
        for layer in model.fused_layers():
            fusion = f'{_ENCODER}/cross_view_encoderblock_{layer}'
            table[f'fusion_{layer}/norm_{i}'] = f'{fusion}/cross_attention_ln_view{i}'
            for j in (i - 1, i + 1):
                table[f'fusion_{layer}/attention_{i}_{j}'] = f'{fusion}/cross_attention_view{i}_{j}'
            table[f'fusion_{layer}_to_view_{i}'] = f'{_ENCODER}/bottleneck_linear_{layer}_view{i}'
    return table


def _block(model: Any, layer: int, view: int) -> dict[str, str]:
    """The names of one layer of one view, which a cross-view layer calls otherwise."""
    if model.fusion == 'cross_view_attention' and layer in model.fused_layers():
        fusion = f'{_ENCODER}/cross_view_encoderblock_{layer}'
        return {
            'attention_norm': f'{fusion}/msa_ln_view{view}',
            'attention': f'{fusion}/msa_view{view}',
            'mlp_norm': f'{fusion}/mlp_ln_view{view}',
            'mlp/up': f'{fusion}/mlp_view{view}/Dense_0',
            'mlp/down': f'{fusion}/mlp_view{view}/Dense_1',
        }
    block = f'{_ENCODER}/encoderblock_{layer}_view{view}'
    return {name: f'{block}/{scenic}' for name, scenic in BLOCK.items()}


def _positions(view: int) -> str:
    return f'{_ENCODER}/posembed_input_view{view}/pos_embedding'


def input_shape(flat: Mapping[str, np.ndarray], model: Any) -> tuple[int, ...]:
    """The shape of an example for which the model has position embeddings like those in `flat`.

    Not the original one: space lies along the height, and is as narrow as the tubelets allow.
    """
    times, heights, widths = zip(*model.tubelets, strict=True)
    tokens = model.classifier == 'token'

    # The global encoder's positions are of the view with most indices of time, or of all views.
    shortest = math.lcm(*times)
    steps = [shortest // time for time in times]
    per_clip = sum(steps) if model.merge == 'time' else max(steps)
    rows = position_rows(flat, 'global_encoder', has_class_token=tokens)

    height, width = math.lcm(*heights), math.lcm(*widths)
    table = np.shape(flat.get(_positions(0), ()))
    cells = table[1] - tokens if len(table) == 3 else 1
    area = cells * heights[0] * widths[0]
    channels = input_channels(flat, 'embedding_view0')
    return (
        max(rows // per_clip, 1) * shortest,
        max(area // (height * width), 1) * height,
        width,
        channels,
    )
