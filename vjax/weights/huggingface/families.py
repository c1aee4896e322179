"""Which module knows an architecture of Hugging Face's, or a model of vjax's.

Each has the four functions below. It may have
  UNUSED                  pattern of tensors' names -> why vjax has no use for them; `params` skips them;
  check(state, config)    raises a UserError where the tensors contradict what config.json says;
  processor(model, input_shape, short_side)    the content of preprocessor_config.json.
"""

import importlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from vjax.errors import UserError


class Family(NamedTuple):
    """One model in the terms of either side.

    Attributes:
      model_type: Of config.json.
      classifier: The architecture, Hugging Face's class, with a classifier; '' for none.
      headless: Those without.
      ours: The class in `vjax.models`.
      file: The module that knows it.
    """

    model_type: str
    classifier: str
    headless: tuple[str, ...]
    ours: str
    file: str

    @property
    def architectures(self) -> tuple[str, ...]:
        """All of them."""
        return (self.classifier, *self.headless) if self.classifier else self.headless

    @property
    def module(self) -> Any:
        """The module, imported when it is asked for."""
        return importlib.import_module(f'vjax.weights.huggingface.{self.file}')


FAMILIES = (
    Family('vit', 'ViTForImageClassification', ('ViTModel',), 'ViT', 'vit'),
    Family('vivit', 'VivitForVideoClassification', ('VivitModel',), 'ViViT', 'vit'),
    Family(
        'videoprism_vision_model',
        'VideoPrismForVideoClassification',
        ('VideoPrismVisionModel',),
        'VideoPrism',
        'videoprism',
    ),
    Family(
        'videoprism',
        '',
        ('VideoPrismClipModel', 'VideoPrismVideoModel'),
        'VideoPrism',
        'videoprism',
    ),
)


def of_config(config: Mapping[str, Any]) -> Family:
    """The family that config.json names by its architectures or, where it names none, its model_type.

    Raises:
      UserError: vjax has no such model.
    """
    named = config.get('architectures') or []
    for family in FAMILIES:
        if named in [[name] for name in family.architectures]:
            return family
        if not named and config.get('model_type') == family.model_type:
            return family
    known = ', '.join(name for family in FAMILIES for name in family.architectures)
    shown = f'architectures={named!r}' if named else f'model_type={config.get("model_type")!r}'
    raise UserError(f'{shown:.200} has no counterpart in vjax, which knows {known}')


def of_model(model: Any) -> Family:
    """The family of a vjax model.

    Raises:
      UserError: Hugging Face has no such model.
    """
    for family in FAMILIES:
        if type(model).__name__ == family.ours:
            return family
    known = ', '.join(dict.fromkeys(family.ours for family in FAMILIES))
    raise UserError(
        f'Hugging Face has no counterpart of {type(model).__name__}, only of models of {known}'
    )


def model(config: Mapping[str, Any]) -> Any:
    """The vjax model that computes what config.json, as a dict, describes.

    Raises:
      UserError: vjax has no such model, or an entry is missing or invalid.
    """
    return of_config(config).module.model(config)


def params(state: Mapping[str, np.ndarray], model: Any) -> dict:
    """The model's parameters, as nested dicts, from Hugging Face's.

    Args:
      state: Tensors by name, as in a file or as in memory (transformers 5 renames them between the two).
        The classifier's may be missing.
      model: The vjax model, from `model`.

    Raises:
      UserError: tensors are missing, unexpected or of another shape; it names them.
    """
    return of_model(model).module.params(state, model)


def state(params: Mapping, model: Any) -> dict[str, np.ndarray]:
    """The inverse of `params`: tensors by their names in a file.

    Args:
      params: Nested dicts, or flat by path.
      model: The vjax model.

    Raises:
      UserError: a parameter has no counterpart.
    """
    return of_model(model).module.state(params, model)


def config(model: Any, classes: Sequence[str] | None, input_shape: tuple[int, ...]) -> dict:
    """The content of config.json, of the architecture with a classifier.

    Args:
      model: The vjax model.
      classes: Names in the order of the logits; None where nobody has named them.
      input_shape: Of one example without batch axis.

    Raises:
      UserError: a field of the model has no counterpart; it names the field.
    """
    return of_model(model).module.config(model, classes, input_shape)
