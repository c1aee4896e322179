"""The operations of RandAugment and AutoAugment, as Pillow does them, on all frames of a clip alike.

A clip counts as one tall picture, its frames below each other, as in Scenic: what depends on all pixels
(the mean of `contrast`, the range of `autocontrast`, the histogram of `equalize`) is the clip's, so that
nothing flickers. Pixels are bytes before and after each operation, and where Pillow computes with bytes
results are equal; the bounds where it does not are in the tests.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Float, Int, Key, UInt8

Video = UInt8[Array, 'time height width 3']
Number = Float[Array, '']

GREY = 128  # Fills what an operation leaves empty.


def invert(video: Video) -> Video:
    """Negative (`ImageOps.invert`)."""
    return 255 - video


def solarize(video: Video, threshold: Number) -> Video:
    """Negative of the pixels from `threshold` on (`ImageOps.solarize`)."""
    return jnp.where(video >= threshold, 255 - video, video)


def solarize_add(video: Video, addition: Number) -> Video:
    """Adds to pixels below 128."""
    lighter = jnp.clip(video + addition, 0, 255).astype(jnp.uint8)
    return jnp.where(video < 128, lighter, video)


def posterize(video: Video, bits: Number) -> Video:
    """Keeps the highest of the 8 `bits` (`ImageOps.posterize`)."""
    kept = jnp.left_shift(255, 8 - bits.astype(jnp.int32)) & 255
    return video & kept.astype(jnp.uint8)


def brightness(video: Video, factor: Number) -> Video:
    """Away from black (`ImageEnhance.Brightness`)."""
    return _away(jnp.uint8(0), video, factor)


def color(video: Video, factor: Number) -> Video:
    """Away from grey (`ImageEnhance.Color`)."""
    return _away(_luma(video)[..., None], video, factor)


def contrast(video: Video, factor: Number) -> Video:
    """Away from the mean of the clip's luma, rounded (`ImageEnhance.Contrast`).

    TensorFlow's RandAugment, hence Scenic's, divides the sum by 256 instead of the number of pixels,
    and for most pictures moves away from white.
    """
    total = jnp.sum(_luma(video), axis=(1, 2), dtype=jnp.int32)  # Of a frame: all would overflow.
    mean = jnp.sum(total.astype(jnp.float32)) / video[..., 0].size
    return _away(jnp.floor(mean + 0.5), video, factor)


def sharpness(video: Video, factor: Number) -> Video:
    """Away from the smoothed frame, whose border is not smoothed (`ImageEnhance.Sharpness`)."""
    x = video.astype(jnp.int32)
    columns = x[:, :, :-2] + x[:, :, 1:-1] + x[:, :, 2:]
    box = columns[:, :-2] + columns[:, 1:-1] + columns[:, 2:]
    middle = (2 * (box + 4 * x[:, 1:-1, 1:-1]) + 13) // 26  # (1 1 1; 1 5 1; 1 1 1) / 13, rounded.
    smooth = jax.lax.dynamic_update_slice(x, middle, (0, 1, 1, 0))
    return _away(smooth, video, factor)


def autocontrast(video: Video) -> Video:
    """Stretches each channel of the clip to 0 .. 255 (`ImageOps.autocontrast`)."""
    rows = rearrange(video, 't h w c -> (t h) (w c)')  # Wide, and so ten times as fast on a CPU.
    low = rearrange(jnp.min(rows, axis=0), '(w c) -> c w', c=3).min(1)
    high = rearrange(jnp.max(rows, axis=0), '(w c) -> c w', c=3).max(1)

    def stretched(ends):
        low, high = (end.astype(jnp.int32) for end in ends)
        levels = jnp.arange(256)
        return jnp.where(high > low, 255 * (levels - low) // jnp.maximum(high - low, 1), levels)

    return _look_up(video, jax.lax.map(stretched, (low, high)))


def equalize(video: Video) -> Video:
    """Spreads the levels of each channel of the clip evenly (`ImageOps.equalize`)."""

    def spread(counts):
        last = 255 - jnp.argmax(counts[::-1] > 0)
        step = (jnp.sum(counts) - counts[last]) // 255
        below = jnp.cumsum(counts) - counts
        even = (step // 2 + below) // jnp.maximum(step, 1)
        return jnp.where(step > 0, even, jnp.arange(256))

    return _look_up(video, jax.lax.map(spread, _histogram(video)))


def cutout(video: Video, half: Number, key: Key[Array, ''], fill: int) -> Video:
    """Fills a square (arXiv 1708.04552) of side 2 x `half` about a pixel that is drawn uniformly."""

    def inside(key, length):
        centre = jax.random.randint(key, (), 0, length)
        places = jnp.arange(length)
        return (places >= centre - half) & (places < centre + half)

    of_row, of_column = jax.random.split(key)
    rows, columns = inside(of_row, video.shape[1]), inside(of_column, video.shape[2])
    square = rows[:, None] & columns[None, :]
    return jnp.where(square[None, :, :, None], jnp.uint8(fill), video)


def shear_x(video: Video, level: Number, *, smooth: bool) -> Video:
    """Moves each row by `level` times its distance from the top."""
    return warp(video, [1, level, 0, 0, 1, 0], smooth=smooth)


def shear_y(video: Video, level: Number, *, smooth: bool) -> Video:
    """Moves each column by `level` times its distance from the left."""
    return warp(video, [1, 0, 0, level, 1, 0], smooth=smooth)


def translate_x(video: Video, pixels: Number, *, smooth: bool) -> Video:
    """Moves the frames to the left."""
    return warp(video, [1, 0, pixels, 0, 1, 0], smooth=smooth)


def translate_y(video: Video, pixels: Number, *, smooth: bool) -> Video:
    """Moves the frames up."""
    return warp(video, [1, 0, 0, 0, 1, pixels], smooth=smooth)


def rotate(video: Video, degrees: Number, *, smooth: bool) -> Video:
    """Turns the frames counter-clockwise about their centre (`Image.rotate`)."""
    x, y = video.shape[2] / 2, video.shape[1] / 2
    cosine, sine = jnp.cos(jnp.radians(degrees)), jnp.sin(jnp.radians(degrees))
    right, down = x - cosine * x + sine * y, y - sine * x - cosine * y
    return warp(video, [cosine, -sine, right, sine, cosine, down], smooth=smooth)


def warp(video: Video, matrix: list[Number | int], *, smooth: bool) -> Video:
    """`Image.transform(..., AFFINE)`: the frames seen through an affine map, outside of them grey.

    Where to look is computed once and serves all frames.

    Args:
        video: the clip.
        matrix: a, b, c, d, e, f: a pixel centre (x, y) shows what is at (ax + by + c, dx + ey + f).
        smooth: bilinear; else the nearest pixel.
    """
    height, width = video.shape[1:3]
    x = jnp.arange(width)[None, :] + 0.5
    y = jnp.arange(height)[:, None] + 0.5
    a, b, c, d, e, f = matrix
    x, y = a * x + b * y + c, d * x + e * y + f
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    pixels = rearrange(video, 't h w c -> t (h w) c')

    def look(row: Int[Array, 'height width'], column: Int[Array, 'height width']) -> Video:
        place = jnp.clip(row, 0, height - 1) * width + jnp.clip(column, 0, width - 1)
        found = jnp.take(pixels, place.reshape(-1), axis=1, mode='clip')
        return rearrange(found, 't (h w) c -> t h w c', h=height)

    if smooth:
        row, column = jnp.floor(y - 0.5), jnp.floor(x - 0.5)
        down = (y - 0.5 - row)[None, :, :, None]
        right = (x - 0.5 - column)[None, :, :, None]
        row, column = row.astype(jnp.int32), column.astype(jnp.int32)

        def between(row):
            first, second = look(row, column), look(row, column + 1).astype(jnp.float32)
            return first + (second - first) * right

        top = between(row)
        seen = (top + (between(row + 1) - top) * down).astype(jnp.uint8)
    else:
        seen = look(jnp.floor(y).astype(jnp.int32), jnp.floor(x).astype(jnp.int32))
    return jnp.where(inside[None, :, :, None], seen, jnp.uint8(GREY))


# Name -> (video, strength, key) -> video, all of one signature for `jax.lax.switch`.
Operation = Callable[[Video, Number, Key[Array, '']], Video]
COLORS: dict[str, Operation] = {
    'identity': lambda video, strength, key: video,
    'invert': lambda video, strength, key: invert(video),
    'autocontrast': lambda video, strength, key: autocontrast(video),
    'equalize': lambda video, strength, key: equalize(video),
    'solarize': lambda video, strength, key: solarize(video, strength),
    'solarize_add': lambda video, strength, key: solarize_add(video, strength),
    'posterize': lambda video, strength, key: posterize(video, strength),
    'brightness': lambda video, strength, key: brightness(video, strength),
    'color': lambda video, strength, key: color(video, strength),
    'contrast': lambda video, strength, key: contrast(video, strength),
    'sharpness': lambda video, strength, key: sharpness(video, strength),
}
WARPS = {
    'shear_x': shear_x,
    'shear_y': shear_y,
    'translate_x': translate_x,
    'translate_y': translate_y,
    'rotate': rotate,
}


def operation(name: str, *, smooth: bool, fill: int) -> Operation:
    """The operation `name` as a function of (video, strength, key).

    Args:
        name: of `COLORS`, of `WARPS`, or 'cutout'.
        smooth: whether warps are bilinear.
        fill: the level that `cutout` fills with.
    """
    if name in WARPS:
        return lambda video, strength, key: WARPS[name](video, strength, smooth=smooth)
    if name == 'cutout':
        return lambda video, strength, key: cutout(video, strength, key, fill)
    return COLORS[name]


def _away(
    from_: UInt8[Array, '...'] | Int[Array, '...'] | Float[Array, ''], video: Video, factor: Number
) -> Video:
    """from_ + factor (video - from_), cut off as Pillow's `Image.blend` does: not rounded."""
    start = from_.astype(jnp.float32)
    moved = start + factor * (video.astype(jnp.float32) - start)
    return jnp.clip(moved, 0, 255).astype(jnp.uint8)


def _luma(video: Video) -> Int[Array, 'time height width']:
    """Pillow's conversion to 'L' (ITU-R 601-2), in its fixed-point arithmetic."""
    red, green, blue = (video[..., i].astype(jnp.int32) for i in range(3))
    return (19595 * red + 38470 * green + 7471 * blue + 32768) >> 16


def _histogram(video: Video) -> Int[Array, '3 256']:
    """How many pixels of each channel have each level."""
    places = rearrange(video, 't h w c -> c (t h w)').astype(jnp.int32)
    empty = jnp.zeros(256, jnp.int32)
    return jnp.stack([empty.at[places[i]].add(1, mode='promise_in_bounds') for i in range(3)])


def _look_up(video: Video, levels: Int[Array, '3 256']) -> Video:
    """The new level of each pixel, channel by channel.

    The table should come out of a loop, such as `jax.lax.map`: XLA would otherwise compute the entry of
    each pixel anew.
    """
    table = jnp.clip(levels, 0, 255).astype(jnp.uint8)
    channels = [table[i].at[video[..., i]].get(mode='promise_in_bounds') for i in range(3)]
    return jnp.stack(channels, axis=-1)
