"""From a source's parameters to a model's: which goes where, what is changed, what is left alone.

Nothing is passed over quietly: a parameter of the source without a place, or of the model without a
source, is an error, unless the plan for the two models expects it or `Adapt.allow` names it.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from vjax.errors import UserError
from vjax.weights import surgery
from vjax.weights.plan import Adapt, Plan, Take
from vjax.weights.report import Report
from vjax.weights.source import Source

HEAD = 'head/'
PROBE = 'AttentiveProbe'
ENCODER = 'encoder/'  # The parameters of a probe's encoder.
LOGITS = re.compile(r'head/(.*/)?logits/.*')
# What stands for the whole image, or clip, and depends on the classifier.
SUMMARY = re.compile(r'(.*/)?(class_token(/table)?|pool/.*)')
# Fields of a model that neither shape its parameters nor change what it computes from them in
# evaluation, or that a plan makes up for.
FREE_FIELDS = frozenset(
    [
        'num_classes',
        'dropout',
        'attention_dropout',
        'stochastic_depth',
        'remat',
        'unroll',
        'dtype',
        'tubelet_init',
        'head_bias',
        'classifier',
        'representation_size',
        'position_grid',
        'grid',
        'encoder',
        'parent',
        'name',
    ]
)


def adapt(
    sources: Sequence[Source],
    model: Any,
    shapes: Mapping[str, Any],
    input_shape: tuple[int, ...],
    how: Adapt,
    classes: Mapping[str, Sequence[str]] | None = None,
    fresh: Callable[[str], np.ndarray] | None = None,
) -> tuple[dict[str, np.ndarray], Report]:
    """The parameters that sources give a model, and what became of each.

    Args:
      sources: One, or for an MTV that starts from image models one for each view.
      model: The model to be loaded.
      shapes: Its parameters by path, of which only shapes are read.
      input_shape: Of one example without batch axis.
      how: The user's choices.
      classes: The model's classes by head; None if nobody has named them.
      fresh: Path -> initialisation, for a parameter of which only a part comes from the source: the
        position embeddings where the class token is new. None for zeros in that part.

    Returns:
      Arrays by path, for all paths but those in `Report.left`.

    Raises:
      UserError: the models do not fit; a parameter is missing, unexpected or of another shape.
    """
    body = {path: leaf for path, leaf in shapes.items() if not path.startswith(HEAD)}
    plan = make_plan(sources, model, body, input_shape, how)
    classes = classes and {head: tuple(names) for head, names in classes.items()}
    _add_head(plan, sources, model, shapes, how, classes)

    arrays, loaded, changed = {}, [], {}
    for path, take in plan.takes.items():
        array = np.asarray(sources[take.source].params[take.path])
        if take.change:
            own = (fresh(path) if fresh else np.zeros(shapes[path].shape),) if take.fresh else ()
            array = take.change(array, *own)
            changed[path] = take.how
        else:
            loaded.append(path)
        arrays[path] = array
    for path, why in plan.zeros.items():
        arrays[path] = np.zeros(shapes[path].shape, shapes[path].dtype)
        changed[path] = why
    for path, (array, why) in plan.made.items():
        arrays[path] = array
        changed[path] = why
    names = ', '.join(source.name for source in sources)
    wrong = [
        f'{path} is {array.shape} there and {shapes[path].shape} here'
        for path, array in arrays.items()
        if array.shape != shapes[path].shape
    ]
    _refuse(f'{names} does not fit config.model', wrong)
    arrays = {path: array.astype(shapes[path].dtype, copy=False) for path, array in arrays.items()}

    allowed = [re.compile(pattern) for pattern in how.allow]
    left = dict(plan.left)
    untrained = {path: why for source in sources for path, why in source.untrained.items()}
    missing = [path for path in shapes if path not in arrays and path not in left]
    for path in missing:
        # In a probe an encoder's parameter has a prefix.
        why = untrained.get(path) or untrained.get(path.removeprefix(ENCODER))
        left |= {path: why} if why else {}
    missing = [path for path in missing if path not in left]
    left |= _allow(f'{names} lacks', missing, allowed, 'allowed to be missing')
    used = {(take.source, take.path) for take in plan.takes.values()}
    views = len(sources) > 1
    unused = {f'view_{i}:' * views + path: why for (i, path), why in plan.unused.items()}
    rest = [
        path
        for i, source in enumerate(sources)
        for path in source.params
        if (i, path) not in used and (i, path) not in plan.unused
    ]
    unused |= _allow(f'{names} has what config.model lacks', rest, allowed, 'allowed to be unused')
    for source in sources:
        unused |= source.unused
    return arrays, Report(tuple(loaded), changed, left, unused)


def make_plan(
    sources: Sequence[Source],
    model: Any,
    shapes: Mapping[str, Any],
    input_shape: tuple[int, ...],
    how: Adapt,
) -> Plan:
    """The plan for these models; `shapes` are those of the parameters that are not the classifier's."""
    kinds = [type(source.model).__name__ for source in sources]
    kind = type(model).__name__
    if kind == PROBE:
        return _probe(sources, model, shapes, input_shape, how)
    if kinds != [kind] and set(kinds) != {'ViT'}:
        names = ', '.join(source.name for source in sources)
        raise UserError(
            f'{names}: {kind} cannot start from {" and ".join(kinds)}, only from its own kind or from ViT.'
        )
    for source in sources:
        surgery.check_numerics(source, model)
    if kinds == [kind]:
        return _same(sources[0], model, shapes, input_shape, how)
    return surgery.from_images(sources, model, shapes, input_shape, how)


def _probe(
    sources: Sequence[Source],
    model: Any,
    shapes: Mapping[str, Any],
    input_shape: tuple[int, ...],
    how: Adapt,
) -> Plan:
    """Its encoder from whatever such a model starts from; its own blocks only from another probe's."""
    blocks = [path for path in shapes if not path.startswith(ENCODER)]
    takes, left, prefix = {}, dict.fromkeys(blocks, 'a probe of its own is trained'), ''
    if _is_probe(sources):
        (source,) = sources
        _refuse(
            f'{source.name} is another probe than config.model', _differences(source.model, model)
        )
        takes = {path: Take(path) for path in blocks if path in source.params}
        left, prefix = {}, ENCODER
        sources = [source._replace(model=source.model.encoder, params=_of_encoder(source.params))]
    plan = make_plan(sources, model.encoder, _of_encoder(shapes), input_shape, how)

    def inside(entries):
        return {ENCODER + path: entry for path, entry in entries.items()}

    return Plan(
        takes=takes
        | inside({at: take._replace(path=prefix + take.path) for at, take in plan.takes.items()}),
        zeros=inside(plan.zeros),
        made=inside(plan.made),
        left=left | inside(plan.left),
        unused={(i, prefix + path): why for (i, path), why in plan.unused.items()},
    )


def _is_probe(sources: Sequence[Source]) -> bool:
    """Whether it is a probe, and one, that others start from."""
    return [type(source.model).__name__ for source in sources] == [PROBE]


def _of_encoder(params: Mapping[str, Any]) -> dict[str, Any]:
    """Those of a probe's encoder, under the names that they have in it."""
    inside = (path for path in params if path.startswith(ENCODER))
    return {path.removeprefix(ENCODER): params[path] for path in inside}


def _same(
    source: Source,
    model: Any,
    shapes: Mapping[str, Any],
    input_shape: tuple[int, ...],
    how: Adapt,
) -> Plan:
    """Every parameter from its namesake; position embeddings may be of another grid."""
    _refuse(f'{source.name} is another model than config.model', _differences(source.model, model))
    plan = Plan.empty()
    ours, theirs = (getattr(one, 'classifier', None) for one in (model, source.model))
    for path in shapes:
        if path not in source.params:
            if SUMMARY.fullmatch(path) and ours != theirs:
                plan.left[path] = 'the source has none'
            elif source.positions and path == 'encoder/position_embedding/table':
                plan.made[path] = surgery.made_table(source, model, path, input_shape)
            continue
        found = source.params[path]
        take = surgery.resize_table(source.model, model, path, found, input_shape, how)
        plan.takes[path] = take or Take(path)
    for path in source.params.keys() - plan.takes.keys():
        if SUMMARY.fullmatch(path) and ours and not path.startswith(HEAD):
            none = f'classifier={ours!r} has none'
            plan.unused[0, path] = (
                none if ours != theirs else "the tokens' summary is not asked for"
            )
    return plan


def _differences(source: Any, model: Any) -> list[str]:
    """Fields that make them other models."""
    free = FREE_FIELDS | (_idle_fields(source) & _idle_fields(model))
    return [
        f'{field.name}={getattr(source, field.name)} there and {getattr(model, field.name)} here'
        for field in dataclasses.fields(model)
        if field.name not in free and getattr(source, field.name) != getattr(model, field.name)
    ]


def _idle_fields(model: Any) -> set[str]:
    """Fields that do nothing beside the model's others, whatever their values."""
    names = {field.name for field in dataclasses.fields(model)}
    idle = set()
    if 'attention' in names and model.attention != 'factorised_encoder':
        idle |= {name for name in names if name.startswith('temporal_')}
    if 'attention' in names and model.attention != 'factorised_self_attention':
        idle.add('attention_order')
    if 'embedding' in names and model.embedding != 'uniform_frames':
        idle.add('num_sampled_frames')
    return idle


def _add_head(
    plan: Plan,
    sources: Sequence[Source],
    model: Any,
    shapes: Mapping[str, Any],
    how: Adapt,
    classes: Mapping[str, Sequence[str]] | None,
) -> None:
    """Decides on the classifier; several sources' have no place in one model.

    Nor has an encoder's in a probe, which reads other features, whatever its shape.
    """
    probes = type(model).__name__ == PROBE and not _is_probe(sources)
    ours = [path for path in shapes if path.startswith(HEAD)]
    theirs = [
        (i, path) for i, one in enumerate(sources) for path in one.params if path.startswith(HEAD)
    ]
    fits = len(sources) == 1 and all(
        path in sources[0].params and sources[0].params[path].shape == shapes[path].shape
        for path in ours
    )
    known = sources[0].classes
    # A contrastive VideoPrism has the pooling of a head without its logits.
    has_logits = any(LOGITS.fullmatch(path) for _, path in theirs)
    if how.head == 'keep':
        if not has_logits or probes:
            raise UserError(f'{sources[0].name} has no classifier for adapt.head="keep".')
        why = ''
    elif how.head == 'drop':
        why = 'adapt.head="drop"'
    elif not has_logits:
        why = 'the source has no classifier'
    elif probes:
        why = "a probe's classifier reads other features"
    elif not fits:
        why = 'of another shape'
    elif classes is None or (known and list(known.items()) == list(classes.items())):
        why = ''
    elif known is None:
        why = 'the source does not name its classes; adapt.head="keep" takes them for these'
    else:
        why = 'of other classes'
    if not why:
        plan.takes.update({path: Take(path) for path in ours if path in sources[0].params})
        return
    for path in ours:
        # What comes before the logits is of use to other classes, too.
        namesake = sources[0].params.get(path) if len(sources) == 1 and how.head == 'auto' else None
        if (
            namesake is not None
            and not LOGITS.fullmatch(path)
            and namesake.shape == shapes[path].shape
        ):
            plan.takes[path] = Take(path)
        else:
            plan.left[path] = why
    taken = {take.path for take in plan.takes.values()}
    plan.unused.update({(i, path): why for i, path in theirs if path not in taken})


def _allow(
    what: str, names: Sequence[str], allowed: Sequence[re.Pattern], why: str
) -> dict[str, str]:
    """The names, if all of them match a pattern; a UserError that names the others if not."""
    _refuse(what, [name for name in names if not any(p.fullmatch(name) for p in allowed)])
    return dict.fromkeys(names, why)


def _refuse(what: str, items: Sequence[str]) -> None:
    if items:
        more = f' and {len(items) - 6} more' if len(items) > 6 else ''
        raise UserError(f'{what}: {", ".join(sorted(items)[:6])}{more}.')
