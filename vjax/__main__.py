"""The commands of vjax: python -m vjax"""

import ast
from pathlib import Path

from vjax import cli


def main(argv: list[str]) -> None:
    """Prints each command with the first line of its help."""
    cli.parser(__doc__).parse_args(argv)
    for file in sorted(Path(__file__).parent.glob('*.py')):
        source = file.read_text(encoding='utf-8')
        if file.stem != '__main__' and '\n    cli.run(main)\n' in source:
            first, *_ = ast.get_docstring(ast.parse(source)).splitlines()
            what, _, _ = first.partition(': python -m')
            print(f'python -m vjax.{file.stem:<9}{what.rstrip(".:")}')


if __name__ == '__main__':
    cli.run(main)
