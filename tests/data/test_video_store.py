"""The store of whole videos: any frame of them, exactly; the same batches as from single frames."""

import concurrent.futures
import hashlib
import io
import json
import os
import subprocess
import sys
import types
from fractions import Fraction

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vjax import recipes
from vjax.data import index, pipeline, records, short_gops, stores, tfrecord, video
from vjax.prepare import prepare

NUM_FRAMES, HEIGHT, WIDTH = 40, 33, 47
CLIP = {
    'num_frames': 4,
    'stride': 3,
    'fps': None,
    'short_side': 32,
    'size': 24,
    'short_clips': 'loop',
    'order': 'forward',
}
AUGMENT = recipes.base().augment.to_dict()


def moving(num_frames=NUM_FRAMES, height=HEIGHT, width=WIDTH, seed=0):
    """A smooth picture that moves by two pixels a frame, so that no two frames are alike."""
    coarse = np.random.default_rng(seed).integers(0, 255, (5, 8, 3), np.uint8)
    picture = Image.fromarray(coarse).resize((width * 3, height), Image.Resampling.BICUBIC)
    return [np.roll(np.asarray(picture), 2 * i, axis=1)[:, :width] for i in range(num_frames)]


def lossless(path, frames):
    """A file that decodes to exactly these frames."""
    with av.open(str(path), 'w') as container:
        stream = container.add_stream('ffv1', rate=25)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = 'bgr0'
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, 'rgb24')))
        container.mux(stream.encode())
    return path


def film_of(folder, frames, crf=short_gops.CRF):
    content, film = short_gops.encode(
        lossless(folder / 'source.mkv', frames), short_side=None, crf=crf
    )
    assert film.frames == [None] * len(frames)
    assert (film.height, film.width) == frames[0].shape[:2]
    return content


@pytest.fixture(scope='module')
def content(tmp_path_factory):
    return film_of(tmp_path_factory.mktemp('film'), moving())


@pytest.fixture(scope='module')
def whole(content):
    """All frames, one after another."""
    return short_gops.decode_frames(content, np.arange(NUM_FRAMES), HEIGHT, WIDTH)


def psnr(frames, expected):
    error = np.square(np.stack(frames).astype(float) - np.stack(expected)).mean()
    return 10 * np.log10(255**2 / error)


# --- Any frame, exactly. ---


def test_the_frames_are_those_of_the_video(whole):
    # Neighbours differ by two pixels of a smooth picture: 10 dB less.
    assert psnr(whole, moving()) > 35
    assert psnr(whole[1:], moving()[:-1]) < 28


@settings(max_examples=60, deadline=None)
@given(
    frames=st.lists(st.integers(0, NUM_FRAMES - 1), min_size=1, max_size=12),
    window=st.tuples(st.integers(0, HEIGHT - 1), st.integers(0, WIDTH - 1)).flatmap(
        lambda corner: st.tuples(
            *map(st.just, corner),
            st.integers(1, HEIGHT - corner[0]),
            st.integers(1, WIDTH - corner[1]),
        )
    ),
)
def test_any_frames_in_any_order_are_those_of_the_whole(content, whole, frames, window):
    got = short_gops.decode_frames(content, np.array(frames), HEIGHT, WIDTH)
    np.testing.assert_array_equal(got, whole[frames])
    top, left, height, width = window
    cut = short_gops.decode_frames(content, np.array(frames), HEIGHT, WIDTH, np.array(window))
    np.testing.assert_array_equal(cut, whole[frames][:, top : top + height, left : left + width])


@pytest.mark.parametrize('num_frames', [1, 2, short_gops.GOP, short_gops.GOP + 1])
@pytest.mark.parametrize(('height', 'width'), [(16, 16), (17, 30), (30, 17), (1, 1), (3, 50)])
def test_lengths_and_odd_sizes(tmp_path, num_frames, height, width):
    frames = moving(num_frames, height, width)
    content = film_of(tmp_path, frames, crf=1)
    order = np.arange(num_frames)[::-1]
    got = short_gops.decode_frames(content, order, height, width)
    assert got.shape == (num_frames, height, width, 3)
    # As far from the frames as they are without their colours' resolution.
    halved = [np.asarray(Image.open(io.BytesIO(video.encode_jpeg(f, 100)))) for f in frames]
    assert (
        np.abs(got[::-1].astype(int) - frames).mean()
        < 1 + np.abs(np.stack(halved).astype(int) - frames).mean()
    )
    with pytest.raises(ValueError, match=f'frame {num_frames} is missing'):
        short_gops.decode_frames(content, np.array([0, num_frames]), height, width)


def test_every_sixteenth_frame_is_a_keyframe_and_none_waits_for_a_later_one(content):
    with av.open(io.BytesIO(content)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
        assert [i for i, packet in enumerate(packets) if packet.is_keyframe] == [0, 16, 32]
        assert [packet.pts for packet in packets] == [packet.dts for packet in packets]
        times = [packet.pts * packet.time_base for packet in packets]
        assert times == [Fraction(i, short_gops.NOMINAL_FPS) for i in range(NUM_FRAMES)]


def test_frames_far_apart_are_sought_not_decoded_through(content, whole, monkeypatch):
    decoded = []
    av_open = av.open

    class Counting:
        def __init__(self, container):
            self.container = container

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.container.close()

        def __getattr__(self, name):
            return getattr(self.container, name)

        def demux(self, stream):
            for packet in self.container.demux(stream):

                def decode(packet=packet):
                    frames = packet.decode()
                    decoded.extend(frame.pts for frame in frames)
                    return frames

                yield types.SimpleNamespace(decode=decode)

    monkeypatch.setattr(av, 'open', lambda *args, **kwargs: Counting(av_open(*args, **kwargs)))
    got = short_gops.decode_frames(content, np.array([33, 2]), HEIGHT, WIDTH)
    np.testing.assert_array_equal(got, whole[[33, 2]])
    assert len(decoded) == 3 + 2  # 0, 1, 2, and 32, 33.


def test_equal_videos_are_equal_bytes(tmp_path, content):
    source = str(lossless(tmp_path / 'a.mkv', moving()))

    def encode(_):
        return short_gops.encode(source, short_side=None, crf=short_gops.CRF)[0]

    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        assert set(pool.map(encode, range(4))) == {content}
    script = (
        'import hashlib, sys; from vjax.data import short_gops\n'
        'content, _ = short_gops.encode(sys.argv[1], short_side=None, crf=short_gops.CRF)\n'
        'print(hashlib.sha256(content).hexdigest())'
    )
    run = [sys.executable, '-c', script, source]
    printed = subprocess.run(run, capture_output=True, text=True, check=True).stdout
    assert printed.strip() == hashlib.sha256(content).hexdigest()


# --- Colours. ---


@pytest.mark.parametrize(
    'colour', [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0), (30, 200, 90)]
)
def test_colours_stay(tmp_path, colour):
    """By another matrix or range they would be off by 10 levels and more."""
    frame = np.full((32, 32, 3), colour, np.uint8)
    content = film_of(tmp_path, [frame])
    got = short_gops.decode_frames(content, np.array([0]), 32, 32)[0]
    assert np.abs(got.astype(int) - frame).max() <= 1
    # Other players are told which ones they are.
    with av.open(io.BytesIO(content)) as container:
        codec = container.streams.video[0].codec_context
        assert (codec.colorspace, codec.color_range) == (6, 1)  # SMPTE 170M, limited.
    (tmp_path / 'a.mp4').write_bytes(content)
    decoded = video.decode(tmp_path / 'a.mp4').frames[0]
    assert np.abs(decoded.astype(int) - got).max() <= 1


def test_a_picture_is_not_darkened(content, whole):
    bias = (whole.astype(float) - moving()).mean((0, 1, 2))
    assert np.abs(bias).max() < 0.5  # swscale's fast path is off by more than 1.


# --- Damaged files. ---


def damaged(content):
    middle = len(content) // 2
    noise = np.random.default_rng(0).bytes(300)
    return {
        'noise': content[:middle] + noise + content[middle + 300 :],
        'zeros': content[:middle] + bytes(300) + content[middle + 300 :],
        'half': content[:middle],
        'no film': b'no film',
        'empty': b'',
    }


@pytest.mark.parametrize('kind', damaged(b'.' * 1000))
def test_damaged_files_are_errors(content, kind):
    with pytest.raises((av.FFmpegError, ValueError)):
        short_gops.decode_frames(damaged(content)[kind], np.arange(NUM_FRAMES), HEIGHT, WIDTH)


def test_a_film_of_another_size_is_an_error(content):
    for height, width in ((HEIGHT, WIDTH - 2), (HEIGHT + 2, WIDTH), (WIDTH, HEIGHT)):
        with pytest.raises(ValueError, match='34 x 48 pixels'):
            short_gops.decode_frames(content, np.array([0]), height, width)


# --- In a data set. ---


@pytest.fixture(scope='module')
def prepared(tmp_path_factory):
    """The same videos in both stores."""
    folder = tmp_path_factory.mktemp('both')
    rows = ['path,label']
    for i in range(7):
        name = f'{i}.mkv'
        lossless(folder / name, moving(9 + 7 * i, *((32, 50), (46, 33))[i % 2], seed=i))
        rows.append(f'{name},{"ab"[i % 2]}')
    (folder / 'labels.csv').write_text('\n'.join(rows))
    made = {}
    for store in stores.STORES:
        made[store] = prepare(
            folder,
            folder / 'labels.csv',
            folder / store,
            'train',
            store=store,
            short_side=32,
            workers=1,
            num_shards=2,
        )
    return made


def train(dataset, augment=AUGMENT, **kwargs):
    asked = {'batch_size': 4, 'seed': 3, 'num_steps': 4, 'num_threads': 2} | kwargs
    return list(pipeline.train_batches(dataset, 'train', clip=CLIP, augment=augment, **asked))


@pytest.mark.parametrize(
    'augment',
    [AUGMENT, AUGMENT | {'random_crop': True, 'scale_jitter': (0.9, 1.33)}],
    ids=['centre', 'jitter'],
)
def test_both_stores_give_the_same_batches(prepared, augment):
    """Two codecs at their default qualities agree to 32 dB; a frame or a pixel off is below 28."""
    frames, films = (train(prepared[store], augment) for store in stores.STORES)
    for one, other in zip(frames, films, strict=True):
        for name in ('position', 'box', 'label', 'mask'):
            np.testing.assert_array_equal(one[name], other[name])
        assert one['mask'].all()
        for i in range(len(one['video'])):
            assert psnr(one['video'][i], other['video'][i]) > 32
    shown = [
        list(pipeline.eval_batches(made, 'train', clip=CLIP, views=(2, 3), batch_size=7))
        for made in prepared.values()
    ]
    for (one,), (other,) in [shown]:
        for name in ('index', 'label', 'mask'):
            np.testing.assert_array_equal(one[name], other[name])
        assert psnr(one['video'], other['video']) > 32


def test_batches_of_videos_are_a_function_of_seed_and_step(prepared):
    once, again = train(prepared['video']), train(prepared['video'], start_step=2, num_steps=2)
    for one, other in zip(once[2:], again, strict=True):
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])
    parts = [train(prepared['video'], rows=np.arange(i, i + 2)) for i in (0, 2)]
    for one, *halves in zip(once, *parts, strict=True):
        for name in one:
            joined = np.concatenate([half[name] for half in halves])
            np.testing.assert_array_equal(one[name], joined)


def test_undecodable_videos_are_zeros_of_mask_0(prepared, tmp_path, caplog):
    """With checksums that are right: what only the decoder notices."""
    source = prepared['video']
    table = index.load(source.path, 'train')
    for name in os.listdir(source.path):
        with open(os.path.join(source.path, name), 'rb') as file:
            (tmp_path / name).write_bytes(file.read())
    (offset,), (size,) = table.record_offsets(2)
    shard = tmp_path / source.splits['train'].shards[table.shard[2]]
    data = bytearray(shard.read_bytes())
    content = bytes(data[offset + tfrecord.HEADER :][:size])
    with open(tmp_path / 'record', 'wb') as file:
        tfrecord.write(file, damaged(content)['noise'])
    data[offset : offset + size + tfrecord.OVERHEAD] = (tmp_path / 'record').read_bytes()
    shard.write_bytes(data)

    expected, found = train(source), train(records.open_dataset(tmp_path))
    lost = 0
    for one, other in zip(expected, found, strict=True):
        gone = other['mask'] == 0
        lost += gone.sum()
        assert not other['video'][gone].any()
        for name in one:
            np.testing.assert_array_equal(other[name][~gone], one[name][~gone])
        np.testing.assert_array_equal(other['position'], one['position'])
    assert lost in (2, 3)  # 16 examples of 7 videos.
    assert any('video 2 cannot be decoded' in message for message in caplog.messages)


def test_the_description_says_how_videos_are_stored(prepared):
    with open(os.path.join(prepared['video'].path, records.DESCRIPTION)) as file:
        made = json.load(file)['settings']
    assert made == {'store': 'video', 'short_side': 32, 'crf': short_gops.CRF}
