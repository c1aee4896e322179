"""Hugging Face's folders on disk: config.json, safetensors, the processor's file."""

import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save_file

from vjax.errors import UserError
from vjax.models import costs
from vjax.weights.files import safetensors
from vjax.weights.huggingface import entries, families, normalisation
from vjax.weights.source import Source
from vjax.weights.trees import flatten

CONFIG = 'config.json'
TENSORS = 'model.safetensors'
SINGLE_LABEL, MULTI_LABEL = 'single_label_classification', 'multi_label_classification'


def read(path: Path, model: Any = None) -> Source:
    """The model in a folder that `save_pretrained` has written.

    Args:
      path: A folder with config.json and model.safetensors, or shards of it and their index.
      model: Ignored: config.json says everything.

    Raises:
      UserError: a file is missing or damaged, the architecture is none of vjax's, or config.json
        contradicts the tensors.
    """
    del model
    path = Path(path)
    name = f'huggingface:{path}'
    if not path.is_dir():
        raise UserError(f'{name} is no folder: name the one that holds {CONFIG} and {TENSORS}.')
    config = entries.load(path / CONFIG)
    try:
        family = families.of_config(config)
        theirs = family.module.model(config)
        tensors = safetensors.read(path)
        params = flatten(family.module.params(tensors, theirs))
        if hasattr(family.module, 'check'):
            family.module.check(tensors, config)
        has_head = any(path.startswith('head/logits/') for path in params)
        if not has_head and config.get('architectures') == [family.classifier]:
            raise UserError(f'the tensors are missing the classifier of {family.classifier}')
        classes = entries.labels(config)[1] if has_head else None
    except UserError as error:
        sentence = str(error).removesuffix('.')
        where = '' if str(path) in sentence else f'{name}: '
        raise UserError(f'{where}{sentence}.') from error
    if family.model_type in ('vit', 'vivit'):
        params = normalisation.fold(params, path, family.model_type)
    skipped = getattr(family.module, 'UNUSED', {})
    unused = {
        tensor: why
        for tensor in tensors
        for pattern, why in skipped.items()
        if re.fullmatch(rf'(\w+\.)?{pattern}', tensor)
    }
    multi_label = has_head and config.get('problem_type') == MULTI_LABEL
    named = {'label': classes} if classes else None
    return Source(name, theirs, params, named, unused, multi_label=multi_label)


def write(
    folder: Path,
    model: Any,
    params: Mapping,
    classes: Mapping[str, Sequence[str]] | None,
    input_shape: tuple[int, ...],
    short_side: int = 0,
    multi_label: bool = False,
) -> None:
    """Writes a folder that `from_pretrained` of transformers' classes loads, or nothing.

    Args:
      folder: To be made.
      model: The vjax model.
      params: Its parameters, nested or flat by path, the classifier's included.
      classes: Names by head, in the order of the logits; None where nobody has named them. Those of
        several heads become 'head: name', as Hugging Face has one classifier.
      input_shape: Of one example, (time, height, width, channels) or (height, width, channels).
      short_side: Pixels of frames' short side before the input is cut out of their centre; 0 for the
        longer side of the input.
      multi_label: Whether the classifier answers for each class by itself, which transformers else takes
        for one question with one answer.

    Raises:
      UserError: the folder exists or cannot be written, or Hugging Face has no counterpart of the
        model; it names the field.
    """
    folder = Path(folder)
    if folder.exists() or folder.is_symlink():
        raise UserError(f'{folder} exists already: name a new folder.')
    family = families.of_model(model)
    names = _joined(classes)
    if names and len(names) != model.num_classes:
        raise UserError(f'{len(names)} classes are named and the model has {model.num_classes}.')
    config = {
        'architectures': [family.classifier],
        'model_type': family.model_type,
        'dtype': 'float32',
        'problem_type': MULTI_LABEL if multi_label else SINGLE_LABEL,
        **family.module.config(model, names, input_shape),
    }
    flat = flatten(params)
    _check_params(flat, flatten(costs.param_shapes(model, input_shape)))
    files = {CONFIG: config}
    if hasattr(family.module, 'processor'):
        side = short_side or max(input_shape[-3:-1])
        files[normalisation.PROCESSOR] = family.module.processor(model, input_shape, side)
    tensors = {
        name: np.ascontiguousarray(tensor, np.float32)  # What `save_file` takes for granted.
        for name, tensor in family.module.state(flat, model).items()
    }

    partial = folder.with_name(f'.{folder.name}.{os.getpid()}')
    try:
        partial.mkdir(parents=True)
        for name, content in files.items():
            (partial / name).write_text(json.dumps(content, indent=2) + '\n', encoding='utf-8')
        save_file(tensors, partial / TENSORS, metadata={'format': 'pt'})
        # It makes a file that nobody else can read.
        (partial / TENSORS).chmod((partial / CONFIG).stat().st_mode)
        partial.rename(folder)
    except (OSError, SafetensorError) as error:
        raise UserError(f'{folder} cannot be written: {error}.') from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _joined(classes: Mapping[str, Sequence[str]] | None) -> list[str] | None:
    """The classes of all heads in the order of the logits."""
    if not classes:
        return None
    if len(classes) == 1:
        return list(*classes.values())
    return [f'{head}: {name}' for head, names in classes.items() for name in names]


def _check_params(flat: Mapping[str, Any], shapes: Mapping[str, Any]) -> None:
    """Raises a UserError unless the parameters are those of the model."""
    for path in sorted(flat.keys() | shapes.keys()):
        if path not in flat:
            raise UserError(f'the parameter {path} of the model is missing.')
        if path not in shapes:
            raise UserError(f'the parameter {path} has no place in the model.')
        if np.shape(flat[path]) != shapes[path].shape:
            raise UserError(
                f'the parameter {path} is {np.shape(flat[path])} and for this input the model has '
                f'{shapes[path].shape}.'
            )
