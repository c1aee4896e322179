"""Parameters and GFLOPs equal those that the ViViT paper prints (arXiv 2103.15691)."""

import jax
import jax.numpy as jnp
import pytest

from vjax import models
from vjax.models import costs, variants
from vjax.training import optimizer

CLIP = (32, 224, 224, 3)
# Attention, classifier, GFLOPs as printed, parameters as counted from Scenic's models.
TABLE_2 = [
    ('spacetime', 'token', 455.2, 88_954_000),
    ('factorised_encoder', 'token', 284.4, 115_062_928),
    ('factorised_self_attention', 'gap', 372.3, 117_319_312),
    ('factorised_dot_product', 'gap', 277.1, 88_952_464),
    ('average_pool', 'token', 283.9, 86_696_080),
]


def vivit(variant, **fields):
    return models.build('vivit', num_classes=400, **variants.video(variant), **fields)


@pytest.mark.parametrize(('attention', 'classifier', 'gflops', 'params'), TABLE_2)
def test_table_2(attention, classifier, gflops, params):
    model = vivit('B/16x2', attention=attention, classifier=classifier)
    assert costs.count_params(costs.param_shapes(model, CLIP)) == params
    assert costs.gflops(model, CLIP) == pytest.approx(gflops, rel=1e-3)


@pytest.mark.parametrize(('crop', 'gflops'), [(224, 1446), (288, 2919), (320, 3992)])
def test_table_4(crop, gflops):
    model = vivit('L/16x2', attention='spacetime')
    assert costs.gflops(model, (32, crop, crop, 3)) == pytest.approx(gflops, rel=1e-3)


def test_large_factorised_encoder_has_24_temporal_layers():
    """The paper's 995.3 GFLOPs are those of 24 temporal layers, though its text says 4."""
    model = vivit('L/16x2', attention='factorised_encoder', temporal_depth=24)
    assert costs.count_params(costs.param_shapes(model, CLIP)) == 606_827_920
    assert costs.gflops(model, CLIP) == pytest.approx(995.3, rel=1e-3)
    shallow = model.clone(temporal_depth=4)
    assert costs.count_params(costs.param_shapes(shallow, CLIP)) == 354_903_440
    assert costs.gflops(shallow, CLIP) == pytest.approx(990.92, abs=0.005)


def test_huge_has_patches_of_14_pixels():
    """The 47.77 TFLOPs of 4x3 views in Tab. 5 are those of H/14x2, though a text says H/16x2."""
    model = vivit('H/14x2', attention='spacetime')
    assert costs.gflops(model, CLIP) == pytest.approx(3980.9, abs=0.05)


def test_gflops_are_of_the_unrolled_float32_forward_pass():
    model = vivit('Ti/16x2', attention='factorised_encoder')
    clip = (4, 32, 32, 3)
    expected = costs.gflops(model, clip)
    changed = model.clone(unroll=True, remat='full', dtype='bfloat16', dropout=0.1)
    assert costs.gflops(changed, clip) == expected
    batch = jax.ShapeDtypeStruct((1, *clip), jnp.float32)
    variables = {'params': costs.param_shapes(model, clip)}
    scanned = jax.jit(model.apply).lower(variables, batch).cost_analysis()['flops'] / 2e9
    assert scanned < expected / 5  # What a scan counted once would give.


def test_an_image_model():
    model = models.build('vit', num_classes=1000, **variants.image('B/16'))
    assert costs.count_params(costs.param_shapes(model, (224, 224, 3))) == 86_567_656
    assert costs.gflops(model, (224, 224, 3)) == pytest.approx(17.6, rel=5e-3)


# GFLOPs of Scenic's models to the digits at hand, and half of the last one.
LARGE_IMAGES = [('B/32', 13.0, 0.05), ('S/16', 15.58, 0.005), ('S/32', 3.44, 0.005)]


@pytest.mark.parametrize(('variant', 'gflops', 'half'), LARGE_IMAGES)
def test_images_of_384_pixels(variant, gflops, half):
    fields = {**variants.image(variant), 'classifier': 'gap'}
    model = models.build('vit', num_classes=1000, **fields)
    assert costs.gflops(model, (384, 384, 3)) == pytest.approx(gflops, abs=half)


@pytest.mark.parametrize('remat', ['none', 'full'])
def test_a_training_step_is_three_forward_passes(remat):
    """The gradient's own matrix products, which are fewer by the one for the gradient of the pixels."""
    model = vivit('Ti/16x2', attention='factorised_encoder', remat=remat)
    clip = (8, 64, 64, 3)
    params = costs.param_shapes(model, clip)
    batch = jax.ShapeDtypeStruct((1, *clip), jnp.float32)

    def total(params, video):
        return model.clone(remat='none').apply({'params': params}, video).sum()

    own = 2 * costs.multiply_adds(jax.make_jaxpr(jax.grad(total))(params, batch).jaxpr)
    pixels = 2 * (4 * 4 * 4) * (2 * 16 * 16 * 3) * 192
    assert costs.training_flops(model, clip) == own + pixels


def test_a_frozen_encoder_is_passed_once():
    fields = {**variants.video('Ti/16x2'), 'attention': 'spacetime'}
    encoder = {'name': 'vivit', **fields}
    probe = models.build('probe', num_classes=400, encoder=encoder, num_heads=3, mlp_dim=768)
    clip = (4, 32, 32, 3)
    params = costs.param_shapes(probe, clip)
    batch = jax.ShapeDtypeStruct((1, *clip), jnp.float32)

    def total(params, video):
        return probe.apply({'params': params}, video).sum()

    own = 2 * costs.multiply_adds(jax.make_jaxpr(jax.grad(total))(params, batch).jaxpr)
    assert costs.training_flops(probe, clip) == own
    assert own < 3 * costs.matrix_products(probe, clip)  # Half of what three passes would be.


@pytest.mark.parametrize('remat', ['none', 'dots'])
def test_what_is_frozen_needs_no_gradient(remat):
    model = vivit('Ti/16x2', attention='factorised_encoder', remat=remat)
    clip = (8, 64, 64, 3)
    forward = 2 * costs.matrix_products(model, clip)
    params = costs.param_shapes(model, clip)

    def flops(*frozen):
        patterns = [f'({"|".join(frozen)})/.*']
        return costs.training_flops(model, clip, optimizer.trains(patterns, params))

    classifier = 192 * 400
    assert flops('embedding', 'spatial_encoder', 'temporal_encoder') == forward + 2 * classifier
    # Four frames and a class token; their layers and the classifier go back as in any training.
    temporal = 4 * (4 * 5 * 192**2 + 2 * 5**2 * 192 + 2 * 5 * 192 * 768)
    assert flops('embedding', 'spatial_encoder') == forward + 4 * (temporal + classifier)
    # Through frozen layers too, if what is before them is trained: only their own gradients are spared.
    spared = costs.training_flops(model, clip) - flops('temporal_encoder')
    pixels = 2 * (4 * 4 * 4) * (2 * 16 * 16 * 3) * 192  # Whose gradient nobody wants.
    assert spared == pixels + 2 * 4 * (4 * 5 * 192**2 + 2 * 5 * 192 * 768)
