"""Model sizes in the papers' own notation: `'B/16'` for images, `'B/16x2'` for videos, and
`'B/2+S/4+Ti/8'` for several views of a video.

The letter is the size of the transformer (ViT, Tab. 1; ViViT, section 4.1; Ti and S from DeiT, g
from VideoPrism's code), the first number the height and width of a patch in pixels, and the number
after `x` the depth of a tubelet in frames. The result is a dict of fields:
`ViViT(num_classes=400, **video('B/16x2'))`.
"""

import re

from vjax.errors import UserError

SIZES = {
    'Ti': {'width': 192, 'depth': 12, 'num_heads': 3, 'mlp_dim': 768},
    'S': {'width': 384, 'depth': 12, 'num_heads': 6, 'mlp_dim': 1536},
    'B': {'width': 768, 'depth': 12, 'num_heads': 12, 'mlp_dim': 3072},
    'L': {'width': 1024, 'depth': 24, 'num_heads': 16, 'mlp_dim': 4096},
    'H': {'width': 1280, 'depth': 32, 'num_heads': 16, 'mlp_dim': 5120},
    'g': {'width': 1408, 'depth': 40, 'num_heads': 16, 'mlp_dim': 6144},
}


def image(variant: str) -> dict:
    """Fields of an image model: `'B/16'` -> width, depth, num_heads, mlp_dim, patch=(16, 16).

    Raises:
      UserError: the variant is not SIZE/PATCH, or either number or the size is unknown.
    """
    size, patch = _parse(variant, r'(\w+)/([1-9]\d*)', 'SIZE/PATCH', 'B/16')
    return {**_size(variant, size), 'patch': (int(patch), int(patch))}


def video(variant: str) -> dict:
    """Fields of a video model: `'B/16x2'` -> width, depth, num_heads, mlp_dim, tubelet=(2, 16, 16).

    Raises:
      UserError: the variant is not SIZE/PATCHxFRAMES, or either number or the size is unknown.
    """
    pattern = r'(\w+)/([1-9]\d*)x([1-9]\d*)'
    size, patch, frames = _parse(variant, pattern, 'SIZE/PATCHxFRAMES', 'B/16x2')
    return {**_size(variant, size), 'tubelet': (int(frames), int(patch), int(patch))}


def views(variant: str) -> dict:
    """Fields of a multiview model, from the longest tubelets to the shortest, in MTV's notation.

    `'B/2+S/4+Ti/8'` -> widths=(192, 384, 768), depths, num_heads, mlp_dims and tubelets=((8, 16, 16),
    (4, 16, 16), (2, 16, 16)). The number is the depth of a view's tubelets in frames; their height
    and width are 16 pixels, 14 for size H, unless they stand before it: `'B/16x2'`, as in `video`,
    or height and width apart, `'B/16x32x2'`. Views of equal depth stay in the order given.

    Raises:
      UserError: a view is of none of these forms, or a number or the size is unknown.
    """
    pattern = r'(\w+)/(?:([1-9]\d*)x)?(?:([1-9]\d*)x)?([1-9]\d*)'
    form = 'SIZE/FRAMES, SIZE/PATCHxFRAMES or SIZE/HEIGHTxWIDTHxFRAMES, joined by +'
    columns = []
    for view in variant.split('+'):
        size, height, width, frames = _parse(view, pattern, form, 'B/2+S/4+Ti/8')
        height = int(height or (14 if size == 'H' else 16))
        tubelet = (int(frames), height, int(width or height))
        columns.append({**_size(view, size), 'tubelet': tubelet})
    columns.sort(key=lambda view: -view['tubelet'][0])
    names = {'num_heads': 'num_heads'}  # The others take an s.
    return {
        names.get(name, f'{name}s'): tuple(view[name] for view in columns) for name in columns[0]
    }


def _parse(variant: str, pattern: str, form: str, example: str) -> tuple[str, ...]:
    match = re.fullmatch(pattern, variant)
    if not match:
        raise UserError(
            f'the variant {variant!r} is not of the form {form}, for example {example!r}, '
            f'where SIZE is one of {", ".join(SIZES)}'
        )
    return match.groups('')


def _size(variant: str, size: str) -> dict:
    if size not in SIZES:
        raise UserError(
            f'the variant {variant!r} has an unknown size {size!r}: it is one of {", ".join(SIZES)}'
        )
    return SIZES[size]
