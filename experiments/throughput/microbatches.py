"""Is a batch faster in pieces? python -m experiments.throughput.microbatches

The training step of four families in bfloat16 on a slice of TPUs, with eight clips on each chip, as their
compiler estimates it (extra [plan]; nothing is run): whole, and in 2, 4 and 8 microbatches
(`config.accumulate`), whose gradients are added up: the same step up to rounding. A chip's vector memory
holds what the layers of a few clips make, and not of many. Writes table_microbatches.md beside this file;
plans are kept in the cache of vjax.plan, so that the same command goes on where it stopped.
"""

from pathlib import Path
from typing import Any

import jax

from vjax import cli
from vjax.planning import cache, topology
from vjax.planning.estimate import plan

HERE = Path(__file__).parent
CONFIGS = (
    'vivit/kinetics400.py:variant=B/16x2',
    'vivit/kinetics400.py:attention=spacetime',
    'lookupvit/kinetics400.py:variant=B/16x2',
    'mtv/kinetics400.py:variant=B/2+S/4+Ti/8',
)
CLIPS = 8  # On each chip.
PIECES = (1, 2, 4, 8)


def main(argv: list[str]) -> None:
    """Plans them all, and writes the table after each."""
    parser = cli.parser(__doc__)
    parser.add_argument('--topology', default='v5e:2x2')
    parser.add_argument('--cache', type=Path, default=cache.default_folder())
    args = parser.parse_args(argv)
    jax.config.update('jax_platforms', 'cpu')
    devices, _ = topology.find(args.topology)
    lines = [
        f'`python -m experiments.throughput.microbatches --topology={args.topology}`: estimates by the '
        f'compiler for TPUs of steps with {CLIPS} clips on each chip, parameters whole on each, bfloat16; '
        'nothing was run.',
        '',
        '| Config | Batch | Microbatches | Step, ms | Clips/s | MFU | Peak, GiB | x faster |',
        '| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |',
    ]
    for name in CONFIGS:
        whole = None
        for pieces in PIECES:
            config = cli.load_config(
                f'configs/{name}',
                [
                    f'--config.batch_size={CLIPS * len(devices)}',
                    f'--config.accumulate={pieces}',
                    '--config.model.dtype=bfloat16',
                ],
            )
            result = plan(config, args.topology, folder=args.cache)
            whole = whole or result
            lines.append(row(name, result, whole))
            print(lines[-1], flush=True)
            (HERE / 'table_microbatches.md').write_text('\n'.join(lines) + '\n')


def row(name: str, result: dict[str, Any], whole: dict[str, Any]) -> str:
    """A plan as a row of the table, beside that of the batch as a whole."""
    cells = [name, result['batch_size'], result['accumulate']]
    if result['memory']['fits']:
        cells += [
            f'{result["step_seconds"] * 1e3:.1f}',
            f'{result["clips_per_second"]:,.0f}',
            f'{result["mfu"]:.1%}',
        ]
    else:
        cells += ['does not fit', '', '']
    cells.append(f'{result["memory"]["peak"] / 2**30:.2f}')
    both = result['memory']['fits'] and whole['memory']['fits']
    cells.append(f'{whole["step_seconds"] / result["step_seconds"]:.2f}' if both else '')
    return f'| {" | ".join(map(str, cells))} |'


if __name__ == '__main__':
    cli.run(main)
