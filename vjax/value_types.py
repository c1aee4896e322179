"""Whether the values of a config are of the types that their readers take."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import typeguard

from vjax.errors import UserError


def check_type(name: str, value: Any, kind: Any, hint: str = '') -> None:
    """Raises a UserError unless a value is of a type, with all that is in it; lists do for tuples.

    Args:
        name: of the value, for the sentence.
        value: int does for float.
        kind: a type, as annotations have it.
        hint: how to mend it, as in 'such as (2, 16, 16)'.
    """
    try:
        typeguard.check_type(
            as_tuples(value),
            kind,
            collection_check_strategy=typeguard.CollectionCheckStrategy.ALL_ITEMS,
        )
    except typeguard.TypeCheckError as error:
        why = ' '.join(str(error).split())
        raise UserError(f'{name}={value!r}: {why}{f"; {hint}" if hint else ""}.') from None


def check_fields(name: str, cls: type, values: Mapping[str, Any]) -> None:
    """`check_type` of values that a dataclass is to have as its fields; `name` goes before theirs."""
    for field in dataclasses.fields(cls):
        if field.name in values:
            check_type(name + field.name, values[field.name], field.type)


def as_tuples(value: Any) -> Any:
    """Lists as tuples, those within mappings and lists too."""
    if isinstance(value, Mapping):
        return {name: as_tuples(inner) for name, inner in value.items()}
    return tuple(map(as_tuples, value)) if isinstance(value, list | tuple) else value
