"""Several processes as one run: how they find each other, agree to stop, and end together."""

import contextlib
import logging
import os
import pathlib
import signal
import sys
import time
import traceback
import uuid
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from vjax import errors
from vjax.errors import TryAgain, UserError
from vjax.training.interruption import Interruption

# A process that says nothing for so long is taken for dead, and the others end. Collectives over TCP fail
# at once where one is; those between TPUs wait.
HEARTBEAT_SECONDS = 60
JOIN_SECONDS = 300
LOOK_SECONDS = 10  # For a file that another process has written.
# What jax's errors say when the other end of a connection is silent.
GONE = ('UNAVAILABLE', 'ABORTED', 'DEADLINE_EXCEEDED', 'CANCELLED')


def add_argument(parser) -> None:
    """Adds `--distributed`, whose value is for `join`."""
    parser.add_argument(
        '--distributed',
        nargs='?',
        const='auto',
        metavar='HOST:PORT,INDEX,COUNT',
        help='run as one of several processes: alone on Cloud TPU, SLURM, GKE and Open MPI, which say '
        'where the others are; elsewhere with the address of the first process, the number of this one '
        'and how many there are, and one process for each machine: several of them on one take the same '
        'GPUs unless JAX_LOCAL_DEVICE_IDS or CUDA_VISIBLE_DEVICES says which are whose',
    )


def join(where: str | None) -> None:
    """Joins the other processes of the run; before anything else asks jax for its devices.

    Args:
        where: the value of `--distributed`; None for a process alone.

    Raises:
        UserError: the value cannot be read, no cluster is recognised, or there is not what
            JAX_PLATFORMS asks for.
        TryAgain: the others do not come, or the devices are not to be had.
    """
    if where is None:
        _check_accelerators()
        return
    how = {}
    if where != 'auto':
        address, *numbers = where.split(',')
        if ':' not in address or len(numbers) != 2 or not all(map(str.isdecimal, numbers)):
            raise UserError(
                f'--distributed={where}: give HOST:PORT of the first process, the number of this one '
                'and how many there are, as in 10.0.0.2:1234,0,4.'
            )
        index, count = map(int, numbers)
        if index >= count:
            raise UserError(
                f'--distributed={where}: the number of this process is one of 0 .. {count - 1}.'
            )
        how = {
            'coordinator_address': address,
            'num_processes': count,
            'process_id': index,
            'cluster_detection_method': 'deactivate',
        }
    # It would take SIGTERM for itself, and nobody would ask it: see `Interruption` and `Agreement`.
    jax.config.update('jax_enable_preemption_service', False)
    try:
        jax.distributed.initialize(
            **how,
            initialization_timeout=JOIN_SECONDS,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
        )
        jax.devices()  # Waits until all have said theirs.
    except ValueError:
        raise UserError(
            '--distributed: this is no Cloud TPU, SLURM, GKE or Open MPI job that jax recognises; give '
            '--distributed=HOST:PORT,INDEX,COUNT.'
        ) from None
    except RuntimeError as error:
        first = str(error).splitlines()[0]
        raise TryAgain(
            f'the processes of the run did not all come within {JOIN_SECONDS} seconds, or one of '
            f'them has ended ({first}).'
            if any(each in str(error) for each in GONE)
            else f'this process cannot use its devices, or not join the run ({first}).'
        ) from error
    _check_accelerators()
    if jax.process_index() > 0:
        # The first one speaks for all.
        logging.getLogger('vjax').setLevel(logging.WARNING)


def _check_accelerators() -> None:
    """Refuses to go on without the accelerators that JAX_PLATFORMS asks for first, as launchers have it.

    jax itself goes on with the processor where it sees none.
    """
    wanted = os.environ.get('JAX_PLATFORMS', '')
    first = wanted.partition(',')[0]
    if first in ('', 'cpu'):
        return
    try:
        found, why = jax.default_backend(), ''
    except RuntimeError as error:
        found, why = 'cpu', f' ({str(error).splitlines()[0]})'
    if found == 'cpu':
        extra = 'tpu' if first == 'tpu' else 'gpu'
        raise UserError(
            f'JAX_PLATFORMS={wanted} asks for {first}, and jax finds none here{why}; see that the driver '
            f"does, pip install 'vjax[{extra}]', or set JAX_PLATFORMS=cpu."
        )


def check_shared(folder: pathlib.Path) -> None:
    """Refuses a folder that is not the same one for all processes, as on disks of their own.

    To be called once in each of them, after it was made.

    Raises:
        UserError: in all of them, where one does not see what the first one writes there.
    """
    if jax.process_count() == 1:
        return
    token = np.frombuffer(uuid.uuid4().bytes, np.uint8)
    mark = folder / f'.{token.tobytes().hex()}.mark'
    if jax.process_index() == 0:
        for left in folder.glob('.*.mark'):  # By a run that was killed just then.
            left.unlink()
        mark.touch()
    token = np.asarray(multihost_utils.broadcast_one_to_all(token))
    name, deadline = f'.{token.tobytes().hex()}.mark', time.monotonic() + LOOK_SECONDS
    # Listed, as a file system over a network may remember that there was no such file.
    while not (seen := name in os.listdir(folder)) and time.monotonic() < deadline:
        time.sleep(0.5)
    all_seen = multihost_utils.process_allgather(np.asarray(seen))
    if jax.process_index() == 0:
        mark.unlink()
    if not np.all(all_seen):
        numbers = ', '.join(map(str, np.flatnonzero(~np.asarray(all_seen))))
        raise UserError(
            f"'{folder}' is another folder for process {numbers} than for process 0: give one that all "
            'machines share.'
        )


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Ends a process that fails within it at once, where it is one of several, so that all end.

    Otherwise it would wait for the others to come to an end as well, and they for its part of the work.
    """
    try:
        yield
    except Exception as error:
        if jax.process_count() == 1:
            raise
        end(error)
    except KeyboardInterrupt:
        if jax.process_count() == 1:
            raise
        print('interrupted', file=sys.stderr, flush=True)
        os._exit(130)


def end(error: Exception) -> None:
    """Says in one sentence why this process, one of several, cannot go on, and ends it at once."""
    number = f'process {jax.process_index()} of {jax.process_count()}'
    said = errors.explanation(error)
    if said is not None or isinstance(error, TryAgain):
        print(f'error: {number}: {said or error}', file=sys.stderr)
    elif lost_others(error):
        first = str(error).splitlines()[0]
        print(
            f'error: {number} lost the others ({first[:200]}); start all of them again, they go on '
            'from the last checkpoint.',
            file=sys.stderr,
        )
    else:
        traceback.print_exception(error)
    sys.stderr.flush()
    os._exit(1 if said is None else 2)


def lost_others(error: BaseException) -> bool:
    """Whether an error of one of several processes says that another has ended."""
    # Where the result of a collective over TCP is waited for on the host, jax raises a ValueError.
    said = str(error)
    of_jax = isinstance(error, jax.errors.JaxRuntimeError)
    return (of_jax and any(each in said for each in GONE)) or 'Gloo' in said


# What a process asks for beside a signal, whose numbers are greater.
SAVE = 1


class Agreement:
    """After which step all processes stop, once a signal came to any of them, or save.

    A process alone does either at once. Several learn with every step what was asked for before the
    step before: so all of them do it after the same one, and none waits for its devices. The batches of an
    evaluation are steps as well.

    Attributes:
        stop: the signal that all of them stop for; None while there is none.
    """

    def __init__(self, mesh: Mesh, interruption: Interruption):
        """Of the processes of a mesh; this one's signals come to `interruption`."""
        self._interruption = interruption
        self._alone = jax.process_count() == 1
        self._sharding = NamedSharding(mesh, P(mesh.axis_names))
        self._num_devices = mesh.devices.size
        self._latest = jax.jit(jnp.max, out_shardings=NamedSharding(mesh, P()))
        self._asked = None
        self._asks_to_save = False
        self.stop: signal.Signals | None = None

    def after_step(self, due: bool = False) -> bool:
        """Agrees on what all processes do after this step; to be called once in each, until they stop.

        Args:
            due: whether it is time to save, by the clock of this process. The first one's counts.

        Returns:
            Whether they save; `stop` is what they stop for.
        """
        if self._alone:
            self.stop = self._interruption.signal
            return due
        # What was asked for a step ago is about to be done.
        self._asks_to_save = due and jax.process_index() == 0 and not self._asks_to_save
        own = np.int32(self._interruption.signal or (SAVE if self._asks_to_save else 0))
        shape = (self._num_devices,)
        everybody = jax.make_array_from_callback(
            shape, self._sharding, lambda where: np.full(shape, own)[where]
        )
        before, self._asked = self._asked, self._latest(everybody)
        number = 0 if before is None else int(before)
        self.stop = signal.Signals(number) if number > SAVE else None
        return number == SAVE
