"""Results of earlier plans: a JSON file for each, named by all that a plan depends on."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import jax

import vjax
from vjax.data.records import write_atomically
from vjax.training import reporting

# What the compiled step is made of, and the estimate; the rest of vjax may change.
SOURCES = (
    'models',
    'training/assembly.py',
    'training/losses.py',
    'training/optimizer.py',
    'training/rules.py',
    'training/sharding.py',
    'training/step.py',
    'planning/checks.py',
    'planning/compiled.py',
    'planning/estimate.py',
    'planning/hlo.py',
    'planning/topology.py',
    'data/augment',
    'data/geometry.py',
    'axes.py',
    'devices.py',
)
PACKAGES = ('jax', 'jaxlib', 'libtpu', 'flax', 'optax')
# Of the environment: what compilers take options from.
FLAGS = ('LIBTPU_INIT_ARGS', 'XLA_FLAGS')
# Of jax: what makes another program of the same sources.
OPTIONS = (
    'jax_default_matmul_precision',
    'jax_default_prng_impl',
    'jax_enable_x64',
    'jax_threefry_partitionable',
)


def default_folder() -> Path:
    """Where results are kept: vjax/plan in the user's cache."""
    return Path(os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache') / 'vjax' / 'plan'


def versions() -> dict[str, str | None]:
    """Of the packages a plan depends on; None of one that is not installed."""
    return reporting.versions(PACKAGES)


def key(**what: Any) -> str:
    """A name for the result of a plan of `what`, a JSON value, by these sources, packages and flags."""
    flags = {name: os.environ[name] for name in FLAGS if os.environ.get(name)}
    flags |= {name: str(getattr(jax.config, name)) for name in OPTIONS}
    whole = json.dumps([what, edition(), flags], sort_keys=True)
    return hashlib.sha256(whole.encode()).hexdigest()[:32]


def edition() -> str:
    """Names the sources and packages that plans are made with: another name, perhaps other plans."""
    digest = hashlib.sha256(json.dumps(versions(), sort_keys=True).encode())
    root = Path(vjax.__file__).parent
    for source in SOURCES:
        path = root / source
        for file in sorted(path.rglob('*.py')) if path.is_dir() else [path]:
            digest.update(str(file.relative_to(root)).encode() + b'\0' + file.read_bytes())
    return digest.hexdigest()[:32]


def read(folder: Path, name: str) -> dict[str, Any] | None:
    """The result of that name; None where there is none, or half of one."""
    try:
        return json.loads((folder / f'{name}.json').read_text(encoding='utf-8'))
    except (FileNotFoundError, ValueError):
        return None


def write(folder: Path, name: str, result: dict[str, Any]) -> None:
    """Keeps a result; a reader sees all of it or nothing."""
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / f'{name}.json', json.dumps(result))
