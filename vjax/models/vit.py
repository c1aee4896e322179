"""ViT: the Vision Transformer (Dosovitskiy et al., ICLR 2021, arXiv 2010.11929)."""

from typing import Any

import einops
import flax.linen as nn
from jaxtyping import Array, Float

from vjax.errors import UserError
from vjax.models import fields, layers


class ViT(nn.Module):
    """Image classifier: embedded patches, a transformer encoder, a linear head (section 3.1).

    `layers.Encoder` is the model without its embedding and head; a video model that runs an image
    encoder on every frame takes that.

    Attributes:
      num_classes: Number of logits.
      width, depth, num_heads, mlp_dim: Sizes; `variants.image` knows the papers'.
      patch: Height and width of a patch in pixels.
      classifier: 'token', 'gap' or 'map'; see `layers.Encoder`, as for the fields below.
      representation_size: Width of the tanh layer before the classifier, 0 for none.
      head_bias: What the logits' bias starts from.
      dropout, attention_dropout, stochastic_depth: Rates, when training.
      positions, position_grid: Kind of position embeddings, and the grid that they are made for where
        the images have another; see `positions.PositionEmbedding`.
      remat, unroll, dtype, gelu, norm_epsilon: How it is computed.
    """

    num_classes: int
    width: int
    depth: int
    num_heads: int
    mlp_dim: int
    patch: tuple[int, int]
    classifier: str = 'token'
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
        image: Float[Array, 'batch *frame height width channels'],
        *,
        train: bool = False,
        features: bool = False,
    ) -> Float[Array, 'batch classes'] | Float[Array, 'batch tokens dim']:
        """Logits (float32) of images with values in [-1, 1]; a clip of a single frame is an image too.

        With `features` the encoder's final tokens instead.

        Raises:
          UserError: the image's size or the fields do not fit; see `check`.
        """
        self.check(image.shape[1:])
        encode = self.make_encoder(name='encoder')
        encoded = encode(self.embed(image), train=train, pooled=not features)
        if features:
            return encoded
        head = layers.Head(self.num_classes, self.representation_size, self.head_bias, name='head')
        return head(encoded)

    def embed(
        self, image: Float[Array, 'batch *frame height width channels']
    ) -> Float[Array, 'batch rows columns dim']:
        """The grid of embedded patches."""
        image = einops.rearrange(image, 'b ... h w c -> (b ...) h w c')
        return layers.PatchEmbedding(self.width, self.patch, name='embedding')(image)

    def make_encoder(self, **changes: Any) -> nn.Module:
        """From the grid of embedded patches to one vector; `changes` are fields unlike the model's."""
        return layers.Encoder(**self.encoder_fields() | changes)

    @nn.nowrap
    def encoder_fields(self) -> dict[str, Any]:
        """The fields of `layers.Encoder` that are fields of this model too."""
        return {name: getattr(self, name) for name in layers.ENCODER_FIELDS}

    @nn.nowrap
    def check(self, input_shape: tuple[int, ...]) -> None:
        """Checks the fields and one image's shape (height, width, channels); builds nothing.

        Raises:
          UserError: a field has an unknown value, or sizes do not divide as they must.
        """
        fields.check_transformer(self, classifiers=('token', 'gap', 'map'))
        fields.check_not_negative(self, ('representation_size',))
        fields.check_extents('patch', self.patch, ('height', 'width'))
        fields.check_positions(self, ('height', 'width'), ranks=(2,))
        if len(input_shape) != 3 and (len(input_shape) != 4 or input_shape[0] != 1):
            raise UserError(
                f'an image model takes images (height, width, channels) or clips of one frame, not '
                f'{tuple(input_shape)}'
            )
        *_, height, width, _ = input_shape
        for name, size, patch in zip(('height', 'width'), (height, width), self.patch, strict=True):
            fields.check_divides(name, size, f'the {name} of patch={tuple(self.patch)}', patch)

    @nn.nowrap
    def num_tokens(self, input_shape: tuple[int, ...]) -> int:
        """Number of patches in one image (height, width, channels), class token not counted."""
        self.check(input_shape)
        *_, height, width, _ = input_shape
        return (height // self.patch[0]) * (width // self.patch[1])
