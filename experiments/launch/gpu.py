"""Train on the GPUs of this machine: python -m experiments.launch.gpu --name=... --config=... --workdir=...

One process uses all of them. It is started again after a crash, up to --restarts times, and not after
Ctrl-C, SIGTERM, an error that only you can mend, or its end.
"""

import os
import shlex
import signal
import subprocess
import sys
import time

from experiments.launch import job
from vjax import cli
from vjax.errors import UserError

PAUSE_SECONDS = 10


def main(argv: list[str]) -> int:
    """Parses the command line and trains; returns the exit code of the training."""
    parser = job.parser(__doc__, restarts=3, restarts_help='after so many crashes it stays down')
    parser.add_argument('--gpus', help='use these alone, as in 0,1 (all)')
    args, command = job.parse(parser, argv)
    if args.gpus is not None and not all(map(str.isdecimal, args.gpus.split(','))):
        raise UserError(f"--gpus='{args.gpus}': give numbers of GPUs, as in 0,1.")
    chosen = {'JAX_PLATFORMS': os.environ.get('JAX_PLATFORMS', job.GPUS)}
    if args.gpus is not None:
        chosen['CUDA_VISIBLE_DEVICES'] = args.gpus
    if args.dry_run:
        print(shlex.join([*(f'{key}={value}' for key, value in chosen.items()), *command]))
        return 0
    return keep_running([sys.executable, *command[1:]], os.environ | chosen, args.restarts)


def keep_running(
    command: list[str], environment: dict[str, str], restarts: int, pause: float = PAUSE_SECONDS
) -> int:
    """Runs a training to its end, and again after a crash; returns its last exit code.

    SIGTERM and Ctrl-C are handed on once, and the training saves.
    """
    asked = []
    with job.handling_signals(lambda number, _: asked.append(number)):
        while True:
            code = _run(command, environment, asked)
            if asked or code in (0, 2, 128 + signal.SIGINT, 128 + signal.SIGTERM):
                return code
            if not restarts:
                print(f'exit code {code}: it crashed too often, see above', file=sys.stderr)
                return code
            print(f'exit code {code}: starting again ({restarts} left)', file=sys.stderr)
            restarts -= 1
            time.sleep(pause)
            if asked:
                return code


def _run(command: list[str], environment: dict[str, str], asked: list[int]) -> int:
    """Runs the command once; returns its exit code, 128 + the signal where one killed it."""
    process = subprocess.Popen(command, env=environment)
    told = False
    while True:
        # Once, for a second signal would end the training before it has saved; Ctrl-C reaches it by itself.
        if signal.SIGTERM in asked and not told:
            told = True
            process.send_signal(signal.SIGTERM)
        try:
            code = process.wait(timeout=0.5)
        except subprocess.TimeoutExpired:
            continue
        return 128 - code if code < 0 else code


if __name__ == '__main__':
    cli.run(main)
