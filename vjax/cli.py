"""What every entry point does at its edge: arguments, configs, errors and exit codes.

An entry point is a module with a `main(argv)`:

    def main(argv: list[str]) -> None:
        parser = cli.parser(__doc__)
        cli.add_config(parser)
        parser.add_argument('--workdir', required=True, help='where the run lives')
        args, overrides = cli.parse_args(parser, argv)
        config = cli.load_config(args.config, overrides)
        ...

    if __name__ == '__main__':
        cli.run(main)

Exit codes: 0 done, 130 interrupted, 2 the user can fix it, 1 it may pass (one `error: ...` line on stderr
each; in the first seconds, of imports, Ctrl-C leaves a traceback); a bug keeps its traceback and exits
with 1. Importing this module imports neither TensorFlow nor jax.
"""

import argparse
import difflib
import io
import logging
import os
import pathlib
import re
import sys
import traceback
from collections.abc import Callable, Sequence

from absl import flags
from ml_collections import config_dict, config_flags

from vjax import errors, override
from vjax.errors import UserError
from vjax.override import PREFIX, sentence


def run(main: Callable[[list[str]], int | None]) -> None:
    """Runs `main` on the command line's arguments and exits; see the module for the codes."""
    # Before anything imports TensorFlow: only its errors are news to the user.
    os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')
    os.environ.setdefault('TF_ENABLE_ONEDNN_OPTS', '0')  # Announces itself otherwise.
    os.environ.setdefault('GRPC_VERBOSITY', 'ERROR')
    # Results go to stdout, what happens meanwhile to stderr. Orbax logs, with tracebacks, what it
    # raises anyway.
    logging.basicConfig(format='%(message)s', level=logging.WARNING, force=True)
    logging.getLogger('vjax').setLevel(logging.INFO)
    logging.getLogger('absl').setLevel(logging.CRITICAL)
    if sys.stdout is None:  # Closed by the shell: `>&-`.
        sys.stdout = open(os.devnull, 'w')  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        # File names may be anything; stderr takes them as it is.
        sys.stdout.reconfigure(errors='backslashreplace')
    try:
        code = main(sys.argv[1:]) or 0
        sys.stdout.flush()
    except KeyboardInterrupt:
        print('interrupted', file=sys.stderr)
        code = 130
    except BrokenPipeError:
        # The reader of our output (`| head`) has left; Python must not complain at exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    except errors.TryAgain as error:
        print(f'error: {error}', file=sys.stderr)
        code = 1
    except Exception as error:
        said = errors.explanation(error)
        if said is None:
            raise
        print(f'error: {said}', file=sys.stderr)
        code = 2
    sys.exit(code)


def parser(doc: str | None) -> argparse.ArgumentParser:
    """An argument parser that shows the module's docstring `doc` as it is written."""
    spec = getattr(sys.modules['__main__'], '__spec__', None)
    return argparse.ArgumentParser(
        prog=f'python -m {spec.name}' if spec else None,
        description=doc,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def add_config(parser: argparse.ArgumentParser, required: bool = True) -> None:
    """Adds `--config`, and says in the help how its keys are overridden."""
    parser.add_argument(
        '--config',
        required=required,
        metavar='FILE.py[:ARG]',
        help='the experiment: a Python file with get_config(arg); ARG is handed to it',
    )
    parser.epilog = (
        'Any key of the config is set by --config.KEY=VALUE: --config.model.dropout=0.1.'
    )


def add_run(parser: argparse.ArgumentParser) -> None:
    """Adds `--workdir` and `--checkpoint`, and lets the command line override that run's config."""
    parser.add_argument('--workdir', required=True, help='folder of a run of vjax.train')
    parser.add_argument(
        '--checkpoint', default='latest', help="'latest', 'best' or a step (%(default)s)"
    )
    parser.set_defaults(config='')
    parser.epilog = (
        "Any key of the run's config is set by --config.KEY=VALUE, where the parameters stay the same: "
        '--config.model.grid="(5, 5)".'
    )


def add_classes(parser: argparse.ArgumentParser) -> None:
    """Adds `--classes`, whose value is for `class_files`."""
    parser.add_argument(
        '--classes',
        action='append',
        metavar='[HEAD=]FILE',
        help='class names, one per line, in id order; once for each head if there are several',
    )


def check_files(**files: str | os.PathLike | None) -> None:
    """Whether files can be put where options say, before hours are spent on what they are to hold.

    Args:
      **files: option -> its file; none where it is empty or None.

    Raises:
      UserError: there is no such folder, it is another user's, a file is one or a device, or two are
        the same.
    """
    taken = {}
    for option, file in ((option, pathlib.Path(file)) for option, file in files.items() if file):
        if not file.parent.is_dir():
            raise UserError(f"--{option}='{file}': there is no folder '{file.parent}'.")
        if file.is_dir():
            raise UserError(f"--{option}='{file}' is a folder; name a file in it.")
        if file.exists() and not file.is_file():
            raise UserError(f"--{option}='{file}' is a device or a pipe; name a file.")
        if not os.access(file.parent, os.W_OK):
            raise UserError(f"--{option}='{file}': '{file.parent}' cannot be written to.")
        other = taken.setdefault(file.resolve(), option)
        if other != option:
            raise UserError(
                f"--{option}='{file}' is the file of --{other} too; give it another name."
            )


def class_files(given: Sequence[str] | None) -> str | dict[str, str] | None:
    """What --classes gave: one FILE, or HEAD=FILE of several heads; None where it was not given.

    Raises:
      UserError: several files, and not for each of them whose classes they are.
    """
    files = {}
    for value in given or ():
        head, file = re.fullmatch(r'(?:(\w+)=)?(.*)', value, re.DOTALL).groups()
        if head in files:
            raise UserError(f'--classes {value}: give one file, or one for each head as HEAD=FILE.')
        files[head] = file
    if None in files and len(files) > 1:
        raise UserError(f'--classes={files[None]} does not say whose classes: write HEAD=FILE.')
    return files.get(None, files) or None


def parse_args(
    parser: argparse.ArgumentParser, argv: list[str]
) -> tuple[argparse.Namespace, list[str]]:
    """Parses `argv`; returns the known arguments and the overrides of the config.

    `--config.KEY=VALUE` and `--config.KEY VALUE` both come back as '--config.KEY=VALUE'. Any other
    unknown argument is an error of the parser (usage on stderr, exit code 2), and so is an override
    where the parser has no `--config`.
    """
    known, overrides = [], []
    rest = iter(range(len(argv)))
    for i in rest:
        arg = argv[i]
        if arg == '--':
            known += argv[i:]
            break
        if not arg.startswith(PREFIX):
            known.append(arg)
        elif '=' in arg:
            overrides.append(arg)
        elif i + 1 < len(argv) and not argv[i + 1].startswith('--'):
            overrides.append(f'{arg}={argv[next(rest)]}')
        else:
            parser.error(f'argument {arg}: expected {arg}=VALUE')
    args = parser.parse_args(known)
    if overrides and getattr(args, 'config', None) is None:
        parser.error(f'argument {overrides[0]}: there is no --config to override')
    return args, overrides


def load_config(config_arg: str, overrides: list[str]) -> config_dict.ConfigDict:
    """Loads 'FILE.py[:ARG]', applies '--config.KEY=VALUE' overrides in order, and locks the result.

    Raises:
      UserError: no such file, an error inside it, a key that it does not have, or a value of
        another type; the sentence names the file or the key.
    """
    path = config_arg.split(':', 1)[0]
    if not pathlib.Path(path).is_file():
        near = difflib.get_close_matches(path, map(str, pathlib.Path().glob('configs/*/*.py')), n=1)
        hint = f'; did you mean {near[0]!r}?' if near else '.'
        raise UserError(f'--config={config_arg}: there is no config file {path!r}{hint}')
    config = _load(config_arg, [])
    if not overrides:
        return config
    overrides, cleared = override.split(overrides)
    override.check(config, overrides)
    config = _load(config_arg, overrides)
    override.clear(config, cleared)
    return config


def _load(config_arg: str, overrides: list[str]) -> config_dict.ConfigDict:
    """One pass of ml_collections' own flag parser, on flags that nobody else sees."""
    argv = ['vjax', f'--config={config_arg}', *overrides]
    path = config_arg.split(':', 1)[0]
    values = flags.FlagValues()
    # ml_collections runs a file inside the last one's module, whose names would still be there.
    sys.modules.pop('config_config', None)
    config_flags.DEFINE_config_file(
        'config', flag_values=values, lock_config=True, sys_argv=list(argv)
    )
    try:
        values(argv)
        # A failure to read a file is raised by the first access only.
        getattr(values.config, 'keys', None)
    except Exception as error:
        cause = _original(error)
        if isinstance(cause, UserError):
            raise cause from None
        if overrides:
            # absl's errors begin with 'flag --config.KEY=VALUE: '.
            text = str(error).removeprefix('flag ')
            key = '' if PREFIX in text else f'{" ".join(overrides)}: '
            raise UserError(key + sentence(text)) from error
        frames = traceback.extract_tb(cause.__traceback__)
        lines = [f.lineno for f in frames if os.path.basename(f.filename) == os.path.basename(path)]
        if isinstance(cause, SyntaxError):
            lines.append(cause.lineno)
        where = f', line {lines[-1]}' if lines else ''
        raise UserError(
            f'--config={config_arg} does not load ({path}{where}): '
            f'{type(cause).__name__}: {sentence(str(cause))}'
        ) from error
    if not isinstance(values.config, config_dict.ConfigDict):
        raise UserError(f'{path}: get_config must return an ml_collections.ConfigDict.')
    return values.config


_WRAPPERS = ('Error whilst parsing config file', 'Configuration is not available')


def _original(error: BaseException) -> BaseException:
    """What get_config raised: ml_collections and absl each wrap it in a text of their own."""
    while isinstance(error, flags.Error) or str(error).startswith(_WRAPPERS):
        inner = error.__cause__ or error.__context__
        if inner is None:
            break
        error = inner
    return error
