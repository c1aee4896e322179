"""Settings that every test shares."""

import os

os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')
# Sharding tests want eight devices; they must be asked for before jax starts.
os.environ['XLA_FLAGS'] = os.environ.get('XLA_FLAGS', '') + ' --xla_force_host_platform_device_count=8'

import jax  # noqa: E402

jax.config.update('jax_numpy_rank_promotion', 'raise')
