"""CSV files beside a data set that have rows of all of its splits."""

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Any

from vjax.data.preparation.storage import Folder


def replace_rows(
    out: Folder, name: str, header: Sequence[str], split: str, rows: Iterable[Sequence[Any]]
) -> None:
    """Writes the rows of `split` into a file, leaving those of other splits.

    Args:
        out: the data set's folder.
        name: of the file.
        header: names of the columns, of which one is 'split'.
        split: whose rows they are.
        rows: its rows.
    """
    (text,) = out.read([name])
    _, *others = csv.reader(io.StringIO((text or b'\n').decode(), newline=''))
    column = header.index('split')
    kept = [row for row in others if row[column] != split]
    content = io.StringIO()
    csv.writer(content, lineterminator='\n').writerows([header, *kept, *rows])
    out.write(name, content.getvalue())
