"""What every command does before it does anything: --help, wrong arguments, exit codes."""

import itertools
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
COMMANDS = (
    'train',
    'evaluate',
    'predict',
    'watch',
    'prepare',
    'describe',
    'plan',
    'report',
    'look',
    'convert',
    'demo',
)
CONFIG = '--config=configs/vivit/moving_digits.py'

BAD = [  # Of each command the first is among the fast tests.
    ('train', (CONFIG, '--workdir=unused', '--config.modle.depth=4'), "did you mean 'model'"),
    ('train', (CONFIG, '--workdir=unused', '--config.model.depth=four'), 'config.model.depth'),
    ('train', (CONFIG, '--workdir=unused', '--config.clip.num_frames=7'), 'num_frames=7'),
    ('train', (CONFIG, '--workdir=unused', '--config.dataset.path=nowhere'), 'nowhere'),
    ('train', ('--config=configs/vivit/none.py', '--workdir=unused'), 'configs/vivit/none.py'),
    ('train', (CONFIG, '--workdir=gs://bucket/run'), 'the one that it is mounted at'),
    ('train', (CONFIG, '--workdir='), "--workdir=''"),
    ('train', (f'{CONFIG}:atention=spacetime', '--workdir=unused'), "did you mean 'attention'"),
    ('train', (CONFIG,), '--workdir'),
    ('evaluate', ('--workdir=nowhere',), "'nowhere' is no workdir"),
    ('evaluate', ('--workdir=nowhere', '--views=4'), "views '4'"),
    ('report', ('--workdir=nowhere',), "'nowhere' is no workdir"),
    ('report', ('--workdir=nowhere', '--config.clip.size=8'), "'nowhere' is no workdir"),
    ('predict', ('--workdir=nowhere', 'video.mp4'), "'nowhere' is no workdir"),
    ('predict', ('--workdir=nowhere',), 'FILE'),
    ('watch', ('--workdir=nowhere', 'video.mp4'), "'nowhere' is no workdir"),
    ('watch', ('--workdir=nowhere', 'video.mp4', '--segments=unused/a.csv'), 'no folder'),
    ('look', ('--workdir=nowhere', 'video.mp4', '--out=README.md'), 'is a file; name a folder'),
    ('look', ('--workdir=nowhere', 'video.mp4', '--out=unused'), "'nowhere' is no workdir"),
    ('look', ('--workdir=nowhere', 'video.mp4'), '--out'),
    ('convert', ('--source=vit', '--checkpoint=x.npz', '--out=unused'), 'needs --config'),
    ('convert', ('--source=vit', '--checkpoint=x.npz', '--out=unused', CONFIG), 'no such file'),
    ('convert', ('--source=vjax', '--checkpoint=nowhere', '--out=unused'), 'is no workdir'),
    (
        'convert',
        (
            '--source=vit',
            '--checkpoint=x.npz',
            '--out=unused',
            CONFIG,
            '--config.adapt.head=on',
        ),
        "head='on' is not one of auto, keep, drop",
    ),
    ('describe', (CONFIG, '--config.model.num_heads=5'), 'num_heads=5'),
    ('describe', (CONFIG, '--config.model.tubelet=(2,8)'), 'tubelet=(2, 8)'),
    ('plan', (CONFIG, '--topology=v9:2x2'), 'as in v5e:4x8'),
    ('plan', (CONFIG, '--topology=gpu'), 'has no gpu'),
    (
        'prepare',
        ('--videos=none', '--annotations=none.csv', '--out=unused', '--split=train'),
        'none',
    ),
]


def run(command, *args):
    return subprocess.run(
        [sys.executable, '-m', f'vjax.{command}', *args], cwd=ROOT, capture_output=True, text=True
    )


def test_help_and_models_need_no_tensorflow():
    modules = [f'vjax.{command}' for command in COMMANDS]
    modules += ['vjax.models.vivit', 'vjax.training.step', 'vjax.data.pipeline']
    code = f'import sys, {", ".join(modules)}; sys.exit("tensorflow" in sys.modules)'
    assert subprocess.run([sys.executable, '-c', code], cwd=ROOT).returncode == 0


@pytest.mark.parametrize('command', COMMANDS)
def test_help_shows_how_it_is_called(command):
    done = run(command, '--help')
    assert done.returncode == 0
    assert f'python -m vjax.{command}' in done.stdout


def test_the_commands_are_listed():
    listed = subprocess.run(
        [sys.executable, '-m', 'vjax'], cwd=ROOT, capture_output=True, text=True
    )
    lines = listed.stdout.splitlines()
    assert sorted(line.split()[2] for line in lines) == sorted(f'vjax.{each}' for each in COMMANDS)


@pytest.mark.parametrize(
    ('command', 'args', 'sentence'),
    [
        pytest.param(*case, marks=pytest.mark.slow if case[0] == before[0] else ())
        for before, case in itertools.pairwise([('',), *BAD])
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(command, args, sentence):
    done = run(command, *args)
    assert done.returncode == 2
    assert sentence in done.stderr
    assert 'Traceback' not in done.stderr
    assert 'error: ' in done.stderr.splitlines()[-1]
    assert not (ROOT / 'unused').exists()
