"""Training by several processes, as on several hosts, over the loopback."""

import json
import re
import signal
import subprocess
import time

import jax
import numpy as np
import pytest

from vjax.errors import UserError, explanation
from vjax.training import processes, reporting, runs
from vjax.training.checkpoints import Checkpoints

# Plain SGD at a low rate: Adam turns rounding in a gradient near zero into a whole step, and ten times the
# rate doubles a difference every few steps.
SETTINGS = ('optimizer.name=sgd', 'optimizer.learning_rate=0.005', 'log_every=1', 'batch_size=16')


@pytest.fixture
def start(start_processes):
    """Starts processes that train together; each has one device."""

    def start(count, workdir, dataset, *overrides, num_steps=6):
        def arguments(address, i):
            return [
                *('-m', 'vjax.train', '--config=configs/vivit/moving_digits.py:tiny'),
                *(f'--workdir={workdir}', f'--config.dataset.path={dataset}'),
                *(f'--config.num_steps={num_steps}', '--config.eval.every=0'),
                *(f'--config.{override}' for override in (*SETTINGS, *overrides)),
                *([f'--distributed={address},{i},{count}'] if count > 1 else []),
            ]

        return start_processes(count, arguments, stderr=subprocess.PIPE)

    return start


def ended(started, timeout=240):
    """Exit codes and what was said."""
    said = [process.communicate(timeout=timeout)[1] for process in started]
    return [process.returncode for process in started], said


def losses(workdir):
    """The training loss of each step."""
    lines = reporting.read_metrics(workdir)
    return [line['train/loss'] for line in lines if 'train/loss' in line]


def reaches(workdir, step):
    """Waits until a step was reported."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if len(losses(workdir)) >= step:
            return
        time.sleep(0.1)
    raise TimeoutError(f'step {step} was not reached')


def assert_same_params(one, other, tolerance):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=tolerance),
        jax.device_get(runs.load_run(one).params),
        jax.device_get(runs.load_run(other).params),
    )


@pytest.mark.slow
def test_two_processes_train_as_one(start, digits, tmp_path):
    # The second run also saves whenever the clock of the first process says so: after every other step,
    # because the others have to hear of it.
    saves = {
        1: (),
        2: ('checkpoint.every=100', 'checkpoint.minutes=1e-6', 'checkpoint.keep_last=9'),
    }
    for count, settings in saves.items():
        codes, said = ended(start(count, tmp_path / f'{count}', digits, *settings, num_steps=4))
        assert codes == [0] * count, said
    assert Checkpoints(tmp_path / '2').steps == [2, 4]
    assert losses(tmp_path / '2') == pytest.approx(losses(tmp_path / '1'), abs=1e-5)
    assert_same_params(tmp_path / '1', tmp_path / '2', 1e-6)
    assert said[1] == ''  # The first speaks for all.


@pytest.mark.slow
def test_four_processes_train_as_one(start, digits, tmp_path):
    sharded = ('sharding.preset=fsdp', 'sharding.mesh.fsdp=2')
    ended(start(1, tmp_path / '1', digits, num_steps=20))
    codes, said = ended(start(4, tmp_path / '4', digits, *sharded, num_steps=20))
    assert codes == [0] * 4, said
    assert losses(tmp_path / '4') == pytest.approx(losses(tmp_path / '1'), abs=1e-5)
    assert_same_params(tmp_path / '1', tmp_path / '4', 1e-6)


@pytest.mark.slow
def test_a_signal_to_one_stops_all_and_another_number_goes_on(start, digits, tmp_path):
    ended(start(1, tmp_path / 'straight', digits, num_steps=40))
    together = start(2, tmp_path / 'stopped', digits, num_steps=40)
    reaches(tmp_path / 'stopped', 3)
    together[1].send_signal(signal.SIGTERM)
    codes, said = ended(together)
    assert codes == [143, 143], said
    assert len(losses(tmp_path / 'stopped')) < 40
    assert 'SIGTERM at step' in said[0]
    sharded = ('sharding.preset=fsdp', 'sharding.mesh.fsdp=4')
    assert ended(start(4, tmp_path / 'stopped', digits, *sharded, num_steps=40))[0] == [0] * 4
    assert losses(tmp_path / 'stopped') == pytest.approx(losses(tmp_path / 'straight'), abs=1e-5)
    assert_same_params(tmp_path / 'straight', tmp_path / 'stopped', 1e-6)


@pytest.mark.slow
def test_a_signal_ends_an_evaluation_that_is_done_later(start, digits, tmp_path):
    settings = ('eval.every=1', 'eval.batch_size=2', 'eval.views=4x3')
    together = start(2, tmp_path, digits, *settings, num_steps=1)
    reaches(tmp_path, 1)
    together[1].send_signal(signal.SIGTERM)
    codes, said = ended(together)
    assert codes == [143, 143], said
    assert Checkpoints(tmp_path).about(1)['owes_evaluation']
    assert not any('validation/loss' in line for line in reporting.read_metrics(tmp_path))
    codes, said = ended(start(2, tmp_path, digits, *settings, num_steps=1))
    assert codes == [0, 0], said
    assert not Checkpoints(tmp_path).about(1)['owes_evaluation']
    assert [
        line['step'] for line in reporting.read_metrics(tmp_path) if 'validation/loss' in line
    ] == [1]


def test_without_the_accelerators_that_are_asked_for_nothing_starts(monkeypatch):
    monkeypatch.setenv('JAX_PLATFORMS', 'cuda,cpu')
    with pytest.raises(UserError, match=r"asks for cuda, and jax finds none .*'vjax\[gpu\]'"):
        processes.join(None)
    monkeypatch.setenv('JAX_PLATFORMS', 'cpu')
    processes.join(None)


@pytest.mark.slow
def test_two_processes_evaluate_as_one(start, start_processes, digits, tmp_path):
    assert ended(start(1, tmp_path, digits, num_steps=2))[0] == [0]
    found = {}
    for count in (1, 2):
        file = tmp_path / f'{count}.json'

        def arguments(address, i, count=count, file=file):
            own = [f'--workdir={tmp_path}', '--views=2x3', '--batch_size=4', f'--out={file}']
            several = [f'--distributed={address},{i},{count}'] if count > 1 else []
            return ['-m', 'vjax.evaluate', *own, *several]

        codes, said = ended(start_processes(count, arguments, stderr=subprocess.PIPE))
        assert codes == [0] * count, said
        found[count] = json.loads(file.read_text())
    assert found[1]['num_videos'] == 12
    numbers = {name: value for name, value in found[1].items() if isinstance(value, float)}
    assert {name: found[2][name] for name in numbers} == pytest.approx(numbers, abs=1e-6)


JOINS = """
import os, signal, sys, time
from vjax.training import processes
processes.join(sys.argv[1])
os.kill(os.getpid(), signal.SIGTERM)
time.sleep(5)
print('still there')
"""


def test_a_signal_ends_a_process_that_has_not_begun_to_train(start_processes):
    how = {'stdout': subprocess.PIPE, 'stderr': subprocess.PIPE}
    started = start_processes(1, lambda address, i: ['-c', JOINS, f'{address},{i},1'], **how)
    assert started[0].communicate(timeout=60)[0] == ''
    assert started[0].returncode == -signal.SIGTERM


def test_too_little_memory_is_no_loss_of_the_others():
    full = jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: Used 18.2G of 15.7G hbm.')
    assert not processes.lost_others(full)
    assert re.search(r'does not fit.*18\.2G of 15\.7G.*accumulate', explanation(full))
    for said in ('UNAVAILABLE: no heartbeat', 'ABORTED: connection closed'):
        assert processes.lost_others(jax.errors.JaxRuntimeError(said))
        assert explanation(jax.errors.JaxRuntimeError(said)) is None
    assert processes.lost_others(ValueError('Gloo AllReduce failed'))
    assert not processes.lost_others(jax.errors.JaxRuntimeError('INTERNAL: a bug'))


@pytest.mark.slow
def test_ctrl_c_in_one_before_the_first_step_ends_all(start, digits, tmp_path):
    together = start(2, tmp_path, digits, num_steps=1000)
    deadline = time.monotonic() + 120
    while not (tmp_path / '.lock').exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    together[1].send_signal(signal.SIGINT)
    codes, said = ended(together, timeout=120)
    assert codes[1] == 130
    assert codes[0] not in (0, None)
    assert said[1].endswith('interrupted\n')


@pytest.mark.slow
def test_processes_without_a_common_folder_are_refused(start_processes, digits, tmp_path):
    def arguments(address, i):
        return [
            *('-m', 'vjax.train', '--config=configs/vivit/moving_digits.py:tiny'),
            *(f'--workdir={tmp_path}/{i}', f'--config.dataset.path={digits}'),
            *('--config.num_steps=2', f'--distributed={address},{i},2'),
        ]

    codes, said = ended(start_processes(2, arguments, stderr=subprocess.PIPE))
    assert codes == [2, 2]
    assert 'is another folder for process 1 than for process 0: give one' in said[0]


@pytest.mark.slow
def test_the_other_ends_when_one_is_killed(start, digits, tmp_path):
    settings = ('checkpoint.every=2',)
    together = start(2, tmp_path, digits, *settings, num_steps=100)
    reaches(tmp_path, 5)
    together[1].kill()
    codes, said = ended(together, timeout=120)
    assert codes[1] == -signal.SIGKILL
    assert codes[0] not in (0, None)
    assert said[0].strip()
    codes, said = ended(start(2, tmp_path, digits, *settings, num_steps=100))
    assert codes == [0, 0], said


@pytest.mark.parametrize('where', ['10.0.0.2', '10.0.0.2:1,0', '10.0.0.2:1,a,2', 'host,0,2'])
def test_an_address_that_cannot_be_read_is_refused(where):
    with pytest.raises(UserError, match='give HOST:PORT of the first process'):
        processes.join(where)


def test_a_number_out_of_range_is_refused():
    with pytest.raises(UserError, match=r'is one of 0 \.\. 1\.'):
        processes.join('10.0.0.2:1,2,2')
