"""What a step will cost on other devices: counted from compiled programs, and printed."""

import ast
import importlib.util
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AbstractDevice, AbstractMesh, AxisType
from jax.sharding import PartitionSpec as P

from vjax import cli, plan
from vjax.devices import tiled_size
from vjax.errors import UserError
from vjax.planning import cache, checks, estimate, hlo, sweep, topology
from vjax.planning.compiled import (
    Compiled,
    abstract_batch,
    activations_of_a_clip,
    short_of_memory,
)
from vjax.training import sharding
from vjax.training.assembly import assemble

TINY = 'configs/vivit/kinetics400.py:variant=B/16x2,tiny'
ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def _in_the_root(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.fixture
def mesh():
    return jax.make_mesh((8,), ('data',), axis_types=(AxisType.Auto,))


@pytest.fixture(scope='module')
def tiny(tmp_path_factory):
    """A small config, its plan for eight CPU devices with parameters split over them, and the cache."""
    overrides = ['--config.sharding.mesh.fsdp=8', '--config.sharding.preset=fsdp']
    # Wide enough for the model's products to outweigh those of the augmentation.
    overrides += ['--config.model.width=64', '--config.model.mlp_dim=256', '--config.ema=0.9']
    config = cli.load_config(str(ROOT / TINY), overrides)
    folder = tmp_path_factory.mktemp('plans')
    return config, estimate.plan(config, 'cpu', folder=folder, dataset_size=100, price=2.0), folder


def assembled(config):
    """What a plan is made of, not compiled, for eight CPU devices."""
    config, classes, multi_label, _ = estimate._resolve(config)
    mesh = sharding.make_mesh(config.sharding.mesh.to_dict(), jax.devices())
    assembly = assemble(config, mesh, classes, multi_label=multi_label)
    return Compiled(assembly, mesh, abstract_batch(config, mesh, 1), None)


def compiled(function, *shapes):
    arrays = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return jax.jit(function).lower(*arrays).compile()


def test_of_a_config_that_varies_the_costliest_model_is_planned(monkeypatch):
    planned = []

    def note(config, *others):
        planned.append(config)
        return {'warnings': ['of the chip']}

    monkeypatch.setattr(estimate, '_estimate', note)
    path = f'{ROOT}/configs/lookupvit/moving_digits.py:grid=1x1,grids=2x2+6x6+1x1'
    result = estimate.plan(cli.load_config(path, ['--config.dataset.path=none']), 'cpu')
    (config,) = planned
    assert (config.model.grid, config.vary.to_dict()) == ((6, 6), {})
    said, other = result['warnings']
    assert 'makes 3 models, of which this is the costliest (grid=(6, 6))' in said
    assert other == 'of the chip'


def test_a_loop_counts_as_often_as_it_runs(mesh):
    def on_a_chip(x, w):
        def layer(x, _):
            return jax.lax.psum(jnp.tanh(x @ w), 'data'), None

        return jax.lax.scan(layer, x, length=11)[0]

    sharded = jax.shard_map(
        on_a_chip, mesh=mesh, in_specs=(P('data'), P()), out_specs=P('data'), check_vma=False
    )
    program = hlo.Program(compiled(sharded, (32, 64), (64, 64)).as_text())
    # A chip has 4 rows of 64 floats, 1024 bytes.
    assert hlo.collectives(program) == {'all-reduce': hlo.Collective(11, 11 * 1024, 11 * 1024)}
    assert hlo.flops(program) == 11 * 2 * 4 * 64 * 64
    assert program.unknown_loops == 0
    assert hlo.cycles(program) is None


def test_nested_loops_multiply():
    def nested(x, w):
        def inner(x, _):
            return jnp.sin(x @ w), None

        def outer(x, _):
            return jax.lax.scan(inner, x, length=3)[0] * 2, None

        return jax.lax.scan(outer, x, length=5)[0]

    program = hlo.Program(compiled(nested, (8, 16), (16, 16)).as_text())
    assert hlo.flops(program) == 15 * 2 * 8 * 16 * 16


@pytest.mark.parametrize('kind', ['all-gather', 'reduce-scatter', 'collective-permute'])
def test_bytes_are_those_of_the_larger_side(mesh, kind):
    functions = {
        'all-gather': lambda x: jax.lax.all_gather(x, 'data', tiled=True),
        'reduce-scatter': lambda x: jax.lax.psum_scatter(x, 'data', tiled=True),
        'collective-permute': lambda x: jax.lax.ppermute(x, 'data', [(i, i ^ 1) for i in range(8)]),
    }
    out = P() if kind == 'all-gather' else P('data')
    sharded = jax.shard_map(
        functions[kind], mesh=mesh, in_specs=P('data'), out_specs=out, check_vma=False
    )
    counted = hlo.collectives(hlo.Program(compiled(sharded, (64, 16)).as_text()))
    rows = 64 if kind == 'all-gather' else 8
    assert counted == {kind: hlo.Collective(1, rows * 64, rows * 64)}


@pytest.mark.parametrize(
    ('window', 'padding', 'dilation'),
    [((2, 2), 'SAME', 1), ((1, 1), 'VALID', 2), ((3, 1), 'SAME', 1)],
)
def test_convolutions_count_as_xla_counts_them(window, padding, dilation):
    def convolve(x, kernel):
        return jax.lax.conv_general_dilated(
            x,
            kernel,
            window,
            padding,
            rhs_dilation=(dilation, dilation),
            dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
        )

    step = compiled(convolve, (2, 9, 8, 3), (3, 4, 3, 5))
    assert hlo.flops(hlo.Program(step.as_text())) == step.cost_analysis()['flops']


SCHEDULE = """HloModule jit_step, is_scheduled=true

%fused (p: f32[8]) -> f32[8] {
  %p = f32[8]{0} parameter(0)
  ROOT %double = f32[8]{0:T(256)} add(%p, %p), backend_config={"estimated_cycles":"999"}
}

%body (c: (s32[], f32[8])) -> (s32[], f32[8]) {
  %c = (s32[], f32[8]{0}) parameter(0)
  %i = s32[] get-tuple-element(%c), index=0
  %x = f32[8]{0} get-tuple-element(%c), index=1
  %y = f32[8]{0:T(256)} fusion(%x), kind=kLoop, calls=%fused, backend_config={"estimated_cycles":"10"}
  ROOT %t = (s32[], f32[8]{0}) tuple(%i, %y)
}

%condition (c.1: (s32[], f32[8])) -> pred[] {
  %c.1 = (s32[], f32[8]{0}) parameter(0)
  %i.1 = s32[] get-tuple-element(%c.1), index=0
  %n = s32[] constant(6)
  ROOT %lt = pred[] compare(%i.1, %n), direction=LT
}

ENTRY %main (a: f32[8], b: s32[]) -> (s32[], f32[8]) {
  %a = f32[8]{0} parameter(0)
  %b = s32[] parameter(1)
  %t.1 = (s32[], f32[8]{0}) tuple(%b, %a)
  %copy = f32[8]{0} copy(%a), backend_config={"flag_configs":[],"estimated_cycles":"100"}
  ROOT %w = (s32[], f32[8]{0}) while(%t.1), condition=%condition, body=%body
}
"""


def test_products_that_a_gpu_leaves_to_its_library_count():
    program = hlo.Program(
        'ENTRY %main (a: f32[64,32], b: f32[16,32]) -> f32[64,16] {\n'
        '  %a = f32[64,32]{1,0} parameter(0)\n'
        '  %b = f32[16,32]{1,0} parameter(1)\n'
        '  %c = (f32[64,16]{1,0}, s8[4096]{0}) custom-call(%a, %b), '
        'custom_call_target="__cublas$lt$matmul", backend_config={"gemm_backend_config":{'
        '"dot_dimension_numbers":{"lhs_contracting_dimensions":["1"],'
        '"rhs_contracting_dimensions":["1"]}}}\n'
        '  ROOT %d = f32[64,16]{1,0} get-tuple-element(%c), index=0\n'
        '}\n'
    )
    assert hlo.flops(program) == 2 * 64 * 16 * 32


def test_cycles_are_those_of_the_schedule_and_not_of_what_is_fused():
    program = hlo.Program(SCHEDULE)
    assert hlo.cycles(program) == 100 + 6 * 10
    assert hlo.cycles(hlo.Program(SCHEDULE.replace('"10"', f'"{2**63 - 1}"'))) is None
    # The copy and each fusion read 32 bytes and write 32.
    assert hlo.bytes_accessed(program) >= 7 * 64
    unknown = hlo.Program(SCHEDULE.replace('constant(6)', 'parameter(1)'))
    assert (hlo.cycles(unknown), unknown.unknown_loops) == (110, 1)


def test_memory_is_that_of_the_split_state(tiny):
    config, result, _ = tiny
    memory = result['memory']
    expected = 0
    for leaf in jax.tree.leaves(assembled(config).assembly.shapes):
        splits = 8 if any(size % 8 == 0 for size in leaf.shape) else 1
        expected += math.prod(leaf.shape) * 4 // splits
    assert memory['params'] == memory['ema'] == expected
    assert memory['optimizer'] == expected + 4  # Momentum, and the schedule's count.
    window = math.ceil(32 / 0.9)
    assert memory['batch'] == 4 * window**2 * 3 + 4 * 4 + 3 * 4  # One clip, its box, three numbers.
    # The peak is at least what is there before the step.
    assert memory['peak'] >= 2 * expected + memory['optimizer'] + memory['batch']
    assert memory['activations'] > 4 * 32 * 32 * 3 * 4  # The clip in float32 is part of them.
    parts = 3 * expected + memory['optimizer'] + memory['batch'] + memory['activations']
    assert memory['necessary'] == parts


@pytest.mark.slow
def test_what_is_computed_again_is_not_kept():
    def kept(remat):
        config = cli.load_config(TINY, [f'--config.model.remat={remat}', '--config.model.depth=8'])
        made = assembled(config)
        return activations_of_a_clip(made.assembly, config, made.mesh.abstract_mesh)

    assert kept('none') > kept('dots') > kept('full')


def test_activations_are_those_of_the_devices_attention():
    """On TPUs attention's weights are not kept, 256 x 256 of 2 heads in each of 2 layers."""
    changes = ['attention=spacetime', 'tubelet=(1,4,4)', 'remat=none']
    config = cli.load_config(TINY, [f'--config.model.{change}' for change in changes])
    made = assembled(config)

    def kept(platform):
        device = AbstractDevice(platform, 1, platform)
        mesh = AbstractMesh((8,), ('data',), abstract_device=device)
        return activations_of_a_clip(made.assembly, config, mesh)

    weights = 2 * 2 * 256 * 256 * 4
    assert kept('tpu') + weights < kept('cpu')


@pytest.mark.parametrize(
    ('shape', 'elements'),
    [
        ((16, 256), 16 * 256),
        ((256, 16), 256 * 16),  # The other way round it fits.
        ((12, 25, 25), 12 * 32 * 128),
        ((64, 12, 25, 196), 64 * 12 * 25 * 256),
        ((7,), 7),
        ((), 1),
    ],
)
def test_arrays_take_whole_tiles(shape, elements):
    assert tiled_size(shape, (8, 128)) == elements
    assert tiled_size(shape, (1, 1)) == math.prod(shape)


def test_a_chip_computes_its_share_three_times_the_forward_pass(tiny):
    _, result, _ = tiny
    # Less the gradient of the clip itself, and more by the augmentation.
    assert 0.9 < result['flops'] * 8 / result['model_flops'] < 1.25


def test_names_are_the_same_in_words_and_in_json(tiny):
    _, result, _ = tiny
    again = json.loads(json.dumps(result))
    assert again.keys() == result.keys()
    assert {
        *('topology', 'num_chips', 'mesh', 'memory', 'flops', 'bytes_accessed', 'collectives'),
        *('cycles', 'step_seconds', 'clips_per_second', 'mfu', 'epoch', 'warnings', 'cached'),
    } <= result.keys()
    assert {'params', 'optimizer', 'ema', 'batch', 'temporaries', 'peak', 'fits'} <= (
        result['memory'].keys()
    )
    text = plan.report(again)
    assert 'nothing was run' in text
    assert 'data 1 x fsdp 8' in text
    assert result['step_seconds'] is None
    assert result['epoch']['steps'] == math.ceil(100 / 8)


def test_parameters_that_could_be_split_and_are_not_are_named(tiny, monkeypatch):
    monkeypatch.setattr(checks, 'LARGE', 2**10)
    config, result, _ = tiny
    (warning,) = checks.replicated_parameters(
        assembled(cli.load_config(TINY, ['--config.sharding.mesh.fsdp=8']))
    )
    assert 'whole on every chip, although the mesh has fsdp' in warning
    assert checks.replicated_parameters(assembled(config)) == result['warnings'] == []


def test_gathered_activations_are_named_and_gathered_parameters_are_not(tiny, monkeypatch):
    monkeypatch.setattr(checks, 'LARGE', 2**10)
    split = assembled(tiny[0])  # Its parameters are.
    whole = assembled(cli.load_config(TINY, []))
    kernel = 'f32[1,64,256]{2,1,0}'  # Of one layer's MLP.
    few_tokens, many_tokens = 'f32[8,5,64]{2,1,0}', 'f32[512,5,64]{2,1,0}'
    for compiled, shape, expected in (
        (split, kernel, 0),
        (split, few_tokens, 0),  # Smaller than the kernel that would be gathered instead.
        (split, many_tokens, 1),
        (whole, few_tokens, 1),
    ):
        program = hlo.Program(
            'ENTRY %main (a: f32[8]) -> f32[8] {\n'
            '  %a = f32[8]{0} parameter(0)\n'
            f'  ROOT %g = {shape} all-gather(%a), channel_id=1, dimensions={{0}}\n'
            '}\n'
        )
        assert len(checks.gathered_activations(compiled, program)) == expected


def test_a_result_is_kept_and_found_again(tiny, monkeypatch):
    config, first, folder = tiny
    monkeypatch.setattr(estimate, 'compile_step', None)
    again = estimate.plan(config, 'cpu', folder=folder, dataset_size=80)
    assert (first['cached'], again['cached']) == (False, True)
    assert again['epoch']['steps'] == 10
    assert again | {'cached': False, 'epoch': first['epoch']} == first
    other = config.copy_and_resolve_references()
    other.batch_size = 16
    with pytest.raises(TypeError):  # Another batch is another plan.
        estimate.plan(other, 'cpu', folder=folder)
    (file,) = folder.iterdir()
    half = file.with_name('half.json')
    half.write_text(file.read_text()[:50])
    assert cache.read(folder, 'half') is None
    half.unlink()


def test_what_does_not_fit_has_no_times_and_says_so(tiny, monkeypatch):
    config, _, _ = tiny

    def short(config, *_, **__):
        return assembled(config)._replace(temporaries=40 * 2**30)

    monkeypatch.setattr(estimate, 'compile_step', short)
    result = estimate.plan(config, 'cpu', dataset_size=80)
    assert result['memory']['fits'] is False
    assert result['memory']['peak'] > 40 * 2**30
    assert result['step_seconds'] is result['flops'] is None
    assert any('peak' in warning for warning in result['warnings'])
    plan.report(result)
    plan.line(result)


def test_the_compilers_words_for_too_little_memory_are_understood():
    error = (
        'RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries '
        '(33.74G) exceeds available HBM (15.75G).'
    )
    assert short_of_memory(error) == int(33.74 * 2**30)
    assert short_of_memory('RESOURCE_EXHAUSTED: Ran out of memory in memory space vmem. 3K') is None
    assert short_of_memory('INTERNAL: out of memory on HBM (1G)') is None


@pytest.mark.parametrize(
    'name', ['v5e', 'v5e:4', 'v5e:4x0', 'v5p:4x4', 'v99:2x2', 'h100', 'v5e:axb']
)
def test_an_unknown_topology_is_one_sentence_with_examples(name):
    with pytest.raises(UserError, match=r'there is no such topology.*v5e:4x8'):
        topology.find(name)


def test_without_the_compiler_the_sentence_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(importlib.util, 'find_spec', lambda _: None)
    with pytest.raises(UserError, match=r"pip install 'vjax\[plan\]'"):
        topology.find('v5e:2x2')


def test_a_sweep_has_the_config_as_it_is_and_what_the_chips_allow():
    config = cli.load_config(TINY, [])
    found = list(sweep.variations(config, 8))
    assert found[0] == []
    assert len(found) == 1 + 3 * 4 * 4  # Batches, meshes, policies.
    for changes in found:
        cli.load_config(TINY, changes)  # All are keys and values of a config.
    slow, fast, large = (
        {'memory': {'fits': fits, 'peak': 1}, 'clips_per_second': speed}
        for fits, speed in ((True, 1.0), (True, 2.0), (False, 9.0))
    )
    assert sweep.rank([large, slow, fast]) == [fast, slow, large]


def test_a_sweep_takes_the_best_plan_of_each_batch_in_microbatches():
    def result(size, speed, mesh, *overrides, accumulate=1, fits=True):
        return {
            'batch_size': size,
            'clips_per_second': speed,
            'mesh': mesh,
            'accumulate': accumulate,
            'memory': {'fits': fits, 'peak': 1},
            'overrides': [*overrides],
        }

    split, whole = {'data': 2, 'fsdp': 4, 'tensor': 2}, {'data': 16}
    results = [
        result(16, 2.0, split, 'slow'),
        result(16, 3.0, whole, 'fast'),
        result(32, None, split, 'large', fits=False),
        result(64, 3.0, whole, 'own', accumulate=2),
    ]
    found = [tuple(changes) for changes in sweep.in_microbatches(results)]
    assert found == [
        ('large', '--config.accumulate=2'),  # `fast` has one example on each device already.
        ('large', '--config.accumulate=4'),
        ('own', '--config.accumulate=4'),
    ]
    for changes in found:
        cli.load_config(TINY, ['--config.batch_size=64', *changes[1:]])


def test_a_sweep_says_once_why_plans_are_not_possible(monkeypatch, capsys):
    config = f'--config={ROOT / TINY}'
    tried = []

    def refuse(config, **_):
        tried.append(config.model.remat)
        raise UserError(f'no batch of {config.batch_size}')

    monkeypatch.setattr(plan, 'plan', refuse)
    jax_platforms = jax.config.jax_platforms
    try:
        plan.main([config, '--topology=cpu', '--sweep', '--batch_size=8'])
    finally:
        jax.config.update('jax_platforms', jax_platforms)
    printed = capsys.readouterr().out.splitlines()
    assert len(tried) == 1 + 3 * 4 * 4
    assert [line.rpartition(' ')[2] for line in printed] == ['8', '4', '16']
    assert all(line.startswith('not possible: ') for line in printed)


@pytest.mark.parametrize('option', ['--price=-4', '--price=nan', '--dataset_size=0'])
def test_a_price_and_a_size_are_positive(option):
    with pytest.raises(UserError, match=f'{option.partition("=")[0]}=.* is not a positive number'):
        plan.main([f'--config={ROOT / TINY}', '--topology=cpu', option])


@pytest.mark.skipif(importlib.util.find_spec('libtpu') is None, reason='needs the [plan] extra')
def test_a_tiny_step_is_planned_for_chips_that_are_not_there(tmp_path):
    command = [sys.executable, '-m', 'vjax.plan', f'--config={TINY}', '--topology=v5e:2x2']
    command += [f'--cache={tmp_path}', '--dataset_size=1000', '--price=1.2', '--json']
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result['num_chips'] == 4
    assert result['memory']['fits']
    assert 0 < result['memory']['peak'] < 2**30
    assert result['cycles'] > 0
    assert 0 < result['mfu'] < 1
    assert result['epoch']['dollars'] == pytest.approx(1.2 * result['epoch']['seconds'] * 4 / 3600)
    assert result['collectives']['all-reduce']['count'] >= 1
    assert result['unknown_loops'] == 0


def test_a_plan_with_other_flags_of_the_compiler_is_another(monkeypatch):
    names = {cache.key(config={})}
    monkeypatch.setenv('LIBTPU_INIT_ARGS', '--xla_tpu_scoped_vmem_limit_kib=32768')
    names.add(cache.key(config={}))
    with jax.default_matmul_precision('highest'):
        names.add(cache.key(config={}))
    with jax.enable_x64(True):
        names.add(cache.key(config={}))
    with jax.default_prng_impl('rbg'):
        names.add(cache.key(config={}))
    assert len(names) == 5


def test_the_edition_is_of_all_that_the_step_is_made_of():
    """Whatever of vjax.training its sources import is among them, but what makes no step."""
    root = Path(cache.__file__).parents[1]
    own = {
        file for source in cache.SOURCES for file in (root / source, *(root / source).rglob('*.py'))
    }
    found = set()
    for file in filter(Path.is_file, own):
        for node in ast.walk(ast.parse(file.read_text())):
            module = getattr(node, 'module', '') or ''
            if isinstance(node, ast.ImportFrom) and module == 'vjax.training':
                found |= {name.name for name in node.names}
            elif module.startswith('vjax.training.'):
                found.add(module.split('.')[2])
    missing = {name for name in found if root / 'training' / f'{name}.py' not in own}
    assert missing == {'runs'}  # It gives the shapes of parameters, which are the model's.


MESHES = """
import json
from vjax.planning import topology
from vjax.training import sharding
for name in ('v5e:4x8', 'v6e:4x8', 'v5p:4x4x4'):
    devices, _ = topology.find(name)
    for axes in ({}, {'fsdp': 8}, {'fsdp': 4, 'tensor': 2}, {'time': 8}, {'fsdp': -1, 'data': 1}):
        mesh = sharding.make_mesh({'data': -1, **axes}, devices)
        print(json.dumps([name, axes, sorted(device.id for device in mesh.devices.flat)]))
"""


@pytest.mark.skipif(importlib.util.find_spec('libtpu') is None, reason='needs the [plan] extra')
def test_meshes_that_split_an_axis_of_the_torus():
    """Of which jax.make_mesh refuses four on v6e and v5p."""
    how = {'env': os.environ | {'JAX_PLATFORMS': 'cpu'}, 'cwd': ROOT}
    done = subprocess.run([sys.executable, '-c', MESHES], capture_output=True, text=True, **how)
    assert done.returncode == 0, done.stderr
    meshes = [json.loads(text) for text in done.stdout.splitlines()]
    assert len(meshes) == 15
    for name, _, numbers in meshes:
        assert numbers == list(range(64 if name == 'v5p:4x4x4' else 32))
