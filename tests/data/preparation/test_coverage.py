import csv
import errno
import os

import pytest

from vjax.data.annotations.items import Annotations, Item
from vjax.data.preparation import coverage, storage
from vjax.errors import UserError
from vjax.prepare import prepare


@pytest.fixture
def videos(tmp_path):
    """Three videos, one of them a folder of images; nobody opens them here."""
    folder = tmp_path / 'videos'
    (folder / 'cut/7').mkdir(parents=True)
    (folder / 'cut/7/00001.jpg').touch()
    (folder / 'cut/a.mp4').touch()
    (folder / 'b.mp4').touch()
    return folder


def annotations(*rows):
    """Rows of path, verb, noun."""
    items = tuple(
        Item(f'{i}', path, ((verb,), (noun,))) for i, (path, verb, noun) in enumerate(rows)
    )
    return Annotations(('verb', 'noun'), items, None)


ROWS = [
    ('cut/7', 'cut', 'egg'),
    ('cut/a.mp4', 'cut', 'fish'),
    ('cut/gone.mp4', 'cut', 'fish'),
    ('b.mp4', 'boil', 'egg'),
    ('cut/gone.mp4', 'boil', 'egg'),  # Another segment of it.
    ('no folder/gone.mp4', 'boil', 'rice'),
    ('../videos/b.mp4', 'boil', 'egg'),
]


def test_missing_videos_are_counted_for_each_class(videos, tmp_path, monkeypatch):
    annotated = annotations(*ROWS, (str(videos / 'b.mp4'), 'boil', 'egg'))
    missing = coverage.missing(storage.folder(videos), annotated)
    assert missing == ['cut/gone.mp4', 'no folder/gone.mp4']
    monkeypatch.chdir(videos)
    assert coverage.missing(storage.folder('.'), annotated) == missing
    assert coverage.per_class(annotated, missing) == {
        ('noun', 'egg'): (5, 1),
        ('noun', 'fish'): (2, 1),
        ('noun', 'rice'): (1, 1),
        ('verb', 'boil'): (5, 2),
        ('verb', 'cut'): (3, 1),
    }
    assert coverage.summary(annotated, missing) == (
        "3 of 8 annotated videos are missing (37.5%), the first is 'cut/gone.mp4'; most of 'boil' (2 "
        "of 5), 'egg' (1 of 5), 'fish' (1 of 2)"
    )
    out = storage.folder(tmp_path)
    coverage.write(out, 'train', annotated, missing)
    coverage.write(out, 'test', annotations(ROWS[2]), missing)
    coverage.write(out, 'train', annotated, missing)  # Replaces its own rows.
    with (tmp_path / coverage.COVERAGE).open(encoding='utf-8') as file:
        rows = list(csv.DictReader(file))
    assert [tuple(row.values()) for row in rows] == [
        ('test', 'noun', 'fish', '1', '0'),
        ('test', 'verb', 'cut', '1', '0'),
        ('train', 'noun', 'egg', '5', '4'),
        ('train', 'noun', 'fish', '2', '1'),
        ('train', 'noun', 'rice', '1', '0'),
        ('train', 'verb', 'boil', '5', '3'),
        ('train', 'verb', 'cut', '3', '2'),
    ]
    coverage.clear(out, 'train')  # Its videos have come.
    assert (tmp_path / coverage.COVERAGE).read_text(encoding='utf-8').splitlines()[1:] == [
        'test,noun,fish,1,0',
        'test,verb,cut,1,0',
    ]
    coverage.clear(storage.folder(videos), 'train')
    assert not (videos / coverage.COVERAGE).exists()


def test_a_video_of_several_labels_counts_once_for_each(videos):
    items = (Item('a', 'b.mp4', (('x', 'y', 'x'),)), Item('b', 'gone.mp4', (('x', 'x'),)))
    annotated = Annotations(('label',), items, None, multi_label=True)
    missing = coverage.missing(storage.folder(videos), annotated)
    assert coverage.per_class(annotated, missing) == {
        ('label', 'x'): (2, 1),
        ('label', 'y'): (1, 0),
    }


def test_folders_are_listed_once(videos, monkeypatch):
    listed = []
    names = storage.Disk.names

    def counts(self):
        listed.append(self.path)
        return names(self)

    monkeypatch.setattr(storage.Disk, 'names', counts)
    coverage.missing(storage.folder(videos), annotations(*ROWS, *ROWS))
    assert sorted(listed) == sorted(
        str(path) for path in (videos, videos / 'cut', videos / 'no folder')
    )


def test_a_folder_that_cannot_be_read_is_not_an_empty_one(videos, monkeypatch):
    def denied(path):
        raise PermissionError(errno.EACCES, 'Permission denied', path)

    monkeypatch.setattr(os, 'listdir', denied)
    with pytest.raises(PermissionError):
        storage.folder(str(videos)).names()
    monkeypatch.undo()
    assert storage.folder(str(videos / 'none')).names() == set()


def test_too_few_videos_are_an_error_that_leaves_nothing(videos, tmp_path):
    labels = tmp_path / 'train.csv'
    present = 'b.mp4,x\ncut/a.mp4,x\ncut/7,x\n'
    labels.write_text(f'path,label\n{present}' + ''.join(f'{i}.mp4,y\n' for i in range(5)))
    sentence = (
        r"^--videos=.*: 5 of 8 annotated videos are missing \(62.5%\), the first is '0.mp4'; most of "
        r"'y' \(5 of 5\). Is it the right folder\? If so, --min_coverage=0.37 goes on without them "
        r'\(now 0.5\)\.$'
    )
    with pytest.raises(UserError, match=sentence):
        prepare(videos, labels, tmp_path / 'out', 'train')
    assert list((tmp_path / 'out').iterdir()) == []
    # Those are empty.
    with pytest.raises(UserError, match=r'all 8 videos .* were rejected'):
        prepare(videos, labels, tmp_path / 'out', 'train', workers=1, min_coverage=0.37)
    assert sorted(f.name for f in (tmp_path / 'out').iterdir()) == ['coverage.csv', 'rejected.csv']
