"""Evaluation by two processes, whose devices are not side by side in the mesh, as on TPUs."""

import json
import subprocess

import pytest

HOST = """
import json, sys
import jax

address, host, num_hosts = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
jax.config.update('jax_num_cpu_devices', 2)
if num_hosts > 1:
    jax.distributed.initialize(address, num_hosts, host)

import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh
from vjax.training import evaluation, feeding, metrics, sharding
from vjax.training.losses import Classification
from vjax.training.step import make_eval_step

NUM, BATCH = 37, 8


class Model:
    def apply(self, variables, video):
        return jnp.mean(video, axis=(1, 2, 3)) @ variables['params']


def batches(video, label):
    for start in range(0, NUM, BATCH):
        index = start + feeding.rows_of_batch(mesh, BATCH)
        real = index < NUM
        place = np.where(real, index, 0)
        mask = real.astype(np.float32)
        yield {'video': video[place], 'label': label[place], 'mask': mask, 'index': index}


rng = np.random.default_rng(0)
video = rng.integers(0, 256, (NUM, 2, 2, 4, 4, 3)).astype(np.uint8)
of_hosts = np.array(jax.devices()).reshape(num_hosts, -1)
mesh = Mesh(of_hosts.T.flatten(), ('data',), axis_types=(AxisType.Auto,))
params = rng.normal(scale=9, size=(3, 6)).astype(np.float32)
params = jax.device_put(params, sharding.replicated(mesh))
for classification, label in (
    (Classification({'label': 6}, 'softmax', 0.1), rng.integers(0, 6, (NUM, 1))),
    (Classification({'label': 6}, 'sigmoid', 0.1, True), rng.integers(0, 2, (NUM, 6))),
):
    step = make_eval_step(Model(), classification)
    step = jax.jit(step, out_shardings=sharding.replicated(mesh))
    found = batches(video, label.astype(np.int32))
    with jax.set_mesh(mesh):
        print(json.dumps(evaluation.evaluate(step, params, found, mesh, classification)))
"""


@pytest.fixture
def evaluate_on(start_processes):
    """What each of several hosts prints: the scores of one class and those of several labels."""

    def evaluate_on(num_hosts):
        hosts = start_processes(
            num_hosts,
            lambda address, host: ['-c', HOST, address, f'{host}', f'{num_hosts}'],
            stdout=subprocess.PIPE,
        )
        printed = [host.communicate(timeout=120)[0].splitlines() for host in hosts]
        return [[json.loads(line) for line in lines if line.startswith('{')] for lines in printed]

    return evaluate_on


@pytest.mark.slow
def test_two_hosts_score_as_one(evaluate_on):
    (alone,) = evaluate_on(1)
    one, other = evaluate_on(2)
    assert [scores['num_videos'] for scores in alone] == [37, 37]
    # Every host has all outputs, so their scores are the same to the bit.
    assert one == other
    for ours, theirs in zip(one, alone, strict=True):
        # The logits are float32: with other shapes on a device they are rounded otherwise.
        assert ours == pytest.approx(theirs, abs=1e-6)
        for exact in ('top1', 'top5', 'mean_class_accuracy', 'mAP', 'exact_match'):
            assert ours.get(exact) == theirs.get(exact)
