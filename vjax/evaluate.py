"""Evaluate a run: python -m vjax.evaluate --workdir=runs/digits --views=4x3

Every video of the split counts exactly once; its logits are averaged over temporal x spatial views.
The metrics are printed and written to evaluation.json in the workdir; --predictions and --confusion
write what was predicted for every video, and which class is taken for which; --outputs all logits.
"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from vjax import cli
from vjax import config as configs
from vjax.data import pipeline, records, stores
from vjax.errors import UserError
from vjax.training import feeding, metrics, processes, reporting, runs, sharding, tables
from vjax.training import outputs as saved_outputs
from vjax.training.evaluation import collect
from vjax.training.losses import Classification
from vjax.training.step import make_eval_step

log = logging.getLogger('vjax.evaluate')  # Not __name__, which is '__main__' under -m.


class Evaluation(NamedTuple):
    """What a checkpoint made of a split.

    Attributes:
        run: the model and its config, overridden.
        dataset: that has the split.
        classification: what the logits stand for.
        outputs: for every video that could be decoded.
        result: the metrics (see `metrics.scores`), and how they were come by.
    """

    run: runs.Run
    dataset: records.Dataset
    classification: Classification
    outputs: metrics.Outputs
    result: dict[str, Any]

    def save_outputs(self, path: Path) -> None:
        """Writes all logits, with the result and when the checkpoint was saved; see `outputs.write`."""
        saved_outputs.write(path, self.outputs, self.result | {'saved_at': self.run.saved_at})


def evaluate_run(
    workdir: str | Path,
    *,
    out: str | Path = '',
    predictions: str | Path = '',
    confusion: str | Path = '',
    outputs: str | Path = '',
    **how: Any,
) -> dict[str, Any]:
    """Evaluates a checkpoint of `workdir` and writes `evaluation.json` there, or to `out`.

    Args:
        workdir: of the run.
        out: file to write instead of `evaluation.json` in the workdir, to keep several.
        predictions: CSV file for the prediction of every video; see `tables.predictions`.
        confusion: CSV file for the confusion matrix; see `tables.confusion`. Several heads have a file
            each: 'confusion.csv' is then confusion-noun.csv and confusion-verb.csv.
        outputs: npz file for all logits; see `vjax.training.outputs`.
        **how: views, split and so on; see `evaluation_of`.

    Returns:
        What `evaluation.json` holds: the metrics over `num_videos` videos (see `metrics.scores`), and how
        they were come by.

    Raises:
        UserError: there is no such run, checkpoint or split, or the classes differ, or a file cannot be
            put where it is to be written.
    """
    own = Path(workdir) / 'evaluation.json'
    out = out or (own if own.parent.is_dir() else '')  # Else what is wrong is the workdir.
    cli.check_files(out=out, predictions=predictions, confusion=confusion, outputs=outputs)
    evaluation = evaluation_of(workdir, **how)
    run, dataset, classification, found, result = evaluation
    if jax.process_index() == 0:
        reporting.write_json(Path(out), result)
        if predictions:
            sources = stores.open_store(dataset, result['split']).index.names()
            text = tables.predictions(run.classes, classification, found, sources)
            records.write_atomically(Path(predictions), text)
        if confusion:
            for head, text in tables.confusion(run.classes, classification, found).items():
                records.write_atomically(of_head(Path(confusion), head, run.classes), text)
        if outputs:
            evaluation.save_outputs(Path(outputs))
    return result


def evaluation_of(
    workdir: str | Path,
    *,
    views: str = '1x1',
    split: str = '',
    dataset_path: str = '',
    checkpoint: str = 'latest',
    order: str = '',
    batch_size: int = 0,
    overrides: Sequence[str] = (),
) -> Evaluation:
    """Evaluates a checkpoint of `workdir`, and writes nothing.

    Args:
        workdir: of the run.
        views: temporal x spatial views of each video, such as '4x3'.
        split: of the data set; empty for the config's test split, or its validation split where
            the data set has no test split.
        dataset_path: another prepared data set of the same classes; empty for the run's own.
        checkpoint: 'latest', 'best' or a step.
        order: another order of the frames than the run's ('reversed', 'still', 'shuffled').
        batch_size: videos at a time; 0 for the config's.
        overrides: '--config.KEY=VALUE' for the run's config, such as another compressed grid or
            another size of clips; parameters must keep their shapes.

    Raises:
        UserError: there is no such run, checkpoint or split, or the classes differ.
    """
    temporal, spatial = configs.parse_views(views)
    # Not the run's mesh: evaluation may run on fewer devices than training did.
    mesh = sharding.make_mesh({'data': -1})
    run = runs.load_run(workdir, checkpoint, sharding.replicated(mesh), overrides)
    runs.check_trained(run, workdir)
    config = run.config
    dataset = records.open_dataset(dataset_path or config.dataset.path)
    if not run.conversion.get('named_classes', True):
        raise UserError(
            f"'{workdir}' was converted from {run.conversion['source']}, which does not name its classes, "
            'so their order may not be that of the data set; convert it again with --classes=FILE.'
        )
    if list(dataset.classes.items()) != list(run.classes.items()):
        again = 'convert' if run.conversion else 'prepare'
        raise UserError(
            f"the data set '{dataset.path}' has other classes than the run '{workdir}' was trained on "
            f'({records.first_difference(dataset.classes, run.classes)}); {again} it with the same '
            '--classes.'
        )
    if dataset.multi_label != run.multi_label:
        kinds = ('of one class each', 'multi-label')
        raise UserError(
            f"the videos of the data set '{dataset.path}' are {kinds[dataset.multi_label]}, and those that "
            f"the run '{workdir}' was trained on are {kinds[run.multi_label]}; name another --dataset."
        )
    split = split or choose_split(config, dataset)
    if split not in dataset.splits:
        raise UserError(
            f"the data set '{dataset.path}' has no split '{split}', only "
            f'{", ".join(sorted(dataset.splits))}; say which with --split.'
        )
    pipeline.warn_of_small_frames(dataset, config.clip.short_side)
    if order:
        config.clip.order = order
    batch_size = batch_size or config.eval.batch_size
    classification = configs.classification(config, run.classes, run.multi_label)
    sharding.check_batch(mesh, batch_size, 1, '--batch_size')
    with jax.set_mesh(mesh):
        batches = pipeline.eval_batches(
            dataset,
            split,
            clip=config.clip.to_dict(),
            views=(temporal, spatial),
            batch_size=batch_size,
            rows=feeding.rows_of_batch(mesh, batch_size),
        )
        outputs = collect(
            jax.jit(
                make_eval_step(run.model, classification), out_shardings=sharding.replicated(mesh)
            ),
            run.params,
            batches,
            mesh,
        )
    scores = metrics.scores(classification, outputs)
    result = {
        **scores,
        'num_undecodable': dataset.splits[split].num_videos - scores['num_videos'],
        'views': f'{temporal}x{spatial}',
        'split': split,
        'order': config.clip.order,
        'dataset': str(dataset.path),
        'fingerprint': dataset.splits[split].fingerprint,
        'step': run.step,
        'overrides': list(overrides),
    }
    return Evaluation(run, dataset, classification, outputs, result)


def of_head(file: Path, head: str, classes: Mapping[str, Any]) -> Path:
    """Where a head's own file is: 'confusion-noun.csv', or 'confusion.csv' where it is the only one."""
    return file.with_stem(f'{file.stem}-{head}') if len(classes) > 1 else file


def choose_split(config: Any, dataset: records.Dataset) -> str:
    """The config's test split, or its validation split where the data set has no other."""
    if config.dataset.test in dataset.splits or config.dataset.validation not in dataset.splits:
        return config.dataset.test
    log.info("no split '%s': taking '%s'", config.dataset.test, config.dataset.validation)
    return config.dataset.validation


def main(argv: list[str]) -> None:
    """Parses the command line, evaluates and prints."""
    parser = cli.parser(__doc__)
    cli.add_run(parser)
    parser.add_argument(
        '--views', default='1x1', help='temporal x spatial, such as 4x3 (%(default)s)'
    )
    parser.add_argument('--split', default='', help="default: the config's test split")
    parser.add_argument('--dataset', default='', help="prepared data set; default: the run's own")
    parser.add_argument(
        '--order',
        default='',
        choices=('', 'forward', 'reversed', 'shuffled', 'still'),
        help="order of a clip's frames, to see what a model makes of it; default: the run's",
    )
    parser.add_argument('--batch_size', type=int, default=0, help="default: the config's")
    parser.add_argument('--out', default='', help='default: evaluation.json in the workdir')
    parser.add_argument(
        '--predictions', default='', metavar='FILE.csv', help="every video's most likely classes"
    )
    parser.add_argument(
        '--confusion', default='', metavar='FILE.csv', help='which class is taken for which'
    )
    parser.add_argument(
        '--outputs', default='', metavar='FILE.npz', help='all logits; vjax.report reads them'
    )
    processes.add_argument(parser)
    args, overrides = cli.parse_args(parser, argv)
    processes.join(args.distributed)
    with processes.together():
        result = evaluate_run(
            args.workdir,
            views=args.views,
            split=args.split,
            dataset_path=args.dataset,
            checkpoint=args.checkpoint,
            order=args.order,
            batch_size=args.batch_size,
            overrides=overrides,
            out=args.out,
            predictions=args.predictions,
            confusion=args.confusion,
            outputs=args.outputs,
        )
    if jax.process_index() > 0:
        return
    first, *others = reporting.summary(result)
    print(f'{result["split"]}, {result["views"]} views, step {result["step"]}: {first}')
    for line in others:
        print(line)


if __name__ == '__main__':
    cli.run(main)
