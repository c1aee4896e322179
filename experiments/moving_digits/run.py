"""Every family on the moving digits: python -m experiments.moving_digits.run

Trains models of about equal size with the same recipe on each set, and evaluates what they make of
the test videos as they are, backwards, shuffled, and with one frame repeated. A model that looks at
motion takes a clip that is played backwards for one of the reversed class (left for right). The
baseline 'single frames' was also trained on one frame repeated. LookupViT, trained on several
compressed grids at once, is evaluated on each. All of one seed.

Writes results.json, table.md, accuracy.png and grids.png beside this file, after every model; run
again, it goes on where it stopped (what results.json has is not measured again: delete it to start
over). Seconds per step are measured at the end, one model after the other, on a machine that should
have nothing else to do.
"""

import dataclasses
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure
from ml_collections import ConfigDict

from vjax import cli, visualize
from vjax.data import moving_digits, moving_digits_tasks, pipeline, records
from vjax.demo import SPLITS
from vjax.describe import describe
from vjax.prepare import prepare
from vjax.train import train
from vjax.training import reporting, runs
from vjax.training.step import view_logits

HERE = Path(__file__).parent
VIEWS = (3, 1)
ORDERS = ('forward', 'reversed', 'shuffled', 'still')
NUM_STEPS = {'motion6': 500, 'order12': 600, 'curl': 500}
NUM_TIMED_STEPS = 60
GRIDS = ((1, 1), (2, 2), (3, 3), (4, 4), (5, 5), (6, 6))


@dataclasses.dataclass(frozen=True)
class Row:
    """One trained model: a config, and how it differs from it."""

    name: str
    config: str
    overrides: tuple[str, ...] = ()


ROWS = (
    Row('ViViT, spatio-temporal', 'vivit/moving_digits.py:attention=spacetime', ('model.depth=4',)),
    Row('ViViT, factorised encoder', 'vivit/moving_digits.py'),
    Row(
        'ViViT, factorised self-attention',
        'vivit/moving_digits.py:attention=factorised_self_attention',
        ('model.depth=3',),
    ),
    Row(
        'ViViT, factorised dot-product',
        'vivit/moving_digits.py:attention=factorised_dot_product',
        ('model.depth=4',),
    ),
    Row('TokenLearner, 8 tokens', 'token_learner/moving_digits.py'),
    Row('MTV, two views', 'mtv/moving_digits.py'),
    Row('LookupViT, factorised', 'lookupvit/moving_digits.py'),
    Row('ViViT, single frames', 'vivit/moving_digits.py:order=still'),
)


def dataset_of(motion_set: str, out: Path) -> Path:
    """The prepared data set, rendered where it is not there yet."""
    videos, dataset = out / motion_set / 'videos', out / motion_set / 'dataset'
    moving_digits.generate(videos, motion_set)
    for split in SPLITS:
        prepare(videos, videos / f'{split}.csv', dataset, split, short_side=48)
    return dataset


def load(row: Row, dataset: Path, num_steps: int, *overrides: str) -> ConfigDict:
    """The config of a row, for a number of steps on a data set."""
    overrides = (f'dataset.path={dataset}', f'num_steps={num_steps}', *row.overrides, *overrides)
    return cli.load_config(f'configs/{row.config}', [f'--config.{each}' for each in overrides])


def seconds_per_step(row: Row, dataset: Path) -> float:
    """The median over windows of five steps; those in which a step is compiled are few."""
    config = load(row, dataset, NUM_TIMED_STEPS, 'eval.every=0', 'log_every=5')
    with tempfile.TemporaryDirectory() as workdir:
        train(config, Path(workdir) / 'run')
        lines = reporting.read_metrics(Path(workdir) / 'run')
    rates = [line['clips_per_second'] for line in lines if 'train/loss' in line]
    return config.batch_size / statistics.median(rates)


def trained(row: Row, motion_set: str, dataset: Path, out: Path) -> tuple[runs.Run, Path]:
    """The run of a row on a set and its workdir, trained where it is not there yet."""
    steps = NUM_STEPS[motion_set]
    workdir = out / motion_set / row.name.replace(', ', '_').replace(' ', '_')
    train(load(row, dataset, steps, f'eval.every={steps}'), workdir)
    return runs.load_run(workdir), workdir


def measure(row: Row, motion_set: str, dataset: Path, out: Path) -> dict[str, Any]:
    """Trains one model on one set, and what it costs and answers."""
    run, workdir = trained(row, motion_set, dataset, out)
    costs = describe(run.config)
    result = {
        'params': costs['params'],
        'gflops': costs['gflops_per_view'],
        'num_steps': NUM_STEPS[motion_set],
    }
    backwards = [
        moving_digits_tasks.reversed_class(motion_set, name) for name in run.classes['label']
    ]
    backwards = np.array([run.classes['label'].index(name) for name in backwards])
    for order in ('still',) if run.config.clip.order == 'still' else ORDERS:
        predicted, label = predictions(run, order)
        result[order] = {
            'top1': float(np.mean(predicted == label)),
            'top1_of_the_reversed_class': float(np.mean(predicted == backwards[label])),
        }
    result['num_videos'] = len(label)
    if 'grid' in run.config.model:
        result['grids'] = {}
        for grid in GRIDS:
            other = runs.load_run(workdir, overrides=[f'--config.model.grid={grid}'])
            predicted, label = predictions(other, 'forward')
            result['grids']['x'.join(map(str, grid))] = {
                'gflops': describe(other.config)['gflops_per_view'],
                'top1': float(np.mean(predicted == label)),
                'trained': grid in run.config.vary.grid,
            }
    return result


def predictions(run: runs.Run, order: str) -> tuple[np.ndarray, np.ndarray]:
    """The predicted and the true class ids of the test videos, their clips' frames in `order`."""
    batches = pipeline.eval_batches(
        records.open_dataset(run.config.dataset.path),
        'test',
        clip=run.config.clip.to_dict() | {'order': order},
        views=VIEWS,
        batch_size=run.config.eval.batch_size,
    )
    predict = jax.jit(lambda video: jnp.argmax(view_logits(run.model, run.params, video), axis=-1))
    predicted, label = [], []
    for batch in batches:
        real = batch['mask'] > 0
        predicted.append(np.asarray(predict(batch['video']))[real])
        label.append(batch['label'][real, 0])
    return np.concatenate(predicted), np.concatenate(label)


def write_table(results: dict[str, Any]) -> None:
    """table.md: one table for each set."""
    lines = []
    for motion_set, rows in results['sets'].items():
        lines += [
            f'## {motion_set} ({NUM_STEPS[motion_set]} steps)',
            '',
            '| Model | Parameters | GFLOPs | s / step | Top-1 | One frame | Backwards: own class | '
            'Backwards: reversed class |',
            '| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |',
        ]
        for name, row in rows.items():
            shown = [
                f'{row[order][key]:.1%}' if order in row else ''
                for order, key in (
                    ('forward', 'top1'),
                    ('still', 'top1'),
                    ('reversed', 'top1'),
                    ('reversed', 'top1_of_the_reversed_class'),
                )
            ]
            seconds = results['seconds_per_step'].get(name)
            seconds = f'{seconds:.3f}' if seconds else ''
            costs = f'{row["params"]:,} | {row["gflops"]:.4f} | {seconds}'
            lines.append(f'| {name} | {costs} | {" | ".join(shown)} |')
        lines.append('')
        for name, row in rows.items():
            if 'grids' not in row:
                continue
            lines += [
                f'{name}, one trained model at several compressed grids '
                '(\\* not among those trained on):',
                '',
                '| Grid | GFLOPs | Top-1 |',
                '| --- | ---: | ---: |',
            ]
            for grid, at in row['grids'].items():
                star = '' if at['trained'] else ' \\*'
                lines.append(f'| {grid}{star} | {at["gflops"]:.4f} | {at["top1"]:.1%} |')
            lines.append('')
    (HERE / 'table.md').write_text('\n'.join(lines))


@visualize.styled()
def draw(results: dict[str, Any]) -> None:
    """accuracy.png: top-1 against GFLOPs on each set; grids.png: LookupViT's one model at all grids."""
    sets = results['sets']
    figure = Figure(figsize=(4.3 * len(sets), 4.2))
    axes = figure.subplots(1, len(sets), squeeze=False)[0]
    for axis, (motion_set, rows) in zip(axes, sets.items(), strict=True):
        for i, row in enumerate(ROWS):
            if row.name in rows:
                found = rows[row.name]
                top1 = found['forward' if 'forward' in found else 'still']['top1']
                marker, color = visualize.mark(i)
                axis.plot(found['gflops'], 100 * top1, marker, color=color, label=row.name)
        axis.set(title=motion_set, xlabel='GFLOPs per clip', ylim=(0, 104))
        axis.grid(True)
    axes[0].set_ylabel('top-1 (%)')
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc='outside lower center', ncols=4)
    visualize.save(figure, HERE / 'accuracy.png')

    grids = {
        motion_set: [
            (point['gflops'], 100 * point['top1'], grid) for grid, point in row['grids'].items()
        ]
        for motion_set, rows in sets.items()
        for row in rows.values()
        if 'grids' in row
    }
    if grids:
        title = 'LookupViT: one trained model, several compressed grids'
        visualize.save(visualize.accuracy_against_cost(grids, title=title), HERE / 'grids.png')


def main(argv: list[str]) -> None:
    """Trains, measures and writes."""
    parser = cli.parser(__doc__)
    parser.add_argument('--out', default='runs/moving_digits', help='workdirs (%(default)s)')
    parser.add_argument(
        '--sets', nargs='+', default=list(NUM_STEPS), choices=NUM_STEPS, help='default: all'
    )
    args = parser.parse_args(argv)
    out, path = Path(args.out), HERE / 'results.json'
    results = {'seconds_per_step': {}, 'sets': {}}
    if path.exists():
        results = json.loads(path.read_text())
    results |= {
        'command': 'python -m experiments.moving_digits.run',
        'device': f'{jax.devices()[0].device_kind}, 2 cores',
        'views': 'x'.join(map(str, VIEWS)),
    }

    def write():
        reporting.write_json(path, results)
        write_table(results)
        draw(results)

    for motion_set in args.sets:
        dataset = dataset_of(motion_set, out)
        measured = results['sets'].setdefault(motion_set, {})
        for row in ROWS:
            if measured.get(row.name, {}).get('num_steps') != NUM_STEPS[motion_set]:
                measured[row.name] = measure(row, motion_set, dataset, out)
                print(motion_set, row.name, json.dumps(measured[row.name]), flush=True)
                write()
    for row in ROWS:
        if row.name not in results['seconds_per_step']:
            results['seconds_per_step'][row.name] = seconds_per_step(row, dataset)
    write()


if __name__ == '__main__':
    cli.run(main)
