"""ViT: shapes, classifiers, checks. Parity is in tests/weights."""

import jax
import jax.numpy as jnp
import pytest

from vjax.errors import UserError
from vjax.models.vit import ViT


def vit(**fields):
    sizes = {'num_classes': 3, 'width': 8, 'depth': 2, 'num_heads': 2, 'mlp_dim': 12}
    return ViT(**{**sizes, 'patch': (4, 2), **fields})


@pytest.mark.parametrize(('classifier', 'rows'), [('token', 17), ('gap', 16), ('map', 16)])
def test_classifiers(classifier, rows, random_params):
    model = vit(classifier=classifier, representation_size=5)
    image = jnp.ones((2, 8, 16, 3))
    params = random_params(model, image)
    assert params['encoder']['position_embedding']['table'].shape == (1, rows, 8)
    assert params['embedding']['kernel'].shape == (4, 2, 3, 8)
    logits = jax.jit(model.apply)({'params': params}, image)
    assert logits.shape == (2, 3)
    assert logits.dtype == jnp.float32
    assert model.num_tokens((8, 16, 3)) == 16


@pytest.mark.parametrize(
    ('fields', 'shape', 'message'),
    [
        (
            {},
            (9, 16, 3),
            r'height=9 is not divisible by .*patch=\(4, 2\): the nearest 8 and 12 are',
        ),
        ({}, (8, 1, 3), r'width=1 is not divisible by .*: the nearest 2 is'),
        ({}, (2, 8, 8, 3), 'takes images'),
        ({'num_heads': 3}, (8, 8, 3), 'num_heads=3 does not divide width=8'),
        ({'classifier': 'gab'}, (8, 8, 3), "not one of token, gap, map; did you mean 'gap'"),
        ({'remat': 'all'}, (8, 8, 3), "remat='all' is not one of none, dots, full, offload"),
        ({'dtype': 'float16'}, (8, 8, 3), "dtype='float16' is not one of float32, bfloat16"),
        ({'stochastic_depth': 1.0}, (8, 8, 3), r'stochastic_depth=1\.0 is not a rate'),
    ],
)
def test_what_does_not_fit_is_named(fields, shape, message):
    with pytest.raises(UserError, match=message):
        vit(**fields).check(shape)
