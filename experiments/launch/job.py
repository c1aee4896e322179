"""What the launchers share: arguments, checks that cost nothing on the desk, the training command."""

import argparse
import contextlib
import math
import os
import posixpath
import re
import shlex
import signal
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import ml_collections
from jax.sharding import AbstractMesh

from vjax import cli, weights
from vjax import config as configs
from vjax.data import tfds
from vjax.errors import UserError
from vjax.training import sharding

# Labels in DNS have 63 characters, and Kubernetes appends to a name.
NAME = re.compile(r'[a-z]([a-z0-9-]{0,38}[a-z0-9])?')
BUCKET = re.compile(r'gs://([a-z0-9][a-z0-9._-]{1,61}[a-z0-9])/?')
EXPORT = re.compile(r'([A-Za-z0-9][A-Za-z0-9.-]*):(/(?:[^/,\s][^,\s]*)?)')
# What jax is to find, as JAX_PLATFORMS: else a machine without would go on with its processor.
GPUS, TPUS = 'cuda,cpu', 'tpu,cpu'
# Gone with the machine, or with its next start.
LOCAL = ('/tmp', '/var/tmp', '/dev/shm', '/run')

_FLAT = ('1x1', '2x2', '2x4', '4x4', '4x8', '8x8', '8x16', '16x16')
_CUBES = (
    '2x2x1',
    '2x2x2',
    '2x2x4',
    '2x4x4',
    '4x4x4',
    '4x4x8',
    '4x4x12',
    '4x8x8',
    '4x4x20',
    '4x8x12',
    '4x4x28',
    '8x8x8',
)


@dataclass(frozen=True)
class Generation:
    """How Google's tools call one generation of TPUs.

    Attributes:
        accelerator: of `--accelerator-type`, before the size.
        size_per_chip: what that size counts: chips, or cores.
        runtime: of `--runtime-version`, for JAX.
        label: of GKE's nodes.
        topologies: the slices there are; one for each number of chips, so that a size names one.
    """

    accelerator: str
    size_per_chip: int
    runtime: str
    label: str
    topologies: tuple[str, ...]


GENERATIONS = {
    'v5e': Generation('v5litepod', 1, 'v2-alpha-tpuv5-lite', 'tpu-v5-lite-podslice', _FLAT),
    'v5p': Generation('v5p', 2, 'v2-alpha-tpuv5', 'tpu-v5p-slice', _CUBES),
    'v6e': Generation('v6e', 1, 'v2-alpha-tpuv6e', 'tpu-v6e-slice', _FLAT),
}


@dataclass(frozen=True)
class Slice:
    """A slice of TPUs: a generation, its shape ('4x8') and the number of chips."""

    generation: Generation
    shape: str
    chips: int

    @property
    def accelerator_type(self) -> str:
        """As gcloud calls it: 'v5litepod-32'."""
        return f'{self.generation.accelerator}-{self.chips * self.generation.size_per_chip}'


@dataclass(frozen=True)
class Storage:
    """Storage that all machines see: a bucket, or a folder exported by an NFS server."""

    bucket: str = ''
    server: str = ''
    path: str = ''


def parser(
    doc: str | None, *, restarts: int, restarts_help: str = 'after so many it stays down'
) -> argparse.ArgumentParser:
    """A parser with the arguments that every launcher takes.

    Args:
        doc: of the launcher's module.
        restarts: the default of `--restarts`.
        restarts_help: what they count.
    """
    result = cli.parser(doc)
    cli.add_config(result)
    result.add_argument('--name', required=True, help='of the job: small letters, digits, hyphens')
    result.add_argument(
        '--workdir',
        required=True,
        help='folder of the run, on storage that outlives the machines; the same one resumes it',
    )
    result.add_argument(
        '--restarts', type=int, default=restarts, help=f'{restarts_help} (%(default)s)'
    )
    result.add_argument(
        '--dry-run', action='store_true', help='print what would be run, and run nothing'
    )
    return result


def add_containers(parser: argparse.ArgumentParser) -> None:
    """Adds what jobs in containers on TPUs take."""
    parser.add_argument(
        '--topology', required=True, help='generation and shape of the slice, as in v5e:4x8'
    )
    parser.add_argument('--image', required=True, help='built of experiments/launch/Dockerfile')
    parser.add_argument(
        '--storage', required=True, help='gs://BUCKET, or HOST:/FOLDER of an NFS server'
    )
    parser.add_argument(
        '--mount', default='/mnt/shared', help='where every machine sees it (%(default)s)'
    )
    parser.add_argument('--spot', action='store_true', help='cheaper chips that can be taken away')


def parse(parser: argparse.ArgumentParser, argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """Parses and checks the arguments that every launcher takes.

    The config is loaded and checked here: a misspelt key shall not cost a minute of a pod.

    Returns:
        The arguments, with the loaded config as `settings` and as `paths` what the run reads and writes,
        after the option that names it; and the command that trains in one process.

    Raises:
        UserError: an argument cannot be right.
    """
    args, overrides = cli.parse_args(parser, argv)
    if not NAME.fullmatch(args.name):
        raise UserError(
            f"--name='{args.name}': use up to 40 small letters, digits and hyphens, a letter first."
        )
    if os.path.isabs(args.config):
        raise UserError(
            f'--config={args.config}: give a path from the root of the repository, as the machines have it.'
        )
    config = cli.load_config(args.config, overrides)
    configs.check(config)
    count('restarts', args.restarts)
    args.settings, args.paths = config, [('--workdir', args.workdir)]
    if not config.dataset.path.startswith(tfds.PREFIX):
        args.paths.append(('--config.dataset.path', config.dataset.path))
    if config.init_from:
        source, start = weights.split_name(config.init_from)
        starts = start.split(',') if source else [start]
        args.paths += [('--config.init_from', path) for path in starts]
    for option, path in args.paths:
        if '://' in path:
            raise UserError(
                f'{option}={path}: vjax.train takes a file system; mount the bucket, and give the path '
                'there.'
            )
    command = ['python', '-m', 'vjax.train', f'--config={args.config}', *overrides]
    return args, [*command, f'--workdir={args.workdir}']


def parse_containers(args: argparse.Namespace) -> tuple[Slice, Storage]:
    """The slice and the storage that the arguments of `add_containers` name, with all of them checked.

    Raises:
        UserError: an argument cannot be right.
    """
    where, storage = parse_topology(args.topology), parse_storage(args.storage)
    check_mount(args.mount)
    for option, path in args.paths:
        check_shared(option, path, args.mount)
    check_batches(args.settings, where.chips)
    return where, storage


def check_batches(config: ml_collections.ConfigDict, num_devices: int) -> None:
    """Whether the devices that are asked for can share the batches, as `vjax.train` will have it.

    Raises:
        UserError: they cannot, or `config.sharding.mesh` is not for so many.
    """
    sizes = sharding.mesh_sizes(config.sharding.mesh.to_dict(), num_devices)
    mesh = AbstractMesh(tuple(sizes.values()), tuple(sizes))
    sharding.check_batch(mesh, config.batch_size, config.accumulate, 'config.batch_size')
    sharding.check_batch(mesh, config.eval.batch_size, 1, 'config.eval.batch_size')


def check_mount(mount: str) -> None:
    """Where shared storage can be mounted in a container.

    Raises:
        UserError: it cannot be there.
    """
    if not re.fullmatch(r'(/[A-Za-z0-9][A-Za-z0-9._-]*)+', mount):
        raise UserError(
            f"--mount='{mount}': give an absolute path of letters, digits, dots, hyphens and underscores."
        )


def check_shared(option: str, path: str, mount: str = '/') -> None:
    """Sees to it that a path is not on a disk that goes with the machine, as far as it tells.

    Args:
        option: that names the path.
        path: where a run is, its data set, or what it starts from.
        mount: where the shared storage is.

    Raises:
        UserError: it is on such a disk.
    """
    normal = posixpath.normpath(path)
    if not normal.startswith(mount.rstrip('/') + '/'):
        raise UserError(
            f"{option}='{path}' is not below '{mount}': give an absolute path on storage that all "
            'machines share, for what is elsewhere is lost with them.'
        )
    if any(normal == local or normal.startswith(local + '/') for local in LOCAL):
        raise UserError(
            f"{option}='{path}' is on a disk of one machine and is lost with it: choose shared storage."
        )


def parse_topology(text: str) -> Slice:
    """The slice that 'v5e:4x8' names.

    Raises:
        UserError: there is none.
    """
    name, _, shape = text.partition(':')
    if name not in GENERATIONS:
        raise UserError(
            f"--topology='{text}': give a generation ({', '.join(GENERATIONS)}) and a shape, as in v5e:4x8."
        )
    generation = GENERATIONS[name]
    if shape not in generation.topologies:
        raise UserError(
            f"--topology='{text}': {name} has the shapes {', '.join(generation.topologies)}."
        )
    return Slice(generation, shape, math.prod(map(int, shape.split('x'))))


def parse_storage(text: str) -> Storage:
    """The storage that 'gs://BUCKET' or 'HOST:/FOLDER' names.

    Raises:
        UserError: it names none.
    """
    if bucket := BUCKET.fullmatch(text):
        return Storage(bucket=bucket[1])
    if export := EXPORT.fullmatch(text):
        return Storage(server=export[1], path=export[2])
    raise UserError(
        f"--storage='{text}': give gs://BUCKET without a folder, or HOST:/FOLDER of an NFS server."
    )


def count(name: str, value: int, least: int = 0) -> int:
    """A number that is at least `least`.

    Raises:
        UserError: it is less.
    """
    if value < least:
        raise UserError(f'--{name}={value}: give {least} or more.')
    return value


def submit(command: Sequence[str], document: str, end: str, dry_run: bool) -> int:
    """Gives a document to a command's input, or prints how a shell would; returns an exit code.

    Args:
        command: what reads it.
        document: lines of text.
        end: a word that stands behind the document where it is printed.
        dry_run: print.

    Raises:
        UserError: the program is not installed.
    """
    if dry_run:
        print(f"{shlex.join(command)} <<'{end}'\n{document.rstrip()}\n{end}")
        return 0
    return run(command, input=document).returncode


@contextlib.contextmanager
def handling_signals(handler: Callable[[int, Any], None] | signal.Handlers) -> Iterator[None]:
    """SIGTERM and Ctrl-C go to `handler` within it."""
    previous = {
        number: signal.signal(number, handler) for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        yield
    finally:
        for number, before in previous.items():
            signal.signal(number, before)


def run(command: Sequence[str], **options) -> subprocess.CompletedProcess:
    """Runs a command, and says so unless its output is captured; its exit code is in the result.

    Raises:
        UserError: the program is not installed.
    """
    if not options.get('capture_output'):
        print(f'$ {shlex.join(command)}', flush=True)
    try:
        return subprocess.run(command, check=False, text=True, **options)
    except FileNotFoundError:
        raise UserError(
            f'{command[0]} is not installed here; --dry-run shows what it would be given.'
        ) from None
