"""MTV: Multiview Transformers for Video Recognition (Yan et al., CVPR 2022, arXiv 2201.04288).

A view is the whole clip cut into tubelets of one size: long ones give few tokens, for a small
transformer, short ones many, for a large one. In order (section 3):

  tokens          every view embeds its tubelets, with a class token for each index of time
  encoders        a transformer for every view, applied to each slice of time by itself
  fusion          at some layers views exchange what they found: by attention to their neighbours
                  (`cross_view_attention`) or by tokens that travel through all (`bottleneck`)
  global encoder  the views' vectors of each index of time, merged, through a last transformer

A slice is an index of time of the view with the longest tubelets. Views with shorter ones have
several indices in it, whose tokens lie one after the other and attend to each other.

In einops patterns: b batch, t time or slices, f indices of time in a slice, h height, w width, n
tokens of an index of time, d width of a token.
"""

import functools
from collections.abc import Sequence
from typing import Any

import einops
import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vjax.errors import UserError
from vjax.models import fields, layers
from vjax.models.mtv_view import TimeTokens, View
from vjax.models.scan import REMAT_POLICIES, constrain_batch, drop_rates
from vjax.models.vivit import TUBELET_INITIALIZERS

FUSIONS = ('cross_view_attention', 'bottleneck', 'none')
COLUMNS = ('widths', 'depths', 'num_heads', 'mlp_dims', 'tubelets')


class MTV(nn.Module):
    """Video classifier.

    The fields from `widths` to `tubelets` have an entry for each view, as `variants.views` gives them:
    from the longest tubelets to the shortest. There may be one view, which has nothing to fuse.

    Attributes:
      num_classes: Number of logits.
      widths, depths, num_heads, mlp_dims, tubelets: Sizes of the views' transformers, and time, height
        and width of their tubelets, in frames and pixels.
      fusion: 'cross_view_attention', 'bottleneck' or 'none'; see the top of this file.
      fusion_layers: The layers, counted from 0, before whose blocks views attend to each other, or
        through whose blocks the bottleneck travels. A view without that many layers still takes part
        in attention; the bottleneck passes it over.
      cross_view_width: Whose width and number of heads cross-view attention has: that of the 'query'
        or of the 'key'. Published checkpoints have the first; the paper's GFLOPs are of the second.
      fuse_in_descending_order: View i attends to view i + 1, and the bottleneck visits the last view
        first: from short tubelets to long ones. Otherwise the other way round.
      bottleneck_tokens: How many tokens travel in each slice of time.
      merge: How the views' vectors [batch, time, width] are joined: 'channel' repeats each of them
        over the time of the longest, one whole pass after the other, and concatenates widths; 'time'
        projects them to `global_width` and concatenates times, for clips of one length only.
      global_depth, global_num_heads, global_mlp_dim, global_width: Sizes of the global encoder;
        `global_width` is 0 unless views are merged over time.
      tubelet_init: How the embeddings' kernels start; see `vivit.ViViT`.
      classifier: 'token' (class tokens), 'gap' (means of the tokens) in the views and after them, or
        'map' (means in the views, attention pooling after them).
      head_bias: What the logits' bias starts from.
      dropout, attention_dropout, stochastic_depth: Rates, when training. Draws are independent for
        each slice of time. Stochastic depth grows from 0 in each view and in the global encoder; in
        cross-view attention it is that of the query's layer, or of its last. (Scenic shares a video's
        draws among its slices, and takes the key's rate, which grows on behind the key's last layer.)
      positions, position_grid: Kind of position embeddings, and the grids (time, height, width), one
        for each view, that they and the tokens of an index of time are made for where the clips have
        others; see `positions.PositionEmbedding`.
      remat, unroll, dtype, gelu, norm_epsilon: How it is computed; see `layers.Encoder`.
    """

    num_classes: int
    widths: tuple[int, ...]
    depths: tuple[int, ...]
    num_heads: tuple[int, ...]
    mlp_dims: tuple[int, ...]
    tubelets: tuple[tuple[int, int, int], ...]
    fusion: str = 'cross_view_attention'
    fusion_layers: tuple[int, ...] = (5, 11)
    cross_view_width: str = 'query'
    fuse_in_descending_order: bool = True
    bottleneck_tokens: int = 4
    merge: str = 'channel'
    global_depth: int = 12
    global_num_heads: int = 8
    global_mlp_dim: int = 3072
    global_width: int = 0
    tubelet_init: str = 'central_frame'
    classifier: str = 'token'
    head_bias: float = 0.0
    dropout: float = 0.0
    attention_dropout: float = 0.0
    stochastic_depth: float = 0.0
    positions: str = 'learned'
    position_grid: tuple[tuple[int, int, int], ...] = ()
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

        With `features` the global encoder's final tokens instead.

        Raises:
          UserError: the video's shape or the fields do not fit; see `check`.
        """
        self.check(video.shape[1:])
        batch, num_frames = video.shape[:2]
        times = [num_frames // tubelet[0] for tubelet in self.tubelets]
        fused = self.fused_layers()

        views = [self.make_view(i) for i in range(len(self.widths))]
        tokens = [view.embed(video, min(times)) for view in views]
        if fused and self.fusion == 'bottleneck':
            bottleneck = self.make_bottleneck(batch, min(times))
        for start in sorted({start for view in views for start, _ in view.stretches}):
            if start in fused and self.fusion == 'bottleneck':
                tokens, bottleneck = self.run_with_bottleneck(
                    views, tokens, bottleneck, start, train
                )
            else:
                if start in fused:
                    tokens = self.attend_across_views(tokens, start, train)
                tokens = [view.run(x, start, train) for view, x in zip(views, tokens, strict=True)]

        vectors = [
            view.summarise(x, batch, time)
            for view, x, time in zip(views, tokens, times, strict=True)
        ]
        merged = constrain_batch(self.merge_views(vectors))
        encode = self.make_global_encoder(merged.shape[1])
        encoded = encode(merged, train=train, pooled=not features)
        if features:
            return encoded
        return layers.Head(self.num_classes, bias_init=self.head_bias, name='head')(encoded)

    def make_view(self, i: int) -> 'View':
        """The tokeniser and transformer of the i-th view."""
        return View(
            **self.shared_fields(),
            width=self.widths[i],
            depth=self.depths[i],
            num_heads=self.num_heads[i],
            mlp_dim=self.mlp_dims[i],
            tubelet=self.tubelets[i],
            tubelet_init=self.tubelet_init,
            stretches=self.stretches(i),
            position_grid=self.position_grid[i] if self.position_grid else (),
            name=f'view_{i}',
        )

    def make_global_encoder(self, time: int) -> nn.Module:
        """From the merged vectors of every index of time to one vector."""
        if self.merge == 'channel':
            time = max((grid[0] for grid in self.position_grid), default=0)
        return layers.Encoder(
            **self.shared_fields(),
            depth=self.global_depth,
            num_heads=self.global_num_heads,
            mlp_dim=self.global_mlp_dim,
            position_grid=(time,) if time else (),  # Times side by side are not resized as one.
            name='global_encoder',
        )

    def attend_across_views(
        self, tokens: list[Float[Array, 'slices _ _']], layer: int, train: bool
    ) -> list[Float[Array, 'slices _ _']]:
        """Cross-view attention before the blocks of `layer`."""
        attention = CrossViewAttention(
            num_heads=self.num_heads,
            width=self.cross_view_width,
            descending=self.fuse_in_descending_order,
            dropout=self.dropout,
            attention_dropout=self.attention_dropout,
            dtype=self.dtype,
            norm_epsilon=self.norm_epsilon,
            name=f'fusion_{layer}',
        )

        def apply(attention, tokens):
            rates = [jnp.asarray(rate) if rate else None for rate in self.fusion_rates(layer)]
            return attention(tokens, rates, train=train)

        if self.remat != 'none':
            apply = nn.remat(apply, policy=REMAT_POLICIES[self.remat])
        return apply(attention, tokens)

    def make_bottleneck(self, batch: int, slices: int) -> Float[Array, 'slices tokens dim']:
        """The tokens that are to travel, in the width of the view that they visit first."""
        width = self.widths[-1 if self.fuse_in_descending_order else 0]
        length = min((grid[0] for grid in self.position_grid), default=0)
        init = nn.initializers.normal(0.02)
        tokens = TimeTokens(self.bottleneck_tokens, width, init, length, name='bottleneck')(slices)
        return constrain_batch(einops.repeat(tokens, '1 t n d -> (b t) n d', b=batch))

    def run_with_bottleneck(
        self,
        views: list[nn.Module],
        tokens: list[Float[Array, 'slices _ _']],
        bottleneck: Float[Array, 'slices travelling dim'],
        layer: int,
        train: bool,
    ) -> tuple[list[Float[Array, 'slices _ _']], Float[Array, 'slices travelling newdim']]:
        """The blocks of `layer`, one view after the other, with the bottleneck among its tokens."""
        tokens = list(tokens)
        order = range(len(views))
        for i in reversed(order) if self.fuse_in_descending_order else order:
            if layer >= self.depths[i]:
                continue
            if bottleneck.shape[-1] != self.widths[i]:
                dense = nn.Dense(
                    self.widths[i], kernel_init=layers.xavier, name=f'fusion_{layer}_to_view_{i}'
                )
                bottleneck = dense(bottleneck)
            x = jnp.concatenate([tokens[i], bottleneck], axis=1)
            x = views[i].run(x, layer, train)
            tokens[i], bottleneck = jnp.split(x, [tokens[i].shape[1]], axis=1)
        return tokens, bottleneck

    def merge_views(
        self, vectors: list[Float[Array, 'batch _ _']]
    ) -> Float[Array, 'batch time dim']:
        """One sequence of the views' vectors for every index of time."""
        if self.merge == 'channel':
            time = max(x.shape[1] for x in vectors)
            passes = [
                einops.repeat(x, 'b t d -> b (again t) d', again=time // x.shape[1])
                for x in vectors
            ]
            return jnp.concatenate(passes, axis=-1)
        dense = functools.partial(nn.Dense, self.global_width, kernel_init=layers.xavier)
        projected = [dense(name=f'view_{i}_to_global')(x) for i, x in enumerate(vectors)]
        return jnp.concatenate(projected, axis=1)

    @nn.nowrap
    def shared_fields(self) -> dict[str, Any]:
        """The fields of `layers.Encoder` that are the same in all views and the global encoder."""
        own = ('depth', 'num_heads', 'mlp_dim', 'position_grid')
        return {name: getattr(self, name) for name in layers.ENCODER_FIELDS if name not in own}

    @nn.nowrap
    def fused_layers(self) -> tuple[int, ...]:
        """The layers at which views do exchange something."""
        return self.fusion_layers if self.fusion != 'none' and len(self.widths) > 1 else ()

    @nn.nowrap
    def fusion_rates(self, layer: int) -> list[np.float32]:
        """Stochastic depth's rate of cross-view attention before `layer`, for each view that asks."""
        return [
            drop_rates(self.stochastic_depth, depth)[min(layer, depth - 1)] for depth in self.depths
        ]

    @nn.nowrap
    def stretches(self, view: int) -> tuple[tuple[int, int], ...]:
        """Start and stop of the layers of a view that run without an exchange between them."""
        starts = {0, *self.fused_layers()}
        if self.fusion == 'bottleneck':
            starts |= {layer + 1 for layer in self.fused_layers()}
        depth = self.depths[view]
        starts = sorted(start for start in starts if start < depth)
        return tuple(zip(starts, [*starts[1:], depth], strict=True))

    @nn.nowrap
    def check(self, input_shape: tuple[int, ...]) -> None:
        """Checks the fields and one clip's shape (time, height, width, channels); builds nothing.

        Raises:
          UserError: a field has an unknown value, or sizes do not divide as they must.
        """
        fields.check_options(self, classifiers=('token', 'gap', 'map'))
        fields.check_choice('fusion', self.fusion, FUSIONS)
        fields.check_choice('cross_view_width', self.cross_view_width, ('query', 'key'))
        fields.check_choice('merge', self.merge, ('channel', 'time'))
        fields.check_choice('tubelet_init', self.tubelet_init, TUBELET_INITIALIZERS)
        sizes = ('global_depth', 'global_num_heads', 'global_mlp_dim', 'bottleneck_tokens')
        fields.check_positive(self, ('num_classes', *sizes))
        fields.check_columns(self, COLUMNS + ('position_grid',) * bool(self.position_grid))
        self._check_views()
        if self.fusion != 'none' and len(self.widths) > 1:
            fields.check_increasing('fusion_layers', self.fusion_layers, max(self.depths) - 1)
        if (self.global_width > 0) != (self.merge == 'time'):
            raise UserError(
                f'global_width={self.global_width} with merge={self.merge!r}: merge="time" needs the '
                'width that views are projected to, merge="channel" has the sum of theirs, and 0 here'
            )
        width = self.global_width or sum(self.widths)
        fields.check_sincos(self.positions, width, rank=1)
        if width % self.global_num_heads:
            raise UserError(
                f'global_num_heads={self.global_num_heads} does not divide {width}, the global width'
            )
        for i, tubelet in enumerate(self.tubelets):
            fields.check_clip(input_shape, f'tubelets[{i}]', tubelet)

    @nn.nowrap
    def _check_views(self) -> None:
        """How the entries of a view fit together, and the views."""
        times = [tubelet[0] for tubelet in self.tubelets]
        for i, time in enumerate(times):
            fields.check_sincos(self.positions, self.widths[i], rank=2)
            if self.widths[i] % self.num_heads[i]:
                raise UserError(
                    f'num_heads[{i}]={self.num_heads[i]} does not divide widths[{i}]={self.widths[i]}'
                )
            if self.tubelet_init == 'average_frame' and time == 1:
                raise UserError(f'tubelet_init="average_frame" needs more frames in tubelets[{i}]')
            if max(times) % time:
                raise UserError(
                    f'the {time} frames of tubelets[{i}] do not divide the {max(times)} of the longest: '
                    'views cannot be cut into the same slices of time'
                )
        if self.merge == 'channel' and any(time % min(times) for time in times):
            raise UserError(
                f'merge="channel" needs tubelets as long as the shortest or a multiple of it, not of '
                f'{", ".join(map(str, times))} frames: use merge="time"'
            )

    @nn.nowrap
    def num_tokens(self, input_shape: tuple[int, ...]) -> int:
        """Number of tubelets of one clip (time, height, width, channels) in all views together."""
        self.check(input_shape)
        grids = [np.floor_divide(input_shape[:3], tubelet) for tubelet in self.tubelets]
        return int(sum(grid.prod() for grid in grids))


class CrossViewAttention(nn.Module):
    """Each view attends to a neighbour's tokens of the same slice of time (section 3, CVA).

    All norms are of the tokens before anything is added to them, so what a view took from one
    neighbour reaches the other not before the next fusion. The outputs' kernels start at zero: fusion
    starts as the identity.

    Attributes:
      num_heads: One for each view.
      width, descending, dropout, attention_dropout, dtype, norm_epsilon: As in `MTV`.
    """

    num_heads: tuple[int, ...]
    width: str
    descending: bool
    dropout: float
    attention_dropout: float
    dtype: str
    norm_epsilon: float = 1e-6

    @nn.compact
    def __call__(
        self,
        tokens: Sequence[Float[Array, 'slices _ _']],
        rates: Sequence[Float[Array, ''] | None],
        *,
        train: bool,
    ) -> list[Float[Array, 'slices _ _']]:
        norm = functools.partial(layers.LayerNorm, epsilon=self.norm_epsilon, dtype=self.dtype)
        normed = [norm(name=f'norm_{i}')(x) for i, x in enumerate(tokens)]
        fused = list(tokens)
        for i in range(len(tokens) - 1):
            query, key = (i, i + 1) if self.descending else (i + 1, i)
            sized_like = query if self.width == 'query' else key
            y = layers.Attention(
                self.num_heads[sized_like],
                self.attention_dropout,
                self.dtype,
                qkv_width=tokens[sized_like].shape[-1],
                out_init=nn.initializers.zeros,
                name=f'attention_{query}_{key}',
            )(normed[query], normed[key], train=train)
            y = nn.Dropout(self.dropout)(y, deterministic=not train)
            fused[query] = fused[query] + layers.DropPath()(y, rates[query], train=train)
        return fused
