"""What does a clip cost on the host? python -m experiments.input_pipeline.run

Random clips, cut out at random, of the same films: read by vjax's pipeline from both of its stores, by
grain and by a plain TFRecord pipeline from the same JPEG frames, and by decoders of mp4 files; beside
them libjpeg-turbo alone, decoding as many of the same JPEG frames, whole, in memory, which is the limit
for whatever reads JPEG. (Through simplejpeg, which gives the bytes and a buffer to the library and does
nothing else: the fastest way to it that pip can install. As the library decodes by default; its fast DCT,
which vjax and TensorFlow's decoder use, has a row of its own. A pipeline that decodes parts of frames
could be faster.)

Every reader has a process of its own and they take turns, so that neighbours on the machine hurt all of
them alike; each decodes in one thread, as the limit does. What counts is the CPU time of all threads of
the process, and the least of all rounds; the medians stand beside.

Further parts: how the rate scales with threads where the accelerator takes no time, beside as many
processes of libjpeg-turbo at once, which is what the machine's cores can do together; and the memory of
the process over many clips (of the smaller videos that `--store=video` reads there, so that decoding them
does not take an hour; what could leak is the same).

Needs the extra [benchmark] and, for torchcodec, [parity]; what is not installed has no figures. Writes
results.json, table.md and rates.png beside this file after every part.
"""

import concurrent.futures
import contextlib
import importlib.metadata
import json
import os
import platform
import statistics
from pathlib import Path
from typing import Any

from experiments.input_pipeline import measure
from experiments.input_pipeline.readers import LIMIT, READERS, VJAX_FRAMES, VJAX_VIDEO, Task
from experiments.input_pipeline.videos import Films
from vjax import cli
from vjax.training import reporting

HERE = Path(__file__).parent
CLIPS = {'32x2': (32, 2), '16x4': (16, 4)}
PARTS = ('rates', 'scaling', 'memory')
# Much smaller films, for the memory of the store whose decoding takes longest.
SMALL = {'height': 64, 'width': 84}
LOOKS = 100
PACKAGES = ('av', 'decord', 'grain', 'numpy', 'simplejpeg', 'tensorflow-cpu', 'torch', 'torchcodec')


def measure_rates(films: Films, rounds: int, num_clips: int, size: int) -> dict[str, Any]:
    """CPU milliseconds per clip of every reader in every round, by the kind of clip."""
    results = {}
    for clip, (num_frames, stride) in CLIPS.items():
        task = Task(films, num_frames, stride, size, num_threads=1)
        rows = results[clip] = {}
        with contextlib.ExitStack() as stack:
            readers = {name: stack.enter_context(measure.started(name, task)) for name in READERS}
            for i in range(-1, rounds):  # The first is a warm-up.
                for name, ask in readers.items():
                    if isinstance(ask, str):
                        rows[name] = {'missing': ask}
                        continue
                    taken = 1000 * ask(measure.cpu_seconds, num_clips)
                    if i >= 0:
                        rows.setdefault(name, {'cpu_ms': []})['cpu_ms'].append(round(taken, 3))
        for name, row in rows.items():
            print(clip, name, json.dumps(row), flush=True)
    return results


def measure_scaling(films: Films, rounds: int, num_clips: int, size: int) -> dict[str, Any]:
    """Clips per second and cores in use, by the number of threads: the best of the rounds.

    Beside them those of as many processes of the limit that work at once.
    """
    best, limits = {}, {}
    counts = range(1, os.cpu_count() + 1)
    with contextlib.ExitStack() as stack:

        def started(name, **how):
            return stack.enter_context(measure.started(name, Task(films, 32, 2, size, **how)))

        readers = {threads: started(VJAX_FRAMES, num_threads=threads) for threads in counts}
        decoders = [started(LIMIT) for _ in counts]
        pool = stack.enter_context(concurrent.futures.ThreadPoolExecutor())
        for _ in range(rounds):
            for threads, ask in readers.items():
                # More than any reader holds ready: six batches.
                clips, cores = ask(measure.rate, num_clips, 48)
                best[threads] = max(best.get(threads, (0, 0)), (clips, cores))
                asked = [pool.submit(ask, measure.rate, num_clips, 8) for ask in decoders[:threads]]
                together = sum(each.result()[0] for each in asked)
                limits[threads] = max(limits.get(threads, 0), together)
    return {
        str(threads): {
            'clips_per_second': round(clips, 2),
            'cores': round(cores, 3),
            'limit_clips_per_second': round(limits[threads], 2),
        }
        for threads, (clips, cores) in best.items()
    }


def measure_memory(reader: str, films: Films, num_clips: int, size: int) -> dict[str, Any]:
    """Resident memory over many 16x4 clips, and by how much the last tenth's mean is above the second's."""
    with measure.started(reader, Task(films, 16, 4, size)) as ask:
        rows = ask(measure.resident_memory, num_clips, LOOKS)
    tenth = LOOKS // 10
    early = statistics.mean(resident for _, resident in rows[tenth : 2 * tenth])
    late = statistics.mean(resident for _, resident in rows[-tenth:])
    return {
        'clips': rows[-1][0],
        'frame': [films.height, films.width],
        'growth': round(late / early - 1, 5),
        'megabytes': [round(resident / 1e6, 1) for _, resident in rows],
    }


def summary(results: dict[str, Any]) -> dict[str, dict[str, dict[str, float]]]:
    """Of every reader that there is: CPU ms per clip, clips/s per core, part of the limit, x the mp4s'."""
    summed = {}
    for clip, rows in results['rates'].items():
        best = {name: min(row['cpu_ms']) for name, row in rows.items() if 'cpu_ms' in row}
        mp4 = [taken for name, taken in best.items() if READERS[name].stored == 'mp4']
        summed[clip] = {
            name: {
                'cpu_ms': taken,
                'median_ms': statistics.median(rows[name]['cpu_ms']),
                'clips_per_second': 1000 / taken,
                'of_limit': best[LIMIT] / taken if LIMIT in best else float('nan'),
                'times_mp4': min(mp4) / taken if mp4 else float('nan'),
            }
            for name, taken in best.items()
        }
    return summed


def write_table(results: dict[str, Any], path: Path) -> None:
    """table.md."""
    lines = []
    if 'rates' in results:
        films = results['films']
        lines += [
            f'Clips of {films["size"]} x {films["size"]} pixels of {films["count"]} films of '
            f'{films["num_frames"]} frames, {films["width"]} x {films["height"]}; one core, CPU time, '
            f'the least of {results["rounds"]} rounds of '
            f'{results["clips_per_round"]} clips, and the median.',
            '',
        ]
        for clip, rows in summary(results).items():
            lines += [
                f'## {clip}',
                '',
                '| Reader | kB per film | CPU ms / clip | median | Clips / s per core | of libjpeg-turbo '
                '| x the best mp4 decoder |',
                '| --- | ---: | ---: | ---: | ---: | ---: | ---: |',
            ]
            for name, reader in READERS.items():
                stored = f'{results["bytes_per_film"][reader.stored] / 1000:,.0f}'
                row = rows.get(name)
                if row is None:
                    reason = results['rates'][clip][name]['missing']
                    lines.append(f'| {name} | {stored} | not installed ({reason}) | | | | |')
                    continue
                lines.append(
                    f'| {name} | {stored} | {row["cpu_ms"]:.2f} | {row["median_ms"]:.2f} | '
                    f'{row["clips_per_second"]:.1f} | {row["of_limit"]:.0%} | {row["times_mp4"]:.2f} |'
                )
            lines.append('')
    if 'scaling' in results:
        lines += [
            f'## An accelerator that takes no time ({VJAX_FRAMES}, 32x2)',
            '',
            '| Threads | Clips / s | Cores in use | As many processes of libjpeg-turbo, clips / s |',
            '| ---: | ---: | ---: | ---: |',
        ]
        for threads, row in results['scaling'].items():
            lines.append(
                f'| {threads} | {row["clips_per_second"]:.1f} | {row["cores"]:.2f} | '
                f'{row["limit_clips_per_second"]:.1f} |'
            )
        lines.append('')
    if 'memory' in results:
        lines += [
            '## Resident memory over many 16x4 clips',
            '',
            '| Reader | Frames | Clips | MB at 10 % | MB at the end | Growth |',
            '| --- | --- | ---: | ---: | ---: | ---: |',
        ]
        for name, row in results['memory'].items():
            early, late = row['megabytes'][LOOKS // 10], row['megabytes'][-1]
            lines.append(
                f'| {name} | {row["frame"][1]} x {row["frame"][0]} | {row["clips"]:,} | {early:,.0f} | '
                f'{late:,.0f} | {row["growth"]:+.2%} |'
            )
        lines += [
            '',
            'Growth is from the mean of the second tenth of the clips to that of the last tenth.',
            '',
        ]
    path.write_text('\n'.join(lines))


def draw(results: dict[str, Any], path: Path) -> None:
    """rates.png: clips per second and core of every reader, and memory over the clips."""
    import matplotlib

    matplotlib.use('Agg')
    import matplotlib.pyplot as plt

    rates, memory = summary(results) if 'rates' in results else {}, results.get('memory', {})
    figure, axes = plt.subplots(
        1, len(rates) + bool(memory), figsize=(13, 3.8), layout='constrained', squeeze=False
    )
    for axis, (clip, rows) in zip(axes[0], rates.items(), strict=False):
        names = list(rows)[::-1]
        colors = ['C1' if name.startswith('vjax') else 'C0' for name in names]
        axis.barh(names, [rows[name]['clips_per_second'] for name in names], color=colors)
        if LIMIT in rows:
            limit = rows[LIMIT]['clips_per_second']
            axis.axvline(limit, color='k', linewidth=0.8)
            axis.axvline(0.8 * limit, color='k', linewidth=0.8, linestyle=':')
        axis.set(title=f'{clip} (dotted: 80 % of libjpeg-turbo)', xlabel='clips / s per core')
        axis.title.set_size(10)
        if axis is not axes[0][0]:
            axis.set_yticklabels([])
    for name, row in memory.items():
        clips = [row['clips'] * (i + 1) / LOOKS for i in range(LOOKS)]
        axes[0][-1].plot(clips, row['megabytes'], label=name)
        axes[0][-1].set(title='resident memory', xlabel='clips', ylabel='MB')
        axes[0][-1].set_ylim(0, 1.1 * max(max(each['megabytes']) for each in memory.values()))
        axes[0][-1].title.set_size(10)
        axes[0][-1].legend(loc='lower right', fontsize=8)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def version(package: str) -> str:
    """Of an installed package."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return 'not installed'


def main(argv: list[str]) -> None:
    """Measures and writes."""
    parser = cli.parser(__doc__)
    parser.add_argument('--out', default='runs/input_pipeline', help='films (%(default)s)')
    parser.add_argument('--results', default=HERE, type=Path, help='default: beside this file')
    parser.add_argument('--parts', nargs='+', default=PARTS, choices=PARTS, help='default: all')
    parser.add_argument('--rounds', type=int, default=5, help='%(default)s')
    parser.add_argument('--films', type=int, default=40, help='how many (%(default)s)')
    parser.add_argument(
        '--clips', type=int, default=60, help='read in a round by each reader (%(default)s)'
    )
    parser.add_argument(
        '--memory_clips',
        type=int,
        default=20_000,
        help='over which memory is watched (%(default)s)',
    )
    args = parser.parse_args(argv)
    out, size = Path(args.out), 224
    films = Films(out / 'films', args.films)
    films.make()
    args.results.mkdir(parents=True, exist_ok=True)
    path = args.results / 'results.json'
    results = json.loads(path.read_text()) if path.exists() else {}
    results |= {
        'command': 'python -m experiments.input_pipeline.run',
        'device': f'{platform.machine()}, {os.cpu_count()} cores',
        'versions': {package: version(package) for package in PACKAGES},
        'bytes_per_film': films.bytes_per_film(),
        'films': {
            'count': films.count,
            'num_frames': films.num_frames,
            'height': films.height,
            'width': films.width,
            'size': size,
        },
    }

    def write():
        reporting.write_json(path, results)
        write_table(results, args.results / 'table.md')
        draw(results, args.results / 'rates.png')

    if 'rates' in args.parts:
        results |= {'rounds': args.rounds, 'clips_per_round': args.clips}
        results['rates'] = measure_rates(films, args.rounds, args.clips, size)
        write()
    if 'scaling' in args.parts:
        results['scaling'] = measure_scaling(films, args.rounds, 2 * args.clips, size)
        write()
    if 'memory' in args.parts:
        small = Films(out / 'small_films', args.films, **SMALL)
        small.make()
        results['memory'] = {
            VJAX_FRAMES: measure_memory(VJAX_FRAMES, films, args.memory_clips, size),
            VJAX_VIDEO: measure_memory(VJAX_VIDEO, small, args.memory_clips, 56),
        }
        write()


if __name__ == '__main__':
    cli.run(main)
