"""The films of a page: small, playable everywhere, and of the frames that are in the data set."""

import base64
import io
import types

import av
import numpy as np
import pytest
from PIL import Image

from vjax.data import records, stores, tfrecord
from vjax.reports import films


class Frames:
    """A store of one video, its frames in memory."""

    encoding = 'png'

    def __init__(self, frames, fps):
        self._frames = frames
        columns = {'num_frames': len(frames), 'fps': fps}
        columns |= {'height': frames.shape[1], 'width': frames.shape[2]}
        self.index = types.SimpleNamespace(**{name: [x] for name, x in columns.items()})

    def read(self, video, frames):
        found = []
        for i in frames:
            file = io.BytesIO()
            Image.fromarray(self._frames[i]).save(file, 'PNG')
            found.append(file.getvalue())
        return found


def decoded(uri):
    content = base64.b64decode(uri.partition(';base64,')[2], validate=True)
    with av.open(io.BytesIO(content)) as container:
        (stream,) = container.streams
        frames = [frame.to_ndarray(format='rgb24') for frame in container.decode(stream)]
        return frames, float(stream.average_rate), len(content)


def test_a_film_shows_the_frames_of_the_data_set(digits):
    store = stores.open_store(records.open_dataset(digits), 'validation')
    film = films.film(store, 3)
    shown, fps, _ = decoded(film.mp4)
    assert (film.height, film.width) == (store.index.height[3], store.index.width[3])
    assert fps == pytest.approx(store.index.fps[3])
    assert film.seconds == film.of_seconds == pytest.approx(store.index.num_frames[3] / fps)
    stored = [
        np.asarray(Image.open(io.BytesIO(content)))
        for content in store.read(3, np.arange(store.index.num_frames[3]))
    ]
    assert len(shown) == len(stored)
    for ours, theirs in zip(shown, stored, strict=True):
        assert np.abs(ours.astype(int) - theirs).mean() < 8
    # They are not those of the neighbour's video.
    assert (
        np.abs(shown[0].astype(int) - np.asarray(decoded(films.film(store, 4).mp4)[0][0])).mean()
        > 8
    )


def test_of_a_long_video_the_middle_is_shown():
    grey = np.linspace(0, 255, 900).astype(np.uint8)  # 30 seconds, brighter and brighter.
    frames = np.broadcast_to(grey[:, None, None, None], (900, 33, 47, 3))
    film = films.film(Frames(frames, 30.0), 0)
    shown, fps, _ = decoded(film.mp4)
    assert (film.seconds, film.of_seconds) == (10, 30)
    assert fps == 15
    assert len(shown) == 150
    assert shown[0].shape == (34, 48, 3)  # Even, as H.264 wants it.
    assert shown[0].mean() == pytest.approx(85, abs=3)
    assert shown[-1].mean() == pytest.approx(170, abs=3)


def test_a_film_is_small_whatever_the_video():
    noise = np.random.default_rng(0).integers(256, size=(30, 240, 320, 3), dtype=np.uint8)
    film = films.film(Frames(noise, 15.0), 0)
    shown, fps, size = decoded(film.mp4)
    assert size <= films.MAX_BYTES
    assert min(shown[0].shape[:2]) == films.SHORT_SIDE
    assert len(shown) / fps == pytest.approx(2, abs=0.5)


def test_a_single_frame_is_a_picture():
    frame = np.full((1, 20, 30, 3), 200, np.uint8)
    film = films.film(Frames(frame, 1.0), 0)
    assert film.mp4 == ''
    content = base64.b64decode(film.poster.partition(';base64,')[2])
    assert np.asarray(Image.open(io.BytesIO(content))).mean() == pytest.approx(200, abs=2)


def test_what_cannot_be_read_is_said(caplog, monkeypatch):
    store = Frames(np.zeros((4, 8, 8, 3), np.uint8), 5.0)
    for wrong in (tfrecord.DamagedRecord('its checksum differs'), OSError('gone')):

        def read(video, frames, wrong=wrong):
            raise wrong

        monkeypatch.setattr(store, 'read', read)
        assert films.film(store, 0) is None
        assert str(wrong) in caplog.text
