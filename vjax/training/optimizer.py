"""The optimiser of a config: momentum SGD (the papers') or AdamW, with rules by parameter path."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from vjax.errors import UserError
from vjax.training import rules

NAMES = ('sgd', 'adamw')
DECAYS = ('cosine', 'linear')
MOMENT_DTYPES = ('float32', 'bfloat16')


def learning_rate_schedule(
    learning_rate: float,
    warmup_fraction: float,
    decay: str,
    end_learning_rate: float,
    num_steps: int,
) -> optax.Schedule:
    """Linear warm-up from zero, then down to `end_learning_rate` (ViViT, appendix, Tab. 7).

    The decay spans the steps after the warm-up, and beyond `num_steps` the rate stays at its end.
    """
    warmup = round(warmup_fraction * num_steps)
    rest = max(num_steps - warmup, 1)
    match decay:
        case 'cosine':
            fraction = end_learning_rate / learning_rate if learning_rate else 0.0
            down = optax.schedules.cosine_decay_schedule(learning_rate, rest, fraction)
        case 'linear':
            down = optax.schedules.linear_schedule(learning_rate, end_learning_rate, rest)
        case _:
            raise UserError(
                f"there is no decay '{decay}' of the learning rate; choose one of {', '.join(DECAYS)}."
            )
    up = optax.schedules.linear_schedule(0.0, learning_rate, warmup)
    return optax.schedules.join_schedules([up, down], [warmup])


def _per_leaf(update, values: Any) -> optax.GradientTransformation:
    """The stateless transformation `update(gradient, parameter, value)`, leaf by leaf.

    Values are looked up by path, not zipped, because `optax.partition` hides the frozen leaves.
    """
    by_path = {
        rules.path_name(path): value for path, value in jax.tree_util.tree_leaves_with_path(values)
    }
    return optax.stateless(
        lambda updates, params: jax.tree_util.tree_map_with_path(
            lambda path, u, p: update(u, p, by_path[rules.path_name(path)]), updates, params
        )
    )


def _layer_factors(rule_values: Any, params: Any) -> Any:
    """Factors of the shape in which they multiply: a number, or one for each layer of stacked blocks.

    Raises:
        UserError: there is not one factor for each layer.
    """

    def factor(path, param, value):
        if not isinstance(value, list | tuple):
            return value
        if param.shape[:1] != (len(value),):
            layers = f'{param.shape[0]} layers' if param.shape else 'no layers'
            raise UserError(
                f'config.optimizer.learning_rate_scale gives {len(value)} factors to '
                f"'{rules.path_name(path)}', which has {layers}; give one factor for each, or a single "
                'number.'
            )
        return np.asarray(value, np.float32).reshape(-1, *(1,) * (len(param.shape) - 1))

    return jax.tree_util.tree_map_with_path(factor, params, rule_values)


def build(
    params: Any,
    num_steps: int,
    *,
    name: str,
    learning_rate: float,
    warmup_fraction: float,
    decay: str,
    end_learning_rate: float,
    momentum: float,
    b1: float,
    b2: float,
    moment_dtype: str,
    clip_norm: float,
    weight_decay: rules.Rules,
    learning_rate_scale: rules.Rules,
    freeze: Sequence[str],
) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """The gradient transformation of `config.optimizer`, and its learning-rate schedule.

    Gradients are clipped by their global norm after averaging over the whole batch (Scenic clips on
    each device first, so its clipping depends on the number of devices). Weight decay is coupled to
    the learning rate only, never to Adam's second moment (Loshchilov & Hutter 2019).

    Args:
        params: the parameters, or their shapes; only paths and shapes are read.
        num_steps: optimiser steps in the whole run.
        name: `sgd` (momentum, not Nesterov, as in the ViViT paper) or `adamw`.
        learning_rate: peak rate.
        warmup_fraction: part of `num_steps` spent in linear warm-up.
        decay: `cosine` (half of one) or `linear`.
        end_learning_rate: rate after the last step.
        momentum: of `sgd`.
        b1: first-moment decay of `adamw`.
        b2: second-moment decay of `adamw`.
        moment_dtype: what momentum and Adam's first moment are kept in; its second is always float32.
        clip_norm: largest global gradient norm; 0 does not clip.
        weight_decay: rules giving each parameter its decay rate.
        learning_rate_scale: rules giving each parameter a factor on the learning rate, or, where
            blocks are stacked on the leading axis, a tuple with one for each layer. It scales the
            whole update, decoupled weight decay too, as a group's rate does in other libraries.
        freeze: patterns of parameters that keep their value; each must match at least one.
    """
    schedule = learning_rate_schedule(
        learning_rate, warmup_fraction, decay, end_learning_rate, num_steps
    )
    match name:
        case 'sgd':
            scale = optax.trace(decay=momentum, accumulator_dtype=moment_dtype)
        case 'adamw':
            scale = optax.scale_by_adam(b1=b1, b2=b2, mu_dtype=moment_dtype)
        case _:
            raise UserError(f"there is no optimiser '{name}'; choose one of {', '.join(NAMES)}.")
    decay_rates = rules.match(weight_decay, params, 'optimizer.weight_decay')
    factors = rules.match(learning_rate_scale, params, 'optimizer.learning_rate_scale')
    factors = _layer_factors(factors, params)
    weight_decays = _per_leaf(lambda gradient, param, rate: gradient + rate * param, decay_rates)
    trained = optax.chain(
        optax.clip_by_global_norm(clip_norm) if clip_norm else optax.identity(),
        # Before the momentum for SGD (L2 regularisation), after the scaling for Adam (decoupled).
        *((weight_decays, scale) if name == 'sgd' else (scale, weight_decays)),
        _per_leaf(lambda update, _, factor: update * factor, factors),
        optax.scale_by_learning_rate(schedule),
    )
    if freeze:
        labels = jax.tree.map(
            lambda trains: 'trained' if trains else 'frozen', trains(freeze, params)
        )
        trained = optax.partition({'trained': trained, 'frozen': optax.set_to_zero()}, labels)
    return trained, schedule


def trains(freeze: Sequence[str], params: Any) -> Any:
    """Whether each parameter of a tree is trained: False of those that a pattern of `freeze` names.

    Raises:
        UserError: a pattern names none, or all are frozen.
    """
    found = rules.match(
        [(pattern, False) for pattern in freeze], params, 'optimizer.freeze', [('.*', True)]
    )
    if not any(jax.tree.leaves(found)):
        raise UserError('config.optimizer.freeze names all parameters; there is nothing to train.')
    return found


def update_ema(ema: Any, params: Any, decay: float, step: jax.Array) -> Any:
    """One step of the exponential moving average of the parameters.

    The decay is held at (1 + t) / (10 + t) while that is smaller, so that the average forgets the
    initialisation (the warm-up of TensorFlow's EMA).
    """
    count = step.astype(jnp.float32)
    decay = jnp.minimum(decay, (1.0 + count) / (10.0 + count))
    return jax.tree.map(lambda average, new: average + (1.0 - decay) * (new - average), ema, params)
