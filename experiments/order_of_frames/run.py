"""Is the embedded data set about time? python -m experiments.order_of_frames.run

Takes the models of `make demo` and shows them the test videos' clips in other orders: as they are,
backwards, shuffled, and one frame repeated. A model that looks at motion takes a clip that is played
backwards for one of the reversed class (left for right, grow for shrink).
"""

import argparse
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from vjax.data import moving_digits, pipeline, records
from vjax.training import runs
from vjax.training.step import view_logits


def predictions(run: runs.Run, order: str, views: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """The predicted and the true class ids of the test videos, shown in `order`."""
    dataset = records.open_dataset(run.config.dataset.path)
    batches = pipeline.eval_batches(
        dataset,
        'test',
        clip=run.config.clip.to_dict() | {'order': order},
        views=views,
        batch_size=run.config.eval.batch_size,
    )
    predict = jax.jit(lambda video: jnp.argmax(view_logits(run.model, run.params, video), axis=-1))
    predicted, label = [], []
    for batch in batches:
        real = batch['mask'] > 0
        predicted.append(np.asarray(predict(batch['video']))[real])
        label.append(batch['label'][real, 0])
    return np.concatenate(predicted), np.concatenate(label)


def main() -> None:
    """Measures, prints, and writes results.json beside this file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--demo', default='runs/demo', help='what make demo left (%(default)s)')
    demo = Path(parser.parse_args().demo)
    results = {}
    for name in ('vivit', 'single_frame'):
        run = runs.load_run(demo / name)
        classes = run.classes['label']
        backwards = np.array(
            [classes.index(moving_digits.reversed_class('motion6', c)) for c in classes]
        )
        orders = ('forward', 'reversed', 'shuffled', 'still') if name == 'vivit' else ('still',)
        for order in orders:
            predicted, label = predictions(run, order, (3, 1))
            results[f'{name}, {order}'] = {
                'top1': float(np.mean(predicted == label)),
                'top1_of_the_reversed_class': float(np.mean(predicted == backwards[label])),
                'num_videos': len(label),
            }
            print(f'{name}, {order}: {results[f"{name}, {order}"]}', flush=True)
    results['command'] = 'make demo; python -m experiments.order_of_frames.run (a 2-core CPU)'
    (Path(__file__).parent / 'results.json').write_text(json.dumps(results, indent=2) + '\n')


if __name__ == '__main__':
    main()
