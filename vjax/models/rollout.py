"""Attention rollout: which tokens of the clip the answer came from (Abnar & Zuidema, arXiv 2005.00928).

Section 3 there: a layer adds what attention brings to what was there, so its output tokens are made
half of the input token in their place and half of what the heads, averaged, attend to; layers multiply.
The classifier reads one row of that product, or a mean of rows. Here the row is carried through the
layers from the last to the first, which gives the same as the product of their matrices for the cost of
vectors. What is no matrix of attention in a model is a linear map all the same, and is carried through
in the same way: pooling, TokenLearner's maps, LookupViT's two streams, the views of MTV.

Each function takes weights of what a part of a model puts out and gives weights of what it took in; the
sum stays as it is, unless weight goes to what no clip has: class tokens, bottleneck tokens. It is a
description of attention, not of the answer's cause: values, MLPs and norms have no say in it.

In einsum and einops subscripts: l layers, b batch, h heads, q queries, k keys, t time, s space, n learned
tokens of a frame, m compressed tokens, f indices of time in a slice.
"""

import math
from collections.abc import Mapping
from typing import Any

import einops
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vjax.errors import UserError
from vjax.models.lookupvit import LookupModel, LookupViViT
from vjax.models.mtv import MTV
from vjax.models.positions import resize_grid
from vjax.models.probe import AttentiveProbe
from vjax.models.videoprism import VideoPrism
from vjax.models.vit import ViT
from vjax.models.vivit import FACTORISED_BLOCKS, ViViT

Sown = Mapping[str, Any]  # The `intermediates` of a module, by the names of its parts.
Weights = Float[Array, 'batch tokens']


def rollouts(
    model: Any, sown: Sown, input_shape: tuple[int, ...], weights: Weights | None = None
) -> dict[str, Float[Array, 'batch _ _ _']]:
    """The rollout over a model's grid of tokens, `rollout`; of MTV over each view's, `view_0` and so on.

    Args:
      model: A model of this package.
      sown: What it sowed in `intermediates`.
      input_shape: Of one example without its batch axis, (time, height, width, channels).
      weights: Of its final tokens (`features=True`), None for those that its classifier gives them.

    Returns:
      Non-negative weights [batch, time, height, width] whose sum is what class tokens leave of that of
      `weights`, or of 1.

    Raises:
      UserError: it is no model of this package.
    """
    if isinstance(model, AttentiveProbe):
        weights = _pooled(sown['pool'])
        if 'blocks' in sown:
            weights = through_blocks(weights, _attention(sown['blocks']))
        return rollouts(model.encoder, sown['encoder'], input_shape, weights)
    if isinstance(model, MTV):
        views = _mtv(model, sown, weights)
        return {
            f'view_{i}': view.reshape(-1, *np.floor_divide(input_shape[:3], tubelet))
            for i, (view, tubelet) in enumerate(zip(views, model.tubelets, strict=True))
        }
    grid = token_grid(model, input_shape)
    match model:
        case LookupModel():
            found = _lookup(model, sown, grid, weights)
        case VideoPrism():
            found = _videoprism(model, sown, grid, weights)
        case ViViT() if model.attention in FACTORISED_BLOCKS:
            weights = _final(sown['encoder'], model.classifier) if weights is None else weights
            found = _factorised_blocks(model, sown['encoder']['blocks'], grid, weights)
        case ViViT() if model.attention != 'spacetime':
            frames = _frames(sown, model.classifier, grid[0], weights)
            apart = einops.rearrange(frames, 'b t -> (b t) 1')
            spatial = sown['spatial_encoder']
            found = through_encoder(apart * _final(spatial, model.classifier), spatial, grid[1:])
        case _:
            weights = _final(sown['encoder'], model.classifier) if weights is None else weights
            found = through_encoder(weights, sown['encoder'], grid)
    return {'rollout': found.reshape(-1, *grid)}


def token_grid(model: Any, input_shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Tokens of one example along time, height and width; of a probe its encoder's, and not of MTV.

    Raises:
      UserError: it is no model of this package, or the shape does not fit it.
    """
    if isinstance(model, AttentiveProbe):
        return token_grid(model.encoder, input_shape)
    if isinstance(model, ViT):
        *_, height, width, _ = input_shape
        return 1, height // model.patch[0], width // model.patch[1]
    if isinstance(model, ViViT | VideoPrism):
        return model.token_grid(input_shape)
    raise UserError(
        f'what a {type(model).__name__} looks at is not known: it has no grid of tokens'
    )


# Single steps. ------------------------------------------------------------------------------------


def attend(
    weights: Float[Array, 'batch queries'],
    attention: Float[Array, 'batch heads queries keys'],
) -> Float[Array, 'batch keys']:
    """Through attention without its residual connection, the heads averaged."""
    heads = attention.shape[1]
    return jnp.einsum('bq,bhqk->bk', weights, attention.astype(jnp.float32)) / heads


def through_blocks(
    weights: Weights, attention: Float[Array, 'layers batch heads tokens tokens']
) -> Weights:
    """Through transformer blocks: the rows `weights` of the product of (A + I) / 2 over the layers."""

    def block(weights, attention):
        return (weights + attend(weights, attention)) / 2, None

    return jax.lax.scan(block, weights, attention, reverse=True)[0]


def through_token_learner(
    weights: Weights, maps: Float[Array, 'frames num height width']
) -> Float[Array, 'batch places']:
    """From the learned tokens of a clip's frames to their places; a token's map is made to sum to 1."""
    batch = weights.shape[0]
    maps = einops.rearrange(maps, '(b t) n h w -> b t n (h w)', b=batch).astype(jnp.float32)
    maps = maps / maps.sum(axis=-1, keepdims=True)
    weights = einops.rearrange(weights, 'b (t n) -> b t n', t=maps.shape[1])
    return jnp.einsum('btn,btns->bts', weights, maps).reshape(batch, -1)


def through_token_fuser(
    weights: Float[Array, 'batch places'], maps: Float[Array, 'frames num height width']
) -> Weights:
    """From the places of a clip's frames to the tokens that were spread over them."""
    batch = weights.shape[0]
    maps = einops.rearrange(maps, '(b t) n h w -> b t n (h w)', b=batch).astype(jnp.float32)
    maps = maps / maps.sum(axis=2, keepdims=True)
    weights = einops.rearrange(weights, 'b (t s) -> b t s', t=maps.shape[1])
    return jnp.einsum('bts,btns->btn', weights, maps).reshape(batch, -1)


def through_encoder(
    weights: Weights, sown: Sown, grid: tuple[int, ...]
) -> Float[Array, 'batch cells']:
    """From the final tokens of a `layers.Encoder`, or one with TokenLearner, to its grid's cells."""
    if 'fused_blocks' in sown:
        weights = _fused_blocks(weights, sown['fused_blocks'])
    if 'later_blocks' in sown:
        weights = through_blocks(weights, _attention(sown['later_blocks']))
    if 'token_learner' in sown:
        weights = through_token_learner(weights, sown['token_learner']['token_maps'][0])
    if 'blocks' in sown:
        weights = through_blocks(weights, _attention(sown['blocks']))
    return weights[:, -math.prod(grid) :]  # A class token comes first, where there is one.


def _attention(sown: Sown) -> Float[Array, '...']:
    """The weights of a block's, or of scanned blocks', self-attention."""
    return sown['attention']['attention'][0]


def _pooled(sown: Sown) -> Weights:
    """What attention pooling, of a single query, takes of each token."""
    return jnp.mean(_attention(sown)[:, :, 0], axis=1, dtype=jnp.float32)


def _final(sown: Sown, classifier: str) -> Weights:
    """What an encoder's classifier takes of each of its final tokens."""
    batch, num_tokens, _ = sown['tokens'][0].shape
    if classifier == 'map':
        return _pooled(sown['pool'])
    if classifier == 'token':
        return jnp.zeros((batch, num_tokens)).at[:, 0].set(1)
    return jnp.full((batch, num_tokens), 1 / num_tokens)


# Models. ------------------------------------------------------------------------------------------


def _frames(
    sown: Sown, classifier: str, time: int, weights: Weights | None
) -> Float[Array, 'batch time']:
    """A factorised model's frames: through its temporal encoder, or the mean that stands for one."""
    if 'temporal_encoder' not in sown:
        batch = sown['spatial_encoder']['tokens'][0].shape[0] // time
        return jnp.full((batch, time), 1 / time) if weights is None else weights
    temporal = sown['temporal_encoder']
    weights = _final(temporal, classifier) if weights is None else weights
    return through_encoder(weights, temporal, (time,))


def _factorised_blocks(
    model: ViViT, sown: Sown, grid: tuple[int, int, int], weights: Weights
) -> Weights:
    """ViViT's Models 3 and 4, whose attention is over time and over space, not over both."""
    batch, time = len(weights), grid[0]
    apart = {'time': '(b s) t', 'space': '(b t) s'}

    def over(axis, weights, attention):
        weights = einops.rearrange(weights, f'b (t s) -> {apart[axis]}', t=time)
        weights = attend(weights, attention)
        return einops.rearrange(weights, f'{apart[axis]} -> b (t s)', b=batch, t=time)

    def one_after_the_other(weights, attention):
        for axis in reversed(model.attention_order.split('_')):
            weights = (weights + over(axis, weights, attention[axis])) / 2
        return weights, None

    def side_by_side(weights, attention):
        attended = sum(over(axis, weights, attention[axis]) for axis in apart) / 2
        return (weights + attended) / 2, None

    if model.attention == 'factorised_self_attention':
        attention = {axis: sown[f'{axis}_attention']['attention'][0] for axis in apart}
        return jax.lax.scan(one_after_the_other, weights, attention, reverse=True)[0]
    attention = {axis: sown['attention'][f'attention_{axis}'][0] for axis in apart}
    return jax.lax.scan(side_by_side, weights, attention, reverse=True)[0]


def _fused_blocks(weights: Weights, sown: Sown) -> Weights:
    """TokenLearner's blocks with TokenFuser: x + TokenFuser(block(TokenLearner(x)), x)."""

    def block(weights, layer):
        attention, learned, fused = layer
        tokens = through_token_fuser(weights, fused)
        tokens = (tokens + attend(tokens, attention)) / 2
        return (weights + through_token_learner(tokens, learned)) / 2, None

    (learned,), (fused,) = sown['token_learner']['token_maps'], sown['token_fuser']['fusion_maps']
    return jax.lax.scan(block, weights, (_attention(sown), learned, fused), reverse=True)[0]


def _videoprism(
    model: VideoPrism, sown: Sown, grid: tuple[int, int, int], weights: Weights | None
) -> Float[Array, 'frames places']:
    batch, time = sown['spatial_encoder']['tokens'][0].shape[0] // grid[0], grid[0]
    if weights is None and model.classifier == 'map':
        weights = _pooled(sown['head']['pool'])
    elif weights is None:
        weights = jnp.full((batch, math.prod(grid)), 1 / math.prod(grid))
    if 'auxiliary_encoder' in sown:
        weights = through_encoder(weights, sown['auxiliary_encoder'], grid)
    places = einops.rearrange(weights, 'b (t s) -> (b s) t', t=time)
    places = through_encoder(places, sown['temporal_encoder'], (time,))
    frames = einops.rearrange(places, '(b s) t -> (b t) s', b=batch)
    return through_encoder(frames, sown['spatial_encoder'], grid[1:])


def _lookup(
    model: LookupModel, sown: Sown, grid: tuple[int, int, int], weights: Weights | None
) -> Float[Array, '_ cells']:
    """LookupViT: of the frames apart in the factorised encoder, else of the whole grid."""
    factorised = isinstance(model, LookupViViT) and model.attention == 'factorised_encoder'
    encoder = sown['spatial_encoder' if factorised else 'encoder']
    lookup_grid = grid[-len(model.grid) :]

    # What is read of either stream: the mean, of the compressed one alone or of both.
    num_compressed = encoder['compressed_tokens'][0].shape[1]
    batch, num_lookup = encoder['tokens'][0].shape[:2]
    alone = (model.temporal_input if factorised else model.heads) == 'compressed'
    compressed = jnp.full((batch, num_compressed), (1 if alone else 0.5) / num_compressed)
    lookup = jnp.full((batch, num_lookup), (0 if alone else 0.5) / num_lookup)
    if factorised:
        frames = einops.rearrange(_frames(sown, 'gap', grid[0], weights), 'b t -> (b t) 1')
        compressed, lookup = frames * compressed, frames * lookup
    elif weights is not None:  # The model's features are its compressed tokens.
        compressed, lookup = weights, jnp.zeros_like(lookup)

    blocks = encoder['blocks']
    layers = (
        blocks['gather']['gather'][0],
        _attention(blocks['refine']),
        blocks['infuse']['infuse'][0],
    )
    (compressed, lookup), _ = jax.lax.scan(
        _lookup_block, (compressed, lookup), layers, reverse=True
    )

    def resize(features):
        return resize_grid(features, model.grid, antialias=model.antialias)

    # Compressed tokens began as features of the lookup grid, resized; so their weights go back there.
    features = jnp.zeros((batch, *lookup_grid, 1))
    _, transposed = jax.vjp(resize, features)
    (resized,) = transposed(compressed.reshape(batch, *model.grid, 1))
    return lookup + resized.reshape(batch, -1)


def _lookup_block(streams, sown):
    """LookupViT's block backwards, to be scanned; each of three sums is half of either summand."""
    compressed, lookup = streams
    gather, refine, infuse = (weights.astype(jnp.float32) for weights in sown)
    infuse = einops.rearrange(infuse / infuse.sum(axis=2, keepdims=True), 'b h m s -> b h s m')
    compressed, lookup = compressed + attend(lookup, infuse) / 2, lookup / 2
    compressed = (compressed + attend(compressed, refine)) / 2
    return (compressed / 2, lookup + attend(compressed, gather) / 2), None


def _mtv(model: MTV, sown: Sown, weights: Weights | None) -> list[Float[Array, 'batch cells']]:
    """Of every view, in the order of its tubelets."""
    views = [sown[f'view_{i}'] for i in range(len(model.tubelets))]
    shapes = [view['tokens'][0].shape for view in views]
    batch, times = shapes[0][0], [shape[1] for shape in shapes]

    channel = model.merge == 'channel'
    weights = _final(sown['global_encoder'], model.classifier) if weights is None else weights
    length = max(times) if channel else sum(times)
    weights = through_encoder(weights, sown['global_encoder'], (length,))
    if channel:  # Every index of time is made of a vector of each view.
        vectors = [
            einops.reduce(weights, 'b (again t) -> b t', 'sum', t=time) / len(times)
            for time in times
        ]
    else:
        vectors = jnp.split(weights, np.cumsum(times)[:-1], axis=1)

    tokens = []
    for vector, (_, _, num_tokens, _) in zip(vectors, shapes, strict=True):
        if model.classifier == 'token':
            share = jnp.zeros(num_tokens).at[0].set(1)
        else:
            share = jnp.full(num_tokens, 1 / num_tokens)
        own = jnp.einsum('bt,n->btn', vector, share)
        tokens.append(einops.rearrange(own, 'b (t f) n -> (b t) (f n)', t=min(times)))
    tokens = _through_views(model, sown, tokens)

    grids = []
    for own, (_, _, num_tokens, _) in zip(tokens, shapes, strict=True):
        own = einops.rearrange(own, '(b t) (f n) -> b (t f) n', b=batch, n=num_tokens)
        places = own[:, :, 1:] if model.classifier == 'token' else own
        grids.append(places.reshape(batch, -1))
    return grids


def _through_views(
    model: MTV, sown: Sown, tokens: list[Float[Array, 'slices _']]
) -> list[Float[Array, 'slices _']]:
    """The views' stretches of layers and what they exchange between them, from the last to the first."""
    order = range(len(tokens))
    stretches = [dict(model.stretches(i)) for i in order]
    bottleneck = jnp.zeros((len(tokens[0]), model.bottleneck_tokens))
    for start in sorted(set().union(*stretches), reverse=True):
        fused = start in model.fused_layers()
        here = [i for i in order if start in stretches[i]]
        attention = {i: _attention(sown[f'view_{i}'][f'blocks_{start}']) for i in here}
        if fused and model.fusion == 'bottleneck':
            # It came from the view visited before, which is the next one backwards.
            for i in here if model.fuse_in_descending_order else reversed(here):
                both = jnp.concatenate([tokens[i], bottleneck], axis=1)
                both = through_blocks(both, attention[i])
                tokens[i], bottleneck = jnp.split(both, [tokens[i].shape[1]], axis=1)
            continue
        for i in here:
            tokens[i] = through_blocks(tokens[i], attention[i])
        if fused:
            tokens = _across_views(model, sown[f'fusion_{start}'], tokens)
    return tokens


def _across_views(
    model: MTV, sown: Sown, tokens: list[Float[Array, 'slices _']]
) -> list[Float[Array, 'slices _']]:
    """Cross-view attention: half of what a view asked is a neighbour's, as that was before."""
    before = list(tokens)
    for i in range(len(tokens) - 1):
        query, key = (i, i + 1) if model.fuse_in_descending_order else (i + 1, i)
        before[query] = before[query] - tokens[query] / 2
        attention = sown[f'attention_{query}_{key}']['attention'][0]
        before[key] = before[key] + attend(tokens[query], attention) / 2
    return before
