"""Videos, annotations and data sets in buckets, through fsspec and a stand-in for its backends."""

import importlib.util
import os
import pathlib
import subprocess
import sys

import av
import numpy as np
import pytest
from PIL import Image

from vjax.data import records, video
from vjax.data.annotations.items import Item
from vjax.data.preparation import shards, storage
from vjax.errors import UserError
from vjax.prepare import prepare

_spec = importlib.util.spec_from_file_location(
    'bucket', pathlib.Path(__file__).with_name('bucket.py')
)
bucket = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(bucket)


def write_video(path, num_frames, seed=0):
    rng = np.random.default_rng(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), 'w') as container:
        stream = container.add_stream('libx264', rate=10)
        stream.height, stream.width, stream.pix_fmt = 32, 32, 'yuv420p'
        for _ in range(num_frames):
            picture = rng.integers(0, 255, (32, 32, 3), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, 'rgb24')))
        container.mux(stream.encode())


@pytest.fixture
def gs(tmp_path, monkeypatch):
    """The environment of child processes; in this one, gs:// is the stand-in as well."""
    (tmp_path / 'start').mkdir()
    environment = bucket.install(tmp_path / 'bucket', tmp_path / 'start')
    monkeypatch.setenv(bucket.ROOT, environment[bucket.ROOT])
    for name in bucket.Bucket.protocol:
        monkeypatch.setitem(sys.modules['fsspec.registry']._registry, name, bucket.Bucket)
    yield environment
    bucket.Bucket.clear_instance_cache()


@pytest.fixture
def videos(tmp_path):
    """Five videos, of which one is empty and one is missing, and train.csv."""
    folder = tmp_path / 'videos'
    rows = ['path,label', 'none.mp4,a', 'empty.mp4,a']
    for i in range(4):
        write_video(folder / f'class {i % 2}/ü {i}.mp4', num_frames=3 + i, seed=i)
        rows.append(f'class {i % 2}/ü {i}.mp4,{"ab"[i % 2]}')
    (folder / 'empty.mp4').touch()
    (folder / 'train.csv').write_text('\n'.join(rows) + '\n', encoding='utf-8')
    return folder


def upload(folder, url):
    files = bucket.fsspec.filesystem('gs')
    for file in folder.rglob('*'):
        if file.is_file():
            files.put_file(str(file), f'{url}/{file.relative_to(folder).as_posix()}')


def content(url):
    """Name -> bytes of what is in a bucket below a URL, and in a folder."""
    if storage.is_url(url):
        files = bucket.fsspec.filesystem('gs')
        return {n.removeprefix(url[5:] + '/'): files.cat_file(n) for n in files.find(url)}
    return {f.relative_to(url).as_posix(): f.read_bytes() for f in url.rglob('*') if f.is_file()}


def run(environment, *arguments):
    command = [sys.executable, '-m', 'vjax.prepare', '--split=train', '--short_side=16', *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


def test_a_bucket_gives_the_same_as_a_disk(gs, videos, tmp_path):
    prepare(videos, videos / 'train.csv', tmp_path / 'out', 'train', short_side=16, workers=1)
    upload(videos, 's3://b/videos')
    paths = ('--videos=s3://b/videos', '--annotations=s3://b/videos/train.csv', '--out=gs://b/out')

    first = run(gs, *paths, '--workers=1', '--num_tasks=2', '--task=1')
    assert first.returncode == 0, first.stderr
    assert 'shards are missing yet, of --task=0' in first.stderr
    assert 'b/out/.partial-train/plan.json' in bucket.fsspec.filesystem('gs').find('gs://b/out')

    done = run(gs, *paths, '--workers=2')
    assert done.returncode == 0, done.stderr
    assert 'train: 4 videos, 18 frames' in done.stdout
    assert content('gs://b/out') == content(tmp_path / 'out')
    for file in tmp_path.rglob('*.tmp'):
        raise AssertionError(file)

    again = run(gs, *paths, '--workers=2')
    assert again.stdout.split(', complete')[0] == done.stdout.split(', complete')[0]


def test_a_bucket_that_fails_rejects_no_video(gs, videos):
    upload(videos, 'gs://b/videos')
    paths = ('--videos=gs://b/videos', f'--annotations={videos / "train.csv"}', '--out=gs://b/out')
    failed = run(gs | {bucket.FAIL_AT: 'ü 2'}, *paths, '--workers=1')
    assert failed.returncode == 2
    line = failed.stderr.strip().splitlines()[-1]
    assert line.startswith('error: gs://b/videos/class 0/ü 2.mp4 cannot be read: ConnectionError')
    assert line.endswith('the same command goes on.')
    assert 'out/rejected.csv' not in content('gs://b')
    done = run(gs, *paths, '--workers=1')
    assert done.returncode == 0, done.stderr
    assert '2 files rejected' in done.stdout


def test_a_folder_of_images_in_a_bucket(gs, tmp_path):
    for i in range(3):
        (tmp_path / 'frames').mkdir(exist_ok=True)
        Image.new('RGB', (32, 24), (80 * i, 0, 0)).save(tmp_path / f'frames/{i + 1:05d}.jpg')
    upload(tmp_path / 'frames', 'gs://b/videos/7')
    (tmp_path / 'videos').mkdir()
    (tmp_path / 'frames').rename(tmp_path / 'videos/7')
    item = Item('7', '7', (('x',),), fps=12.0)
    settings = {'store': 'frames', 'short_side': 16, 'jpeg_quality': 90}
    made = shards.encode('gs://b/videos', item, (0,), settings, video.Limits())
    assert made == shards.encode(str(tmp_path / 'videos'), item, (0,), settings, video.Limits())
    assert (made[0].num_frames, made[0].fps) == (3, 12.0)


def test_a_video_is_read_in_pieces(gs, tmp_path, monkeypatch):
    """Not all of a long film for one segment of it."""
    write_video(tmp_path / 'a.mp4', num_frames=12)
    (tmp_path / 'b.mp4').write_bytes((tmp_path / 'a.mp4').read_bytes() + bytes(50 << 20))
    upload(tmp_path, 'gs://b')
    fetched = []
    whole = bucket._Object._fetch_range

    def fetch(self, start, end):
        fetched.append(end - start)
        return whole(self, start, end)

    monkeypatch.setattr(bucket._Object, '_fetch_range', fetch)
    item = Item('b', 'b.mp4', (('x',),), start=0.25, end=0.75)
    settings = {'store': 'frames', 'short_side': 16, 'jpeg_quality': 90}
    entry, frames = shards.encode('gs://b', item, (0,), settings, video.Limits())
    local, same = shards.encode(str(tmp_path), item, (0,), settings, video.Limits())
    assert (entry, frames) == (local, same)
    assert entry.num_frames == 5
    assert sum(fetched) < 20 << 20


def test_the_folder_operations_are_those_of_a_disk(gs, tmp_path):
    for url in ('gs://b/some', str(tmp_path / 'some')):
        folder = storage.folder(url)
        assert not folder.exists()
        assert folder.names() == set()
        folder.make()
        folder.write('a', b'old')
        folder.write('a', 'ü')
        (folder / 'sub').make()
        (folder / 'sub').write('b', b'')
        (tmp_path / 'file').write_bytes(b'123')
        folder.take(tmp_path / 'file', 'c')
        assert not (tmp_path / 'file').exists()
        assert folder.exists()
        assert folder.names() == {'a', 'c', 'sub'}
        assert folder.read(['c', 'none', 'a']) == [b'123', None, 'ü'.encode()]
        assert folder.read([]) == []
        assert folder.sizes(['a', 'none', 'c']) == [2, None, 3]
        folder.remove(['a', 'none'])
        assert folder.names() == {'c', 'sub'}
        (folder / 'sub').remove_all()
        (folder / 'sub').remove_all()
        assert folder.names() == {'c'}


def test_joined():
    assert storage.joined('gs://b/v/', 'x/y.mp4') == 'gs://b/v/x/y.mp4'
    assert storage.joined('videos', 'gs://b/y.mp4') == 'gs://b/y.mp4'
    assert storage.joined('gs://b', '/data/y.mp4') == '/data/y.mp4'
    assert storage.joined('v', 'y.mp4') == os.path.join('v', 'y.mp4')


@pytest.mark.parametrize(
    ('url', 'sentence'),
    [
        ('s3://b/v', r"s3:// needs a package .*s3fs.*; pip install 'vjax\[cloud\]'"),
        ('hello://b/v', r'hello:// is not known; there are gs:// and s3://'),
    ],
)
def test_a_missing_backend_is_one_sentence(tmp_path, monkeypatch, url, sentence):
    def without(name):
        if name == 's3':
            raise ImportError('Install s3fs to access S3')
        raise ValueError(f'Protocol not known: {name}')

    monkeypatch.setattr(bucket.fsspec, 'filesystem', without)
    with pytest.raises(UserError, match=sentence):
        prepare(url, tmp_path / 'none.csv', tmp_path / 'out', 'train')


def test_training_from_a_bucket_is_one_sentence():
    with pytest.raises(UserError, match=r'is in a bucket.*: copy it to one .*mount the bucket'):
        records.open_dataset('gs://b/out')
