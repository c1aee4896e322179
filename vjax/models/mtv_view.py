"""One view of an MTV (Yan et al., CVPR 2022, arXiv 2201.04288): its tokens and its transformer.

In einops patterns: b batch, t time or slices, f indices of time in a slice, h height, w width, n
tokens of an index of time, d width of a token.
"""

from collections.abc import Callable

import einops
import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from vjax.models import layers
from vjax.models.positions import PositionEmbedding, resize_grid
from vjax.models.scan import constrain_batch
from vjax.models.vivit import TUBELET_INITIALIZERS


class View(layers.Encoder):
    """One view: its tokens, and its transformer, which runs a stretch of layers at a time.

    No norm is behind the last layer. The final tokens [batch, time, tokens, dim] are sown as `tokens`.

    Attributes (beside those of `layers.Encoder`):
      width, tubelet, tubelet_init: As in `MTV`.
      stretches: First layer and the one behind the last, of every stretch; see `MTV.stretches`.
    """

    width: int = 0
    tubelet: tuple[int, int, int] = (1, 1, 1)
    tubelet_init: str = 'central_frame'
    stretches: tuple[tuple[int, int], ...] = ()

    def setup(self):
        kernel_init = TUBELET_INITIALIZERS[self.tubelet_init]
        self.embedding = layers.PatchEmbedding(self.width, self.tubelet, kernel_init)
        if self.classifier == 'token':
            length = self.position_grid[0] if self.position_grid else 0
            self.class_token = TimeTokens(1, self.width, nn.initializers.zeros, length)
        self.position_embedding = PositionEmbedding(self.positions, self.position_grid[1:])
        self.blocks = {str(start): self.make_block(None) for start, _ in self.stretches}

    def embed(
        self, video: Float[Array, 'batch time height width channels'], slices: int
    ) -> Float[Array, 'merged tokens dim']:
        """The tokens, at their places within a frame, of each slice of time: batch * slices of them."""
        x = self.embedding(video)
        batch, time, *grid, width = x.shape
        x = einops.rearrange(x, 'b t h w d -> b t (h w) d')
        if self.classifier == 'token':
            token = jnp.broadcast_to(self.class_token(time), (batch, time, 1, width))
            x = jnp.concatenate([token, x], axis=2)
        positions = self.position_embedding(tuple(grid), width, extra=self.classifier == 'token')
        x = x + positions[:, None]
        return constrain_batch(einops.rearrange(x, 'b (t f) n d -> (b t) (f n) d', t=slices))

    def run(
        self, x: Float[Array, 'slices tokens dim'], start: int, train: bool
    ) -> Float[Array, 'slices tokens dim']:
        """Applies the stretch of layers from `start`; the identity where there is none."""
        stop = dict(self.stretches).get(start)
        return self.scan(self.blocks[str(start)], x, train, start, stop) if stop else x

    def summarise(
        self, x: Float[Array, 'slices tokens dim'], batch: int, time: int
    ) -> Float[Array, 'batch time dim']:
        """One vector for each of `time` indices of time: its class token, or its tokens' mean."""
        indices = time * batch // x.shape[0]
        x = einops.rearrange(x, '(b t) (f n) d -> b (t f) n d', b=batch, f=indices)
        self.sow('intermediates', 'tokens', x)
        return x[:, :, 0] if self.classifier == 'token' else x.mean(axis=2)


class TimeTokens(nn.Module):
    """Learned tokens for every index of time, resized linearly for clips of another length.

    Attributes:
      num_tokens, width, init: Of the table [1, time, num_tokens, width].
      length: The time that they are made for; 0 for that of the clip, or of the trained table.
    """

    num_tokens: int
    width: int
    init: Callable
    length: int = 0

    @nn.compact
    def __call__(self, time: int) -> Float[Array, '1 time tokens dim']:
        length = self.length or time
        if not self.length and self.has_variable('params', 'table'):
            length = self.get_variable('params', 'table').shape[1]
        table = self.param('table', self.init, (1, length, self.num_tokens, self.width))
        return resize_grid(table, (time, self.num_tokens))
