"""RandAugment (arXiv 1909.13719) and AutoAugment (arXiv 1805.09501): which operations, how strong.

A clip goes through a few layers, each an operation and a strength that are drawn once for the clip. What
RandAugment draws from, all equally probable:

    'paper'       the paper's 14; ranges and magnitudes (out of 30) as in torchvision
    'all'         the 16 of the authors' TensorFlow code, and identity; magnitudes out of 10, and beyond:
                  at 20 colours are multiplied by 3.7 and rotations are of 60 degrees
    'colors'      those of 'all' that move no pixels: what Scenic leaves of them for ViViT and MTV
    'increasing'  the 15 of timm's '-inc1', all of which change more the larger the magnitude is, to 10

Pixels per magnitude, of translations and cutout, are those of the TensorFlow code at 224 pixels, and
in proportion at other sizes. Its threshold of solarize is a byte and wraps around, so that magnitudes 10
and 20 invert; so does this one. Scenic's cutout is black, since the grey is lost on its way.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int32, Key, UInt8

from vjax.data.augment import operations
from vjax.data.sections import Augment

GEOMETRIC = ('rotate', 'shear_x', 'shear_y', 'translate_x', 'translate_y')
ENHANCING = ('color', 'contrast', 'brightness', 'sharpness')
COLORS = (
    'identity',
    'autocontrast',
    'equalize',
    'invert',
    'posterize',
    'solarize',
    'solarize_add',
    *ENHANCING,
    'cutout',
)
# What a layer of each set draws from.
NAMES = {
    'paper': (
        *('identity', 'autocontrast', 'equalize', 'posterize', 'solarize'),
        *ENHANCING,
        *GEOMETRIC,
    ),
    'all': (*COLORS, *GEOMETRIC),
    'colors': COLORS,
    'increasing': (
        *('autocontrast', 'equalize', 'invert', 'posterize', 'solarize', 'solarize_add'),
        *ENHANCING,
        *GEOMETRIC,
    ),
}
MAGNITUDES = {'paper': 30, 'all': 10, 'colors': 10, 'increasing': 10}

# Sub-policies: two operations, each with its probability and magnitude (0 .. 9), from the paper's
# appendix. Numbers that an operation does not read are 0.
POLICIES = {
    'imagenet': """
        posterize .4 8 rotate .6 9,     solarize .6 5 autocontrast .6 0, equalize .8 0 equalize .6 0,
        posterize .6 7 posterize .6 6,  equalize .4 0 solarize .2 4,     equalize .4 0 rotate .8 8,
        solarize .6 3 equalize .6 0,    posterize .8 5 equalize 1 0,     rotate .2 3 solarize .6 8,
        equalize .6 0 posterize .4 6,   rotate .8 8 color .4 0,          rotate .4 9 equalize .6 0,
        equalize 0 0 equalize .8 0,     invert .6 0 equalize 1 0,        color .6 4 contrast 1 8,
        rotate .8 8 color 1 2,          color .8 8 solarize .8 7,        sharpness .4 7 invert .6 0,
        shear_x .6 5 equalize 1 0,      color .4 0 equalize .6 0,        equalize .4 0 solarize .2 4,
        solarize .6 5 autocontrast .6 0, invert .6 0 equalize 1 0,       color .6 4 contrast 1 8,
        equalize .8 0 equalize .6 0
    """,
    'cifar10': """
        invert .1 0 contrast .2 6,         rotate .7 2 translate_x .3 9,    sharpness .8 1 sharpness .9 3,
        shear_y .5 8 translate_y .7 9,     autocontrast .5 0 equalize .9 0, shear_y .2 7 posterize .3 7,
        color .4 3 brightness .6 7,        sharpness .3 9 brightness .7 9,  equalize .6 0 equalize .5 0,
        contrast .6 7 sharpness .6 5,      color .7 7 translate_x .5 8,     equalize .3 0 autocontrast .4 0,
        translate_y .4 3 sharpness .2 6,   brightness .9 6 color .2 8,      solarize .5 2 invert 0 0,
        equalize .2 0 autocontrast .6 0,   equalize .2 0 equalize .6 0,     color .9 9 equalize .6 0,
        autocontrast .8 0 solarize .2 8,   brightness .1 3 color .7 0,      solarize .4 5 autocontrast .9 0,
        translate_y .9 9 translate_y .7 9, autocontrast .9 0 solarize .8 3, equalize .8 0 invert .1 0,
        translate_y .7 9 autocontrast .9 0
    """,
    'svhn': """
        shear_x .9 4 invert .2 0,      shear_y .9 8 invert .7 0,       equalize .6 0 solarize .6 6,
        invert .9 0 equalize .6 0,     equalize .6 0 rotate .9 3,      shear_x .9 4 autocontrast .8 0,
        shear_y .9 8 invert .4 0,      shear_y .9 5 solarize .2 6,     invert .9 0 autocontrast .8 0,
        equalize .6 0 rotate .9 3,     shear_x .9 4 solarize .3 3,     shear_y .8 8 invert .7 0,
        equalize .9 0 translate_y .6 6, invert .9 0 equalize .6 0,     contrast .3 3 rotate .8 4,
        invert .8 0 translate_y 0 2,   shear_y .7 6 solarize .4 8,     invert .6 0 rotate .8 4,
        shear_y .3 7 translate_x .9 3, shear_x .1 6 invert .6 0,       solarize .7 2 translate_y .6 7,
        shear_y .8 4 invert .8 0,      shear_x .7 9 translate_y .8 3,  shear_y .8 5 autocontrast .7 0,
        shear_x .7 2 invert .1 0
    """,
}


class Layers(NamedTuple):
    """What happens to a clip, one layer after another.

    Attributes:
        operation: number of the operation, in the order of `names_of`.
        strength: what it takes: a factor, a level, degrees or pixels.
    """

    operation: Int32[Array, 'layers']
    strength: Float[Array, 'layers']


def distort(
    video: UInt8[Array, 'time height width 3'], key: Key[Array, ''], settings: Augment
) -> UInt8[Array, 'time height width 3']:
    """AutoAugment or RandAugment, whichever is on; only the operations that are drawn are computed.

    Not to be put under `jax.vmap`, where a `switch` computes all of its branches.
    """
    of_draw, of_pixels = jax.random.split(key)
    layers = draw(of_draw, settings, video.shape[1:3])
    branches = [
        operations.operation(
            name,
            smooth=not settings.auto_augment and settings.rand_augment_ops == 'increasing',
            fill=0 if settings.rand_augment_ops == 'colors' else operations.GREY,
        )
        for name in names_of(settings)
    ]

    def layer(video, drawn):
        number, strength, key = drawn
        return jax.lax.switch(number, branches, video, strength, key), None

    keys = jax.random.split(of_pixels, len(layers.operation))
    return jax.lax.scan(layer, video, (*layers, keys))[0]


def names_of(settings: Augment) -> tuple[str, ...]:
    """The operations that layers may consist of, identity first."""
    if settings.auto_augment:
        names = sorted({op[0] for policy in read_policy(settings.auto_augment) for op in policy})
    else:
        names = NAMES[settings.rand_augment_ops]
    return ('identity', *(name for name in names if name != 'identity'))


def draw(key: Key[Array, ''], settings: Augment, shape: tuple[int, int]) -> Layers:
    """The layers of one clip of frames of this `shape` (height, width)."""
    names = names_of(settings)
    of_choice, of_sign, of_level, of_layer = jax.random.split(key, 4)
    if settings.auto_augment:  # One of 25 sub-policies, all equally probable.
        policy = read_policy(settings.auto_augment)
        sub = jax.random.randint(of_choice, (), 0, len(policy))
        numbers = [[names.index(name) for name, _, _ in pair] for pair in policy]
        chosen = jnp.asarray(numbers, jnp.int32)[sub]
        probability = jnp.asarray([[p for _, p, _ in pair] for pair in policy])[sub]
        level = jnp.asarray([[m / 9 for _, _, m in pair] for pair in policy])[sub]
        strength_of = paper_strength
    else:
        ops, num = settings.rand_augment_ops, settings.rand_augment
        first = 0 if 'identity' in NAMES[ops] else 1  # It is in `names` in any case.
        chosen = jax.random.randint(of_choice, (num,), first, len(names))
        probability = settings.rand_augment_probability
        magnitude = jnp.full((num,), settings.rand_augment_magnitude, jnp.float32)
        if settings.rand_augment_std:
            magnitude += settings.rand_augment_std * jax.random.normal(of_level, (num,))
            magnitude = jnp.clip(magnitude, 0, 30 if ops in ('all', 'colors') else MAGNITUDES[ops])
        level = magnitude / MAGNITUDES[ops]
        strength_of = STRENGTHS[ops]
    sign = jax.random.rademacher(of_sign, chosen.shape, jnp.float32)
    each = jnp.stack([strength_of(name, level, sign, shape) for name in names])
    applied = jax.random.uniform(of_layer, chosen.shape) < probability
    return Layers(jnp.where(applied, chosen, 0), jnp.take_along_axis(each, chosen[None], axis=0)[0])


@functools.cache
def read_policy(name: str) -> tuple[tuple[tuple[str, float, int], ...], ...]:
    """A policy of `POLICIES`: 25 pairs of (operation, probability, magnitude)."""
    policy = []
    for line in POLICIES[name].split(','):
        words = line.split()
        policy.append(
            tuple((words[i], float(words[i + 1]), int(words[i + 2])) for i in range(0, 6, 3))
        )
    return tuple(policy)


Level = Float[Array, 'layers']


def paper_strength(name: str, level: Level, sign: Level, shape: tuple[int, int]) -> Level:
    """The papers' ranges (AutoAugment, Tab. 6), as torchvision reads them.

    Args:
        name: of the operation.
        level: part of the largest magnitude.
        sign: 1 or -1, at even odds.
        shape: of the frames: height, width.
    """
    match name:
        case 'posterize':
            return 8 - jnp.round(4 * level)
        case 'solarize':
            return 255 - 255 * level
        case 'translate_x' | 'translate_y':
            side = shape[1] if name == 'translate_x' else shape[0]
            return sign * _whole(150 / 331 * side * level)
    if name in ENHANCING:
        return 1 + 0.9 * sign * level
    return _common(name, level, sign)


def tensorflow_strength(name: str, level: Level, sign: Level, shape: tuple[int, int]) -> Level:
    """The ranges of the TensorFlow code, where magnitudes may exceed the largest."""
    match name:
        case 'posterize':
            return jnp.minimum(_whole(4 * level), 8)
        case 'solarize':
            return _whole(256 * level) % 256
        case 'solarize_add':
            return _whole(110 * level)
        case 'cutout':
            return _whole(40 / 224 * min(shape) * level)
        case 'translate_x' | 'translate_y':
            side = shape[1] if name == 'translate_x' else shape[0]
            return sign * 100 / 224 * side * level
    if name in ENHANCING:
        return 0.1 + 1.8 * level
    return _common(name, level, sign)


def increasing_strength(name: str, level: Level, sign: Level, shape: tuple[int, int]) -> Level:
    """timm's ranges, in which a larger magnitude always changes more."""
    match name:
        case 'posterize':
            return 4 - _whole(4 * level)
        case 'solarize':
            return 256 - _whole(256 * level)
        case 'solarize_add':
            return _whole(110 * level)
        case 'translate_x' | 'translate_y':
            side = shape[1] if name == 'translate_x' else shape[0]
            return sign * 0.45 * side * level
    if name in ENHANCING:
        return jnp.maximum(1 + 0.9 * sign * level, 0.1)
    return _common(name, level, sign)


STRENGTHS = {
    'paper': paper_strength,
    'all': tensorflow_strength,
    'colors': tensorflow_strength,
    'increasing': increasing_strength,
}


def _common(name, level, sign):
    if name == 'rotate':
        return 30 * sign * level
    if name in ('shear_x', 'shear_y'):
        return 0.3 * sign * level
    return 0 * level  # It takes nothing.


def _whole(x):
    return jnp.trunc(x + 1e-4)  # 2.9999998 is 3: levels are thirds and tenths in float32.
