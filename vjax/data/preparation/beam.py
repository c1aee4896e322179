"""Shards written by Apache Beam: on Dataflow, Flink or Spark, or by its runners on this machine.

One element is one shard, whose task is a file beside the journals: pipelines have to be small. A worker
writes its shards in processes of their own, as on one machine, so that a hostile video costs only itself.
The videos and the data set must have the same paths for all workers: in a bucket, or on a shared disk.
"""

import dataclasses
import importlib.util
import logging
import os
import shlex
from collections.abc import Sequence

from vjax.data.preparation import processes, shards, storage
from vjax.errors import UserError

logging.disable(logging.WARNING)  # Beam warns of each of its extras that is not installed.
try:
    import apache_beam as beam
    from apache_beam.options import pipeline_options
except ImportError as error:
    raise UserError(
        f"--beam needs Apache Beam ({error}): pip install 'vjax[beam]' has it."
    ) from error
finally:
    logging.disable(logging.NOTSET)


def check(options: str, paths: Sequence[str]) -> None:
    """Raises a UserError if the pipeline options are wrong, or its workers cannot reach a path."""
    runner = _parse(options).view_as(pipeline_options.StandardOptions).runner or ''
    try:
        beam.runners.create_runner(runner or 'DirectRunner')
    except (ValueError, ImportError) as error:
        reason = ' '.join(str(error).split()).rstrip('.')
        raise UserError(f'--beam={options}: {reason}.') from error
    if not runner.lower().startswith('dataflow'):
        return
    if importlib.util.find_spec('apitools') is None:
        raise UserError(f"--runner={runner} needs more of Beam: pip install 'apache-beam[gcp]'.")
    for path in paths:
        if not storage.is_url(path):
            raise UserError(
                f'{path} is on a disk, which the workers of {runner} do not see; give paths in a '
                f'bucket (gs://, s3://).'
            )


def write_shards(tasks: Sequence[shards.Task], options: str, budget: processes.Budget) -> None:
    """Writes the shards of all tasks.

    Args:
        tasks: of one split.
        options: Beam's pipeline options, as on a command line.
        budget: of each video.

    Raises:
        UserError: the pipeline failed; what was finished is kept.
    """
    if not tasks:
        return
    # A worker has another working directory.
    tasks = [
        dataclasses.replace(
            task,
            **{name: _absolute(getattr(task, name)) for name in ('out', 'partial', 'videos')},
        )
        for task in tasks
    ]
    partial = storage.folder(tasks[0].partial)
    names = [f'{task.shard:05d}.task' for task in tasks]
    for name, task in zip(names, tasks, strict=True):
        partial.write(name, shards.to_json(task))
    logging.getLogger('apache_beam').setLevel(logging.WARNING)
    try:
        with beam.Pipeline(options=_parse(options)) as pipeline:
            (
                pipeline
                | 'Shards' >> beam.Create(names, reshuffle=False)
                | 'Spread' >> beam.Reshuffle()
                | 'Write' >> beam.ParDo(_Write(partial.path, budget))
            )
    except Exception as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(
            f'the Beam pipeline failed: {reason[-1].rstrip(".")}; what is finished is kept, and the '
            f'same command goes on.'
        ) from error


class _Write(beam.DoFn):
    def __init__(self, partial: str, budget: processes.Budget):
        self._partial, self._budget = partial, budget

    def process(self, name: str) -> None:
        (text,) = storage.folder(self._partial).read([name])
        if text is None:
            raise UserError(f'{name} is missing in {self._partial}.')
        with shards.with_scratch([shards.from_json(text)]) as tasks:
            processes.write_shards(tasks, 1, self._budget)


def _parse(options: str) -> pipeline_options.PipelineOptions:
    return pipeline_options.PipelineOptions(shlex.split(options))


def _absolute(path: str) -> str:
    return path if storage.is_url(path) else os.path.abspath(path)
