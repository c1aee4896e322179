"""What a model made of every video of a split, in a file: evaluate where the accelerators are, look at it
anywhere.

The file is .npz: `logits`, `loss`, `label` and `index` as in `metrics.Outputs`, and `result`, the JSON text
of what `vjax.evaluate` prints and how it was come by.
"""

import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from vjax.data.records import write_atomically
from vjax.errors import UserError
from vjax.training.metrics import Outputs

FILE = 'outputs.npz'  # Where vjax.report looks for it, in the workdir.


def write(path: Path, outputs: Outputs, result: dict[str, Any]) -> None:
    """Writes the file, all or nothing."""
    content = io.BytesIO()
    text = np.frombuffer(json.dumps(result, ensure_ascii=False).encode(), np.uint8)
    np.savez_compressed(content, **outputs._asdict(), result=text)
    write_atomically(path, content.getvalue())


def read(path: str | os.PathLike) -> tuple[Outputs, dict[str, Any]]:
    """The outputs of a file that `write` wrote, and the result that goes with them.

    Raises:
        UserError: it is no such file, or it is damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            outputs = Outputs(**{name: arrays[name] for name in Outputs._fields})
            result = json.loads(arrays['result'].tobytes())
        if {len(array) for array in outputs} != {result['num_videos']}:
            raise ValueError(f'it is not of {result["num_videos"]} videos')
    # zipfile, zlib and numpy each have errors of their own for damaged files.
    except Exception as error:
        reason = ' '.join(str(error).split())
        raise UserError(
            f"cannot read '{os.fspath(path)}' ({type(error).__name__}: {reason}); delete it, or write it "
            'again with vjax.evaluate --outputs.'
        ) from error
    return outputs, result
