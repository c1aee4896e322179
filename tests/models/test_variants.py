"""Sizes in the papers' notation."""

import pytest

from vjax.errors import UserError
from vjax.models import variants


def test_image():
    assert variants.image('B/16') == {
        'width': 768,
        'depth': 12,
        'num_heads': 12,
        'mlp_dim': 3072,
        'patch': (16, 16),
    }


def test_video_tubelet_is_time_height_width():
    assert variants.video('L/16x2') == {
        'width': 1024,
        'depth': 24,
        'num_heads': 16,
        'mlp_dim': 4096,
        'tubelet': (2, 16, 16),
    }
    assert variants.video('H/14x4')['tubelet'] == (4, 14, 14)


def test_views_are_columns_from_the_longest_tubelets_to_the_shortest():
    columns = {
        'widths': (192, 384, 768),
        'depths': (12, 12, 12),
        'num_heads': (3, 6, 12),
        'mlp_dims': (768, 1536, 3072),
        'tubelets': ((8, 16, 16), (4, 16, 16), (2, 16, 16)),
    }
    assert variants.views('B/2+S/4+Ti/8') == columns
    assert variants.views('Ti/8+S/4+B/2') == columns
    assert variants.views('S/16x4+B/16x16x2+Ti/8') == columns
    assert variants.views('L/2')['depths'] == (24,)


def test_views_have_patches_of_16_pixels_and_h_of_14_unless_they_say_so():
    tubelets = variants.views('H/2+B/4+B/32x8+H/16x16+S/8x24x1')['tubelets']
    assert tubelets == ((16, 16, 16), (8, 32, 32), (4, 16, 16), (2, 14, 14), (1, 8, 24))


def test_views_of_equal_depth_stay_in_order():
    assert variants.views('S/4+B/4+Ti/2+Ti/8+L/4')['widths'] == (192, 384, 768, 1024, 192)


@pytest.mark.parametrize('variant', ['', 'B', 'B/2+', 'B/0', 'B/2x', 'B/16x16x16x2', 'B/2,S/4'])
def test_a_bad_variant_of_views_names_the_forms(variant):
    with pytest.raises(UserError, match=r"SIZE/FRAMES, .* joined by \+, for example 'B/2\+S/4"):
        variants.views(variant)


def test_an_unknown_size_of_a_view():
    with pytest.raises(UserError, match=r"'XL/4' has an unknown size 'XL': it is one of Ti"):
        variants.views('B/2+XL/4')


@pytest.mark.parametrize('size', variants.SIZES)
def test_heads_are_64_wide_but_for_the_largest(size):
    fields = variants.SIZES[size]
    assert fields['width'] // fields['num_heads'] == {'H': 80, 'g': 88}.get(size, 64)
    assert fields['mlp_dim'] == (6144 if size == 'g' else 4 * fields['width'])


@pytest.mark.parametrize('variant', ['', 'B', 'B/16', 'B/0x2', 'B/16x0', 'B/16x2x2', 'b16x2'])
def test_a_bad_video_variant_names_the_form(variant):
    with pytest.raises(UserError, match=r"SIZE/PATCHxFRAMES, for example 'B/16x2'"):
        variants.video(variant)


def test_a_bad_image_variant_names_the_form():
    with pytest.raises(UserError, match=r"SIZE/PATCH, for example 'B/16'"):
        variants.image('B/16x2')


def test_an_unknown_size_lists_the_known_ones():
    with pytest.raises(UserError, match=r"unknown size 'XL': it is one of Ti, S, B, L, H"):
        variants.video('XL/16x2')
