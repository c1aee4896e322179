"""Colour jitter, by dm-pix: the order of SimCLR with the ranges of Scenic's video pipeline."""

import dm_pix as pix
import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Float, Key

MAX_BRIGHTNESS = 32 / 255
SATURATION = (0.6, 1.4)
CONTRAST = (0.6, 1.4)
MAX_HUE = 0.2


def jitter_colors(
    video: Float[Array, 'time height width 3'], key: Key[Array, '']
) -> Float[Array, 'time height width 3']:
    """Changes brightness, saturation, contrast and hue, in this order, alike in all frames.

    Pixels are in [0, 1] and are clipped to it after every step, since the hue and saturation of other
    colours mean nothing. The contrast is changed about the mean of the clip, not of each frame, which
    would make the frames of a clip that brightens change differently.
    """
    brightness, saturation, contrast, hue = jax.random.split(key, 4)

    def uniform(key, least, most):
        return jax.random.uniform(key, (), minval=least, maxval=most)

    # One tall picture: dm-pix takes means over the last axes but the channels.
    x = rearrange(video, 't h w c -> (t h) w c')
    x = pix.adjust_brightness(x, uniform(brightness, -MAX_BRIGHTNESS, MAX_BRIGHTNESS))
    x = jnp.clip(x, 0, 1)
    x = jnp.clip(pix.adjust_saturation(x, uniform(saturation, *SATURATION)), 0, 1)
    x = jnp.clip(pix.adjust_contrast(x, uniform(contrast, *CONTRAST)), 0, 1)
    x = jnp.clip(pix.adjust_hue(x, uniform(hue, -MAX_HUE, MAX_HUE)), 0, 1)
    return rearrange(x, '(t h) w c -> t h w c', t=video.shape[0])
