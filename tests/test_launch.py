"""The launchers, without any of the tools that they drive."""

import itertools
import json
import os
import shlex
import signal
import stat
import subprocess
import sys
import threading

import pytest

from experiments.launch import gke, gpu, job, slurm, tpu
from vjax.errors import UserError

CONFIG = 'configs/vivit/moving_digits.py'
# A path that a shell would take apart.
AWKWARD = "/mnt/shared/it's a $HOME; run"
COMMON = ['--name=digits', f'--config={CONFIG}']
DATA = '--config.dataset.path=/mnt/shared/digits'
TPU = [*COMMON, DATA, '--topology=v5e:4x8', '--image=IMAGE', '--storage=gs://my-bucket']
ARGUMENTS = {
    tpu: [*TPU, '--zone=us-west4-a'],
    gke: [*TPU, '--service_account=trainer'],
    slurm: [*COMMON, '--repository=/home/me/vjax', '--nodes=4'],
    gpu: COMMON,
}
LAUNCHERS = list(ARGUMENTS)


def dry_run(launcher, capsys, *more, workdir=AWKWARD):
    assert launcher.main([*ARGUMENTS[launcher], f'--workdir={workdir}', *more, '--dry-run']) == 0
    return capsys.readouterr().out


def gcloud_commands(text):
    """Each command of a dry run, taken apart as a shell would."""
    words, commands = shlex.split(text, comments=True), []
    for word in words:
        if word == 'gcloud':
            commands.append([])
        commands[-1].append(word)
    return commands


def here_document(text):
    """The body of `command <<'WORD'`, which a shell hands on as it is."""
    first, body = text.split('\n', 1)
    word = first.rsplit("'", 2)[1]
    body, end = body.rsplit(f'{word}\n', 1)
    assert not end
    assert word not in body.splitlines()
    return first, body


def parts(flag, words):
    return [word.partition('=')[2] for word in words if word.startswith(f'{flag}=')]


def checked(script):
    subprocess.run(['bash', '-n'], input=script, text=True, check=True)
    return script


# --- What is printed ---


def test_tpu_asks_for_the_slice_and_gives_it_back(capsys):
    create, describe, train, stop, delete = gcloud_commands(dry_run(tpu, capsys, '--spot'))
    assert create[:6] == ['gcloud', 'compute', 'tpus', 'queued-resources', 'create', 'digits']
    assert {
        '--node-id=digits',
        '--zone=us-west4-a',
        '--accelerator-type=v5litepod-32',
        '--runtime-version=v2-alpha-tpuv5-lite',
        '--valid-until-duration=24h',
        '--spot',
    } <= set(create)
    assert describe[-1] == '--format=value(state.state)'
    for command in (train, stop):
        assert command[:6] == ['gcloud', 'compute', 'tpus', 'tpu-vm', 'ssh', 'digits']
        assert '--worker=all' in command
        assert '--ssh-flag=-oServerAliveInterval=60' in command
    assert {'delete', '--force', '--quiet', '--zone=us-west4-a'} <= set(delete)
    assert '--spot' not in dry_run(tpu, capsys)


def test_tpu_quotes_through_both_shells(capsys):
    path = '--config.dataset.path=/mnt/shared/it\'s "b" $x'
    train = gcloud_commands(dry_run(tpu, capsys, path, '--setup=echo "a  b"'))[2]
    bash, flag, script = shlex.split(parts('--command', train)[0])
    assert (bash, flag) == ('bash', '-c')
    lines = checked(script).splitlines()
    assert lines[:2] == ['set -euo pipefail', 'echo "a  b"']
    assert 'gcsfuse' in lines[2]
    assert 'my-bucket /mnt/shared' in lines[2]
    container = shlex.split(lines[-1])
    image = container.index('IMAGE')
    assert container[image + 1 :] == [
        *('python', '-m', 'vjax.train', f'--config={CONFIG}', DATA, path),
        *(f'--workdir={AWKWARD}', '--distributed'),
    ]
    assert {
        '--init',
        '--net=host',
        '--privileged',
        '--rm',
        '--volume=/mnt/shared:/mnt/shared',
    } <= set(container[:image])
    nfs = gcloud_commands(dry_run(tpu, capsys, '--storage=10.0.0.2:/share'))[2]
    assert 'sudo mount -t nfs 10.0.0.2:/share /mnt/shared' in shlex.split(nfs[-1])[2]


@pytest.mark.parametrize(
    ('topology', 'accelerator', 'runtime'),
    [
        ('v5p:4x4x4', 'v5p-128', 'v2-alpha-tpuv5'),  # Cores, two of a chip.
        ('v6e:8x8', 'v6e-64', 'v2-alpha-tpuv6e'),
        ('v5e:1x1', 'v5litepod-1', 'v2-alpha-tpuv5-lite'),
    ],
)
def test_tpu_names_slices_as_gcloud_does(topology, accelerator, runtime, capsys):
    batch = ('--config.batch_size=64', '--config.eval.batch_size=64')
    create = gcloud_commands(dry_run(tpu, capsys, f'--topology={topology}', *batch))[0]
    assert parts('--accelerator-type', create) == [accelerator]
    assert parts('--runtime-version', create) == [runtime]


def manifest(capsys, *more):
    first, body = here_document(dry_run(gke, capsys, *more))
    assert first == "kubectl create --filename=- <<'MANIFEST'"
    return json.loads(body)


def test_gke_manifest(capsys):
    jobset = manifest(capsys, '--spot', '--queue=team')
    assert (jobset['apiVersion'], jobset['kind']) == ('jobset.x-k8s.io/v1alpha2', 'JobSet')
    assert jobset['metadata']['labels'] == {'kueue.x-k8s.io/queue-name': 'team'}
    policy = jobset['spec']['failurePolicy']
    assert policy['maxRestarts'] == 50
    assert policy['rules'][0]['action'] == 'FailJobSet'
    (replicated,) = jobset['spec']['replicatedJobs']
    spec = replicated['template']['spec']
    assert (spec['parallelism'], spec['completions'], spec['backoffLimit']) == (8, 8, 0)
    assert spec['podFailurePolicy']['rules'][0]['onExitCodes']['values'] == [2]
    pod = spec['template']['spec']
    assert pod['restartPolicy'] == 'Never'  # What a podFailurePolicy needs.
    assert pod['serviceAccountName'] == 'trainer'
    assert pod['nodeSelector'] == {
        'cloud.google.com/gke-tpu-accelerator': 'tpu-v5-lite-podslice',
        'cloud.google.com/gke-tpu-topology': '4x8',
        'cloud.google.com/gke-spot': 'true',
    }
    (container,) = pod['containers']
    assert container['env'] == [{'name': 'JAX_PLATFORMS', 'value': 'tpu,cpu'}]
    quoted = AWKWARD.replace('$', '$$')
    assert container['command'][-2:] == [f'--workdir={quoted}', '--distributed']
    assert container['resources'] == {'limits': {'google.com/tpu': 4}}
    (volume,) = pod['volumes']
    assert volume['csi']['volumeAttributes']['bucketName'] == 'my-bucket'
    assert spec['template']['metadata']['annotations'] == {'gke-gcsfuse/volumes': 'true'}


def test_gke_machines_of_other_pools(capsys):
    jobs = {}
    for flags in ('--topology=v5e:2x4 --chips_per_node=8', '--topology=v6e:1x1'):
        spec = manifest(capsys, *flags.split(), '--storage=10.0.0.2:/share')['spec']
        jobs[flags] = spec['replicatedJobs'][0]['template']['spec']
    chips = [
        spec['template']['spec']['containers'][0]['resources']['limits']['google.com/tpu']
        for spec in jobs.values()
    ]
    assert chips == [8, 1]
    assert [spec['completions'] for spec in jobs.values()] == [1, 1]
    volume = jobs[flags]['template']['spec']['volumes'][0]
    assert volume['nfs'] == {'server': '10.0.0.2', 'path': '/share'}


def test_gke_manifest_is_yaml(capsys):
    yaml = pytest.importorskip('yaml')
    _, body = here_document(dry_run(gke, capsys))
    assert yaml.safe_load(body) == json.loads(body)


def test_slurm_script(capsys):
    first, script = here_document(dry_run(slurm, capsys, '--sbatch_flag=--partition=gpu'))
    assert first == "sbatch <<'SCRIPT'"
    lines = checked(script).splitlines()
    flags = [line.removeprefix('#SBATCH ') for line in lines if line.startswith('#SBATCH')]
    assert lines[1 : 1 + len(flags)] == [f'#SBATCH {flag}' for flag in flags]  # Before any command.
    assert {
        *('--nodes=4', '--ntasks-per-node=8', '--gpus-per-node=8', '--requeue'),
        *('--signal=B:USR1@300', '--open-mode=append', '--partition=gpu'),
    } <= set(flags)
    (srun,) = (shlex.split(line) for line in lines if line.startswith('srun'))
    assert srun[srun.index('python') - 1 :] == [
        '$cpus',
        *('python', '-m', 'vjax.train', f'--config={CONFIG}', f'--workdir={AWKWARD}'),
        *('--distributed', '&'),
    ]
    assert 'export JAX_PLATFORMS=cuda,cpu\n' in script
    assert 'JAX_LOCAL_DEVICE_IDS' not in script
    by_node = dry_run(slurm, capsys, '--process_per=node', '--gpus_per_node=4')
    assert '#SBATCH --ntasks-per-node=1\n#SBATCH --gpus-per-node=4\n' in by_node
    assert 'export JAX_LOCAL_DEVICE_IDS=0,1,2,3\n' in by_node


def test_gpu_command(capsys, monkeypatch):
    monkeypatch.delenv('JAX_PLATFORMS', raising=False)
    text = dry_run(gpu, capsys, '--gpus=0,1', '--config.batch_size', '8')
    assert shlex.split(text) == [
        *('JAX_PLATFORMS=cuda,cpu', 'CUDA_VISIBLE_DEVICES=0,1'),
        *('python', '-m', 'vjax.train'),
        *(f'--config={CONFIG}', '--config.batch_size=8', f'--workdir={AWKWARD}'),
    ]


# --- What is refused ---


@pytest.mark.parametrize('launcher', LAUNCHERS)
@pytest.mark.parametrize(
    ('wrong', 'word'),
    [
        ('--name=My_Job', '--name'),
        ('--config=configs/vivit/none.py', '--config'),
        ('--config.batch_sise=8', 'batch_size'),
        ('--workdir=gs://bucket/run', '--workdir'),
        ('--config.dataset.path=gs://bucket/digits', '--config.dataset.path'),
        ('--config.init_from=vit:gs://bucket/B_16.npz', '--config.init_from'),
        ('--config.init_from=vitt:B_16.npz', "did you mean 'vit'"),
        ('--restarts=-1', '--restarts'),
    ],
)
def test_refuses(launcher, wrong, word):
    refused(launcher, wrong, word)


@pytest.mark.parametrize(
    ('launcher', 'wrong', 'word'),
    [
        (tpu, '--topology=v5e:5x5', '4x8'),
        (tpu, '--topology=v9:4x4', 'v5e'),
        (tpu, '--storage=s3://bucket', '--storage'),
        (tpu, '--storage=gs://bucket/folder', '--storage'),
        (tpu, '--workdir=/home/me/run', '--workdir'),
        (tpu, '--workdir=/mnt/shared/../run', '--workdir'),
        (tpu, '--config.dataset.path=data/digits', '--config.dataset.path'),
        (tpu, '--config.init_from=vit:ViT-B_16.npz', '--config.init_from'),
        (tpu, '--config.init_from=vit:/mnt/shared/S.npz,/data/B.npz', "'/data/B.npz'"),
        (
            tpu,
            '--topology=v5e:16x16',
            'config.batch_size=32 cannot be shared evenly by 256 devices',
        ),
        (tpu, '--config.eval.batch_size=8', 'config.eval.batch_size=8'),
        (tpu, '--config.accumulate=2', '32 devices x 2 microbatches'),
        (tpu, '--config.sharding.mesh.fsdp=3', 'config.sharding.mesh'),
        (tpu, '--mount=/mnt/a:b', '--mount'),
        (tpu, '--zone=nowhere', '--zone'),
        (tpu, '--crashes=0', '--crashes'),
        (gke, '--workdir=/mnt/share/run', '--workdir'),
        (gke, '--config.dataset.path=/data/digits', '--config.dataset.path'),
        (gke, '--config.init_from=runs/earlier', '--config.init_from'),
        (gke, '--topology=v6e:8x8', 'config.batch_size=32'),
        (gke, '--service_account=', '--service_account'),
        (gke, '--chips_per_node=8 --topology=v5e:2x2', '--chips_per_node'),
        (slurm, '--workdir=/tmp/run', '--workdir'),
        (slurm, '--workdir=run', '--workdir'),
        (slurm, '--time=soon', '--time'),
        (slurm, '--nodes=0', '--nodes'),
        (slurm, '--nodes=8', 'config.batch_size=32 cannot be shared evenly by 64 devices'),
        (slurm, '--warning=5', '--warning'),
        (slurm, '--sbatch_flag=-p', '--sbatch_flag'),
        (gpu, '--gpus=all', '--gpus'),
    ],
)
def test_refuses_of_its_own(launcher, wrong, word):
    refused(launcher, wrong, word)


def test_takes_what_the_devices_can_share_and_find(capsys):
    start = '--config.init_from=vit:/mnt/shared/S.npz,/mnt/shared/B.npz'
    mesh = ('--config.sharding.mesh.fsdp=4', '--config.sharding.mesh.tensor=8')
    batch = ('--config.batch_size=16', '--config.eval.batch_size=8', '--config.accumulate=2')
    for launcher in (tpu, gke):
        assert start in dry_run(launcher, capsys, start, '--topology=v5e:8x8', *mesh, *batch)
    # Relative to the repository, which all nodes see.
    relative = '--config.init_from=runs/earlier'
    assert relative in dry_run(slurm, capsys, relative, *mesh, *batch, '--nodes=8')


def refused(launcher, wrong, word):
    argv = [*ARGUMENTS[launcher], '--workdir=/mnt/shared/run', '--dry-run', *wrong.split()]
    with pytest.raises(UserError) as caught:
        launcher.main(argv)
    sentence = str(caught.value)
    assert word in sentence
    assert '\n' not in sentence


def test_exit_code_and_one_sentence():
    argv = [*COMMON, '--workdir=/mnt/shared/run', '--gpus=all', '--dry-run']
    module = [sys.executable, '-m', 'experiments.launch.gpu']
    done = subprocess.run([*module, *argv], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, '')
    assert done.stderr == "error: --gpus='all': give numbers of GPUs, as in 0,1.\n"


def test_a_missing_tool_is_named():
    with pytest.raises(UserError, match='no-such-tool is not installed'):
        job.run(['no-such-tool'])


# --- What the TPU launcher does, with a gcloud that plays a part ---

COMMANDS = tpu.Commands(*([name] for name in ('create', 'describe', 'train', 'stop', 'delete')))


class Gcloud:
    """Answers `describe` and `train` from lists, and keeps what was asked of it.

    `failing` has exit codes by command, for the first times; None is Ctrl-C.
    """

    def __init__(self, states, trains=(), **failing):
        self.states, self.asked = iter(states), []
        self.codes = {'train': iter(trains)} | {
            name: iter(codes) for name, codes in failing.items()
        }

    def __call__(self, command, **options):
        name = command[0] if command else 'details'
        done = subprocess.CompletedProcess(command, 0, '', '')
        if name == 'describe':
            state = next(self.states)
            if state in ('NOT_FOUND', 'no network'):
                done.returncode, done.stderr = 1, f'ERROR: {state}: Resource'
            done.stdout = f'{state}\n'
            return done
        self.asked.append(name)
        done.returncode = next(self.codes.get(name, iter(())), 0)
        if done.returncode is None:
            raise KeyboardInterrupt
        return done

    def look_after(self, restarts=5, crashes=3, seconds=1):
        clock = itertools.count(step=seconds).__next__
        return tpu.look_after(
            COMMANDS, restarts, crashes, run=self, sleep=lambda _: None, clock=clock
        )


def test_tpu_trains_and_gives_back():
    gcloud = Gcloud(['NOT_FOUND', 'WAITING_FOR_RESOURCES', 'no network', 'ACTIVE'], [0])
    assert gcloud.look_after() == 0
    assert gcloud.asked == ['create', 'train', 'delete']


def test_tpu_uses_the_slice_that_is_there():
    gcloud = Gcloud(['ACTIVE'], [0])
    assert gcloud.look_after() == 0
    assert gcloud.asked == ['train', 'delete']


def test_tpu_goes_on_after_preemption():
    gcloud = Gcloud(['NOT_FOUND', 'ACTIVE', 'SUSPENDING', 'SUSPENDED', 'ACTIVE'], [255, 0])
    assert gcloud.look_after() == 0
    assert gcloud.asked == ['create', 'train', 'delete', 'create', 'train', 'delete']


def test_tpu_stops_asking():
    gcloud = Gcloud(['NOT_FOUND', 'SUSPENDED', 'SUSPENDED', 'SUSPENDED'])
    with pytest.raises(UserError, match='lost 3 times'):
        gcloud.look_after(restarts=2)
    assert gcloud.asked == ['create', 'delete'] * 3
    failed = Gcloud(['NOT_FOUND', 'FAILED'])
    with pytest.raises(UserError, match='the request failed'):
        failed.look_after()
    assert failed.asked == ['create', 'details', 'delete']


def test_tpu_stops_after_crashes_in_a_row():
    gcloud = Gcloud(itertools.repeat('ACTIVE'), itertools.repeat(1))
    with pytest.raises(UserError, match='failed 3 times in a row'):
        gcloud.look_after()
    assert gcloud.asked == ['train'] * 3 + ['stop', 'delete']
    # Every run lasts two hours: the fifth comes to the end.
    gcloud = Gcloud(itertools.repeat('ACTIVE'), [1, 1, 1, 1, 0])
    assert gcloud.look_after(seconds=7200) == 0


def test_tpu_does_not_ask_again_for_what_somebody_deleted():
    gcloud = Gcloud(['ACTIVE', 'NOT_FOUND', 'NOT_FOUND'], [255])
    with pytest.raises(UserError, match='somebody deleted'):
        gcloud.look_after()
    assert gcloud.asked == ['train']


def test_tpu_saves_and_gives_back_after_ctrl_c():
    gcloud = Gcloud(['ACTIVE'], [None])
    with pytest.raises(KeyboardInterrupt):
        gcloud.look_after()
    assert gcloud.asked == ['train', 'stop', 'delete']
    gcloud = Gcloud(['NOT_FOUND'], create=[None])
    with pytest.raises(KeyboardInterrupt):
        gcloud.look_after()
    assert gcloud.asked == ['create', 'delete']  # The request may have arrived.


def test_tpu_waits_for_a_slice_that_is_going():
    """The one of an earlier launcher; but a slice of our own that goes was deleted by somebody."""
    gcloud = Gcloud(['DELETING', 'DELETING', 'NOT_FOUND', 'ACTIVE'], [0])
    assert gcloud.look_after() == 0
    assert gcloud.asked == ['create', 'train', 'delete']
    gcloud = Gcloud(['NOT_FOUND', 'CREATING', 'DELETING', 'NOT_FOUND'])
    with pytest.raises(UserError, match='somebody deleted'):
        gcloud.look_after()
    assert gcloud.asked == ['create']


@pytest.mark.parametrize(
    ('after', 'deletes'),
    [
        (['no network', 'SUSPENDED'], 2),
        (['DELETING', 'NOT_FOUND'], 1),  # The order has arrived.
        (['NOT_FOUND'], 1),
    ],
)
def test_tpu_deletes_what_was_lost_though_gcloud_fails(after, deletes):
    states = ['NOT_FOUND', 'ACTIVE', 'SUSPENDED', 'SUSPENDED', *after, 'ACTIVE']
    gcloud = Gcloud(states, [255, 0], delete=[1])
    assert gcloud.look_after(restarts=1) == 0
    assert gcloud.asked == [
        *('create', 'train', *['delete'] * deletes),
        *('create', 'train', 'delete'),
    ]


def test_tpu_does_not_delete_for_ever():
    states = ['NOT_FOUND', *['SUSPENDING'] * 10]
    gcloud = Gcloud(
        itertools.chain(states, itertools.repeat('SUSPENDED')), delete=itertools.repeat(1)
    )
    with pytest.raises(UserError, match='could not delete the lost slice, 5 times'):
        gcloud.look_after()
    assert gcloud.asked[:16] == ['create', *['delete'] * 15]


def test_tpu_counts_failed_deletes_of_each_slice_by_itself():
    lost = ['NOT_FOUND', *['SUSPENDED'] * 4]  # Somebody else's order was heard, then.
    gcloud = Gcloud([*lost, *lost, 'NOT_FOUND', 'ACTIVE'], [0], delete=[1] * 8)
    assert gcloud.look_after(restarts=2) == 0
    assert gcloud.asked.count('create') == 3


def test_tpu_asks_again_though_gcloud_fails():
    """Every time that the slice was lost, and however often it is tried for one."""
    lost = ['NOT_FOUND', 'no network', 'NOT_FOUND', 'SUSPENDED']
    gcloud = Gcloud([*lost, 'NOT_FOUND', 'ACTIVE'], [0], create=[1, 0, 1, 0])
    assert gcloud.look_after(restarts=1) == 0
    assert gcloud.asked == [
        *('create', 'create', 'delete'),
        *('create', 'create', 'train', 'delete'),
    ]
    # The request has arrived, for all that gcloud says.
    gcloud = Gcloud(['NOT_FOUND', 'WAITING_FOR_RESOURCES', 'ACTIVE'], [0], create=[1])
    assert gcloud.look_after(restarts=0) == 0
    assert gcloud.asked == ['create', 'train', 'delete']
    gcloud = Gcloud(['NOT_FOUND', 'SUSPENDED'], create=[1])
    with pytest.raises(UserError, match='lost 1 times'):
        gcloud.look_after(restarts=0)


def test_tpu_gives_back_what_may_have_come():
    gcloud = Gcloud(itertools.repeat('NOT_FOUND'), create=itertools.repeat(1))
    with pytest.raises(UserError, match='could not ask for the slice, 5 times'):
        gcloud.look_after()
    assert gcloud.asked == ['create'] * 5 + ['delete']


@pytest.mark.parametrize(
    ('after', 'deletes'),
    [(['no network', 'ACTIVE'], [1, 1, 0]), (['NOT_FOUND'], [1]), (['ACTIVE'] * 5, [1] * 5)],
)
def test_tpu_gives_back_though_gcloud_fails(after, deletes, capsys):
    gcloud = Gcloud(['ACTIVE', *after], [0], delete=deletes)
    assert gcloud.look_after() == 0
    assert gcloud.asked == ['train'] + ['delete'] * len(deletes)
    assert ('BILLED' in capsys.readouterr().out) == (len(deletes) == 5)


# --- What the batch script does, with a SLURM that plays a part ---


def batch(tmp_path, capsys, srun, **environment):
    """Runs the script of a dry run; returns its exit code and what the tools were asked."""
    tools = tmp_path / 'bin'
    tools.mkdir()
    bodies = {
        'srun': srun,
        # Signals every process of the step once, and the shell not at all.
        'scancel': 'echo "scancel $*" >>"$ASKED"; kill -TERM "$(cat "$STEP")"',
        'scontrol': 'echo "scontrol $*" >>"$ASKED"',
    }
    for name, body in bodies.items():
        (tools / name).write_text(f'#!/usr/bin/env bash\n{body}\n')
        (tools / name).chmod((tools / name).stat().st_mode | stat.S_IXUSR)
    arguments = ['--setup=:', f'--repository={tmp_path}', '--restarts=2']
    _, script = here_document(dry_run(slurm, capsys, *arguments))
    asked = tmp_path / 'asked'
    asked.touch()
    known = {'PATH': f'{tools}:{os.environ["PATH"]}', 'SLURM_JOB_ID': '7', 'ASKED': str(asked)}
    known['STEP'] = str(tmp_path / 'step')
    done = subprocess.run(
        ['bash', '-c', script], env=known | environment, capture_output=True, text=True, timeout=60
    )
    return done.returncode, asked.read_text().splitlines()


# The step warns its own batch shell, as SLURM would, and saves when it is told to end.
WARNED = """
trap 'exit 143' TERM
echo $$ >"$STEP"
kill -USR1 $PPID
for _ in $(seq 100); do sleep 0.1; done
"""


def test_slurm_queues_again_after_a_warning(tmp_path, capsys):
    code, asked = batch(tmp_path, capsys, WARNED)
    assert code == 143
    assert asked == ['scancel --signal=TERM 7', 'scontrol requeue 7']


def test_slurm_stops_queueing(tmp_path, capsys):
    code, asked = batch(tmp_path, capsys, WARNED, SLURM_RESTART_COUNT='2')
    assert code == 1
    assert asked == ['scancel --signal=TERM 7']


@pytest.mark.parametrize('code', [0, 1, 2, 143])
def test_slurm_leaves_it_at_that(code, tmp_path, capsys):
    """Done, crashed, wrong, or cancelled: the last is SIGTERM without a warning."""
    assert batch(tmp_path, capsys, f'exit {code}') == (code, [])


def test_slurm_is_done_though_warned(tmp_path, capsys):
    code, asked = batch(tmp_path, capsys, WARNED.replace('exit 143', 'exit 0'))
    assert (code, asked) == (0, ['scancel --signal=TERM 7'])


# --- What the launcher of one node does ---


def child(tmp_path, body):
    """A command that runs `body`, which has the number of its start as `start`."""
    count = tmp_path / 'starts'
    count.write_text('0')
    head = f'import pathlib, signal, sys, time\ncount = pathlib.Path({str(count)!r})\n'
    head += 'start = int(count.read_text()) + 1\ncount.write_text(str(start))\n'
    return [sys.executable, '-c', head + body], lambda: int(count.read_text())


@pytest.mark.parametrize(
    ('body', 'code', 'starts'),
    [
        ('sys.exit(start < 3)', 0, 3),
        ('sys.exit(1)', 1, 3),
        ('sys.exit(2)', 2, 1),
        ('sys.exit(143)', 143, 1),
        ('signal.raise_signal(signal.SIGKILL)', 137, 3),
    ],
)
def test_gpu_starts_again_after_a_crash(body, code, starts, tmp_path):
    command, started = child(tmp_path, body)
    assert gpu.keep_running(command, dict(os.environ), restarts=2, pause=0) == code
    assert started() == starts


def test_gpu_hands_sigterm_on_once(tmp_path):
    ready = tmp_path / 'ready'
    body = f"""
got = []
signal.signal(signal.SIGTERM, lambda *_: got.append(1))
pathlib.Path({str(ready)!r}).touch()
while not got:
    time.sleep(0.05)
time.sleep(1)  # A second signal would come meanwhile.
sys.exit(143 if len(got) == 1 else 1)
"""
    command, started = child(tmp_path, body)

    def terminate():
        while not ready.exists():
            threading.Event().wait(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=terminate)
    thread.start()
    assert gpu.keep_running(command, dict(os.environ), restarts=2, pause=0) == 143
    thread.join()
    assert started() == 1
    assert signal.getsignal(signal.SIGTERM) == before
