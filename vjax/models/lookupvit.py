"""LookupViT: Compressing visual information to a limited number of tokens (Koner et al., ECCV 2024).

arXiv 2407.12753. Two streams of tokens: N lookup tokens, the patches of an ordinary ViT, which only
pass through cheap layers, and M << N compressed tokens, the same patches on a coarser grid, which
get the whole of a ViT's block. Bidirectional cross-attention exchanges information between them. In
multiply-adds a block takes (3 N M + 2 M^2) D + (4 N + 15 M) D^2 where ViT's takes 2 N^2 D + 12 N D^2:
half, at 224 x 224 pixels with a grid of 5 x 5. It has more parameters, 19 D^2 for ViT's 12 D^2.

No parameter depends on the compressed grid, so it is chosen with each call, `model.apply(variables,
image, grid=(7, 7))`: one set of parameters serves several budgets, if it was trained with several.

The authors published neither code nor weights. Where the paper leaves room for more than one
reading, the reading is a field of `LookupModel`, which says why its default was taken.
"""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from vjax.errors import UserError
from vjax.models import fields, layers
from vjax.models.lookup_block import LookupBlock, Streams
from vjax.models.positions import PositionEmbedding, resize_grid
from vjax.models.vit import ViT
from vjax.models.vivit import FactorisedEncoder, ViViT


class LookupEncoder(layers.Encoder):
    """From a grid of embedded patches to the two streams, without class token or pooling.

    The grid has any rank: height x width, or time x height x width. Compressed tokens start as the
    features and their positions, both resized (bi-, tri-)linearly to the compressed grid. The
    final ones are sown as `compressed_tokens`, and the lookup tokens as `tokens`.

    Attributes:
      compressed_positions, antialias: See `LookupModel`.
    """

    block: Callable[..., nn.Module] = LookupBlock
    compressed_positions: str = 'resized'
    antialias: bool = False

    @nn.compact
    def __call__(
        self, features: Float[Array, 'batch *grid dim'], grid: tuple[int, ...], *, train: bool
    ) -> Streams:
        """The streams after the last block, for a compressed grid of the features' rank."""
        batch, *lookup_grid, width = features.shape
        resize = functools.partial(resize_grid, grid=grid, antialias=self.antialias)
        positions = PositionEmbedding(self.positions, self.position_grid, name='position_embedding')
        positions = positions(tuple(lookup_grid), width).reshape(1, *lookup_grid, width)
        if self.compressed_positions == 'resized':
            compressed_positions = resize(positions)
        else:
            learned = PositionEmbedding(name='compressed_position_embedding')(grid, width)
            compressed_positions = learned.reshape(1, *grid, width)

        streams = resize(features) + compressed_positions, features + positions
        streams = tuple(
            nn.Dropout(self.dropout)(x.reshape(batch, -1, width), deterministic=not train)
            for x in streams
        )
        compressed, lookup = self.scan(self.make_block('blocks'), streams, train)
        norm = functools.partial(layers.LayerNorm, epsilon=self.norm_epsilon)
        compressed, lookup = norm(name='compressed_norm')(compressed), norm(name='norm')(lookup)
        self.sow('intermediates', 'compressed_tokens', compressed)
        self.sow('intermediates', 'tokens', lookup)
        return compressed, lookup


def pool(streams: Streams) -> tuple[Float[Array, 'batch dim'], Float[Array, 'batch dim']]:
    """The mean token of either stream."""
    compressed, lookup = streams
    return compressed.mean(axis=1), lookup.mean(axis=1)


class Heads(nn.Module):
    """A classifier for each of the named vectors: logits [heads, batch, classes]."""

    num_classes: int
    representation_size: int
    head_bias: float

    @nn.compact
    def __call__(self, **vectors: Float[Array, 'batch dim']) -> Float[Array, 'heads batch classes']:
        head = functools.partial(
            layers.Head, self.num_classes, self.representation_size, self.head_bias
        )
        return jnp.stack([head(name=name)(vector) for name, vector in vectors.items()])


class LookupModel(nn.Module):
    """What LookupViT and LookupViViT have beyond the ViT and the ViViT that they are.

    "The complexity" below is the formula at the top of this file, taken to be the paper's. 15 M D^2
    is gathering's q and o, a ViT block's 12, and infusion's values; 4 N D^2 is gathering's k and v,
    infusion's o, and an MLP of width D / 2; and 3 N M D has room for a single set of logits.

    Attributes:
      grid: The compressed grid where the call names none: (height, width), also that of every frame
        in the factorised encoder; (time, height, width) with attention='spacetime'.
      reuse: What infusion reuses of gathering: its 'logits', with a softmax over the compressed
        tokens, so that what a lookup token receives is an average; or its 'weights', transposed, a
        plainer reading of "attention weights" whose sums over the compressed tokens are arbitrary.
      qk_norm: Whether LayerNorm is applied to the queries and keys of each head of the shared
        attention (as in arXiv 2302.05442, section 2). Off, as in a ViT of this size; another
        reading of the paper has it on.
      lookup_norm: Whether LayerNorm is applied to the lookup stream itself after infusion. Off, as in
        every other pre-norm block; another reading has it on.
      lookup_mlp_ratio: Width of the lookup tokens' MLP over D; 0.5 follows from the complexity.
      infusion_projection: Whether infusion ends in a linear map of the heads' results, as attention
        does. False with lookup_mlp_ratio=1 is the other reading with the same complexity.
      heads: 'average', taken to be the paper's: a classifier for the mean of either stream, their
        logits averaged. Each one's logits are sown as `logits` in the collection `head_logits`
        [heads, batch, classes], compressed first, for a loss on each. Or 'compressed', the former's
        first alone, with its parameters: the last block's infusion and lookup MLP then do nothing.
        Or 'summed', one classifier for the sum of the means, another reading. Not used by the
        factorised encoder, which has one classifier at its end.
      compressed_positions: 'resized' from the lookup tokens', which is what lets the grid change; or
        'learned' for `grid`, and then for no other.
      antialias: Whether a compressed token averages all features that it covers, or interpolates
        between the nearest, as in the bilinear resizing of other readings.
      classifier: 'gap'. There is no class token.
    """

    grid: tuple[int, ...] = (5, 5)
    reuse: str = 'logits'
    qk_norm: bool = False
    lookup_norm: bool = False
    lookup_mlp_ratio: float = 0.5
    infusion_projection: bool = True
    heads: str = 'average'
    compressed_positions: str = 'resized'
    antialias: bool = False
    classifier: str = 'gap'

    def make_encoder(self, **changes: Any) -> nn.Module:
        """From a grid of tokens and a compressed grid to the streams; see `ViT.make_encoder`."""
        block = functools.partial(
            LookupBlock,
            reuse=self.reuse,
            qk_norm=self.qk_norm,
            lookup_norm=self.lookup_norm,
            lookup_mlp_ratio=self.lookup_mlp_ratio,
            infusion_projection=self.infusion_projection,
        )
        return LookupEncoder(
            **self.encoder_fields() | changes,
            block=block,
            compressed_positions=self.compressed_positions,
            antialias=self.antialias,
        )

    def classify(self, streams: Streams) -> Float[Array, 'batch classes']:
        """Logits of the two streams; see `heads`."""
        compressed, lookup = pool(streams)
        sizes = (self.num_classes, self.representation_size, self.head_bias)
        if self.heads == 'summed':
            return layers.Head(*sizes, name='head')(compressed + lookup)
        heads = Heads(*sizes, name='head')
        if self.heads == 'compressed':
            return heads(compressed=compressed)[0]
        logits = heads(compressed=compressed, lookup=lookup)
        if not self.is_initializing():  # Else `init` would return them beside the parameters.
            self.sow('head_logits', 'logits', logits)
        return logits.mean(axis=0)

    @nn.nowrap
    def check(self, input_shape: tuple[int, ...], grid: tuple[int, ...] | None = None) -> None:
        """Checks the fields, one example's shape without batch axis, and the compressed grid.

        Raises:
          UserError: a field has an unknown value, or sizes do not fit.
        """
        super().check(input_shape)
        if self.classifier != 'gap':
            raise UserError(
                f'classifier={self.classifier!r}: LookupViT has no class token, and takes the mean '
                'of each stream: use classifier="gap"'
            )
        fields.check_choice('reuse', self.reuse, ('logits', 'weights'))
        fields.check_choice('heads', self.heads, ('average', 'compressed', 'summed'))
        fields.check_choice(
            'compressed_positions', self.compressed_positions, ('resized', 'learned')
        )
        if round(self.lookup_mlp_ratio * self.width) < 1:
            raise UserError(
                f'lookup_mlp_ratio={self.lookup_mlp_ratio} leaves no units of width={self.width}'
            )
        grid, lookup_grid = tuple(grid or self.grid), self.lookup_grid(input_shape)
        fields.check_extents('grid', grid, lookup_grid)
        if any(size > most for size, most in zip(grid, lookup_grid.values(), strict=True)):
            raise UserError(
                f'grid={grid} exceeds the grid of the lookup tokens, {tuple(lookup_grid.values())}, '
                'which it should compress'
            )
        if self.compressed_positions == 'learned' and grid != tuple(self.grid):
            raise UserError(
                f'compressed_positions="learned" are those of grid={tuple(self.grid)}, not of {grid}: '
                'use compressed_positions="resized"'
            )


class LookupViT(LookupModel, ViT):
    """Image classifier; attributes are those of `LookupModel` and of `ViT`."""

    @nn.compact
    def __call__(
        self,
        image: Float[Array, 'batch *frame height width channels'],
        *,
        train: bool = False,
        grid: tuple[int, ...] | None = None,
        features: bool = False,
    ) -> Float[Array, 'batch classes'] | Float[Array, 'batch tokens dim']:
        """Logits (float32) of images with values in [-1, 1].

        Args:
          image: Images, or clips of a single frame.
          train: Whether dropout and stochastic depth are at work.
          grid: The compressed grid (height, width), None for the field's.
          features: The final compressed tokens instead.

        Raises:
          UserError: the image's size, the grid or the fields do not fit; see `check`.
        """
        grid = tuple(grid or self.grid)
        self.check(image.shape[1:], grid)
        streams = self.make_encoder(name='encoder')(self.embed(image), grid, train=train)
        return streams[0] if features else self.classify(streams)

    @nn.nowrap
    def lookup_grid(self, input_shape: tuple[int, ...]) -> dict[str, int]:
        """Name and size of each axis of the lookup tokens' grid."""
        *_, height, width, _ = input_shape
        return {'height': height // self.patch[0], 'width': width // self.patch[1]}


class LookupViViT(LookupModel, ViViT):
    """Video classifier; attributes are those of `LookupModel` and of `ViViT`, and below.

    Attributes:
      attention: 'factorised_encoder', taken to be the paper's: LookupViT encodes each frame, and an
        ordinary encoder, of `temporal_depth` layers, the sequence of their vectors. Or 'spacetime',
        another reading: LookupViT on all tubelets, compressed along time as well.
      temporal_input: A frame's vector in the factorised encoder: 'both', the average of the two
        streams' means, as the heads of an image are averaged, so that all parameters are trained; or
        the mean of the 'compressed' tokens, which are the ones that the paper hands on to other
        networks, and with which the last block's infusion and lookup MLP do nothing.
    """

    attention: str = 'factorised_encoder'
    temporal_input: str = 'both'

    @nn.compact
    def __call__(
        self,
        video: Float[Array, 'batch time height width channels'],
        *,
        train: bool = False,
        grid: tuple[int, ...] | None = None,
        features: bool = False,
    ) -> Float[Array, 'batch classes'] | Float[Array, 'batch tokens dim']:
        """Logits (float32) of videos with values in [-1, 1].

        Args:
          video: Clips.
          train: Whether dropout and stochastic depth are at work.
          grid: The compressed grid, (height, width) or (time, height, width); None for the field's.
          features: The final tokens instead: the compressed ones, or those of the temporal encoder.

        Raises:
          UserError: the video's shape, the grid or the fields do not fit; see `check`.
        """
        grid = tuple(grid or self.grid)
        self.check(video.shape[1:], grid)
        tokens = self.embed(video)
        if self.attention == 'spacetime':
            streams = self.make_encoder(name='encoder')(tokens, grid, train=train)
            return streams[0] if features else self.classify(streams)

        encoder = self.make_spatial_encoder()

        def spatial(
            frames: Float[Array, 'batch height width dim'], *, train: bool
        ) -> Float[Array, 'batch dim']:
            compressed, lookup = pool(encoder(frames, grid, train=train))
            return compressed if self.temporal_input == 'compressed' else (compressed + lookup) / 2

        encode = FactorisedEncoder(spatial, self.make_temporal_encoder())
        encoded = encode(tokens, train=train, pooled=not features)
        if features:
            return encoded
        head = layers.Head(self.num_classes, self.representation_size, self.head_bias, name='head')
        return head(encoded)

    @nn.nowrap
    def check(self, input_shape: tuple[int, ...], grid: tuple[int, ...] | None = None) -> None:
        """As in `LookupModel`, for a clip's shape (time, height, width, channels)."""
        fields.check_choice('attention', self.attention, ('factorised_encoder', 'spacetime'))
        fields.check_choice('temporal_input', self.temporal_input, ('compressed', 'both'))
        super().check(input_shape, grid)

    @nn.nowrap
    def lookup_grid(self, input_shape: tuple[int, ...]) -> dict[str, int]:
        """Name and size of each axis of the lookup tokens' grid, that of a frame if it is factorised."""
        sizes = dict(zip(('time', 'height', 'width'), self._token_grid(input_shape), strict=True))
        if self.attention == 'factorised_encoder':
            del sizes['time']
        return sizes
