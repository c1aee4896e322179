"""How large a prepared split will be in either store, from a few of its videos."""

import dataclasses
import multiprocessing
import multiprocessing.connection
import signal
import time
from collections.abc import Mapping
from typing import Any

from vjax.data import tfrecord, video
from vjax.data.annotations.items import Annotations, Item
from vjax.data.index import Entry
from vjax.data.preparation import processes, shards

NUM_SAMPLES = 4
_MAX_SECONDS = 30.0
_PART = 2.0  # Seconds, from the middle, of which a long video is encoded anew.


@dataclasses.dataclass(frozen=True)
class Estimate:
    """Of a whole split: bytes in each store, and the seconds of one CPU that it takes to get there."""

    num_bytes: dict[str, int]
    cpu_seconds: dict[str, float]


def estimate(
    videos: str,
    annotations: Annotations,
    missing: list[str],
    settings: Mapping[str, dict[str, Any]],
    limits: video.Limits,
    budget: processes.Budget,
) -> Estimate | None:
    """Encodes a few videos for each store, of all parts of the split, for half a minute at most.

    In a process of its own: a video may crash or stop its decoder, which ends the estimate there.

    Args:
        videos: folder that the paths start from.
        annotations: of the split.
        missing: paths of the videos that are not there.
        settings: of each store, 'frames' and 'video'.
        limits, budget: of each video.

    Returns:
        None where no video could be encoded.
    """
    gone = set(missing)
    items = [item for item in annotations.items if item.path not in gone]
    if not items:
        return None
    count = min(NUM_SAMPLES, len(items))
    chosen = [items[(2 * i + 1) * len(items) // (2 * count)] for i in range(count)]
    context = multiprocessing.get_context('spawn')
    ours, theirs = context.Pipe()
    arguments = (theirs, videos, chosen, settings, limits, budget)
    process = context.Process(target=_measure, args=arguments, daemon=True)
    process.start()
    theirs.close()
    samples = []
    deadline = time.monotonic() + _MAX_SECONDS
    try:
        while len(samples) < count:
            left = min(deadline - time.monotonic(), len(settings) * budget.seconds)
            if not ours.poll(max(0.0, left)):
                break
            samples.append(ours.recv())
    except (EOFError, ConnectionResetError):  # It crashed.
        pass
    finally:
        process.kill()
        process.join()
        ours.close()
    if not any(samples):
        return None
    # A sample that is no video counts: there will be others like it.
    scale = len(items) / len(samples)

    def total(store, column):
        return sum(scale * sample[store][column] for sample in samples if sample)

    return Estimate(
        {store: round(total(store, 0)) for store in settings},
        {store: total(store, 1) for store in settings},
    )


def _measure(
    messages: multiprocessing.connection.Connection,
    videos: str,
    items: list[Item],
    settings: Mapping[str, dict[str, Any]],
    limits: video.Limits,
    budget: processes.Budget,
) -> None:
    """Sends {store: (bytes, CPU seconds)} of each item; an empty one of an item that is no video."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer.
    processes.limit_memory(budget.gib)
    for item in items:
        sample = {}
        try:
            size, seconds, whole = _encode(videos, item, settings['frames'], limits)
            sample['frames'] = (size, seconds)
            middle = item.start + whole.num_frames / whole.fps / 2
            if whole.num_frames / whole.fps > 2 * _PART:
                start, end = middle - _PART / 2, middle + _PART / 2
                item = dataclasses.replace(item, start=start, end=end)
            size, seconds, part = _encode(videos, item, settings['video'], limits)
            scale = whole.num_frames / part.num_frames
            sample['video'] = (scale * size, scale * seconds)
        except Exception:  # The run itself will say what is wrong.
            sample = {}
        messages.send(sample)


def _encode(
    videos: str, item: Item, settings: dict[str, Any], limits: video.Limits
) -> tuple[int, float, Entry]:
    """Bytes in a shard, CPU seconds, and the row of the index."""
    began = time.process_time()
    entry, _ = shards.encode(videos, item, (), settings, limits)
    size = sum(entry.sizes) + tfrecord.OVERHEAD * len(entry.sizes)
    return size, time.process_time() - began, entry
