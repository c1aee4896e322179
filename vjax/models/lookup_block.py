"""LookupViT's block (Koner et al., ECCV 2024, arXiv 2407.12753), and the attention its streams share.

In einsum subscripts: b batch, m compressed, n lookup, h heads, k width of a head.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vjax.models import layers
from vjax.models.scan import keep

# Compressed tokens first, in every pair.
Streams = tuple[Float[Array, 'batch compressed dim'], Float[Array, 'batch lookup dim']]


class Gather(layers.Attention):
    """Information gathering, MHBC l -> p: compressed tokens attend to lookup tokens.

    Returns the logits beside the result: infusion reads them too. The weights [batch, heads,
    compressed, lookup] are sown as `gather`.

    Attributes:
      qk_norm: Whether LayerNorm is applied to the queries and keys of each head.
      norm_epsilon: That norm's; see `layers.Encoder`.
    """

    qk_norm: bool = False
    norm_epsilon: float = 1e-6

    @nn.compact
    def __call__(
        self,
        compressed: Float[Array, 'batch compressed dim'],
        lookup: Float[Array, 'batch lookup dim'],
        *,
        train: bool,
    ) -> tuple[Float[Array, 'batch compressed dim'], Float[Array, 'batch heads compressed lookup']]:
        query, key, value = self.project(compressed, lookup)
        if self.qk_norm:
            norm = functools.partial(layers.LayerNorm, epsilon=self.norm_epsilon, dtype=self.dtype)
            query, key = norm(name='query_norm')(query), norm(name='key_norm')(key)
        scores = self.scores(query, key)
        gathered = self.mix(scores, value, train, name='gather')
        return self.merge(gathered, compressed.shape[-1]), scores


class Infuse(layers.Attention):
    """Global context infusion, MHBC p -> l: lookup tokens take from compressed tokens.

    With the transposed attention of `Gather`, hence without queries and keys of its own. The weights
    [batch, heads, compressed, lookup] are sown as `infuse`.

    Attributes:
      reuse, projection: See `LookupModel`, the latter as `infusion_projection`.
    """

    reuse: str = 'logits'
    projection: bool = True

    @nn.compact
    def __call__(
        self,
        compressed: Float[Array, 'batch compressed dim'],
        scores: Float[Array, 'batch heads compressed lookup'],
        *,
        train: bool,
    ) -> Float[Array, 'batch lookup dim']:
        width = compressed.shape[-1]
        heads = (self.num_heads, width // self.num_heads)
        value = nn.DenseGeneral(heads, kernel_init=layers.xavier, dtype=self.dtype, name='value')
        weights = jax.nn.softmax(scores, axis=2 if self.reuse == 'logits' else 3)
        weights = weights.astype(self.dtype)
        self.sow('intermediates', 'infuse', weights)
        weights = nn.Dropout(self.dropout)(weights, deterministic=not train)
        infused = jnp.einsum('bhmn,bmhk->bnhk', weights, keep(value(compressed)))
        if not self.projection:
            return infused.reshape(*infused.shape[:2], width)
        return self.merge(keep(infused), width)


class LookupBlock(nn.Module):
    """LookupViT's block: gather, refine, infuse, and a cheap MLP for the lookup tokens.

    Attributes:
      num_heads, mlp_dim, dropout, attention_dropout, dtype, gelu, norm_epsilon: As in
        `layers.EncoderBlock`.
      reuse, qk_norm, lookup_norm, lookup_mlp_ratio, infusion_projection: See `LookupModel`.
    """

    num_heads: int
    mlp_dim: int
    dropout: float = 0.0
    attention_dropout: float = 0.0
    dtype: str = 'float32'
    gelu: str = 'tanh'
    norm_epsilon: float = 1e-6
    reuse: str = 'logits'
    qk_norm: bool = False
    lookup_norm: bool = False
    lookup_mlp_ratio: float = 0.5
    infusion_projection: bool = True

    @nn.compact
    def __call__(
        self, streams: Streams, drop_rate: Float[Array, ''] | None, *, train: bool
    ) -> Streams:
        compressed, lookup = streams
        norm = functools.partial(layers.LayerNorm, epsilon=self.norm_epsilon, dtype=self.dtype)
        attention = self.num_heads, self.attention_dropout, self.dtype

        # Information gathering.
        gather = Gather(
            *attention, qk_norm=self.qk_norm, norm_epsilon=self.norm_epsilon, name='gather'
        )
        y, scores = gather(
            norm(name='gather_compressed_norm')(compressed),
            norm(name='gather_lookup_norm')(lookup),
            train=train,
        )
        y = nn.Dropout(self.dropout)(y, deterministic=not train)
        compressed = compressed + layers.DropPath()(y, drop_rate, train=train)

        # Representation refinement.
        refine = layers.EncoderBlock(
            self.num_heads,
            self.mlp_dim,
            self.dropout,
            self.attention_dropout,
            self.dtype,
            self.gelu,
            self.norm_epsilon,
            name='refine',
        )
        compressed = refine(compressed, drop_rate, train=train)

        # Global context infusion.
        infuse = Infuse(
            *attention, reuse=self.reuse, projection=self.infusion_projection, name='infuse'
        )
        y = infuse(norm(name='infuse_norm')(compressed), scores, train=train)
        y = nn.Dropout(self.dropout)(y, deterministic=not train)
        lookup = lookup + layers.DropPath()(y, drop_rate, train=train)
        if self.lookup_norm:
            lookup = layers.LayerNorm(epsilon=self.norm_epsilon, name='infused_norm')(lookup)

        hidden = round(self.lookup_mlp_ratio * lookup.shape[-1])
        y = norm(name='lookup_mlp_norm')(lookup)
        mlp = layers.MLP(hidden, self.dropout, self.dtype, gelu=self.gelu, name='lookup_mlp')
        y = mlp(y, train=train)
        return compressed, lookup + layers.DropPath()(y, drop_rate, train=train)
