import errno
import os
import subprocess
import sys
import textwrap

import pytest

from vjax import cli
from vjax.errors import TryAgain, UserError

CONFIG = """
    from ml_collections import ConfigDict, config_dict

    def get_config(arg=''):
        if arg == 'broken':
            raise ValueError('no such variant: broken')
        if arg == 'user':
            from vjax.errors import UserError
            raise UserError('variant=Z/16 is not a variant.')
        return ConfigDict(dict(
            name=arg, seed=0, rate=0.1, on=False, fps=config_dict.placeholder(float),
            model=dict(depth=2, widths=(1, 2)),
        ))
"""


@pytest.fixture
def config_file(tmp_path):
    path = tmp_path / 'config.py'
    path.write_text(textwrap.dedent(CONFIG))
    return str(path)


def make_parser():
    parser = cli.parser('What it does.')
    cli.add_config(parser)
    parser.add_argument('--workdir')
    parser.add_argument('files', nargs='*')
    return parser


def test_parse_args_accepts_both_spellings():
    argv = ['--config', 'a.py:x', '--config.a.b', '3', 'FILE', '--config.c=d=e', '--workdir=W']
    args, overrides = cli.parse_args(make_parser(), argv)
    assert (args.config, args.workdir, args.files) == ('a.py:x', 'W', ['FILE'])
    assert overrides == ['--config.a.b=3', '--config.c=d=e']
    args, overrides = cli.parse_args(make_parser(), ['--config=a.py', '--config.x', '-1'])
    assert (args.config, overrides) == ('a.py', ['--config.x=-1'])
    args, overrides = cli.parse_args(make_parser(), ['--config=a.py', '--', '--config.x=1'])
    assert (args.files, overrides) == (['--config.x=1'], [])


@pytest.mark.parametrize(
    'argv',
    [
        ['--config=a.py', '--wrkdir=W'],
        ['--config=a.py', '--work=W'],
        ['--config=a.py', '--config.x'],
        ['--config=a.py', '--configs.x=1'],
        ['--workdir=W'],
    ],
)
def test_parse_args_refuses_what_it_does_not_know(argv, capsys):
    with pytest.raises(SystemExit) as exit_info:
        cli.parse_args(make_parser(), argv)
    assert exit_info.value.code == 2
    assert 'usage:' in capsys.readouterr().err


def test_an_override_needs_a_config(capsys):
    with pytest.raises(SystemExit):
        cli.parse_args(cli.parser('No config here.'), ['--config.x=1'])
    assert '--config.x=1' in capsys.readouterr().err


def test_load_config_applies_overrides_in_order(config_file):
    overrides = ['seed=1', 'on=true', 'fps=12.5', 'model.depth=3', 'model.widths=(4,)', 'seed=2']
    config = cli.load_config(f'{config_file}:tiny', [f'--config.{o}' for o in overrides])
    assert config.to_dict() == {
        'name': 'tiny',
        'seed': 2,
        'rate': 0.1,
        'on': True,
        'fps': 12.5,
        'model': {'depth': 3, 'widths': (4,)},
    }
    assert config.is_locked
    assert cli.load_config(config_file, []).name == ''


def test_what_may_be_none_is_set_to_it():
    path = 'configs/vivit/moving_digits.py'
    overrides = ['clip.fps=12.5', 'num_steps=None', 'num_epochs=2', 'clip.fps=None', 'num_epochs=3']
    config = cli.load_config(path, [f'--config.{each}' for each in overrides])
    assert (config.clip.fps, config.num_steps, config.num_epochs) == (None, None, 3.0)
    config = cli.load_config(path, ['--config.clip.fps=None', '--config.clip.fps=6'])
    assert config.clip.fps == 6.0
    with pytest.raises(UserError, match='batch_size takes a whole number'):
        cli.load_config(path, ['--config.batch_size=None'])


@pytest.mark.parametrize(
    ('override', 'words'),
    [
        ('--config.modle.depth=4', ['--config.modle.depth', "'modle'", "did you mean 'model'"]),
        ('--config.model.dpth=4', ["'dpth'", 'config.model', "'depth'"]),
        ('--config.qqqq=4', ["'qqqq'", 'seed']),
        ('--config.seed=four', ['--config.seed=four: config.seed takes a whole number', 'is 0.']),
        (
            '--config.model.depth=2.5',
            ['--config.model.depth=2.5: config.model.depth takes a whole'],
        ),
        ('--config.on=maybe', ['--config.on=maybe: config.on takes True or False']),
        ('--config.fps=fast', ['--config.fps=fast: config.fps takes a number']),
        ('--config.seed', ['--config.seed']),
        ('--config.seed.deeper=1', ['--config.seed.deeper', 'config.seed is the value 0']),
        ('--config.model=3', ['config.model is a section', '--config.model.depth=VALUE']),
        ('--config.model.widths[0]=3', ['set as a whole', '--config.model.widths="(1, 2)"']),
        ('--config.model.widths[a=3', ['set as a whole', '--config.model.widths="(1, 2)"']),
        ('--config.model.patch=16', ["'patch'", 'it has depth, widths.']),
    ],
)
def test_a_wrong_override_is_one_sentence_that_names_the_key(config_file, override, words):
    with pytest.raises(UserError) as error:
        cli.load_config(config_file, [override])
    sentence = str(error.value)
    assert '\n' not in sentence
    for word in words:
        assert word in sentence


def test_a_config_that_does_not_load_is_one_sentence(tmp_path, config_file):
    with pytest.raises(UserError, match=r"no config file '.*nothing\.py'"):
        cli.load_config(str(tmp_path / 'nothing.py') + ':tiny', [])
    with pytest.raises(UserError, match=r"did you mean 'configs/vivit/moving_digits\.py'\?"):
        cli.load_config('configs/vivt/moving_digit.py:tiny', [])
    with pytest.raises(UserError, match=r'line 6\): ValueError: no such variant: broken\.$'):
        cli.load_config(f'{config_file}:broken', [])
    with pytest.raises(UserError, match=r'^variant=Z/16 is not a variant\.$'):
        cli.load_config(f'{config_file}:user', [])
    (tmp_path / 'syntax.py').write_text('\nthis is no python\n')
    with pytest.raises(UserError, match=r'line 2.*SyntaxError'):
        cli.load_config(str(tmp_path / 'syntax.py'), [])
    (tmp_path / 'imports.py').write_text('import no_such_module\n')
    with pytest.raises(UserError, match='no_such_module'):
        cli.load_config(str(tmp_path / 'imports.py'), [])
    (tmp_path / 'reads.py').write_text('def get_config():\n    open("missing.json")\n')
    with pytest.raises(UserError, match=r'line 2.*FileNotFoundError.*missing\.json'):
        cli.load_config(str(tmp_path / 'reads.py'), [])
    (tmp_path / 'none.py').write_text('def get_config():\n    pass\n')
    with pytest.raises(UserError, match='must return'):
        cli.load_config(str(tmp_path / 'none.py'), [])
    (tmp_path / 'empty.py').write_text('x = 1\n')
    with pytest.raises(UserError, match='get_config'):
        cli.load_config(str(tmp_path / 'empty.py'), [])


@pytest.mark.parametrize(
    ('outcome', 'code', 'stderr'),
    [
        (None, 0, ''),
        (3, 3, ''),
        (UserError('no such thing.'), 2, 'error: no such thing.\n'),
        (TryAgain('not today.'), 1, 'error: not today.\n'),
        (KeyboardInterrupt(), 130, 'interrupted\n'),
        (
            OSError(errno.ENOSPC, 'No space left on device', 'out/a.bin'),
            2,
            'error: the disk is full: could not write out/a.bin; '
            'free some space and run the same command again.\n',
        ),
    ],
)
def test_run_turns_outcomes_into_exit_codes(outcome, code, stderr, capsys):
    def main(argv):
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    with pytest.raises(SystemExit) as exit_info:
        cli.run(main)
    assert exit_info.value.code == code
    assert capsys.readouterr().err == stderr


def test_run_leaves_bugs_alone():
    def main(argv):
        raise OSError(errno.EIO, os.strerror(errno.EIO), 'disk')

    with pytest.raises(OSError, match='disk'):
        cli.run(main)


def test_run_says_what_may_not_be_written(capsys):
    def main(argv):
        raise OSError(errno.EACCES, os.strerror(errno.EACCES), 'secret')

    with pytest.raises(SystemExit) as exit_info:
        cli.run(main)
    assert exit_info.value.code == 2
    assert capsys.readouterr().err == 'error: cannot read or write secret: Permission denied.\n'


def test_run_prints_any_name_of_a_file():
    code = "from vjax import cli; cli.run(lambda argv: print('caf\\udce9.mp4'))"
    environment = os.environ | {'PYTHONIOENCODING': 'utf-8:strict'}
    run = subprocess.run(
        [sys.executable, '-c', code], env=environment, capture_output=True, text=True
    )
    assert (run.returncode, run.stdout) == (0, 'caf\\udce9.mp4\n')


def test_two_options_do_not_write_one_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cli.check_files(out='a.csv', predictions=tmp_path / 'b.csv', confusion='', outputs=None)
    with pytest.raises(UserError, match=r'--predictions=.*a\.csv. is the file of --out too'):
        cli.check_files(out='a.csv', predictions=tmp_path / 'a.csv')


def test_no_device_is_replaced_by_a_file(tmp_path):
    os.mkfifo(tmp_path / 'pipe')
    with pytest.raises(UserError, match=r'--out=.*pipe. is a device or a pipe; name a file'):
        cli.check_files(out=tmp_path / 'pipe')
    cli.check_files(out=tmp_path / 'new.csv')


def test_nobody_needs_to_read_what_is_printed():
    code = 'from vjax import cli; cli.run(lambda argv: print("done"))'
    command = f"{sys.executable} -c '{code}' >&-"
    found = subprocess.run(command, shell=True, capture_output=True, text=True, check=True)
    assert (found.stdout, found.stderr) == ('', '')


def test_importing_cli_is_light():
    code = 'import sys, vjax.cli; print([m for m in ("tensorflow", "jax") if m in sys.modules])'
    out = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == '[]'
