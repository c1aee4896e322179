"""What is a trained encoder worth where labels are few? python -m experiments.transfer.run

A ViViT is trained on one set of the moving digits with all labels. Another set with a few labelled
videos of each class is then learned in the same number of steps in four ways: from scratch; fine-tuned
from those weights; by an attentive probe on them, frozen; and, as a control, by the same probe on an
encoder that was never trained. The two sets are rendered with seeds of their own, so that they share no
scene.

The recipes are those of the configs, which were not tuned for it. The task from motion6 to order12 was
tried first, with seed 0; the other was chosen next, with labels and steps few enough that training from
scratch should fall short, and kept after a look at its first seed, test accuracy included.

Writes results.json and table.md beside this file after every run; started again, it goes on where it
stopped (what results.json has is not measured again: delete it to start over).
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax

from experiments.seeds import mean_and_range
from vjax import cli
from vjax.data import moving_digits
from vjax.demo import SPLITS
from vjax.evaluate import evaluate_run
from vjax.prepare import prepare
from vjax.train import train
from vjax.training import reporting

HERE = Path(__file__).parent
VIEWS = '3x1'
SOURCE_STEPS = {'motion6': 500, 'order12': 600}
SEEDS = (0, 1, 2)
SOURCE_SEED = 1  # Of the source's videos; the target's have 0.


@dataclasses.dataclass(frozen=True)
class Task:
    """What is learned, and after what: the sets, labelled videos of each class, and steps."""

    source: str
    target: str
    labels: int
    num_steps: int

    def __str__(self):
        return f'{self.source} to {self.target}, {self.labels} videos per class, {self.num_steps} steps'


@dataclasses.dataclass(frozen=True)
class Method:
    """One way to learn the task: a config, and whether it starts from the source's weights."""

    name: str
    config: str
    starts_from_source: bool


TASKS = (Task('order12', 'motion6', 5, 150), Task('motion6', 'order12', 20, 300))
METHODS = (
    Method('from scratch', 'vivit/moving_digits.py', False),
    Method('fine-tuned', 'vivit/finetune_moving_digits.py', True),
    Method('frozen, probe', 'probe/moving_digits.py', True),
    Method('untrained and frozen, probe', 'probe/moving_digits.py', False),
)


def dataset_of(motion_set: str, out: Path, *, labels: int | None = None, seed: int = 0) -> Path:
    """The prepared data set, rendered where it is not there yet; all labels where None is said."""
    folder = out / (f'{motion_set}_{labels}' if labels else motion_set)
    counts = {'num_train': labels * len(moving_digits.SETS[motion_set])} if labels else {}
    moving_digits.generate(folder / 'videos', motion_set, seed=seed, **counts)
    for split in SPLITS:
        videos = folder / 'videos'
        prepare(videos, videos / f'{split}.csv', folder / 'dataset', split, short_side=48)
    return folder / 'dataset'


def measure(
    config: str, num_steps: int, dataset: Path, workdir: Path, *overrides: str
) -> dict[str, Any]:
    """Trains a config on a data set, and its top-1 on both held-out splits after the last step."""
    overrides = (f'dataset.path={dataset}', f'num_steps={num_steps}', *overrides)
    overrides = (f'eval.every={num_steps}', f'checkpoint.every={num_steps}', *overrides)
    train(cli.load_config(f'configs/{config}', [f'--config.{o}' for o in overrides]), workdir)
    top1 = {
        split: evaluate_run(workdir, views=VIEWS, split=split, out=workdir / f'{split}.json')[
            'top1'
        ]
        for split in ('validation', 'test')
    }
    return {'num_steps': num_steps, **top1}


def write_table(results: dict[str, Any]) -> None:
    """table.md: means over seeds, with the least and the most."""
    lines = [
        f'Top-1 with {VIEWS} views after the last step, steps of 32 clips: mean (least to most).',
        '',
        '| Task | Method | Test | Validation | Seeds |',
        '| --- | --- | ---: | ---: | ---: |',
    ]
    for task, methods in results['tasks'].items():
        for method, seeds in methods.items():
            shown = [
                mean_and_range(row[split] for row in seeds.values())
                for split in ('test', 'validation')
            ]
            lines.append(f'| {task} | {method} | {" | ".join(shown)} | {len(seeds)} |')
    lines.append('')
    for name, row in results['sources'].items():
        lines.append(
            f'The source {name}, with all labels: {row["test"]:.1%} of its own test videos after '
            f'{row["num_steps"]} steps.'
        )
    (HERE / 'table.md').write_text('\n'.join([*lines, '']))


def main(argv: list[str]) -> None:
    """Trains, measures and writes."""
    parser = cli.parser(__doc__)
    parser.add_argument('--out', default='runs/transfer', help='workdirs (%(default)s)')
    args = parser.parse_args(argv)
    out, path = Path(args.out), HERE / 'results.json'
    results = {'sources': {}, 'tasks': {}}
    if path.exists():
        results = json.loads(path.read_text())
    results |= {
        'command': 'python -m experiments.transfer.run',
        'device': f'{jax.devices()[0].device_kind}, 2 cores',
        'views': VIEWS,
    }

    def write():
        reporting.write_json(path, results)
        write_table(results)

    for task in TASKS:
        source = out / f'source_{task.source}'
        if task.source not in results['sources'] or not source.exists():
            dataset = dataset_of(task.source, out, seed=SOURCE_SEED)
            num_steps = SOURCE_STEPS[task.source]
            results['sources'][task.source] = measure(
                'vivit/moving_digits.py', num_steps, dataset, source
            )
            write()
        dataset = dataset_of(task.target, out, labels=task.labels)
        measured = results['tasks'].setdefault(str(task), {})
        for seed in SEEDS:
            for method in METHODS:
                seeds = measured.setdefault(method.name, {})
                if str(seed) in seeds:
                    continue
                start = (f'init_from={source}',) if method.starts_from_source else ()
                name = f'{task.source}_{task.target}_{method.name}_{seed}'
                workdir = out / name.replace(', ', '_').replace(' ', '_')
                seeds[str(seed)] = measure(
                    method.config, task.num_steps, dataset, workdir, f'seed={seed}', *start
                )
                print(task, method.name, seed, json.dumps(seeds[str(seed)]), flush=True)
                write()


if __name__ == '__main__':
    cli.run(main)
