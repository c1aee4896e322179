"""Do videos of several labels train to the right answer? python -m experiments.labels.run

Two sets of the moving digits, each learned by the same small ViViT from clips, and from one frame of each
clip, repeated. Of `two_motions` a video has two of six labels (multi-label), of which one frame
tells nothing; of `digit_and_motion` it has a digit and a motion (two heads), and one frame tells the digit.
All with three seeds, which end far apart: in 1,000 steps the model learns some of `two_motions`, how much
of it depends on the seed.

Every step is a command that a person would type, and is printed before it runs. Writes results.json and
table.md beside this file after every run; started again, it goes on where it stopped (what results.json
has is not measured again: delete it to start over).
"""

import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.seeds import mean_and_range
from vjax import cli
from vjax.data import records, stores
from vjax.demo import SPLITS
from vjax.training import metrics, reporting, runs

HERE = Path(__file__).parent
TASKS = ('two_motions', 'digit_and_motion')
ORDERS = {'forward': 'clips', 'still': 'one frame'}
SEEDS = (0, 1, 2)
VIEWS = '3x1'
TITLES = {'top1': 'both, top-1', 'exact_match': 'exactly its labels'}


def command(*args: str) -> None:
    """Runs one of the package's commands in a process of its own."""
    print('\n$ python -m', shlex.join(args), flush=True)
    done = subprocess.run([sys.executable, '-m', *args], check=False)
    if done.returncode:  # It has said why.
        raise SystemExit(done.returncode)


def dataset_of(task: str, out: Path) -> Path:
    """The prepared data set, rendered where it is not there yet."""
    videos, dataset = out / task / 'videos', out / task / 'dataset'
    command('vjax.data.moving_digits', f'--set={task}', f'--out={videos}')
    for split in SPLITS:
        source = (f'--videos={videos}', f'--annotations={videos / f"{split}.csv"}')
        target = (f'--out={dataset}', f'--split={split}', '--short_side=48')
        command('vjax.prepare', *source, *target)
    return dataset


def measure(task: str, order: str, seed: int, dataset: Path, workdir: Path) -> dict[str, Any]:
    """Trains on a task, and its scores on both held-out splits after the last step."""
    config = f'--config=configs/vivit/moving_digits.py:task={task},order={order}'
    overrides = (f'--config.dataset.path={dataset}', f'--config.seed={seed}')
    command('vjax.train', config, *overrides, f'--workdir={workdir}')
    result = {'num_steps': runs.load_run(workdir).config.num_steps}
    for split in ('validation', 'test'):
        file = workdir / f'{split}.json'
        views = (f'--views={VIEWS}', f'--split={split}', f'--out={file}')
        command('vjax.evaluate', f'--workdir={workdir}', *views)
        scores = json.loads(file.read_text())
        shown = ('top1', 'mAP', 'exact_match', 'num_videos')
        result[split] = {key: x for key, x in scores.items() if key.split('/')[-1] in shown}
    return result


def chance(dataset: Path) -> dict[str, float]:
    """What guessing scores on the test videos: of multi-label ones, the mean over 200 random rankings."""
    description = records.open_dataset(dataset)
    if not description.multi_label:
        sizes = {f'{head}/top1': len(names) for head, names in description.classes.items()}
        of_heads = {name: 1 / size for name, size in sizes.items()}
        return {'top1': float(np.prod([*of_heads.values()])), **of_heads}
    index = stores.open_store(description, 'test').index
    num_classes = len(description.classes['label'])
    label = np.stack([index.multi_hot(i, num_classes) for i in range(len(index))]) > 0
    rng = np.random.default_rng(0)
    drawn = [metrics.mean_average_precision(rng.random(label.shape), label) for _ in range(200)]
    return {'mAP': float(np.mean(drawn))}


def write_table(results: dict[str, Any]) -> None:
    """table.md: a table for each task, of means over seeds with the least and the most."""
    lines = ['Mean over seeds (least to most).', '']
    for task, rows in results['tasks'].items():
        first = rows['clips']['0']
        names = [name for name in first['test'] if name != 'num_videos']
        steps, count = first['num_steps'], first['test']['num_videos']
        titles = [TITLES.get(name, name.replace('/top1', ', top-1')) for name in names]
        lines += [
            f'## {task}: {count} test videos, {VIEWS} views, {steps} steps of 32 clips',
            '',
            f'| Trained on | {" | ".join(titles)} | Seeds |',
            f'| --- |{" ---: |" * len(names)} ---: |',
        ]
        for name, seeds in rows.items():
            shown = [mean_and_range(row['test'][key] for row in seeds.values()) for key in names]
            lines.append(f'| {name} | {" | ".join(shown)} | {len(seeds)} |')
        guessed = results['chance'][task]
        shown = [f'{100 * guessed[key]:.1f} %' if key in guessed else '' for key in names]
        lines += [f'| guessing | {" | ".join(shown)} | |', '']
    (HERE / 'table.md').write_text('\n'.join(lines))


def main(argv: list[str]) -> None:
    """Trains, measures and writes."""
    parser = cli.parser(__doc__)
    parser.add_argument('--out', default='runs/labels', help='workdirs (%(default)s)')
    parser.add_argument('--tasks', nargs='+', default=TASKS, choices=TASKS, help='default: all')
    args = parser.parse_args(argv)
    out, path = Path(args.out), HERE / 'results.json'
    results = {'chance': {}, 'tasks': {}}
    if path.exists():
        results = json.loads(path.read_text())
    results |= {
        'command': 'python -m experiments.labels.run',
        'device': f'{jax.devices()[0].device_kind}, 2 cores',
        'views': VIEWS,
    }
    for task in args.tasks:
        measured = results['tasks'].setdefault(task, {})
        missing = [
            (seed, order)
            for seed in SEEDS
            for order, name in ORDERS.items()
            if str(seed) not in measured.get(name, {})
        ]
        if not missing:
            continue
        dataset = dataset_of(task, out)
        results['chance'][task] = chance(dataset)
        for seed, order in missing:
            row = measure(task, order, seed, dataset, out / task / f'{order}_{seed}')
            measured.setdefault(ORDERS[order], {})[str(seed)] = row
            reporting.write_json(path, results)
            write_table(results)


if __name__ == '__main__':
    cli.run(main)
