"""Position embeddings: each kind's tables, and what happens to an input of another size."""

import functools
import itertools

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings

from vjax.errors import UserError
from vjax.models import positions
from vjax.models.positions import PositionEmbedding, resize_grid
from vjax.models.vit import ViT
from vjax.models.vivit import ViViT


def table(module, params, grid, width, extra=0):
    return np.asarray(module.apply({'params': params}, grid, width, extra))


def test_learned_positions_are_a_table_with_the_class_token_first(random_params):
    module = PositionEmbedding()
    params = random_params(module, (2, 3), 8, 1)
    assert {k: v.shape for k, v in params.items()} == {'table': (1, 7, 8)}
    np.testing.assert_array_equal(table(module, params, (2, 3), 8, 1), params['table'])


def test_factorised_positions_are_sums_over_the_axes(random_params):
    module = PositionEmbedding('factorised')
    params = random_params(module, (4, 2, 3), 8, 1)
    assert {k: v.shape[1] for k, v in params.items()} == {'axis_0': 4, 'axis_1': 2, 'axis_2': 3}
    time, height, width = (params[f'axis_{i}'][0] for i in range(3))
    shown = table(module, params, (4, 2, 3), 8, 1)
    np.testing.assert_array_equal(shown[0, 0], 0)  # The class token stands nowhere.
    np.testing.assert_allclose(
        shown[0, 1 + 2 * 6 + 1 * 3 + 2], time[2] + height[1] + width[2], rtol=1e-6
    )


def test_sincos_positions_are_those_of_each_axis_and_learn_nothing():
    module = PositionEmbedding('sincos')
    grid, width = (3, 5), 16
    assert 'params' not in module.init(jax.random.key(0), grid, width)
    shown = module.apply({}, grid, width).reshape(3, 5, 16)
    for i in range(3):
        for j in range(5):
            expected = []
            for position in (i, j):
                angles = [position / 10000 ** (k / 4) for k in range(4)]
                expected += [*np.sin(angles), *np.cos(angles)]
            np.testing.assert_allclose(shown[i, j], expected, atol=1e-6)
    with pytest.raises(UserError, match='a multiple of 4 for the width'):
        module.apply({}, grid, 14)


@pytest.mark.parametrize(
    'kind',
    ['learned', *(pytest.param(x, marks=pytest.mark.slow) for x in ('factorised', 'sincos'))],
)
@settings(max_examples=6, deadline=None)
@given(height=st.integers(1, 6), width=st.integers(1, 6), times=st.integers(1, 3))
def test_positions_of_a_larger_input_are_the_trained_ones_resized(kind, height, width, times):
    trained, larger = (height, width), (height * times, width * times)
    module = PositionEmbedding(kind)
    variables = module.init(jax.random.key(0), trained, 8)
    before = module.apply(variables, trained, 8).reshape(1, *trained, 8)
    explicit = PositionEmbedding(kind, trained)
    after = explicit.apply(variables, larger, 8).reshape(1, *larger, 8)
    if kind == 'sincos':
        # The middles of the new cells, in old cells.
        middles = [(np.arange(size) + 0.5) / times - 0.5 for size in larger]
        rows, columns = (positions.sincos(middle, 4) for middle in middles)
        for i, j in itertools.product(*map(range, larger)):
            np.testing.assert_allclose(after[0, i, j], [*rows[i], *columns[j]], atol=1e-6)
    else:
        np.testing.assert_allclose(after, resize_grid(before, larger), atol=1e-5)
        inferred = module.apply(variables, larger, 8)
        np.testing.assert_allclose(inferred.reshape(after.shape), after, atol=1e-6)


def test_resizing_is_linear_and_keeps_a_constant_and_a_ramp():
    ramp = jnp.broadcast_to(jnp.arange(8.0)[None, :, None, None], (1, 8, 8, 1))
    doubled = resize_grid(ramp, (16, 16))[0, :, 0, 0]
    np.testing.assert_allclose(doubled[1:-1], np.arange(0.25, 7, 0.5), atol=1e-5)
    np.testing.assert_allclose(resize_grid(jnp.ones((1, 7, 5, 2)), (3, 4)), 1, atol=1e-6)
    assert resize_grid(ramp, (8, 8)) is ramp
    averaged = resize_grid(ramp, (2, 2))[0, :, 0, 0]
    nearest = resize_grid(ramp, (2, 2), antialias=False)[0, :, 0, 0]
    np.testing.assert_allclose(nearest, [1.5, 5.5], atol=1e-5)
    assert np.abs(averaged - nearest).max() > 0.05  # Eight cells count, not two.


def test_a_vit_takes_images_of_any_size_with_the_parameters_of_one(random_params):
    vit = ViT(num_classes=3, width=8, depth=1, num_heads=2, mlp_dim=16, patch=(4, 4))
    params = random_params(vit, jnp.zeros((1, 16, 24, 3)))
    image = jnp.asarray(np.random.default_rng(0).normal(size=(2, 32, 48, 3)), 'float32')
    logits = vit.apply({'params': params}, image)
    np.testing.assert_array_equal(
        logits, vit.clone(position_grid=(4, 6)).apply({'params': params}, image)
    )
    with pytest.raises(UserError, match='24 tokens and the input has the grid 8x8: say with posi'):
        vit.apply({'params': params}, image[:, :, :32])


@pytest.mark.parametrize(
    'kind',
    ['learned', *(pytest.param(x, marks=pytest.mark.slow) for x in ('factorised', 'sincos'))],
)
@pytest.mark.parametrize(
    'attention', ['spacetime', pytest.param('factorised_encoder', marks=pytest.mark.slow)]
)
def test_every_kind_in_a_video_model_and_on_longer_and_larger_clips(kind, attention, random_params):
    vit = ViViT(
        num_classes=3,
        width=24,
        depth=1,
        num_heads=2,
        mlp_dim=16,
        tubelet=(2, 4, 4),
        temporal_depth=1,
        attention=attention,
        positions=kind,
    )
    clip = jnp.asarray(np.random.default_rng(0).normal(size=(1, 8, 8, 12, 3)), 'float32')
    params = random_params(vit, clip)
    longer, larger = jnp.concatenate([clip, clip], axis=1), jnp.tile(clip, (1, 1, 2, 2, 1))
    both = jnp.concatenate([larger, larger], axis=1)
    fixed = vit.clone(position_grid=(4, 2, 3))
    for video in (clip, longer, larger, both):
        apply = jax.jit(functools.partial(fixed.apply, {'params': params}))
        assert np.isfinite(apply(video)).all()
        # A frame of 4x6 tokens, or four of 2x3: where that is open it is an error, tested below.
        ambiguous = attention == 'spacetime' and kind == 'learned' and video is larger
        if kind != 'sincos' and video is not both and not ambiguous:
            np.testing.assert_allclose(
                vit.apply({'params': params}, video), apply(video), atol=1e-5
            )


def test_a_table_that_could_have_been_trained_on_two_grids_is_refused(random_params):
    params = random_params(PositionEmbedding(), (16, 14, 14), 4)
    with pytest.raises(UserError, match='3136 tokens and the input has the grid 4x14x14'):
        table(PositionEmbedding(), params, (4, 14, 14), 4)
    shown = table(PositionEmbedding(grid=(16, 14, 14)), params, (4, 14, 14), 4)
    assert shown.shape == (1, 784, 4)
    with pytest.raises(UserError, match='has not the rank'):
        table(PositionEmbedding(grid=(14, 14)), params, (4, 14, 14), 4)


def test_frequencies_fall_from_one_to_one_in_ten_thousand():
    angles = np.arcsin(positions.sincos(np.array([1e-3]), 64))[0, :32] / 1e-3
    np.testing.assert_allclose(angles[0], 1, rtol=1e-5)
    assert np.all(np.diff(angles) < 0)
