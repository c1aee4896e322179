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


@pytest.mark.parametrize('size', variants.SIZES)
def test_heads_are_64_wide_but_for_h(size):
    fields = variants.SIZES[size]
    assert fields['width'] // fields['num_heads'] == (80 if size == 'H' else 64)
    assert fields['mlp_dim'] == 4 * fields['width']


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
