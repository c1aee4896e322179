"""Checkpoints of a run: asynchronous, the last few and the best kept, damaged ones stepped over."""

import enum
import errno
import functools
import gc
import itertools
import json
import logging
import math
import re
import shutil
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from orbax.checkpoint import v1 as ocp

from vjax.data.records import write_atomically
from vjax.errors import REFUSALS, TryAgain, UserError, explanation
from vjax.training import processes
from vjax.training.step import State

# What the best checkpoint is the best by: the first of these that an evaluation has.
BEST = ('mAP', 'top1')
# What Orbax writes of a checkpoint beside its arrays, and reads of all of them at once.
ABOUT_ITSELF = ('*/metrics/metrics', '*/_CHECKPOINT_METADATA')
# How long a file that could not be read is given, as the storage behind it may be back by then.
RETRY_SECONDS = 5
# What TensorStore says of a file of which nobody knows whether it is whole, and where it quotes `errno`.
REFUSED = re.compile(r'\b(PERMISSION_DENIED|UNAUTHENTICATED): ')
PASSING = re.compile(r'\b(ABORTED|CANCELLED|DEADLINE_EXCEEDED|RESOURCE_EXHAUSTED|UNAVAILABLE): ')
OS_ERROR = re.compile(r"\[os_error_code='(\d+)'")
log = logging.getLogger(__name__)


class DamagedCheckpoint(Exception):
    """A checkpoint that cannot be read back as it was written."""


class UnreadableCheckpoint(TryAgain):
    """A checkpoint that cannot be read now, of which nothing says that it is damaged."""


class _Outcome(enum.IntEnum):
    """What came of reading a checkpoint; of several processes the greatest counts, as damage is one's."""

    READ = 0
    UNREADABLE = 1
    REFUSED = 2
    DAMAGED = 3


class Checkpoints:
    """The checkpoints in `<workdir>/checkpoints`.

    A checkpoint holds `model` (parameters and their moving average), `training` (everything else a
    resumed run needs), checksums of both, because the storage format notices a lost file but not a
    flipped bit, and `about`, a JSON record (config, classes, fingerprint).
    """

    def __init__(
        self,
        workdir: str | Path,
        *,
        keep_last: int = 2,
        keep_best: int = 1,
        remove_unfinished: bool = False,
    ):
        """Opens a run's checkpoints.

        Args:
            workdir: of the run.
            keep_last: how many of the latest stay.
            keep_best: how many stay for their validation top-1, or mAP on multi-label data.
            remove_unfinished: deletes what a killed run left half-written. For the trainer only: to
                a reader, a running trainer's save looks the same.

        Raises:
            UserError: what it says of itself is damaged in one of them; not with `remove_unfinished`.
        """
        _quieten_closed_loops()
        policies = ocp.training.preservation_policies
        self._last_save = time.monotonic()
        self._saving = None
        self.directory = Path(workdir).absolute() / 'checkpoints'
        self._policy = policies.AnyPreservationPolicy(
            [
                policies.LatestN(keep_last),
                policies.BestN(
                    get_metric_fn=_merit,
                    n=keep_best,
                    keep_checkpoints_without_metrics=False,
                ),
            ]
        )
        if remove_unfinished:
            _remove_unreadable_json(self.directory)
        try:
            self._checkpointer = ocp.training.Checkpointer(
                self.directory,
                preservation_policy=self._policy,
                cleanup_tmp_directories=remove_unfinished,
            )
        except ValueError as error:  # Of one file, where Orbax reads those of all checkpoints.
            raise UserError(
                f'what a checkpoint in {self.directory} says of itself is damaged '
                f'({_first_line(error)}); the command that trained it steps over that.'
            ) from error

    @property
    def steps(self) -> list[int]:
        """Steps that have a checkpoint, oldest first."""
        return sorted(checkpoint.step for checkpoint in self._checkpointer.checkpoints)

    @property
    def minutes_since_save(self) -> float:
        """Since the last save began, or since they were opened."""
        return (time.monotonic() - self._last_save) / 60

    def best_step(self) -> int | None:
        """The step with the best validation top-1 or mAP, the latest of equals; None if none has one."""
        scored = [c for c in self._checkpointer.checkpoints if c.metrics]
        return max(scored, key=lambda c: (_merit(c.metrics), c.step)).step if scored else None

    def about(self, step: int) -> dict[str, Any]:
        """The JSON record of a checkpoint; `owes_evaluation` is false once it was given its metrics.

        Raises:
            DamagedCheckpoint: it is damaged.
            UserError: its files are refused.
            UnreadableCheckpoint: it cannot be read for another reason.
        """
        try:
            return self._about(step)
        except Exception as error:  # Whatever a damaged file makes Orbax raise.
            raise self._unread(step, _outcome(error), error) from error

    def _about(self, step: int) -> dict[str, Any]:
        metadata = self._checkpointer.metadata(step)
        about = metadata.custom_metadata['about']
        if metadata.metrics and 'owes_evaluation' in about:
            about['owes_evaluation'] = False
        return about

    def saved_at(self, step: int) -> int | None:
        """When the checkpoint of a step was done, in nanoseconds since 1970; None where it does not say."""
        try:
            return self._checkpointer.metadata(step).commit_timestamp_nsecs
        except Exception:  # Whatever a damaged file makes Orbax raise.
            return None

    def save(self, state: State, about: Mapping[str, Any]) -> None:
        """Starts saving; returns once the state has been copied off the devices.

        Raises:
            UserError: this or an earlier save could not be written, which somebody has to mend.
        """
        self._last_save = time.monotonic()
        items = _split(state)
        saving = self._guard(
            self._checkpointer.save_checkpointables_async,
            int(state.step),
            {**items, **_with_suffix(_checksums(items))},
            force=True,
            custom_metadata={'about': dict(about)},
        )
        self._saving = saving
        if jax.process_count() > 1:
            threading.Thread(target=self._end_if_it_fails, args=(saving,), daemon=True).start()

    def _end_if_it_fails(self, saving) -> None:
        """Of several processes: the others may be waiting in this save for what this one cannot write.

        This one would learn of it in its next save, which it does not reach without the others.
        """
        try:
            self._guard(saving.result)
        except Exception as error:
            processes.end(error)

    def add_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        """Gives a checkpoint the metrics of its evaluation, once it is on disk, and keeps the best.

        Its arrays are not written again, so that a kill leaves it as it is.

        Raises:
            UserError: it could not be written, which somebody has to mend.
        """
        if self._saving is not None:
            self._guard(self._saving.result)
        if jax.process_index() == 0:
            folder = self.directory / str(step) / 'metrics'  # Where Orbax has, and looks for, them.
            folder.mkdir(exist_ok=True)
            write_atomically(folder / 'metrics', json.dumps(dict(metrics)))
            self._checkpointer.reload()
            checkpoints = self._checkpointer.checkpoints
            context = ocp.training.preservation_policies.PreservationContext()
            kept = self._policy.should_preserve(checkpoints, context=context)
            for checkpoint, keep in zip(checkpoints, kept, strict=True):
                if not keep:
                    shutil.rmtree(self.directory / str(checkpoint.step))
        _wait_for_all()  # Until they have been written.
        self._checkpointer.reload()

    def remove(self, step: int) -> None:
        """Deletes a checkpoint that turned out to be none to go on from, if there is one of this step."""
        if self._saving is not None:
            self._guard(self._saving.result)
        if jax.process_index() == 0 and step in self.steps:
            shutil.rmtree(self.directory / str(step))
        _wait_for_all()
        self._checkpointer.reload()

    def save_model(self, params: Any) -> None:
        """Saves parameters alone, as those of step 0: a start for other runs, which resumes none.

        Raises:
            UserError: they could not be written, which somebody has to mend.
        """
        items = {'model': {'params': params, 'ema': None}}
        self._guard(
            self._checkpointer.save_checkpointables,
            0,
            {**items, **_with_suffix(_checksums(items))},
        )

    def load_model(self, step: int, abstract: Mapping[str, Any]) -> dict[str, Any]:
        """`{'params': ..., 'ema': ...}` of a step, in the shapes and shardings of `abstract`.

        Raises:
            DamagedCheckpoint: it is damaged, or differs from what was written.
            UserError: its files are refused.
            UnreadableCheckpoint: it cannot be read for another reason.
        """
        return self._read(step, lambda: self._load(step, {'model': dict(abstract)}))['model']

    def restore_latest(self, abstract: State) -> State | None:
        """The newest state that can be read; None where there is no checkpoint at all.

        A damaged checkpoint is said in the log and the one before it is tried; once one was read, the
        damaged ones are moved to `<workdir>/damaged_checkpoints`. One that cannot be read for another
        reason is not damaged: nothing is moved.

        Raises:
            UserError: there are checkpoints and all of them are damaged, or the files of one are refused.
            UnreadableCheckpoint: one cannot be read for another reason.
        """

        def read(step):
            items = self._load(step, _split(abstract))
            self._about(step)  # The trainer reads it next.
            return items

        steps, damaged = self.steps, []
        for step in reversed(steps):
            try:
                items = self._read(step, functools.partial(read, step))
            except DamagedCheckpoint as error:
                log.warning('checkpoint %s of %s is damaged: %s', step, self.directory, error)
                damaged.append(step)
                continue
            self._move_aside(damaged)
            return State(**items['model'], **items['training'])
        if steps:
            raise UserError(
                f'all checkpoints in {self.directory} are damaged (steps {steps}); train again with '
                f'another --workdir.'
            )
        return None

    def _read(self, step: int, read: Callable[[], Any]) -> Any:
        """What `read` returns; of several processes, all get theirs or none does.

        What does not say that the checkpoint is damaged is tried once more, by a process alone: of several,
        Orbax's barriers may no longer fit together, and the launcher starts all of them again.
        """
        for last in (False, True):
            found = error = None
            try:
                found = read()
            except Exception as caught:  # Whatever a damaged file makes Orbax raise.
                if _of_devices(caught) and explanation(caught):
                    raise  # Of too little memory.
                error = caught
                if jax.process_count() > 1:
                    # At once: the others may wait for this one's part of it, for five minutes at most.
                    number, said = jax.process_index(), _first_line(error)
                    log.warning('process %d cannot read checkpoint %d: %s', number, step, said)
            outcome = _worst(_outcome(error))
            if outcome is _Outcome.READ:
                return found
            if last or outcome is _Outcome.DAMAGED or jax.process_count() > 1:
                raise self._unread(step, outcome, error) from error
            log.warning(
                'checkpoint %d of %s could not be read; once more in %d seconds',
                *(step, self.directory, RETRY_SECONDS),
            )
            time.sleep(RETRY_SECONDS)

    def _unread(self, step: int, outcome: _Outcome, error: Exception | None) -> Exception:
        """What to raise for a checkpoint that was not read; the error is None if it was another's."""
        reason = 'another process cannot read it'
        if error is not None:
            reason = str(error) if isinstance(error, DamagedCheckpoint) else _first_line(error)
        if outcome is _Outcome.DAMAGED:
            return DamagedCheckpoint(reason)
        where = f'cannot read checkpoint {step} of {self.directory}: {reason}'
        if outcome is _Outcome.REFUSED:
            return UserError(
                f'{where}; nothing was moved: see that this user may read its files, and run the same '
                f'command again.'
            )
        return UnreadableCheckpoint(
            f'{where}; nothing was moved, as it may be whole: see that its disk can be read, and run the '
            f'same command again.'
        )

    def _move_aside(self, steps: Sequence[int]) -> None:
        for step in steps if jax.process_index() == 0 else ():
            aside = self.directory.parent / 'damaged_checkpoints' / str(step)
            aside.parent.mkdir(exist_ok=True)
            shutil.rmtree(aside, ignore_errors=True)
            (self.directory / str(step)).rename(aside)
            log.warning('moved checkpoint %s to %s', step, aside)
        if steps:
            _wait_for_all()  # Until they have been moved.
            self._checkpointer.reload()

    def close(self) -> None:
        """Returns when everything is on disk, and frees the checkpointer's threads.

        Raises:
            UserError: it could not be written, which somebody has to mend, as a full disk.
        """
        self._guard(self._checkpointer.close)

    def _load(self, step: int, abstract: dict[str, Any]) -> dict[str, Any]:
        sums = _with_suffix({name: _abstract_checksums(tree) for name, tree in abstract.items()})
        # Orbax leaves coroutines behind that complain at length when they are collected.
        hook, sys.unraisablehook = sys.unraisablehook, lambda _: None
        with warnings.catch_warnings():
            warnings.simplefilter('ignore', RuntimeWarning)
            try:
                found = self._checkpointer.load_checkpointables(step, {**abstract, **sums})
            finally:
                gc.collect()
                sys.unraisablehook = hook
        items = {name: found[name] for name in abstract}
        stored = {name: found[name] for name in sums}
        same = jax.tree.map(jnp.array_equal, _with_suffix(_checksums(items)), stored)
        if not jax.tree.all(jax.device_get(same)):
            raise DamagedCheckpoint('its contents differ from what was written')
        return items

    def _guard(self, write, *args, **kwargs):
        try:
            return write(*args, **kwargs)
        except Exception as error:  # Orbax wraps what the file system said in many types.
            left = self.directory.glob('*.orbax-checkpoint-tmp')
            for unfinished in left if jax.process_index() == 0 else ():
                shutil.rmtree(unfinished, ignore_errors=True)
            full = any(
                re.search('No space left|quota exceeded', str(each)) for each in _chain(error)
            )
            of_others = [each for each in _chain(error) if _of_devices(each)]
            if of_others and not full and jax.process_count() > 1:
                raise of_others[0] from None  # See `processes.together`.
            outcome = _Outcome.REFUSED if full else _outcome(error)
            if (of_others and not full) or outcome is _Outcome.DAMAGED:
                error.add_note(f'The checkpoints before it in {self.directory} are whole.')
                raise
            said = 'the disk is full' if full else _first_line(error)
            where = f'could not write a checkpoint to {self.directory}: {said}'
            again = 'run the same command again, the checkpoints before it are whole.'
            if outcome is _Outcome.UNREADABLE:
                raise TryAgain(f'{where}; {again}') from error
            raise UserError(f'{where}; mend that and {again}') from error


def _quieten_closed_loops() -> None:
    """After a failed write, all others answer to a loop that Orbax has closed, with a traceback each."""
    if getattr(sys.unraisablehook, 'func', None) is not _unless_closed_loop:
        sys.unraisablehook = functools.partial(_unless_closed_loop, sys.unraisablehook)


def _unless_closed_loop(hook, unraisable) -> None:
    if str(unraisable.exc_value) != 'Event loop is closed':
        hook(unraisable)


def _of_devices(error: BaseException) -> bool:
    """Whether it is no file, but the devices or the other processes, that failed."""
    return isinstance(error, jax.errors.JaxRuntimeError) or processes.lost_others(error)


def _outcome(error: Exception | None) -> _Outcome:
    """What an error of reading tells of the checkpoint; it is damaged unless something else is known."""
    for each in _chain(error):
        if _mendable(each):
            return _Outcome.REFUSED
        if _passing(each):
            return _Outcome.UNREADABLE
    return _Outcome.DAMAGED if error else _Outcome.READ


def _worst(outcome: _Outcome) -> _Outcome:
    """Of all processes; none returns before all have asked."""
    return _Outcome(int(np.max(multihost_utils.process_allgather(np.asarray(outcome)))))


def _mendable(error: BaseException) -> bool:
    """Whether it says what a person has to mend, in the words of Python, jax or TensorStore."""
    if explanation(error) or REFUSED.search(str(error)):
        return True
    return _os_error(error) in REFUSALS


def _passing(error: BaseException) -> bool:
    """Whether it may be another time, and tells nothing of what is in a file."""
    if _of_devices(error) or isinstance(error, MemoryError) or PASSING.search(str(error)):
        return True
    code = _os_error(error)
    if code is None:
        return isinstance(error, OSError) and not isinstance(error, FileNotFoundError)
    return code != errno.ENOENT


def _os_error(error: BaseException) -> int | None:
    """The `errno` that it has, or that TensorStore tells of."""
    if isinstance(error, OSError):
        return error.errno
    said = OS_ERROR.search(str(error))
    return int(said[1]) if said else None


def _wait_for_all() -> None:
    """Returns once all processes have called it."""
    multihost_utils.process_allgather(np.asarray(True))


def _remove_unreadable_json(directory: Path) -> None:
    """Removes what checkpoints say of themselves where it is no JSON: one such file would hide them all.

    Without its metrics a checkpoint is none of the best; without the rest it is found to be damaged.
    """
    files = itertools.chain.from_iterable(map(directory.glob, ABOUT_ITSELF))
    for file in sorted(files) if jax.process_index() == 0 else ():
        try:
            json.loads(file.read_text(encoding='utf-8'))
        except ValueError:
            log.warning('removed %s, which is damaged', file)
            file.unlink()
    _wait_for_all()


def _merit(metrics: Mapping[str, float]) -> float:
    """The metric that the best checkpoint has most of; the least where it is not a number."""
    value = next(metrics[name] for name in BEST if name in metrics)
    return -math.inf if math.isnan(value) else value


def _split(state: State) -> dict[str, dict[str, Any]]:
    """The model apart from the rest, so that evaluation reads no optimiser state."""
    fields = state._asdict()
    model = {'params': fields.pop('params'), 'ema': fields.pop('ema')}
    return {'model': model, 'training': fields}


@jax.jit
def _checksums(tree: Any) -> Any:
    """For each array the sum of its bits as 32-bit words, modulo 2^32: any flipped bit changes it."""

    def checksum(x):
        words = jax.lax.bitcast_convert_type(x, jnp.dtype(f'uint{8 * x.dtype.itemsize}'))
        return jnp.sum(words.astype(jnp.uint32), dtype=jnp.uint32)

    return jax.tree.map(checksum, tree)


def _with_suffix(items: Mapping[str, Any]) -> dict[str, Any]:
    """Checksums under the names that they are stored by, apart from what they are the sums of."""
    return {f'{name}_checksums': sums for name, sums in items.items()}


def _abstract_checksums(tree: Any) -> Any:
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct((), jnp.uint32, sharding=_replicated_like(leaf)), tree
    )


def _replicated_like(leaf: jax.ShapeDtypeStruct) -> jax.sharding.Sharding:
    match leaf.sharding:
        case NamedSharding(mesh=mesh):
            return NamedSharding(mesh, P())
        case sharding:
            return sharding


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An exception and all that it was raised from."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or ['']
    return f'{type(error).__name__}: {lines[0][:200]}'
