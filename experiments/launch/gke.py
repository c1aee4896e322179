"""Train on TPUs of a GKE cluster: python -m experiments.launch.gke --name=NAME --topology=v5e:4x8 ...

Submits a JobSet to the cluster that kubectl is set to: one pod for each machine of the slice, all of them
started again when one fails. JSON is YAML, so the manifest of --dry-run is one for kubectl.
"""

import argparse
import json
from typing import Any

from experiments.launch import job
from vjax import cli
from vjax.errors import UserError

# The ports of libtpu and of jax's coordinator.
PORTS = (8471, 8482)
# Every machine must see at once what another has written: nothing about files is remembered.
MOUNT_OPTIONS = (
    'implicit-dirs',
    'metadata-cache:ttl-secs:0',
    'metadata-cache:negative-ttl-secs:0',
)


def main(argv: list[str]) -> int:
    """Parses the command line and submits the job."""
    parser = job.parser(__doc__, restarts=50)
    job.add_containers(parser)
    parser.add_argument('--namespace', default='default', help='(%(default)s)')
    parser.add_argument(
        '--service_account', default='', help="the pods': one that may write to the bucket"
    )
    parser.add_argument('--queue', default='', help='a LocalQueue of Kueue')
    parser.add_argument(
        '--chips_per_node', type=int, choices=(1, 4, 8), help='of the node pool (4, or 1 of 1x1)'
    )
    parser.add_argument('--grace', type=int, default=120, help='seconds to save in (%(default)s)')
    args, command = job.parse(parser, argv)
    text = json.dumps(manifest(args, [*command, '--distributed']), indent=2)
    # Not `apply`, which takes a JobSet that has ended for one that needs nothing.
    return job.submit(['kubectl', 'create', '--filename=-'], text, 'MANIFEST', args.dry_run)


def manifest(args: argparse.Namespace, command: list[str]) -> dict[str, Any]:
    """The JobSet that runs `command` on every machine of a slice.

    Raises:
        UserError: an argument cannot be right.
    """
    where, storage = job.parse_containers(args)
    job.count('grace', args.grace, 1)
    for name in ('namespace', *(n for n in ('service_account', 'queue') if getattr(args, n))):
        if not job.NAME.fullmatch(getattr(args, name)):
            raise UserError(f"--{name}='{getattr(args, name)}' is no name in Kubernetes.")
    if storage.bucket and not args.service_account:
        raise UserError(
            f'--storage={args.storage} needs --service_account, one that may write to the bucket.'
        )
    per_node = args.chips_per_node or min(where.chips, 4)
    if where.chips % per_node:
        raise UserError(
            f'--chips_per_node={per_node} does not divide the {where.chips} chips of {args.topology}.'
        )
    nodes = where.chips // per_node
    annotations = {'gke-gcsfuse/volumes': 'true'} if storage.bucket else {}
    pod = {
        'restartPolicy': 'Never',
        'terminationGracePeriodSeconds': args.grace,
        'nodeSelector': {
            'cloud.google.com/gke-tpu-accelerator': where.generation.label,
            'cloud.google.com/gke-tpu-topology': where.shape,
        },
        'containers': [
            {
                'name': 'train',
                'image': args.image,
                # Kubernetes reads $(NAME) itself, and $$ as $.
                'command': [word.replace('$', '$$') for word in command],
                'env': [{'name': 'JAX_PLATFORMS', 'value': job.TPUS}],
                'ports': [{'containerPort': port} for port in PORTS],
                'resources': {'limits': {'google.com/tpu': per_node}},
                'volumeMounts': [{'name': 'shared', 'mountPath': args.mount}],
            }
        ],
        'volumes': [{'name': 'shared', **_volume(storage)}],
    }
    if args.spot:
        spot = 'cloud.google.com/gke-spot'
        pod['nodeSelector'][spot] = 'true'
        pod['tolerations'] = [
            {'key': spot, 'operator': 'Equal', 'value': 'true', 'effect': 'NoSchedule'}
        ]
    if args.service_account:
        pod['serviceAccountName'] = args.service_account
    # One failed pod fails the slice at once, and the JobSet starts all of it again; but not after exit
    # code 2, which only a person can mend.
    mistake = {'containerName': 'train', 'operator': 'In', 'values': [2]}
    slice_job = {
        'parallelism': nodes,
        'completions': nodes,
        'completionMode': 'Indexed',
        'backoffLimit': 0,
        'podFailurePolicy': {'rules': [{'action': 'FailJob', 'onExitCodes': mistake}]},
        'template': {'metadata': {'annotations': annotations}, 'spec': pod},
    }
    give_up = {
        'name': 'mistake',
        'action': 'FailJobSet',
        'onJobFailureReasons': ['PodFailurePolicy'],
    }
    return {
        'apiVersion': 'jobset.x-k8s.io/v1alpha2',
        'kind': 'JobSet',
        'metadata': {
            'name': args.name,
            'namespace': args.namespace,
            'labels': {'kueue.x-k8s.io/queue-name': args.queue} if args.queue else {},
            # All pods on one slice, and nobody else there.
            'annotations': {
                'alpha.jobset.sigs.k8s.io/exclusive-topology': 'cloud.google.com/gke-nodepool'
            },
        },
        'spec': {
            'failurePolicy': {'maxRestarts': args.restarts, 'rules': [give_up]},
            'replicatedJobs': [
                {'name': 'slice', 'replicas': 1, 'template': {'spec': slice_job}},
            ],
        },
    }


def _volume(storage: job.Storage) -> dict[str, Any]:
    """The source of the shared volume of a pod."""
    if storage.server:
        return {'nfs': {'server': storage.server, 'path': storage.path}}
    return {
        'csi': {
            'driver': 'gcsfuse.csi.storage.gke.io',
            'volumeAttributes': {
                'bucketName': storage.bucket,
                'mountOptions': ','.join(MOUNT_OPTIONS),
            },
        }
    }


if __name__ == '__main__':
    cli.run(main)
