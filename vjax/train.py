"""Train a model: python -m vjax.train --config=configs/vivit/moving_digits.py --workdir=runs/digits

The same command again goes on where the run stopped, exactly: after Ctrl-C, a kill or a pre-emption.
Every key of the config can be set, as in --config.optimizer.learning_rate=0.001.
"""

import collections
import json
import logging
import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from vjax import cli
from vjax import config as configs
from vjax.data import pipeline, records, shuffling
from vjax.errors import UserError
from vjax.models import costs
from vjax.training import feeding, processes, reporting, runs, sharding, workdirs
from vjax.training.assembly import Assembly, assemble
from vjax.training.checkpoints import Checkpoints
from vjax.training.compilations import Compilations
from vjax.training.evaluation import evaluate
from vjax.training.interruption import Interruption
from vjax.training.profiling import Profile
from vjax.training.speed import DEVICE, EVALUATION, INPUT, Speed
from vjax.training.step import State, draw, init_state, make_eval_step
from vjax.training.timing import Clock

log = logging.getLogger('vjax.train')  # Not __name__, which is '__main__' under -m.


def train(
    config: ml_collections.ConfigDict,
    workdir: str | Path,
    recipe: Mapping[str, Any] | None = None,
) -> dict[str, float]:
    """Trains as `config` says; leaves checkpoints, metrics and the config in `workdir`.

    Args:
        config: of the run.
        workdir: of the run.
        recipe: where the config is from, to be kept beside it: the `name` of its file and that file's own
            `config`, of which nothing is overridden.

    Returns:
        The metrics of the last evaluation on the validation split; empty where there was none.

    Raises:
        UserError: the config, the data set or the workdir cannot be used, a loss was not finite, or
            a checkpoint could not be written.
        SystemExit: after SIGTERM or Ctrl-C, once the state is saved; the code is 128 + the signal.
    """
    # --- What to train on what, checked before anything is built ---
    configs.check(config)
    workdirs.check(workdir)
    dataset = records.open_dataset(config.dataset.path)
    if config.num_steps and config.num_epochs:
        log.info(
            'num_steps=%d counts, not num_epochs=%g; --config.num_steps=0 would leave it to these',
            config.num_steps,
            config.num_epochs,
        )
    config = configs.resolve(config, dataset)
    pipeline.warn_of_small_frames(dataset, config.clip.short_side)
    validates = config.eval.every > 0 and config.dataset.validation in dataset.splits
    if config.eval.every > 0 and not validates:
        log.warning(
            "%s has no split '%s': training without validation",
            config.dataset.path,
            config.dataset.validation,
        )
    mesh = sharding.make_mesh(config.sharding.mesh.to_dict())
    about = {
        'config': json.loads(config.to_json()),
        'classes': records.plain_classes(dataset.classes),
        'multi_label': dataset.multi_label,
        'fingerprint': dataset.splits[config.dataset.train].fingerprint,
        'settings': dataset.settings,
        'shuffling': shuffling.VERSION,
        **({'recipe': dict(recipe)} if recipe else {}),
    }
    workdir = Path(workdir)

    kinds = collections.Counter(device.device_kind for device in mesh.devices.flat)
    log.info('training on %s', ', '.join(f'{count} x {kind}' for kind, count in kinds.items()))

    # --- Model, optimiser, and where their arrays live ---
    assembly = assemble(config, mesh, dataset.classes, multi_label=dataset.multi_label)
    model, classification = assembly.model, assembly.classification
    shardings = jax.tree.map(lambda leaf: leaf.sharding, assembly.abstract)
    clip_shape = configs.clip_shape(config)
    flops = [
        costs.training_flops(variant, clip_shape, assembly.trains) for variant in assembly.variants
    ]
    arrays = {}
    if config.init_from and not runs.has_checkpoints(workdir):
        arrays, report = runs.start_from(config, model, assembly.shapes, dataset.classes)
        log.info('starting from the weights of %s, at step 0\n%s', config.init_from, report)
    with workdirs.claim(workdir), jax.set_mesh(mesh):
        processes.check_shared(workdir)
        checkpoints = workdirs.open_checkpoints(workdir, config, about)

        # --- Resume, or start from weights, or start from scratch: in this order ---
        state = checkpoints.restore_latest(assembly.abstract)
        if state is None:
            state, start_step = start(config, arrays, assembly, shardings), 0
            owes_evaluation = False
            del arrays  # As large as the model, on the host.
        else:
            start_step = int(jax.device_get(state.step))
            owes_evaluation = validates and checkpoints.about(start_step)['owes_evaluation']
            if checkpoints.about(start_step)['config']['log_every'] != config.log_every:
                # Its sums are of other steps than the next report is of.
                state = state._replace(window=jax.tree.map(jnp.zeros_like, state.window))
            log.info('resuming %s from its checkpoint at step %d', workdir, start_step)
        if start_step >= config.num_steps and not owes_evaluation:
            log.info('%s is finished: all %d steps are done', workdir, config.num_steps)
            checkpoints.close()
            return {}
        if jax.process_index() == 0:
            runs.write_environment(workdir)

        # --- The compiled evaluation, and batches ---
        eval_step = jax.jit(
            make_eval_step(model, classification), out_shardings=sharding.replicated(mesh)
        )
        batches = pipeline.train_batches(
            dataset,
            config.dataset.train,
            clip=config.clip.to_dict(),
            augment=config.augment.to_dict(),
            batch_size=config.batch_size,
            seed=config.seed,
            start_step=start_step,
            num_steps=config.num_steps - start_step,
            rows=feeding.rows_of_batch(mesh, config.batch_size),
        )

        clock = Clock()

        def until_a_signal(videos: Iterable[Any]) -> Iterator[Any]:
            for batch in videos:
                agreement.after_step()
                if agreement.stop:
                    return
                yield batch

        @clock(EVALUATION)
        def validate(state: State, number: int) -> dict[str, float] | None:
            """Scores the state after step `number`; None where a signal came meanwhile."""
            videos = pipeline.eval_batches(
                dataset,
                config.dataset.validation,
                clip=config.clip.to_dict(),
                views=configs.parse_views(config.eval.views),
                batch_size=config.eval.batch_size,
                rows=feeding.rows_of_batch(mesh, config.eval.batch_size),
            )
            params = state.ema if config.ema else state.params
            scores = evaluate(eval_step, params, until_a_signal(videos), mesh, classification)
            if agreement.stop:
                return None  # Half an evaluation is none.
            if not math.isfinite(scores['loss']):
                # The loss of this step was that before its update.
                checkpoints.remove(number)
                kept = said_of(checkpoints)
                raise UserError(f'the validation loss is not finite at step {number}; {kept}.')
            progress.evaluation(number, config.dataset.validation, scores)
            return scores

        # --- What is told of it ---
        def variant_of(number: int) -> int:
            return draw(config.seed, number, len(assembly.variants))

        compilations = Compilations()
        train_steps = [compilations.watched(train_step) for train_step in assembly.steps]
        speed = Speed(
            clock,
            compilations,
            start_step=start_step,
            batch_size=config.batch_size,
            flops=lambda number: flops[variant_of(number)],
            num_devices=mesh.devices.size,
            device_kind=mesh.devices.flat[0].device_kind,
        )
        first = jax.process_index() == 0
        again = config.dataset.validation if owes_evaluation else None
        metrics_log = (
            reporting.MetricsLog(workdir, start_step, again) if first else reporting.NoLog()
        )
        progress = reporting.Progress(metrics_log, speed, start_step, config.num_steps)
        profiled = configs.parse_steps(config.profile)
        profile = Profile(profiled, workdir / 'tensorboard', clock, start_step)

        # --- The loop ---
        scores = None
        running = None  # The report of the step before, which the devices may not have done yet.
        unread = None  # The latest report, read when the next step is already on its way.
        with (
            Interruption() as interruption,
            closing(metrics_log),
            closing(checkpoints),
            closing(compilations),
            closing(profile),
            # Innermost, because what has failed here must not wait for the others to close.
            processes.together(),
        ):
            agreement = processes.Agreement(mesh, interruption)
            if owes_evaluation:
                scores = validate(state, start_step)
                if agreement.stop:
                    raise SystemExit(128 + agreement.stop)
                checkpoints.add_metrics(start_step, scores)
            for number, batch in enumerate(clock.each(INPUT, batches), start_step + 1):
                train_step = train_steps[variant_of(number)]
                with profile.step(number):
                    state, report = train_step(state, feeding.to_devices(batch, mesh))
                profile.after_step(report)
                last = number == config.num_steps
                due = 0 < config.checkpoint.minutes <= checkpoints.minutes_since_save
                with clock(DEVICE):
                    # Never more than a step ahead: batches would pile up on the devices.
                    jax.block_until_ready(running)
                    overdue = agreement.after_step(due)
                running = report
                if unread:
                    raise_if_not_finite(unread[1], checkpoints)
                    progress.training(*unread)
                    unread = None
                if number % config.log_every == 0 or last:
                    unread = number, report

                evaluates = validates and (last or number % config.eval.every == 0)
                saves = last or agreement.stop or overdue or number % config.checkpoint.every == 0
                # The best of all evaluations, not of those that fall on a checkpoint.
                saves |= evaluates and config.checkpoint.keep_best > 0
                if evaluates or saves:
                    # Nothing is scored or saved before its loss is known to be finite.
                    with clock(DEVICE):
                        raise_if_not_finite(report, checkpoints)
                    if unread:
                        progress.training(*unread)
                        unread = None
                # Before it is scored, which may take long. What is left undone the resumed run does first.
                owes = {'owes_evaluation': evaluates}
                if saves:
                    checkpoints.save(state, about | owes)
                if evaluates and not agreement.stop:
                    scores = validate(state, number)
                    if saves and scores:
                        checkpoints.add_metrics(number, scores)
                if agreement.stop:
                    if not saves:  # The signal came while it was scored.
                        checkpoints.save(state, about | owes)
                    break
    if agreement.stop:
        log.info('%s at step %d: saved; the same command goes on', agreement.stop.name, number)
        raise SystemExit(128 + agreement.stop)
    return scores or {}


def start(
    config: ml_collections.ConfigDict,
    arrays: Mapping[str, np.ndarray],
    assembly: Assembly,
    shardings: State,
) -> State:
    """The state before the first step: fresh but for the parameters of `arrays`, by path."""
    params = jax.jit(assembly.init_params, out_shardings=shardings.params)()
    if not config.init_from:
        log.info('starting from scratch')
        if config.optimizer.freeze:
            log.warning(
                'what config.optimizer.freeze names stays random: config.init_from is not set'
            )
    return jax.jit(
        lambda params: init_state(params, assembly.tx, ema=config.ema > 0), out_shardings=shardings
    )(runs.overlay(params, arrays))


def raise_if_not_finite(report: dict[str, jax.Array], checkpoints: Checkpoints) -> None:
    """Stops a run whose loss or gradient was not finite; the checkpoints before it stay."""
    bad_step = int(jax.device_get(report['bad_step']))
    if bad_step >= 0:
        raise UserError(
            f'the loss or its gradient was not finite at step {bad_step}; {said_of(checkpoints)}. Try a '
            'lower config.optimizer.learning_rate, a longer warm-up or a smaller clip_norm.'
        )


def said_of(checkpoints: Checkpoints) -> str:
    """What is left of a run that cannot go on."""
    steps = checkpoints.steps
    return f'the checkpoint of step {steps[-1]} is kept' if steps else 'there is no checkpoint'


def main(argv: list[str]) -> None:
    """Parses the command line and trains."""
    parser = cli.parser(__doc__)
    cli.add_config(parser)
    parser.add_argument(
        '--workdir', required=True, help='folder of the run; the same one resumes it'
    )
    processes.add_argument(parser)
    args, overrides = cli.parse_args(parser, argv)
    config = cli.load_config(args.config, overrides)
    processes.join(args.distributed)
    with processes.together():
        train(config, args.workdir, configs.recipe(args.config, cli.load_config(args.config, [])))


if __name__ == '__main__':
    cli.run(main)
