"""Processes that write shards. A hostile file can crash, stop or bloat one, which costs only that file."""

import collections
import contextlib
import dataclasses
import multiprocessing
import multiprocessing.connection
import os
import resource
import signal
import time
from collections.abc import Sequence

import tqdm

from vjax.data.preparation import shards

_ATTEMPTS = 2  # A worker that dies twice at one file dies of the file.


@dataclasses.dataclass(frozen=True)
class Budget:
    """What one video may cost before it is rejected: seconds, and GiB of a worker's memory."""

    seconds: float = 600.0
    gib: float = 4.0


@dataclasses.dataclass
class _Worker:
    process: multiprocessing.process.BaseProcess
    messages: multiprocessing.connection.Connection
    task: shards.Task | None = None
    current: int | None = None  # The video that it has begun and not finished.
    since: float = 0.0  # When it began.
    finished: int = 0  # Videos of the task.


def write_shards(
    tasks: Sequence[shards.Task],
    num_workers: int | None,
    budget: Budget,
    bar: tqdm.tqdm | None = None,
) -> None:
    """Writes the shards of all tasks.

    Args:
        tasks: in the order in which they are begun.
        num_workers: processes; None for one per CPU that this process may use.
        budget: of each video.
        bar: is moved on for each video.
    """
    bar = tqdm.tqdm(disable=True) if bar is None else bar
    todo = collections.deque(tasks)
    num_workers = min(num_workers or len(os.sched_getaffinity(0)), len(tasks))
    deaths = collections.Counter()
    pool: list[_Worker] = []

    def assign(worker):
        worker.task = todo.popleft() if todo else None
        worker.current, worker.finished = None, 0
        with contextlib.suppress(BrokenPipeError):  # Its death is noticed where it is awaited.
            worker.messages.send(worker.task)

    def replace(worker, task):
        bar.update(-worker.finished)
        todo.appendleft(task)
        pool[pool.index(worker)] = replacement = _start_worker(budget)
        assign(replacement)

    try:
        pool += [_start_worker(budget) for _ in range(num_workers)]
        for worker in pool:
            assign(worker)
        while busy := [worker for worker in pool if worker.task is not None]:
            ready = multiprocessing.connection.wait([w.messages for w in busy], timeout=1.0)
            for worker in busy:
                if worker.messages not in ready:
                    took = time.monotonic() - worker.since
                    if worker.current is not None and took > budget.seconds:
                        worker.process.kill()
                        worker.process.join()
                        reason = f'the decoder was not done after {budget.seconds:g} s'
                        replace(worker, _without(worker, reason))
                    continue
                try:
                    kind, value = worker.messages.recv()
                except (EOFError, ConnectionResetError):
                    replace(worker, _bury(worker, deaths))
                    continue
                if kind == 'error':
                    raise value
                if kind == 'begin':
                    worker.current, worker.since = value, time.monotonic()
                elif kind == 'end':
                    worker.current = None
                    worker.finished += 1
                    bar.update()
                else:
                    assign(worker)
    finally:
        for worker in pool:
            worker.process.terminate()
            worker.process.join()


def _start_worker(budget: Budget) -> _Worker:
    # Spawned: a fork would copy the locks of TensorFlow's and jax's threads in who knows what state.
    context = multiprocessing.get_context('spawn')
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(theirs, budget), daemon=True)
    process.start()
    theirs.close()
    return _Worker(process, ours)


def _bury(worker: _Worker, deaths: collections.Counter) -> shards.Task:
    """The task of a worker that died, without the video that killed it if it is not the first."""
    worker.process.join()
    code = worker.process.exitcode
    if worker.current is None:
        raise RuntimeError(
            f'a worker process ended by itself (exit code {code}); a script that calls prepare() '
            f"must do so under if __name__ == '__main__'."
        )
    deaths[worker.current] += 1
    if deaths[worker.current] < _ATTEMPTS:
        return worker.task
    name = signal.Signals(-code).name if code < 0 else f'exit code {code}'
    return _without(worker, f'the decoder crashed ({name})')


def _without(worker: _Worker, reason: str) -> shards.Task:
    """A worker's task, which will not try its current video again."""
    doomed = worker.task.doomed | {worker.current: reason}
    return dataclasses.replace(worker.task, doomed=doomed)


def limit_memory(gib: float) -> None:
    """Lets this process take so much more memory than now (inf: any); what wants more gets a MemoryError.

    What counts are writable pages, touched or not: address space would count what threads reserve.
    """
    with contextlib.suppress(FileNotFoundError):  # Not Linux.
        with open('/proc/self/statm', encoding='ascii') as file:
            now = int(file.read().split()[5]) * resource.getpagesize()
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        most = now + gib * 2**30
        if most < (2**62 if hard == resource.RLIM_INFINITY else hard):
            resource.setrlimit(resource.RLIMIT_DATA, (int(most), hard))


def _work(messages: multiprocessing.connection.Connection, budget: Budget) -> None:
    """A worker: writes shard after shard, and tells of each video when it begins and ends it.

    Telling also ends a worker whose parent was killed.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer.
    limit_memory(budget.gib)
    try:
        while True:
            task = messages.recv()
            if task is None:
                return
            try:
                shards.write(
                    task,
                    begins=lambda number: messages.send(('begin', number)),
                    ends=lambda number: messages.send(('end', number)),
                )
            except (BrokenPipeError, EOFError, ConnectionResetError):
                raise
            except Exception as error:
                messages.send(('error', error))
                return
            messages.send(('shard', task.shard))
    except (BrokenPipeError, EOFError, ConnectionResetError):
        return
