"""Data sets of TensorFlow Datasets, read where they were built."""

import io
import json
import logging
import os

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from vjax import cli, describe, evaluate, recipes, train
from vjax.data import pipeline, records, stores
from vjax.errors import UserError

CLIP = {
    'num_frames': 3,
    'stride': 2,
    'fps': None,
    'short_side': 16,
    'size': 16,
    'short_clips': 'loop',
    'order': 'forward',
}
AUGMENT = recipes.base().augment.to_dict()
CLASSES = ['jump', 'run', 'walk']


def frames_of(video):
    """5 to 9 frames whose red says which video, and green which frame."""
    frames = np.zeros((5 + video % 5, 16, 16 + 2 * (video % 2), 3), np.uint8)
    frames[..., 0] = 10 * video
    frames[..., 1] = 20 * np.arange(len(frames))[:, None, None]
    return frames


class TinyVideos(tfds.core.GeneratorBasedBuilder):
    """Videos without ffmpeg: TFDS takes arrays as well."""

    VERSION = tfds.core.Version('1.2.0')
    url_infos = None  # It would look for checksums beside this file.
    BUILDER_CONFIGS = tuple(
        tfds.core.BuilderConfig(name=name) for name in ('png', 'jpeg', 'unlabelled')
    )

    def _info(self):
        made = {'png': 'png', 'jpeg': 'jpeg'}.get(self.builder_config.name, 'png')
        arguments = ('-r', '10') if made == 'jpeg' else ()
        features = {
            'id': tfds.features.Text(),
            'clip': tfds.features.Video(
                shape=(None, None, None, 3), encoding_format=made, ffmpeg_extra_args=arguments
            ),
            'action': tfds.features.ClassLabel(names=CLASSES),
        }
        if self.builder_config.name == 'unlabelled':
            del features['action']
        return self.dataset_info_from_configs(features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {
            'train': self._generate_examples(range(11)),
            'test': self._generate_examples(range(11, 16)),
        }

    def _generate_examples(self, videos):
        for video in videos:
            example = {'id': str(video), 'clip': frames_of(video), 'action': video % 3}
            if self.builder_config.name == 'unlabelled':
                del example['action']
            yield video, example


def build(folder, config='png', file_format='array_record'):
    builder = TinyVideos(config=config, data_dir=folder, file_format=file_format)
    builder.download_and_prepare()
    return f'tfds:tiny_videos/{config}@{folder}'


@pytest.fixture(scope='module')
def path(tmp_path_factory):
    return build(tmp_path_factory.mktemp('tfds'))


def batches(dataset, **kwargs):
    asked = {'batch_size': 4, 'seed': 5, 'num_steps': 6, 'num_threads': 2} | kwargs
    return list(pipeline.train_batches(dataset, 'train', clip=CLIP, augment=AUGMENT, **asked))


def test_a_built_data_set_is_described(path):
    dataset = records.open_dataset(path)
    assert (dataset.path, dataset.classes) == (path, {'label': tuple(CLASSES)})
    assert {name: split.num_videos for name, split in dataset.splits.items()} == {
        'train': 11,
        'test': 5,
    }
    assert dataset.settings['name'] == 'tiny_videos/png/1.2.0'
    prints = {split.fingerprint for split in dataset.splits.values()}
    assert len(prints) == 2
    again = records.open_dataset(f'{path.replace("/png", "/png:1.2.0")}')
    assert {split.fingerprint for split in again.splits.values()} == prints


def test_the_store_has_every_frame(path):
    store = stores.open_store(records.open_dataset(path), 'train')
    assert isinstance(store, stores.Store)
    assert store.encoding == 'png'
    # TFDS shuffles the videos of a split when it builds it; red says which one a video is.
    seen = set()
    for video in range(11):
        (content,) = store.read(video, [0])
        number = int(decoded(content)[0, 0, 0]) // 10
        seen.add(number)
        expected = frames_of(number)
        got = [decoded(frame) for frame in store.read(video, [3, 0, 3])]
        np.testing.assert_array_equal(got, expected[[3, 0, 3]])
        row = (store.index.num_frames[video], store.index.height[video], store.index.width[video])
        assert row == expected.shape[:3]
        assert store.index.label(video).tolist() == [number % 3]
        assert store.index.fps[video] == 25
    assert seen == set(range(11))
    assert store.index.names() == [f'train/{video}' for video in range(11)]


def decoded(content):
    return np.asarray(Image.open(io.BytesIO(content)))


@pytest.mark.parametrize('config', ['png', 'jpeg'])
def test_batches_have_the_right_frames_and_labels(path, tmp_path, config):
    dataset = records.open_dataset(path if config == 'png' else build(tmp_path, config))
    store = stores.open_store(dataset, 'train')
    assert (store.encoding, store.index.fps[0]) == (config, {'png': 25, 'jpeg': 10}[config])
    exact = 0.01 if config == 'png' else 3  # JPEG's colours.
    found = []
    for batch in batches(dataset):
        assert batch['mask'].all()
        means = batch['video'].mean((2, 3))
        numbers = np.rint(means[:, 0, 0] / 10).astype(int)
        np.testing.assert_allclose(
            means[..., 0], 10 * numbers[:, None] + 0 * means[..., 0], atol=exact
        )
        steps = np.diff(means[..., 1], axis=1) / 20
        np.testing.assert_allclose(steps, np.full_like(steps, 2), atol=exact / 20)
        np.testing.assert_array_equal(batch['label'][:, 0], numbers % 3)
        found += numbers.tolist()
    assert sorted(found[:11]) == sorted(found[11:22]) == list(range(11))
    assert found[:11] != found[11:22]
    whole = {'clip': CLIP, 'views': (1, 1), 'batch_size': 3}
    shown = list(pipeline.eval_batches(dataset, 'test', **whole))
    assert [batch['mask'].tolist() for batch in shown] == [[1, 1, 1], [1, 1, 0]]
    numbers = np.concatenate([np.rint(b['video'].mean((1, 2, 3, 4))[:, 0] / 10) for b in shown])
    assert sorted(numbers[:5]) == [11, 12, 13, 14, 15]


def test_batches_are_a_function_of_seed_and_step(path):
    dataset = records.open_dataset(path)
    once = batches(dataset)
    later = batches(dataset, start_step=4, num_steps=2)
    parts = [batches(dataset, rows=np.arange(i, i + 2)) for i in (0, 2)]
    other = batches(dataset, seed=6)
    for name in once[0]:
        for step, batch in enumerate(later, start=4):
            np.testing.assert_array_equal(once[step][name], batch[name])
        for batch, *halves in zip(once, *parts, strict=True):
            joined = np.concatenate([half[name] for half in halves])
            np.testing.assert_array_equal(batch[name], joined)
    assert any((a['video'] != b['video']).any() for a, b in zip(once, other, strict=True))


def test_the_index_is_made_once_and_again_for_other_files(tmp_path, caplog):
    caplog.set_level(logging.INFO, logger='vjax.data.tfds')
    dataset = records.open_dataset(build(tmp_path))

    def scans():
        caplog.clear()
        table = stores.open_store(dataset, 'test').index
        return table, 'reading all of split' in caplog.text

    first, scanned = scans()
    second, again = scans()
    assert (scanned, again) == (True, False)
    for name in ('num_frames', 'fps', 'height', 'width', 'labels'):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))
    (kept,) = tmp_path.rglob('vjax-test.index.npz')
    assert os.listdir(kept.parent).count(kept.name) == 1
    whole = kept.read_bytes()
    kept.write_bytes(whole[:100])
    assert scans()[1]
    assert 'is damaged' in caplog.text
    assert kept.read_bytes() == whole
    with np.load(kept, allow_pickle=False) as columns:
        other = dict(columns) | {'fingerprint': np.array('of other files')}
    np.savez(kept, **other)
    assert scans()[1]
    assert kept.read_bytes() == whole


def test_the_index_of_a_folder_that_cannot_be_written_to_stays_in_memory(path, monkeypatch, caplog):
    from vjax.data import tfds as module

    def refuse(*_):
        raise PermissionError(13, 'Permission denied')

    monkeypatch.setattr(module, '_read_index', lambda *_: None)
    monkeypatch.setattr(module, '_write_index', refuse)
    caplog.set_level(logging.INFO, logger='vjax.data.tfds')
    assert len(stores.open_store(records.open_dataset(path), 'train').index) == 11
    assert 'the index is not kept (Permission denied)' in caplog.text


def test_damaged_videos_are_zeros_of_mask_0(tmp_path, caplog):
    """Whether they were so when the index was made, or became so."""
    dataset = records.open_dataset(build(tmp_path))
    store = stores.open_store(dataset, 'train')
    number = store.index.num_frames.tolist().index(7)
    content = store.read(number, [2])[0]
    (shard,) = tmp_path.rglob('*train.array_record*')
    data = bytearray(shard.read_bytes())
    expected = batches(dataset)
    # ArrayRecord may compress.
    at = data.index(content) if content in data else len(data) // 2
    data[at : at + 40] = bytes(40)
    shard.write_bytes(data)
    found = batches(dataset)
    lost = np.concatenate([batch['mask'] == 0 for batch in found])
    assert lost.any()
    for one, other in zip(expected, found, strict=True):
        gone = other['mask'] == 0
        assert not other['video'][gone].any()
        np.testing.assert_array_equal(other['video'][~gone], one['video'][~gone])
    assert 'left out' in caplog.text
    (kept,) = tmp_path.rglob('vjax-train.index.npz')
    kept.unlink()
    again = batches(dataset)
    for one, other in zip(found, again, strict=True):
        np.testing.assert_array_equal(one['mask'], other['mask'])


def test_what_cannot_be_read_is_named(path, tmp_path):
    cases = {
        f'tfds:tiny_videos/png@{tmp_path}': 'not on disk.*tfds build tiny_videos/png --data_dir=',
        f'tfds:no_such_set@{tmp_path}': 'not on disk.*tfds build no_such_set',
        f'{path.replace("/png", "/png:9.9.9")}': 'not on disk',
        'tfds:': 'not on disk',
        build(tmp_path / 'a', file_format='tfrecord'): 'tfrecord.*--file_format=array_record',
        build(tmp_path / 'b', 'unlabelled'): '0 features of the kind ClassLabel.*clip \\(Video\\)',
    }
    for name, words in cases.items():
        with pytest.raises(UserError, match=words) as error:
            records.open_dataset(name)
        assert '\n' not in str(error.value)
    with pytest.raises(UserError, match="no split 'validation'; it has test, train"):
        stores.open_store(records.open_dataset(path), 'validation')


@pytest.mark.slow
def test_training_and_evaluation_run_on_it(path, tmp_path):
    overrides = [
        f'--config.dataset.path={path}',
        '--config.dataset.validation=test',
        '--config.clip.short_side=16',
        '--config.clip.size=16',
    ]
    config = cli.load_config('configs/vivit/moving_digits.py:tiny', overrides)
    assert describe.describe(config)['num_classes'] == 3
    train.train(config, tmp_path / 'run')
    scores = evaluate.evaluate_run(tmp_path / 'run', split='test')
    assert (scores['num_videos'], scores['num_undecodable']) == (5, 0)
    assert scores['fingerprint'] == records.open_dataset(path).splits['test'].fingerprint
    json.dumps(scores)
