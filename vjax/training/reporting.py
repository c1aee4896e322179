"""What a run leaves to read: metrics.jsonl, TensorBoard, its config and its environment."""

import contextlib
import errno
import importlib.metadata
import json
import logging
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
from etils import epy

from vjax.data.records import write_atomically
from vjax.training.speed import Speed, in_words

with epy.lazy_imports():
    from clu import metric_writers

logger = logging.getLogger(__name__)

PACKAGES = (
    'vjax',
    'jax',
    'jaxlib',
    'flax',
    'optax',
    'orbax-checkpoint',
    'tensorflow-cpu',
    'numpy',
    'av',
)

# The shares among the metrics, as a person reads them, in this order.
SHARES = {
    'top1': 'top-1',
    'top5': 'top-5',
    'mAP': 'mAP',
    'exact_match': 'exact match',
    'mean_class_accuracy': 'mean class accuracy',
    'ece': 'ECE',
}


def write_json(path: Path, value: Any) -> None:
    """Replaces a file by indented JSON in one step, so that a reader never sees half of it."""
    write_atomically(path, json.dumps(value, indent=2, ensure_ascii=False) + '\n')


@contextlib.contextmanager
def _full_disk_as_oserror(path: Path) -> Iterator[None]:
    """TensorFlow says in errors of its own that the disk is full."""
    try:
        yield
    except Exception as error:
        if 'No space left' not in str(error):
            raise
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), os.fspath(path)) from error


def versions(packages: Iterable[str]) -> dict[str, str | None]:
    """Of packages; None of one that is not installed."""

    def version(package):
        try:
            return importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            return None

    return {package: version(package) for package in packages}


def environment() -> dict[str, Any]:
    """Versions, devices and the source's git revision: what a number depends on beside its config."""

    def git(*args):
        try:
            done = subprocess.run(
                ['git', *args],
                cwd=Path(__file__).parent,
                capture_output=True,
                text=True,
                timeout=10,
                check=True,
            )
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout.strip()

    changed = git('status', '--porcelain')
    return {
        'python': sys.version.split()[0],
        'platform': platform.platform(),
        'packages': versions(PACKAGES),
        'devices': [f'{d.platform}: {d.device_kind}' for d in jax.local_devices()],
        'num_devices': jax.device_count(),
        'num_processes': jax.process_count(),
        'git_revision': git('rev-parse', 'HEAD'),
        'git_changed': None if changed is None else bool(changed),
        'command': sys.argv,
    }


class MetricsLog:
    """Scalars to `<workdir>/metrics.jsonl`, one line a report, and to TensorBoard beside it.

    A run that resumes at step s first drops the lines after s: the steps will be done again; so will the
    evaluation at s of the split `again`, unless that is None. The file is closed after each line, because a
    bucket that is mounted as a folder has only closed files.
    """

    def __init__(self, workdir: Path, start_step: int, again: str | None = None):
        self._path = workdir / 'metrics.jsonl'
        self.seconds_before = self._keep_until(start_step, again)
        self._tensorboard = metric_writers.SummaryWriter(os.fspath(workdir / 'tensorboard'))

    def _keep_until(self, step: int, again: str | None) -> float:
        """Drops what is done again; returns the seconds of training that the other lines tell of."""
        if not self._path.exists():
            return 0.0

        def done(entry):
            at_step = entry['step'] == step
            return entry['step'] < step or (at_step and f'{again}/loss' not in entry)

        kept = [entry for entry in read_metrics(self._path.parent) if done(entry)]
        write_atomically(self._path, ''.join(json.dumps(entry) + '\n' for entry in kept))
        return max((entry.get('seconds', 0.0) for entry in kept), default=0.0)

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Appends one report."""
        with _full_disk_as_oserror(self._path.parent):
            with self._path.open('a', encoding='utf-8') as file:
                file.write(json.dumps({'step': step, **scalars}) + '\n')
            self._tensorboard.write_scalars(step, dict(scalars))

    def close(self) -> None:
        """Closes TensorBoard's file, which in a bucket is not there before."""
        with _full_disk_as_oserror(self._path.parent):
            self._tensorboard.flush()
            self._tensorboard.close()


def read_metrics(workdir: str | Path) -> list[dict[str, Any]]:
    """The lines of a run's metrics.jsonl, each with its `step`; none where there is no such file."""
    path, entries = Path(workdir) / 'metrics.jsonl', []
    if path.exists():
        for line in path.read_text(encoding='utf-8').splitlines():
            with contextlib.suppress(json.JSONDecodeError):  # What a killed run did not finish.
                entries.append(json.loads(line))
    return entries


class NoLog:
    """The log of every process but the first."""

    seconds_before = 0.0

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Writes nothing."""

    def close(self) -> None:
        """Closes nothing."""


class Progress:
    """Reports to the log and one line to the screen: metrics, speed, and the time that is left."""

    def __init__(
        self, metrics_log: MetricsLog | NoLog, speed: Speed, start_step: int, num_steps: int
    ):
        self._log = metrics_log
        self._speed = speed
        self._num_steps = num_steps
        self._start = time.monotonic()
        self._start_step = start_step

    def training(self, step: int, report: Mapping[str, Any]) -> None:
        """Writes a training report of the window that ends with `step`."""
        seconds = time.monotonic() - self._start
        figures = self._speed.window(step)
        scalars = {
            f'train/{name}': float(value) for name, value in report.items() if name != 'bad_step'
        }
        seconds_before = self._log.seconds_before
        self._log.write(step, {**scalars, **figures, 'seconds': seconds_before + seconds})
        left = seconds * (self._num_steps - step) / (step - self._start_step)
        logger.info(
            'step %d/%d  loss %.4f  %s  %s  ETA %s',
            step,
            self._num_steps,
            scalars['train/loss'],
            shares(scalars, 'train/'),
            in_words(figures),
            duration(left),
        )

    def evaluation(self, step: int, split: str, scores: Mapping[str, float]) -> None:
        """Writes the metrics of an evaluation."""
        self._log.write(step, {f'{split}/{name}': value for name, value in scores.items()})
        first, *others = summary(scores)
        logger.info('step %d/%d  %s: %s', step, self._num_steps, split, first)
        for line in others:
            logger.info(line)


def summary(scores: Mapping[str, Any]) -> list[str]:
    """The metrics of an evaluation in words, a line; and one more for each head where there are several."""
    heads = [name.removesuffix('/top1') for name in scores if name.endswith('/top1')]
    first = f'{shares(scores)}, loss {scores["loss"]:.4f}, {scores["num_videos"]} videos'
    return [first, *(f'  {head}: {shares(scores, f"{head}/")}' for head in heads)]


def shares(scores: Mapping[str, float], prefix: str = '') -> str:
    """The shares among the metrics that begin with `prefix`: 'top-1 12.34%, top-5 50.00%'."""
    found = {shown: scores.get(prefix + name) for name, shown in SHARES.items()}
    return ', '.join(f'{shown} {x:.2%}' for shown, x in found.items() if x is not None)


def duration(seconds: float) -> str:
    """Seconds as a person reads them: '42 s', '3 min 05 s', '2 h 14 min'."""
    seconds = round(seconds)
    if seconds < 60:
        return f'{seconds} s'
    if seconds < 3600:
        return f'{seconds // 60} min {seconds % 60:02d} s'
    return f'{seconds // 3600} h {seconds % 3600 // 60:02d} min'
