import csv
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vjax.data.annotations.labels_csv import PATHS, read_labels
from vjax.errors import UserError

# What a file may be called; no line breaks alone, which str.strip and csv treat each in its way.
names = st.text(
    st.characters(exclude_categories=('Cs', 'Cc', 'Zl', 'Zp', 'Zs')), min_size=1, max_size=20
).filter(lambda name: name.lower() not in ('path', 'label', *PATHS))


@settings(deadline=None, max_examples=100)
@given(
    rows=st.lists(
        st.tuples(names, names), min_size=1, unique_by=lambda row: os.path.normpath(row[0])
    ),
    bom=st.booleans(),
    header=st.booleans(),
    newline=st.sampled_from(['\n', '\r\n']),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
)
def test_labels_survive_any_spelling_of_csv(tmp_path_factory, rows, bom, header, newline, quoting):
    path = tmp_path_factory.mktemp('labels') / 'labels.csv'
    with path.open('w', encoding='utf-8-sig' if bom else 'utf-8', newline='') as file:
        writer = csv.writer(file, lineterminator=newline, quoting=quoting)
        if header:
            writer.writerow(['path', 'label'])
        writer.writerows(rows)
    if rows[0][0].startswith('\ufeff') and not (bom or header):
        return  # Nobody could tell it from the mark.
    assert read_labels(path) == (('label',), rows)


@pytest.mark.parametrize('first', ['clip_001,action', '12345,start', 'a.mp4,class'])
def test_a_first_video_is_no_header(first, tmp_path):
    path = tmp_path / 'labels.csv'
    path.write_text(f'{first}\nother,x\n')
    assert read_labels(path)[1] == [tuple(first.split(',')), ('other', 'x')]


@pytest.mark.parametrize(
    ('text', 'words'),
    [
        ('', 'names no videos'),
        ('path,label\n\n', 'names no videos'),
        ('a.mp4,x\na.mp4,y\n', "line 2: 'a.mp4' is already on line 1"),
        ('a.mp4,x\n./a.mp4,y\n', 'already on line 1'),
        ('a.mp4,x\nb.mp4\n', 'line 2: 1 values instead of two'),
        ('path,noun,verb\na.mp4,x\n', 'line 2: 2 values instead of 3, path,noun,verb'),
        ('Filename,class\na.mp4,x\n', r"line 1: 'Filename,class' looks like .*path,label"),
        ('vid,label\na.mp4,x\n', r"line 1: 'vid,label' looks like .*path,label"),
        ('url,Category,start,end\na.mp4,x,1,2\n', r'line 1: .* looks like .*path,label'),
        ('a,b.mp4,x\n', 'line 1: 3 values instead of two'),
        ('a.mp4;x\n', '1 values'),
        ('a.mp4,\n', 'line 1: the path or the label is empty'),
        (',x\n', 'line 1: the path or the label is empty'),
        ('"a.mp4,x\n', 'is not CSV'),
        ('path,label,start,end\na.mp4,x,1,2\n', 'has segments or several labels'),
        ('path,labels\na.mp4,x|y\n', 'has segments or several labels'),
    ],
)
def test_a_wrong_labels_file_is_one_sentence(tmp_path, text, words):
    path = tmp_path / 'labels.csv'
    path.write_text(text, encoding='utf-8')
    with pytest.raises(UserError, match=words) as error:
        read_labels(path)
    assert '\n' not in str(error.value)


def test_heads_are_named_by_the_first_line_and_a_missing_file_is_told(tmp_path):
    path = tmp_path / 'labels.csv'
    path.write_text('Path,Noun,Verb\na.mp4,cup,take\n', encoding='utf-8')
    assert read_labels(path) == (('noun', 'verb'), [('a.mp4', 'cup', 'take')])
    with pytest.raises(UserError, match=r'none\.csv cannot be read: No such file'):
        read_labels(tmp_path / 'none.csv')
