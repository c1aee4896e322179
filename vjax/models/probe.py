"""Attentive probe: what a frozen encoder's tokens tell, read by a small transformer.

The protocol of V-JEPA 2 (Assran et al., arXiv 2506.09985, section 5 and its appendix on evaluation): the
encoder keeps its parameters, and a head of four blocks is trained on its tokens. Three are ordinary
transformer blocks; in the fourth a learned query attends to all tokens; a linear classifier reads it.
With `depth=1` it is the query alone, the protocol of V-JEPA (Bardes et al., arXiv 2404.08471).
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vjax.errors import UserError
from vjax.models import fields, layers
from vjax.models.scan import constrain_batch, drop_rates, scan_blocks


class QueryAttention(layers.Attention):
    """Attention whose heads' results are concatenated, without a projection after them.

    So it is in the published probe; an MLP comes next.
    """

    def merge(
        self, attended: Float[Array, 'batch queries heads head_dim'], width: int
    ) -> Float[Array, 'batch queries {width}']:
        """The heads' results as one token of the given width."""
        return attended.reshape(*attended.shape[:2], width)


class QueryBlock(nn.Module):
    """A learned query attends to the normalised tokens, then an MLP, each added to what it was given.

    Attributes:
      num_heads, mlp_dim: Sizes.
      dropout, attention_dropout: Rates, when training.
      dtype, gelu, norm_epsilon: See `layers.EncoderBlock`.
    """

    num_heads: int
    mlp_dim: int
    dropout: float = 0.0
    attention_dropout: float = 0.0
    dtype: str = 'float32'
    gelu: str = 'tanh'
    norm_epsilon: float = 1e-6

    @nn.compact
    def __call__(
        self, tokens: Float[Array, 'batch tokens dim'], *, train: bool
    ) -> Float[Array, 'batch dim']:
        batch, _, width = tokens.shape
        query = self.param('query', nn.initializers.truncated_normal(0.02), (1, 1, width))
        x = jnp.broadcast_to(query, (batch, 1, width))

        y = layers.LayerNorm(epsilon=self.norm_epsilon, dtype=self.dtype, name='attention_norm')(
            tokens
        )
        attention = QueryAttention(
            self.num_heads, self.attention_dropout, self.dtype, name='attention'
        )
        y = attention(x, y, train=train)
        x = x + nn.Dropout(self.dropout)(y, deterministic=not train)

        y = layers.LayerNorm(epsilon=self.norm_epsilon, dtype=self.dtype, name='mlp_norm')(x)
        mlp = layers.MLP(self.mlp_dim, self.dropout, self.dtype, gelu=self.gelu, name='mlp')
        return (x + mlp(y, train=train))[:, 0]


class AttentiveProbe(nn.Module):
    """Classifier of a frozen encoder's final tokens.

    No gradient reaches the encoder, and it computes what it does in evaluation, without dropout and
    stochastic depth, when the probe is trained, too. Its parameters are those under `encoder/`: freeze
    them in the optimiser (`freeze=('encoder/.*',)`), so that nothing is kept for them nor decays them.

    Attributes:
      num_classes: Number of logits.
      encoder: A model of this package; its classifier is not built, so its `num_classes` has no
        meaning.
      num_heads, mlp_dim: Sizes of the head's blocks, whose width is the encoder's.
      depth: Blocks of the head, the query's among them.
      head_bias: What the logits' bias starts from.
      dropout, attention_dropout: Rates in the head, when training.
      stochastic_depth: Rate of the last of its self-attention blocks; rates grow linearly from 0, that
        of the first (or only) one.
      remat, unroll, dtype, gelu, norm_epsilon: How the head is computed; see `layers.Encoder`. How the
        encoder is, its own fields say.
    """

    num_classes: int
    encoder: Any
    num_heads: int
    mlp_dim: int
    depth: int = 4
    head_bias: float = 0.0
    dropout: float = 0.0
    attention_dropout: float = 0.0
    stochastic_depth: float = 0.0
    remat: str = 'none'
    unroll: bool = False
    dtype: str = 'float32'
    gelu: str = 'tanh'
    norm_epsilon: float = 1e-6

    @nn.compact
    def __call__(
        self,
        video: Float[Array, 'batch *size channels'],
        *,
        train: bool = False,
        features: bool = False,
    ) -> Float[Array, 'batch classes'] | Float[Array, 'batch tokens dim']:
        """Logits (float32) of what the encoder takes, with values in [-1, 1].

        With `features` the tokens instead that the query attends to.

        Raises:
          UserError: the input's shape or the fields do not fit; see `check`.
        """
        self._check_fields()
        tokens = jax.lax.stop_gradient(self.encoder(video, train=False, features=True))
        self._check_width(tokens.shape[-1])
        block = self.make_block(layers.EncoderBlock, 'blocks')
        rates = drop_rates(self.stochastic_depth, self.depth - 1)
        tokens = scan_blocks(
            block, tokens, rates, train=train, remat=self.remat, unroll=self.unroll
        )
        if features:
            return tokens
        pooled = self.make_block(QueryBlock, 'pool')(constrain_batch(tokens), train=train)
        return layers.Head(self.num_classes, bias_init=self.head_bias, name='head')(pooled)

    def make_block(self, block: Callable[..., nn.Module], name: str) -> nn.Module:
        """A block of the head's sizes and rates."""
        return block(
            num_heads=self.num_heads,
            mlp_dim=self.mlp_dim,
            dropout=self.dropout,
            attention_dropout=self.attention_dropout,
            dtype=self.dtype,
            gelu=self.gelu,
            norm_epsilon=self.norm_epsilon,
            name=name,
        )

    @nn.nowrap
    def check(self, input_shape: tuple[int, ...]) -> None:
        """Checks the fields, the encoder's too, and one example's shape; allocates nothing.

        Raises:
          UserError: a field has an unknown value, or sizes do not divide as they must.
        """
        self._check_fields()
        self.encoder.check(input_shape)
        tokens, _ = jax.eval_shape(
            lambda video: self.encoder.init_with_output(jax.random.key(0), video, features=True),
            jax.ShapeDtypeStruct((1, *input_shape), jnp.float32),
        )
        self._check_width(tokens.shape[-1])

    @nn.nowrap
    def num_tokens(self, input_shape: tuple[int, ...]) -> int:
        """The encoder's."""
        return self.encoder.num_tokens(input_shape)

    @nn.nowrap
    def _check_fields(self) -> None:
        if not isinstance(self.encoder, nn.Module):
            raise UserError(
                f'encoder={self.encoder!r} is no model: give its name and fields, as for a model of '
                'its own'
            )
        fields.check_positive(self, ('num_classes', 'depth', 'num_heads', 'mlp_dim'))
        fields.check_computation(self)

    @nn.nowrap
    def _check_width(self, width: int) -> None:
        if width % self.num_heads:
            raise UserError(
                f"num_heads={self.num_heads} does not divide {width}, the width of the encoder's tokens"
            )
