"""What a trained model looks at: python -m vjax.look --workdir=runs/digits my_video.mp4 --out=looks

Writes OUT/my_video.mp4 (or .gif, or .png as strips of frames) for each file: the clip that the model saw,
with its prediction, and beside it the maps of `vjax.models.maps` over the same frames. The scale of a
map is from zero to its largest weight in the clip.

    rollout        attention rollout, of every model but MTV
    view_0, ...    the same in each view of MTV
    token_maps     TokenLearner's learned tokens, their mean and each of them
    gather         where LookupViT's compressed tokens gather from; gather_tokens has each of them
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from vjax import cli, visualize
from vjax.data import clip_files, pipeline, video
from vjax.data.augment import normalise
from vjax.errors import UserError
from vjax.models.maps import look
from vjax.predict import (
    as_prepared,
    best,
    in_words,
    load_classifier,
    logits_by,
    print_results,
    scores_of,
)

FORMATS = (*clip_files.FORMATS, 'png')
PANEL = 160  # Pixels of height that a picture is enlarged to, by a whole factor.
NOT_SHOWN = ('gather_tokens', 'fusion_maps')  # Beginnings of names, unless they are asked for.

Maps = Mapping[str, Float[np.ndarray, 'maps _ _ _']]


def look_at(
    workdir: str | Path,
    files: Sequence[str | Path],
    out: str | Path,
    *,
    kind: str = 'mp4',
    names: Sequence[str] = (),
    checkpoint: str = 'latest',
    overrides: Sequence[str] = (),
) -> Iterator[dict[str, Any]]:
    """Writes a file of overlays for each video, as soon as it is done.

    Args:
        workdir: of the run.
        files: videos that PyAV decodes. The clip is that of evaluation with one view.
        out: folder, made where it is missing. Of files with the same name the second is `name_2`.
        kind: one of `FORMATS`.
        names: of the maps; () for those that are few.
        checkpoint: 'latest', 'best' or a step.
        overrides: '--config.KEY=VALUE' for the run's config; parameters must keep their shapes.

    Yields:
        `{'path': ..., 'out': ..., 'top': [{'label': ..., 'score': ...}]}`, as `predict` has it; or
        `{'path': ..., 'error': ...}` for a file that is no video.

    Raises:
        UserError: there is no such run, checkpoint, format or map, or `out` is a file, or a video would
            be overwritten.
    """
    if kind not in FORMATS:
        raise UserError(f'--format={kind} is not one of {", ".join(FORMATS)}.')
    if Path(out).is_file():
        raise UserError(f"--out='{out}' is a file; name a folder.")
    paths = [Path(out) / f'{name}.{kind}' for name in unique_stems(files)]
    sources = {Path(file).resolve(): file for file in files}
    for path in paths:
        if path.resolve() in sources:
            raise UserError(
                f"--out='{out}' would overwrite '{sources[path.resolve()]}'; name another folder."
            )
    run, classification = load_classifier(workdir, checkpoint, overrides)
    logits_of = logits_by(run)
    for file, path in zip(files, paths, strict=True):
        try:
            film = as_prepared(run, file)
        except video.BadVideo as error:
            yield {'path': str(file), 'error': str(error)}
            continue
        clip = pipeline.decode_views(film, clip=run.config.clip.to_dict(), views=(1, 1))
        found = look(run.model, run.params, normalise(jnp.asarray(clip)))
        (logits,), maps = jax.device_get((logits_of(clip[None]), found))
        chosen = choose({name: own[0] for name, own in maps.items()}, names)
        top = best(run.classes, scores_of(classification, logits), 1)
        text = in_words(top)
        if kind == 'png':
            path.parent.mkdir(parents=True, exist_ok=True)
            rows = {f'{Path(file).name}: {text}': enlarged(clip[0]), **panels(clip[0], chosen)}
            visualize.save(visualize.strips(rows), path)
        else:
            fps = run.config.clip.fps or film.fps / run.config.clip.stride
            clip_files.write_clip(path, overlays(clip[0], chosen, [Path(file).name, text]), fps)
        yield {'path': str(file), 'out': str(path), 'top': top}


def choose(maps: Maps, names: Sequence[str] = ()) -> Maps:
    """The maps of the given names, in their order; of () those that are few, rollout first.

    Raises:
        UserError: the model has no such map.
    """
    for name in names:
        if name not in maps:
            raise UserError(f'--maps={name}: the maps of this model are {", ".join(sorted(maps))}.')
    few = sorted((n for n in maps if not n.startswith(NOT_SHOWN)), key=lambda n: n != 'rollout')
    return {name: maps[name] for name in names or few}


def panels(clip: visualize.Clip, maps: Maps) -> dict[str, visualize.Clip]:
    """An overlay for each map by what it is; where a name has several, that of their mean comes first."""
    found, large = {}, enlarged(clip)
    for name, several in maps.items():
        found[name if len(several) == 1 else f'{name}, mean'] = visualize.overlay(
            large, several.mean(axis=0)
        )
        if len(several) > 1:
            found |= {
                f'{name} {i}': visualize.overlay(large, own) for i, own in enumerate(several, 1)
            }
    return found


def overlays(clip: visualize.Clip, maps: Maps, lines: Sequence[str]) -> visualize.Clip:
    """The clip and its `panels` in rows, as one clip under lines of text."""
    shown = {'clip': enlarged(clip), **panels(clip, maps)}
    captioned = [visualize.caption(panel, name, size=11) for name, panel in shown.items()]
    count = len(captioned)
    columns = count if count <= 4 else round(math.sqrt(1.8 * count))
    return visualize.caption(visualize.grid(captioned, columns, gap=4), lines)


def enlarged(clip: visualize.Clip) -> visualize.Clip:
    """The clip as large as a panel."""
    return visualize.enlarge(clip, PANEL)


def unique_stems(files: Iterable[str | Path]) -> list[str]:
    """The files' names without their endings, none twice: later ones end in _2, _3 and so on."""
    taken, stems = set(), []
    for file in files:
        stem, number = Path(file).stem, 1
        while (name := stem if number == 1 else f'{stem}_{number}') in taken:
            number += 1
        taken.add(name)
        stems.append(name)
    return stems


def main(argv: list[str]) -> int:
    """Parses the command line, writes and prints; returns 2 where a file could not be read."""
    parser = cli.parser(__doc__)
    cli.add_run(parser)
    parser.add_argument('files', nargs='+', metavar='FILE', help='video or image files')
    parser.add_argument('--out', required=True, metavar='DIR', help='folder for the overlays')
    parser.add_argument('--format', default='mp4', help=f'{", ".join(FORMATS)} (%(default)s)')
    parser.add_argument(
        '--maps', default='', metavar='NAME,...', help='which maps; default: those that are few'
    )
    parser.add_argument('--json', action='store_true', help='print one JSON object a line')
    args, overrides = cli.parse_args(parser, argv)
    results = look_at(
        args.workdir,
        args.files,
        args.out,
        kind=args.format,
        names=[name for name in args.maps.split(',') if name],
        checkpoint=args.checkpoint,
        overrides=overrides,
    )
    return print_results(results, lambda one: f'{one["out"]}: {in_words(one["top"])}', args.json)


if __name__ == '__main__':
    cli.run(main)
