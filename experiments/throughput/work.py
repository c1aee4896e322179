"""What is measured: models, the clips they take, and the batch."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vjax import models
from vjax.models import costs, variants


@dataclasses.dataclass(frozen=True)
class Work:
    """One model at work.

    Attributes:
        name: in the tables.
        model: arguments of `models.build`.
        shape: of an input, (time, height, width, 3) or (height, width, 3).
        batch: inputs in a step.
        dtype: what the model computes in, float32 or bfloat16.
        base: name of the work whose FLOPs and time this one's are held against; '' for none.
    """

    name: str
    model: dict[str, Any]
    shape: tuple[int, ...]
    batch: int
    dtype: str = 'float32'
    base: str = ''

    def build(self, *, unroll: bool = False) -> Any:
        """The vjax model, which computes again what `recipes.model` says."""
        return models.build(**self.model, dtype=self.dtype, remat='dots', unroll=unroll)

    def inputs(self) -> tuple[np.ndarray, np.ndarray]:
        """A batch: pixels in [-1, 1], and labels."""
        rng = np.random.default_rng(0)
        pixels = rng.uniform(-1, 1, (self.batch, *self.shape)).astype(np.float32)
        return pixels, rng.integers(self.model['num_classes'], size=self.batch)

    def params(self) -> Any:
        """The model's parameters: initialised, and moved a little, as many of them start at zero."""
        model = self.build()
        video = jnp.zeros((1, *self.shape))
        params = jax.jit(model.init)(jax.random.key(0), video)['params']
        leaves, structure = jax.tree.flatten(params)
        rng = np.random.default_rng(1)
        moved = [leaf + 0.02 * rng.standard_normal(leaf.shape, np.float32) for leaf in leaves]
        return jax.tree.unflatten(structure, moved)

    def train_gflops(self) -> float:
        """Floating-point operations of a training step, in billions: thrice the forward pass's products.

        By `costs.matrix_products`: recomputation, norms and the optimiser are not counted.
        """
        return 6 * self.batch * costs.matrix_products(self.build(), self.shape) / 1e9


def groups(size: str, dtype: str) -> list[list[Work]]:
    """Works that are measured together: 'small', for a CPU of two cores, or 'full', the papers' sizes."""
    classes = {'num_classes': 400}
    if size == 'small':
        letter, views, clip, clips, images = 'S', 'S/2+Ti/4', (16, 224, 224, 3), 1, 8
    else:
        letter, views, clip, clips, images = 'B', 'B/2+S/4+Ti/8', (32, 224, 224, 3), 4, 64

    def of_clips(name, model, base='', **fields):
        return Work(name, dict(name=model, **fields, **classes), clip, clips, dtype, base)

    def of_images(name, model, base='', **fields):
        fields = dict(name=model, classifier='gap', **variants.image(f'{letter}/16'), **fields)
        return Work(name, fields | classes, (224, 224, 3), images, dtype, base)

    spacetime, vit = f'ViViT-{letter} spatio-temporal', f'ViT-{letter}'
    tubelets = variants.video(f'{letter}/16x2')
    encoder = {'attention': 'factorised_encoder'}
    large = of_clips(
        'ViViT-L FE', 'vivit', **variants.video('L/16x2'), **encoder, temporal_depth=24
    )
    return [
        [
            of_clips(spacetime, 'vivit', **tubelets),
            of_clips(f'TokenLearner-{letter}', 'token_learner_video', spacetime, **tubelets),
        ],
        [of_clips(f'ViViT-{letter} FE', 'vivit', **tubelets, **encoder)],
        *([[large]] if size == 'full' else []),
        [of_clips(f'MTV {views}', 'mtv', **variants.views(views))],
        [
            of_images(vit, 'vit'),
            of_images(f'LookupViT-{letter} 5x5', 'lookupvit', vit, grid=(5, 5)),
            of_images(f'LookupViT-{letter} 10x10', 'lookupvit', vit, grid=(10, 10)),
        ],
    ]
