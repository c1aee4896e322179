"""Hugging Face's safetensors: a file of tensors by name, or a folder with one or several of them."""

import json
from pathlib import Path

# With it NumPy knows bfloat16, by whose name safetensors asks for it.
import ml_dtypes  # noqa: F401
import numpy as np
import safetensors

from vjax.errors import UserError

FILE, INDEX = 'model.safetensors', 'model.safetensors.index.json'
_PICKLES = ('pytorch_model.bin', 'pytorch_model.bin.index.json')
_MAX_INDEX = 1 << 26


def read(path: Path) -> dict[str, np.ndarray]:
    """The tensors by name.

    Args:
      path: A file, or a folder as `save_pretrained` writes it: with model.safetensors, or with
        model.safetensors.index.json and the files that it names.

    Raises:
      UserError: a file is missing, truncated or damaged; its header lies; or the folder has weights only
        as a pickle.
    """
    if not path.is_dir():
        return _read_file(path)
    if (path / FILE).exists():
        return _read_file(path / FILE)
    if (path / INDEX).exists():
        return _read_shards(path)
    for name in _PICKLES:
        if (path / name).exists():
            raise UserError(
                f'{path / name} is a pickle, which may run any code and is never loaded: load it with '
                'transformers yourself if you trust it, and save_pretrained(FOLDER, '
                'safe_serialization=True) writes safetensors.'
            )
    raise UserError(f'{path} has neither {FILE} nor {INDEX}.')


def _read_file(path: Path) -> dict[str, np.ndarray]:
    if path.suffix in ('.bin', '.pt', '.pth', '.ckpt', '.pkl'):
        raise UserError(
            f'{path} looks like a pickle, which may run any code and is never loaded: save_pretrained'
            '(FOLDER, safe_serialization=True) writes safetensors.'
        )
    try:
        with safetensors.safe_open(path, framework='numpy') as file:
            return {name: file.get_tensor(name) for name in list(file.keys())}
    except FileNotFoundError:
        raise UserError(f'{path} is missing.') from None
    # A dtype that NumPy has not is looked up in it, hence the AttributeError.
    except (safetensors.SafetensorError, OSError, AttributeError, TypeError, ValueError) as error:
        reason = str(error).replace('\n', ' ')
        raise UserError(
            f'{path} is truncated, damaged, or no safetensors file: {reason}.'
        ) from None


def _read_shards(folder: Path) -> dict[str, np.ndarray]:
    """The tensors of all files that the folder's index names."""
    index = folder / INDEX
    if index.stat().st_size > _MAX_INDEX:
        raise UserError(f'{index} is larger than an index can be.')
    try:
        shards = json.loads(index.read_bytes())['weight_map']
        files = list(dict.fromkeys(shards.values()))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise UserError(f'{index} is no index of safetensors: it has no "weight_map".') from None
    if not files:
        raise UserError(f'{index} names no tensors.')
    tensors = {}
    for file in files:
        # Backslashes separate folders elsewhere.
        if (
            not isinstance(file, str)
            or Path(file).name != file
            or '\\' in file
            or file in ('', '..')
        ):
            raise UserError(f'{index} names {file!r}, which is no file in this folder.')
        found = _read_file(folder / file)
        expected = {name for name, shard in shards.items() if shard == file}
        if found.keys() != expected:
            name = min(found.keys() ^ expected)
            raise UserError(f'{index} and {folder / file} disagree on which of them has {name!r}.')
        tensors |= found
    return tensors
