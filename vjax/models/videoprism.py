"""VideoPrism: A Foundational Visual Encoder (Zhao et al., ICML 2024, arXiv 2402.13217).

ViViT's factorised encoder (section 3 there, Model 2 of arXiv 2103.15691) without its bottleneck: no class
token and no pooling stand between the two encoders, every place of the frames goes through the
temporal encoder by itself. The published models take clips of 16 (B) or 8 (L) frames of 288 pixels in
patches of 18, and have 4 temporal layers. What is unlike the other models here was read off the
published code and weights:

  GELU is exact; logits of attention are capped softly, cap * tanh(logits / cap) with a cap of 50;
  attention pooling, of the contrastive model, is one attention without an MLP, four times as wide as a
  token, whose queries have a learned scale for each dimension; it is followed by a LayerNorm.

Theirs take values in [0, 1]; this one takes [-1, 1] like all models here, which is another kernel and
bias of the embedding for the same function (see `vjax.weights.videoprism`).

In einops patterns: b batch, t time, h height, w width, n places (h * w), d width of a token.
"""

import functools
import math
from typing import Any

import einops
import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vjax.errors import UserError
from vjax.models import fields, layers
from vjax.models.scan import constrain_batch


class VideoPrism(nn.Module):
    """Video classifier.

    Attributes:
      num_classes: Number of logits.
      width, depth, num_heads, mlp_dim: Sizes; `variants.video` knows them: B, L and g are published.
        Depth is the spatial encoder's.
      tubelet: Time, height and width of a tubelet, in frames and pixels; theirs are (1, 18, 18).
      temporal_depth: Layers of the temporal encoder.
      auxiliary_depth: Layers in which all tokens attend to each other at the end. The contrastive
        (video-text) model has two.
      logit_cap: What the logits of attention stay below, softly, but for those of the pooling; 0 for no
        cap.
      classifier: 'map', the contrastive model's attention pooling and a LayerNorm, or 'gap', the
        tokens' mean.
      pool_width: Width of queries, keys and values of the pooling; 0 for four times that of a token.
      head_bias: What the logits' bias starts from.
      dropout, attention_dropout, stochastic_depth: Rates, when training; stochastic depth grows from 0
        in each encoder, and the draws are independent for each frame and for each place.
      positions, position_grid: Kind of position embeddings, and the grid (time, height, width) that
        they are made for where the clips have another; see `positions.PositionEmbedding`.
      remat, unroll, dtype, gelu, norm_epsilon: How it is computed; see `layers.Encoder`.
    """

    num_classes: int
    width: int
    depth: int
    num_heads: int
    mlp_dim: int
    tubelet: tuple[int, int, int]
    temporal_depth: int = 4
    auxiliary_depth: int = 0
    logit_cap: float = 50.0
    classifier: str = 'map'
    pool_width: int = 0
    head_bias: float = 0.0
    dropout: float = 0.0
    attention_dropout: float = 0.0
    stochastic_depth: float = 0.0
    positions: str = 'learned'
    position_grid: tuple[int, ...] = ()
    remat: str = 'none'
    unroll: bool = False
    dtype: str = 'float32'
    gelu: str = 'erf'
    norm_epsilon: float = 1e-6

    @nn.compact
    def __call__(
        self,
        video: Float[Array, 'batch time height width channels'],
        *,
        train: bool = False,
        features: bool = False,
    ) -> Float[Array, 'batch classes'] | Float[Array, 'batch tokens dim']:
        """Logits (float32) of videos with values in [-1, 1].

        With `features` the final tokens instead, of all places and times, time first. What 'map' pooling
        makes of them is sown as `embedding` [batch, dim]: divided by its length it is the vector that
        the contrastive model compares with a text's.

        Raises:
          UserError: the video's shape or the fields do not fit; see `check`.
        """
        self.check(video.shape[1:])
        batch = video.shape[0]
        tokens = layers.PatchEmbedding(self.width, self.tubelet, name='embedding')(video)

        frames = constrain_batch(einops.rearrange(tokens, 'b t h w d -> (b t) h w d'))
        encode = self.make_encoder(position_grid=self.position_grid[1:], name='spatial_encoder')
        frames = encode(frames, train=train, pooled=False)

        places = constrain_batch(einops.rearrange(frames, '(b t) n d -> (b n) t d', b=batch))
        encode = self.make_encoder(
            depth=self.temporal_depth,
            position_grid=self.position_grid[:1],
            name='temporal_encoder',
        )
        places = encode(places, train=train, pooled=False)
        tokens = constrain_batch(einops.rearrange(places, '(b n) t d -> b (t n) d', b=batch))

        if self.auxiliary_depth:
            blocks = self.make_encoder(Blocks, depth=self.auxiliary_depth, name='auxiliary_encoder')
            tokens = blocks(tokens, train=train)
        if features:
            return tokens
        if self.classifier == 'gap':
            head = layers.Head(self.num_classes, bias_init=self.head_bias, name='head')
            return head(tokens.mean(axis=1))
        head = PoolingHead(
            self.num_classes,
            bias_init=self.head_bias,
            num_heads=self.num_heads,
            pool_width=self.pool_width or 4 * self.width,
            norm_epsilon=self.norm_epsilon,
            name='head',
        )
        return head(tokens, train=train)

    def make_encoder(self, kind: type = layers.Encoder, **changes: Any) -> nn.Module:
        """From a grid of tokens to tokens; `changes` are fields unlike the model's."""
        attention = functools.partial(CappedAttention, cap=self.logit_cap)
        block = functools.partial(layers.EncoderBlock, attention=attention)
        same = {name: getattr(self, name) for name in layers.ENCODER_FIELDS}
        return kind(**same | {'classifier': 'gap', 'block': block} | changes)

    @nn.nowrap
    def check(self, input_shape: tuple[int, ...]) -> None:
        """Checks the fields and one clip's shape (time, height, width, channels); builds nothing.

        Raises:
          UserError: a field has an unknown value, or sizes do not divide as they must.
        """
        fields.check_transformer(self, classifiers=('map', 'gap'))
        fields.check_positive(self, ('temporal_depth',))
        fields.check_extents('tubelet', self.tubelet, ('time', 'height', 'width'))
        fields.check_positions(self, ('time', 'height', 'width'), ranks=(2, 1))
        fields.check_not_negative(self, ('auxiliary_depth', 'logit_cap', 'pool_width'))
        if self.pool_width % self.num_heads:
            raise UserError(
                f'num_heads={self.num_heads} does not divide pool_width={self.pool_width}'
            )
        fields.check_clip(input_shape, 'tubelet', self.tubelet)

    @nn.nowrap
    def token_grid(self, input_shape: tuple[int, ...]) -> tuple[int, int, int]:
        """Tubelets of one clip (time, height, width, channels) along time, height and width."""
        self.check(input_shape)
        return tuple(
            size // extent for size, extent in zip(input_shape[:3], self.tubelet, strict=True)
        )

    @nn.nowrap
    def num_tokens(self, input_shape: tuple[int, ...]) -> int:
        """Number of tubelets in one clip (time, height, width, channels)."""
        return math.prod(self.token_grid(input_shape))


class CappedAttention(layers.Attention):
    """Attention whose logits do not leave (-cap, cap), and are near themselves when far from it.

    Attributes:
      cap: 0 for none.
    """

    cap: float = 0.0

    def scores(
        self,
        query: Float[Array, 'batch queries heads head_dim'],
        key: Float[Array, 'batch keys heads head_dim'],
    ) -> Float[Array, 'batch heads queries keys']:
        """Scaled dot products behind a tanh, float32."""
        scores = super().scores(query, key)
        return self.cap * jnp.tanh(scores / self.cap) if self.cap else scores


class ScaledAttention(layers.Attention):
    """Attention whose queries have a learned scale for each dimension of a head.

    It is softplus(parameter) / softplus(0): one for a parameter of zero.
    """

    def scores(
        self,
        query: Float[Array, 'batch queries heads head_dim'],
        key: Float[Array, 'batch keys heads head_dim'],
    ) -> Float[Array, 'batch heads queries keys']:
        """Scaled dot products, float32."""
        scale = self.param('per_dim_scale', nn.initializers.zeros, query.shape[-1:])
        scale = jax.nn.softplus(scale) / math.log(2)
        scale = jnp.broadcast_to(scale.astype(query.dtype), query.shape)
        return super().scores(query * scale, key)


class Blocks(layers.Encoder):
    """The blocks of an encoder alone: no positions, no norm."""

    @nn.compact
    def __call__(
        self, tokens: Float[Array, 'batch tokens dim'], *, train: bool
    ) -> Float[Array, 'batch tokens dim']:
        tokens = self.run_blocks(tokens, tokens.shape[1:-1], train)
        self.sow('intermediates', 'tokens', tokens)
        return tokens


class Pooling(nn.Module):
    """The contrastive model's attention pooling: one learned query over all tokens, then a LayerNorm."""

    num_heads: int
    pool_width: int
    norm_epsilon: float = 1e-6

    @nn.compact
    def __call__(
        self, tokens: Float[Array, 'batch tokens dim'], *, train: bool
    ) -> Float[Array, 'batch dim']:
        batch, _, width = tokens.shape
        probe = self.param('probe', layers.xavier, (1, 1, width))
        probe = jnp.broadcast_to(probe, (batch, 1, width))
        attend = ScaledAttention(self.num_heads, qkv_width=self.pool_width, name='attention')
        pooled = attend(probe, tokens, train=train)[:, 0]
        return layers.LayerNorm(epsilon=self.norm_epsilon, name='norm')(pooled)


class PoolingHead(layers.Head):
    """`Pooling`, then a linear classifier; both are new wherever the encoders alone were published.

    Attributes:
      num_heads, pool_width, norm_epsilon: See `VideoPrism`.
    """

    num_heads: int = 1
    pool_width: int = 0
    norm_epsilon: float = 1e-6

    @nn.compact
    def __call__(
        self, tokens: Float[Array, 'batch tokens dim'], *, train: bool
    ) -> Float[Array, 'batch classes']:
        pool = Pooling(self.num_heads, self.pool_width, self.norm_epsilon, name='pool')
        pooled = pool(tokens, train=train)
        self.sow('intermediates', 'embedding', pooled)
        return super().__call__(pooled)
