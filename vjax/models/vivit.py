"""ViViT: A Video Vision Transformer (Arnab et al., ICCV 2021, arXiv 2103.15691).

A video becomes tokens (section 3.2), which one of four models relates over space and time (section
3.3); a linear head classifies the result:

  Model 1  spacetime                    every token attends to every token
  Model 2  factorised_encoder           each frame through a spatial encoder, then a temporal one
  Model 3  factorised_self_attention    each block attends over time, then over space
  Model 4  factorised_dot_product       half the heads attend over time, half over space
  Tab. 2   average_pool                 Model 2 with a mean over frames for the temporal encoder

Here 'frame' in Models 2-4 is an index of time after embedding: `tubelet[0]` frames of the video.

In einops patterns: b batch, t time, h height, w width, s space (h * w), n heads, k width of a head,
d width of a token.
"""

import functools
from collections.abc import Callable
from typing import Any

import einops
import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vjax.errors import UserError
from vjax.models import fields, layers
from vjax.models.scan import constrain_batch, frames_apart

FACTORISED_BLOCKS = ('factorised_self_attention', 'factorised_dot_product')
ATTENTIONS = ('spacetime', 'factorised_encoder', *FACTORISED_BLOCKS, 'average_pool')


class ViViT(nn.Module):
    """Video classifier.

    Attributes:
      num_classes: Number of logits.
      width, depth, num_heads, mlp_dim: Sizes; `variants.video` knows the papers'. Model 2's spatial
        encoder has them, and its temporal encoder the same width.
      tubelet: Time, height and width of a tubelet, in frames and pixels.
      attention: How tokens are related; see the top of this file.
      temporal_depth, temporal_num_heads, temporal_mlp_dim: Sizes of Model 2's temporal encoder;
        0 heads or MLP width means as in the spatial encoder.
      attention_order: Which comes first in a block of Model 3: 'time_space' or 'space_time'.
      classifier: 'token' (a class token), 'gap' (mean of the tokens) or 'map' (attention pooling), in
        both encoders of Model 2. Models 3 and 4 have no place for a class token.
      embedding: 'tubelet' or 'uniform_frames' (section 3.2): `num_sampled_frames` frames, evenly
        spaced, each cut into patches; the tubelet is then (1, height, width).
      tubelet_init: How the embedding's kernel starts (section 3.4): 'random', 'central_frame' (a
        frame's kernel amid zeros) or 'average_frame' (one kernel repeated over time).
      representation_size: Width of the tanh layer before the classifier, 0 for none.
      head_bias: What the logits' bias starts from.
      dropout, attention_dropout, stochastic_depth: Rates, when training. In Model 2 the draws are
        independent for each frame, and stochastic depth grows from 0 in either encoder. Every
        branch of Model 3 is dropped independently. (Scenic shares a video's draws among its frames,
        and its Model 3 ignores stochastic depth.)
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
    attention: str = 'spacetime'
    temporal_depth: int = 4
    temporal_num_heads: int = 0
    temporal_mlp_dim: int = 0
    attention_order: str = 'time_space'
    classifier: str = 'token'
    embedding: str = 'tubelet'
    num_sampled_frames: int = 0
    tubelet_init: str = 'random'
    representation_size: int = 0
    head_bias: float = 0.0
    dropout: float = 0.0
    attention_dropout: float = 0.0
    stochastic_depth: float = 0.0
    positions: str = 'learned'
    position_grid: tuple[int, ...] = ()
    remat: str = 'none'
    unroll: bool = False
    dtype: str = 'float32'
    gelu: str = 'tanh'
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

        With `features` the final tokens instead: those of the last encoder, which Model 2 has for each
        index of time and `average_pool` takes the mean of.

        Raises:
          UserError: the video's shape or the fields do not fit; see `check`.
        """
        self.check(video.shape[1:])
        tokens = self.embed(video)

        # Section 3.3: transformer models for video.
        time = tokens.shape[1]
        match self.attention:
            case 'spacetime':  # 3.3.1, Model 1
                encode = self.make_encoder(name='encoder')
            case 'factorised_encoder':  # 3.3.2, Model 2
                encode = FactorisedEncoder(
                    self.make_spatial_encoder(), self.make_temporal_encoder()
                )
            case 'factorised_self_attention':  # 3.3.3, Model 3
                block = functools.partial(
                    FactorisedSelfAttentionBlock, time=time, order=self.attention_order
                )
                encode = self.make_encoder(block=block, name='encoder')
            case 'factorised_dot_product':  # 3.3.4, Model 4
                attention = functools.partial(FactorisedDotProductAttention, time=time)
                block = functools.partial(layers.EncoderBlock, attention=attention)
                encode = self.make_encoder(block=block, name='encoder')
            case 'average_pool':  # Tab. 2
                encode = FactorisedEncoder(self.make_spatial_encoder(), mean_over_time)
        encoded = encode(tokens, train=train, pooled=not features)
        if features:
            return encoded
        head = layers.Head(self.num_classes, self.representation_size, self.head_bias, name='head')
        return head(encoded)

    def embed(
        self, video: Float[Array, 'batch time height width channels']
    ) -> Float[Array, 'batch frames rows columns dim']:
        """Section 3.2, embedding video clips: the grid of embedded tubelets."""
        if self.embedding == 'uniform_frames':
            video = video[:, uniform_frames(video.shape[1], self.num_sampled_frames)]
        return layers.PatchEmbedding(
            self.width, self.tubelet, TUBELET_INITIALIZERS[self.tubelet_init], name='embedding'
        )(video)

    def make_encoder(self, **changes: Any) -> nn.Module:
        """From a grid of tokens to one vector; `changes` are fields unlike the model's.

        A model with another kind of encoder for frames, and for tokens of all frames, overrides this.
        """
        return layers.Encoder(**self.encoder_fields() | changes)

    def make_spatial_encoder(self) -> nn.Module:
        """Model 2's encoder of frames."""
        return self.make_encoder(position_grid=self.position_grid[1:], name='spatial_encoder')

    def make_temporal_encoder(self) -> nn.Module:
        """Model 2's encoder of the sequence of frames' vectors."""
        changes = {
            'depth': self.temporal_depth,
            'num_heads': self.temporal_num_heads or self.num_heads,
            'mlp_dim': self.temporal_mlp_dim or self.mlp_dim,
            'position_grid': self.position_grid[:1],
        }
        return layers.Encoder(**self.encoder_fields() | changes, name='temporal_encoder')

    @nn.nowrap
    def encoder_fields(self) -> dict[str, Any]:
        """The fields of `layers.Encoder` that are fields of this model too."""
        return {name: getattr(self, name) for name in layers.ENCODER_FIELDS}

    @nn.nowrap
    def check(self, input_shape: tuple[int, ...]) -> None:
        """Checks the fields and one clip's shape (time, height, width, channels); builds nothing.

        Scenic drops frames and pixels that do not fill a tubelet; here they are an error.

        Raises:
          UserError: a field has an unknown value, or sizes do not divide as they must.
        """
        fields.check_choice('attention', self.attention, ATTENTIONS)
        fields.check_transformer(self, classifiers=('token', 'gap', 'map'))
        of_zero = ('temporal_num_heads', 'temporal_mlp_dim', 'representation_size')
        fields.check_not_negative(self, of_zero)
        fields.check_extents('tubelet', self.tubelet, ('time', 'height', 'width'))
        ranks = {'factorised_encoder': (2, 1), 'average_pool': (2,)}.get(self.attention, (3,))
        fields.check_positions(self, ('time', 'height', 'width'), ranks)
        if self.attention == 'factorised_encoder' and self.temporal_depth < 1:
            raise UserError(
                f'temporal_depth={self.temporal_depth}: without a temporal encoder it is '
                'attention="average_pool"'
            )
        fields.check_choice('embedding', self.embedding, ('tubelet', 'uniform_frames'))
        fields.check_choice('tubelet_init', self.tubelet_init, TUBELET_INITIALIZERS)
        fields.check_choice('attention_order', self.attention_order, ('time_space', 'space_time'))
        if self.classifier == 'token' and self.attention in FACTORISED_BLOCKS:
            raise UserError(
                f'attention={self.attention!r} has no class token: use classifier="gap"'
            )
        if self.attention == 'factorised_dot_product' and self.num_heads % 2:
            raise UserError(
                f'num_heads={self.num_heads} is odd, but factorised_dot_product gives one half of '
                'the heads to time and the other to space'
            )
        if self.width % (self.temporal_num_heads or self.num_heads):
            raise UserError(
                f'temporal_num_heads={self.temporal_num_heads} does not divide width={self.width}'
            )
        if self.tubelet_init == 'average_frame' and self.tubelet[0] == 1:
            raise UserError('tubelet_init="average_frame" needs a tubelet of more than one frame')
        if self.embedding == 'uniform_frames' and self.num_sampled_frames < 1:
            raise UserError('embedding="uniform_frames" needs num_sampled_frames of at least 1')
        if self.embedding == 'uniform_frames' and self.tubelet[0] != 1:
            raise UserError(
                f'embedding="uniform_frames" takes single frames: tubelet={tuple(self.tubelet)} '
                f'must be {(1, *self.tubelet[1:])}'
            )
        fields.check_clip(input_shape, 'tubelet', self.tubelet)

    @nn.nowrap
    def token_grid(self, input_shape: tuple[int, ...]) -> tuple[int, int, int]:
        """Tubelets of one clip (time, height, width, channels) along time, height and width."""
        self.check(input_shape)
        return self._token_grid(input_shape)

    @nn.nowrap
    def _token_grid(self, input_shape: tuple[int, ...]) -> tuple[int, int, int]:
        num_frames, height, width, _ = input_shape
        if self.embedding == 'uniform_frames':
            num_frames = len(uniform_frames(num_frames, self.num_sampled_frames))
        return tuple(
            size // extent
            for size, extent in zip((num_frames, height, width), self.tubelet, strict=True)
        )

    @nn.nowrap
    def num_tokens(self, input_shape: tuple[int, ...]) -> int:
        """Number of tubelets in one clip (time, height, width, channels); no class token counted."""
        return int(np.prod(self.token_grid(input_shape)))


def uniform_frames(num_frames: int, num_sampled: int) -> np.ndarray:
    """Indices of evenly spaced frames (section 3.2): k * num_frames / (num_sampled + 1), rounded.

    All frames when no fewer than `num_sampled` exist. The indices are Scenic's, including what looks
    like an accident: where floating point lets `arange` reach its end, as for 2 frames out of 8, 16
    or 32, one more frame comes out, the last.
    """
    if num_sampled >= num_frames:
        return np.arange(num_frames)
    step = num_frames / (num_sampled + 1)
    positions = np.arange(step, num_frames, step, dtype=np.float32)
    return np.minimum(np.round(positions), num_frames - 1).astype(np.int32)


def _random(key, shape, dtype=jnp.float32):
    return nn.initializers.lecun_normal()(key, shape, dtype)


def _central_frame(key, shape, dtype=jnp.float32):
    """Section 3.4: a single frame's kernel at the centre of time, zeros elsewhere."""
    central = jnp.arange(shape[0]) == shape[0] // 2
    return _random(key, shape, dtype) * central.reshape(-1, *(1,) * (len(shape) - 1))


def _average_frame(key, shape, dtype=jnp.float32):
    """Section 3.4, filter inflation: one kernel, repeated over time (fan-in already counts time)."""
    return jnp.broadcast_to(_random(key, shape, dtype)[:1], shape)


TUBELET_INITIALIZERS = {
    'random': _random,
    'central_frame': _central_frame,
    'average_frame': _average_frame,
}


class FactorisedEncoder(nn.Module):
    """Model 2 (section 3.3.2): every frame through one encoder, their vectors through another.

    Attributes:
      spatial: Any image encoder: Float['batch height width dim'] -> Float['batch dim'].
      temporal: Any sequence encoder: Float['batch time dim'] -> Float['batch dim'], or to all its tokens
        unless `pooled`. Both take a keyword `train`; their parameters stay those of the module that
        made them.
    """

    spatial: Callable
    temporal: Callable

    @nn.compact
    def __call__(
        self,
        tokens: Float[Array, 'batch time height width dim'],
        *,
        train: bool,
        pooled: bool = True,
    ) -> Float[Array, 'batch dim'] | Float[Array, 'batch tokens dim']:
        batch = tokens.shape[0]
        with frames_apart():
            frames = constrain_batch(einops.rearrange(tokens, 'b t h w d -> (b t) h w d'))
            frames = constrain_batch(self.spatial(frames, train=train))
        frames = constrain_batch(einops.rearrange(frames, '(b t) d -> b t d', b=batch))
        return self.temporal(frames, train=train, pooled=pooled)


def mean_over_time(
    frames: Float[Array, 'batch time dim'], *, train: bool, pooled: bool = True
) -> Float[Array, 'batch dim'] | Float[Array, 'batch time dim']:
    """The temporal 'encoder' of the average-pool baseline (Tab. 2)."""
    del train
    return frames.mean(axis=1) if pooled else frames


class FactorisedSelfAttentionBlock(nn.Module):
    """Model 3's block (section 3.3.3): attention within each place, within each frame, then an MLP.

    Attributes:
      num_heads, mlp_dim, dropout, attention_dropout, dtype, gelu, norm_epsilon: As in
        `layers.EncoderBlock`.
      time: Number of frames in the tokens.
      order: 'time_space' or 'space_time'.
    """

    num_heads: int
    mlp_dim: int
    time: int
    order: str
    dropout: float = 0.0
    attention_dropout: float = 0.0
    dtype: str = 'float32'
    gelu: str = 'tanh'
    norm_epsilon: float = 1e-6

    @nn.compact
    def __call__(
        self,
        x: Float[Array, 'batch tokens dim'],
        drop_rate: Float[Array, ''] | None,
        *,
        train: bool,
    ) -> Float[Array, 'batch tokens dim']:
        batch = x.shape[0]
        norm = functools.partial(layers.LayerNorm, epsilon=self.norm_epsilon, dtype=self.dtype)
        for axis in self.order.split('_'):
            apart = '(b s) t d' if axis == 'time' else '(b t) s d'
            y = norm(name=f'{axis}_norm')(x)
            y = constrain_batch(einops.rearrange(y, f'b (t s) d -> {apart}', t=self.time))
            y = layers.Attention(
                self.num_heads, self.attention_dropout, self.dtype, name=f'{axis}_attention'
            )(y, y, train=train)
            y = einops.rearrange(y, f'{apart} -> b (t s) d', b=batch, t=self.time)
            y = nn.Dropout(self.dropout)(constrain_batch(y), deterministic=not train)
            x = x + layers.DropPath()(y, drop_rate, train=train)

        y = norm(name='mlp_norm')(x)
        mlp = layers.MLP(self.mlp_dim, self.dropout, self.dtype, gelu=self.gelu, name='mlp')
        y = mlp(y, train=train)
        return x + layers.DropPath()(y, drop_rate, train=train)


class FactorisedDotProductAttention(layers.Attention):
    """Model 4's attention (section 3.3.4): the first half of the heads sees one place at all times.

    The second half sees one frame in all places. Parameters are those of ordinary attention. The
    weights are sown as `attention_time` and `attention_space`.

    Attributes:
      time: Number of frames in the tokens.
    """

    time: int = 1

    def attend(
        self,
        query: Float[Array, 'batch tokens heads head_dim'],
        key: Float[Array, 'batch tokens heads head_dim'],
        value: Float[Array, 'batch tokens heads head_dim'],
        train: bool,
    ) -> Float[Array, 'batch tokens heads head_dim']:
        halves = zip(*(jnp.split(x, 2, axis=2) for x in (query, key, value)), strict=True)
        attended = []
        for axis, apart, half in zip(
            ('time', 'space'), ('(b s) t n k', '(b t) s n k'), halves, strict=True
        ):
            qkv = (
                constrain_batch(einops.rearrange(x, f'b (t s) n k -> {apart}', t=self.time))
                for x in half
            )
            y = self.dot_product(*qkv, train, name=f'attention_{axis}')
            y = einops.rearrange(y, f'{apart} -> b (t s) n k', b=query.shape[0], t=self.time)
            attended.append(constrain_batch(y))
        return jnp.concatenate(attended, axis=2)
