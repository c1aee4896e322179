"""Make a page of a run: python -m vjax.report --workdir=runs/digits

One HTML file, report.html in the workdir, that opens anywhere, offline: scores, curves, confusions, the
videos that were understood worst and best, a table of the classes, what was changed of the recipe, speed
and environment. The run is evaluated on its validation split, unless outputs.npz in the workdir has an
evaluation of the checkpoint: of this command, or of vjax.evaluate --outputs=DIR/outputs.npz.
"""

import datetime
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vjax import cli
from vjax import config as configs
from vjax.data import records, stores
from vjax.describe import describe
from vjax.errors import UserError
from vjax.evaluate import evaluation_of
from vjax.reports import page
from vjax.reports.contents import Contents, Evidence
from vjax.training import outputs, reporting, runs
from vjax.training.metrics import Outputs

log = logging.getLogger('vjax.report')  # Not __name__, which is '__main__' under -m.


def report(
    workdir: str | Path,
    out: str | Path = '',
    *,
    views: str = '',
    split: str = '',
    dataset_path: str = '',
    checkpoint: str = 'latest',
    batch_size: int = 0,
    overrides: Sequence[str] = (),
) -> Path:
    """Writes the page of a run.

    Args:
        workdir: of the run, which may be unfinished, or converted.
        out: the file; empty for `report.html` in the workdir.
        views: temporal x spatial views of each video; empty for those of outputs.npz, or '1x1'.
        split: of the data set; empty for that of outputs.npz, or the validation split, or where the data
            set has none, the test split.
        dataset_path: another prepared data set of the same classes; empty for the run's own.
        checkpoint: 'latest', 'best' or a step.
        batch_size: videos at a time; 0 for the config's.
        overrides: '--config.KEY=VALUE' for the run's config; parameters must keep their shapes.

    Returns:
        The file's path.

    Raises:
        UserError: there is no such run, checkpoint or split, or the classes differ, or the file is to be
            written to a folder that is not there.
    """
    workdir = Path(workdir)
    out = Path(out or workdir / 'report.html')
    about, config = runs.read_about(workdir), runs.load_config(workdir, overrides)
    cli.check_files(out=out)
    if views:
        configs.parse_views(views)
    asked = {'views': views, 'split': split, 'checkpoint': checkpoint}
    evidence, missing = None, ''
    if not runs.has_checkpoints(workdir):
        missing = 'There is no checkpoint yet, and so nothing to evaluate.'
    else:
        evidence, missing = _evidence(
            workdir, about, config, asked, dataset_path, batch_size, list(overrides)
        )
    if missing:
        log.warning('%s', missing)
    text = page.render(
        Contents(
            workdir=str(workdir),
            about=about,
            entries=reporting.read_metrics(workdir),
            environment=_environment(workdir),
            costs=describe(config),
            evidence=evidence,
            missing=missing,
            made=f'Made by vjax.report on {datetime.date.today().isoformat()}',
        )
    )
    records.write_atomically(out, text)
    return out


def _evidence(
    workdir: Path,
    about: Mapping[str, Any],
    config: Any,
    asked: Mapping[str, str],
    dataset_path: str,
    batch_size: int,
    overrides: list[str],
) -> tuple[Evidence | None, str]:
    """The evaluation for the page, saved or made, or None; and why it, or its videos, are missing."""
    classes = records.classes_by_head(about['classes'])
    try:
        dataset = records.open_dataset(dataset_path or config.dataset.path)
    except UserError as error:
        if dataset_path:
            raise
        dataset, missing = None, f'There are no videos to look at: {error}'
    step, saved_at = runs.find_checkpoint(workdir, asked['checkpoint'])
    needed = {
        'step': step,
        'saved_at': saved_at,
        'order': config.clip.order,
        'overrides': overrides,
    }
    needed |= {key: asked[key] for key in ('views', 'split') if asked[key]}
    saved = _saved(workdir, needed, dataset, asked_for_dataset=bool(dataset_path))
    if saved is None:
        if dataset is None:
            return None, missing
        splits = (config.dataset.validation, config.dataset.test)
        split = asked['split'] or next((name for name in splits if name in dataset.splits), '')
        if not split:
            return None, f'There is no split “{splits[0]}” or “{splits[1]}” to evaluate the run on.'
        log.info('evaluating step %d on split %s', step, split)
        evaluation = evaluation_of(
            workdir,
            views=asked['views'] or '1x1',
            split=split,
            dataset_path=dataset_path,
            checkpoint=asked['checkpoint'],
            batch_size=batch_size,
            overrides=overrides,
        )
        saved = evaluation.outputs, evaluation.result
        try:
            evaluation.save_outputs(workdir / outputs.FILE)
        except OSError as error:
            log.warning('the evaluation is not kept: %s', error)
    found, result = saved
    classification = configs.classification(config, classes, about['multi_label'])
    store, missing = None, ''
    if dataset is None or result['split'] not in dataset.splits:
        missing = (
            f'The data set {result["dataset"]} is not here, and so there are no videos to look at.'
        )
    else:
        store = stores.open_store(dataset, result['split'])
    return Evidence(found, result, classification, store), missing


def _saved(
    workdir: Path,
    needed: Mapping[str, Any],
    dataset: records.Dataset | None,
    *,
    asked_for_dataset: bool,
) -> tuple[Outputs, dict[str, Any]] | None:
    """The evaluation in outputs.npz, if its result has what is needed, and is of this data set.

    One of a split that the data set lacks counts where nobody asked for this data set.
    """
    file = workdir / outputs.FILE
    if not file.exists():
        return None
    found, result = outputs.read(file)
    fits = all(result.get(key) == value for key, value in needed.items())
    if dataset is not None and result['split'] in dataset.splits:
        fits &= result['fingerprint'] == dataset.splits[result['split']].fingerprint
    elif asked_for_dataset:
        fits = False
    if fits:
        log.info(
            'taking the evaluation on split %s (%s views) from %s',
            result['split'],
            result['views'],
            file,
        )
        return found, result
    return None


def _environment(workdir: Path) -> dict[str, Any]:
    """What the run left of its environment; nothing where it left nothing."""
    file = workdir / 'environment.json'
    try:
        found = json.loads(file.read_text(encoding='utf-8'))
    except (OSError, ValueError) as error:
        log.warning('cannot read %s: %s', file, error)
        return {}
    return found if isinstance(found, dict) else {}


def main(argv: list[str]) -> None:
    """Parses the command line, makes the page and prints where it is."""
    parser = cli.parser(__doc__)
    cli.add_run(parser)
    parser.add_argument(
        '--out', default='', metavar='FILE.html', help='default: report.html in the workdir'
    )
    parser.add_argument('--views', default='', help='temporal x spatial, such as 4x3 (1x1)')
    parser.add_argument('--split', default='', help="default: the config's validation split")
    parser.add_argument('--dataset', default='', help="prepared data set; default: the run's own")
    parser.add_argument('--batch_size', type=int, default=0, help="default: the config's")
    args, overrides = cli.parse_args(parser, argv)
    file = report(
        args.workdir,
        args.out,
        views=args.views,
        split=args.split,
        dataset_path=args.dataset,
        checkpoint=args.checkpoint,
        batch_size=args.batch_size,
        overrides=overrides,
    )
    print(f'{file} ({file.stat().st_size / 2**20:.1f} MiB)')


if __name__ == '__main__':
    cli.run(main)
