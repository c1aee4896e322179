"""Train on a Cloud TPU slice: python -m experiments.launch.tpu --name=NAME --topology=v5e:4x8 --spot ...

Asks for the slice with a queued resource, trains on all its machines, asks again when it was taken away,
and gives it back at the end, after an error and after Ctrl-C (which saves first). It must keep running
meanwhile: on a small machine that stays up, in tmux or the like.
"""

import argparse
import re
import shlex
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass

from experiments.launch import job
from vjax import cli
from vjax.errors import UserError

POLL_SECONDS = 60
# Of a container between SIGTERM and SIGKILL.
GRACE_SECONDS = 120
# A run that lasted so long got somewhere: the crashes before it do not count.
HEALTHY_SECONDS = 3600
# A request that got what it wanted and lost it again, to a pre-emption most often.
LOST = ('SUSPENDING', 'SUSPENDED')
# How often gcloud is told to create or to delete, a minute apart, where it fails: for want of the network,
# or of the quota of a slice that is just going.
TRIES = 5


@dataclass(frozen=True)
class Commands:
    """What is run, on the desk: each an argument list for gcloud."""

    create: list[str]
    describe: list[str]
    train: list[str]
    stop: list[str]
    delete: list[str]


def main(argv: list[str]) -> int:
    """Parses the command line and looks after the training to its end."""
    parser = job.parser(__doc__, restarts=50, restarts_help='slices lost before it stays down')
    job.add_containers(parser)
    parser.add_argument('--zone', required=True, help='the one of the storage, if you can')
    parser.add_argument('--project', default='', help="(gcloud's)")
    parser.add_argument(
        '--setup',
        default='',
        help='shell command on each machine before the storage is mounted and the image pulled',
    )
    parser.add_argument(
        '--queue_hours', type=int, default=24, help='to wait for chips at most (%(default)s)'
    )
    parser.add_argument(
        '--crashes', type=int, default=3, help='in a row before it stays down (%(default)s)'
    )
    parser.add_argument(
        '--create_flag',
        action='append',
        default=[],
        metavar='FLAG',
        help='another one for the queued resource, as in --create_flag=--network=NAME',
    )
    args, command = job.parse(parser, argv)
    commands = build(args, [*command, '--distributed'])
    if args.dry_run:
        for title, line in (
            ('ask for the slice', commands.create),
            (f'then every {POLL_SECONDS} s', commands.describe),
            ('when it is ACTIVE, and again after a crash', commands.train),
            ('where it is still training at the end', commands.stop),
            ('at the end, and before the slice is asked for again', commands.delete),
        ):
            print(f'# {title}\n{shlex.join(line)}')
        return 0
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    return look_after(commands, args.restarts, args.crashes)


def build(args: argparse.Namespace, command: list[str]) -> Commands:
    """The commands that run `command` on every machine of a slice.

    Raises:
        UserError: an argument cannot be right.
    """
    where, storage = job.parse_containers(args)
    for name in ('crashes', 'queue_hours'):
        job.count(name, getattr(args, name), 1)
    if not re.fullmatch(r'[a-z]+-[a-z]+\d+-[a-z]', args.zone):
        raise UserError(f"--zone='{args.zone}': give a zone, as in us-west4-a.")
    for flag in args.create_flag:
        if not flag.startswith('--'):
            raise UserError(
                f"--create_flag='{flag}': give a flag with its value, as in --network=NAME."
            )
    place = [f'--zone={args.zone}', *([f'--project={args.project}'] if args.project else [])]
    tpus = ['gcloud', 'compute', 'tpus']
    queue = [*tpus, 'queued-resources']
    # Most machines are silent for hours: a connection that is lost must end none the less.
    alive = ['--ssh-flag=-oServerAliveInterval=60', '--ssh-flag=-oServerAliveCountMax=5']
    on_all = [*tpus, 'tpu-vm', 'ssh', args.name, *place, '--worker=all', '--quiet', *alive]
    return Commands(
        create=[
            *(*queue, 'create', args.name, f'--node-id={args.name}', *place),
            f'--accelerator-type={where.accelerator_type}',
            f'--runtime-version={where.generation.runtime}',
            f'--valid-until-duration={args.queue_hours}h',
            *(['--spot'] if args.spot else []),
            *('--async', '--quiet', *args.create_flag),
        ],
        describe=[*queue, 'describe', args.name, *place, '--format=value(state.state)'],
        train=[*on_all, f'--command={_bash(remote_script(args, storage, command))}'],
        stop=[*on_all, f'--command={_bash(_stop(args.name))}'],
        delete=[*queue, 'delete', args.name, *place, '--force', '--quiet'],
    )


def remote_script(args: argparse.Namespace, storage: job.Storage, command: list[str]) -> str:
    """What every machine runs: mount the storage, end what a lost connection left, train."""
    mount = shlex.quote(args.mount)
    if storage.bucket:
        # Every machine must see at once what another has written.
        fresh = '--metadata-cache-ttl-secs=0 --metadata-cache-negative-ttl-secs=0'
        how = f'gcsfuse -o allow_other --implicit-dirs {fresh} {storage.bucket}'
    else:
        how = f'mount -t nfs {shlex.quote(f"{storage.server}:{storage.path}")}'
    container = [
        *('docker', 'run', '--rm', '--init', f'--name={args.name}', '--net=host', '--privileged'),
        f'--stop-timeout={GRACE_SECONDS}',
        f'--env=JAX_PLATFORMS={job.TPUS}',
        f'--volume={args.mount}:{args.mount}',
        args.image,
        *command,
    ]
    setup = [args.setup] if args.setup else []
    return '\n'.join(
        [
            'set -euo pipefail',
            *setup,
            f'mountpoint -q {mount} || {{ sudo mkdir -p {mount}; sudo {how} {mount}; }}',
            _stop(args.name),
            f'exec sudo {shlex.join(container)}',
        ]
    )


def _stop(name: str) -> str:
    """Ends the container of a training, which saves; waits until it is gone."""
    return (
        f'sudo docker stop -t {GRACE_SECONDS} {name} >/dev/null 2>&1 || true\n'
        f'while sudo docker inspect {name} >/dev/null 2>&1; do sleep 1; done'
    )


def _bash(script: str) -> str:
    """A script as one command of whatever shell the user has there."""
    return shlex.join(['bash', '-c', script])


def look_after(
    commands: Commands,
    restarts: int,
    crashes: int,
    run: Callable[..., subprocess.CompletedProcess] = job.run,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> int:
    """Trains to the end over as many slices as it takes, and gives back the last one.

    A slice of this name that is there already is used: so the launcher itself can be started again.

    Args:
        commands: of `build`.
        restarts: slices that may be lost.
        crashes: runs in a row that may fail on a slice that stays.
        run: runs one of them.
        sleep: waits between questions.
        clock: seconds.

    Returns:
        0 once the training is done.

    Raises:
        UserError: the request could not be made, failed or was withdrawn, or the training cannot go on.
    """
    # There may be something to give back; there is something that nobody here has asked to delete.
    ours = there = training = False
    failed = asked = refused = undeleted = 0
    before = None
    try:
        while True:
            state = _state(commands, run)
            if state != before:
                print(f'{time.strftime("%F %T")} queued resource: {state or "?"}', flush=True)
                before = state
            if state in LOST:
                ours, there, training, refused = True, False, False, 0
                if run(commands.delete).returncode == 0:
                    state, ours = 'MISSING', False
                elif state == 'SUSPENDED':  # Before that it may not be possible yet.
                    undeleted += 1
                if undeleted == TRIES:
                    raise UserError(
                        f'gcloud could not delete the lost slice, {TRIES} times in a row, see above.'
                    )
            if state == 'MISSING':
                ours = refused > 0  # What gcloud failed to ask for may come yet.
                if there:
                    raise UserError(
                        'somebody deleted the queued resource: it is not asked for again.'
                    )
                if refused == TRIES:
                    raise UserError(
                        f'gcloud could not ask for the slice, {TRIES} times in a row, see above.'
                    )
                if not refused:
                    if asked > restarts:
                        raise UserError(
                            f'the slice was lost {asked} times (--restarts={restarts}); the same '
                            'command goes on.'
                        )
                    asked, undeleted = asked + 1, 0
                ours = True
                there = run(commands.create).returncode == 0
                refused = 0 if there else refused + 1
            elif state == 'FAILED':
                ours = True
                run(commands.describe[:-1])  # All of it, which has the reason.
                raise UserError(
                    'the request failed, see above: mostly for want of chips within --queue_hours, of '
                    'quota or of rights.'
                )
            elif state == 'ACTIVE':
                ours = there = training = True
                began = clock()
                code = run(commands.train).returncode
                if code == 0:
                    training = False
                    return 0
                if clock() - began > HEALTHY_SECONDS or _state(commands, run) != 'ACTIVE':
                    failed = 0
                else:
                    failed += 1
                if failed >= crashes:
                    raise UserError(
                        f'the training failed {failed} times in a row (exit code {code}), see above.'
                    )
            elif state and state not in (*LOST, 'DELETING'):
                ours = there = True
            sleep(POLL_SECONDS)
    finally:
        if ours:
            _give_back(commands, training, run, sleep)


def _give_back(
    commands: Commands,
    training: bool,
    run: Callable[..., subprocess.CompletedProcess],
    sleep: Callable[[float], None],
) -> None:
    """Stops the training, if there is one, and deletes the slice; Ctrl-C does not keep it from that."""
    with job.handling_signals(signal.SIG_IGN):
        print('giving back the slice, in some minutes', flush=True)
        if training:
            run(commands.stop)
        for _ in range(TRIES):
            if run(commands.delete).returncode == 0:
                return
            sleep(POLL_SECONDS)  # Time for a request that is under way to show.
            if _state(commands, run) == 'MISSING':
                return
        print('THE SLICE MAY STILL BE THERE, AND BILLED; delete it:', shlex.join(commands.delete))


def _state(commands: Commands, run: Callable[..., subprocess.CompletedProcess]) -> str:
    """The state of the queued resource; 'MISSING' where there is none, '' where gcloud cannot say."""
    answer = run(commands.describe, capture_output=True)
    if answer.returncode == 0:
        return answer.stdout.strip()
    if 'NOT_FOUND' in answer.stderr:
        return 'MISSING'
    # The network, most often: no reason to give anything up.
    print(answer.stderr.strip(), flush=True)
    return ''


if __name__ == '__main__':
    cli.run(main)
