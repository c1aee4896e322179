import errno
import queue
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vjax.errors import UserError, explanation
from vjax.training import processes, sharding
from vjax.training.checkpoints import Checkpoints, DamagedCheckpoint, UnreadableCheckpoint
from vjax.training.step import abstract_state, init_state

TX = optax.adamw(0.1)


def params():
    return {'a': {'kernel': jnp.arange(20000, dtype=jnp.float32).reshape(100, 200)}}


def state_at(step):
    state = init_state(params(), TX, ema=True)
    return state._replace(step=jnp.int32(step), params=jax.tree.map(lambda x: x + step, params()))


def abstract(mesh=None):
    mesh = mesh or sharding.make_mesh({'data': -1})
    return abstract_state(params, TX, ema=True, mesh=mesh, parameter_rules=[('.*', ())])


def save(workdir, steps, scores=None, **options):
    checkpoints = Checkpoints(workdir, **options)
    for step in steps:
        metrics = {'top1': scores[step]} if scores and scores.get(step) else None
        checkpoints.save(state_at(step), {'config': {'seed': 0}, 'step': step})
        if metrics:
            checkpoints.add_metrics(step, metrics)
    checkpoints.close()
    return Checkpoints(workdir, **options)


def largest_file(directory: Path) -> Path:
    return max((p for p in directory.rglob('*') if p.is_file()), key=lambda p: p.stat().st_size)


def test_a_state_comes_back_as_it_was(tmp_path):
    restored = save(tmp_path, [3]).restore_latest(abstract())
    expected = state_at(3)
    assert jax.tree.structure(restored) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, restored, expected)


def test_a_state_comes_back_on_another_mesh(tmp_path):
    checkpoints = save(tmp_path, [3])
    target = abstract_state(
        params,
        TX,
        ema=True,
        mesh=sharding.make_mesh({'data': 8}),
        parameter_rules=[('.*', 'fsdp(data)')],
    )
    restored = checkpoints.restore_latest(target)
    kernel = restored.params['a']['kernel']
    assert kernel.addressable_shards[0].data.shape == (100, 25)
    np.testing.assert_array_equal(kernel, state_at(3).params['a']['kernel'])


def test_nothing_to_restore_is_none(tmp_path):
    assert Checkpoints(tmp_path).restore_latest(abstract()) is None


def test_the_last_and_the_best_are_kept(tmp_path):
    scores = {1: 0.2, 2: 0.9, 3: 0.5, 5: 0.6}
    checkpoints = save(tmp_path, range(1, 7), scores, keep_last=2, keep_best=1)
    assert checkpoints.steps == [2, 5, 6]
    assert checkpoints.best_step() == 2
    assert checkpoints.about(5) == {'config': {'seed': 0}, 'step': 5}


@pytest.mark.parametrize('later', [3, 6])
def test_metrics_of_a_resumed_run_count_as_those_of_one_that_went_on(tmp_path, later):
    scores = {1: 0.2, 2: 0.9, 3: 0.5, 6: 0.95}
    options = {'keep_last': 1, 'keep_best': 2}
    at_once = save(tmp_path / 'at_once', range(1, 8), scores, **options)
    assert at_once.steps == [2, 6, 7]
    for after in (later, 7):  # The end of the run, and what was saved after it went on.
        steps = range(1, after + 1)
        expected = save(tmp_path / f'{after}_at_once', steps, scores, **options)
        checkpoints = save(
            tmp_path / f'{after}', range(1, later + 1), scores | {later: None}, **options
        )
        assert checkpoints.steps[-1] == later
        checkpoints.add_metrics(later, {'top1': scores[later], 'loss': float('nan')})
        checkpoints.close()
        resumed = save(tmp_path / f'{after}', range(later + 1, after + 1), scores, **options)
        assert resumed.steps == expected.steps
        assert resumed.best_step() == expected.best_step()


def test_metrics_that_come_later_leave_the_state_and_settle_what_was_owed(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(state_at(3), {'owes_evaluation': True})
    checkpoints.close()
    checkpoints = Checkpoints(tmp_path)
    saved_at = checkpoints.saved_at(3)

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr('vjax.training.checkpoints.write_atomically', killed)
        with pytest.raises(KeyboardInterrupt):
            checkpoints.add_metrics(3, {'top1': 0.5})
    for owes in (True, False):
        checkpoints = Checkpoints(tmp_path)
        restored = checkpoints.restore_latest(abstract())
        jax.tree.map(np.testing.assert_array_equal, restored, state_at(3))
        assert checkpoints.about(3) == {'owes_evaluation': owes}
        assert checkpoints.best_step() == (None if owes else 3)
        assert checkpoints.saved_at(3) == saved_at
        checkpoints.add_metrics(3, {'top1': 0.5})


def test_a_checkpoint_is_never_written_over(tmp_path):
    checkpoints = save(tmp_path, [1])
    with pytest.raises(Exception, match='already exists'):
        checkpoints.save(state_at(1), {})
    assert int(Checkpoints(tmp_path).restore_latest(abstract()).step) == 1


def test_the_best_of_multi_label_data_has_the_highest_map(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep_last=1, keep_best=1)
    for step, score in enumerate([0.2, float('nan'), 0.9, 0.5, float('nan')], start=1):
        # Neither the loss nor the exact matches count.
        metrics = {'loss': 1 - score, 'exact_match': 1 - score, 'mAP': score}
        checkpoints.save(state_at(step), {})
        checkpoints.add_metrics(step, metrics)
    checkpoints.close()
    checkpoints = Checkpoints(tmp_path, keep_last=1, keep_best=1)
    assert checkpoints.steps == [3, 5]
    assert checkpoints.best_step() == 3


@pytest.mark.parametrize(
    'damage',
    [
        pytest.param('truncated', marks=pytest.mark.slow),
        pytest.param('missing', marks=pytest.mark.slow),
        'one bit',
        pytest.param('metadata', marks=pytest.mark.slow),
        pytest.param('about', marks=pytest.mark.slow),
    ],
)
def test_a_damaged_latest_checkpoint_falls_back_to_the_one_before(tmp_path, damage, caplog):
    save(tmp_path, [1, 2]).close()
    latest = tmp_path / 'checkpoints' / '2'
    victim = (
        latest / 'model' / '_METADATA' if damage == 'metadata' else largest_file(latest / 'model')
    )
    content = bytearray(victim.read_bytes())
    if damage == 'truncated':
        victim.write_bytes(content[: len(content) // 2])
    elif damage == 'missing':
        victim.unlink()
    elif damage == 'metadata':
        victim.write_bytes(b'')
    elif damage == 'about':
        (latest / '_CHECKPOINT_METADATA').write_bytes(b'')
    else:
        content[len(content) // 2] ^= 1
        victim.write_bytes(content)
    checkpoints = Checkpoints(tmp_path)
    restored = checkpoints.restore_latest(abstract())
    assert int(restored.step) == 1
    np.testing.assert_array_equal(restored.params['a']['kernel'], params()['a']['kernel'] + 1)
    assert re.search(r'checkpoint 2 of .* is damaged', caplog.text)
    assert (tmp_path / 'damaged_checkpoints' / '2').is_dir()
    assert checkpoints.steps == [1]


def test_only_damaged_checkpoints_is_an_error(tmp_path):
    save(tmp_path, [1]).close()
    largest_file(tmp_path / 'checkpoints' / '1' / 'model').unlink()
    for _ in range(2):  # The second time too: nothing was moved that could be mended by hand.
        with pytest.raises(UserError, match=r'all checkpoints in .* are damaged'):
            Checkpoints(tmp_path).restore_latest(abstract())


def test_reading_leaves_the_save_of_a_running_trainer_alone(tmp_path):
    trainer = Checkpoints(tmp_path, remove_unfinished=True)
    trainer.save(state_at(1), {})
    assert Checkpoints(tmp_path).steps in ([], [1])
    trainer.close()
    assert int(Checkpoints(tmp_path).restore_latest(abstract()).step) == 1


def test_a_disk_that_is_full_is_said_and_the_checkpoints_stay_whole(tmp_path, monkeypatch):
    checkpoints = save(tmp_path, [1])

    def full(*_, **__):
        raise ValueError('RESOURCE_EXHAUSTED: Failed writing: No space left on device')

    monkeypatch.setattr(checkpoints._checkpointer, 'save_checkpointables_async', full)
    unfinished = tmp_path / 'checkpoints' / '2.orbax-checkpoint-tmp'
    unfinished.mkdir()
    with pytest.raises(UserError, match='the disk is full'):
        checkpoints.save(state_at(2), {})
    assert not unfinished.exists()
    assert int(Checkpoints(tmp_path).restore_latest(abstract()).step) == 1


@pytest.mark.parametrize(
    ('error', 'code'),
    [
        (OSError(errno.EIO, 'Input/output error'), 1),
        (ValueError("UNKNOWN: Error writing: Input/output error [os_error_code='5']"), 1),
        (ValueError('UNAVAILABLE: try again'), 1),
        (RuntimeError('unforeseen'), 1),
        (OSError(errno.ENOSPC, 'No space left on device'), 2),
        (ValueError('RESOURCE_EXHAUSTED: Failed writing: Disk quota exceeded'), 2),
        (PermissionError(errno.EACCES, 'Permission denied'), 2),
        (OSError(errno.EROFS, 'Read-only file system'), 2),
        (
            ValueError("PERMISSION_DENIED: Failed to open: Permission denied [os_error_code='13']"),
            2,
        ),
    ],
)
@pytest.mark.parametrize('wrapped', [False, True])
def test_only_what_a_person_can_mend_is_a_reason_not_to_start_again(
    error, code, wrapped, tmp_path, monkeypatch
):
    """The exit code of a failed write, as launchers restart after 1 and not after 2."""
    checkpoints = Checkpoints(tmp_path)

    def fail(*_, **__):
        if wrapped:
            raise ValueError('save failed') from error
        raise error

    monkeypatch.setattr(checkpoints._checkpointer, 'save_checkpointables_async', fail)
    with pytest.raises(Exception) as raised:  # noqa: PT011
        checkpoints.save(state_at(2), {})
    assert (2 if explanation(raised.value) else 1) == code
    said = [str(raised.value), *getattr(raised.value, '__notes__', ())]
    assert any('checkpoints before it' in each and 'are whole' in each for each in said)


def failing_reads(checkpoints, monkeypatch, error, times):
    """Reading fails so many times; returns how often it was tried."""
    read, tried = checkpoints._checkpointer.load_checkpointables, []

    def fail(step, abstract):
        tried.append(step)
        if len(tried) <= times:
            raise error
        return read(step, abstract)

    monkeypatch.setattr(checkpoints._checkpointer, 'load_checkpointables', fail)
    monkeypatch.setattr('vjax.training.checkpoints.RETRY_SECONDS', 0)
    return tried


REFUSALS = [
    PermissionError(errno.EACCES, 'Permission denied'),
    ValueError("PERMISSION_DENIED: Failed to open: Permission denied [os_error_code='13']"),
    ValueError('UNAUTHENTICATED: who are you?'),
]
PASSING = [
    OSError(errno.EIO, 'Input/output error'),
    OSError(errno.ESTALE, 'Stale file handle'),
    TimeoutError('Timed out'),
    MemoryError(),
    ValueError("UNKNOWN: Error reading local file: Input/output error [os_error_code='5']"),
    ValueError('ABORTED: Stale file handle'),
    ValueError('Error opening driver: DEADLINE_EXCEEDED: no answer'),
    ValueError('RESOURCE_EXHAUSTED: Too many open files'),
    ValueError('UNAVAILABLE: connection reset'),
    jax.errors.JaxRuntimeError('INTERNAL: a device fell off'),
]
DAMAGE = [
    FileNotFoundError(errno.ENOENT, 'No such file'),
    ValueError('NOT_FOUND: Metadata at local file does not exist'),
    ValueError("NOT_FOUND: Failed to open: No such file or directory [os_error_code='2']"),
    ValueError('DATA_LOSS: checksum mismatch'),
    KeyError('tree'),
]


def test_a_checkpoint_that_can_be_read_again_is_read(tmp_path, monkeypatch):
    checkpoints = save(tmp_path, [1, 2])
    tried = failing_reads(checkpoints, monkeypatch, PASSING[0], times=1)
    assert int(checkpoints.restore_latest(abstract()).step) == 2
    assert tried == [2, 2]
    assert checkpoints.steps == [1, 2]


@pytest.fixture(scope='module')
def first_step(tmp_path_factory):
    workdir = tmp_path_factory.mktemp('first_step')
    save(workdir, [1])
    return workdir


@pytest.mark.parametrize('error', REFUSALS + PASSING, ids=str)
def test_a_passing_error_of_reading_moves_nothing(error, first_step, monkeypatch):
    checkpoints = Checkpoints(first_step)
    kind = UserError if error in REFUSALS else UnreadableCheckpoint
    for read in (
        lambda: checkpoints.restore_latest(abstract()),
        lambda: checkpoints.load_model(1, {}),
    ):
        tried = failing_reads(checkpoints, monkeypatch, error, times=2)
        with pytest.raises(kind, match=r'cannot read checkpoint 1 of .*; nothing was') as raised:
            read()
        assert tried == [1, 1]
        # The exit code, after which launchers start again or not.
        assert bool(explanation(raised.value)) == (kind is UserError)
        monkeypatch.undo()
    assert Checkpoints(first_step).steps == [1]


@pytest.mark.parametrize('error', DAMAGE, ids=str)
def test_damage_is_not_waited_for(error, tmp_path, monkeypatch):
    checkpoints = save(tmp_path, [1, 2])
    tried = failing_reads(checkpoints, monkeypatch, error, times=1)
    assert int(checkpoints.restore_latest(abstract()).step) == 1
    assert tried == [2, 1]
    assert (tmp_path / 'damaged_checkpoints' / '2').is_dir()
    failing_reads(checkpoints, monkeypatch, error, times=1)
    with pytest.raises(DamagedCheckpoint):
        checkpoints.load_model(1, {})


@pytest.mark.parametrize(('name', 'resumed'), [('metrics/metrics', 3), ('_CHECKPOINT_METADATA', 2)])
@pytest.mark.parametrize('content', [pytest.param(b'{"top1"', marks=pytest.mark.slow), b'\xff{}'])
def test_what_a_checkpoint_says_of_itself_hides_no_other(name, resumed, content, tmp_path):
    """Orbax reads these files of all checkpoints at once."""
    save(tmp_path, [1, 2, 3], {1: 0.3, 2: 0.2, 3: 0.1}, keep_last=3)
    (tmp_path / 'checkpoints' / '3' / name).write_bytes(content)
    trainer = Checkpoints(tmp_path, remove_unfinished=True)
    assert int(trainer.restore_latest(abstract()).step) == resumed
    assert trainer.best_step() == 1
    assert Checkpoints(tmp_path).steps == list(range(1, resumed + 1))


def test_a_reader_says_that_metrics_are_damaged(tmp_path):
    save(tmp_path, [1, 2], {1: 0.3, 2: 0.2})
    file = tmp_path / 'checkpoints' / '2' / 'metrics' / 'metrics'
    file.write_bytes(b'')
    with pytest.raises(UserError, match='says of itself is damaged'):
        Checkpoints(tmp_path)
    assert file.exists()  # A trainer may be about to write it.


def test_a_record_that_cannot_be_read_now_is_not_damaged(tmp_path, monkeypatch):
    checkpoints = save(tmp_path, [1, 2])
    monkeypatch.setattr('vjax.training.checkpoints.RETRY_SECONDS', 0)

    def fail(_):
        raise OSError(errno.EIO, 'Input/output error')

    monkeypatch.setattr(checkpoints._checkpointer, 'metadata', fail)
    for read in (lambda: checkpoints.restore_latest(abstract()), lambda: checkpoints.about(2)):
        with pytest.raises(UnreadableCheckpoint, match='nothing was moved'):
            read()
    assert Checkpoints(tmp_path).steps == [1, 2]


@pytest.mark.parametrize(
    ('others', 'kind'),
    [(1, UnreadableCheckpoint), (2, UserError), (3, DamagedCheckpoint)],
)
def test_what_another_process_cannot_read_none_reads(others, kind, tmp_path, monkeypatch):
    checkpoints, tried = Checkpoints(tmp_path), []
    monkeypatch.setattr(jax, 'process_count', lambda: 2)
    monkeypatch.setattr(
        'vjax.training.checkpoints.multihost_utils.process_allgather',
        lambda own: np.stack([own, np.full_like(own, others)]),
    )
    with pytest.raises(kind, match='another process cannot read it'):
        checkpoints._read(1, lambda: tried.append(1))
    assert tried == [1]  # Orbax's barriers would no longer fit together.


def test_too_little_memory_is_no_damage(tmp_path, monkeypatch):
    checkpoints = save(tmp_path, [1, 2])
    error = jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: Out of memory')
    tried = failing_reads(checkpoints, monkeypatch, error, times=1)
    with pytest.raises(jax.errors.JaxRuntimeError, match='Out of memory'):
        checkpoints.restore_latest(abstract())
    assert tried == [2]


def test_a_closed_event_loop_is_no_news(tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr(sys, 'unraisablehook', told.append)
    for _ in range(2):
        Checkpoints(tmp_path)
    for said in ('Event loop is closed', 'something else'):
        sys.unraisablehook(SimpleNamespace(exc_value=RuntimeError(said)))
    assert [str(each.exc_value) for each in told] == ['something else']


def test_what_fails_in_the_background_ends_one_of_several_processes(tmp_path, monkeypatch):
    checkpoints = save(tmp_path, [1])

    class Saving:
        def result(self):
            raise ValueError('RESOURCE_EXHAUSTED: Failed writing: No space left on device')

    monkeypatch.setattr(
        checkpoints._checkpointer, 'save_checkpointables_async', lambda *_, **__: Saving()
    )
    ended = queue.Queue()
    monkeypatch.setattr(processes, 'end', ended.put)
    checkpoints.save(state_at(2), {})
    assert ended.empty()  # A process alone learns of it in its next save.
    monkeypatch.setattr(jax, 'process_count', lambda: 2)
    checkpoints.save(state_at(3), {})
    assert 'the disk is full' in str(ended.get(timeout=10))


@pytest.mark.parametrize('kind', [jax.errors.JaxRuntimeError, ValueError])
def test_a_save_that_fails_because_another_process_ended_does_not_blame_the_disk(
    kind, tmp_path, monkeypatch
):
    checkpoints = save(tmp_path, [1])

    def alone(*_, **__):
        try:
            raise kind('UNKNOWN: Gloo AllGather failed: Connection reset')
        except kind as error:
            raise RuntimeError('the barrier failed') from error

    monkeypatch.setattr(checkpoints._checkpointer, 'save_checkpointables_async', alone)
    with pytest.raises(RuntimeError, match='the barrier failed'):
        checkpoints.save(state_at(2), {})
    monkeypatch.setattr(jax, 'process_count', lambda: 2)
    with pytest.raises(kind, match='Gloo'):
        checkpoints.save(state_at(2), {})
