"""Models by name: `build('vivit', num_classes=400, **variants.video('B/16x2'))`.

Every model is a Flax Linen module with plain typed fields. It maps a float video [batch, time,
height, width, channels] (images: [batch, height, width, channels]) with values in [-1, 1] to float32
logits [batch, classes], and takes a keyword `train`; with `features=True` it returns its final tokens
[batch, tokens, dim] instead, for a probe or a search. Beside that it has `check(input_shape)`, which
raises a UserError when fields or shape do not fit, and `num_tokens(input_shape)`, both for the shape
of one example without its batch axis. A model of several classifiers for the same classes returns the
mean of their logits, and sows each one's [heads, batch, classes] in the collection `head_logits`.
"""

import dataclasses
import importlib
from typing import Any

from vjax.errors import UserError
from vjax.models.fields import suggestion
from vjax.value_types import check_fields

# Name -> file and class. Each file is imported when its model is built.
MODELS = {
    'vit': ('vit', 'ViT'),
    'vivit': ('vivit', 'ViViT'),
    'token_learner': ('token_learner', 'TokenLearnerViT'),
    'token_learner_video': ('token_learner', 'TokenLearnerViViT'),
    'mtv': ('mtv', 'MTV'),
    'lookupvit': ('lookupvit', 'LookupViT'),
    'lookupvivit': ('lookupvit', 'LookupViViT'),
    'videoprism': ('videoprism', 'VideoPrism'),
    'probe': ('probe', 'AttentiveProbe'),
}


def build(name: str, **fields: Any) -> Any:
    """The module (flax.linen.Module) called `name` with the given fields.

    Lists become tuples, and a mapping of a name and fields becomes the model that it describes, as
    another's encoder: without classifier, so that it needs no `num_classes`. Nothing is allocated, and
    sizes are not checked yet: see `check`.

    Raises:
      UserError: the model or a field is unknown, a field without default is missing, or one has a value
        of another type.
    """
    if name not in MODELS:
        raise UserError(
            f'unknown model {name!r}{suggestion(name, MODELS)} (models: {", ".join(MODELS)})'
        )
    file, class_name = MODELS[name]
    cls = getattr(importlib.import_module(f'vjax.models.{file}'), class_name)
    known = {
        field.name: field
        for field in dataclasses.fields(cls)
        if field.name not in ('parent', 'name')
    }
    for field in fields:
        if field not in known:
            hint = suggestion(field, known) or f' (fields: {", ".join(known)})'
            raise UserError(f'the model {name!r} has no field {field!r}{hint}')
    missing = [
        field.name
        for field in known.values()
        if field.default is dataclasses.MISSING and field.name not in fields
    ]
    if missing:
        raise UserError(f'the model {name!r} needs the fields {", ".join(missing)}')
    fields = {name: _field(value) for name, value in fields.items()}
    check_fields('', cls, fields)
    return cls(**fields)


def _field(value: Any) -> Any:
    """Mappings (or what unpacks like one) as models, and lists as tuples, those within lists too."""
    if hasattr(value, 'keys'):
        if 'name' not in value:
            raise UserError(f"an encoder's fields lack its 'name' (models: {', '.join(MODELS)})")
        return build(**{'num_classes': 1, **value})
    return tuple(map(_field, value)) if isinstance(value, list | tuple) else value
