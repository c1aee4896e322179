"""TokenLearner: a few learned tokens per image or frame (Ryoo et al., NeurIPS 2021, arXiv 2106.11297).

Somewhere in a vision transformer the tokens of a frame, hundreds of them, are replaced by 8 or 16:
each a sum over the frame, weighted by a map that is computed from the frame itself (TokenLearner).
The layers behind it then cost next to nothing. A TokenFuser can spread what such a layer computed
over the frame again, so that every layer may choose tokens of its own:

                  TokenLearner alone                with TokenFuser
  layer < at      x = block(x)                      x = block(x)
  layer = at      x = block(TokenLearner(x))        x = x + TokenFuser(block(TokenLearner(x)), x)
  layer > at      x = block(x)                      x = x + TokenFuser(block(TokenLearner(x)), x)

In a video TokenLearner and TokenFuser work on every frame by itself, and the block between them sees
the learned tokens of all frames. 'Frame' here is an index of time after embedding.

In einops patterns: b batch, t time, h height, w width, s space (h * w), n learned tokens of a frame,
d width of a token.
"""

import functools
from collections.abc import Callable
from typing import Any

import einops
import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vjax.errors import UserError
from vjax.models import fields, layers
from vjax.models.scan import constrain_batch, keep
from vjax.models.vit import ViT
from vjax.models.vivit import FACTORISED_BLOCKS, ViViT

VERSIONS = ('1.0', '1.1')
POOLINGS = ('sum', 'mean')


class TokenLearner(nn.Module):
    """Sums of features over space, each weighted by a map made from the features (section 2.1).

    The maps come from normalised features, the tokens from the features as they are. Maps and tokens
    are float32; the maps [batch, num, height, width] are sown as `token_maps`.

    Attributes:
      num: Number of tokens.
      version: How the maps are made: '1.0', four 3 x 3 convolutions and a sigmoid, as in the paper's
        experiments; or '1.1', an MLP on each place and a softmax over space, which the authors later
        found to work better. The latter is blind to where a feature is.
      pooling: 'sum' or 'mean' over space, with version '1.0'; version '1.1' is a weighted mean.
      bottleneck: Width of the hidden layer of version '1.1'.
      dropout: Rate in that MLP, when training.
      dtype: What convolutions and MLP compute in.
      gelu, norm_epsilon: See `layers.Encoder`.
    """

    num: int
    version: str = '1.1'
    pooling: str = 'sum'
    bottleneck: int = 64
    dropout: float = 0.0
    dtype: str = 'float32'
    gelu: str = 'tanh'
    norm_epsilon: float = 1e-6

    @nn.compact
    def __call__(
        self, features: Float[Array, 'batch height width dim'], *, train: bool
    ) -> Float[Array, 'batch num dim']:
        height = features.shape[1]
        y = layers.LayerNorm(epsilon=self.norm_epsilon, dtype=self.dtype, name='norm')(features)
        features = einops.rearrange(features, 'b h w d -> b (h w) d')
        if self.version == '1.0':
            for i in range(4):
                y = layers.GELUS[self.gelu](y) if i else y
                y = nn.Conv(
                    self.num, (3, 3), use_bias=False, dtype=self.dtype, name=f'convolution_{i}'
                )(y)
            maps = jax.nn.sigmoid(einops.rearrange(y, 'b h w n -> b n (h w)').astype(jnp.float32))
        else:
            y = einops.rearrange(y, 'b h w d -> b (h w) d')
            sizes = self.bottleneck, self.dropout, self.dtype, self.num
            y = layers.MLP(*sizes, gelu=self.gelu, name='scores')(y, train=train)
            maps = jax.nn.softmax(einops.rearrange(y, 'b s n -> b n s').astype(jnp.float32))
        self.sow('intermediates', 'token_maps', _as_maps(maps, height))
        tokens = keep(jnp.einsum('bns,bsd->bnd', maps, features))
        return tokens / maps.shape[-1] if self.pooling == 'mean' else tokens


class TokenFuser(nn.Module):
    """Learned tokens, mixed with each other and spread over space again (section 2.2).

    The caller adds the result to the features. It is zero at first, because the kernel that mixes
    starts at zero: a layer with a TokenFuser starts as the identity. The maps that say which token
    goes where [batch, num, height, width] are sown as `fusion_maps`.

    Attributes:
      bottleneck: Width of the hidden layer of the MLP that makes the maps.
      dropout: Rate in that MLP and on the result, when training.
      dtype: What it computes in.
      gelu, norm_epsilon: See `layers.Encoder`.
    """

    bottleneck: int = 64
    dropout: float = 0.0
    dtype: str = 'float32'
    gelu: str = 'tanh'
    norm_epsilon: float = 1e-6

    @nn.compact
    def __call__(
        self,
        tokens: Float[Array, 'batch num dim'],
        features: Float[Array, 'batch height width dim'],
        *,
        train: bool,
    ) -> Float[Array, 'batch height width dim']:
        norm = functools.partial(layers.LayerNorm, epsilon=self.norm_epsilon, dtype=self.dtype)
        num, height = tokens.shape[1], features.shape[1]
        tokens = einops.rearrange(norm(name='token_norm')(tokens), 'b n d -> b d n')
        mix = nn.Dense(num, kernel_init=nn.initializers.zeros, dtype=self.dtype, name='mix')
        tokens = norm(name='mix_norm')(einops.rearrange(mix(tokens), 'b d n -> b n d'))

        y = einops.rearrange(norm(name='feature_norm')(features), 'b h w d -> b (h w) d')
        sizes = self.bottleneck, self.dropout, self.dtype, num
        y = layers.MLP(*sizes, gelu=self.gelu, name='scores')(y, train=train)
        maps = jax.nn.sigmoid(einops.rearrange(y, 'b s n -> b n s'))
        self.sow('intermediates', 'fusion_maps', _as_maps(maps, height))
        fused = jnp.einsum('bns,bnd->bsd', maps, tokens)
        fused = nn.Dropout(self.dropout)(fused, deterministic=not train)
        return einops.rearrange(fused, 'b (h w) d -> b h w d', h=height)


def _as_maps(maps: Float[Array, 'batch num space'], height: int) -> Float[Array, 'batch num h w']:
    """Maps as images."""
    return einops.rearrange(maps, 'b n (h w) -> b n h w', h=height)


def split_frames(
    x: Float[Array, 'batch tokens dim'], grid: tuple[int, ...]
) -> Float[Array, 'frames height width dim']:
    """Tokens of a grid (height, width) or (time, height, width) as one grid for each frame."""
    *_, height, width = grid
    x = einops.rearrange(x, 'b (t h w) d -> (b t) h w d', h=height, w=width)
    return constrain_batch(x)


def join_frames(
    x: Float[Array, 'frames *space dim'], batch: int
) -> Float[Array, '{batch} tokens dim']:
    """The frames of each of `batch` examples as one sequence of tokens."""
    return constrain_batch(einops.rearrange(x, '(b t) ... d -> b (t ...) d', b=batch))


class FusedBlock(layers.EncoderBlock, kw_only=True):
    """x + TokenFuser(block(TokenLearner(x)), x): a block that works on learned tokens.

    Attributes:
      num_heads, mlp_dim, dropout, attention_dropout, dtype, gelu, norm_epsilon, attention: As in
        `layers.EncoderBlock`.
      grid: The tokens' grid, (height, width) or (time, height, width).
      learner, fuser: Make the TokenLearner and the TokenFuser.
    """

    grid: tuple[int, ...]
    learner: Callable[..., nn.Module]
    fuser: Callable[..., nn.Module]

    @nn.compact
    def __call__(
        self,
        x: Float[Array, 'batch tokens dim'],
        drop_rate: Float[Array, ''] | None,
        *,
        train: bool,
    ) -> Float[Array, 'batch tokens dim']:
        batch = x.shape[0]
        frames = split_frames(x, self.grid)
        tokens = self.learner(name='token_learner')(frames, train=train)
        tokens = join_frames(tokens, batch)
        tokens = super().__call__(tokens, drop_rate, train=train)
        tokens = constrain_batch(
            einops.rearrange(tokens, 'b (t n) d -> (b t) n d', t=frames.shape[0] // batch)
        )
        fused = self.fuser(name='token_fuser')(tokens, frames, train=train)
        return x + join_frames(fused, batch)


class TokenLearnerEncoder(layers.Encoder):
    """A transformer whose later layers work on learned tokens; see the top of this file.

    Its grid is (height, width), or (time, height, width) for attention between frames. The layers up
    to TokenLearner are one scan, those from it on another.

    Attributes:
      learned_tokens, location, version, fuser, bottleneck, pooling: See `LearnerModel`.
    """

    learned_tokens: int = 16
    location: int = -1
    version: str = '1.1'
    fuser: bool = False
    bottleneck: int = 64
    pooling: str = 'sum'

    def run_blocks(
        self, x: Float[Array, 'batch tokens dim'], grid: tuple[int, ...], train: bool
    ) -> Float[Array, 'batch newtokens dim']:
        """Applies the blocks and, between or within them, TokenLearner."""
        location = learner_layer(self)
        names = ('bottleneck', 'dropout', 'dtype', 'gelu', 'norm_epsilon')
        options = {name: getattr(self, name) for name in names}
        learner = functools.partial(
            TokenLearner, self.learned_tokens, self.version, self.pooling, **options
        )
        x = self.scan(self.make_block('blocks'), x, train, stop=location)
        if self.fuser:
            fuser = functools.partial(TokenFuser, **options)
            block = functools.partial(FusedBlock, grid=grid, learner=learner, fuser=fuser)
            return self.scan(self.make_block('fused_blocks', block), x, train, start=location)
        batch = x.shape[0]
        x = learner(name='token_learner')(split_frames(x, grid), train=train)
        x = join_frames(x, batch)
        return self.scan(self.make_block('later_blocks'), x, train, start=location)


class LearnerModel(nn.Module):
    """What TokenLearnerViT and TokenLearnerViViT have beyond the ViT and the ViViT that they are.

    Attributes:
      classifier: 'gap' or 'map': there is no class token.
      learned_tokens: Number of tokens that TokenLearner makes of a frame.
      location: The layer, counted from 0, that TokenLearner stands before; with `fuser` the first of
        those that have one. -1 stands for three quarters of the depth, as in Scenic's configuration
        (9 of 12); half the depth, which the paper uses as well, saves about half of all compute.
      version, pooling: See `TokenLearner`.
      fuser: Whether a TokenFuser follows every layer from `location` on.
      bottleneck: Width of the hidden layers that make maps, in TokenLearner and TokenFuser.
    """

    classifier: str = 'gap'
    learned_tokens: int = 16
    location: int = -1
    version: str = '1.1'
    fuser: bool = False
    bottleneck: int = 64
    pooling: str = 'sum'

    def make_encoder(self, **changes: Any) -> nn.Module:
        """From a grid of tokens to one vector; see `ViT.make_encoder`."""
        own = {name: getattr(self, name) for name in LEARNER_FIELDS}
        return TokenLearnerEncoder(**self.encoder_fields() | own | changes)

    @nn.nowrap
    def check(self, input_shape: tuple[int, ...]) -> None:
        """Checks the fields and one example's shape without its batch axis.

        Raises:
          UserError: a field has an unknown value, there is a class token, or sizes do not fit.
        """
        super().check(input_shape)
        if self.classifier == 'token':
            raise UserError(
                'classifier="token" does not go with TokenLearner, which keeps no class token: use '
                '"gap" or "map"'
            )
        if self.version not in VERSIONS:
            raise UserError(f'version={self.version!r} is not one of the strings "1.0" and "1.1"')
        fields.check_choice('pooling', self.pooling, POOLINGS)
        if self.pooling != 'sum' and self.version != '1.0':
            raise UserError(
                f'pooling={self.pooling!r} needs version="1.0": "1.1" is a weighted mean'
            )
        fields.check_positive(self, ('learned_tokens', 'bottleneck'))
        if not -1 <= self.location < self.depth:
            raise UserError(
                f'location={self.location} is not one of the layers 0 to {self.depth - 1}, nor -1 for '
                'three quarters of the depth'
            )


class TokenLearnerViT(LearnerModel, ViT):
    """Image classifier: a ViT whose later layers work on learned tokens.

    Attributes are those of `LearnerModel` and of `ViT`; `dropout` is TokenLearner's and TokenFuser's
    too. Stochastic depth concerns the branches of blocks. (Scenic's TokenLearner has none.)
    """


class TokenLearnerViViT(LearnerModel, ViViT):
    """Video classifier: a ViViT whose later layers work on the learned tokens of every frame.

    In Model 1, 'spacetime', they attend to each other across frames. In Model 2,
    'factorised_encoder', and 'average_pool', TokenLearner is in the encoder of frames, which takes no
    notice of time, and `location` is a layer of it; the temporal encoder is as before. Attributes are
    those of `LearnerModel` and of `ViViT`.
    """

    @nn.nowrap
    def check(self, input_shape: tuple[int, ...]) -> None:
        """As in `LearnerModel`, for a clip's shape (time, height, width, channels)."""
        super().check(input_shape)
        if self.attention in FACTORISED_BLOCKS:
            raise UserError(
                f'attention={self.attention!r} needs every token of every frame, which TokenLearner '
                'replaces: use "spacetime", "factorised_encoder" or "average_pool"'
            )


LEARNER_FIELDS = ('learned_tokens', 'location', 'version', 'fuser', 'bottleneck', 'pooling')


def learner_layer(model: Any) -> int:
    """The layer that TokenLearner stands before, in a model or encoder of this file."""
    return model.depth * 3 // 4 if model.location == -1 else model.location
