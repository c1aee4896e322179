"""The workdir of a training: one run, one writer."""

import contextlib
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import ml_collections

from vjax import config as configs
from vjax.errors import UserError, cannot_make
from vjax.locks import locked
from vjax.training import runs
from vjax.training.checkpoints import Checkpoints

log = logging.getLogger('vjax.train')


def check(workdir: str | Path) -> None:
    """Refuses what is no folder, before a training that could not be saved.

    Raises:
        UserError: it is empty, as of a shell's variable that is not set, or an address.
    """
    # A Path has made one slash of two.
    if not str(workdir) or re.match(r'\w+:/', str(workdir)):
        raise UserError(
            f"--workdir='{workdir}': checkpoints are written to a file system; give a folder, of a bucket "
            'the one that it is mounted at.'
        )


@contextlib.contextmanager
def claim(workdir: Path) -> Iterator[None]:
    """Makes the workdir, and keeps other runs out of it while entered.

    Raises:
        UserError: it cannot be made, or another run is writing to it.
    """
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--workdir='{workdir}': {cannot_make(workdir, error)}.") from None
    if jax.process_index() > 0:  # The first one speaks for all.
        yield
        return
    with open(workdir / '.lock', 'wb') as file:
        if not locked(file):
            raise UserError(
                f"another vjax.train is writing to '{workdir}': wait until it is done, or choose another "
                '--workdir.'
            )
        yield


def open_checkpoints(
    workdir: Path, config: ml_collections.ConfigDict, about: dict[str, Any]
) -> Checkpoints:
    """The checkpoints of a new workdir, or of one that holds the same run.

    Raises:
        UserError: the workdir holds another run.
    """
    checkpoints = Checkpoints(
        workdir,
        keep_last=config.checkpoint.keep_last,
        keep_best=config.checkpoint.keep_best,
        remove_unfinished=True,
    )
    if checkpoints.steps:
        saved = runs.read_about(workdir)
        if 'conversion' in saved:
            raise UserError(
                f"'{workdir}' holds converted weights, no run to go on with: choose another --workdir, "
                f'and start from them with --config.init_from={workdir}.'
            )
        changed = configs.differences(saved['config'], about['config'])
        changed += [
            key for key in ('classes', 'multi_label', 'fingerprint') if saved[key] != about[key]
        ]
        if changed:
            raise UserError(
                f"'{workdir}' holds a run of another config ({'; '.join(changed)}); choose another "
                f'--workdir, or start from its weights with --config.init_from={workdir}.'
            )
        shuffling = saved.get('shuffling', 1)  # It was not always said.
        if checkpoints.steps[-1] < config.num_steps and shuffling != about['shuffling']:
            raise UserError(
                f"'{workdir}' was begun when epochs were shuffled otherwise, and cannot go on exactly: "
                'choose another --workdir, and start from its weights with '
                f'--config.init_from={workdir}.'
            )
        if config.init_from not in ('', saved['config']['init_from']):
            log.warning(
                "'%s' goes on from its own checkpoint, and config.init_from=%s is not used: to start from "
                'these weights, choose another --workdir',
                *(workdir, config.init_from),
            )
        # Of what may change, as it is now: another place of the data set. But not what it once began with.
        began = {key: saved['config'][key] for key in ('init_from', 'adapt')}
        about = saved | about | {'config': about['config'] | began, 'shuffling': shuffling}
    if jax.process_index() == 0:
        runs.write_about(workdir, about)
    return checkpoints
