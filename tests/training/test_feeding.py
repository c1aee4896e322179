import jax
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from vjax.axes import AXES
from vjax.training import feeding, sharding


@pytest.fixture
def rows_of(monkeypatch):
    """The rows of a batch that a process reads which has some of the mesh's devices."""
    whole = NamedSharding.addressable_devices_indices_map

    def rows_of(mesh, batch_size, own):
        def of_process(self, shape):
            return {device: where for device, where in whole(self, shape).items() if device in own}

        with monkeypatch.context() as patch:
            patch.setattr(NamedSharding, 'addressable_devices_indices_map', of_process)
            return feeding.rows_of_batch(mesh, batch_size).tolist()

    return rows_of


@pytest.mark.parametrize(
    ('axes', 'num_processes', 'rows'),
    [
        ({'data': 8}, 2, [[0, 1, 2, 3], [4, 5, 6, 7]]),
        ({'data': 2, 'fsdp': 4}, 4, [[0, 1], [2, 3], [4, 5], [6, 7]]),
        ({'data': 4, 'time': 2}, 4, [[0, 1], [2, 3], [4, 5], [6, 7]]),
        # Two processes hold halves of the same clips, or of the same heads.
        ({'data': 2, 'tensor': 4}, 4, [[0, 1, 2, 3]] * 2 + [[4, 5, 6, 7]] * 2),
        ({'data': 1, 'time': 8}, 2, [[*range(8)]] * 2),
    ],
)
def test_processes_read_what_their_devices_hold(rows_of, axes, num_processes, rows):
    mesh = sharding.make_mesh(axes)
    of_processes = np.split(mesh.devices.flatten(), num_processes)
    assert [rows_of(mesh, 8, own) for own in of_processes] == rows


def test_a_host_of_a_slice_of_tpus_has_a_square_of_its_chips(rows_of):
    """As on v5e:2x4 and larger: the mesh goes along rows of chips, a host has two of each of two rows."""
    chips = np.array(jax.devices()).reshape(2, 4)
    mesh = Mesh(chips.reshape(8, 1), ('data', 'fsdp'), axis_types=(AxisType.Auto,) * 2)
    assert rows_of(mesh, 16, chips[:, :2].flatten()) == [0, 1, 2, 3, 8, 9, 10, 11]
    assert rows_of(mesh, 16, chips[:, 2:].flatten()) == [4, 5, 6, 7, 12, 13, 14, 15]
    sums = Mesh(chips.reshape(4, 2), ('data', 'tensor'), axis_types=(AxisType.Auto,) * 2)
    assert rows_of(sums, 4, chips[:, :2].flatten()) == [0, 2]


@pytest.mark.parametrize('axes', [(8, 1, 1, 1), (2, 2, 2, 1), (2, 1, 1, 4), (1, 1, 8, 1)])
@pytest.mark.parametrize('seed', [0, 1])
def test_batches_reach_the_devices_in_any_order_of_these(axes, seed):
    devices = np.random.default_rng(seed).permutation(np.array(jax.devices()))
    mesh = Mesh(devices.reshape(axes), AXES, axis_types=(AxisType.Auto,) * 4)
    batch = {'label': np.arange(16), 'video': np.random.default_rng(0).random((16, 8, 2, 2, 3))}
    assert feeding.rows_of_batch(mesh, 16).tolist() == list(range(16))
    for name, array in feeding.to_devices(batch, mesh).items():
        np.testing.assert_array_equal(array, batch[name].astype(array.dtype))


def test_frames_are_split_over_time():
    mesh = sharding.make_mesh({'data': 2, 'fsdp': 2, 'time': 2})
    video = np.arange(4 * 6 * 2 * 2 * 3, dtype=np.uint8).reshape(4, 6, 2, 2, 3)
    batch = feeding.to_devices({'video': video, 'mask': video[:, 0]}, mesh)
    assert {shard.data.shape for shard in batch['video'].addressable_shards} == {(1, 3, 2, 2, 3)}
    assert {shard.data.shape for shard in batch['mask'].addressable_shards} == {(1, 2, 2, 3)}
    np.testing.assert_array_equal(batch['video'], video)
    evaluated = feeding.to_devices({'video': video[:, None]}, mesh)['video']
    assert {shard.data.shape for shard in evaluated.addressable_shards} == {(1, 1, 3, 2, 2, 3)}


def test_a_batch_is_split_over_the_data_axis():
    mesh = sharding.make_mesh({'data': 8})
    array = feeding.to_devices({'x': np.arange(16)}, mesh)['x']
    assert array.sharding.spec == P('data')
    assert array.addressable_shards[0].data.shape == (2,)
