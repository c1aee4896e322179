"""Scenic's MTV: arguments of its constructor, names of its parameters."""

import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from vjax import models
from vjax.errors import UserError
from vjax.weights.scenic.names import (
    BLOCK,
    HEAD,
    Names,
    common_fields,
    encoder_sizes,
    head_sizes,
    input_channels,
    position_rows,
    shape,
)
from vjax.weights.scenic.vivit import embedding_fields, encoder_names, infer_classifier

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


def infer(flat: Mapping[str, np.ndarray], like: Any) -> Any:
    """The MTV whose parameters are `flat`.

    Args:
      flat: Scenic's parameters.
      like: A vjax model of any kind. An MTV decides what views of equal sizes do not tell about fusion:
        its order, the width of its attention, and at which layers a bottleneck is among the tokens.

    Raises:
      UserError: a leaf that tells a size is missing, or has not the axes that it should have.
    """
    count = len({name.split('/')[0] for name in flat if name.startswith('embedding_view')})
    kernels = [shape(flat, f'embedding_view{i}/kernel', 5) for i in range(count)]
    blocks = [_view_blocks(flat, i) for i in range(count)]
    # All layers of a view are of one size.
    queries = [shape(flat, f'{view[0][0]}/query/kernel', 3) for view in blocks]
    hidden = [shape(flat, f'{view[0][1]}/Dense_0/kernel', 2) for view in blocks]
    fields = {
        'num_classes': head_sizes(flat)['num_classes'],
        'widths': tuple(kernel[4] for kernel in kernels),
        'depths': tuple(map(len, blocks)),
        'num_heads': tuple(query[1] for query in queries),
        'mlp_dims': tuple(size[1] for size in hidden),
        'tubelets': tuple(kernel[:3] for kernel in kernels),
        'classifier': infer_classifier(flat, 'cls_global'),
    }
    sizes = encoder_sizes(flat, 'global_encoder')
    fields |= {f'global_{name}': size for name, size in sizes.items()}
    linear = 'global_encoder_linear_view0/kernel'
    over_time = linear in flat
    fields['merge'] = 'time' if over_time else 'channel'
    fields['global_width'] = shape(flat, linear, 2)[1] if over_time else 0
    return models.build('mtv', **fields | _infer_fusion(flat, fields, like))


def _view_blocks(flat: Mapping[str, np.ndarray], view: int) -> list[tuple[str, str]]:
    """The names of attention and MLP in each layer of a view."""
    ends = {f'/msa_view{view}': f'/mlp_view{view}'}
    ends[f'_view{view}/MultiHeadDotProductAttention_0'] = f'_view{view}/MlpBlock_0'
    found = {}
    for name in flat:
        module = name.removesuffix('/query/kernel')
        end = next((end for end in ends if module.endswith(end)), None)
        if module != name and end and module.startswith(f'{_ENCODER}/'):
            block = module.removesuffix(end)
            found[block] = (module, block + ends[end])
    if not found:
        raise UserError(f'{_ENCODER} has no blocks for embedding_view{view}')
    return list(found.values())


def _infer_fusion(flat: Mapping[str, np.ndarray], fields: Mapping[str, Any], like: Any) -> dict:
    """The fields of the fusion; what it makes no use of, or does not tell, is as in `like`."""
    widths, depths, heads = (fields[name] for name in ('widths', 'depths', 'num_heads'))
    told = ('fusion_layers', 'cross_view_width', 'fuse_in_descending_order', 'bottleneck_tokens')
    found = {name: getattr(like, name) for name in told if hasattr(like, name)}
    theirs = getattr(like, 'fusion', 'none')
    if len(widths) == 1:
        return found | {'fusion': theirs}
    attention = (
        rf'{_ENCODER}/cross_view_encoderblock_(\d+)/cross_attention_view(\d+)_(\d+)/query/kernel'
    )
    pairs = [tuple(map(int, m.groups())) for m in map(re.compile(attention).fullmatch, flat) if m]
    if pairs:
        found['fusion'] = 'cross_view_attention'
        found['fusion_layers'] = tuple(sorted({layer for layer, _, _ in pairs}))
        found['fuse_in_descending_order'] = pairs[0][1] < pairs[0][2]
        fits = dict.fromkeys(('query', 'key'), True)
        for layer, query, key in pairs:
            name = f'{_ENCODER}/cross_view_encoderblock_{layer}/cross_attention_view{query}_{key}'
            sizes = shape(flat, f'{name}/query/bias', 2)
            for kind, view in (('query', query), ('key', key)):
                known = view < len(widths)
                fits[kind] &= known and sizes == (heads[view], widths[view] // heads[view])
        if fits['query'] != fits['key']:
            found['cross_view_width'] = 'query' if fits['query'] else 'key'
        return found
    if 'bottleneck' not in flat:
        return found | {'fusion': 'none'}
    _, _, tokens, width = shape(flat, 'bottleneck', 4)
    found |= {'fusion': 'bottleneck', 'bottleneck_tokens': tokens}
    if widths[0] != widths[-1]:
        found['fuse_in_descending_order'] = width == widths[-1]
    linear = rf'{_ENCODER}/bottleneck_linear_(\d+)_view\d+/kernel'
    seen = {int(m[1]) for m in map(re.compile(linear).fullmatch, flat) if m}
    # Where it comes in the width of all views that are left, the bottleneck leaves no trace.
    untold = set(found.get('fusion_layers', ()) if theirs == 'bottleneck' else ())
    views = list(zip(widths, depths, strict=True))
    untold = {layer for layer in untold if len({w for w, d in views if layer < d}) == 1}
    return found | {'fusion_layers': tuple(sorted(seen | untold))}


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
