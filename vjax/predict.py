"""Predict the classes of video files: python -m vjax.predict --workdir=runs/digits my_video.mp4

A file goes the way of a prepared one, in memory: decoded, resized, stored as JPEG frames, cut into
views; so a model sees here what it saw in evaluation. What happens when in a long video, or in what a
camera sends, is for vjax.watch to say.
"""

import functools
import itertools
import json
import logging
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, UInt8

from vjax import cli
from vjax import config as configs
from vjax.data import pipeline, video
from vjax.errors import UserError
from vjax.training import metrics, runs, sharding
from vjax.training.losses import Classification
from vjax.training.step import view_logits

log = logging.getLogger('vjax.predict')  # Not __name__, which is '__main__' under -m.

_FOR_LONG_ONES = 'python -m vjax.watch takes videos of any length'


def predict(
    workdir: str | Path,
    files: Iterable[str | Path],
    *,
    views: str = '1x1',
    top: int = 5,
    checkpoint: str = 'latest',
    overrides: Sequence[str] = (),
) -> Iterator[dict[str, Any]]:
    """The most likely classes of each file, as soon as it is done.

    Args:
        workdir: of the run.
        files: videos that PyAV decodes.
        views: temporal x spatial views whose logits are averaged.
        top: number of classes to name.
        checkpoint: 'latest', 'best' or a step.
        overrides: '--config.KEY=VALUE' for the run's config; parameters must keep their shapes.

    Yields:
        `{'path': ..., 'top': [{'label': ..., 'score': ...}, ...]}` with probabilities, best first; or
        `{'path': ..., 'error': ...}` for a file that is no video. With several heads, `top` has the
        best combinations: `label` joins their classes, `classes` has them by head, and `score` is
        the product of their probabilities; `heads` has the same list as `top` of each head alone. Where
        a video has any number of labels, each probability is that of its class alone.

    Raises:
        UserError: there is no such run or checkpoint.
    """
    views = configs.parse_views(views)
    run, classification = load_classifier(workdir, checkpoint, overrides)
    logits_of = logits_by(run)
    for file in files:
        try:
            film = as_prepared(run, file)
        except video.BadVideo as error:
            # Whoever has a film wants to know what happens when.
            advice = f'; {_FOR_LONG_ONES}' if isinstance(error, video.TooLong) else ''
            yield {'path': str(file), 'error': f'{error}{advice}'}
            continue
        clips = pipeline.decode_views(film, clip=run.config.clip.to_dict(), views=views)
        (logits,) = jax.device_get(logits_of(clips[None]))
        yield {'path': str(file), **answer(run.classes, scores_of(classification, logits), top)}


def load_classifier(
    workdir: str | Path, checkpoint: str = 'latest', overrides: Sequence[str] = ()
) -> tuple[runs.Run, Classification]:
    """A run that is to name classes, and what its logits stand for; for the arguments see `predict`.

    Raises:
        UserError: there is no such run or checkpoint, or nobody has trained it.
    """
    run = runs.load_run(workdir, checkpoint, overrides=overrides)
    runs.check_trained(run, workdir)
    if not run.conversion.get('named_classes', True):
        log.warning("the classes of '%s' have no names: convert again with --classes=FILE", workdir)
    return run, configs.classification(run.config, run.classes, run.multi_label)


def logits_by(
    run: runs.Run,
) -> Callable[[UInt8[np.ndarray, 'batch views time height width 3']], Float[jax.Array, 'batch _']]:
    """What gives the logits of clips, the mean over each one's views, on this process's first device."""
    # From the mesh the model knows what it runs on, and how attention is fastest there.
    mesh = sharding.make_mesh({'data': 1}, jax.local_devices()[:1])
    step = jax.jit(functools.partial(view_logits, run.model))

    def logits_of(clips):
        with jax.set_mesh(mesh):
            return step(run.params, clips)

    return logits_of


def storage(run: runs.Run) -> dict[str, Any]:
    """How the data set of the run stores frames: `short_side` and `jpeg_quality`."""
    return {
        'short_side': run.settings['short_side'],
        'jpeg_quality': run.settings.get('jpeg_quality', video.JPEG_QUALITY),
    }


def as_prepared(run: runs.Run, file: str | Path) -> video.Video:
    """A file as the data set of the run would hold it.

    Raises:
        BadVideo: it is no video.
    """
    return video.to_jpeg(file, **storage(run))


def scores_of(
    classification: Classification, logits: Float[np.ndarray, 'classes']
) -> dict[str, Float[np.ndarray, '_']]:
    """Log-probabilities of each head's classes, of the logits of one video."""
    found = metrics.log_probabilities(classification, logits[None])
    return {head: of_head[0] for head, of_head in found.items()}


def answer(
    classes: Mapping[str, Sequence[str]], scores: Mapping[str, Float[np.ndarray, '_']], top: int
) -> dict[str, Any]:
    """`top` and, of several heads, `heads`, as `predict` yields them; for the arguments see `best`."""
    result = {'top': best(classes, scores, top)}
    if len(classes) > 1:
        result['heads'] = {head: best({head: x}, scores, top) for head, x in classes.items()}
    return result


def best(
    classes: Mapping[str, Sequence[str]], scores: Mapping[str, Float[np.ndarray, '_']], top: int
) -> list[dict[str, Any]]:
    """The `top` combinations of one class of each head, best first, as `predict` yields them.

    Args:
        classes: names of each head's classes.
        scores: log-probabilities of each head's classes.
        top: number of combinations.
    """
    # A combination among the best has only classes that are among the best of their heads.
    ranked = [np.argsort(-scores[head], kind='stable')[:top] for head in classes]
    found = []
    for ids in itertools.product(*ranked):
        chosen = dict(zip(classes, ids, strict=True))
        names = {head: classes[head][i] for head, i in chosen.items()}
        several = {'classes': names} if len(names) > 1 else {}
        score = math.exp(sum(float(scores[head][i]) for head, i in chosen.items()))
        found.append({'label': ' '.join(names.values()), **several, 'score': score})
    return sorted(found, key=lambda entry: -entry['score'])[:top]


def in_words(top: Sequence[Mapping[str, Any]]) -> str:
    """What `best` found, on a line."""
    return '  '.join(f'{entry["label"]} {entry["score"]:.1%}' for entry in top)


def print_results(
    results: Iterable[Mapping[str, Any]], line: Callable[[Mapping[str, Any]], str], as_json: bool
) -> int:
    """Prints the result of each file as soon as it is there, and errors.

    Args:
        results: those with an `error` are of a `path` that could not be read.
        line: what is printed of any other, for people.
        as_json: print each as a JSON object instead, errors among them.

    Returns:
        An exit code: 2 where a file could not be read.
    """
    failed = False
    for result in results:
        failed |= 'error' in result
        if as_json:
            print(json.dumps(result, ensure_ascii=False), flush=True)
        elif 'error' in result:
            print(f'error: {result["path"]}: {result["error"]}', file=sys.stderr)
        else:
            print(line(result), flush=True)
    return 2 if failed else 0


def main(argv: list[str]) -> int:
    """Parses the command line and prints; returns 2 where a file could not be read."""
    parser = cli.parser(__doc__)
    cli.add_run(parser)
    parser.add_argument('files', nargs='+', metavar='FILE', help='video or image files')
    parser.add_argument(
        '--views', default='1x1', help='temporal x spatial, such as 4x3 (%(default)s)'
    )
    parser.add_argument(
        '--top', type=int, default=5, help='classes, or combinations of them, to name (%(default)s)'
    )
    parser.add_argument('--json', action='store_true', help='print one JSON object a line')
    args, overrides = cli.parse_args(parser, argv)
    if args.top < 1:
        raise UserError(f'--top={args.top} should be at least 1.')
    results = predict(
        args.workdir,
        args.files,
        views=args.views,
        top=args.top,
        checkpoint=args.checkpoint,
        overrides=overrides,
    )
    return print_results(results, lambda one: f'{one["path"]}: {in_words(one["top"])}', args.json)


if __name__ == '__main__':
    cli.run(main)
