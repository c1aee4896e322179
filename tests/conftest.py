"""Settings that every test shares."""

import os
import signal
import tempfile

os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')
# Sharding tests want eight devices; they must be asked for before jax starts.
os.environ['XLA_FLAGS'] = ' '.join(
    [
        os.environ.get('XLA_FLAGS', ''),
        '--xla_force_host_platform_device_count=8',
        # Most of a test's time is compilation.
        '--xla_backend_optimization_level=0',
    ]
)

import jax
import pytest

from vjax import train
from vjax.data import moving_digits
from vjax.prepare import prepare
from vjax.training.interruption import Interruption

jax.config.update('jax_numpy_rank_promotion', 'raise')
# Many tests compile the same step; they share it within one session.
_CACHE = tempfile.TemporaryDirectory(prefix='vjax-tests-')
jax.config.update('jax_compilation_cache_dir', _CACHE.name)
jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.1)


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
