"""Parameters of Scenic's models <-> parameters of vjax's, leaf by leaf.

Scenic (google-research/scenic) numbers its blocks, `Transformer/encoderblock_3/LayerNorm_0/scale`,
where vjax stacks them, `encoder/blocks/attention_norm/scale`[3]. Otherwise the trees differ in names
alone, so a table of names and a reader of Scenic's constructor arguments for each family are all there
is. A tree is a flat dict from 'a/b/c' to array on Scenic's side, nested dicts on vjax's.
"""

import itertools
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from vjax import models
from vjax.errors import UserError
from vjax.models import costs
from vjax.weights.scenic import mtv, names, token_learner, vivit
from vjax.weights.trees import flatten, unflatten

FAMILIES = (vivit, token_learner, mtv)


def model(module: str, constructor: Mapping[str, Any]) -> Any:
    """The vjax model that Scenic builds as `module(**constructor)`.

    Args:
      module: Dotted name of Scenic's class, such as 'scenic.projects.vivit.model.ViViT'.
      constructor: Its arguments, ConfigDicts as dicts. What only concerns initialisation in Scenic
        (`attention_kernel_init_method`) and what only concerns its outputs is ignored.

    Raises:
      UserError: vjax has no such model, or an argument has no counterpart.
    """
    family = next((family for family in FAMILIES if module in family.MODULES), None)
    if family is None:
        known = itertools.chain.from_iterable(family.MODULES for family in FAMILIES)
        raise UserError(f'no mapping for {module!r}: it is one of {", ".join(known)}')
    left = dict(constructor)
    fields = family.fields(module, left)
    if left:
        raise UserError(f'arguments of {module} without a counterpart in vjax: {", ".join(left)}')
    return models.build(fields.pop('model', family.MODULES[module]), **fields)


def infer(flat: Mapping[str, np.ndarray], like: Any) -> Any:
    """The vjax model whose parameters are `flat`.

    Sizes and kinds follow from names and shapes; what they leave open is as in `like`, a vjax model of
    any kind, or as in Scenic's published configs if it is of another.

    Args:
      flat: Scenic's parameters, of which only shapes are read.
      like: The model that is to be loaded.

    Raises:
      UserError: they are of no model that vjax knows, or a leaf that tells a size is missing.
    """
    if any(name.startswith('embedding_view') for name in flat):
        return mtv.infer(flat, like)
    if any(name.startswith('Transformer/TokenLearnerModule') for name in flat):
        return token_learner.infer(flat, like)
    if 'embedding/kernel' in flat:
        return vivit.infer(flat, like)
    modules = sorted({name.split('/')[0] for name in flat})
    shown = ', '.join(modules[:6]) + (', ...' if len(modules) > 6 else '')
    raise UserError(
        f'no ViT, ViViT, MTV or TokenLearner of Scenic consists of {shown or "nothing"}'
    )


def leaf_names(flat: Mapping[str, np.ndarray], model: Any) -> set[str]:
    """The names in Scenic of all parameters of a model; the size of its input is taken from `flat`."""
    family = _family(model)
    table = family.names(model)
    shapes = flatten(costs.param_shapes(model, family.input_shape(flat, model)))
    found = (names.find(table, path) for path in shapes)
    return set(itertools.chain.from_iterable([x] if isinstance(x, str) else x for x in found))


def params(flat: Mapping[str, np.ndarray], model: Any) -> dict:
    """The model's parameters, as nested dicts of arrays, from Scenic's.

    Args:
      flat: Scenic's parameters, 'Transformer/encoder_norm/scale' -> array.
      model: The vjax model, for example from `model`. The size of its input follows from the position
        embeddings in `flat`.

    Raises:
      UserError: leaves are missing, unexpected or of another shape; it names them.
    """
    family = _family(model)
    table = family.names(model)
    shapes = flatten(costs.param_shapes(model, family.input_shape(flat, model)))
    found = {path: names.find(table, path) for path in shapes}
    theirs = {path: [name] if isinstance(name, str) else name for path, name in found.items()}

    expected = set(itertools.chain.from_iterable(theirs.values()))
    _refuse('missing from the Scenic parameters', expected - set(flat))
    _refuse('unexpected in the Scenic parameters', set(flat) - expected)
    wrong = []
    for path, leaf in shapes.items():
        shape = leaf.shape if isinstance(found[path], str) else leaf.shape[1:]
        wrong += [
            f'{name} {np.shape(flat[name])} instead of {shape}'
            for name in theirs[path]
            if np.shape(flat[name]) != shape
        ]
    _refuse('of another shape in the Scenic parameters', wrong)

    return unflatten(
        {
            path: np.asarray(flat[name])
            if isinstance(name, str)
            else np.stack([flat[part] for part in name])
            for path, name in found.items()
        }
    )


def flat_params(params: Mapping, model: Any) -> dict[str, np.ndarray]:
    """The inverse of `params`: Scenic's flat parameters from those of a vjax model."""
    table = _family(model).names(model)
    flat = {}
    for path, leaf in flatten(params).items():
        name = names.find(table, path)
        parts = {name: leaf} if isinstance(name, str) else zip(name, leaf, strict=True)
        flat |= {part: np.asarray(array) for part, array in dict(parts).items()}
    return flat


def _family(model: Any) -> Any:
    """The file that knows the model."""
    for family in FAMILIES:
        if type(model).__name__ in family.CLASSES:
            return family
    raise UserError(f'Scenic has no model like {type(model).__name__}')


def _refuse(what: str, items: Collection[str]) -> None:
    """Raises a UserError that names the first of the items, if there are any."""
    if items:
        shown = ', '.join(sorted(items)[:6])
        more = f' and {len(items) - 6} more' if len(items) > 6 else ''
        raise UserError(f'{what}: {shown}{more}')
