"""Hugging Face's folders <-> vjax's models: config.json and safetensors.

    source = huggingface.read(Path('vit-base-patch16-224'), model)
    huggingface.write(Path('my-vivit'), model, params, classes, (32, 224, 224, 3))

`folder` knows the files, `families` which module knows a model, and each of those modules the names and
the layout of its tensors.
"""

from vjax.weights.huggingface.families import config, model, params, state
from vjax.weights.huggingface.folder import read, write

__all__ = ['config', 'model', 'params', 'read', 'state', 'write']
