"""Parameters and GFLOPs beside the paper's: python -m experiments.model_costs.run

Prints the table of README and writes it to table.md beside this file. Nothing is trained or allocated:
every row is what `python -m vjax.describe --config=... --json` prints.
"""

from pathlib import Path

from vjax import cli
from vjax.describe import describe

CONFIG = 'configs/vivit/kinetics400.py'
# Model, config argument and overrides, GFLOPs in the paper (ViViT, Tab. 2, Tab. 4 and section 4.3).
ROWS = (
    ('B/16x2 spatio-temporal (Model 1)', 'attention=spacetime', (), '455.2'),
    ('B/16x2 factorised encoder (Model 2)', 'attention=factorised_encoder', (), '284.4'),
    (
        'B/16x2 factorised self-attention (Model 3)',
        'attention=factorised_self_attention',
        (),
        '372.3',
    ),
    ('B/16x2 factorised dot-product (Model 4)', 'attention=factorised_dot_product', (), '277.1'),
    ('B/16x2 average pooling (baseline)', 'attention=average_pool', (), '283.9'),
    ('L/16x2 spatio-temporal', 'variant=L/16x2,attention=spacetime', (), '1446'),
    (
        'L/16x2 spatio-temporal, 288 pixels',
        'variant=L/16x2,attention=spacetime',
        ('clip.size=288', 'clip.short_side=320'),
        '2919',
    ),
    (
        'L/16x2 spatio-temporal, 320 pixels',
        'variant=L/16x2,attention=spacetime',
        ('clip.size=320', 'clip.short_side=352'),
        '3992',
    ),
    ('L/16x2 factorised encoder', 'variant=L/16x2', (), '995.3'),
)


def main() -> None:
    """Measures, prints and writes the table."""
    lines = [
        f'| Model (`{CONFIG}`) | Argument | Tokens | Parameters | GFLOPs | GFLOPs, the paper |',
        '| --- | --- | ---: | ---: | ---: | ---: |',
    ]
    for name, arg, overrides, paper in ROWS:
        overrides = [f'--config.{override}' for override in overrides]
        shown = ' '.join(f'`{part}`' for part in (arg, *overrides))
        costs = describe(cli.load_config(f'{CONFIG}:{arg}', overrides))
        lines.append(
            f'| {name} | {shown} | {costs["tokens"]:,} | {costs["params"]:,} | '
            f'{costs["gflops_per_view"]:.1f} | {paper} |'
        )
        print(lines[-1], flush=True)
    (Path(__file__).parent / 'table.md').write_text('\n'.join(lines) + '\n')


if __name__ == '__main__':
    main()
