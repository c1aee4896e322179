"""Still images, from JPEG files to predictions, by the recipe of TokenLearner on ImageNet."""

import csv

import numpy as np
import pytest
from PIL import Image

from vjax import cli
from vjax.data import pipeline, video
from vjax.evaluate import evaluate_run
from vjax.predict import predict
from vjax.prepare import prepare
from vjax.train import train
from vjax.training import runs

pytestmark = pytest.mark.slow  # A training and two evaluations.

CLASSES = ('stripes, lying', 'stripes, standing')


def draw(label, seed):
    """Stripes of random colours, lying or standing, in an image of a random size."""
    rng = np.random.default_rng(seed)
    height, width = rng.integers(40, 70, 2)
    along = np.arange(height)[:, None] if label == CLASSES[0] else np.arange(width)[None]
    wave = np.broadcast_to(np.sin(along / rng.uniform(1.5, 3)), (height, width))
    colour = 128 + rng.uniform(40, 120, 3) * wave[..., None]
    return Image.fromarray(colour.astype(np.uint8))


@pytest.fixture(scope='module')
def images(tmp_path_factory):
    """The folder of a prepared set of images, and of the images."""
    folder = tmp_path_factory.mktemp('images')
    for split, count in (('train', 24), ('validation', 8)):
        rows = [(f'{split} {i:03d}.JPEG', CLASSES[i % 2]) for i in range(count)]
        for i, (name, label) in enumerate(rows):
            draw(label, [split == 'train', i]).save(folder / name)
        labels = folder / f'{split}.csv'
        with labels.open('w', newline='') as file:
            csv.writer(file).writerows([('path', 'label'), *rows])
        prepare(folder, labels, folder / 'set', split, short_side=40, workers=1)
    return folder


@pytest.fixture(scope='module')
def workdir(images, tmp_path_factory):
    workdir = tmp_path_factory.mktemp('run')
    overrides = [f'--config.dataset.path={images / "set"}']
    config = cli.load_config('configs/token_learner/imagenet.py:tiny', overrides)
    assert (config.clip.num_frames, config.clip.stride, config.clip.fps) == (1, 1, None)
    scores = train(config, workdir)
    assert np.isfinite(scores['loss'])
    return workdir


def test_a_run_on_images_is_evaluated(workdir):
    result = evaluate_run(workdir, split='validation')
    assert result['num_videos'] == 8
    assert np.isfinite(result['loss'])
    assert 0 <= result['top1'] <= result['top5'] == 1


def test_images_are_predicted(workdir, images, tmp_path):
    picture = draw(CLASSES[0], 7)
    files = [tmp_path / 'a %d.png', tmp_path / 'a 1.jpg', tmp_path / 'cut.jpg']
    picture.save(files[0])
    picture.save(files[1], quality=100, subsampling=0)
    files[2].write_bytes(files[1].read_bytes()[:-9])
    png, jpeg, cut = predict(workdir, files)
    assert [entry['path'] for entry in (png, jpeg, cut)] == list(map(str, files))
    assert cut['error'] == 'truncated: the image has no end'
    scores = [{entry['label']: entry['score'] for entry in found['top']} for found in (png, jpeg)]
    assert set(scores[0]) == set(CLASSES)
    assert scores[0] == pytest.approx(scores[1], rel=0.05)


@pytest.mark.parametrize(
    'changes', [{'stride': 2}, {'fps': 8.0}, {'fps': 60.0, 'short_clips': 'pad'}]
)
def test_a_clip_of_an_image_shows_it_over_and_over(workdir, images, changes):
    run = runs.load_run(workdir)
    film = video.to_jpeg(images / 'train 000.JPEG', short_side=run.settings['short_side'])
    clip = run.config.clip.to_dict()
    (once,) = pipeline.decode_views(film, clip=clip, views=(1, 1))
    assert once.shape[0] == 1
    assert clip['short_clips'] == 'loop'
    clip |= {'num_frames': 8} | changes
    shown = pipeline.decode_views(film, clip=clip, views=(2, 1))
    np.testing.assert_array_equal(shown, np.broadcast_to(once, (2, 8, *once.shape[1:])))
