"""What an image or video processor of Hugging Face's does to pixels, as part of the embedding.

vjax's models take values in [-1, 1]. A ViT that was trained with the mean and deviation of ImageNet
computes the same from them once its embedding has been changed to fit. So does a ViViT that was trained
with transformers' processor as it is by default, which normalises values in [-1, 1] once more, to [-3, 1].
"""

import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from vjax.errors import UserError
from vjax.weights.huggingface import entries

log = logging.getLogger(__name__)

PROCESSOR = 'preprocessor_config.json'
# What transformers reads for a model, the first that is there: a file, and its entry in one for several.
FILES = {
    'vit': (('processor_config.json', 'image_processor'), (PROCESSOR, None)),
    'vivit': (
        ('processor_config.json', 'video_processor'),
        ('processor_config.json', 'image_processor'),
        ('video_preprocessor_config.json', None),
        (PROCESSOR, None),
    ),
}
TYPES = ('image_processor_type', 'video_processor_type', 'feature_extractor_type')


def fold(
    params: Mapping[str, np.ndarray], folder: Path, model_type: str = 'vit'
) -> dict[str, np.ndarray]:
    """The parameters of a model for input in [-1, 1] from those of one for a processor's output.

    Args:
      params: Flat, with `embedding/kernel` [..., channels, dim] and `embedding/bias`.
      folder: Of the processor's file; where there is none, the output is taken to be in [-1, 1].
      model_type: Of config.json; its processor is meant where the file names none.

    Raises:
      UserError: the file is damaged, or its mean and deviation are not those of each channel.
    """
    params = dict(params)
    path, processor = _processor(folder, model_type)
    if processor is None:
        return params
    names = [processor[key] for key in TYPES if key in processor] or [model_type]
    offset = str(names[0]).lower().startswith('vivit') and processor.get('offset', True)
    scale, shift = _as_affine(processor, params['embedding/kernel'].shape[-2], path, bool(offset))
    if np.allclose(scale, 1, atol=1e-5) and np.allclose(shift, 0, atol=1e-5):
        return params
    log.info(
        'folding the normalisation of %s into the embedding: it makes [%.3g, %.3g] of [-1, 1]; without '
        'this file, the weights are taken as they are',
        *(path, np.min(shift - scale), np.max(shift + scale)),
    )
    kernel = np.asarray(params['embedding/kernel'], np.float64)
    moved = (kernel * shift[:, None]).reshape(-1, kernel.shape[-1]).sum(axis=0)
    params['embedding/kernel'] = (kernel * scale[:, None]).astype(np.float32)
    params['embedding/bias'] = (params['embedding/bias'] + moved).astype(np.float32)
    return params


def _processor(folder: Path, model_type: str) -> tuple[Path, Mapping | None]:
    """The file that transformers would read, and what it says of the processor; None without one."""
    for file, entry in FILES[model_type]:
        path = folder / file
        content = entries.load(path) if path.exists() else None
        processor = content.get(entry) if content and entry else content
        if processor is not None:
            if not isinstance(processor, Mapping):
                raise UserError(f'{path}: {entry}={processor!r:.100} should be a JSON object.')
            return path, processor
    return folder / PROCESSOR, None


def _as_affine(
    processor: Mapping, channels: int, path: Path, offset: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Scale and shift of each channel that make the processor's output of values in [-1, 1].

    With `offset` it subtracts 1 after rescaling, and rescales to [0, 2] unless it says otherwise.
    """
    scale, shift = np.full(channels, 127.5), np.full(channels, 127.5)  # Of pixels in [0, 255].
    if processor.get('do_rescale', True):
        default = 1 / 127.5 if offset else 1 / 255
        factor = _numbers(processor.get('rescale_factor', default), 1, 'rescale_factor', path)
        scale, shift = scale * factor, shift * factor - offset
    if processor.get('do_normalize', True):
        mean = _numbers(processor.get('image_mean', 0.5), channels, 'image_mean', path)
        deviation = _numbers(processor.get('image_std', 0.5), channels, 'image_std', path)
        if not np.all(deviation > 0):
            raise UserError(f'{path}: image_std={deviation.tolist()} should be above 0.')
        scale, shift = scale / deviation, (shift - mean) / deviation
    return scale, shift


def _numbers(value: object, count: int, name: str, path: Path) -> np.ndarray:
    """A number, or one for each channel."""
    try:
        numbers = np.broadcast_to(np.asarray(value, np.float64), (count,))
    except (TypeError, ValueError):
        numbers = np.full(count, np.nan)
    if not np.isfinite(numbers).all():  # A null becomes NaN.
        raise UserError(f'{path}: {name}={value!r} should be {count} numbers.')
    return numbers
