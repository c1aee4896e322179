"""Train on a SLURM cluster: python -m experiments.launch.slurm --name=NAME --nodes=4 ...

Submits a batch job with one process for each GPU (or node). Ahead of its time limit, and of a pre-emption
where the cluster says so in advance, all processes save and the job queues again under the same number.
"""

import argparse
import re
import shlex

from experiments.launch import job
from vjax import cli
from vjax.errors import UserError

# SLURM's forms of a time: MINUTES, MINUTES:SECONDS, H:M:S, DAYS-HOURS, DAYS-HOURS:M, DAYS-HOURS:M:S.
TIME = re.compile(r'\d+(:\d+){0,2}|\d+-\d+(:\d+){0,2}')


def main(argv: list[str]) -> int:
    """Parses the command line and submits the job."""
    parser = job.parser(__doc__, restarts=100)
    parser.add_argument('--nodes', type=int, default=1, help='(%(default)s)')
    parser.add_argument('--gpus_per_node', type=int, default=8, help='(%(default)s)')
    parser.add_argument(
        '--process_per', choices=('gpu', 'node'), default='gpu', help='(%(default)s)'
    )
    parser.add_argument(
        '--time', default='24:00:00', help='limit of one stay on the cluster (%(default)s)'
    )
    parser.add_argument(
        '--warning', type=int, default=300, help='seconds to save in, ahead of it (%(default)s)'
    )
    parser.add_argument(
        '--repository', required=True, help='folder of this repository, seen by all nodes'
    )
    parser.add_argument(
        '--setup',
        default='source .venv/bin/activate',
        help='shell command on the first node, before training (%(default)s)',
    )
    parser.add_argument(
        '--sbatch_flag',
        action='append',
        default=[],
        metavar='FLAG',
        help='another one for sbatch, as in --sbatch_flag=--partition=gpu',
    )
    args, command = job.parse(parser, argv)
    text = script(args, [*command, '--distributed'])
    return job.submit(['sbatch'], text, 'SCRIPT', args.dry_run)


def script(args: argparse.Namespace, command: list[str]) -> str:
    """The batch script that runs `command` in every process.

    Raises:
        UserError: an argument cannot be right.
    """
    job.check_shared('--workdir', args.workdir)
    if not args.repository.startswith('/') or re.search(r'\s', args.repository):
        raise UserError(
            f"--repository='{args.repository}': give an absolute path without spaces, seen by all nodes."
        )
    if not TIME.fullmatch(args.time):
        raise UserError(
            f"--time='{args.time}': give it as SLURM does, as in 24:00:00 or 2-00:00:00."
        )
    for name in ('nodes', 'gpus_per_node'):
        job.count(name, getattr(args, name), 1)
    job.check_batches(args.settings, args.nodes * args.gpus_per_node)
    if not 60 <= args.warning <= 65535:
        raise UserError(f'--warning={args.warning}: give 60 to 65535 seconds.')
    for flag in args.sbatch_flag:
        if not re.fullmatch(r'--[a-z][a-z-]*(=\S+)?', flag):
            raise UserError(
                f"--sbatch_flag='{flag}': give one long flag without spaces, as in --partition=gpu."
            )
    processes, devices = args.gpus_per_node, f'export JAX_PLATFORMS={job.GPUS}\n'
    if args.process_per == 'node':
        # jax gives a process of SLURM one device unless it is told which.
        numbers = ','.join(map(str, range(args.gpus_per_node)))
        processes = 1
        devices += f'export JAX_LOCAL_DEVICE_IDS={numbers}\n'
    flags = [
        f'--job-name={args.name}',
        f'--nodes={args.nodes}',
        f'--ntasks-per-node={processes}',
        f'--gpus-per-node={args.gpus_per_node}',
        f'--time={args.time}',
        '--requeue',
        '--open-mode=append',
        f'--output={args.repository}/{args.name}-%j.log',
        f'--signal=B:USR1@{args.warning}',
        *args.sbatch_flag,
    ]
    header = ''.join(f'#SBATCH {flag}\n' for flag in flags)
    return f"""#!/usr/bin/env bash
{header}set -euo pipefail
cd {shlex.quote(args.repository)}
{args.setup}
{devices}
# The warning comes to this shell alone: what scancel sends to the processes must not queue the job again.
# Each of them is signalled once, for a second signal ends it before it has saved. (Not through srun, which
# takes SIGTERM for the order to kill.)
warned=
trap 'if [[ -z $warned ]]; then warned=1; scancel --signal=TERM "$SLURM_JOB_ID"; fi' USR1

# The processes end each other, and save meanwhile; --wait is for one that hangs.
# CPUs are what sbatch was asked for, which srun does not take over in all versions.
cpus=${{SLURM_CPUS_PER_TASK:+--cpus-per-task=$SLURM_CPUS_PER_TASK}}
srun --kill-on-bad-exit=0 --wait=600 --gpu-bind=none $cpus {shlex.join(command)} &
step=$!
# A trapped signal ends `wait`, not the step.
while kill -0 "$step" 2>/dev/null; do wait "$step" || true; done
code=0
wait "$step" || code=$?

if [[ -n $warned && $code -ne 0 && $code -ne 2 ]]; then
  if (( ${{SLURM_RESTART_COUNT:-0}} >= {args.restarts} )); then
    echo "restarted {args.restarts} times: submit the job again to go on" >&2
    exit 1
  fi
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
"""


if __name__ == '__main__':
    cli.run(main)
