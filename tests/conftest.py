"""Settings that every test shares."""

import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile

os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')
# Tolerances are those of float32 on a CPU, and GPUs are too few to share.
os.environ.setdefault('JAX_PLATFORMS', 'cpu')
# Sharding tests want eight devices; they must be asked for before jax starts.
os.environ['XLA_FLAGS'] = ' '.join(
    [
        os.environ.get('XLA_FLAGS', ''),
        '--xla_force_host_platform_device_count=8',
        # Most of a test's time is compilation, which these halve.
        '--xla_backend_optimization_level=0',
        '--xla_cpu_use_fusion_emitters=false',
        '--xla_cpu_parallel_codegen_split_count=1',
    ]
)
# Many tests compile the same step; all workers, and the processes that tests start, share it.
if 'JAX_COMPILATION_CACHE_DIR' not in os.environ:
    _CACHE = tempfile.TemporaryDirectory(prefix='vjax-tests-')
    os.environ['JAX_COMPILATION_CACHE_DIR'] = _CACHE.name
    os.environ['JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'] = '0.1'

# Those without a use are here to be loaded before vjax: what it imports while its types are being checked
# is compiled from source, which takes ten seconds.
import beartype  # noqa: F401
import flax.linen  # noqa: F401
import jax
import matplotlib.figure  # noqa: F401
import numpy as np
import optax  # noqa: F401
import orbax.checkpoint  # noqa: F401
import pytest
import scipy.stats  # noqa: F401
import tensorflow  # noqa: F401

from vjax import cli, describe, train
from vjax import config as configs
from vjax.data import moving_digits, records, stores
from vjax.prepare import prepare
from vjax.reports.contents import Contents, Evidence
from vjax.training import metrics
from vjax.training.interruption import Interruption

ROOT = pathlib.Path(__file__).parents[1]

jax.config.update('jax_numpy_rank_promotion', 'raise')


@pytest.fixture(scope='session')
def digits(tmp_path_factory):
    """A few moving digits, rendered to mp4 files and prepared: the folder of the data set."""
    folder = tmp_path_factory.mktemp('digits')
    counts = {'num_train': 48, 'num_validation': 12, 'num_test': 12}
    moving_digits.generate(folder / 'videos', **counts, workers=1)
    for split in ('train', 'validation', 'test'):
        videos = folder / 'videos'
        prepare(videos, videos / f'{split}.csv', folder / 'set', split, short_side=48, workers=1)
    return folder / 'set'


@pytest.fixture(scope='session')
def trained(digits, tmp_path_factory):
    """A small ViViT after two steps on them: its workdir, whose checkpoint and config stay as they are."""
    workdir = tmp_path_factory.mktemp('trained')
    overrides = [f'--config.dataset.path={digits}', '--config.optimizer.learning_rate=0.01']
    train.train(cli.load_config('configs/vivit/moving_digits.py:tiny', overrides), workdir)
    return workdir


@pytest.fixture(scope='session')
def contents_of_guesses(digits):
    """Makes the contents of a page from heads and their classes: of a run that guesses the digits."""
    dataset = records.open_dataset(digits)
    store = stores.open_store(dataset, 'validation')
    config = configs.resolve(cli.load_config('configs/vivit/moving_digits.py:tiny', []), dataset)
    costs = describe.describe(config)

    def contents(classes, *, multi_label=False, **changes):
        rng = np.random.default_rng(0)
        config.loss.name = 'sigmoid' if multi_label else 'softmax'
        kind = configs.classification(config, classes, multi_label)
        sizes = list(kind.heads.values())
        label = np.stack([np.arange(12) % size for size in sizes], axis=1)
        if multi_label:
            label = rng.integers(2, size=(12, *sizes))
        logits = rng.normal(size=(12, sum(sizes))).astype(np.float32)
        found = metrics.Outputs(logits, rng.random(12).astype(np.float32), label, np.arange(12))
        how = {'views': '1x1', 'split': 'validation', 'step': 2, 'overrides': []}
        how |= {'dataset': str(digits), 'fingerprint': 'f', 'num_undecodable': 0}
        result = metrics.scores(kind, found) | how
        entries = [{'step': i, 'train/loss': 1 / i, 'clips_per_second': 9.0} for i in (1, 2)]
        whole = Contents(
            workdir='runs/guesses',
            about={
                'config': configs.recipe('', config)['config'],
                'classes': records.plain_classes(classes),
                'multi_label': multi_label,
                'fingerprint': 'f',
                'settings': dataset.settings,
            },
            entries=[*entries, {'step': 2, 'validation/loss': 0.5, 'validation/num_videos': 12}],
            environment={},
            costs=costs,
            evidence=Evidence(found, result, kind, store),
            missing='',
            made='',
        )
        return whole._replace(**changes)

    return contents


@pytest.fixture
def start_processes():
    """Starts processes of Python that can find each other; those that a test leaves behind are killed.

    Of each `arguments(address, number)` makes the arguments; the address is a free one of the loopback.
    Each has one device. What else `subprocess.Popen` takes is handed on.
    """
    started = []

    def start(count, arguments, **how):
        with socket.socket() as free:
            free.bind(('localhost', 0))
            address = f'localhost:{free.getsockname()[1]}'
        environment = {name: x for name, x in os.environ.items() if name != 'XLA_FLAGS'}
        environment |= {'JAX_PLATFORMS': 'cpu'}
        how |= {'cwd': ROOT, 'env': environment, 'text': True}
        own = [
            subprocess.Popen([sys.executable, *arguments(address, i)], **how) for i in range(count)
        ]
        started.extend(own)
        return own

    yield start
    for process in started:
        process.kill()
        process.wait()


@pytest.fixture
def stop_after_three(monkeypatch):
    """Every training stops in its third step as if by SIGTERM, until `monkeypatch.undo()`."""

    class StopAfterThree(Interruption):
        checks = 0

        @property
        def signal(self):
            self.checks += 1
            return signal.SIGTERM if self.checks >= 3 else None

        @signal.setter
        def signal(self, _):
            pass

    monkeypatch.setattr(train, 'Interruption', StopAfterThree)
