"""What was measured, and what the compiler estimates, as Markdown."""

from typing import Any

from experiments.throughput.planned import CLIPS


def measured(results: dict[str, Any]) -> str:
    """The results as Markdown."""
    lines = [
        f'`{results["command"]}`, {results["device"]} ({results["cores"]} cores of its host), medians of '
        f'{results["calls"]} calls; '
        f'{", ".join(f"{name} {version}" for name, version in results["versions"].items() if version)}.',
        '',
        '| Model | Batch | GFLOPs / step | Contender | Forward, ms | Step, ms | Forward, x vjax '
        '| Step, x vjax | GFLOP/s | First step, s | Peak, MB |',
        '| --- | --- | ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |',
    ]
    for name, work in results['works'].items():
        ours = work['contenders']['vjax']
        for contender, row in work['contenders'].items():
            if 'missing' in row:
                continue
            lines.append(
                f'| {name} | {"x".join(map(str, work["shape"]))} | {work["gflops"]:,.0f} | {contender} '
                f'| {1000 * row["forward"]:,.1f} | {1000 * row["step"]:,.1f} '
                f'| {row["forward"] / ours["forward"]:.2f} | {row["step"] / ours["step"]:.2f} '
                f'| {work["gflops"] / row["step"]:,.0f} '
                f'| {row["first_step"]:.1f} | {row["peak_bytes"] / 1e6:,.0f} |'
            )
    cheaper = {name: work for name, work in results['works'].items() if work['base']}
    if cheaper:
        lines += [
            '',
            'Efficient models of vjax, each beside the one that it makes cheaper:',
            '',
            '| Model | Instead of | Matrix products, x fewer | Forward, x faster | Step, x faster |',
            '| --- | --- | ---: | ---: | ---: |',
        ]
    for name, work in cheaper.items():
        base = results['works'][work['base']]
        ours, theirs = work['contenders']['vjax'], base['contenders']['vjax']
        fewer = (base['gflops'] / base['shape'][0]) / (work['gflops'] / work['shape'][0])
        lines.append(
            f'| {name} | {work["base"]} | {fewer:.2f} | {theirs["forward"] / ours["forward"]:.2f} '
            f'| {theirs["step"] / ours["step"]:.2f} |'
        )
    return '\n'.join(lines) + '\n'


def planned(results: dict[str, Any]) -> str:
    """The estimates as Markdown."""
    lines = [
        f'`python -m experiments.throughput.run --device=plan --topology={results["topology"]}`: estimates '
        f'by the compiler for TPUs, {CLIPS} clips or images on each chip of {results["topology"]}, '
        'bfloat16; nothing was run.',
        '',
        '| Model | Contender | Step, ms | x vjax | MFU | Peak, GiB |',
        '| --- | --- | ---: | ---: | ---: | ---: |',
    ]
    for name, rows in results['works'].items():
        for contender, row in rows.items():
            if 'missing' in row:
                cells = [row['missing'], '', '', '']
            else:
                ratio = row['step_ms'] / rows['vjax']['step_ms'] if 'step_ms' in rows['vjax'] else 0
                cells = [
                    f'{row["step_ms"]:.1f}',
                    f'{ratio:.2f}' if ratio else '',
                    f'{row["mfu"]:.1%}',
                    f'{row["peak_bytes"] / 2**30:.2f}',
                ]
            lines.append(f'| {name} | {contender} | {" | ".join(cells)} |')
    return '\n'.join(lines) + '\n'
