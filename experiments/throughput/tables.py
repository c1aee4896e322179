"""What was measured, and what the compiler estimates, as Markdown."""

from collections.abc import Sequence
from typing import Any

from experiments.throughput.contenders import DOES_NOT_FIT, TIMED, UNROLLED


def measured(results: dict[str, Any]) -> str:
    """The results as Markdown."""
    lines = [
        f'`{results["command"]}`, {results["device"]} ({results["cores"]} cores of its host), medians of '
        f'{results["calls"]} calls; '
        f'{", ".join(f"{name} {version}" for name, version in results["versions"].items() if version)}. '
        f'A large matrix product has {results["matrix_rate"] / 1e9:,.0f} GFLOP/s.',
        '',
        '| Model | Batch | GFLOPs / step | Contender | Forward, ms | Step, ms | Forward, x vjax '
        '| Step, x vjax | GFLOP/s | Of the matrix rate | First step, s | Peak, MB |',
        '| --- | --- | ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |',
    ]
    for name, work in results['works'].items():
        ours = work['contenders']['vjax']
        for contender, row in work['contenders'].items():
            cells = [name, 'x'.join(map(str, work['shape'])), f'{work["gflops"]:,.0f}', contender]
            if row.get('missing') == DOES_NOT_FIT:
                cells += [DOES_NOT_FIT] + [''] * 7
            elif 'missing' in row:
                continue
            else:
                rate = 1e9 * work['gflops'] / row['step']
                cells += [
                    *(f'{1000 * row[what]:,.1f}' for what in TIMED),
                    *(f'{row[what] / ours[what]:.2f}' if what in ours else '' for what in TIMED),
                    f'{rate / 1e9:,.0f}',
                    f'{rate / results["matrix_rate"]:.0%}',
                    f'{row["first_step"]:.1f}',
                    f'{row["peak_bytes"] / 1e6:,.0f}',
                ]
            lines.append(f'| {" | ".join(cells)} |')
    lines += _cheaper(results['works'], TIMED)
    return '\n'.join(lines) + '\n'


def planned(results: dict[str, Any]) -> str:
    """The estimates as Markdown."""
    where = results['topology']
    lines = [
        f'`python -m experiments.throughput.run --device=plan --topology={where}`: estimates by the '
        f'compiler for TPUs, of all chips of {where} with whole parameters on each, bfloat16; nothing was '
        'run.',
        '',
        '| Model | Batch | Contender | Step, ms | x vjax | MFU | Peak, GiB |',
        '| --- | --- | --- | ---: | ---: | ---: | ---: |',
    ]
    for name, work in results['works'].items():
        ours = work['contenders']['vjax'].get('step')
        for contender, row in work['contenders'].items():
            cells = [name, 'x'.join(map(str, work['shape'])), contender]
            if 'missing' in row:
                cells += [row['missing'], '', '', '']
            else:
                cells += [
                    f'{1000 * row["step"]:.1f}',
                    f'{row["step"] / ours:.2f}' if ours else '',
                    f'{row["mfu"]:.1%}',
                    f'{row["peak_bytes"] / 2**30:.2f}',
                ]
            lines.append(f'| {" | ".join(cells)} |')
    lines += _cheaper(results['works'], ('step',))
    lines += _cheaper(results['works'], ('step',), UNROLLED)
    return '\n'.join(lines) + '\n'


def _cheaper(works: dict[str, Any], timed: Sequence[str], contender: str = 'vjax') -> list[str]:
    """Lines on the efficient models, each beside the one that it makes cheaper; none without such."""
    lines = []
    for name, work in works.items():
        base = works.get(work['base'], {'contenders': {}})
        ours, theirs = (each['contenders'].get(contender, {}) for each in (work, base))
        if not all(what in row for what in timed for row in (ours, theirs)):
            continue
        fewer = (base['gflops'] / base['shape'][0]) / (work['gflops'] / work['shape'][0])
        ratios = [fewer, *(theirs[what] / ours[what] for what in timed)]
        cells = [name, work['base'], *(f'{ratio:.2f}' for ratio in ratios)]
        lines.append(f'| {" | ".join(cells)} |')
    if not lines:
        return []
    faster = ' | '.join(f'{what.capitalize()}, x faster' for what in timed)
    return [
        '',
        f'Efficient models of {contender}, each beside the one that it makes cheaper:',
        '',
        f'| Model | Instead of | Matrix products, x fewer | {faster} |',
        '| --- | --- | ---: |' + ' ---: |' * len(timed),
        *lines,
    ]
