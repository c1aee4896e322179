"""What the families have in common: names of shared layers, and how a table of names is written.

A table maps names in vjax, of modules or leaves, to names in Scenic. Where vjax stacks leaves along a
leading axis, the value is the list of Scenic's names, one for each place on it.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vjax.errors import UserError

Names = Mapping[str, str | list[str]]

BLOCK = {
    'attention_norm': 'LayerNorm_0',
    'attention': 'MultiHeadDotProductAttention_0',
    'mlp_norm': 'LayerNorm_1',
    'mlp/up': 'MlpBlock_0/Dense_0',
    'mlp/down': 'MlpBlock_0/Dense_1',
}
POOL = {
    'probe': 'probe',
    'attention': 'MultiHeadDotProductAttention_0',
    'mlp_norm': 'LayerNorm_0',
    'mlp/up': 'MlpBlock_0/Dense_0',
    'mlp/down': 'MlpBlock_0/Dense_1',
}
HEAD = {'head/pre_logits': 'pre_logits', 'head/logits': 'output_projection'}


def under(ours: str, theirs: str, table: Names) -> Names:
    """The table of a module that is called `ours` in vjax and `theirs` in Scenic."""
    return {f'{ours}/{name}': f'{theirs}/{scenic}' for name, scenic in table.items()}


def stacked(ours: str, theirs: Sequence[str], table: Names) -> Names:
    """The table of scanned blocks `ours`, whose layers are the modules `theirs` in Scenic."""
    return {
        f'{ours}/{name}': [f'{layer}/{scenic}' for layer in theirs]
        for name, scenic in table.items()
    }


def find(table: Names, path: str) -> str | list[str]:
    """Scenic's name, or names, of the vjax leaf `path`.

    Raises:
      UserError: the table has no entry for it.
    """
    prefix = path
    while prefix not in table:
        if not prefix:
            raise UserError(f'the parameter {path!r} has no counterpart in Scenic')
        prefix = prefix.rpartition('/')[0]
    suffix, scenic = path.removeprefix(prefix), table[prefix]
    return scenic + suffix if isinstance(scenic, str) else [name + suffix for name in scenic]


def linen(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Names whose modules are numbered together, `LayerNorm_2`, as they are in Linen: `LayerNorm_1`.

    Flax before Linen counted all modules within one, Linen counts each kind by itself. Names that are
    in order already stay what they are.
    """
    numbers = {}
    for name in flat:
        for parent, kind, number in _numbered(name):
            numbers.setdefault((parent, kind), set()).add(number)
    renamed = {}
    for name, leaf in flat.items():
        parts = name.split('/')
        for parent, kind, number in _numbered(name):
            depth = parent.count('/')
            parts[depth] = f'{kind}_{sorted(numbers[parent, kind]).index(number)}'
        renamed['/'.join(parts)] = leaf
    return renamed


def _numbered(name: str) -> list[tuple[str, str, int]]:
    """The path before each numbered module in a name, its kind and its number."""
    pattern = r'(?<![^/])(LayerNorm|MultiHeadDotProductAttention|MlpBlock|Dense)_(\d+)(?![^/])'
    return [(name[: m.start()], m[1], int(m[2])) for m in re.finditer(pattern, name)]


def shape(flat: Mapping[str, Any], name: str, rank: int) -> tuple[int, ...]:
    """The shape of Scenic's leaf `name`.

    Raises:
      UserError: it is missing, or has not that many axes, or none of some axis.
    """
    found = np.shape(flat.get(name, ()))
    if len(found) != rank or not all(found):
        what = found if name in flat else 'missing'
        raise UserError(f'{name} should have {rank} axes, and is {what}')
    return found


def encoder_sizes(
    flat: Mapping[str, Any],
    transformer: str,
    attention: str = 'MultiHeadDotProductAttention_0',
    mlp: str = 'MlpBlock_0',
) -> dict[str, int]:
    """Depth, number of heads and width of the MLPs of an encoder, as fields of a model."""
    prefix = f'{transformer}/encoderblock_'
    blocks = {name[len(prefix) :].split('/')[0] for name in flat if name.startswith(prefix)}
    return {
        'depth': len(blocks),
        'num_heads': shape(flat, f'{prefix}0/{attention}/query/kernel', 3)[1],
        'mlp_dim': shape(flat, f'{prefix}0/{mlp}/Dense_0/kernel', 2)[1],
    }


def head_sizes(flat: Mapping[str, Any]) -> dict[str, int]:
    """Sizes of the head, as fields of a model; of a single class where there is no head."""
    logits, before = 'output_projection/kernel', 'pre_logits/kernel'
    return {
        'num_classes': shape(flat, logits, 2)[1] if logits in flat else 1,
        'representation_size': shape(flat, before, 2)[1] if before in flat else 0,
    }


def common_fields(left: dict[str, Any]) -> dict[str, Any]:
    """The fields that every family has, taken out of the arguments `left`."""
    for key in ('return_prelogits', 'return_preclassifier'):
        if left.pop(key, False):
            raise UserError(f'{key}=True has no counterpart: a vjax model returns logits')
    return {
        'num_classes': left.pop('num_classes'),
        'classifier': left.pop('classifier', 'gap'),
        'dropout': left.pop('dropout_rate', 0.1),
        'attention_dropout': left.pop('attention_dropout_rate', 0.1),
        'dtype': np.dtype(left.pop('dtype', 'float32')).name,
    }


def position_rows(
    flat: Mapping[str, np.ndarray], transformer: str, *, has_class_token: bool
) -> int:
    """Number of tokens that Scenic's module has position embeddings for; 1 where it has none."""
    table = np.shape(flat.get(f'{transformer}/posembed_input/pos_embedding', ()))
    return max(table[1] - has_class_token, 1) if len(table) == 3 else 1


def input_channels(flat: Mapping[str, np.ndarray], embedding: str) -> int:
    """Channels that Scenic's embedding takes; 3 where it has none."""
    kernel = np.shape(flat.get(f'{embedding}/kernel', ()))
    return kernel[-2] if len(kernel) > 2 else 3
