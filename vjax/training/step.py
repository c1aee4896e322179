"""The training state, one training step, and one evaluation step: pure functions to be jitted."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from einops import rearrange
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, UInt8

from vjax.data.augment import Mirror, augment, mix, normalise
from vjax.data.sections import Augment
from vjax.training import sharding
from vjax.training.losses import Classification
from vjax.training.optimizer import update_ema
from vjax.training.rules import Rules

Batch = dict[str, Array]


class State(NamedTuple):
    """All that training carries from step to step, and all that a checkpoint holds.

    Attributes:
        step: number of finished steps.
        params: the model's parameters, float32.
        ema: their exponential moving average; None when it is off.
        opt_state: the optimiser's state.
        window: metric sums since the last report. They belong to the state so that a resumed run
            reports the same numbers as one that was never interrupted.
        bad_step: the first step whose loss or gradient was not finite; -1 while all is well.
    """

    step: Int[Array, '']
    params: Any
    ema: Any
    opt_state: Any
    window: dict[str, Array]
    bad_step: Int[Array, '']


WINDOW = ('loss', 'hits', 'num', 'failed', 'grad_norm', 'steps')


def init_state(params: Any, tx: optax.GradientTransformation, *, ema: bool) -> State:
    """The state before the first step."""
    return State(
        step=jnp.int32(0),
        params=params,
        ema=jax.tree.map(jnp.copy, params) if ema else None,
        opt_state=tx.init(params),
        window={name: jnp.float32(0) for name in WINDOW},
        bad_step=jnp.int32(-1),
    )


def abstract_state(
    init_params: Callable[[], Any],
    tx: optax.GradientTransformation,
    *,
    ema: bool,
    mesh: Mesh,
    parameter_rules: Rules,
    preset: str = 'replicated',
) -> State:
    """The shapes and shardings of `init_state`; nothing is computed.

    Moments and moving averages live where their parameters do. The shardings are needed for the
    whole state, because `jit(tx.init)` alone would put the moments on one device.
    """
    state = jax.eval_shape(lambda: init_state(init_params(), tx, ema=ema))
    whole = sharding.replicated(mesh)
    of_params = sharding.parameter_shardings(mesh, parameter_rules, state.params, preset)
    shardings = State(
        step=whole,
        params=of_params,
        ema=of_params if ema else None,
        opt_state=sharding.optimizer_shardings(mesh, tx, state.opt_state, of_params),
        window=dict.fromkeys(WINDOW, whole),
        bad_step=whole,
    )
    return jax.tree.map(
        lambda leaf, where: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where),
        state,
        shardings,
    )


def _put_into(tree: Any, part: Any) -> Any:
    """The tree with the leaves of a part of it, which has None in place of the others."""
    return jax.tree.map(lambda leaf, new: leaf if new is None else new, tree, part)


def make_train_step(
    model: Any,
    tx: optax.GradientTransformation,
    schedule: optax.Schedule,
    *,
    trains: Any,
    seed: int,
    classification: Classification,
    augmentation: Augment,
    size: int,
    mirror: Mirror | None,
    mixup: float,
    cutmix: float,
    accumulate: int,
    ema_decay: float,
    log_every: int,
) -> Callable[[State, Batch], tuple[State, dict[str, Array]]]:
    """One step as a function (state, batch) -> (state, report), pure in both.

    The random draws depend on the seed, the step and the examples' positions in the training stream
    only, so a resumed run repeats them.

    Args:
        model: a vjax model; `apply` gives logits. Where it sows `head_logits` [heads, batch, classes],
            the loss is the mean of theirs.
        tx: the optimiser.
        schedule: its learning rate, for the report.
        trains: whether each parameter is trained. The others have no gradient: nothing is kept nor
            computed for it, and it is in no norm.
        seed: the run's seed.
        classification: what the logits are trained to be.
        augmentation: the config's section `augment`.
        size: side of the clips that the model sees, in pixels.
        mirror: what a flip does to labels, from `vjax.data.augment.find_mirror`.
        mixup: Beta parameter of mixup; 0 is off.
        cutmix: that of cutmix.
        accumulate: microbatches a batch is split into; equals one big batch up to rounding.
        ema_decay: decay of the parameters' moving average; 0 is off.
        log_every: steps in a metric window.
    """
    root = jax.random.key(seed)
    augment_key, step_key = jax.random.split(root)

    def loss_sum(trained, params, video, target, mask, key):
        logits, sown = model.apply(
            {'params': _put_into(params, trained)},
            video,
            train=True,
            rngs={'dropout': key},
            mutable='head_logits',
        )
        # A model of several classifiers trains each of them, not their mean.
        each = [one for heads in jax.tree.leaves(sown) for one in heads] or [logits]
        loss = sum(classification.loss(one, target) for one in each) / len(each)
        return jnp.sum(mask * loss), logits

    def gradients(params, video, target, mask, key):
        """Loss sum, logits and gradient sum over the batch, a microbatch at a time."""
        grad_fn = jax.value_and_grad(loss_sum, has_aux=True)
        trained = jax.tree.map(lambda leaf, trains: leaf if trains else None, params, trains)
        if accumulate == 1:
            (loss, logits), grads = grad_fn(trained, params, video, target, mask, key)
            return loss, logits, grads

        def microbatch(carry, inputs):
            loss_so_far, grads_so_far = carry
            i, *arrays = inputs
            key_of_part = jax.random.fold_in(key, i)
            (loss, logits), grads = grad_fn(trained, params, *arrays, key_of_part)
            return (loss_so_far + loss, jax.tree.map(jnp.add, grads_so_far, grads)), logits

        # Every microbatch takes its examples from all devices' shares of the batch.
        split = [
            rearrange(array, '(b a) ... -> a b ...', a=accumulate)
            for array in (video, target, mask)
        ]
        zero = (jnp.float32(0), jax.tree.map(jnp.zeros_like, trained))
        (loss, grads), logits = jax.lax.scan(microbatch, zero, (jnp.arange(accumulate), *split))
        return loss, rearrange(logits, 'a b c -> (b a) c'), grads

    def train_step(state: State, batch: Batch) -> tuple[State, dict[str, Array]]:
        key = jax.random.fold_in(step_key, state.step)
        dropout_key, mix_key = jax.random.split(key)
        video, label = augment(batch, augment_key, augmentation, size=size, mirror=mirror)
        target = classification.targets(label)
        mask = batch['mask']
        video, target = mix(video, target, mask, mix_key, mixup=mixup, cutmix=cutmix)

        total = jnp.maximum(jnp.sum(mask), 1.0)
        loss, logits, grads = gradients(state.params, video, target, mask, dropout_key)
        grads = jax.tree.map(lambda g: g / total, grads)
        grad_norm = optax.tree.norm(grads)
        grads = _put_into(jax.tree.map(jnp.zeros_like, state.params), grads)
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)

        new = {
            'loss': loss,
            'hits': jnp.sum(mask * classification.hits(logits, target)),
            'num': jnp.sum(mask),
            'failed': jnp.sum(1.0 - mask),
            'grad_norm': grad_norm,
            'steps': jnp.float32(1),
        }
        fresh = state.step % log_every == 0
        window = {name: jnp.where(fresh, 0, state.window[name]) + new[name] for name in new}
        finite = jnp.isfinite(loss) & jnp.isfinite(grad_norm)
        bad_step = jnp.where((state.bad_step < 0) & ~finite, state.step + 1, state.bad_step)
        step = state.step + 1
        ema = update_ema(state.ema, params, ema_decay, step) if ema_decay else None
        num = jnp.maximum(window['num'], 1.0)
        report = {
            'loss': window['loss'] / num,
            classification.hit: window['hits'] / num,
            'grad_norm': window['grad_norm'] / window['steps'],
            'learning_rate': jnp.asarray(schedule(state.step), jnp.float32),
            'failed_records': window['failed'],
            'bad_step': bad_step,
        }
        return State(step, params, ema, opt_state, window, bad_step), report

    return train_step


def draw(seed: int, step: int, num_choices: int) -> int:
    """Which of several compiled steps is step number `step`: uniform, and pure in its arguments."""
    return int(np.random.default_rng([seed, step]).integers(num_choices))


def make_eval_step(
    model: Any, classification: Classification
) -> Callable[[Any, Batch], dict[str, Array]]:
    """A function (params, batch) -> arrays of what the metrics are made of, a row for each video.

    They are `logits` and `loss`, without label smoothing, and the batch's `label`, `mask` and `index`.
    """
    exact = dataclasses.replace(classification, label_smoothing=0.0)

    def eval_step(params: Any, batch: Batch) -> dict[str, Array]:
        logits = view_logits(model, params, batch['video'])
        loss = exact.loss(logits, exact.targets(batch['label']))
        kept = {name: batch[name] for name in ('label', 'mask', 'index')}
        return {'logits': logits, 'loss': loss, **kept}

    return eval_step


def view_logits(
    model: Any, params: Any, video: UInt8[Array, 'batch views time height width 3']
) -> Float[Array, 'batch classes']:
    """Logits averaged over a video's views, one view at a time to bound the memory."""
    views = rearrange(video, 'b v t h w c -> v b t h w c')
    logits = jax.lax.map(lambda clip: model.apply({'params': params}, normalise(clip)), views)
    return jnp.mean(logits, axis=0)
