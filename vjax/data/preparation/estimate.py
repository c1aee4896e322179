"""How large a prepared split will be in either store, from a few of its videos."""

import dataclasses
import multiprocessing
import multiprocessing.connection
import pathlib
import time
from typing import Any

from vjax.data.annotations.items import Annotations, Item
from vjax.data.preparation import shards
from vjax.data.video import CRF, JPEG_QUALITY, BadVideo

NUM_SAMPLES = 4
_MAX_SECONDS = 60.0


@dataclasses.dataclass(frozen=True)
class Estimate:
    """Of a whole split: bytes in each store, and the seconds of one CPU that it takes to get there."""

    num_bytes: dict[str, int]
    cpu_seconds: dict[str, float]


def estimate(
    videos: pathlib.Path, annotations: Annotations, missing: list[str], short_side: int
) -> Estimate | None:
    """Encodes a few videos for both stores; None where that fails, or takes longer than a minute.

    In a process of its own, since a video may crash its decoder.
    """
    gone = set(missing)
    items = [item for item in annotations.items if item.path not in gone]
    if not items:
        return None
    chosen = items[:: max(1, len(items) // NUM_SAMPLES)][:NUM_SAMPLES]
    context = multiprocessing.get_context('spawn')
    ours, theirs = context.Pipe()
    process = context.Process(target=_measure, args=(theirs, videos, chosen, short_side))
    process.start()
    theirs.close()
    try:
        measured = ours.recv() if ours.poll(_MAX_SECONDS) else None
    except EOFError:  # It crashed.
        measured = None
    finally:
        process.kill()
        process.join()
    if not measured:
        return None
    num_bytes, seconds, count = measured
    scale = len(items) / count
    return Estimate(
        {store: round(scale * size) for store, size in num_bytes.items()},
        {store: scale * taken for store, taken in seconds.items()},
    )


def _measure(
    messages: multiprocessing.connection.Connection,
    videos: pathlib.Path,
    items: list[Item],
    short_side: int,
) -> None:
    stores: dict[str, dict[str, Any]] = {
        'frames': {'jpeg_quality': JPEG_QUALITY},
        'video': {'crf': CRF},
    }
    num_bytes, seconds = dict.fromkeys(stores, 0), dict.fromkeys(stores, 0.0)
    count = 0
    for item in items:
        try:
            for store, settings in stores.items():
                began = time.process_time()
                settings = {'store': store, 'short_side': short_side} | settings
                entry, _ = shards.encode(videos, item, (), settings)
                num_bytes[store] += sum(entry.sizes)
                seconds[store] += time.process_time() - began
        except BadVideo:
            continue
        count += 1
    messages.send((num_bytes, seconds, count) if count else None)
