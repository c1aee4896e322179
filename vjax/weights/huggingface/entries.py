"""The entries of config.json, checked: what a file says is not what it should say."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vjax.errors import UserError

# Far above every model, and far below what would make shapes overflow.
LARGEST = 2**20
MEBIBYTE = 2**20


def load(path: Path) -> dict[str, Any]:
    """The content of a config.json.

    Raises:
      UserError: it is missing, or no JSON object.
    """
    try:
        size = path.stat().st_size
        if size > 16 * MEBIBYTE:
            raise UserError(f'{path} has {size} bytes: that is no config.json.')
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f'{path} cannot be read: {error.strerror}.') from error
    except (ValueError, RecursionError) as error:
        raise UserError(f'{path} is not JSON: {error!s:.100}.') from error
    if not isinstance(content, dict):
        raise UserError(f'{path} is not a JSON object but {type(content).__name__}.')
    return content


def whole(config: Mapping[str, Any], key: str) -> int:
    """The whole number of an entry, at least 1."""
    return wholes(config, key, 1)[0]


def wholes(config: Mapping[str, Any], key: str, count: int) -> tuple[int, ...]:
    """`count` whole numbers of at least 1; where the entry is a single one, it holds for all."""
    value = config[key]
    values = value if isinstance(value, list | tuple) else [value] * count
    if len(values) != count or not all(type(v) is int and 1 <= v <= LARGEST for v in values):
        expected = 'a whole number' if count == 1 else f'{count} whole numbers'
        raise UserError(f'{key}={value!r:.100} should be {expected} from 1 to {LARGEST}')
    return tuple(values)


def number(config: Mapping[str, Any], key: str) -> float:
    """The number of an entry."""
    value = config[key]
    if type(value) not in (int, float):
        raise UserError(f'{key}={value!r:.100} should be a number')
    return float(value)


def labels(config: Mapping[str, Any]) -> tuple[int, tuple[str, ...] | None]:
    """The number of classes, and their names in the order of the logits unless they have none.

    Hugging Face calls classes that nobody has named 'LABEL_0', 'LABEL_1', ..., and does not write
    `id2label` for two of them.

    Raises:
      UserError: `id2label` leaves out a class, or is no mapping.
    """
    named = config.get('id2label')
    if named is None:
        return whole({'num_labels': config.get('num_labels', 2)}, 'num_labels'), None
    if not isinstance(named, Mapping):
        raise UserError(f'id2label={named!r:.100} should map the number of each class to its name')
    by_number = {str(key): name for key, name in named.items()}
    missing = next((i for i in range(len(by_number)) if str(i) not in by_number), None)
    if missing is not None:
        raise UserError(
            f'id2label has {len(by_number)} entries and none for class {missing}: its keys should be 0 '
            f'to {len(by_number) - 1}'
        )
    names = [by_number[str(i)] for i in range(len(by_number))]
    if not all(isinstance(name, str) for name in names) or names == unnamed(len(names)):
        return len(names), None
    return len(names), tuple(names)


def unnamed(count: int) -> Sequence[str]:
    """What Hugging Face calls classes without names."""
    return [f'LABEL_{i}' for i in range(count)]
