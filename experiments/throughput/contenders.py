"""Implementations of the same work: vjax's, a textbook's in Flax, and Hugging Face's in PyTorch.

A contender has the weights of `Work.params` and the batch of `Work.inputs`, and three functions: `logits()`
and, for the clock, `forward()` and `step()`, which return when the device is done. A step is the
cross-entropy's gradient and AdamW.
"""

import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

from experiments.throughput.textbook import TextbookViViT, from_vjax
from experiments.throughput.work import Work
from vjax.training import sharding
from vjax.weights import huggingface

RATE, DECAY = 1e-4, 1e-2  # AdamW's.
BETAS = (0.9, 0.999)
TIMED = ('forward', 'step')


def training_step(model: Any) -> tuple[Any, Any]:
    """The optimiser, and a step (params, state, pixels, labels) -> (params, state, loss)."""
    tx = optax.adamw(RATE, *BETAS, weight_decay=DECAY)

    def loss(params, pixels, labels):
        logits = model.apply({'params': params}, pixels)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    def step(params, state, pixels, labels):
        value, gradient = jax.value_and_grad(loss)(params, pixels, labels)
        updates, state = tx.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, value

    return tx, step


class Jax:
    """A Flax module, with its parameters, jitted whole."""

    def __init__(self, model: Any, params: Any, inputs: tuple[np.ndarray, np.ndarray]):
        # Models look at it. One device, as PyTorch has.
        self._mesh = sharding.make_mesh({'data': 1}, jax.local_devices()[:1])
        self._batch = tuple(map(jax.numpy.asarray, inputs))
        self._forward = jax.jit(lambda params, pixels: model.apply({'params': params}, pixels))
        tx, step = training_step(model)
        self._step = jax.jit(step, donate_argnums=(0, 1))
        self._params = jax.tree.map(jax.numpy.asarray, params)
        self._state = tx.init(self._params)

    def logits(self) -> np.ndarray:
        """Of the batch, float32."""
        with jax.set_mesh(self._mesh):
            return np.asarray(self._forward(self._params, self._batch[0]), np.float32)

    def forward(self) -> None:
        """One forward pass."""
        with jax.set_mesh(self._mesh):
            self._forward(self._params, self._batch[0]).block_until_ready()

    def step(self) -> float:
        """One training step; the loss before it."""
        with jax.set_mesh(self._mesh):
            self._params, self._state, loss = self._step(self._params, self._state, *self._batch)
            return float(loss)

    def device_bytes(self) -> int:
        """The most memory that was in use on an accelerator; 0 on a CPU."""
        return (jax.local_devices()[0].memory_stats() or {}).get('peak_bytes_in_use', 0)


class Torch:
    """A PyTorch module of Hugging Face's, eager or compiled."""

    def __init__(
        self, model: Any, inputs: tuple[np.ndarray, np.ndarray], dtype: str, compiled: bool
    ):
        import torch

        self._device = 'cuda' if torch.cuda.is_available() else 'cpu'
        model = model.to(self._device)
        pixels, labels = inputs
        self._pixels = torch.tensor(np.moveaxis(pixels, -1, -3)).to(self._device)
        self._labels = torch.tensor(labels).to(self._device)
        # Their Trainer's default.
        self._tx = torch.optim.AdamW(
            model.parameters(), RATE, BETAS, weight_decay=DECAY, fused=True
        )
        self._autocast = torch.autocast(
            self._device, torch.bfloat16, enabled=dtype == 'bfloat16', cache_enabled=False
        )
        self._model = torch.compile(model) if compiled else model

    def _wait(self):
        import torch

        if self._device == 'cuda':
            torch.cuda.synchronize()

    def logits(self) -> np.ndarray:
        """Of the batch, float32."""
        import torch

        with torch.inference_mode(), self._autocast:
            return self._model(self._pixels).logits.float().cpu().numpy()

    def forward(self) -> None:
        """One forward pass."""
        import torch

        with torch.inference_mode(), self._autocast:
            self._model(self._pixels)
        self._wait()

    def step(self) -> float:
        """One training step; the loss before it."""
        import torch

        with self._autocast:
            logits = self._model(self._pixels).logits
            loss = torch.nn.functional.cross_entropy(logits.float(), self._labels)
        loss.backward()
        self._tx.step()
        self._tx.zero_grad(set_to_none=True)
        self._wait()
        return loss.item()

    def device_bytes(self) -> int:
        """The most memory that was in use on an accelerator; 0 on a CPU."""
        import torch

        return torch.cuda.max_memory_allocated() if self._device == 'cuda' else 0


def textbook(work: Work) -> TextbookViViT:
    """The textbook's model of a ViViT's work."""
    fields = {key: value for key, value in work.model.items() if key not in ('name', 'attention')}
    depth = work.build().temporal_depth if 'attention' in work.model else 0
    return TextbookViViT(**fields | {'temporal_depth': depth}, dtype=work.dtype)


NAMES = ('vjax', 'textbook', 'huggingface', 'huggingface-compiled')
DOES_NOT_FIT = 'does not fit'  # In the device's memory, beside the others.
UNROLLED = 'vjax, unrolled'  # Its layers without a loop: of estimates alone.


def has_peers(work: Work) -> bool:
    """Whether there are contenders but vjax: the others have ViViT alone."""
    return work.model['name'] == 'vivit'


def make(name: str, work: Work) -> Jax | Torch | str:
    """The contender of that name at a work; or the reason why there is none."""
    if name == 'vjax':
        return Jax(work.build(), work.params(), work.inputs())
    if not has_peers(work):
        return 'only of ViViT'
    if name == 'textbook':
        return Jax(textbook(work), from_vjax(work.params()), work.inputs())
    if 'attention' in work.model:
        return 'Hugging Face has Model 1, spatio-temporal attention, alone'
    try:
        import torch
        import transformers
    except ImportError as error:
        return f'{error.name} is not installed'
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / 'vivit'
        classes = {'label': [str(i) for i in range(work.model['num_classes'])]}
        huggingface.write(path, work.build(), work.params(), classes, work.shape)
        model = transformers.VivitForVideoClassification.from_pretrained(path)
    return Torch(model.train(), work.inputs(), work.dtype, name.endswith('compiled'))


def first_calls(contender: Jax | Torch, steps: int) -> dict[str, Any] | str:
    """What it computes, and the seconds of the calls that compile; or the reason why it cannot.

    Returns:
        `logits` of the batch, `losses` of so many steps after the first, `first_forward`, `first_step`.
    """
    try:
        first_forward = seconds(contender, 'forward', 1)[0]
        logits = contender.logits()
        first_step = seconds(contender, 'step', 1)[0]
        losses = [contender.step() for _ in range(steps)]
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        return DOES_NOT_FIT
    return {
        'logits': logits,
        'losses': losses,
        'first_forward': first_forward,
        'first_step': first_step,
    }


def is_out_of_memory(error: Exception) -> bool:
    """Whether a device, jax's or PyTorch's, had too little memory."""
    return 'RESOURCE_EXHAUSTED' in str(error) or type(error).__name__ == 'OutOfMemoryError'


def seconds(contender: Jax | Torch, what: str, times: int) -> list[float]:
    """Wall seconds of each of so many calls of 'forward' or 'step'."""
    call, measured = getattr(contender, what), []
    for _ in range(times):
        start = time.perf_counter()
        call()
        measured.append(time.perf_counter() - start)
    return measured


def peak_bytes(contender: Jax | Torch) -> int:
    """The most memory that it has held: the device's, or on a CPU that of its process."""
    of_device = contender.device_bytes()
    return of_device or 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
