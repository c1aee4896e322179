"""Which of the compiler's flags help? python -m experiments.throughput.flags

The training steps of experiments.throughput as the compiler for TPUs estimates them (extra [plan]; nothing
is run), with one of its flags and without. Writes table_flags.md beside this file. A run takes a flag from
LIBTPU_INIT_ARGS=--FLAG=VALUE.
"""

from pathlib import Path
from typing import Any

import jax

from experiments.throughput import contenders, planned
from experiments.throughput.work import groups
from vjax import cli

HERE = Path(__file__).parent
FLAGS = (
    'xla_msa_use_bundle_aware_cost_model=true',
    'xla_tpu_scoped_vmem_limit_kib=32768',
)
STEPS = (
    ('ViViT-B FE', 'vjax'),
    ('ViViT-B FE', contenders.UNROLLED),
    ('ViViT-B spatio-temporal', 'vjax'),
    ('ViT-B', 'vjax'),
    ('ViT-B', contenders.UNROLLED),
    ('LookupViT-B 5x5', 'vjax'),
    ('TokenLearner-B', 'vjax'),
)


def main(argv: list[str]) -> None:
    """Estimates them all, and writes the table after each step."""
    parser = cli.parser(__doc__)
    parser.add_argument('--topology', default='v5e:2x2')
    args = parser.parse_args(argv)
    jax.config.update('jax_platforms', 'cpu')
    lines = [
        f'`python -m experiments.throughput.flags --topology={args.topology}`: ms of a step as the '
        'compiler for TPUs estimates it, and how many times faster it is with a flag than without; '
        'bfloat16; nothing was run.',
        '',
        f'| Model | Contender | Without | {" | ".join(f"`{flag}`" for flag in FLAGS)} |',
        f'| --- | --- | ---: |{" ---: |" * len(FLAGS)}',
    ]
    works = {work.name: work for group in groups('full', 'bfloat16') for work in group}
    for model, contender in STEPS:
        work = planned.on_all_chips(works[model], args.topology)
        without, *others = (
            planned.estimate(contender, work, args.topology, options)
            for options in ({}, *(dict([flag.split('=')]) for flag in FLAGS))
        )
        cells = [cell(without), *(cell(one, without) for one in others)]
        lines.append(f'| {model} | {contender} | {" | ".join(cells)} |')
        print(lines[-1], flush=True)
        (HERE / 'table_flags.md').write_text('\n'.join(lines) + '\n')


def cell(result: dict[str, Any], without: dict[str, Any] | None = None) -> str:
    """A step's ms, and how many times faster it is than the one without a flag, as far as both fit."""
    if 'missing' in result:
        return result['missing']
    time = f'{1e3 * result["step"]:.1f}'
    if without is None or 'missing' in without:
        return time
    return f'{time} ({without["step"] / result["step"]:.2f})'


if __name__ == '__main__':
    cli.run(main)
