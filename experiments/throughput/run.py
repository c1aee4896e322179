"""Is vjax as fast as what a user would pick instead? python -m experiments.throughput.run

Forward pass, training step (cross-entropy, AdamW), what the first call of each takes, and peak memory: of
vjax's models, of a textbook's implementation in Flax, and of Hugging Face's in PyTorch, eager and compiled.
All have the same weights and the same batch, and logits and losses are compared before the clock starts.
Each has a process of its own, and those of a group take turns, so that neighbours on the machine hurt all
of them alike; ratios are of medians. The rate of a large matrix product, the most that the device can do,
is measured first. An efficient model is in the group of the one that it makes cheaper: the ratio of their
times stands beside that of their matrix products.

    --size=small     what a CPU of two cores can train: the default there, in float32
    --size=full      the papers' sizes: the default on a GPU, in bfloat16
    --device=plan    nothing is run: the steps of the papers' sizes as the compiler for TPUs estimates them
                     (extra [plan]), of vjax, also with unrolled layers, and of the textbook

Needs the extra [parity] for PyTorch; what is not installed has no figures. Writes results_SIZE.json,
table_SIZE.md (or _plan) and steps_SIZE.png beside this file after each group; --only=TEXT takes groups
with a model that has TEXT in its name, and other rows stay.
"""

import contextlib
import json
import os
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.apart import apart
from experiments.throughput import contenders, limit, planned, plots, tables
from experiments.throughput.work import Work, groups
from vjax import cli
from vjax.errors import UserError
from vjax.training import reporting
from vjax.visualize import save

HERE = Path(__file__).parent
STEPS = 3  # Whose losses are compared.
# Of logits, in their standard deviations, and of losses.
TOLERANCES = {'float32': 1e-4, 'bfloat16': 5e-2}
PACKAGES = ('jax', 'jaxlib', 'flax', 'optax', 'torch', 'transformers')


def measure(
    group: Sequence[Work], names: Sequence[str], rounds: int, times: int
) -> dict[str, dict[str, Any]]:
    """What every contender takes for every work of a group: by the work's name, by the contender's."""
    rows = {work.name: {} for work in group}
    with contextlib.ExitStack() as stack:
        asks = {}
        for work in group:
            for name in names:
                process = contextlib.ExitStack()
                ask = process.enter_context(apart(contenders.make, name, work))
                found = ask if isinstance(ask, str) else ask(contenders.first_calls, STEPS)
                if isinstance(found, str):
                    process.close()  # With what it holds of the device's memory.
                    rows[work.name][name] = {'missing': found}
                else:
                    stack.push(process)
                    asks[work.name, name] = ask
                    rows[work.name][name] = found
            compare(work, rows[work.name])
        for i in range(-1, rounds):  # The first is a warm-up.
            for (work, name), ask in asks.items():
                for what in contenders.TIMED:
                    taken = ask(contenders.seconds, what, times)
                    rows[work][name].setdefault(what, []).extend(taken if i >= 0 else [])
        for (work, name), ask in asks.items():
            rows[work][name]['peak_bytes'] = ask(contenders.peak_bytes)
    return rows


def compare(work: Work, rows: dict[str, dict[str, Any]]) -> None:
    """Puts in place of each contender's logits how far they are from the first one's.

    Raises:
        UserError: so far that it does not compute the same, or that its losses differ.
    """
    rows = {name: row for name, row in rows.items() if 'logits' in row}
    if not rows:
        return
    first, *_ = rows
    logits, losses = rows[first]['logits'], rows[first]['losses']
    for name, row in rows.items():
        error = float(np.abs(row.pop('logits') - logits).max() / np.std(logits))
        loss_error = float(np.abs(np.subtract(row['losses'], losses)).max())
        if not max(error, loss_error) <= TOLERANCES[work.dtype]:
            raise UserError(
                f'{name} does not compute {work.name} as {first} does: its logits are off by {error:.2g} '
                f'standard deviations and its losses by {loss_error:.2g}.'
            )
        row['logits_error'] = error


def summary(group: Sequence[Work], rows: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Medians of a group's times, and the facts of its works."""
    found = {}
    for work in group:
        medians = {
            name: row
            | {what: statistics.median(row[what]) for what in contenders.TIMED if what in row}
            for name, row in rows[work.name].items()
        }
        found[work.name] = facts(work) | {'contenders': medians}
    return found


def facts(work: Work) -> dict[str, Any]:
    """What of a work does not depend on how fast anyone is."""
    return {
        'shape': [work.batch, *work.shape],
        'dtype': work.dtype,
        'base': work.base,
        'gflops': work.train_gflops(),
    }


def plan(only: str, where: str) -> None:
    """Estimates vjax and the textbook at the papers' sizes, and writes the results after each work."""
    jax.config.update('jax_platforms', 'cpu')
    path = HERE / 'results_plan.json'
    results = json.loads(path.read_text()) if path.exists() else {}
    if results.get('topology') != where:
        results = {'topology': where, 'works': {}}
    for work in (work for group in groups('full', 'bfloat16') for work in group):
        if only in work.name:
            names = ['vjax', contenders.UNROLLED] + ['textbook'] * contenders.has_peers(work)
            work = planned.on_all_chips(work, where)
            rows = {name: planned.estimate(name, work, where) for name in names}
            found = {work.name: facts(work) | {'contenders': rows}}
            results['works'] |= found
            path.write_text(json.dumps(results, indent=1) + '\n')
            (HERE / 'table_plan.md').write_text(tables.planned(results))
            save(plots.steps(results), HERE / 'steps_plan.png')
            print(tables.planned({**results, 'works': found}), flush=True)


def main(argv: Sequence[str]) -> None:
    """Measures what is asked for."""
    parser = cli.parser(__doc__)
    parser.add_argument('--device', choices=('cpu', 'gpu', 'plan'), help='what there is by default')
    parser.add_argument('--size', choices=('small', 'full'))
    parser.add_argument('--topology', default='v5e:2x2', help='of --device=plan (%(default)s)')
    parser.add_argument('--against', default=','.join(contenders.NAMES[1:]), help='%(default)s')
    parser.add_argument('--only', default='', help='groups with this text in the name of a model')
    parser.add_argument('--rounds', type=int, default=7, help='that are timed (%(default)s)')
    parser.add_argument('--times', type=int, default=2, help='calls in a round (%(default)s)')
    args = parser.parse_args(argv)
    names = ['vjax', *filter(None, args.against.split(','))]
    for name in names:
        if name not in contenders.NAMES:
            raise UserError(
                f'--against={name}: there is no such contender; there are '
                f'{", ".join(contenders.NAMES[1:])}.'
            )
    if args.device == 'plan':
        plan(args.only, args.topology)
        return
    # Contenders share the device, of which jax else takes three quarters for every process.
    os.environ.setdefault('XLA_PYTHON_CLIENT_PREALLOCATE', 'false')
    platform = jax.default_backend()
    if args.device not in (None, platform):
        raise UserError(f'--device={args.device}: jax finds {platform} on this machine.')
    size = args.size or ('small' if platform == 'cpu' else 'full')
    dtype = 'float32' if platform == 'cpu' else 'bfloat16'
    path = HERE / f'results_{size}.json'
    results = json.loads(path.read_text()) if path.exists() else {'works': {}}
    with apart(limit.Products, dtype) as ask:
        matrix_rate = ask(limit.rate)
    results |= {
        'matrix_rate': matrix_rate,
        'command': ' '.join(['python -m experiments.throughput.run', *argv]),
        'device': reporting.environment()['devices'][0],
        'cores': len(os.sched_getaffinity(0)),
        'calls': args.rounds * args.times,
        'versions': reporting.versions(PACKAGES),
    }
    for group in groups(size, dtype):
        if not any(args.only in work.name for work in group):
            continue
        rows = measure(group, names, args.rounds, args.times)
        results['works'] |= summary(group, rows)
        path.write_text(json.dumps(results, indent=1) + '\n')
        (HERE / f'table_{size}.md').write_text(tables.measured(results))
        save(plots.steps(results), HERE / f'steps_{size}.png')
        print(tables.measured({**results, 'works': summary(group, rows)}), flush=True)


if __name__ == '__main__':
    cli.run(main)
