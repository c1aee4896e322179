"""Colour jitter, in the order and with the ranges of Scenic's video pipeline."""

import dm_pix as pix
import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Float, Key

# Of brightness, saturation, contrast, hue, in this order.
RANGES = ((-32 / 255, 32 / 255), (0.6, 1.4), (0.6, 1.4), (-0.2, 0.2))


def jitter_colors(
    video: Float[Array, 'time height width 3'], key: Key[Array, '']
) -> Float[Array, 'time height width 3']:
    """Changes brightness, saturation, contrast and hue, in this order, alike in all frames.

    Pixels are in [0, 1] and are clipped to it after every step, since the hue and saturation of other
    colours mean nothing. The contrast is changed about the mean of the clip, not of each frame, which
    would make the frames of a clip that brightens change differently.
    """
    keys = jax.random.split(key, len(RANGES))
    brightness, saturation, contrast, hue_shift = (
        jax.random.uniform(key, (), minval=least, maxval=most)
        for key, (least, most) in zip(keys, RANGES, strict=True)
    )
    # One tall picture: dm-pix takes means over the last axes but the channels.
    x = rearrange(video, 't h w c -> (t h) w c')
    x = jnp.clip(pix.adjust_brightness(x, brightness), 0, 1)
    h, s, v = rgb_to_hsv(x)
    s = jnp.clip(s * saturation, 0, 1)
    x = jnp.clip(pix.hsv_to_rgb(jnp.stack([h, s, v], axis=-1)), 0, 1)
    x = jnp.clip(pix.adjust_contrast(x, contrast), 0, 1)
    h, s, v = rgb_to_hsv(x)
    x = jnp.clip(pix.hsv_to_rgb(jnp.stack([h + hue_shift, s, v], axis=-1)), 0, 1)
    return rearrange(x, '(t h) w c -> t h w c', t=video.shape[0])


def rgb_to_hsv(
    image: Float[Array, 'height width 3'],
) -> Float[Array, '3 height width']:
    """Hue, saturation and value, all in [0, 1], of an image in [0, 1].

    Those of `dm_pix.rgb_to_hsv`, in a formula for the hue that is continuous. That one asks which channel
    equals the largest; where the compiler has computed a channel anew for the question, and rounded it
    otherwise, none does, and the colour becomes another.
    """
    red, green, blue = rearrange(image, 'h w c -> c h w')
    value = jnp.maximum(jnp.maximum(red, green), blue)
    spread = value - jnp.minimum(jnp.minimum(red, green), blue)
    divisor = 6 * jnp.where(spread > 0, spread, 1)
    # Where two channels are equal, both of their formulas give the same hue.
    hue = jnp.where(
        (red >= green) & (red >= blue),
        (green - blue) / divisor,
        jnp.where(green >= blue, (blue - red) / divisor + 2 / 6, (red - green) / divisor + 4 / 6),
    )
    return jnp.stack([hue % 1, spread / jnp.where(value > 0, value, 1), value])
