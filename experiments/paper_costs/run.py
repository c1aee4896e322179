"""Parameters and GFLOPs beside the papers': python -m experiments.paper_costs.run

Prints the table and writes it to table.md beside this file. Nothing is trained or allocated. 'GFLOPs'
are the papers': multiply-adds of one forward pass of one view (see vjax/models/costs.py).

What stands in the column of the reference is, by its source:
    paper    printed in the paper, to as many digits.
    Scenic   counted the same way from the official modules (google-research/scenic). For MTV, whose
             printed figures are not at hand, it is the only reference.
    formula  LookupViT, for which there is neither: (3NM + 2M^2)D + (4N + 15M)D^2 in each block, and
             embedding, heads and temporal encoder. Here ours are matrix products alone, as in the
             formula; resizing to the compressed grid, which the formula leaves out, is one of them.
"""

import dataclasses
from pathlib import Path
from typing import Any

from vjax import cli, models
from vjax.models import costs
from vjax.models.variants import image, video, views

K400 = {'num_classes': 400}
IMAGENET = {'num_classes': 1000}
CLIP = (32, 224, 224, 3)
MTV_B = 'B/2+S/4+Ti/8'
MTV_L = 'L/2+B/4+S/8+Ti/16'
MTV_LATE = 'B/4+S/8+Ti/16'


@dataclasses.dataclass(frozen=True)
class Row:
    """One model, and what its source says of it.

    Attributes:
        label: how the paper calls it.
        name, fields: of the model; the input's shape is `shape`.
        params: the source's, a number (exact) or millions as printed; None where it has none.
        gflops: the source's.
        source: see the top of this file.
        remark: what a difference comes from.
    """

    label: str
    name: str
    fields: dict[str, Any]
    shape: tuple[int, ...]
    params: int | str | None
    gflops: float
    source: str
    remark: str = ''


def vivit(label, variant, attention, params, gflops, size=224, **fields):
    """A row of ViViT, Tab. 2, Tab. 4 or section 4.3."""
    gap = attention in ('factorised_self_attention', 'factorised_dot_product')
    fields = {
        **K400,
        **video(variant),
        'attention': attention,
        'classifier': 'gap' if gap else 'token',
        **fields,
    }
    shape = (32, size, size, 3)
    return Row(f'ViViT-{variant} {label}', 'vivit', fields, shape, params, gflops, 'paper')


def plain(variant, size, gflops, source):
    """A row of the ViT that TokenLearner is compared with."""
    fields = {**IMAGENET, **image(variant), 'classifier': 'gap'}
    shape = (size, size, 3)
    return Row(
        f'ViT-{variant} for comparison, {size} px', 'vit', fields, shape, None, gflops, source
    )


def token_learner(label, variant, size, gflops, source='paper', remark='', params=None, **fields):
    """A row of TokenLearner: on images with `size` pixels, or on clips with version 1.0."""
    if 'x' in variant:
        sizes, name, shape = {**K400, **video(variant)}, 'token_learner_video', (32, size, size, 3)
        sizes['version'] = '1.0'
    else:
        sizes, name, shape = {**IMAGENET, **image(variant)}, 'token_learner', (size, size, 3)
    fields = {**sizes, **fields}
    return Row(f'{label}, {size} px', name, fields, shape, params, gflops, source, remark)


def mtv(label, variant, params, gflops, size=224, **fields):
    """A row of MTV, with Scenic's modules for reference."""
    columns = views(variant)
    depth = max(columns['depths'])
    fields = {**K400, **columns, 'fusion_layers': (depth // 2 - 1, depth - 1), **fields}
    shape = (32, size, size, 3)
    return Row(f'{variant} {label}', 'mtv', fields, shape, params, gflops, 'Scenic')


def block_of_lookupvit(n, m, width):
    """Multiply-adds of a block with n lookup and m compressed tokens."""
    return (3 * n * m + 2 * m**2) * width + (4 * n + 15 * m) * width**2


def lookupvit(variant, size, side):
    """A row of LookupViT on images, with the formula for reference."""
    sizes = image(variant)
    width, (patch, _) = sizes['width'], sizes['patch']
    n = (size // patch) ** 2
    total = sizes['depth'] * block_of_lookupvit(n, side**2, width)
    total += n * 3 * patch**2 * width + 2 * width * 1000
    label = f'LookupViT-{variant} {side}x{side}, {size} px'
    fields = {**IMAGENET, **sizes, 'grid': (side, side)}
    return Row(label, 'lookupvit', fields, (size, size, 3), None, total / 1e9, 'formula')


def lookupvivit(side):
    """A row of LookupViViT-B/16x2 with the factorised encoder: 16 frames of 14 x 14 tokens."""
    sizes = video('B/16x2')
    width, time, n = sizes['width'], 16, 14 * 14
    total = time * (sizes['depth'] * block_of_lookupvit(n, side**2, width) + n * 1536 * width)
    total += 4 * (2 * time**2 * width + 12 * time * width**2) + width * 400
    label = f'LookupViViT-B/16x2 factorised encoder, {side}x{side}'
    fields = {**K400, **sizes, 'grid': (side, side)}
    return Row(label, 'lookupvivit', fields, CLIP, None, total / 1e9, 'formula')


KEY = {'cross_view_width': 'key'}
ROWS = {
    'ViViT (Arnab et al., Tab. 2, Tab. 4, section 4.3), 32 frames, Kinetics-400': (
        vivit('spatio-temporal', 'B/16x2', 'spacetime', '88.9', 455.2),
        vivit('factorised encoder', 'B/16x2', 'factorised_encoder', '115.1', 284.4),
        vivit('factorised self-attention', 'B/16x2', 'factorised_self_attention', '117.3', 372.3),
        vivit('factorised dot-product', 'B/16x2', 'factorised_dot_product', '88.9', 277.1),
        vivit('average pooling', 'B/16x2', 'average_pool', '86.7', 283.9),
        vivit('spatio-temporal', 'L/16x2', 'spacetime', None, 1446),
        vivit('spatio-temporal, 288 px', 'L/16x2', 'spacetime', None, 2919, size=288),
        vivit('spatio-temporal, 320 px', 'L/16x2', 'spacetime', None, 3992, size=320),
        vivit(
            'factorised encoder, 24 temporal layers (the text says 4)',
            'L/16x2',
            'factorised_encoder',
            None,
            995.3,
            temporal_depth=24,
        ),
        Row(
            'ViViT-L/16x2 factorised encoder, 4 temporal layers',
            'vivit',
            {**K400, **video('L/16x2'), 'attention': 'factorised_encoder'},
            CLIP,
            354_903_440,
            990.92,
            'Scenic',
        ),
        vivit('spatio-temporal (the text says H/16x2)', 'H/14x2', 'spacetime', None, 3980.8),
    ),
    'TokenLearner (Ryoo et al.), images and 32 frames of Kinetics-400': (
        plain('B/16', 384, 55.6, 'paper'),
        plain('L/16', 512, 363.1, 'paper'),
        plain('B/32', 384, 13.0, 'Scenic'),
        plain('S/16', 384, 15.58, 'Scenic'),
        plain('S/32', 384, 3.44, 'Scenic'),
        token_learner(
            'B/16, 8 at 6, fuser',
            'B/16',
            384,
            28.7,
            remark='rounds to what is printed',
            learned_tokens=8,
            location=6,
            fuser=True,
        ),
        token_learner(
            'B/16, 8 at 6', 'B/16', 384, 28.36, source='Scenic', learned_tokens=8, location=6
        ),
        token_learner(
            'B/32, 8 at 6', 'B/32', 384, 7.02, source='Scenic', learned_tokens=8, location=6
        ),
        token_learner(
            'S/16, 8 at 6', 'S/16', 384, 7.98, source='Scenic', learned_tokens=8, location=6
        ),
        token_learner(
            'B/16, 21 layers, 8 at 10', 'B/16', 384, 47.1, learned_tokens=8, location=10, depth=21
        ),
        token_learner(
            'B/16, 21 layers, 16 at 10', 'B/16', 384, 47.7, learned_tokens=16, location=10, depth=21
        ),
        token_learner(
            'L/16, 16 at 12',
            'L/16',
            512,
            178.1,
            remark="known mismatch: Scenic's modules give 184.5, too",
            learned_tokens=16,
            location=12,
        ),
        token_learner(
            'L/16x2, 16 at 12',
            'L/16x2',
            224,
            766,
            learned_tokens=16,
            location=12,
            params=307_662_992,
        ),
        token_learner(
            'L/16x2, 16 at 18',
            'L/16x2',
            224,
            1105.8,
            source='Scenic',
            learned_tokens=16,
            location=18,
        ),
        token_learner(
            'L/10x2, 16 at 18',
            'L/10x2',
            220,
            4076,
            remark="known mismatch: Scenic's modules give 4029.6; patches of 10 leave 4 pixels of 224",
            learned_tokens=16,
            location=18,
        ),
    ),
    'MTV (Yan et al.), 32 frames, Kinetics-400': (
        mtv('(MTV-B)', MTV_B, 304_270_864, 376.6),
        mtv("(MTV-B), the keys' width", MTV_B, 306_486_160, 384.0, **KEY),
        mtv('(MTV-B), bottleneck', MTV_B, '302.95', 369.6, fusion='bottleneck'),
        mtv('(MTV-B), late fusion', MTV_B, '302.05', 369.2, fusion='none'),
        mtv('', 'B/2+Ti/8', '209.26', 329.1),
        mtv("the keys' width", 'B/2+Ti/8', '211.47', 336.5, **KEY),
        mtv('', MTV_LATE, '307.79', 191.6),
        mtv("the keys' width", MTV_LATE, '310.01', 195.3, **KEY),
        mtv('bottleneck', MTV_LATE, '306.46', 188.1, fusion='bottleneck'),
        mtv('late fusion', MTV_LATE, '305.57', 187.9, fusion='none'),
        mtv('(one view)', 'B/4', '172.94', 144.6, fusion='none'),
        mtv("the keys' width", 'B/8+Ti/2', '211.9', 106.6, **KEY),
        mtv("the keys' width", 'B/8+S/4+Ti/2', '306.9', 152.0, **KEY),
        mtv('(MTV-B), 320 px', MTV_B, '304.5', 879.7, size=320),
        mtv("(MTV-B), 320 px, the keys' width", MTV_B, '306.8', 899.4, size=320, **KEY),
        mtv('(MTV-L)', MTV_L, 875_908_752, 1425.9),
        mtv("(MTV-L), the keys' width", MTV_L, '879.96', 1436.8, **KEY),
    ),
    'LookupViT (Koner et al.), ImageNet, and 32 frames of Kinetics-400': tuple(
        lookupvit(variant, size, side)
        for variant, size in (('B/16', 224), ('L/16', 224), ('B/16', 384))
        for side in (3, 5, 7, 10)
    )
    + tuple(lookupvivit(side) for side in (3, 5, 7, 10)),
}


def table_line(row: Row) -> str:
    """Counts one model and sets it beside its source."""
    model = models.build(row.name, **row.fields)
    params = costs.count_params(costs.param_shapes(model, row.shape))
    if row.source == 'formula':
        gflops = costs.matrix_products(model, row.shape) / 1e9
    else:
        gflops = costs.gflops(model, row.shape)
    if isinstance(row.params, int):
        theirs, apart = f'{row.params:,}', 'exact' if params == row.params else params - row.params
    elif row.params:
        theirs, apart = f'{row.params} M', f'{params / 1e6 / float(row.params) - 1:+.2%}'
    else:
        theirs = apart = ''
    return (
        f'| {row.label.strip()} | {theirs} | {params:,} | {apart} | {row.gflops:,.5g} | '
        f'{gflops:,.5g} | {gflops / row.gflops - 1:+.2%} | {row.source} | {row.remark} |'
    )


def main(argv: list[str]) -> None:
    """Counts, prints and writes the table."""
    cli.parser(__doc__).parse_args(argv)
    lines = []
    for family, rows in ROWS.items():
        lines += [
            f'## {family}',
            '',
            '| Model | Parameters, reference | Parameters, vjax | Difference | GFLOPs, reference | '
            'GFLOPs, vjax | Difference | Reference | Remark |',
            '| --- | ---: | ---: | ---: | ---: | ---: | ---: | --- | --- |',
        ]
        for row in rows:
            lines.append(table_line(row))
            print(lines[-1], flush=True)
        lines.append('')
    (Path(__file__).parent / 'table.md').write_text('\n'.join(lines))


if __name__ == '__main__':
    cli.run(main)
