"""Convert a checkpoint: python -m vjax.convert --source=vit --checkpoint=B_16.npz --config=CONFIG --out=DIR

Sources and what --checkpoint is for each:

    scenic       a checkpoint file of Scenic's ViT, ViViT, TokenLearner or MTV, whatever its name
    vit          .npz of vision_transformer, AugReg or big_vision; for an MTV one for each view, as A,B,C
    huggingface  a folder with config.json and model.safetensors
    videoprism   .npz of VideoPrism
    vjax         the workdir of a run

The result is a workdir: start from it with --config.init_from=DIR, or give it to vjax.evaluate and
vjax.predict if its classifier came along. --to=huggingface writes a folder for `from_pretrained`
instead. A report says of every parameter whether it was loaded, changed, left or not used, and what is
unexpected is an error. --config.adapt.KEY=VALUE says how a model of another kind is made to fit; with
--config.init_from=vit:B_16.npz training does the same without a conversion before it.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import ml_collections

from vjax import cli, models, recipes, weights
from vjax import config as configs
from vjax.data import records, video
from vjax.errors import UserError
from vjax.override import override
from vjax.training import runs
from vjax.training.checkpoints import Checkpoints
from vjax.training.interruption import Interruption
from vjax.weights import huggingface
from vjax.weights.adapt import LOGITS

TARGETS = ('vjax', 'huggingface')


def convert(
    name: str,
    out: str | Path,
    *,
    config: ml_collections.ConfigDict | None = None,
    classes: Mapping[str, Sequence[str]] | None = None,
    to: str = 'vjax',
) -> weights.Report:
    """Writes the model of `config`, with the parameters that a checkpoint gives it.

    Args:
        name: 'vit:B_16.npz', 'scenic:checkpoint', or the workdir of a run; see `weights.read`.
        out: folder to write, which must not exist.
        config: of the model; None for that of the run, where `name` is one.
        classes: class names by head in the order of the logits; None for those that the checkpoint
            names.
        to: 'vjax' for a workdir, 'huggingface' for a folder that `from_pretrained` takes.

    Returns:
        What became of each parameter.

    Raises:
        UserError: the checkpoint cannot be read, or does not fit the model, or the model has no
            counterpart in `to`.
    """
    out = Path(out)
    if to not in TARGETS:
        raise UserError(f'to={to!r} is not one of {", ".join(TARGETS)}.')
    if out.exists():
        raise UserError(f"--out='{out}' exists already; name a new folder.")
    classes = classes and {head: tuple(names) for head, names in classes.items()}
    if config is None and weights.split_name(name)[0]:
        raise UserError(f'{name} needs a config, of the model to convert to.')
    config = (config or run_config(name)).copy_and_resolve_references()
    configs.check(config)
    is_run = not weights.split_name(name)[0]
    about = runs.read_about(name) if is_run else {}
    multi_label = about.get('multi_label', False)
    shape = configs.clip_shape(config)
    with Interruption() as interruption:
        fields = config.model.to_dict() | {'num_classes': config.model.num_classes or 1}
        sources = runs.read_sources(name, models.build(**fields), shape)
        config.model.num_classes = count_classes(sources, config, classes)
        model = models.build(**config.model)
        shapes = weights.flatten(jax.eval_shape(lambda: runs.init_params(model, config)))
        arrays, report = weights.adapt(
            sources,
            model,
            shapes,
            shape,
            weights.Adapt(**config.adapt),
            fresh=lambda path: runs.fresh_params(model, config, [path])[path],
        )
        multi_label |= check_classifier(sources, config, report)
        named = choose_classes(sources, classes, config, report)
        arrays |= runs.fresh_params(model, config, report.left.keys()) if report.left else {}
        params = weights.unflatten({path: arrays[path] for path in shapes})
        stop_if(interruption)
        if to == 'huggingface':
            if report.left:
                raise UserError(
                    f'{len(report.left)} parameters, such as {min(report.left)}, are left at their '
                    'initialisation: train the model before it is written for others.'
                )
            sigmoid = config.loss.name == 'sigmoid'
            huggingface.write(out, model, params, named, shape, config.clip.short_side, sigmoid)
            return report
        partial = out.with_name(f'.partial-{out.name}')
        try:
            shutil.rmtree(partial, ignore_errors=True)
            settings = about.get('settings') or {  # Of a run: what its videos were prepared with.
                'short_side': config.clip.short_side,
                'jpeg_quality': video.JPEG_QUALITY,
            }
            write_workdir(partial, config, params, named, multi_label, name, settings, report)
            stop_if(interruption)
            partial.rename(out)
        except OSError as error:
            raise UserError(f"cannot write --out='{out}': {error.strerror or error}.") from error
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return report


def run_config(workdir: str | Path, overrides: Sequence[str] = ()) -> ml_collections.ConfigDict:
    """The config of a run, whose `adapt` said what became of the weights that it started from."""
    config = runs.load_config(workdir)
    with config.unlocked():
        config.adapt = recipes.base().adapt
    if overrides:
        config = override(config, overrides)
    return config


def stop_if(interruption: Interruption) -> None:
    """Exits, with nothing written, where a signal came."""
    if interruption.signal:
        raise SystemExit(128 + interruption.signal)


def choose_classes(
    sources: Sequence[weights.Source],
    classes: Mapping[str, Sequence[str]] | None,
    config: ml_collections.ConfigDict,
    report: weights.Report,
) -> Mapping[str, Sequence[str]] | None:
    """The names of the logits: those given, or the source's where its classifier goes along.

    Raises:
        UserError: the source names the classes of its classifier, and otherwise or in another order.
    """
    known = sources[0].classes
    kept = not any(path.startswith('head/') for path in report.left)
    if not (kept and known):
        return classes
    same = classes is None or list(classes.items()) == list(known.items())
    if not same and config.adapt.head != 'keep':
        raise UserError(
            f'--classes differs from the classes that {sources[0].name} names '
            f'({records.first_difference(classes, known)}); leave it away, or insist with '
            '--config.adapt.head=keep.'
        )
    return classes or known


def count_classes(
    sources: Sequence[weights.Source],
    config: ml_collections.ConfigDict,
    classes: Mapping[str, Sequence[str]] | None,
) -> int:
    """The number of logits: that of the checkpoint's classifier, if it goes along.

    Raises:
        UserError: the checkpoint, the config and the list of classes disagree.
    """
    wanted = {}
    if classes:
        wanted['--classes'] = sum(map(len, classes.values()))
    if config.model.num_classes:
        wanted['config.model.num_classes'] = config.model.num_classes
    same_kind = [type(s.model).__name__ for s in sources] == [models.MODELS[config.model.name][1]]
    has_head = any(LOGITS.fullmatch(path) for source in sources for path in source.params)
    if config.adapt.head != 'drop' and has_head and same_kind:
        found = sources[0].model.num_classes
        others = wanted or {'config.dataset.num_classes': config.dataset.num_classes}
        for key, number in others.items():
            if number != found:
                raise UserError(
                    f'{sources[0].name} has {found} classes and {key} says {number}: mend it, or leave the '
                    'classifier behind with --config.adapt.head=drop.'
                )
        return found
    if len(set(wanted.values())) > 1:
        raise UserError(' and '.join(f'{key} says {n}' for key, n in wanted.items()) + ' classes.')
    return next(iter(wanted.values()), config.dataset.num_classes)


def check_classifier(
    sources: Sequence[weights.Source], config: ml_collections.ConfigDict, report: weights.Report
) -> bool:
    """Refuses to take a classifier along to vectors, clips or a loss of another kind than its own.

    Returns:
        Whether there is one that answers for each class by itself, as its file says.

    Raises:
        UserError: the tokens are summed up otherwise, or position embeddings had to be resized, and
            `config.adapt.head` does not insist; or the loss is for one class of each video.
    """
    resized = [f'{path} ({how})' for path, how in report.changed.items() if 'position' in path]
    if sources[0].positions:  # Made for the size at hand, whatever it is.
        resized = []
    has_head = any(LOGITS.fullmatch(path) for path in report.loaded)
    multi_label = has_head and sources[0].multi_label
    if multi_label and config.loss.name != 'sigmoid':
        raise UserError(
            f'{sources[0].name} has a classifier that answers for each class by itself: add '
            '--config.loss.name=sigmoid, or leave it behind with --config.adapt.head=drop.'
        )
    if not has_head or config.adapt.head != 'auto':
        return multi_label
    theirs, ours = getattr(sources[0].model, 'classifier', ''), config.model.get('classifier', '')
    if theirs and ours and theirs != ours:
        raise UserError(
            f'{sources[0].name} was trained with classifier={theirs!r} and config.model.classifier is '
            f'{ours!r}: mend that, or leave the classifier behind with --config.adapt.head=drop.'
        )
    if resized:
        raise UserError(
            f'{sources[0].name} was trained on clips of another size than config.clip.num_frames='
            f'{config.clip.num_frames} and config.clip.size={config.clip.size}: {resized[0]}; mend those, '
            'or insist with --config.adapt.head=keep, or leave the classifier behind with '
            '--config.adapt.head=drop.'
        )
    return multi_label


def write_workdir(
    workdir: Path,
    config: ml_collections.ConfigDict,
    params: Any,
    classes: Mapping[str, Sequence[str]] | None,
    multi_label: bool,
    source: str,
    settings: Mapping[str, Any],
    report: weights.Report,
) -> None:
    """A workdir with parameters alone, which `runs.load_run` reads and no training resumes."""
    with config.unlocked():
        config.ema, config.init_from, config.adapt = 0.0, '', recipes.base().adapt
    named = classes or {'label': [str(i) for i in range(config.model.num_classes)]}
    workdir.mkdir(parents=True)
    runs.write_about(
        workdir,
        {
            'config': json.loads(config.to_json()),
            'classes': records.plain_classes(named),
            'multi_label': multi_label,
            'fingerprint': '',
            'settings': dict(settings),
            'conversion': {
                'source': source,
                'named_classes': bool(classes),
                'report': report._asdict(),
            },
        },
    )
    runs.write_environment(workdir)
    checkpoints = Checkpoints(workdir)
    try:
        checkpoints.save_model(jax.tree.map(jax.numpy.asarray, params))
    finally:
        checkpoints.close()


def main(argv: list[str]) -> None:
    """Parses the command line, converts and prints the report."""
    parser = cli.parser(__doc__)
    cli.add_config(parser, required=False)
    parser.set_defaults(config='')
    parser.add_argument(
        '--source', required=True, choices=('vjax', *weights.SOURCES), help='whose checkpoint it is'
    )
    parser.add_argument('--checkpoint', required=True, metavar='PATH', help='see above')
    parser.add_argument('--out', required=True, metavar='DIR', help='folder to write')
    parser.add_argument('--to', default='vjax', choices=TARGETS, help='default: %(default)s')
    cli.add_classes(parser)
    args, overrides = cli.parse_args(parser, argv)
    own = args.source == 'vjax'
    if not args.config and not own:
        raise UserError(f'--source={args.source} needs --config, the model to convert to.')
    name = args.checkpoint if own else f'{args.source}:{args.checkpoint}'
    load = cli.load_config if args.config else run_config
    config = load(args.config or name, overrides)
    files = cli.class_files(args.classes)
    classes = None
    if files:
        files = files if isinstance(files, dict) else {'label': files}
        classes = {head: tuple(records.read_classes(file)) for head, file in files.items()}
    report = convert(name, args.out, config=config, classes=classes, to=args.to)
    print(report)
    print(f'wrote {args.out}')


if __name__ == '__main__':
    cli.run(main)
