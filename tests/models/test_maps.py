"""Maps of what models look at: their names, shapes and sums, and that they lie where the clip does."""

import einops
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vjax import models
from vjax.models import maps
from vjax.models.maps import look

CLIP = (4, 8, 24, 3)
GRID = (2, 2, 3)  # Of tubelets of 2 x 4 x 8.
SIZES = dict(num_classes=3, width=8, depth=2, num_heads=2, mlp_dim=8)
VIDEO = SIZES | dict(tubelet=(2, 4, 8))
LEARNER = VIDEO | dict(learned_tokens=5, location=1, classifier='gap')
LOOKUP = VIDEO | dict(classifier='gap')
VIEWS = dict(
    num_classes=3,
    widths=(8, 8),
    depths=(1, 2),
    num_heads=(2, 2),
    mlp_dims=(8, 8),
    tubelets=((4, 4, 8), (2, 4, 4)),
    fusion_layers=(1,),
    global_depth=1,
    global_num_heads=2,
    global_mlp_dim=8,
)
FAMILIES = {
    'ViViT': ('vivit', VIDEO),
    'factorised encoder': ('vivit', VIDEO | dict(attention='factorised_encoder', temporal_depth=1)),
    'factorised self-attention': (
        'vivit',
        VIDEO | dict(attention='factorised_self_attention', classifier='gap'),
    ),
    'factorised dot-product': (
        'vivit',
        VIDEO | dict(attention='factorised_dot_product', classifier='gap'),
    ),
    'average pool': ('vivit', VIDEO | dict(attention='average_pool')),
    'TokenLearner': ('token_learner_video', LEARNER),
    'TokenLearner of frames': (
        'token_learner_video',
        LEARNER | dict(attention='factorised_encoder', temporal_depth=1),
    ),
    'TokenFuser': ('token_learner_video', LEARNER | dict(fuser=True)),
    'LookupViT': ('lookupvivit', LOOKUP | dict(temporal_depth=1, grid=(1, 2))),
    'LookupViT of clips': ('lookupvivit', LOOKUP | dict(attention='spacetime', grid=(1, 2, 2))),
    'MTV': ('mtv', VIEWS),
    'MTV, bottleneck': ('mtv', VIEWS | dict(fusion='bottleneck', depths=(2, 2))),
    'VideoPrism': ('videoprism', VIDEO | dict(temporal_depth=1, classifier='gap')),
    'probe': (
        'probe',
        dict(num_classes=3, num_heads=2, mlp_dim=8, depth=1, encoder=dict(name='vivit', **VIDEO)),
    ),
}
# Number of maps and the grid, beside one `rollout` on GRID.
OTHERS = {
    'TokenLearner': {'token_maps': 5},
    'TokenLearner of frames': {'token_maps': 5},
    'TokenFuser': {'token_maps_layer_1': 5, 'fusion_maps_layer_1': 5},
    'LookupViT': {'gather': 1, 'gather_tokens': 2},
    'LookupViT of clips': {'gather': 1, 'gather_tokens': 4},
}


def made(family, **fields):
    name, own = FAMILIES[family]
    return models.build(name, **own | fields)


def clips(shape=CLIP, batch=2):
    return jnp.asarray(np.random.default_rng(0).normal(size=(batch, *shape)), jnp.float32)


def summed_in_frames(name, family):
    """Whether a map's sum is 1 in every frame, not over the clip."""
    return name.startswith('token_maps') or (name.startswith('gather') and family == 'LookupViT')


def without_positions(params):
    """Parameters of a model to which all places are alike."""

    def zero(path, leaf):
        name = jax.tree_util.keystr(path, simple=True, separator='/')
        return jnp.zeros_like(leaf) if 'position_embedding' in name or 'table' in name else leaf

    return jax.tree_util.tree_map_with_path(zero, params)


@pytest.mark.parametrize('family', FAMILIES)
def test_maps_lie_where_the_clip_does(family, random_params):
    """Where a model knows no positions, tubelets in another place move the maps with them."""
    model, video = made(family), clips()
    params = without_positions(random_params(model, video, scale=0.5))
    found = look(model, params, video)

    views = {'view_0': (1, 2, 3), 'view_1': (2, 2, 6)} if 'MTV' in family else {'rollout': GRID}
    expected = {name: (2, 1, *grid) for name, grid in views.items()}
    expected |= {name: (2, num, *GRID) for name, num in OTHERS.get(family, {}).items()}
    assert {name: own.shape for name, own in found.items()} == expected
    for name, own in found.items():
        assert own.dtype == jnp.float32
        assert own.min() >= 0
        axes = (3, 4) if summed_in_frames(name, family) else (2, 3, 4)
        if 'fusion' not in name:
            np.testing.assert_allclose(own.sum(axis=axes), 1, atol=1e-5)
    if 'gather' in found:
        np.testing.assert_allclose(found['gather'][:, 0], found['gather_tokens'].mean(axis=1))

    # The longest tubelets, of MTV 4 x 4 x 8, change places as wholes.
    blocks = einops.rearrange(video, 'b t (h p) (w q) c -> b t h w p q c', p=4, q=8)
    turned = blocks[:, :, ::-1, ::-1]
    turned = einops.rearrange(turned, 'b t h w p q c -> b t (h p) (w q) c')
    for name, own in look(model, params, turned).items():
        columns = own.shape[-1] // 3  # Of a view within a block.
        apart = einops.rearrange(own, 'b n t h (w q) -> b n t h w q', q=columns)
        back = einops.rearrange(apart[:, :, :, ::-1, ::-1], 'b n t h w q -> b n t h (w q)')
        if name == 'gather_tokens':  # The compressed grid is turned as well.
            back = back[:, ::-1]
        np.testing.assert_allclose(back, found[name], rtol=2e-4, atol=1e-6)
        assert float(jnp.abs(back - own).max()) > 1e-4, 'the maps are symmetric by themselves'


@pytest.mark.parametrize(
    'family', ['factorised encoder', 'factorised self-attention', 'TokenLearner', 'LookupViT']
)
def test_maps_run_with_time(family, random_params):
    model, video = made(family), clips()
    params = without_positions(random_params(model, video, scale=0.5))
    found = look(model, params, video)
    exchanged = jnp.concatenate([video[:, 2:], video[:, :2]], axis=1)
    for name, own in look(model, params, exchanged).items():
        np.testing.assert_allclose(own[:, :, ::-1], found[name], rtol=2e-4, atol=1e-6)
        assert float(jnp.abs(own[:, :, ::-1] - own).max()) > 1e-5


def test_token_learners_first_version_has_weights_of_at_most_one(random_params):
    model, video = made('TokenLearner', version='1.0'), clips()
    found = look(model, random_params(model, video, scale=2), video)['token_maps']
    assert 0 <= found.min() < 0.1
    assert 0.9 < found.max() <= 1


def test_sampled_frames_stand_for_those_nearest_to_them(random_params):
    """Of 8 frames, 3 and 5 are shown; the others have the maps of the one that is nearer."""
    fields = dict(tubelet=(1, 4, 8), embedding='uniform_frames', num_sampled_frames=2)
    model, video = made('ViViT', **fields), clips((8, 8, 24, 3))
    found = look(model, random_params(model, video, scale=0.5), video)['rollout']
    assert found.shape == (2, 1, 8, 2, 3)
    np.testing.assert_allclose(found.sum(axis=(2, 3, 4)), 1, atol=1e-5)
    shown = maps.uniform_frames(8, 2)
    for frame in range(8):
        nearest = shown[np.abs(shown - frame).argmin()]
        np.testing.assert_array_equal(found[:, :, frame], found[:, :, nearest])
    assert float(jnp.abs(found[:, :, shown[0]] - found[:, :, shown[1]]).max()) > 1e-4


def test_images_have_maps_of_one_index(random_params):
    image = clips((8, 24, 3))
    vit = models.build('vit', **SIZES, patch=(4, 8))
    lookupvit = models.build(
        'lookupvit', **SIZES | {'classifier': 'gap'}, patch=(4, 8), grid=(1, 2)
    )
    learner = {'classifier': 'gap', 'location': 1, 'learned_tokens': 4}
    token_learner = models.build('token_learner', **SIZES | learner, patch=(4, 8))
    for model in (vit, lookupvit, token_learner):
        found = look(model, random_params(model, image), image)
        assert {own.shape[2:] for own in found.values()} == {(1, 2, 3)}
