"""A plan: what a training step of a config costs on a topology, as its compiler estimates it."""

import json
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import ml_collections

from vjax import config as configs
from vjax import models
from vjax.axes import BATCH_AXES, TIME_AXIS, num_parts
from vjax.data import records
from vjax.errors import UserError
from vjax.models import costs
from vjax.planning import cache, checks, hlo, topology
from vjax.planning.compiled import (
    Compiled,
    activations_of_a_clip,
    bytes_on_a_chip,
    compile_step,
    state_bytes,
)

NOTICE = (
    "An estimate by the chips' compiler: nothing was run. Input, hosts and latencies are left out."
)
# What `_work` finds out of a step.
WORK = (
    'flops',
    'bytes_accessed',
    'collectives',
    'cycles',
    'work_seconds',
    'waiting_seconds',
    'step_seconds',
    'clips_per_second',
    'mfu',
    'unknown_loops',
)


def plan(
    config: ml_collections.ConfigDict,
    where: str,
    *,
    folder: Path | None = None,
    dataset_size: int | None = None,
    price: float | None = None,
) -> dict[str, Any]:
    """What a training step costs each chip, and an epoch all of them.

    The classes are those of the data set where it is at hand, else `config.dataset.num_classes` of one
    head. Of a config that varies its model, the model of `config.model` is planned.

    Args:
        config: as for training.
        where: 'v5e:4x8' or another topology, or 'gpu' or 'cpu' for the devices of this machine.
        folder: where results are kept and looked for; None is nowhere.
        dataset_size: videos in an epoch; by default those of the data set, where it is at hand.
        price: dollars for an hour of one chip.

    Returns:
        See `_estimate`, and `cached`, `notice`, `epoch` (steps, seconds, chip_hours, dollars).

    Raises:
        UserError: the config cannot be trained or does not fit the devices, or there is no such topology.
    """
    configs.check(config)
    config, classes, multi_label, num_videos = _resolve(config)
    config, varied = _costliest(config)
    local = where in ('cpu', 'gpu')
    devices, chip = topology.find(where) if local else (None, None)
    name = cache.key(
        config=json.loads(config.to_json()),
        heads={head: len(names) for head, names in classes.items()},
        multi_label=multi_label,
        topology=where,
        devices=[chip.name, len(devices)] if local else [],
    )
    result = cache.read(folder, name) if folder else None
    cached = result is not None
    if result is None:
        if not local:
            devices, chip = topology.find(where)
        result = _estimate(config, devices, chip, classes, multi_label)
        if folder:
            cache.write(folder, name, result)
    result |= {'topology': where, 'cached': cached, 'notice': NOTICE}
    result['warnings'] = varied + result['warnings']
    size = dataset_size or num_videos
    result['epoch'] = _epoch(config, result, size, price) if size else None
    return result


def _resolve(config: ml_collections.ConfigDict):
    """The config with nothing left open, the classes by head, whether multi-label, and the videos."""
    try:
        dataset = records.open_dataset(config.dataset.path)
    except UserError:  # Not prepared yet, which is no reason not to plan.
        config = config.copy_and_resolve_references()
        count = config.model.num_classes or config.dataset.num_classes
        config.model.num_classes = count
        config.num_steps = config.num_steps or 1
        classes, multi_label = {'label': tuple(map(str, range(count)))}, False
        num_videos = None
    else:
        config = configs.resolve(config, dataset)
        classes, multi_label = dataset.classes, dataset.multi_label
        num_videos = dataset.splits[config.dataset.train].num_videos
    return config, classes, multi_label, num_videos


def _costliest(config: ml_collections.ConfigDict) -> tuple[ml_collections.ConfigDict, list[str]]:
    """The config with the model of most matrix products that its `vary` makes, and what to say of it."""

    def products(fields):
        model = models.build(**config.model.to_dict() | fields)
        return costs.matrix_products(model, configs.clip_shape(config))

    variations = configs.variations(config)
    fields = max(variations, key=products) if len(variations) > 1 else variations[0]
    config = config.copy_and_resolve_references()
    with config.unlocked():
        config.model.update(fields)
        config.vary = ml_collections.ConfigDict()
    if len(variations) == 1:
        return config, []
    chosen = ', '.join(f'{name}={value}' for name, value in fields.items())
    return config, [
        f'config.vary makes {len(variations)} models, of which this is the costliest ({chosen}): steps '
        'of the others take less.'
    ]


def _estimate(
    config: ml_collections.ConfigDict,
    devices: Sequence[Any],
    chip: topology.Chip,
    classes: Mapping[str, Sequence[str]],
    multi_label: bool,
) -> dict[str, Any]:
    """Compiles, and reads what came of it.

    Returns:
        Of the step: `chip`, `num_chips`, `mesh`, `preset`, `remat`, `dtype`, `batch_size`, `accumulate`,
        `model_flops` (of the whole batch: `costs.training_flops`), `warnings`.
        Of one chip: `peak_flops`, `clock_hz`, and `memory` in bytes: params, optimizer, ema, batch,
        temporaries, peak; `capacity` and `fits`; `activations` that a step cannot do without, and
        `necessary`: those, the state, the gradients and the batch.
        What a chip does in a step, None where it does not fit: `flops` (matrix products and
        convolutions), `bytes_accessed`, `collectives` (kind -> count, bytes, and how many of them
        are waited for), `cycles`, `unknown_loops`.
        As the compiler estimates it: `step_seconds`, the `work_seconds` of its cycles and, as it
        gives collectives none, `waiting_seconds` by arithmetic; `clips_per_second`; `mfu`, for which
        only `model_flops` count.
        How it came about: `compile_seconds`, `versions`.
    """
    start = time.monotonic()
    compiled = compile_step(config, devices, classes, multi_label=multi_label)
    compile_seconds = time.monotonic() - start
    mesh, model = compiled.mesh, compiled.assembly.model
    memory = _memory(compiled, config, chip)
    flops = costs.training_flops(model, configs.clip_shape(config), compiled.assembly.trains)
    result = {
        'chip': chip.name,
        'num_chips': mesh.size,
        'mesh': dict(mesh.shape),
        'preset': config.sharding.preset,
        'remat': config.model.get('remat', 'none'),
        'dtype': config.model.get('dtype', 'float32'),
        'batch_size': config.batch_size,
        'accumulate': config.accumulate,
        'memory': memory,
        'model_flops': config.batch_size * flops,
        'peak_flops': chip.peak_flops,
        'clock_hz': chip.clock,
        'warnings': [
            *checks.replicated_parameters(compiled),
            *checks.too_much_memory(memory['peak'], memory['necessary']),
        ],
        'compile_seconds': compile_seconds,
        'versions': cache.versions(),
    }
    program = hlo.Program(compiled.step.as_text()) if compiled.step else None
    return result | _work(compiled, program, result, chip)


def _work(
    compiled: Compiled, program: hlo.Program | None, result: dict[str, Any], chip: topology.Chip
) -> dict[str, Any]:
    """What the chips do in a step; None of each where there is no program."""
    if program is None:
        return dict.fromkeys(WORK, None)
    flops, cycles, collectives = hlo.flops(program), hlo.cycles(program), hlo.collectives(program)
    work_seconds = waiting_seconds = step_seconds = clips = mfu = None
    share = result['model_flops'] / result['num_chips']
    if cycles and chip.clock:
        work_seconds, waiting_seconds = cycles / chip.clock, _waiting(collectives, chip)
        step_seconds = work_seconds + waiting_seconds
        clips = result['batch_size'] / step_seconds
        mfu = share / step_seconds / chip.peak_flops
    totals = {kind: total._asdict() for kind, total in collectives.items()}
    for total in totals.values():
        del total['shapes']
    warnings = [
        *result['warnings'],
        *checks.gathered_activations(compiled, program),
        *checks.repeated_work(compiled, flops, share * (4 / 3 if result['remat'] == 'full' else 1)),
    ]
    values = (
        *(flops, hlo.bytes_accessed(program), totals, cycles),
        *(work_seconds, waiting_seconds, step_seconds, clips, mfu, program.unknown_loops),
    )
    return dict(zip(WORK, values, strict=True)) | {'warnings': warnings}


def _waiting(collectives: Mapping[str, hlo.Collective], chip: topology.Chip) -> float:
    """Seconds of collectives that nothing hides, if all links are full: less than they will take."""
    sent = sum(
        total.waited * (2 if kind == 'all-reduce' else 1) for kind, total in collectives.items()
    )
    return sent / chip.interconnect


def _memory(
    compiled: Compiled, config: ml_collections.ConfigDict, chip: topology.Chip
) -> dict[str, Any]:
    assembly = compiled.assembly
    state, batch = state_bytes(assembly.abstract), bytes_on_a_chip(compiled.batch)
    trained = jax.tree.map(
        lambda leaf, trains: leaf if trains else None, assembly.abstract.params, assembly.trains
    )
    splits = num_parts(compiled.mesh, (*BATCH_AXES, TIME_AXIS))
    clips = config.batch_size / config.accumulate / splits
    a_clip = activations_of_a_clip(
        assembly, config, compiled.mesh.abstract_mesh, max(1, int(clips)), chip.tile
    )
    activations = round(clips * a_clip)
    if compiled.step is None:
        temporaries = compiled.temporaries
        peak, fits = sum(state.values()) + batch + temporaries, False
    else:
        analysis = compiled.step.memory_analysis()
        temporaries = analysis.temp_size_in_bytes
        # Of the results, most take the place of arguments.
        apart = analysis.output_size_in_bytes - analysis.alias_size_in_bytes
        peak = analysis.argument_size_in_bytes + temporaries + apart
        fits = peak <= chip.memory if chip.memory else None
    return {
        **state,
        'batch': batch,
        'temporaries': temporaries,
        'peak': peak,
        'capacity': chip.memory,
        'fits': fits,
        'activations': activations,
        # The gradients are as large as what is trained.
        'necessary': sum(state.values()) + bytes_on_a_chip(trained) + batch + activations,
    }


def _epoch(
    config: ml_collections.ConfigDict, result: Mapping[str, Any], size: int, price: float | None
) -> dict[str, Any]:
    steps = math.ceil(size * config.augment.repeats / config.batch_size)
    seconds = steps * result['step_seconds'] if result['step_seconds'] else None
    chip_hours = seconds * result['num_chips'] / 3600 if seconds else None
    return {
        'videos': size,
        'steps': steps,
        'seconds': seconds,
        'chip_hours': chip_hours,
        'dollars': chip_hours * price if chip_hours and price else None,
    }
