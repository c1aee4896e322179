"""ViT: the Vision Transformer (Dosovitskiy et al., ICLR 2021, arXiv 2010.11929)."""

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
      dropout, attention_dropout, stochastic_depth: Rates, when training.
      remat, unroll, dtype: How it is computed.
    """

    num_classes: int
    width: int
    depth: int
    num_heads: int
    mlp_dim: int
    patch: tuple[int, int]
    classifier: str = 'token'
    representation_size: int = 0
    dropout: float = 0.0
    attention_dropout: float = 0.0
    stochastic_depth: float = 0.0
    remat: str = 'none'
    unroll: int | bool = 1
    dtype: str = 'float32'

    @nn.compact
    def __call__(
        self, image: Float[Array, 'batch height width channels'], *, train: bool = False
    ) -> Float[Array, 'batch classes']:
        """Logits (float32) of images with values in [-1, 1].

        Raises:
          UserError: the image's size or the fields do not fit; see `check`.
        """
        self.check(image.shape[1:])
        features = layers.PatchEmbedding(self.width, self.patch, name='embedding')(image)
        representation = layers.Encoder(
            depth=self.depth,
            num_heads=self.num_heads,
            mlp_dim=self.mlp_dim,
            classifier=self.classifier,
            dropout=self.dropout,
            attention_dropout=self.attention_dropout,
            stochastic_depth=self.stochastic_depth,
            remat=self.remat,
            unroll=self.unroll,
            dtype=self.dtype,
            name='encoder',
        )(features, train=train)
        return layers.Head(self.num_classes, self.representation_size, name='head')(representation)

    @nn.nowrap
    def check(self, input_shape: tuple[int, ...]) -> None:
        """Checks the fields and one image's shape (height, width, channels); builds nothing.

        Raises:
          UserError: a field has an unknown value, or sizes do not divide as they must.
        """
        fields.check_transformer(self, classifiers=('token', 'gap', 'map'))
        fields.check_extents('patch', self.patch, ('height', 'width'))
        if len(input_shape) != 3:
            raise UserError(f'ViT takes images (height, width, channels), not {input_shape}')
        for name, size, patch in zip(('height', 'width'), input_shape[:2], self.patch, strict=True):
            fields.check_divides(name, size, f'the {name} of patch={tuple(self.patch)}', patch)

    @nn.nowrap
    def num_tokens(self, input_shape: tuple[int, ...]) -> int:
        """Number of patches in one image (height, width, channels), class token not counted."""
        self.check(input_shape)
        height, width, _ = input_shape
        return (height // self.patch[0]) * (width // self.patch[1])
