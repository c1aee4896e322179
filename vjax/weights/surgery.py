"""Image models into video models: tubelet kernels, position embeddings, temporal attention.

What ViViT (arXiv 2103.15691, section 3.4), MTV (arXiv 2201.04288) and Scenic's code start from: every
parameter of the video model that has a counterpart in the image model is taken from it. Beside that
position embeddings are resized between models of the same kind.

A LookupViT (arXiv 2407.12753), of whose initialisation nothing is published, takes the embedding, the
positions and, for its compressed tokens, which go through all that a ViT's tokens go through, the
blocks (as `refine`) and the final norm. Gathering, infusion and what lookup tokens alone go through
are left at their initialisation.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from vjax.errors import UserError
from vjax.models.token_learner import learner_layer
from vjax.weights import positions
from vjax.weights.plan import Adapt, Plan, Take
from vjax.weights.positions import Table, shown
from vjax.weights.source import Source

CLASS_TOKEN = 'encoder/class_token'
TABLE = 'encoder/position_embedding/table'
SIZES = ('width', 'depth', 'num_heads', 'mlp_dim')
# Model 3's block -> ViT's, but for what relates frames to each other.
SPACE = {'space_attention': 'attention', 'space_norm': 'attention_norm'}
NEW_MODULES = {
    'token_learner': 'an image model has no TokenLearner',
    'token_fuser': 'an image model has no TokenFuser',
    'time_norm': 'an image model has nothing for time',
}

# A section of the plan, and what it holds of a parameter.
Decision = tuple[str, Any]


class Start(NamedTuple):
    """An image model, and the part of a model that starts from it.

    Attributes:
      source, index: The image model, and which of the sources it is.
      model: The whole model.
      module: Prefix of the part's parameters: 'view_0/' in an MTV, '' otherwise.
      tubelet: Of the part: (time, height, width) in frames and pixels, or (height, width).
      shapes: The model's, by path.
      input_shape: Of one example without batch axis.
      how: The user's choices.
    """

    source: Source
    index: int
    model: Any
    module: str
    tubelet: tuple[int, ...]
    shapes: Mapping[str, Any]
    input_shape: tuple[int, ...]
    how: Adapt

    @property
    def is_view(self) -> bool:
        return bool(self.module)


def from_images(
    sources: Sequence[Source],
    model: Any,
    shapes: Mapping[str, Any],
    input_shape: tuple[int, ...],
    how: Adapt,
) -> Plan:
    """The plan for a model of another kind that starts from ViTs.

    Args:
      sources: One; for an MTV one for each view.
      model: The model to be loaded.
      shapes: Those of its parameters, by path, without the classifier's.
      input_shape: Of one example without batch axis.
      how: The user's choices.

    Raises:
      UserError: sizes differ, or the positions' grid is not known.
    """
    plan = Plan.empty()
    starts = _starts(sources, model, shapes, input_shape, how)
    for path in shapes:
        start = next((start for start in starts if path.startswith(start.module)), None)
        if start is None:
            plan.left[path] = 'an image model has neither fusion nor global encoder'
            continue
        section, value = _decide(start, path)
        if section != 'takes' or value.path in start.source.params:
            getattr(plan, section)[path] = value
    for start in starts:
        used = {take.path for take in plan.takes.values() if take.source == start.index}
        for path in start.source.params.keys() - used:
            why = _unused(start, path)
            if why:
                plan.unused[start.index, path] = why
    return plan


def _starts(
    sources: Sequence[Source],
    model: Any,
    shapes: Mapping[str, Any],
    input_shape: tuple[int, ...],
    how: Adapt,
) -> list[Start]:
    """The image models with their places, checked."""
    views = getattr(model, 'tubelets', None)
    if len(sources) != len(views or [1]):
        kind, names = type(model).__name__, ', '.join(source.name for source in sources)
        raise UserError(
            f'{names}: {kind} starts from {len(views or [1])} image models, not from {len(sources)}'
            + (': one for each view, in the order of config.model.widths.' if views else '.')
        )
    starts = []
    for i, source in enumerate(sources):
        tubelet = views[i] if views else getattr(model, 'patch', None) or model.tubelet
        module = f'view_{i}/' if views else ''
        start = Start(source, i, model, module, tuple(tubelet), shapes, input_shape, how)
        _check(start)
        starts.append(start)
    return starts


def _check(start: Start) -> None:
    """Raises a UserError unless the image model's layers are of the part's sizes."""
    source, model = start.source, start.model
    wrong = []
    for size in SIZES:
        theirs, ours, field = getattr(source.model, size), getattr(model, size, None), size
        if start.is_view:
            column = f'{size.removesuffix("s")}s'
            ours, field = getattr(model, column)[start.index], f'{column}[{start.index}]'
        if theirs != ours:
            wrong.append(f'{size}={theirs} there and {field}={ours} here')
    if source.model.positions != model.positions:
        wrong.append(f'positions={source.model.positions} there and {model.positions} here')
    joint = len(start.tubelet) == 3 and any(path.startswith('encoder/') for path in start.shapes)
    if model.positions == 'sincos' and joint:
        wrong.append('sines of two axes there and of three here')
    if tuple(source.model.patch) != start.tubelet[-2:] and not start.is_view:
        field = 'patch' if len(start.tubelet) == 2 else 'tubelet'
        wrong.append(f'patch={tuple(source.model.patch)} there and {field}={start.tubelet} here')
    if wrong:
        raise UserError(f'{source.name} does not fit config.model: {", ".join(wrong)}.')


def check_numerics(source: Source, model: Any) -> None:
    """Raises a UserError unless the model computes with the source's GELU and norms."""
    for field in ('gelu', 'norm_epsilon'):
        theirs, ours = getattr(source.model, field), getattr(model, field)
        if theirs != ours:
            raise UserError(
                f'{source.name} was trained with {field}={theirs} and config.model.{field} is {ours}: '
                f'set config.model.{field}={theirs}.'
            )


def _decide(start: Start, path: str) -> Decision:
    """What becomes of one parameter of the part."""
    name = path.removeprefix(start.module)
    if name == 'embedding/kernel':
        return 'takes', _kernel(start)
    if name == 'embedding/bias':
        return 'takes', Take(name, start.index)
    if name.startswith('temporal_encoder/'):
        return _temporal_encoder(start, path)
    name = re.sub('^(spatial_)?encoder/', '', name)
    if name.startswith('class_token'):
        return _class_token(start, path)
    if 'position_embedding/' in name:
        return _positions(start, path)
    if name.split('/')[0] in NEW_MODULES:
        return 'left', NEW_MODULES[name.split('/')[0]]
    block = re.fullmatch(r'((?:later_|fused_)?blocks)(?:_(\d+))?/(.*)', name)
    if block:
        return _block(start, *block.groups())
    if name.startswith('compressed_norm/'):
        return 'takes', Take(name.replace('compressed_', 'encoder/'), start.index)
    if name.startswith('norm/') and hasattr(start.model, 'lookup_mlp_ratio'):
        return 'left', 'an image model has no lookup tokens'
    return _whole(start, f'encoder/{name}')


def _whole(start: Start, path: str) -> Decision:
    """A parameter that is taken as it is, where the image model has it."""
    if path in start.source.params or not path.startswith('encoder/pool/'):
        return 'takes', Take(path, start.index)
    return 'left', 'the source has none'


def _unused(start: Start, path: str) -> str:
    """Why the part has no use for a parameter of the image model; '' if that is unexpected."""
    if path == CLASS_TOKEN:
        if not start.how.class_token:
            return 'adapt.class_token=False'
        return f'classifier={start.model.classifier!r} has none'
    if path.startswith('encoder/pool/'):
        return 'nothing is pooled by attention here'
    if path.startswith('encoder/norm/') and start.is_view:
        return 'a view has no final norm'
    return ''


def _kernel(start: Start) -> Take:
    """Section 3.4: the patches' kernel as that of tubelets; an MTV's is resized in space before."""
    words, space = [], start.tubelet[-2:]
    patch = tuple(start.source.model.patch)
    if len(start.tubelet) == 2:
        return Take('embedding/kernel', start.index)
    if patch != space:
        words.append(f'{shown(patch)} pixels resized to {shown(space)}')
    time = start.tubelet[0]
    if time == 1:
        words.append('a tubelet of one frame')
    elif start.how.tubelet == 'central_frame':
        words.append(f'frame {time // 2} of {time}, zeros in the others')
    else:
        words.append(f'repeated over {time} frames and divided by {time}')

    def change(kernel: np.ndarray) -> np.ndarray:
        return inflate(positions.resize(np.asarray(kernel), space), time, start.how.tubelet)

    return Take('embedding/kernel', start.index, change, ', '.join(words))


def inflate(kernel: np.ndarray, time: int, how: str) -> np.ndarray:
    """A kernel of tubelets [time, height, width, channels, dim] from one of patches (section 3.4).

    Either computes of a repeated frame what the patches' kernel computes of the frame: as the
    'central_frame' of zeros, or by 'filter_inflation', repeated and divided by `time`.
    """
    tubelets = np.zeros((time, *kernel.shape), kernel.dtype)
    if how == 'central_frame':
        tubelets[time // 2] = kernel
    else:
        tubelets[:] = kernel / time
    return tubelets


def _class_token(start: Start, path: str) -> Decision:
    """The class token; an MTV has one for each index of time, which all start the same."""
    if CLASS_TOKEN not in start.source.params:
        return 'left', 'the source has none'
    if not start.how.class_token:
        return 'left', 'adapt.class_token=False'
    if not start.is_view:
        return 'takes', Take(CLASS_TOKEN, start.index)
    time = start.shapes[path].shape[1]
    repeat = lambda token: np.repeat(np.asarray(token)[:, None], time, axis=1)  # noqa: E731
    return 'takes', Take(CLASS_TOKEN, start.index, repeat, f'repeated over {time} times')


def _positions(start: Start, path: str) -> Decision:
    """Position embeddings of places within a frame; those of tokens of all frames are repeated."""
    new = positions.of_model(start.model, path, start.input_shape)
    axis = re.fullmatch(r'.*/axis_(\d+)', path)
    if axis:
        own = int(axis[1]) - (len(new.grid) - 2)
        if own < 0:
            return 'left', 'an image model has no positions in time'
        name = f'encoder/position_embedding/axis_{own}'
        length = start.source.params[name].shape[1]
        return 'takes', positions.along_axis(name, length, new.grid[own - 2], start.index)
    if start.source.positions:
        return 'made', positions.made(start.source, new)
    old = _image_table(start, new)
    return 'takes', positions.take(TABLE, old, new, start.index)


def _image_table(start: Start, new: Table) -> Table:
    """The grid of the image model's position embeddings."""
    source = start.source
    slots = int(source.model.classifier == 'token')
    count = source.params[TABLE].shape[1] - slots
    given = tuple(start.how.position_grid or source.model.position_grid)
    grid = positions.trained_grid(count, new.grid[-2:], given, source.name)
    return Table(grid, slots)


def _block(start: Start, stack: str, first: str | None, name: str) -> Decision:
    """A parameter of repeated blocks, stacked on a leading axis of layers.

    Args:
      start: The part.
      stack: 'blocks', or 'later_blocks' or 'fused_blocks' behind a TokenLearner.
      first: The first layer of a view's stretch, as a string.
      name: Within a block.
    """
    model, depth = start.model, start.source.model.depth
    layers = (0, depth)
    if first is not None:
        layers = int(first), dict(model.stretches(start.index))[int(first)]
    elif hasattr(model, 'learned_tokens'):
        location = learner_layer(model)
        layers = (0, location) if stack == 'blocks' else (location, depth)

    module, _, rest = name.partition('/')
    if module in NEW_MODULES:
        return 'left', NEW_MODULES[module]
    if module == 'time_attention':
        return _time_attention(start, rest)
    if hasattr(model, 'lookup_mlp_ratio'):
        if module != 'refine':
            return 'left', 'an image model has one stream of tokens'
        module, _, rest = rest.partition('/')
    return 'takes', _layers(start, f'encoder/blocks/{SPACE.get(module, module)}/{rest}', *layers)


def _layers(start: Start, path: str, first: int, stop: int) -> Take:
    """Some of the image model's layers."""
    depth = start.source.model.depth
    if (first, stop) == (0, depth):
        return Take(path, start.index)
    which = f'layer {first}' if stop == first + 1 else f'layers {first} to {stop - 1}'
    how = f'{which} of {depth}'
    return Take(path, start.index, lambda stack: np.asarray(stack)[first:stop], how)


def _time_attention(start: Start, name: str) -> Decision:
    """Model 3's attention over time, which the paper starts as the identity (section 3.4).

    Its output projection is zero, and only that: with queries, keys and values zero as well no gradient
    would reach any of the kernels, and nothing but the output's bias would ever be learned.
    """
    if start.how.temporal == 'copy':
        return _block(start, 'blocks', None, f'attention/{name}')
    if start.how.temporal == 'paper' and name.startswith('out/'):
        return 'zeros', 'zero: attention over time starts as the identity'
    return 'left', f'adapt.temporal={start.how.temporal!r}'


def _temporal_encoder(start: Start, path: str) -> Decision:
    """Model 2's temporal encoder, fresh unless it is to be a copy of the image model's first blocks."""
    name = path.removeprefix('temporal_encoder/')
    if start.how.temporal != 'copy' or not name.startswith('blocks/'):
        return 'left', f'adapt.temporal={start.how.temporal!r}: not of an image model'
    theirs, ours = start.source.params[f'encoder/{name}'].shape, start.shapes[path].shape
    if ours[0] > theirs[0]:
        raise UserError(
            f'adapt.temporal="copy" cannot fill temporal_depth={ours[0]} with the {theirs[0]} layers of '
            f'{start.source.name}: use "paper".'
        )
    if theirs[1:] != ours[1:]:
        return 'left', "of another size than the source's"
    return 'takes', _layers(start, f'encoder/{name}', 0, ours[0])


def made_table(
    source: Source, model: Any, path: str, input_shape: tuple[int, ...]
) -> tuple[np.ndarray, str]:
    """The table of a model whose source computes its positions, and how it is made."""
    return positions.made(source, positions.of_model(model, path, input_shape))


def resize_table(
    source_model: Any,
    model: Any,
    path: str,
    found: np.ndarray,
    input_shape: tuple[int, ...],
    how: Adapt,
) -> Take | None:
    """How a table of positions is made to fit a model of the same kind with another grid.

    Args:
      source_model, model: The two models.
      path: Of the parameter, in both.
      found: The source's.
      input_shape: Of one example for `model`, without batch axis.
      how: The user's choices.

    Returns:
      None where it is no such table.

    Raises:
      UserError: the grid that it was trained for is not known.
    """
    *_, module, leaf = path.split('/')
    if leaf == 'table' and module in ('class_token', 'bottleneck'):  # One for each time of an MTV.
        times = positions.times(model, input_shape)
        time = min(times) if module == 'bottleneck' else times[_view(path)]
        return positions.along_axis(path, found.shape[1], time)
    if 'position_embedding' not in module:
        return None
    new = positions.of_model(model, path, input_shape)
    if leaf != 'table':
        axis = int(leaf.removeprefix('axis_'))
        return positions.along_axis(path, found.shape[1], new.grid[axis])
    slots = 0 if module.startswith('compressed') else int(source_model.classifier == 'token')
    count = found.shape[1] - slots
    if path.startswith('global_encoder/') and model.merge == 'time':
        times = positions.times(model, input_shape)
        old = [count * time // sum(times) for time in times]
        return positions.take_in_parts(path, old, times, (slots, new.slots))
    given = positions.given_grid(tuple(how.position_grid or source_model.position_grid), path)
    if not given and count == np.prod(new.grid):
        given = new.grid
    old = Table(positions.trained_grid(count, new.grid, given, path), slots)
    return positions.take(path, old, new)


def _view(path: str) -> int:
    """'view_1/class_token/table' -> 1."""
    return int(path.split('/')[0].removeprefix('view_'))
