"""Records -> batches: order, hosts, resume, geometry, and what happens to broken records."""

import hashlib
import io
import itertools
import pathlib
import threading

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from ml_collections import ConfigDict, config_dict
from PIL import Image
from scipy import stats

from vjax import recipes
from vjax.data import (
    decoding,
    geometry,
    index,
    pipeline,
    records,
    sampling,
    short_gops,
    stores,
    tfrecord,
    video,
)
from vjax.data.sections import Augment, Clip
from vjax.errors import UserError

CLIP = {
    'num_frames': 3,
    'stride': 2,
    'fps': None,
    'short_side': 16,
    'size': 8,
    'short_clips': 'loop',
    'order': 'forward',
}
NEUTRAL = recipes.base().augment.to_dict()
JITTER = NEUTRAL | {'scale_jitter': (0.8, 1.4), 'random_crop': True}
PREPROCESS = (
    pathlib.Path(__file__).parents[3] / 'shared' / 'scenic' / 'aux' / 'aux_preprocess_wide.npz'
)


def jpeg(image):
    return tf.io.encode_jpeg(np.asarray(image, np.uint8), quality=100).numpy()


def make_video(index, num_frames, height=16, width=22):
    """Frames whose red says which frame, green which video, and blue grows to the right."""
    frames = []
    for i in range(num_frames):
        frame = np.zeros((height, width, 3), np.uint8)
        frame[..., 0] = 10 + 20 * (i % 12)
        frame[..., 1] = 5 * index
        frame[..., 2] = np.linspace(0, 255, width).round()[None]
        frames.append(jpeg(frame))
    return frames


def encode(frames, number=0, height=16, width=22, fps=25.0, label=None, spans=()):
    """A row of the index, and its records."""
    sizes = tuple(map(len, frames))
    label = tuple([number % 5] if label is None else label)
    source = f'{number}.mp4'
    row = index.Entry(source, label, spans, len(frames), fps, height, width, sizes)
    return row, list(frames)


def write_dataset(folder, videos, num_shards=2, classes=None, store='frames', multi_label=False):
    """A prepared data set of these videos, with one split 'train'."""
    folder.mkdir(parents=True, exist_ok=True)
    shards = records.shard_names('train', num_shards)
    parts = [records.shard_range(i, num_shards, len(videos)) for i in range(num_shards)]
    for shard, part in zip(shards, parts, strict=True):
        with open(folder / shard, 'wb') as file:
            for number in part:
                for content in videos[number][1]:
                    tfrecord.write(file, content)
    table = index.build([videos[number][0] for number in part] for part in parts)
    encoded = index.encode(table)
    for name, content in zip(index.files('train'), encoded, strict=True):
        (folder / name).write_bytes(content)
    split = records.Split(
        num_videos=len(videos),
        num_rejected=0,
        num_frames=6 * len(videos),
        shards=tuple(shards),
        shard_bytes=tuple((folder / shard).stat().st_size for shard in shards),
        index_bytes=tuple(map(len, encoded)),
        videos_per_class=(0,) * 5,
        fingerprint='',
        annotations_sha256='',
    )
    classes = classes or {'label': tuple('abcde')}
    made = {'store': store, 'short_side': 16}
    dataset = records.Dataset(str(folder), classes, made, {'train': split}, multi_label)
    records.write_description(dataset)
    return records.open_dataset(folder)


SHAPES = [(16, 22), (22, 16), (16, 16), (24, 40), (12, 13)]


def some_videos(num_videos):
    """Videos of 4 to 9 frames, of several shapes, stored at clip.short_side or not."""
    return [
        encode(make_video(i, 4 + i % 6, *SHAPES[i % 5]), i, *SHAPES[i % 5])
        for i in range(num_videos)
    ]


@pytest.fixture(scope='session')
def dataset(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp('videos'), some_videos(13))


def test_frames_that_are_smaller_than_clips_want_them_are_said(dataset, caplog):
    for short_side in (15, 16):
        pipeline.warn_of_small_frames(dataset, short_side)
    assert not caplog.records
    pipeline.warn_of_small_frames(dataset, 17)
    assert 'a short side of 16 at most' in caplog.text
    assert 'vjax.prepare --short_side=17' in caplog.text


def train(dataset, *, clip=CLIP, augment=JITTER, batch_size=4, seed=0, num_steps=4, **kwargs):
    return list(
        pipeline.train_batches(
            dataset,
            'train',
            clip=clip,
            augment=augment,
            batch_size=batch_size,
            seed=seed,
            num_steps=num_steps,
            num_threads=2,
            **kwargs,
        )
    )


def evaluate(dataset, *, clip=CLIP, views=(1, 1), batch_size=4, **kwargs):
    return list(
        pipeline.eval_batches(
            dataset, 'train', clip=clip, views=views, batch_size=batch_size, **kwargs
        )
    )


def digest(batch):
    sha = hashlib.sha256()
    for name in sorted(batch):
        sha.update(f'{name} {batch[name].dtype} {batch[name].shape}'.encode())
        sha.update(np.ascontiguousarray(batch[name]).tobytes())
    return sha.hexdigest()


def test_every_head_has_its_label_and_what_fills_up_has_zeros(tmp_path):
    videos = [encode(make_video(i, 4), i, label=[i, 5 - i]) for i in range(5)]
    classes = {'noun': tuple('abcde'), 'verb': tuple('uvwxyz')}
    two_heads = write_dataset(tmp_path, videos, classes=classes)
    batches = evaluate(two_heads, batch_size=3)
    assert all(batch['label'].dtype == np.int32 for batch in batches)
    labels = np.concatenate([batch['label'] for batch in batches])
    np.testing.assert_array_equal(labels, [[0, 5], [1, 4], [2, 3], [3, 2], [4, 1], [0, 0]])
    shown = np.concatenate([batch['label'] for batch in train(two_heads, batch_size=5)])
    np.testing.assert_array_equal(shown.sum(axis=1), 5)


def test_evaluation_sees_a_label_that_holds_in_no_clip(tmp_path):
    """As that of an action which begins after its video has ended."""
    videos = [encode(make_video(0, 12), 0, fps=20.0, label=(1, 4), spans=((0.0, 9.0), (0.6, 0.6)))]
    several = write_dataset(tmp_path, videos, 1, multi_label=True)
    np.testing.assert_array_equal(evaluate(several)[0]['label'][0], [0, 1, 0, 0, 1])
    (batch,) = train(several, num_steps=1, augment=NEUTRAL, batch_size=4)
    np.testing.assert_array_equal(batch['label'], [[0, 1, 0, 0, 0]] * 4)


def test_labels_of_a_multi_label_set_are_those_of_the_clip(tmp_path):
    """Evaluation sees all labels of a video, training those that hold while the clip lasts."""
    spans = ((0.0, 0.2), (0.25, 9.0), (0.0, 9.0))
    videos = [encode(make_video(0, 12), 0, fps=20.0, label=(1, 4, 2), spans=spans)]
    videos.append(encode(make_video(1, 12), 1, label=()))
    several = write_dataset(tmp_path, videos, 1, multi_label=True)
    seen = evaluate(several, batch_size=2)[0]['label']
    np.testing.assert_array_equal(seen, [[0, 1, 1, 0, 1], [0, 0, 0, 0, 0]])
    batch = join(train(several, num_steps=20, augment=NEUTRAL, batch_size=4))
    first = np.rint((batch['video'][:, 0, ..., 0].mean((1, 2)) - 10) / 20).astype(int)
    of_first = batch['label'].any(1)
    # Frames i to i + 4 of 20 a second are shown from i / 20 s to (i + 5) / 20 s.
    start, end = first[of_first] / 20, (first[of_first] + 5) / 20
    expected = np.zeros((of_first.sum(), 5), int)
    expected[:, 2], expected[:, 1], expected[:, 4] = 1, start < 0.2, end > 0.25
    np.testing.assert_array_equal(batch['label'][of_first], expected)
    assert set(map(tuple, expected.tolist())) == {(0, 1, 1, 0, 0), (0, 1, 1, 0, 1), (0, 0, 1, 0, 1)}


def join(parts):
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


# --- The stream of training batches. ---


def test_a_batch_is_what_it_should_be(dataset):
    batch = train(dataset, num_steps=1)[0]
    shapes = {name: (array.dtype.name, array.shape) for name, array in batch.items()}
    assert shapes == {
        'video': ('uint8', (4, 3, 10, 10, 3)),  # ceil(8 / 0.8)
        'box': ('float32', (4, 4)),
        'label': ('int32', (4, 1)),
        'mask': ('float32', (4,)),
        'position': ('int32', (4,)),
    }
    assert batch['mask'].tolist() == [1] * 4
    assert batch['position'].tolist() == [0, 1, 2, 3]


@given(st.integers(1, 13), st.integers(0, 2**32 - 1))
@settings(max_examples=6, deadline=None)
def test_every_epoch_is_a_permutation(dataset, batch_size, seed):
    num_steps = -(-39 // batch_size)
    batches = train(dataset, augment=NEUTRAL, batch_size=batch_size, seed=seed, num_steps=num_steps)
    stream = join(batches)
    assert stream['position'].tolist() == list(range(num_steps * batch_size))
    # Green says which video it is.
    videos = np.rint(stream['video'][..., 1].mean((1, 2, 3)) / 5).astype(int)[:39]
    epochs = videos.reshape(3, 13)
    assert (np.sort(epochs) == np.arange(13)).all()
    assert (epochs[0] != epochs[1]).any()
    np.testing.assert_array_equal(stream['label'][:39, 0], videos % 5)


@given(st.integers(0, 9), st.sampled_from(sampling.ORDERS))
@settings(max_examples=5, deadline=None)
def test_resumed_batches_are_the_same_bytes(dataset, start_step, order):
    clip = CLIP | {'order': order}
    straight = train(dataset, clip=clip, num_steps=10)
    resumed = train(dataset, clip=clip, start_step=start_step, num_steps=10 - start_step)
    assert [digest(b) for b in resumed] == [digest(b) for b in straight[start_step:]]
    assert len({digest(b) for b in straight}) == 10


def test_sections_of_a_config_will_do(dataset):
    clip, augment = ConfigDict(CLIP), ConfigDict(JITTER)
    clip.fps = config_dict.placeholder(float)
    assert digest(train(dataset, clip=clip, augment=augment)[0]) == digest(train(dataset)[0])


def test_late_steps_need_no_skipping(dataset):
    late = train(dataset, start_step=3_000_000, num_steps=1)[0]
    assert late['position'].tolist() == [12_000_000 + i for i in range(4)]


def test_another_seed_is_another_stream(dataset):
    assert digest(train(dataset, seed=0)[0]) != digest(train(dataset, seed=1)[0])


@pytest.mark.parametrize('shares', [[[0, 1], [2, 3]], [[0, 3], [1, 2]], [[2], [0], [1, 3]]])
def test_hosts_share_the_global_batch(dataset, shares):
    whole = train(dataset, num_steps=8)  # 32 examples: two and a half epochs.
    parts = [train(dataset, num_steps=8, rows=np.array(rows)) for rows in shares]
    order = np.argsort(np.concatenate(shares))
    for step, batch in enumerate(whole):
        joined = join([part[step] for part in parts])
        assert digest({name: array[order] for name, array in joined.items()}) == digest(batch)


def test_a_stream_that_is_left_leaves_no_threads(dataset):
    def decoders():
        return [thread for thread in threading.enumerate() if thread.name.startswith('decode')]

    stream = pipeline.train_batches(
        dataset, 'train', clip=CLIP, augment=NEUTRAL, batch_size=4, seed=0, num_threads=2
    )
    next(stream)
    assert decoders()
    stream.close()
    del stream
    for thread in decoders():
        thread.join(timeout=30)
    assert not decoders()


def test_the_stream_is_endless_by_default(dataset):
    batches = pipeline.train_batches(
        dataset, 'train', clip=CLIP, augment=NEUTRAL, batch_size=13, seed=0
    )
    assert len(list(itertools.islice(batches, 5))) == 5


def test_time(dataset):
    """The frames of a clip are those that the stride, the rate and the order say."""

    def reds(**changes):
        batch = join(train(dataset, clip=CLIP | changes, augment=NEUTRAL))
        return np.rint((batch['video'][..., 0].mean((2, 3)) - 10) / 20).astype(int)

    forward = reds()
    # Four frames or more, so only the third sampled frame may have begun again.
    assert (forward[:, 1] - forward[:, 0] == 2).all()
    again = forward[:, 2] - forward[:, 1]
    assert set(again.tolist()) == {2, 2 - 4}  # Videos of 4 frames begin again, others of 5 fit.
    np.testing.assert_array_equal(reds(order='reversed'), forward[:, ::-1])
    np.testing.assert_array_equal(reds(stride=7, fps=12.5), forward)
    still = reds(order='still')
    assert (still == still[:, :1]).all()
    assert (still[:, :1] == forward).any(1).all()
    assert len(set((still[:, :1] == forward).argmax(1).tolist())) == 3
    np.testing.assert_array_equal(np.sort(reds(order='shuffled')), np.sort(forward))


# --- Geometry. ---


def configured(short_side, size, scale_jitter, random_crop):
    clip = Clip(**CLIP | {'short_side': short_side, 'size': size})
    augment = Augment(**NEUTRAL | {'scale_jitter': scale_jitter, 'random_crop': random_crop})
    return clip, augment


@given(
    size=st.integers(1, 64),
    margin=st.integers(0, 30),
    longer=st.integers(0, 80),
    least=st.floats(0.3, 1.2),
    more=st.floats(0, 1),
    random_crop=st.booleans(),
    tall=st.booleans(),
    draw=st.integers(0, 1000),
)
@settings(max_examples=40, deadline=None)
def test_regions_lie_in_windows_and_windows_in_frames(
    size, margin, longer, least, more, random_crop, tall, draw
):
    clip, augment = configured(size + margin, size, (least, least + more), random_crop)
    shape = [clip.short_side + longer * tall, clip.short_side + longer * (not tall)]
    place, box = geometry.draw_window(
        *shape, clip=clip, augment=augment, seed=tf.constant([1, draw])
    )
    window = geometry.window_size(clip, augment)
    (corner, extent), (origin, region) = np.split(place.numpy(), 2), np.split(box.numpy(), 2)
    assert extent.tolist() == [window, window]
    assert (corner >= 0).all()
    assert (corner + window <= shape).all()
    assert (origin >= 0).all()
    assert (origin == np.rint(origin)).all()
    assert (origin + region <= window + 1e-4).all()
    smallest = min(size / (least + more), window)
    assert (region >= smallest - 1e-3).all()
    assert (region <= min(size / least, window) + 1e-3).all()


def test_without_zoom_the_region_is_whole_pixels_anywhere():
    clip, augment = configured(12, 9, (1.0, 1.0), True)
    draw = tf.function(
        lambda i: geometry.draw_window(12, 14, clip=clip, augment=augment, seed=tf.stack([0, i]))
    )
    corners = []
    for i in range(600):
        corner, box = draw(tf.constant(i))
        assert box.numpy().tolist() == [0, 0, 9, 9]
        corners.append(tuple(corner.numpy()[:2]))
    counts = [corners.count(place) for place in itertools.product(range(4), range(6))]
    assert sum(counts) == 600
    assert min(counts) >= 8  # 25 expected, standard deviation 5


def test_zoom_covers_its_range_in_both_axes_alone():
    clip, augment = configured(256, 224, (0.9, 1.33), True)
    draw = tf.function(
        lambda i: geometry.draw_window(256, 340, clip=clip, augment=augment, seed=tf.stack([0, i]))[
            1
        ][2:]
    )
    zooms = 224 / np.stack([draw(tf.constant(i)).numpy() for i in range(500)])
    assert np.abs(zooms.mean(0) - 1.115).max() < 0.03
    assert zooms.min(0).max() < 0.92
    assert zooms.max(0).min() > 1.31
    assert abs(np.corrcoef(zooms.T)[0, 1]) < 0.15


AREA = NEUTRAL | {'area': (0.08, 1.0)}


@given(
    height=st.integers(16, 90),
    width=st.integers(16, 90),
    least=st.floats(0.01, 1.0),
    aspect=st.sampled_from([(3 / 4, 4 / 3), (1.0, 1.0), (0.3, 3.0), (2.0, 3.0)]),
    draw=st.integers(0, 1000),
)
@settings(max_examples=60, deadline=None)
def test_random_areas_lie_in_frames_and_fit_into_windows(height, width, least, aspect, draw):
    clip = Clip(**CLIP | {'short_side': min(height, width), 'size': 8})
    augment = Augment(**AREA | {'area': (least, 1.0), 'aspect': aspect})
    window, box = geometry.draw_window(
        height, width, clip=clip, augment=augment, seed=tf.constant([1, draw])
    )
    top, left, rows, columns = window.numpy()
    assert min(top, left) >= 0
    assert min(rows, columns) >= 1
    assert top + rows <= height
    assert left + columns <= width
    assert max(rows, columns) <= geometry.window_size(clip, augment)
    assert box.numpy().tolist() == [0, 0, rows, columns]


def test_no_random_area_is_a_pixel_larger_than_its_window():
    clip = Clip(**CLIP | {'short_side': 48, 'size': 8})
    augment = Augment(**AREA)
    # Rounded, the draw at this place has 65 columns, where 48 * 4 / 3 = 64.
    window, _ = geometry.draw_window(
        48, 85, clip=clip, augment=augment, seed=tf.constant([0, 10215])
    )
    assert window.numpy()[3] == geometry.window_size(clip, augment) == 64


def draw_area(rng, height, width, area, aspect):
    """What torchvision's RandomResizedCrop.get_params does, in numpy: top, left, height, width."""
    for _ in range(10):
        target = height * width * rng.uniform(*area)
        ratio = np.exp(rng.uniform(*np.log(aspect)))
        columns, rows = round(np.sqrt(target * ratio)), round(np.sqrt(target / ratio))
        if 0 < columns <= width and 0 < rows <= height:
            top, left = rng.integers(0, height - rows + 1), rng.integers(0, width - columns + 1)
            return top, left, rows, columns
    rows, columns = min(height, round(width / aspect[0])), min(width, round(height * aspect[1]))
    return (height - rows) // 2, (width - columns) // 2, rows, columns


@pytest.mark.parametrize(
    ('height', 'width', 'area', 'aspect'),
    [
        (64, 85, (0.08, 1.0), (3 / 4, 4 / 3)),
        (64, 114, (0.5, 1.0), (3 / 4, 4 / 3)),  # Falls back now and then.
        (90, 30, (0.9, 1.0), (3 / 4, 4 / 3)),  # Always does.
    ],
)
def test_random_areas_are_distributed_as_in_torchvision(height, width, area, aspect):
    clip = Clip(**CLIP | {'short_side': min(height, width), 'size': 8})
    augment = Augment(**AREA | {'area': area, 'aspect': aspect})

    @tf.function
    def draw(i):
        seed = tf.stack([0, i])
        return geometry.draw_window(height, width, clip=clip, augment=augment, seed=seed)[0]

    count, rng = 1500, np.random.default_rng(0)
    ours = np.stack([draw(tf.constant(i)) for i in range(count)]).astype(float)
    theirs = np.array([draw_area(rng, height, width, area, aspect) for _ in range(count)], float)
    for column in range(4):
        statistic = stats.ks_2samp(ours[:, column], theirs[:, column])
        assert statistic.pvalue > 1e-3, (column, statistic)
    covered = [stats.ks_2samp(*(x[:, 2] * x[:, 3] for x in (ours, theirs)))]
    covered += [stats.ks_2samp(*(x[:, 3] / x[:, 2] for x in (ours, theirs)))]
    assert min(statistic.pvalue for statistic in covered) > 1e-3


def test_a_random_area_is_shipped_with_zeros_around_it(tmp_path):
    frame = jpeg(photograph(16, 40))
    whole = tf.io.decode_jpeg(frame).numpy()
    one = write_dataset(tmp_path, [encode([frame], 0, 16, 40)], 1)
    for batch in train(one, augment=AREA, batch_size=4, num_steps=3):
        assert batch['video'].shape == (4, 3, 22, 22, 3)  # ceil(16 * 4 / 3)
        for clip, box in zip(batch['video'], batch['box'].astype(int), strict=True):
            _, _, rows, columns = box
            shown = clip[0, :rows, :columns]
            places = itertools.product(range(16 - rows + 1), range(40 - columns + 1))
            assert any(
                (whole[top : top + rows, left : left + columns] == shown).all()
                for top, left in places
            )
            assert not clip[:, rows:].any()
            assert not clip[:, :, columns:].any()


@pytest.mark.parametrize('shares', [[[*range(6)]], [[0, 1, 2], [3, 4, 5]]])
def test_repeated_augmentation_shows_every_video_so_often(dataset, shares):
    repeated = JITTER | {'repeats': 3}
    parts = [
        train(dataset, augment=repeated, batch_size=6, num_steps=7, rows=np.array(rows))
        for rows in shares
    ]
    stream = join([join([part[step] for part in parts]) for step in range(7)])
    once = join(train(dataset, augment=JITTER, batch_size=14, num_steps=1))
    np.testing.assert_array_equal(stream['label'][:, 0], np.repeat(once['label'][:, 0], 3))
    videos = stream['video'][..., 1].mean((1, 2, 3)).reshape(14, 3)
    assert np.ptp(videos, axis=1).max() < 3  # Green says which video it is.
    boxes = stream['box'].reshape(14, 3, 4)
    assert (boxes[:, 0] != boxes[:, 1]).any(1).all()  # Each time with draws of its own.


def photograph(height, width):
    """A smooth random picture, without two places that look the same."""
    coarse = np.random.default_rng(0).uniform(0, 255, (height // 6, width // 6, 3))
    return tf.saturate_cast(tf.image.resize(coarse, (height, width), 'bicubic'), tf.uint8)


def test_windows_are_cut_out_of_the_frame(tmp_path):
    frame = jpeg(photograph(16, 40))
    whole = tf.io.decode_jpeg(frame).numpy()
    one = write_dataset(tmp_path, [encode([frame], 0, 16, 40)], 1)
    found = set()
    for window in join(train(one, batch_size=4, num_steps=5))['video']:
        places = [
            (top, left)
            for top, left in itertools.product(range(7), range(31))
            if (window == whole[None, top : top + 10, left : left + 10]).all()
        ]
        assert len(places) == 1
        found.add(places[0])
    assert len({top for top, _ in found}) > 3
    assert len({left for _, left in found}) > 8


def decode(content, height, width, short_side, window, encoding='jpeg'):
    out = np.empty((1, *window[2:], 3), np.uint8)
    size, window = (height, width), np.array(window)
    how = {'encoding': encoding, 'short_side': short_side}
    decoding.decode_window([content], np.array([0]), size, window, out, **how)
    return out[0]


@pytest.mark.parametrize('encoding', ['jpeg', 'png', 'video'])
def test_all_ways_of_decoding_agree(encoding, tmp_path):
    """Frames stored at the right size are cut; others are resized."""
    picture = photograph(32, 46).numpy()
    content = {'jpeg': jpeg, 'png': lambda x: tf.io.encode_png(x).numpy()}.get(encoding)
    if encoding == 'video':
        Image.fromarray(picture).save(tmp_path / 'a.png')
        content, _ = short_gops.encode(tmp_path / 'a.png', short_side=None, crf=1)
        whole = short_gops.decode_frames(content, np.array([0]), 32, 46)[0]
        # What is lost is the colours' half resolution, as in a JPEG of the best quality.
        halved = np.asarray(Image.open(io.BytesIO(video.encode_jpeg(picture, 100))))
        lost, by_jpeg = (np.abs(x.astype(int) - picture).mean() for x in (whole, halved))
        assert lost < 1.05 * by_jpeg
    else:
        content = content(picture)
        whole = tf.io.decode_image(content).numpy()
    fast = decode(content, 32, 46, 32, [3, 7, 20, 24], encoding)
    np.testing.assert_array_equal(fast, whole[3:23, 7:31])
    slow = decode(content, 32, 46, 16, [2, 3, 10, 12], encoding)
    half = tf.image.resize(whole, (16, 23), antialias=True).numpy()[2:12, 3:15]
    np.testing.assert_array_equal(slow, np.rint(half))


def test_small_and_odd_frames_are_scaled_to_the_short_side():
    assert [int(x) for x in geometry.resized_shape(47, 83, 32)] == [32, 56]
    assert [int(x) for x in geometry.resized_shape(83, 47, 32)] == [56, 32]
    assert [int(x) for x in geometry.resized_shape(5, 5, 32)] == [32, 32]


@pytest.mark.parametrize(('height', 'width'), [(10, 17), (17, 10), (10, 10), (9, 8)])
def test_view_corners(height, width):
    def corners(num_views):
        return geometry.view_corners(height, width, size=7, num_views=num_views).numpy().tolist()

    middle = [-(-(height - 7) // 2), -(-(width - 7) // 2)]
    assert corners(1) == [middle]
    three, five = corners(3), corners(5)
    assert three[1] == middle
    along = int(width >= height)
    end = (height, width)[along] - 7
    for views in (three, five):
        assert [view[along] for view in (views[0], views[-1])] == [0, end]
        assert {view[1 - along] for view in views} == {middle[1 - along]}


def test_views_equal_scenics():
    """Frames, crops and their order against arrays that Scenic's own pipeline made."""
    if not PREPROCESS.exists():
        pytest.skip(f'{PREPROCESS.name} is not here')
    oracle = np.load(PREPROCESS, allow_pickle=False)
    video, expected = oracle['video'], oracle['three_crops_two_clips_uint8']
    num_frames, size = expected.shape[1:3]
    timing = {'num_frames': num_frames, 'step': 2}
    middle = sampling.view_starts(len(video), **timing, num_views=1)[0]
    middle = sampling.frame_indices(middle, len(video), **timing, short_clips='loop')
    np.testing.assert_array_equal(video[middle], oracle['middle_clip'])
    shape = geometry.resized_shape(*video.shape[1:3], 32)

    def crop(frames, corner):
        # Scenic resizes without anti-aliasing and truncates.
        frames = tf.cast(tf.image.resize(frames, shape), tf.uint8).numpy()
        top, left = corner.numpy()
        return frames[:, top : top + size, left : left + size]

    centre = geometry.view_corners(*shape, size=size, num_views=1)[0]
    np.testing.assert_array_equal(crop(video[middle], centre), oracle['center_crop'])
    corners = geometry.view_corners(*shape, size=size, num_views=3)
    starts = sampling.view_starts(len(video), **timing, num_views=2)
    clips = [
        video[sampling.frame_indices(start, len(video), **timing, short_clips='loop')]
        for start in starts
    ]
    views = [crop(clip, corner) for corner in corners for clip in clips]
    np.testing.assert_array_equal(np.stack(views), expected)


# --- Evaluation. ---


@given(
    num_videos=st.integers(1, 13),
    host_of_row=st.lists(st.sampled_from('abc'), min_size=1, max_size=12),
)
@settings(max_examples=6, deadline=None)
def test_evaluation_counts_every_video_once(dataset, num_videos, host_of_row, tmp_path_factory):
    some = write_dataset(tmp_path_factory.mktemp('some'), some_videos(num_videos), num_shards=1)
    shares = [np.flatnonzero(np.array(host_of_row) == host) for host in set(host_of_row)]
    hosts = [evaluate(some, batch_size=len(host_of_row), rows=rows) for rows in shares]
    assert len({len(batches) for batches in hosts}) == 1
    for batches, rows in zip(hosts, shares, strict=True):
        assert all(len(batch['mask']) == len(rows) for batch in batches)
    everything = join([join(batches) for batches in hosts])
    counted = everything['mask'] > 0
    assert sorted(everything['index'][counted]) == list(range(num_videos))
    assert not everything['video'][~counted].any()
    assert (everything['index'][~counted] >= num_videos).all()
    green = np.rint(everything['video'][counted][..., 1].mean((1, 2, 3, 4)) / 5).astype(int)
    np.testing.assert_array_equal(green, everything['index'][counted])
    np.testing.assert_array_equal(everything['label'][counted, 0], green % 5)


def read(dataset, number):
    """A video of a data set, with its frames as JPEG."""
    store = stores.open_store(dataset, 'train')
    row = {name: getattr(store.index, name)[number].item() for name in ('fps', 'height', 'width')}
    return video.Video(store.read(number, range(store.index.num_frames[number])), **row)


def test_views_are_crop_major_and_one_file_gives_the_same(dataset):
    """Red tells the frame, and blue the place, of every view."""
    clip = CLIP | {'num_frames': 2, 'stride': 1}
    batch = join(evaluate(dataset, clip=clip, views=(2, 3), batch_size=3))
    assert batch['video'].shape == (15, 6, 2, 8, 8, 3)
    for i in range(13):
        views = pipeline.decode_views(read(dataset, i), clip=clip, views=(2, 3))
        np.testing.assert_array_equal(views, batch['video'][i])
    first = batch['video'][0].astype(float)  # 4 frames of 16 x 22, at the right size.
    red = np.rint((first[..., 0].mean((2, 3)) - 10) / 20).astype(int)
    assert red.tolist() == [[0, 1], [2, 3]] * 3
    blue = first[:, 0, :, 0, 2].mean(1) / 255 * 21
    np.testing.assert_allclose(blue, [0, 0, 7, 7, 14, 14], atol=0.5)


@pytest.mark.parametrize('order', ['still', 'shuffled', 'reversed'])
def test_one_file_gives_the_same_in_other_orders(dataset, order):
    clip = CLIP | {'order': order}
    batch = join(evaluate(dataset, clip=clip, views=(2, 1)))
    views = pipeline.decode_views(read(dataset, 7), clip=clip, views=(2, 1), index=7)
    np.testing.assert_array_equal(views, batch['video'][7])


# --- Broken records. ---


def test_only_the_sampled_frames_are_decoded(tmp_path):
    clean = make_video(1, 5)
    poisoned = [frame if i % 2 == 0 else b'no picture' for i, frame in enumerate(clean)]
    # Five frames hold one training clip of three frames two apart; evaluation starts at 0 as well.
    sets = [
        write_dataset(tmp_path / name, [encode(frames, 1)], num_shards=1)
        for name, frames in (('clean', clean), ('poisoned', poisoned))
    ]
    a, b = (train(s, batch_size=1, num_steps=3) for s in sets)
    assert [digest(batch) for batch in a] == [digest(batch) for batch in b]
    a, b = (evaluate(s, views=(1, 3), batch_size=1) for s in sets)
    assert [digest(batch) for batch in a] == [digest(batch) for batch in b]
    assert b[0]['mask'].tolist() == [1]


@pytest.mark.parametrize(
    'broken', [lambda frame: b'no picture', lambda frame: frame[: len(frame) // 2]]
)
def test_undecodable_videos_are_zeros_of_mask_0(tmp_path, caplog, broken):
    good = [encode(make_video(i, 6), i) for i in range(6)]
    bad = list(good)
    bad[3] = encode([broken(frame) for frame in make_video(3, 6)], 3)
    sets = [write_dataset(tmp_path / name, data) for name, data in (('good', good), ('bad', bad))]
    wide = JITTER | {'scale_jitter': (0.5, 0.6)}
    expected, found = (join(train(s, augment=wide, num_steps=3)) for s in sets)
    lost = found['mask'] == 0
    assert lost.sum() == 2  # 12 examples are two epochs.
    assert not found['video'][lost].any()
    for name in expected:
        np.testing.assert_array_equal(found[name][~lost], expected[name][~lost])
    np.testing.assert_array_equal(found['position'], np.arange(12))
    assert any('video 3' in message for message in caplog.messages)
    seen = join(evaluate(sets[1]))
    assert seen['mask'].tolist() == [1, 1, 1, 0, 1, 1, 0, 0]
    # Resuming behind the failure gives the same bytes as having met it.
    again = join(train(sets[1], augment=wide, start_step=1, num_steps=2))
    assert digest(again) == digest({name: array[4:] for name, array in found.items()})


def test_a_damaged_shard_loses_only_its_damaged_video(tmp_path, caplog):
    good = [encode(make_video(i, 6), i) for i in range(6)]
    damaged = write_dataset(tmp_path, good, num_shards=1)
    shard = next(tmp_path.glob('*.tfrecord'))
    content = bytearray(shard.read_bytes())
    frame = good[2][1][2]  # Of frames 0, 2 and 4.
    content[content.index(frame) + len(frame) // 2] ^= 0xFF
    shard.write_bytes(content)
    seen = join(evaluate(damaged, batch_size=6))
    assert seen['mask'].tolist() == [1, 1, 0, 1, 1, 1]
    assert not seen['video'][2].any()
    assert any('video 2 cannot be read' in message for message in caplog.messages)


# --- Bad input. ---


@pytest.mark.parametrize(
    ('section', 'changes', 'words'),
    [
        ('clip', {'size': 17}, 'clip.size=17'),
        ('clip', {'stride': 0}, 'clip.stride'),
        ('clip', {'fps': -1.0}, 'clip.fps'),
        ('clip', {'short_clips': 'mirror'}, 'mirror'),
        ('clip', {'order': 'random'}, 'random'),
        ('augment', {'scale_jitter': (1.2, 0.8)}, 'scale_jitter'),
        ('augment', {'flip': 50.0}, 'augment.flip'),
        ('', {'batch_size': 0}, 'batch_size=0'),
        ('', {'seed': -1}, 'seed'),
        ('', {'rows': np.array([2, 4])}, r'rows=\[2, 4\]'),
        ('', {'rows': np.array([], int)}, r'rows=\[\]'),
    ],
)
def test_impossible_settings_are_named(dataset, section, changes, words):
    kwargs = {'clip': CLIP, 'augment': NEUTRAL, 'batch_size': 4, 'seed': 0}
    kwargs |= {section: kwargs[section] | changes} if section else changes
    with pytest.raises(UserError, match=words):
        pipeline.train_batches(dataset, 'train', **kwargs)


def test_unknown_splits_and_views_are_named(dataset):
    with pytest.raises(UserError, match="no split 'test'"):
        pipeline.eval_batches(dataset, 'test', clip=CLIP, views=(1, 1), batch_size=1)
    with pytest.raises(UserError, match='views'):
        pipeline.eval_batches(dataset, 'train', clip=CLIP, views=(0, 1), batch_size=1)


def test_the_end_of_the_data_waits_for_no_tuner(dataset, monkeypatch):
    graphs = []
    monkeypatch.setattr(
        tf.data.Dataset, 'as_numpy_iterator', lambda self: graphs.append(self) or iter(())
    )
    assert train(dataset) == []
    (graph,) = graphs
    assert not graph.options().autotune.enabled
