"""Every published config on TPU pods, as their compiler sees it: python -m experiments.pod_plan.run

Compiles each training step for v5e, v5p and v6e slices with vjax.plan, on any machine (minutes for each
on two cores), and writes results.json and table.md beside this file after each. What is in the cache is not
compiled again, so the same command goes on where it stopped. --only=TEXT takes the rows with TEXT in their
name, as in --only='v5e:4x8'; rows of earlier runs stay.

All train in bfloat16 with parameters split over 8 chips, 4 clips on each chip, and compute again as little
as fits: what the configs say ('dots') or all but the blocks' inputs ('full'). As published they are in
float32 with a batch of 64.
"""

import itertools
import json
import math
from pathlib import Path

import jax

from vjax import cli
from vjax.errors import UserError
from vjax.planning import cache
from vjax.planning.estimate import plan

HERE = Path(__file__).parent
TOPOLOGIES = ('v5e:4x8', 'v5e:8x8', 'v5p:2x2x4', 'v5p:4x4x4', 'v6e:4x8', 'v6e:8x8')
CONFIGS = (
    'vivit/kinetics400.py:variant=B/16x2',
    'vivit/kinetics400.py:variant=L/16x2',
    'mtv/kinetics400.py:variant=B/2+S/4+Ti/8',
    'lookupvit/kinetics400.py:variant=B/16x2',
    'vivit/kinetics400.py:attention=spacetime',
    'vivit/kinetics600.py',
    'vivit/moments_in_time.py',
    'vivit/something_something_v2.py',
    'vivit/epic_kitchens.py',
    'mtv/kinetics600.py',
    'mtv/kinetics700.py',
    'mtv/epic_kitchens.py',
    'mtv/moments_in_time.py',
    'mtv/something_something_v2.py',
    'lookupvit/something_something_v2.py',
    'token_learner/kinetics400.py',
    'token_learner/imagenet.py',
    'videoprism/kinetics400.py',
)
CLIPS = 4  # On each chip.


def main(argv: list[str]) -> None:
    """Plans what is asked for, and writes the table after each."""
    parser = cli.parser(__doc__)
    parser.add_argument('--only', action='append', help='rows with this text in their name')
    parser.add_argument('--cache', type=Path, default=cache.default_folder())
    args = parser.parse_args(argv)
    jax.config.update('jax_platforms', 'cpu')
    kept = HERE / 'results.json'
    results = json.loads(kept.read_text()) if kept.exists() else {}
    for topology, config in itertools.product(TOPOLOGIES, CONFIGS):
        name = f'{config} {topology}'
        if args.only and not all(text in name for text in args.only):
            continue
        try:
            result = _plan(config, topology, args.cache)
        except UserError as error:
            result = {'error': str(error), 'topology': topology}
        results[name] = result | {'config': config, 'edition': cache.edition()}
        print(_row(results[name]), flush=True)
        results = _in_order(results)
        kept.write_text(json.dumps(results, indent=1) + '\n')
        (HERE / 'table.md').write_text(_table(results))


def _in_order(results):
    """Whatever was planned first; without configs that are no longer published."""
    names = (f'{config} {topology}' for topology, config in itertools.product(TOPOLOGIES, CONFIGS))
    return {name: results[name] for name in names if name in results}


def _plan(config, topology, folder):
    chips = math.prod(map(int, topology.split(':')[1].split('x')))
    for remat in ('dots', 'full'):
        overrides = [
            f'--config.batch_size={CLIPS * chips}',
            '--config.sharding.mesh.fsdp=8',
            '--config.sharding.preset=fsdp',
        ]
        loaded = cli.load_config(f'configs/{config}', overrides)
        for name, value in (('dtype', 'bfloat16'), ('remat', remat)):
            if name in loaded.model:
                loaded.model[name] = value
        result = plan(loaded, topology, folder=folder)
        if result['memory']['fits']:
            break
    return result


def _table(results):
    head = (
        'Config',
        'Topology',
        'Batch',
        'Remat',
        'Peak, GiB',
        'Of, GiB',
        'Fits',
        'Peak / necessary',
        'Step, ms',
        'Clips/s',
        'MFU',
        'Warnings',
    )
    notes = [
        '`python -m experiments.pod_plan.run`: estimates by the compiler for TPUs; nothing was run.'
    ]
    earlier = sum(result.get('edition') != cache.edition() for result in results.values())
    if earlier:
        notes.append(
            f'{earlier} of {len(results)} rows were planned before vjax or its packages changed.'
        )
    lines = [
        ' '.join(notes),
        '',
        f'| {" | ".join(head)} |',
        '| --- | --- | ---: | --- |' + ' ---: |' * (len(head) - 4),
    ]
    return '\n'.join([*lines, *map(_row, results.values())]) + '\n'


def _row(result):
    if 'error' in result:
        return f'| {result["config"]} | {result["topology"]} | {result["error"]} |' + ' |' * 9
    memory = result['memory']
    cells = [
        result['config'],
        result['topology'],
        result['batch_size'],
        result['remat'],
        f'{memory["peak"] / 2**30:.2f}',
        f'{memory["capacity"] / 2**30:.0f}',
        'yes' if memory['fits'] else 'no',
        f'{memory["peak"] / memory["necessary"]:.2f}',
        f'{result["step_seconds"] * 1e3:.1f}' if result['step_seconds'] else '',
        f'{result["clips_per_second"]:,.0f}' if result['step_seconds'] else '',
        f'{result["mfu"]:.1%}' if result['step_seconds'] else '',
        len(result['warnings']),
    ]
    return f'| {" | ".join(map(str, cells))} |'


if __name__ == '__main__':
    cli.run(main)
