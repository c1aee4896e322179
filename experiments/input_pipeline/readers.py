"""Ways from stored films to batches of random clips, uint8 [batch, time, side, side, 3], without end.

All but vjax's own are written here as plainly as their libraries' documentation would have them. Those
that decode a film alone do it in one thread, and write the pixels straight into the batch.
"""

import contextlib
import dataclasses
import functools
import importlib
import itertools
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
from jaxtyping import Int, UInt8

from experiments.input_pipeline.videos import SPLIT, Films
from vjax import recipes
from vjax.data import pipeline, stores

Clips = Iterator[UInt8[np.ndarray, 'batch time side side 3']]


@dataclasses.dataclass(frozen=True)
class Task:
    """What is read.

    Attributes:
        films: from these.
        num_frames, stride: of a clip; `32x2` is 32 frames, every other one.
        size: side of the square that is cut out of the frames at random.
        batch_size: clips.
        num_threads: of the readers that have any.
        seed: of all draws.
    """

    films: Films
    num_frames: int
    stride: int
    size: int = 224
    batch_size: int = 8
    num_threads: int = 2
    seed: int = 0

    def draw(self, rng: np.random.Generator) -> tuple[Int[np.ndarray, 'time'], tuple[slice, slice]]:
        """Frames of a film, and rows and columns of them."""
        span = (self.num_frames - 1) * self.stride + 1
        start = rng.integers(self.films.num_frames - span + 1)
        top = rng.integers(self.films.height - self.size + 1)
        left = rng.integers(self.films.width - self.size + 1)
        window = slice(top, top + self.size), slice(left, left + self.size)
        return start + np.arange(self.num_frames) * self.stride, window

    def batches(self, read: Callable[[int, Any, Any, np.ndarray], None]) -> Clips:
        """What `read` writes, clip by clip, given a film's number, frames, a window, and the clip."""
        rng = np.random.default_rng(self.seed)
        epochs = (rng.permutation(self.films.count).tolist() for _ in itertools.count())
        order = itertools.chain.from_iterable(epochs)
        while True:
            batch = np.empty((self.batch_size, self.num_frames, self.size, self.size, 3), np.uint8)
            for clip in batch:
                read(next(order), *self.draw(rng), clip)
            yield batch


# --- The limit. ---


def libjpeg_turbo(task: Task, fast_dct: bool = False) -> Clips:
    """JPEG bytes in memory -> whole frames, by libjpeg-turbo alone; nothing is kept of them.

    simplejpeg gives the bytes and a buffer to libjpeg-turbo's decompressor and does nothing else.
    """
    jpegs = task.films.jpegs()
    frame = np.empty((task.films.height, task.films.width, 3), np.uint8)

    def read(film, frames, window, clip):
        for i in frames:
            simplejpeg.decode_jpeg(jpegs[film][i], fastdct=fast_dct, buffer=frame)

    return task.batches(read)


# --- vjax. ---


def vjax(task: Task, store: str) -> Clips:
    """The whole pipeline, from the disk to a batch of numpy arrays."""
    config = recipes.base()
    config.clip.update(
        num_frames=task.num_frames,
        stride=task.stride,
        short_side=min(task.films.height, task.films.width),
        size=task.size,
    )
    config.augment.update(scale_jitter=(1.0, 1.0), random_crop=True)
    batches = pipeline.train_batches(
        task.films.dataset(store),
        SPLIT,
        clip=config.clip.to_dict(),
        augment=config.augment.to_dict(),
        batch_size=task.batch_size,
        seed=task.seed,
        num_threads=task.num_threads,
    )
    return (batch['video'] for batch in batches)


# --- The same JPEG frames, read in other ways. ---


def grain(task: Task) -> Clips:
    """grain's MapDataset: random access, decoded whole by libjpeg-turbo in threads."""
    import grain

    store = stores.open_store(task.films.dataset('frames'), SPLIT)

    def read(film, rng):
        frames, (rows, columns) = task.draw(rng)
        decoded = [simplejpeg.decode_jpeg(jpeg) for jpeg in store.read(film, frames)]
        return np.stack([frame[rows, columns] for frame in decoded])

    clips = grain.MapDataset.range(task.films.count).seed(task.seed).shuffle().repeat()
    clips = clips.random_map(read).batch(task.batch_size)
    options = grain.ReadOptions(num_threads=task.num_threads, prefetch_buffer_size=4)
    return iter(clips.to_iter_dataset(options))


def tfrecord(task: Task) -> Clips:
    """Files interleaved, a shuffle buffer, whole films parsed and the clip's frames decoded (DMVR)."""
    import tensorflow as tf

    span = (task.num_frames - 1) * task.stride + 1
    room = task.films.height - task.size, task.films.width - task.size

    def decode(record):
        features = {'image/encoded': tf.io.FixedLenSequenceFeature([], tf.string)}
        jpegs = tf.io.parse_single_sequence_example(record, sequence_features=features)[1]
        jpegs = jpegs['image/encoded']
        start = tf.random.uniform([], 0, tf.shape(jpegs)[0] - span + 1, tf.int32)
        corner = [tf.random.uniform([], 0, most + 1, tf.int32) for most in room]
        window = tf.stack([*corner, task.size, task.size])
        return tf.map_fn(
            lambda jpeg: tf.io.decode_and_crop_jpeg(jpeg, window, channels=3),
            jpegs[start : start + span : task.stride],
            fn_output_signature=tf.TensorSpec([task.size, task.size, 3], tf.uint8),
        )

    paths = [str(path) for path in task.films.tfrecord]
    data = tf.data.Dataset.from_tensor_slices(paths).shuffle(len(paths), task.seed)
    data = data.interleave(
        tf.data.TFRecordDataset,
        cycle_length=len(paths),
        num_parallel_calls=task.num_threads,
        deterministic=False,
    )
    data = data.repeat().shuffle(task.films.count // 2, task.seed)
    data = data.map(decode, num_parallel_calls=task.num_threads, deterministic=False)
    data = data.batch(task.batch_size, drop_remainder=True).prefetch(2)
    options = tf.data.Options()
    options.threading.private_threadpool_size = task.num_threads
    return data.with_options(options).as_numpy_iterator()


# --- mp4 files. ---


def pyav(task: Task) -> Clips:
    """PyAV: seeks to the keyframe before the clip, and decodes all frames up to the clip's last."""
    import av

    def read(film, frames, window, clip):
        with av.open(str(task.films.mp4[film])) as container:
            stream = container.streams.video[0]
            stream.codec_context.thread_type = 'NONE'
            at_first = int(frames[0] / stream.average_rate / stream.time_base)
            container.seek(at_first, stream=stream)
            places = {int(frame): i for i, frame in enumerate(frames)}
            for frame in container.decode(stream):
                number = round(frame.pts * stream.time_base * stream.average_rate)
                if number in places:
                    rgb = frame.to_ndarray(format='rgb24', threads=1)
                    clip[places.pop(number)] = rgb[window]
                if not places:
                    break

    return task.batches(read)


def decord(task: Task) -> Clips:
    """decord's VideoReader, a clip in one call."""
    import decord

    def read(film, frames, window, clip):
        reader = decord.VideoReader(str(task.films.mp4[film]), num_threads=1)
        clip[:] = reader.get_batch(frames).asnumpy()[:, *window]

    return task.batches(read)


def torchcodec(task: Task, seek_mode: str) -> Clips:
    """torchcodec's VideoDecoder, a clip in one call."""
    import torch
    from torchcodec.decoders import VideoDecoder

    torch.set_num_threads(1)

    def read(film, frames, window, clip):
        decoder = VideoDecoder(
            task.films.mp4[film],
            dimension_order='NHWC',
            num_ffmpeg_threads=1,
            seek_mode=seek_mode,
        )
        clip[:] = decoder.get_frames_at(frames.tolist()).data.numpy()[:, *window]

    return task.batches(read)


# --- What there is. ---


@dataclasses.dataclass(frozen=True)
class Reader:
    """A row of the table.

    Attributes:
        name: its name.
        stored: what it reads, a key of `Films.bytes_per_film`.
        packages: that it needs beyond those of vjax.
        open: starts it.
        own_ffmpeg: whether FFmpeg's libraries must be found for it.
    """

    name: str
    stored: str
    packages: tuple[str, ...]
    open: Callable[[Task], Clips]
    own_ffmpeg: bool = False


LIMIT, FAST_LIMIT = 'libjpeg-turbo, frames in memory', 'libjpeg-turbo with its fast DCT'
VJAX_FRAMES, VJAX_VIDEO = 'vjax, --store=frames', 'vjax, --store=video'
READERS = {
    reader.name: reader
    for reader in (
        Reader(LIMIT, 'frames', (), libjpeg_turbo),
        Reader(FAST_LIMIT, 'frames', (), functools.partial(libjpeg_turbo, fast_dct=True)),
        Reader(VJAX_FRAMES, 'frames', (), functools.partial(vjax, store='frames')),
        Reader('TFRecord interleave + shuffle', 'tfrecord', (), tfrecord),
        Reader('grain MapDataset', 'frames', ('grain',), grain),
        Reader(VJAX_VIDEO, 'video', (), functools.partial(vjax, store='video')),
        Reader('PyAV', 'mp4', ('av',), pyav),
        Reader('decord', 'mp4', ('decord',), decord),
        Reader(
            'torchcodec, exact',
            'mp4',
            ('torchcodec', 'torch'),
            functools.partial(torchcodec, seek_mode='exact'),
            own_ffmpeg=True,
        ),
        Reader(
            'torchcodec, approximate',
            'mp4',
            ('torchcodec', 'torch'),
            functools.partial(torchcodec, seek_mode='approximate'),
            own_ffmpeg=True,
        ),
    )
}


def missing(reader: Reader) -> str:
    """Why the packages of a reader cannot be used here, in a line; '' if they can."""
    for package in reader.packages:
        try:
            importlib.import_module(package)
        # A package whose shared libraries do not fit fails in its own way.
        except (ImportError, OSError, RuntimeError) as error:
            return f'{package}: {type(error).__name__}'
    return ''


@contextlib.contextmanager
def pyav_ffmpeg() -> Iterator[None]:
    """Processes that are started meanwhile find the FFmpeg of PyAV's wheel by its libraries' names.

    torchcodec brings no FFmpeg; the names of those in the wheel have a hash added.
    """
    import av

    wheel = Path(av.__file__).parents[1] / 'av.libs'
    before = os.environ.get('LD_LIBRARY_PATH')
    with tempfile.TemporaryDirectory() as folder:
        for library in wheel.glob('*.so*'):
            name, _, version = library.name.partition('.so')
            plain = f'{name.rpartition("-")[0]}.so.{version.strip(".").partition(".")[0]}'
            for alias in (library.name, plain):
                (Path(folder) / alias).symlink_to(library)
        os.environ['LD_LIBRARY_PATH'] = ':'.join(filter(None, (folder, before)))
        try:
            yield
        finally:
            os.environ.pop('LD_LIBRARY_PATH')
            if before is not None:
                os.environ['LD_LIBRARY_PATH'] = before
