"""What a model looks at: maps over its clips, made of the weights that it sows.

  rollout        Attention rollout, from the classifier down to the tubelets; see `rollout`.
  view_0, ...    The same over the tubelets of each of MTV's views, instead of `rollout`.
  token_maps     TokenLearner's weights of the places of a frame (arXiv 2106.11297, section 2.1), a map
                 for each learned token. With TokenFuser every layer has its own: `token_maps_layer_2`,
                 and `fusion_maps_layer_2` for the places that each token was spread over (section 2.2).
  gather         LookupViT's weights of the lookup tokens in information gathering (arXiv 2407.12753,
                 section 3.2), the mean of layers, heads and compressed tokens.
  gather_tokens  The same of each compressed token, in the order of the compressed grid.

Maps show where weights are, which need not be what the answer depends on: hide it, and see.
"""

import functools
from typing import Any

import einops
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vjax.models.lookupvit import LookupModel
from vjax.models.probe import AttentiveProbe
from vjax.models.rollout import Sown, rollouts, token_grid
from vjax.models.token_learner import LearnerModel, learner_layer
from vjax.models.vivit import uniform_frames


@functools.partial(jax.jit, static_argnums=0)
def look(
    model: Any, params: Any, video: Float[Array, 'batch *size channels']
) -> dict[str, Float[Array, 'batch maps _ _ _']]:
    """Maps of what a model looks at in each clip, by the names at the top of this file.

    The model runs once, in evaluation. The weights of all layers are in memory at once: layers x heads x
    tokens squared numbers a clip where all tokens of a clip attend to each other.

    Args:
      model: A model of this package.
      params: Its parameters.
      video: What the model takes, with values in [-1, 1].

    Returns:
      Non-negative float32 maps [batch, maps, time, height, width] on the model's grid of tubelets, so
      that each index of time stands for equally many frames; 1 index for images. The sum of a map is 1
      over the clip for `rollout` and `view_...`; in every frame for `token_maps` of version 1.1, for
      those of 1.0 each place is in [0, 1]; for `gather` over the grid that was compressed, a frame or
      the clip. A model that embeds sampled frames only (`uniform_frames`) has an index for every
      frame, with the map of the sampled one nearest to it.

    Raises:
      UserError: nothing is known of such a model, or the clips do not fit it.
    """
    _, state = model.apply({'params': params}, video, mutable='intermediates')
    sown, input_shape = state['intermediates'], video.shape[1:]
    shown = _shown(model, input_shape)
    maps = {}
    for name, weights in rollouts(model, sown, input_shape).items():
        weights = shown(weights)
        maps[name] = (weights / weights.sum(axis=(1, 2, 3), keepdims=True))[:, None]
    for name, own in sown_maps(model, sown, input_shape).items():
        maps[name] = shown(own.astype(jnp.float32))
    return maps


def sown_maps(
    model: Any, sown: Sown, input_shape: tuple[int, ...]
) -> dict[str, Float[Array, 'batch maps _ _ _']]:
    """The maps that a model sows as they are, those of TokenLearner and LookupViT; none of others.

    Args:
      model: A model of this package.
      sown: What it sowed in `intermediates`.
      input_shape: Of one example without its batch axis, (time, height, width, channels).
    """
    if isinstance(model, AttentiveProbe):
        return sown_maps(model.encoder, sown['encoder'], input_shape)
    encoder = sown.get('spatial_encoder', sown.get('encoder'))
    if isinstance(model, LearnerModel):
        time = token_grid(model, input_shape)[0]
        return _token_maps(model, encoder, time)
    if isinstance(model, LookupModel):
        (gather,) = encoder['blocks']['gather']['gather']
        gather = gather.astype(jnp.float32).mean(axis=(0, 2))
        time, height, width = token_grid(model, input_shape)
        in_clip = '(t h w)' if len(model.grid) == 3 else '(h w)'
        batch = 'b' if len(model.grid) == 3 else '(b t)'
        sizes = dict(t=time, h=height, w=width)
        gather = einops.rearrange(gather, f'{batch} m {in_clip} -> b m t h w', **sizes)
        return {'gather': gather.mean(axis=1, keepdims=True), 'gather_tokens': gather}
    return {}


def _token_maps(model: LearnerModel, sown: Sown, time: int) -> dict[str, Float[Array, '...']]:
    def as_clips(maps):
        return einops.rearrange(maps, '(b t) n h w -> b n t h w', t=time)

    if not model.fuser:
        return {'token_maps': as_clips(sown['token_learner']['token_maps'][0])}
    blocks, first = sown['fused_blocks'], learner_layer(model)
    (learned,), (fused,) = (
        blocks['token_learner']['token_maps'],
        blocks['token_fuser']['fusion_maps'],
    )
    layers = range(len(learned))
    return {
        **{f'token_maps_layer_{first + i}': as_clips(learned[i]) for i in layers},
        **{f'fusion_maps_layer_{first + i}': as_clips(fused[i]) for i in layers},
    }


def _shown(model: Any, input_shape: tuple[int, ...]) -> Any:
    """What puts maps [..., time, height, width] of sampled frames at all frames of the clip."""
    model = model.encoder if isinstance(model, AttentiveProbe) else model
    if getattr(model, 'embedding', 'tubelet') != 'uniform_frames':
        return lambda maps: maps
    num_frames = input_shape[0]
    sampled = uniform_frames(num_frames, model.num_sampled_frames)
    nearest = np.abs(np.arange(num_frames)[:, None] - sampled).argmin(axis=1)
    return lambda maps: maps[..., nearest, :, :]
