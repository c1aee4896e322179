"""What became of every parameter when weights were loaded, for people to read before they trust it."""

import itertools
import posixpath
from collections.abc import Iterable, Mapping
from typing import NamedTuple


class Report(NamedTuple):
    """Every parameter of the model is in one of the first three, every one of the file used or unused.

    Attributes:
      loaded: Paths of the parameters that were taken as they are.
      changed: Path -> how it was changed to fit.
      left: Path -> why it was left at its initialisation.
      unused: Name in the file -> why the model has no use for it; behind 'view_0:' for the first of
        several files.
    """

    loaded: tuple[str, ...]
    changed: Mapping[str, str]
    left: Mapping[str, str]
    unused: Mapping[str, str]

    def __str__(self) -> str:
        sections = (
            ('loaded as they are', dict.fromkeys(self.loaded, '')),
            ('changed to fit', self.changed),
            ('left at initialisation', self.left),
            ('not used', self.unused),
        )
        lines = []
        for title, entries in sections:
            lines.append(f'{title}: {len(entries)}')
            if title != sections[0][0]:
                lines += [f'  {line}' for line in _grouped(entries)]
        return '\n'.join(lines)


def _grouped(entries: Mapping[str, str]) -> Iterable[str]:
    """One line for all the neighbours that share a module and a reason."""
    key = lambda entry: (entry[0].split('/')[0], entry[1])  # noqa: E731
    for (_, why), group in itertools.groupby(sorted(entries.items(), key=key), key):
        names = [name for name, _ in group]
        shown = names[0]
        if len(names) > 1:
            module = posixpath.commonpath(names)
            shown = f'{module}/* ({len(names)})'
        yield f'{shown}: {why}' if why else shown
