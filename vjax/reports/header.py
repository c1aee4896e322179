"""The head of a page: what was run, how far it came, how well it does, and how far to believe that."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from vjax.data import records
from vjax.reports import findings, history
from vjax.reports.contents import Contents
from vjax.training import reporting


def title(contents: Contents) -> dict[str, str]:
    """The name of the config, its argument, and where the run lives."""
    config = contents.about['config']
    recipe = contents.about.get('recipe')
    if recipe:
        file, _, argument = recipe['name'].partition(':')
        name = '/'.join(file.removesuffix('.py').split('/')[-2:])
        return {'name': name, 'argument': argument, 'workdir': contents.workdir}
    name = f'{config["model"]["name"]} on {_dataset_name(config["dataset"]["path"])}'
    return {'name': name, 'argument': '', 'workdir': contents.workdir}


def _dataset_name(path: str) -> str:
    """The name of a data set: of its folder, or, if that is called 'dataset' like many, of its parent."""
    parts = [part for part in path.split('/') if part]
    if len(parts) > 1 and parts[-1] in ('dataset', 'set'):
        parts.pop()
    return parts[-1] if parts else path


def status(contents: Contents) -> dict[str, Any]:
    """How far the run came: a word, a sentence, and whether all is done."""
    done, steps = history.last_step(contents.entries), contents.about['config']['num_steps']
    seconds = history.longest(contents.entries, 'seconds')
    if 'conversion' in contents.about:
        source = contents.about['conversion']['source']
        return {'word': 'Converted', 'text': f'from {source}', 'done': True}
    if done >= steps:
        text = f'{steps:,} steps in {reporting.duration(seconds)}'
        return {'word': 'Finished', 'text': text, 'done': True}
    return {'word': 'Unfinished', 'text': f'{done:,} of {steps:,} steps', 'done': False}


def facts(contents: Contents) -> list[tuple[str, str]]:
    """What was trained on what, in a few figures."""
    config, costs = contents.about['config'], contents.costs
    time, height, width, _ = costs['clip']
    classes = records.count_classes(contents.classes)
    return [
        ('Model', config['model']['name']),
        ('Parameters', f'{costs["params"]:,}'),
        ('GFLOPs per view', f'{costs["gflops_per_view"]:.3g}'),
        ('Clip', f'{time} frames of {height} × {width}'),
        ('Classes', classes),
        ('Data set', _dataset_name(config['dataset']['path'])),
    ]


def notices(contents: Contents) -> list[str]:
    """What a reader should know before believing the scores."""
    config, entries = contents.about['config'], contents.entries
    done, steps = history.last_step(entries), config['num_steps']
    converted = 'conversion' in contents.about
    found = []
    if not converted and done < steps:
        how_far = f'at step {done:,} of {steps:,}' if entries else 'before its first report'
        found.append(
            f'The run is unfinished: it stands {how_far}. It may be running still, and the same command '
            'takes it up again.'
        )
    if not converted and entries and not _validated(contents):
        found.append(_not_validated(config, done))
    if contents.missing:
        found.append(contents.missing)
    failed = history.total(entries, 'train/failed_records')
    if failed:
        found.append(f'{_count(failed, "training clip")} could not be decoded, and left out.')
    if contents.evidence:
        found += _notices_of_evaluation(contents.evidence.result, 0 if converted else done)
    if config['clip']['order'] != 'forward':
        found.append(
            f'The model was trained on frames in the order “{config["clip"]["order"]}”; the videos below '
            'play as they are.'
        )
    if contents.environment.get('git_changed'):
        found.append('The source had changes that are in no commit when the run was started.')
    return found


def _count(number: int | float, what: str) -> str:
    return f'{number:,.0f} {what}{"s" if number != 1 else ""}'


def _not_validated(config: Mapping[str, Any], done: int) -> str:
    every, split = config['eval']['every'], config['dataset']['validation']
    if not every:
        return 'The run was trained without validation: config.eval.every is 0.'
    if done < min(every, config['num_steps']):
        return f'The run was not validated yet: it will be after step {every:,}.'
    return f'The run was trained without validation: the data set had no split “{split}”.'


def _notices_of_evaluation(result: Mapping[str, Any], done: int) -> list[str]:
    found = []
    if done and result['step'] != done:
        found.append(
            f'The scores are of the checkpoint of step {result["step"]:,}; the last report is of step '
            f'{done:,}.'
        )
    if result['num_undecodable']:
        found.append(
            f'{_count(result["num_undecodable"], "video")} of the split could not be decoded, and left out '
            'of all scores.'
        )
    if result['overrides']:
        found.append(f'The config was changed for the evaluation: {" ".join(result["overrides"])}.')
    return found


def _validated(contents: Contents) -> bool:
    return any(f'{contents.validation}/loss' in entry for entry in contents.entries)


# --- Scores ---


def scores(contents: Contents) -> dict[str, Any] | None:
    """The scores, the first of which the page shouts, and what they are of; None where there are none."""
    evidence = contents.evidence
    if evidence:
        result = evidence.result
        plain = findings.baselines(evidence.classification, evidence.outputs)
        of = f'{result["split"]}, {result["views"]} views, step {result["step"]:,}'
    else:
        split = contents.validation
        scored = [entry for entry in contents.entries if f'{split}/loss' in entry]
        if not scored:
            return None
        result = {name.removeprefix(f'{split}/'): value for name, value in scored[-1].items()}
        plain, of = {}, f'{split}, as logged at step {scored[-1]["step"]:,}'
    number = int(result['num_videos'])
    tiles = [
        _tile(name, label, result[name], number, plain.get(name))
        for name, label in _score_names(contents.classes, contents.about['multi_label'])
        if name in result
    ]
    loss = f'{result["loss"]:.3f}'
    tiles.append({'label': 'Loss', 'value': loss, 'unit': 'nats', 'bar': None, 'notes': []})
    return {'tiles': tiles, 'of': of, 'num_videos': f'{number:,}'}


def _score_names(
    classes: Mapping[str, Sequence[str]], multi_label: bool
) -> Iterable[tuple[str, str]]:
    """The metrics that are shown, by what they are called on the page."""
    if multi_label:
        yield from (('mAP', 'mAP'), ('exact_match', 'Exact match'), ('ece', 'ECE'))
    elif len(classes) > 1:
        yield 'top1', 'Top-1, all heads right'
        yield from ((f'{head}/top1', f'Top-1, {head}') for head in classes)
    else:
        yield 'top1', 'Top-1'
        if len(*classes.values()) > 5:
            yield 'top5', 'Top-5'
        yield from (('mean_class_accuracy', 'Mean class accuracy'), ('ece', 'ECE'))


def _tile(name: str, label: str, value: float, number: int, plain: float | None) -> dict[str, Any]:
    """A score: its value, a bar from 0 to 100 %, and what the value is to be held against."""
    notes, bar = [], None
    is_share = name.endswith(('top1', 'top5', 'exact_match')) and math.isfinite(value)
    if is_share:
        low, high = findings.interval(value, number)
        notes.append(f'95 % interval {100 * low:.1f}–{100 * high:.1f} %')
        bar = {'value': value, 'low': low, 'high': high, 'plain': plain}
    elif name == 'mAP' and math.isfinite(value):
        bar = {'value': value, 'low': value, 'high': value, 'plain': plain}
    elif name == 'ece':
        notes.append('calibration error: 0 is best')
    if plain is not None:
        what = 'random ranks' if name == 'mAP' else 'always the most frequent'
        notes.append(f'{what}: {100 * plain:.1f} %')
    return {
        'label': label,
        'value': f'{100 * value:.1f}',
        'unit': '%',
        'bar': bar,
        'notes': notes,
    }
