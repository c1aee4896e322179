"""Plan a run: python -m vjax.plan --config=configs/vivit/kinetics400.py:variant=B/16x2 --topology=v5e:4x8

Compiles the training step for chips that need not be there, and prints what their compiler makes of it:
memory, work and communication of each chip, the time of a step, of an epoch, and its cost. It needs no
TPU and no data set, but the compiler for TPUs: pip install 'vjax[plan]'. Results are kept, and read again.

--topology=gpu and --topology=cpu compile for the devices of this machine, without estimates of time.
"""

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax

from vjax import cli
from vjax.errors import UserError
from vjax.planning import cache, sweep, topology
from vjax.planning.estimate import plan

GIB = 2**30


def report(result: Mapping[str, Any]) -> str:
    """A plan in words, for people."""
    memory = result['memory']
    mesh = ' x '.join(f'{axis} {size}' for axis, size in result['mesh'].items())
    lines = [
        f'{result["topology"]}: {result["num_chips"]} x {result["chip"]}, mesh {mesh}, '
        f'{result["preset"]}, batch {result["batch_size"]}{_pieces(result)}, remat {result["remat"]}, '
        f'{result["dtype"]}',
        result['notice'] + ' (cached)' * result['cached'],
        '',
        'memory of a chip, GiB',
    ]
    names = {
        'params': 'parameters',
        'optimizer': 'optimiser',
        'ema': 'moving average',
        'batch': 'batch',
        'temporaries': 'temporaries',
        'peak': 'peak',
        'necessary': 'necessary by arithmetic',
    }
    lines += [f'  {words:<26}{memory[name] / GIB:>10.3f}' for name, words in names.items()]
    if memory['capacity']:
        verdict = 'fits' if memory['fits'] else 'does not fit'
        lines.append(f'  {"of the chip":<26}{memory["capacity"] / GIB:>10.3f}  {verdict}')
    if result['flops'] is not None:
        lines += [
            'in a step, of a chip',
            f'  {"GFLOPs":<26}{result["flops"] / 1e9:>10,.1f}',
            f'  {"GB read and written":<26}{result["bytes_accessed"] / 1e9:>10,.2f}',
        ]
        for kind, total in result['collectives'].items():
            lines.append(f'  {kind:<26}{total["bytes"] / 2**20:>10,.2f}  MiB in {total["count"]:,}')
    if result['unknown_loops']:
        lines.append(f'  {result["unknown_loops"]} loops of unknown length were counted once')
    if result['cycles']:
        lines.append(f'  {"cycles":<26}{result["cycles"]:>10,}')
    if result['step_seconds']:
        lines += [
            'as the compiler estimates it',
            f'  {"step, ms":<26}{result["step_seconds"] * 1e3:>10.2f}'
            f'  {result["work_seconds"] * 1e3:.2f} of work at {result["clock_hz"] / 1e9:.2f} GHz, '
            f'{result["waiting_seconds"] * 1e3:.2f} of waiting for others at least',
            f'  {"clips per second":<26}{result["clips_per_second"]:>10,.1f}',
            f'  {"MFU":<26}{result["mfu"]:>10.1%}  of {result["peak_flops"] / 1e12:.0f} TFLOP/s',
        ]
    epoch = result['epoch']
    if epoch and epoch['seconds']:
        dollars = f', {epoch["dollars"]:,.2f} dollars' if epoch['dollars'] else ''
        lines.append(
            f'  {"epoch, minutes":<26}{epoch["seconds"] / 60:>10,.1f}  for {epoch["videos"]:,} videos: '
            f'{epoch["chip_hours"]:,.1f} chip-hours{dollars}'
        )
    lines += [f'warning: {warning}' for warning in result['warnings']]
    return '\n'.join(lines)


def _pieces(result: Mapping[str, Any]) -> str:
    return f' in {result["accumulate"]} microbatches' if result['accumulate'] > 1 else ''


def main(argv: list[str]) -> None:
    """Parses the command line, plans and prints."""
    parser = cli.parser(__doc__)
    cli.add_config(parser)
    parser.add_argument('--topology', required=True, help='v5e:4x8, v5p:2x2x4, ...; gpu; cpu')
    parser.add_argument('--batch_size', type=int, help='short for --config.batch_size')
    parser.add_argument('--dataset_size', type=int, help='videos in an epoch')
    parser.add_argument('--price', type=float, help='dollars for an hour of one chip')
    parser.add_argument(
        '--cache', type=Path, default=cache.default_folder(), help='folder of earlier results'
    )
    parser.add_argument('--json', action='store_true', help='print one JSON object')
    parser.add_argument(
        '--sweep',
        action='store_true',
        help='try batches, meshes, remat and microbatches; the best comes last',
    )
    args, overrides = cli.parse_args(parser, argv)
    for option in ('dataset_size', 'price'):
        value = getattr(args, option)
        if value is not None and not 0 < value < float('inf'):
            raise UserError(f'--{option}={value} is not a positive number.')
    if args.batch_size is not None:
        overrides.append(f'--config.batch_size={args.batch_size}')
    # No other accelerator of this machine is touched, and none is looked for, which can take minutes.
    jax.config.update('jax_platforms', 'cuda,cpu' if args.topology == 'gpu' else 'cpu')
    wanted = dict(
        where=args.topology, folder=args.cache, dataset_size=args.dataset_size, price=args.price
    )
    if not args.sweep:
        result = plan(cli.load_config(args.config, overrides), **wanted)
        print(json.dumps(result) if args.json else report(result))
        return
    results, refusals = [], set()
    for result in _sweep(args.config, overrides, wanted):
        refusal = result.get('error')
        if refusal in refusals:  # As for another remat policy, say.
            continue
        print(line(result), flush=True, file=sys.stderr if args.json else sys.stdout)
        if refusal:
            refusals.add(refusal)
        else:
            results.append(result)
    results = sweep.rank(results)
    if args.json:
        print(json.dumps({'results': results}))
    elif results:
        print(f'\nbest, {" ".join(results[0]["overrides"]) or "as it is"}:\n{report(results[0])}')


def _sweep(
    config: str, overrides: list[str], wanted: Mapping[str, Any]
) -> Iterator[dict[str, Any]]:
    """The plan of each variation with its `overrides`, or the `error` that says why there is none."""

    def planned(changes):
        try:
            result = plan(cli.load_config(config, overrides + changes), **wanted)
        except UserError as error:
            result = {'error': str(error)}
        return result | {'overrides': changes}

    own = cli.load_config(config, overrides)
    devices, _ = topology.find(wanted['where'])
    whole = []
    for changes in sweep.variations(own, len(devices)):
        whole.append(planned(changes))
        yield whole[-1]
    for changes in sweep.in_microbatches([result for result in whole if 'error' not in result]):
        yield planned(changes)


def line(result: Mapping[str, Any]) -> str:
    """A plan of a sweep in one line."""
    if 'error' in result:
        return f'not possible: {" ".join(result["overrides"])}: {result["error"]}'
    memory = result['memory']
    mesh = ' '.join(f'{axis}={size}' for axis, size in result['mesh'].items() if size > 1)
    clips, mfu = result['clips_per_second'], result['mfu']
    return (
        f'batch {result["batch_size"]:<6} {mesh or "one chip":<20} {result["preset"]:<12} '
        f'remat {result["remat"]:<5} microbatches {result["accumulate"]:<2} '
        f'peak {memory["peak"] / GIB:7.2f} GiB '
        f'{"does not fit" if memory["fits"] is False else "fits" if memory["fits"] else "":<13}'
        + (f'{clips:10,.1f} clips/s  MFU {mfu:.1%}' if clips else '')
        + ' (cached)' * result['cached']
    )


if __name__ == '__main__':
    cli.run(main)
