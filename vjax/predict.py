"""Predict the classes of video files: python -m vjax.predict --workdir=runs/digits my_video.mp4

A file goes the way of a prepared one, in memory: decoded, resized, stored as JPEG frames, cut into
views; so a model sees here what it saw in evaluation.
"""

import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from vjax import cli
from vjax import config as configs
from vjax.data import pipeline, video
from vjax.errors import UserError
from vjax.training import runs
from vjax.training.step import view_logits


def predict(
    workdir: str | Path,
    files: Iterable[str | Path],
    *,
    views: str = '1x1',
    top: int = 5,
    checkpoint: str = 'latest',
) -> Iterator[dict[str, Any]]:
    """The most likely classes of each file, as soon as it is done.

    Args:
        workdir: of the run.
        files: videos that PyAV decodes.
        views: temporal x spatial views whose logits are averaged.
        top: number of classes to name.
        checkpoint: 'latest', 'best' or a step.

    Yields:
        `{'path': ..., 'top': [{'label': ..., 'score': ...}, ...]}` with softmax scores, best first;
        or `{'path': ..., 'error': ...}` for a file that is no video.

    Raises:
        UserError: there is no such run or checkpoint.
    """
    views = configs.parse_views(views)
    run = runs.load_run(workdir, checkpoint)

    @jax.jit
    def scores(params, clips):
        return jax.nn.softmax(view_logits(run.model, params, clips))[0]

    for file in files:
        try:
            example = video.encode(file, **run.settings)
        except video.BadVideo as error:
            yield {'path': str(file), 'error': str(error)}
            continue
        clips = pipeline.decode_views(example, clip=run.config.clip.to_dict(), views=views)
        score = np.asarray(scores(run.params, clips[None]))
        best = np.argsort(-score, kind='stable')[:top]
        yield {
            'path': str(file),
            'top': [{'label': run.classes[i], 'score': float(score[i])} for i in best],
        }


def main(argv: list[str]) -> int:
    """Parses the command line and prints; returns 2 where a file could not be read."""
    parser = cli.parser(__doc__)
    parser.add_argument('--workdir', required=True, help='folder of a run of vjax.train')
    parser.add_argument('files', nargs='+', metavar='FILE', help='video files')
    parser.add_argument(
        '--views', default='1x1', help='temporal x spatial, such as 4x3 (%(default)s)'
    )
    parser.add_argument('--top', type=int, default=5, help='classes to name (%(default)s)')
    parser.add_argument(
        '--checkpoint', default='latest', help="'latest', 'best' or a step (%(default)s)"
    )
    parser.add_argument('--json', action='store_true', help='print one JSON object a line')
    args, _ = cli.parse_args(parser, argv)
    if args.top < 1:
        raise UserError(f'--top={args.top} should be at least 1.')
    failed = False
    for result in predict(
        args.workdir, args.files, views=args.views, top=args.top, checkpoint=args.checkpoint
    ):
        failed |= 'error' in result
        if args.json:
            print(json.dumps(result, ensure_ascii=False), flush=True)
        elif 'error' in result:
            print(f'error: {result["path"]}: {result["error"]}', file=sys.stderr)
        else:
            named = '  '.join(f'{entry["label"]} {entry["score"]:.1%}' for entry in result['top'])
            print(f'{result["path"]}: {named}', flush=True)
    return 2 if failed else 0


if __name__ == '__main__':
    cli.run(main)
