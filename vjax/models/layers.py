"""The parts that vision transformers share, after ViT (Dosovitskiy et al., arXiv 2010.11929).

Numerics, which published checkpoints rely on: pre-norm blocks, LayerNorm with epsilon 1e-6 and GELU
in its tanh approximation where a model does not say otherwise. Parameters, the residual stream, the
norms' statistics and the softmax are float32 whatever the `dtype` that the blocks compute in, so
logits come out float32.

Randomness when training comes from the `dropout` rng, which is needed only where a rate is not 0.
Attention weights and final tokens are sown in the `intermediates` collection: they cost nothing
unless a caller asks with `apply(..., mutable='intermediates')`, and scanned blocks stack them on a
leading depth axis.

In einsum subscripts: b batch, q queries, m keys, h heads, k width of a head, d width of a token.
"""

import functools
from collections.abc import Callable
from typing import Any

import einops
import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vjax.models import blockwise, headwise
from vjax.models.positions import PositionEmbedding
from vjax.models.products import dot_general, einsum_float32
from vjax.models.scan import drop_rates, keep, scan_blocks

LayerNorm = functools.partial(nn.LayerNorm, epsilon=1e-6)
GELUS = {'tanh': nn.gelu, 'erf': functools.partial(nn.gelu, approximate=False)}
xavier = nn.initializers.xavier_uniform()


class PatchEmbedding(nn.Module):
    """Linear embedding of non-overlapping patches: (height, width) or (time, height, width).

    Equal to a convolution whose stride is its kernel size, and written as the matrix product that
    it is: XLA's 3-D convolutions are several times slower to differentiate on a CPU.

    Attributes:
      width: Width of a token.
      patch: Size of a patch along each axis between batch and channels.
      kernel_init: Initialiser of the kernel [*patch, channels, width].
    """

    width: int
    patch: tuple[int, ...]
    kernel_init: Callable = nn.initializers.lecun_normal()

    @nn.compact
    def __call__(self, x: Float[Array, 'batch *size channels']) -> Float[Array, 'batch *grid dim']:
        channels = x.shape[-1]
        kernel = self.param('kernel', self.kernel_init, (*self.patch, channels, self.width))
        bias = self.param('bias', nn.initializers.zeros, (self.width,))
        *sizes, last = self.patch
        axes = ' '.join(f'(n{i} p{i})' for i in range(len(self.patch)))
        grid = ' '.join(f'n{i}' for i in range(len(self.patch)))
        within = ' '.join(f'p{i}' for i in range(len(self.patch)))
        sizes = {f'p{i}': size for i, size in enumerate((*sizes, last * channels))}

        @jax.checkpoint  # The kernel's gradient comes last: until then pixels take less room than patches.
        def embed(x, kernel):
            # Rows of pixels with their channels: a TPU stores an axis of three channels as one of 128.
            x = einops.rearrange(x, 'b ... w c -> b ... (w c)')
            patches = einops.rearrange(x, f'b {axes} -> b {grid} ({within})', **sizes)
            # As they are: a TPU else transposes them for the kernel's gradient, in tiles of padding.
            patches = jax.lax.optimization_barrier(patches)
            return patches @ kernel.reshape(-1, self.width)

        tokens = embed(x, kernel)
        return tokens + jnp.broadcast_to(bias, tokens.shape)


class MLP(nn.Module):
    """Two dense layers with a GELU between them, from width D to `mlp_dim` and back.

    The second one's width is `out_width` instead of D unless that is 0. The GELU is in its 'tanh'
    approximation or exact, 'erf'.
    """

    mlp_dim: int
    dropout: float = 0.0
    dtype: str = 'float32'
    out_width: int = 0
    gelu: str = 'tanh'

    @nn.compact
    def __call__(
        self, x: Float[Array, 'batch tokens dim'], *, train: bool
    ) -> Float[Array, 'batch tokens newdim']:
        dense = functools.partial(
            nn.Dense,
            kernel_init=xavier,
            bias_init=nn.initializers.normal(1e-6),
            dtype=self.dtype,
            dot_general=dot_general,
        )
        hidden = GELUS[self.gelu](keep(dense(self.mlp_dim, name='up')(x)))
        hidden = nn.Dropout(self.dropout)(hidden, deterministic=not train)
        x = keep(dense(self.out_width or x.shape[-1], name='down')(hidden))
        return nn.Dropout(self.dropout)(x, deterministic=not train)


class Attention(nn.Module):
    """Multi-head attention of queries over a context (Vaswani et al., arXiv 1706.03762).

    Kernels are [dim, heads, head_dim], and [heads, head_dim, dim] for the output. The weights
    [batch, heads, queries, keys] are sown as `attention`.

    Attributes:
      num_heads: Number of heads; divides the width.
      dropout: Rate of dropout on the attention weights.
      dtype: What the products are computed in; the softmax is always float32.
      qkv_width: Width of queries, keys and values over all heads; 0 for that of the queries' tokens.
      out_init: Initialiser of the output's kernel.
    """

    num_heads: int
    dropout: float = 0.0
    dtype: str = 'float32'
    qkv_width: int = 0
    out_init: Callable = xavier

    @nn.compact
    def __call__(
        self,
        queries: Float[Array, 'batch queries dim'],
        context: Float[Array, 'batch keys dim_context'],
        *,
        train: bool,
    ) -> Float[Array, 'batch queries dim']:
        query, key, value = self.project(queries, context)
        return self.merge(self.attend(query, key, value, train), queries.shape[-1])

    def project(
        self,
        queries: Float[Array, 'batch queries dim'],
        context: Float[Array, 'batch keys dim_context'],
    ) -> tuple[
        Float[Array, 'batch queries heads head_dim'],
        Float[Array, 'batch keys heads head_dim'],
        Float[Array, 'batch keys heads head_dim'],
    ]:
        """Query, key and value of every head."""
        heads = (self.num_heads, (self.qkv_width or queries.shape[-1]) // self.num_heads)
        dense = functools.partial(
            nn.DenseGeneral, heads, kernel_init=xavier, dtype=self.dtype, dot_general=dot_general
        )
        query, key = dense(name='query')(queries), dense(name='key')(context)
        return keep(query), keep(key), keep(dense(name='value')(context))

    def merge(
        self, attended: Float[Array, 'batch queries heads head_dim'], width: int
    ) -> Float[Array, 'batch queries {width}']:
        """The heads' results as one token of the given width."""
        out = nn.DenseGeneral(
            width,
            axis=(-2, -1),
            kernel_init=self.out_init,
            dtype=self.dtype,
            dot_general=dot_general,
            name='out',
        )
        return keep(out(attended))

    def attend(
        self,
        query: Float[Array, 'batch queries heads head_dim'],
        key: Float[Array, 'batch keys heads head_dim'],
        value: Float[Array, 'batch keys heads head_dim'],
        train: bool,
    ) -> Float[Array, 'batch queries heads head_dim']:
        """Which tokens attend to which: here all to all. Restricted forms override this."""
        return self.dot_product(query, key, value, train, name='attention')

    def dot_product(
        self,
        query: Float[Array, 'batch queries heads head_dim'],
        key: Float[Array, 'batch keys heads head_dim'],
        value: Float[Array, 'batch keys heads head_dim'],
        train: bool,
        name: str,
    ) -> Float[Array, 'batch queries heads head_dim']:
        """Scaled dot-product attention whose weights are sown under `name`."""
        weights_are_wanted = self.is_mutable_collection('intermediates') or (train and self.dropout)
        in_parts = type(self).scores is Attention.scores and not weights_are_wanted
        if in_parts and blockwise.pays(key):
            # Kept in this layout, too, which the gradient of `merge` wants.
            return keep(blockwise.attention(query, key, value))
        if in_parts and headwise.pays(query, key):
            return headwise.attention(query, key, value)
        return self.mix(self.scores(query, key), value, train, name)

    def scores(
        self,
        query: Float[Array, 'batch queries heads head_dim'],
        key: Float[Array, 'batch keys heads head_dim'],
    ) -> Float[Array, 'batch heads queries keys']:
        """Scaled dot products, float32: the weights' logits."""
        query = query / jnp.sqrt(query.shape[-1]).astype(query.dtype)
        return einsum_float32('bqhk,bmhk->bhqm', query, key)

    def mix(
        self,
        scores: Float[Array, 'batch heads queries keys'],
        value: Float[Array, 'batch keys heads head_dim'],
        train: bool,
        name: str,
    ) -> Float[Array, 'batch queries heads head_dim']:
        """Values weighted by the softmax of the scores, which is sown under `name`."""
        weights = jax.nn.softmax(scores).astype(value.dtype)
        self.sow('intermediates', name, weights)
        weights = nn.Dropout(self.dropout)(weights, deterministic=not train)
        return keep(jnp.einsum('bhqm,bmhk->bqhk', weights, value))


class DropPath(nn.Module):
    """Stochastic depth: drops a residual branch for whole examples (Huang et al., arXiv 1603.09382).

    A kept branch is divided by the probability of keeping it, so that its expectation is the branch
    itself, as in timm and Scenic's ViT. (Scenic's ViViT does not rescale, hence computes something
    else at test time than it was trained for.)
    """

    @nn.compact
    def __call__(
        self, branch: Float[Array, 'batch *rest'], rate: Float[Array, ''] | None, *, train: bool
    ) -> Float[Array, 'batch *rest']:
        if rate is None or not train:
            return branch
        keep = 1 - rate
        kept = jax.random.bernoulli(
            self.make_rng('dropout'), keep, (branch.shape[0],) + (1,) * (branch.ndim - 1)
        )
        return jnp.where(kept, branch / keep.astype(branch.dtype), jnp.zeros_like(branch))


class EncoderBlock(nn.Module):
    """Pre-norm transformer block: attention, then MLP, each added to what it was given.

    Attributes:
      num_heads, mlp_dim: Sizes.
      dropout, attention_dropout: Rates, when training.
      dtype: What the branches are computed in.
      gelu, norm_epsilon: See `Encoder`.
      attention: Makes the attention module; `Attention` or one with its signature.
    """

    num_heads: int
    mlp_dim: int
    dropout: float = 0.0
    attention_dropout: float = 0.0
    dtype: str = 'float32'
    gelu: str = 'tanh'
    norm_epsilon: float = 1e-6
    attention: Callable[..., nn.Module] = Attention

    @nn.compact
    def __call__(
        self,
        x: Float[Array, 'batch tokens dim'],
        drop_rate: Float[Array, ''] | None,
        *,
        train: bool,
    ) -> Float[Array, 'batch tokens dim']:
        norm = functools.partial(LayerNorm, epsilon=self.norm_epsilon, dtype=self.dtype)
        y = norm(name='attention_norm')(x)
        y = self.attention(
            num_heads=self.num_heads,
            dropout=self.attention_dropout,
            dtype=self.dtype,
            name='attention',
        )(y, y, train=train)
        y = nn.Dropout(self.dropout)(y, deterministic=not train)
        x = x + DropPath()(y, drop_rate, train=train)

        y = norm(name='mlp_norm')(x)
        mlp = MLP(self.mlp_dim, self.dropout, self.dtype, gelu=self.gelu, name='mlp')
        y = mlp(y, train=train)
        return x + DropPath()(y, drop_rate, train=train)


class AttentionPooling(nn.Module):
    """One learned query attends to all tokens (Zhai et al., arXiv 2106.04560, 'MAP head')."""

    num_heads: int
    mlp_dim: int
    gelu: str = 'tanh'
    norm_epsilon: float = 1e-6

    @nn.compact
    def __call__(
        self, tokens: Float[Array, 'batch tokens dim'], *, train: bool
    ) -> Float[Array, 'batch dim']:
        batch, _, width = tokens.shape
        probe = self.param('probe', xavier, (1, 1, width))
        probe = jnp.broadcast_to(probe, (batch, 1, width))
        x = Attention(self.num_heads, name='attention')(probe, tokens, train=train)
        y = LayerNorm(epsilon=self.norm_epsilon, name='mlp_norm')(x)
        x = x + MLP(self.mlp_dim, gelu=self.gelu, name='mlp')(y, train=train)
        return x[:, 0]


class Encoder(nn.Module):
    """A transformer from a grid of embedded patches to one vector (ViT, section 3.1).

    Works on a grid of any rank: height x width for images, time for a temporal encoder, time x
    height x width for videos. Tokens are the grid's cells in row-major order, behind the class token
    if there is one. The blocks are scanned: one trace and one compilation whatever the depth, and
    their parameters carry a leading depth axis. The final tokens are sown as `tokens`.

    Attributes:
      depth, num_heads, mlp_dim: Sizes; the width is the features'.
      classifier: What stands for the whole: 'token' (a class token), 'gap' (the mean of the tokens)
        or 'map' (attention pooling).
      dropout: Rate after the position embedding, after attention, and in the MLPs.
      attention_dropout: Rate on attention weights.
      stochastic_depth: Rate of dropping a branch of the last block; rates grow linearly from 0, that of
        the first (or only) one.
      remat: What the backward pass computes again: 'none', 'dots' (all but matmuls), 'offload' (the
        same, and matmuls' results wait in the host's memory) or 'full'.
      unroll: All blocks one behind the other in the program instead of a loop: on TPUs a faster step
        (`experiments/throughput`) for a compilation that grows with the depth.
      dtype: What the blocks compute in: 'float32' or 'bfloat16'.
      gelu: 'tanh', the approximation that all published JAX models were trained with, or 'erf', exact.
      norm_epsilon: What every LayerNorm adds to the variance.
      positions, position_grid: See `positions.PositionEmbedding`.
      block: Makes the repeated block; `EncoderBlock` or one with its fields and signature.
    """

    depth: int
    num_heads: int
    mlp_dim: int
    classifier: str = 'token'
    dropout: float = 0.0
    attention_dropout: float = 0.0
    stochastic_depth: float = 0.0
    remat: str = 'none'
    unroll: bool = False
    dtype: str = 'float32'
    gelu: str = 'tanh'
    norm_epsilon: float = 1e-6
    positions: str = 'learned'
    position_grid: tuple[int, ...] = ()
    block: Callable[..., nn.Module] = EncoderBlock

    @nn.compact
    def __call__(
        self, features: Float[Array, 'batch *grid dim'], *, train: bool, pooled: bool = True
    ) -> Float[Array, 'batch dim'] | Float[Array, 'batch tokens dim']:
        """The vector, or all final tokens unless `pooled`, the class token first where there is one."""
        grid = features.shape[1:-1]
        x = einops.rearrange(features, 'b ... d -> b (...) d')
        batch, _, width = x.shape
        num_class_tokens = int(self.classifier == 'token')
        if num_class_tokens:
            token = self.param('class_token', nn.initializers.zeros, (1, 1, width))
            x = jnp.concatenate([jnp.broadcast_to(token, (batch, 1, width)), x], axis=1)
        positions = PositionEmbedding(self.positions, self.position_grid, name='position_embedding')
        x = x + positions(grid, width, extra=num_class_tokens)
        x = nn.Dropout(self.dropout)(x, deterministic=not train)
        x = self.run_blocks(x, grid, train)
        x = LayerNorm(epsilon=self.norm_epsilon, name='norm')(x)
        self.sow('intermediates', 'tokens', x)

        if not pooled:
            return x
        if self.classifier == 'token':
            return x[:, 0]
        if self.classifier == 'map':
            pool = AttentionPooling(
                self.num_heads, self.mlp_dim, self.gelu, self.norm_epsilon, name='pool'
            )
            return pool(x, train=train)
        return x.mean(axis=1)

    def run_blocks(
        self, x: Float[Array, 'batch tokens dim'], grid: tuple[int, ...], train: bool
    ) -> Float[Array, 'batch newtokens dim']:
        """Applies the blocks; `grid` is the tokens', without the class token."""
        del grid
        return self.scan(self.make_block('blocks'), x, train)

    def make_block(
        self, name: str | None, block: Callable[..., nn.Module] | None = None
    ) -> nn.Module:
        """The repeated block, or another one, made from this encoder's sizes and rates."""
        return (block or self.block)(
            num_heads=self.num_heads,
            mlp_dim=self.mlp_dim,
            dropout=self.dropout,
            attention_dropout=self.attention_dropout,
            dtype=self.dtype,
            gelu=self.gelu,
            norm_epsilon=self.norm_epsilon,
            name=name,
        )

    def scan(
        self, block: nn.Module, x: Any, train: bool, start: int = 0, stop: int | None = None
    ) -> Any:
        """Applies `block` for the layers from `start` to before `stop` of this encoder."""
        rates = drop_rates(self.stochastic_depth, self.depth)[start:stop]
        return scan_blocks(block, x, rates, train=train, remat=self.remat, unroll=self.unroll)


# What a model hands on to each of its encoders.
ENCODER_FIELDS = (
    'depth',
    'num_heads',
    'mlp_dim',
    'classifier',
    'dropout',
    'attention_dropout',
    'stochastic_depth',
    'remat',
    'unroll',
    'dtype',
    'gelu',
    'norm_epsilon',
    'positions',
    'position_grid',
)


class Head(nn.Module):
    """Linear classifier, behind a tanh layer of `representation_size` units unless that is 0.

    Its kernel starts at zero: a head that was never trained or loaded gives uniform predictions.
    `bias_init` is what its bias starts from; -10 suits a sigmoid loss over many classes.
    """

    num_classes: int
    representation_size: int = 0
    bias_init: float = 0.0

    @nn.compact
    def __call__(self, x: Float[Array, 'batch dim']) -> Float[Array, 'batch classes']:
        if self.representation_size:
            x = nn.tanh(nn.Dense(self.representation_size, name='pre_logits')(x))
        return nn.Dense(
            self.num_classes,
            kernel_init=nn.initializers.zeros,
            bias_init=nn.initializers.constant(self.bias_init),
            name='logits',
        )(x)
