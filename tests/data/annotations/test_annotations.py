"""Every format on a fixture as its authors write it, and on broken ones."""

import contextlib
import dataclasses
import json
import math
import os
import re
import subprocess
import sys

import numpy as np
import pytest

from vjax.data import annotations
from vjax.data.annotations import files
from vjax.data.annotations.items import Item
from vjax.errors import UserError


@dataclasses.dataclass
class Case:
    """A small data set in the official format.

    Attributes:
        dataset: key of FORMATS.
        texts: annotation files by name; JSON where the value is no text.
        on_disk: video files (or, with a slash at the end, folders) that are there.
        annotations: what --annotations names, in the folder of `texts`.
        items: what must come out.
        classes: of each head.
        main: the annotation file that is broken below.
    """

    dataset: str
    texts: dict
    on_disk: tuple
    items: tuple
    classes: dict | None
    main: str
    split: str = 'train'
    annotations: str = ''
    fold: int | None = None
    heads: tuple = ('label',)
    multi_label: bool = False

    def write(self, folder):
        (folder / 'labels').mkdir(parents=True, exist_ok=True)
        for name, text in self.texts.items():
            text = text if isinstance(text, str) else json.dumps(text, indent=1)
            (folder / 'labels' / name).write_text(text, encoding='utf-8')
        (folder / 'videos').mkdir(exist_ok=True)
        for name in self.on_disk:
            path = folder / 'videos' / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.mkdir(parents=True) if name.endswith('/') else path.touch()
        return folder

    def read(self, folder):
        # A format of folders has no files.
        labels = str(folder / 'labels' / self.annotations) if self.texts else ''
        videos = str(folder / 'videos')
        return annotations.read(self.dataset, labels, videos, self.split, fold=self.fold)


def one(name, path, *labels, **segment):
    return Item(name, path, tuple((label,) for label in labels), **segment)


SSV2_LABELS = {'Holding something next to something': '1', "Pretending to put [it] 'x'": '0'}
SSV2_LABELS = {key.replace('[', '').replace(']', ''): value for key, value in SSV2_LABELS.items()}
SSV2_TRAIN = [
    {
        'id': '78687',
        'label': 'holding potato next to vicks vaporub bottle',
        'template': 'Holding [something] next to [something]',
        'placeholders': ['potato', 'vicks vaporub bottle'],
    },
    {'id': '42326', 'label': '-', 'template': "Pretending to put [it] 'x'", 'placeholders': ['it']},
]
UCF_CLASSES = '1 ApplyEyeMakeup\r\n2 Archery\r\n3 YoYo\r\n'
EPIC_HEADER = (
    'narration_id,participant_id,video_id,narration_timestamp,start_timestamp,stop_timestamp,'
    'start_frame,stop_frame,narration,verb,verb_class,noun,noun_class,all_nouns,all_noun_classes\n'
)
CHARADES_HEADER = (
    'id,subject,scene,quality,relevance,verified,script,objects,descriptions,actions,length\n'
)
CASES = {
    'csv': Case(
        'csv',
        {'a.csv': '\ufeffpath,label\r\na.mp4,run\r\n"b, c.mp4","jump, high"\r\n/abs/c.mp4,run\r\n'},
        (),
        (
            one('a.mp4', 'a.mp4', 'run'),
            one('b, c.mp4', 'b, c.mp4', 'jump, high'),
            one('/abs/c.mp4', '/abs/c.mp4', 'run'),
        ),
        None,
        main='a.csv',
        annotations='a.csv',
    ),
    'csv, segments and heads': Case(
        'csv',
        {'a.csv': 'path,noun,start,verb,end\na.mp4,cup,1.5,take,3\na.mp4,cup,3,put,\nb.mp4,cup,,put,\n'},
        (),
        (
            one('a.mp4#t=1.5,3', 'a.mp4', 'cup', 'take', start=1.5, end=3.0),
            one('a.mp4#t=3', 'a.mp4', 'cup', 'put', start=3.0),
            one('b.mp4', 'b.mp4', 'cup', 'put'),
        ),
        None,
        main='a.csv',
        annotations='a.csv',
        heads=('noun', 'verb'),
    ),
    'csv, multi-label': Case(
        'csv',
        {'a.csv': 'path,labels\na.mp4,run | jump\nb.mp4,\n'},
        (),
        (Item('a.mp4', 'a.mp4', (('run', 'jump'),)), Item('b.mp4', 'b.mp4', ((),))),
        None,
        main='a.csv',
        annotations='a.csv',
        multi_label=True,
    ),
    'folders': Case(
        'folders',
        {},
        ('train/walk/b.MP4', 'train/walk/deep/a.jpg', 'train/run/z.webm', 'train/run/notes.txt',
         'train/run/.hidden.mp4', 'train/.cache/x.mp4', 'test/run/y.mp4'),
        (
            one('train/run/z.webm', 'train/run/z.webm', 'run'),
            one('train/walk/b.MP4', 'train/walk/b.MP4', 'walk'),
            one('train/walk/deep/a.jpg', 'train/walk/deep/a.jpg', 'walk'),
        ),
        None,
        main='',
    ),
    'kinetics, CVDF': Case(
        'kinetics400',
        {
            'train.csv': 'label,youtube_id,time_start,time_end,split,is_cc\n',
            'val.csv': 'label,youtube_id,time_start,time_end,split,is_cc\n'
            'abseiling,-3B32lodo2M,59,69,val,0\n"air drumming",_dbcJuKJQNs,40,50,val,0\n'
            'abseiling,0wR5jVB-WPk,417,427,validate,1\nabseiling,3caPS4FHFF8,36,46,val,0\n'
            'abseiling,3caPS4FHFF8,50,60,val,0\nabseiling,missing_one,0,10,val,0\n'
            'abseiling,BJ8ZBTYXyAE,76,86,val,0\n',
        },
        # Flat, in class folders of a split folder, another container, without times.
        ('-3B32lodo2M_000059_000069.mp4', 'val/abseiling/_dbcJuKJQNs_000040_000050.mkv',
         'val/air_drumming/_dbcJuKJQNs_000040_000050.mkv',
         'train/air_drumming/_dbcJuKJQNs_000040_000050.mkv', '0wR5jVB-WPk.webm', '3caPS4FHFF8.mp4',
         'replacement/replacement_for_corrupted_k400/BJ8ZBTYXyAE_000076_000086.mp4',
         'val/abseiling/BJ8ZBTYXyAE_000076_000086.mp4'),
        (
            one('-3B32lodo2M_000059_000069', '-3B32lodo2M_000059_000069.mp4', 'abseiling'),
            one(
                '_dbcJuKJQNs_000040_000050',
                'val/air_drumming/_dbcJuKJQNs_000040_000050.mkv',
                'air drumming',
            ),
            one('0wR5jVB-WPk_000417_000427', '0wR5jVB-WPk.webm', 'abseiling'),
            # Which of the two clips 3caPS4FHFF8.mp4 is, nobody knows.
            one('3caPS4FHFF8_000036_000046', '3caPS4FHFF8_000036_000046.mp4', 'abseiling'),
            one('3caPS4FHFF8_000050_000060', '3caPS4FHFF8_000050_000060.mp4', 'abseiling'),
            one('missing_one_000000_000010', 'missing_one_000000_000010.mp4', 'abseiling'),
            one(
                'BJ8ZBTYXyAE_000076_000086',
                'replacement/replacement_for_corrupted_k400/BJ8ZBTYXyAE_000076_000086.mp4',
                'abseiling',
            ),
        ),
        None,
        main='val.csv',
        split='validation',
    ),
    'kinetics, a file': Case(
        'kinetics700_2020',
        {'any.csv': 'label,youtube_id,time_start,time_end,split\ntestifying,---QUuC4vJs,84,94,mini\n'},
        ('testifying/---QUuC4vJs_000084_000094.mp4',),
        (
            one(
                '---QUuC4vJs_000084_000094',
                'testifying/---QUuC4vJs_000084_000094.mp4',
                'testifying',
            ),
        ),
        None,
        main='any.csv',
        annotations='any.csv',
        split='mini',
    ),
    'something-something': Case(
        'something_something_v2',
        {'labels.json': SSV2_LABELS, 'train.json': SSV2_TRAIN},
        ('20bn-something-something-v2/78687.webm', '42326.mp4'),
        (
            one(
                '78687',
                '20bn-something-something-v2/78687.webm',
                'Holding something next to something',
            ),
            one('42326', '42326.mp4', "Pretending to put it 'x'"),
        ),
        {'label': ("Pretending to put it 'x'", 'Holding something next to something')},
        main='train.json',
    ),
    "something-something, 20BN's names": Case(
        'something_something_v2',
        {
            'something-something-v2-labels.json': SSV2_LABELS,
            'something-something-v2-validation.json': SSV2_TRAIN[:1],
        },
        (),
        (one('78687', '78687.webm', 'Holding something next to something'),),
        {'label': ("Pretending to put it 'x'", 'Holding something next to something')},
        main='something-something-v2-validation.json',
        annotations='something-something-v2-validation.json',
        split='validation',
    ),
    'ucf101, train': Case(
        'ucf101',
        {
            'classInd.txt': UCF_CLASSES,
            'trainlist02.txt': 'ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 1\r\n'
            'YoYo/v_YoYo_g25_c05.avi 3\r\n',
        },
        ('UCF-101/ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi', 'v_YoYo_g25_c05.mp4'),
        (
            one(
                'ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi',
                'UCF-101/ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi',
                'ApplyEyeMakeup',
            ),
            one('YoYo/v_YoYo_g25_c05.avi', 'v_YoYo_g25_c05.mp4', 'YoYo'),
        ),
        {'label': ('ApplyEyeMakeup', 'Archery', 'YoYo')},
        main='trainlist02.txt',
        fold=2,
    ),
    'ucf101, test': Case(
        'ucf101',
        {'classInd.txt': UCF_CLASSES, 'testlist01.txt': 'Archery/v_Archery_g01_c01.avi\n'},
        (),
        (one('Archery/v_Archery_g01_c01.avi', 'Archery/v_Archery_g01_c01.avi', 'Archery'),),
        {'label': ('ApplyEyeMakeup', 'Archery', 'YoYo')},
        main='testlist01.txt',
        split='test',
        fold=1,
    ),
    'hmdb51': Case(
        'hmdb51',
        {
            'brush_hair_test_split1.txt': 'a_brush_hair_f_goo_0.avi 1 \nb(x)!_brush_hair.avi 2 \n',
            'brush_hair_test_split3.txt': 'a_brush_hair_f_goo_0.avi 2 \nb(x)!_brush_hair.avi 1 \n'
            'c_brush_hair.avi 0 \n',
            'wave_test_split1.txt': 'w_wave_u_bad_1.avi 0 \n',
            'wave_test_split3.txt': 'w_wave_u_bad_1.avi 1 \n',
        },
        ('brush_hair/w_wave_u_bad_1.avi',),
        (
            one('brush_hair/b(x)!_brush_hair.avi', 'brush_hair/b(x)!_brush_hair.avi', 'brush_hair'),
            # The file of this name is in the folder of another class.
            one('wave/w_wave_u_bad_1.avi', 'wave/w_wave_u_bad_1.avi', 'wave'),
        ),
        {'label': ('brush_hair', 'wave')},
        main='wave_test_split3.txt',
        fold=3,
    ),
    'moments in time': Case(
        'moments_in_time',
        {
            'moments_categories.txt': 'yawning,1\nadult+female+singing,0\nclapping,2\n',
            'validationSet.csv': 'yawning/yt-5of6ffo6-Bw_205.mp4,yawning,3,0\n'
            'clapping/yt-5of6ffo6-Bw_205.mp4,clapping,4,1\nclapping/flickr-1-2.mp4,clapping,4,1\n',
        },
        ('validation/yawning/yt-5of6ffo6-Bw_205.mp4', 'training/yawning/yt-5of6ffo6-Bw_205.mp4',
         'flickr-1-2.mp4'),
        (
            one(
                'yawning/yt-5of6ffo6-Bw_205.mp4',
                'validation/yawning/yt-5of6ffo6-Bw_205.mp4',
                'yawning',
            ),
            # Of the same name, but of another class: another file, which is not there.
            one(
                'clapping/yt-5of6ffo6-Bw_205.mp4',
                'validation/clapping/yt-5of6ffo6-Bw_205.mp4',
                'clapping',
            ),
            one('clapping/flickr-1-2.mp4', 'flickr-1-2.mp4', 'clapping'),
        ),
        {'label': ('adult+female+singing', 'yawning', 'clapping')},
        main='validationSet.csv',
        split='val',
    ),
    'epic-kitchens': Case(
        'epic_kitchens100',
        {
            'EPIC_100_verb_classes.csv': 'id,key,instances,category\n'
            '0,take,"[\'get\', \'take\']",retrieve\n1,put,[\'put\'],leave\n',
            'EPIC_100_noun_classes_v2.csv': 'id,key,instances,category\n'
            '0,tap,[\'tap\'],appliances\n1,spoon,[\'spoon\'],cutlery\n2,plate,[\'plate\'],crockery\n',
            'EPIC_100_train.csv': EPIC_HEADER
            + 'P01_01_0,P01,P01_01,00:00:01.089,00:00:00.14,00:00:03.37,8,202,take plate,take,0,plate,2,'
            "['plate'],[2]\nP01_102_7,P01,P01_102,01:00:01.100,01:00:00.54,01:00:02.23,27,111,put it,put,1,"
            "tap,0,\"['tap', 'it']\",\"[0, 2]\"\n",
        },
        ('P01/videos/P01_01.MP4', 'P01_102.MP4'),
        (
            one('P01_01_0', 'P01/videos/P01_01.MP4', 'plate', 'take', start=0.14, end=3.37),
            one('P01_102_7', 'P01_102.MP4', 'tap', 'put', start=3600.54, end=3602.23),
        ),
        {'noun': ('tap', 'spoon', 'plate'), 'verb': ('take', 'put')},
        main='EPIC_100_train.csv',
        heads=('noun', 'verb'),
    ),
    'charades': Case(
        'charades',
        {
            'Charades_v1_classes.txt': 'c000 Holding some clothes\nc001 Putting clothes somewhere\n',
            'Charades_v1_train.csv': CHARADES_HEADER
            + '46GP8,HR43,Kitchen,6,7,Yes,"He says ""hi"", and\nleaves.",a;b,"c, d",'
            'c001 11.90 21.20;c000 0.00 12.60;c001 1.0 2.0,20.50\n'
            'N11GT,0KZ7,Stairs,6,7,Yes,"He" stands,a,-,,18.00\n',
        },
        ('Charades_v1_480/46GP8.mp4',),
        (
            Item(
                '46GP8',
                'Charades_v1_480/46GP8.mp4',
                (
                    (
                        'Putting clothes somewhere',
                        'Holding some clothes',
                        'Putting clothes somewhere',
                    ),
                ),
                spans=((11.9, 20.5), (0.0, 12.6), (1.0, 2.0)),
            ),
            Item('N11GT', 'N11GT.mp4', ((),)),
        ),
        {'label': ('Holding some clothes', 'Putting clothes somewhere')},
        main='Charades_v1_train.csv',
        multi_label=True,
    ),
    'diving48': Case(
        'diving48',
        {
            'Diving48_vocab.json': [
                ['Back', '15som', '05Twis', 'FREE'],
                ['Inward', '25som', 'NoTwis', 'TUCK'],
            ],
            'Diving48_V2_test.json': [
                {'vid_name': '_8Vy3dlHg2w_00000', 'label': 1, 'start_frame': 0, 'end_frame': 72},
                {'vid_name': '2x00lRzlTVQ_00001', 'label': 0, 'start_frame': 0, 'end_frame': 90},
            ],
        },
        ('rgb/_8Vy3dlHg2w_00000.mp4',),
        (
            one('_8Vy3dlHg2w_00000', 'rgb/_8Vy3dlHg2w_00000.mp4', 'Inward 25som NoTwis TUCK'),
            one('2x00lRzlTVQ_00001', '2x00lRzlTVQ_00001.mp4', 'Back 15som 05Twis FREE'),
        ),
        {'label': ('Back 15som 05Twis FREE', 'Inward 25som NoTwis TUCK')},
        main='Diving48_V2_test.json',
        split='test',
    ),
    'jester': Case(
        'jester',
        {
            'jester-v1-labels.csv': 'Swiping Left\nThumb Up\nNo gesture\n',
            'jester-v1-train.csv': '9223;Thumb Up\n107090;Swiping Left\n5;Swiping Left\n',
        },
        ('20bn-jester-v1/9223/00001.jpg', '20bn-jester-v1/9223/5.webm', '107090.webm'),
        (
            one('9223', '20bn-jester-v1/9223', 'Thumb Up', fps=12.0),
            one('107090', '107090.webm', 'Swiping Left', fps=12.0),
            one('5', '5', 'Swiping Left', fps=12.0),
        ),
        {'label': ('Swiping Left', 'Thumb Up', 'No gesture')},
        main='jester-v1-train.csv',
    ),
}  # fmt: skip


@pytest.mark.parametrize('case', CASES.values(), ids=CASES)
def test_the_official_format_is_read(tmp_path, case):
    made = case.read(case.write(tmp_path))
    assert made.items == case.items
    assert made.heads == case.heads
    assert made.classes == case.classes
    assert made.multi_label == case.multi_label
    assert len({item.name for item in made.items}) == len(made.items)
    for item in made.items:
        assert len(item.labels) == len(made.heads)
        assert made.multi_label or all(len(labels) == 1 for labels in item.labels)
        assert len(item.spans) in (0, len(item.labels[0]))
        assert 0 <= item.start < item.end <= math.inf
        for labels, head in zip(item.labels, made.heads, strict=True):
            assert made.classes is None or set(labels) <= set(made.classes[head])


def test_every_format_is_described_and_tested():
    assert {case.dataset for case in CASES.values()} | {'kinetics600', 'kinetics700'} == set(
        annotations.FORMATS
    )
    for name, entry in annotations.FORMATS.items():
        assert entry.name == name
        assert entry.licence.endswith('.')
        if name not in ('csv', 'folders'):
            assert entry.homepage.startswith('http')
            assert entry.annotations


# --- Broken files. ---

TEXT_CASES = {name: case for name, case in CASES.items() if case.main}


def broken(case, folder, data, name=None):
    """The sentence that comes of other content in one of the annotation files."""
    path = case.write(folder) / 'labels' / (name or case.main)
    if data is None:
        path.unlink()
    else:
        path.write_bytes(data)
    with pytest.raises(UserError) as error:
        case.read(folder)
    sentence = str(error.value)
    assert '\n' not in sentence
    assert sentence.endswith('.')
    return sentence


@pytest.mark.parametrize('case', TEXT_CASES.values(), ids=TEXT_CASES)
def test_a_byte_order_mark_and_other_line_breaks_change_nothing(tmp_path, case):
    path = case.write(tmp_path) / 'labels' / case.main
    text = path.read_bytes().decode('utf-8-sig').replace('\r\n', '\n')
    if case.dataset != 'charades':  # Whose quoted text has a line break.
        text = text.replace('\n', '\r\n')
    path.write_bytes(b'\xef\xbb\xbf' + text.encode())
    assert case.read(tmp_path).items == case.items


@pytest.mark.parametrize('case', TEXT_CASES.values(), ids=TEXT_CASES)
def test_other_encodings_are_one_sentence_with_the_line(tmp_path, case):
    text = (case.write(tmp_path) / 'labels' / case.main).read_text(encoding='utf-8-sig')
    name = re.escape(case.main)
    latin = '\n'.join([*text.split('\n')[:1], 'Müller', *text.split('\n')[1:]]).encode('latin-1')
    for encoding in ('utf-16', 'utf-16-le'):
        assert re.search(f'{name}, line 1 .*UTF-8', broken(case, tmp_path, text.encode(encoding)))
    assert re.search(f'{name}, line 2 is not UTF-8', broken(case, tmp_path, latin))


@pytest.mark.parametrize('case', TEXT_CASES.values(), ids=TEXT_CASES)
def test_empty_missing_and_other_files(tmp_path, case):
    for data in (b'', b'\xef\xbb\xbf\r\n \r\n'):
        assert re.search(r' is empty| names no videos', broken(case, tmp_path, data))
    missing = broken(case, tmp_path, None)
    assert re.search(
        f'has no file.*{re.escape(case.main)}|cannot be read|no files of', missing
    ) or (case.dataset == 'hmdb51')
    picture = broken(case, tmp_path, b'\x89PNG\r\n\x1a\n\x00\x00\xff')
    assert 'line 1 is not UTF-8' in picture
    page = broken(case, tmp_path, b'<!DOCTYPE html>\n<p>Sign in, please</p>\n')
    assert case.main in page


DAMAGE = [
    b'',
    b'"',
    b',',
    b'\n',
    b'\r',
    b' ',
    b';',
    b'[',
    b'{}',
    b'9' * 5000,
    b'-1',
    b'\x85',
    b'1e999',
]


@pytest.mark.parametrize('case', TEXT_CASES.values(), ids=TEXT_CASES)
def test_damage_of_any_kind_is_never_a_traceback(tmp_path, case):
    whole = (case.write(tmp_path) / 'labels' / case.main).read_bytes()
    rng = np.random.default_rng(0)
    path = tmp_path / 'labels' / case.main
    for _ in range(40):
        data = bytearray(whole)
        for _ in range(rng.integers(1, 4)):
            at, length = rng.integers(len(data)), rng.integers(12)
            data[at : at + length] = rng.choice(DAMAGE)
        path.write_bytes(data)
        with contextlib.suppress(UserError):
            case.read(tmp_path)


JSON_CASES = [case for case in TEXT_CASES.values() if case.main.endswith('.json')]


@pytest.mark.parametrize('case', JSON_CASES, ids=lambda case: case.main)
def test_json_that_is_cut_off_or_something_else(tmp_path, case):
    text = json.dumps(case.texts[case.main], indent=1)
    for at in (1, len(text) // 2, len(text) - 1):
        sentence = broken(case, tmp_path, text[:at].encode())
        line = text[:at].count('\n') + 1
        assert re.search(rf'{re.escape(case.main)}, line {line} is not JSON: ', sentence)
    assert 'cut off' in broken(case, tmp_path, text[:-1].encode())
    assert 'is not a list of videos' in broken(case, tmp_path, b'{"a": 1}')
    other = json.dumps([case.texts[case.main][0], 3]).encode()
    assert 'entry 2 is not an object' in broken(case, tmp_path, other)
    assert 'names no videos' in broken(case, tmp_path, b'[]')
    assert 'nests too deep' in broken(case, tmp_path, b'[' * 100_000)


EDITS = {
    # A case and one of its files: what is replaced by what, and the words of the sentence.
    ('csv', ''): [
        ('a.mp4,run', 'a.mp4', r'a\.csv, line 2: 1 values instead of two'),
        ('a.mp4,run', 'a.mp4,', 'line 2: the path or the label is empty'),
        ('/abs/c.mp4', './a.mp4', r"line 4: './a\.mp4' is already on line 2"),
        ('"b, c.mp4"', '"b, c.mp4', r'line \d is not CSV'),
        ('path,label', 'path,a b', "line 1: no column can be called 'a b'"),
        ('path,label', 'path,x,x', "line 1: 2 columns are called 'x'"),
        ('path,label', 'path,start,end', 'line 1: there is no column for a label'),
    ],
    ('csv, segments and heads', ''): [
        ('start,', 'begin,', 'line 1: a segment has both columns'),
        ('1.5', '3.0', r'line 2: the segment ends at 3\.0 s, which is not'),
        ('1.5', '-1', "line 2: start='-1' is not a number of seconds"),
        ('1.5', '1:05', "line 2: start='1:05' is not a number of seconds"),
        (',3\n', ',nan\n', "line 2: end='nan' is not a number of seconds"),
        (',3\n', ',inf\n', "line 2: end='inf' is not a number of seconds"),
        ('b.mp4,cup,,', 'a.mp4,cup,3.0,', 'line 4: .* is already on line 3'),
    ],
    ('csv, multi-label', ''): [
        ('jump', 'run', "line 2: the label 'run' stands there 2 times"),
        ('jump', '', "line 2: one of the labels in 'run |' is empty"),
        ('path,labels', 'path,labels,x', 'line 1: labels, .* the only head'),
    ],
    ('kinetics, CVDF', ''): [
        ('time_start', 'start', r"val\.csv, line 1 names no column 'time_start', only label"),
        ('label,', 'x,', "names no column 'label'.* test lists"),
        (',40,50', ',40', 'line 3: 5 values instead of 6'),
        (',40,50', ',40,50,60', 'line 3: 7 values instead of 6'),
        (',40,50', ',50,50', r'line 3: the segment ends at 50\.0 s'),
        (',40,50', ',4x,50', "line 3: time_start='4x' is not a whole number"),
        (',40,50', ',-40,50', "line 3: time_start='-40' is not a whole number"),
        ('50,60', '36,46', "line 6: the clip '3caPS4FHFF8_000036_000046' is already in line 5"),
        (
            '50,val',
            '50,train',
            "line 3: the clip is of the split 'train', not of --split=validation",
        ),
        ('"air drumming"', '', 'line 3: the label is empty'),
        ('"air drumming"', '"air drumming', r'line \d is not CSV'),
    ],
    ('something-something', ''): [
        (
            'Holding [',
            'Holdign [',
            r"entry 1 \(id 78687\): there is no class 'Holdign something .*did you mean 'Holding",
        ),
        ('42326', '78687', "entry 2: '78687' is already in entry 1"),
        ('"template": "Pre', '"x": "Pre', "entry 2 has no 'template'; the test list"),
    ],
    ('something-something', 'labels.json'): [
        ('"0"', '"2"', r'labels\.json has 2 classes, but none with the id 0'),
        ('"0"', '"1"', "'id 1' is already in class"),
        ('"0"', '"x"', "id='x' is not a whole number"),
        ('"0"', '["0"]', 'is not a whole number'),
        (
            '"Pre',
            '"Holding something next to something": "7", "Pre',
            "key 'Holding something next to something' twice",
        ),
    ],
    ('ucf101, train', ''): [
        (
            'YoYo/',
            'Yoyo/',
            r"trainlist02\.txt, line 2: there is no class 'Yoyo' in classInd\.txt \(did you",
        ),
        (' 3', ' 2', 'line 2: the id of YoYo is 3 in classInd.txt, not 2'),
        (' 3', ' x', "line 2: id='x' is not a whole number"),
        (
            'YoYo/v_YoYo_g25_c05.avi 3',
            'ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 1',
            'line 2: .* is already in line 1',
        ),
        ('YoYo/', '', 'line 2 is not CLASS/video.avi'),
        (' 3', ' 3 4', 'line 2 is not CLASS/video.avi'),
    ],
    ('ucf101, train', 'classInd.txt'): [
        ('2 ', '1 ', r"classInd\.txt, line 2: 'id 1' is already in line 1"),
        ('Archery', 'YoYo', r"classInd\.txt, line 3: 'YoYo' is already in line 2"),
    ],
    ('hmdb51', ''): [
        (' 1', ' 3', r'wave_test_split3\.txt, line 1 is not a video and 0, 1 or 2'),
        (' 1', '', 'line 1 is not a video and 0, 1 or 2'),
        (
            '.avi 1 \n',
            '.avi 1 \nw_wave_u_bad_1.avi 2',
            "line 2: 'wave/w_wave_u_bad_1.avi' is already in line 1",
        ),
    ],
    ('moments in time', ''): [
        (
            ',yawning',
            ',yawnin',
            r"validationSet\.csv, line 1: there is no class 'yawnin' in moments_categories.txt \(did you",
        ),
        ('clapping/yt', 'yawning/yt', 'line 2: .* is already in line 1'),
        (',yawning,3,0', '', 'line 1: one value instead of path,label'),
    ],
    ('moments in time', 'moments_categories.txt'): [
        (',2', ',3', 'has 3 classes, but none with the id 2'),
        (',2', '', "line 3: id='clapping' is not a whole number"),
    ],
    ('epic-kitchens', ''): [
        ('stop_timestamp', 'end', r"EPIC_100_train\.csv, line 1 names no column 'stop_timestamp'"),
        ('verb_class', 'x', "names no column 'verb_class'.*; the test list"),
        ('P01_102_7', 'P01_01_0', "line 3: 'P01_01_0' is already in line 2"),
        ('00:00:03.37', '00:00:00.14', r'line 2: the segment ends at 0\.14 s'),
        ('00:00:03.37', '3.37', "line 2: stop_timestamp='3.37' is not a time"),
        (
            'take,0,plate,2',
            'take,0,plate,3',
            r'line 2: there is no noun_class 3 in EPIC_100_noun_classes_v2\.csv',
        ),
        ('take,0,plate,2', 'take,a,plate,2', "line 2: verb_class='a' is not a whole number"),
        (',P01_102,', ',', 'line 3: 14 values instead of 15'),
    ],
    ('epic-kitchens', 'EPIC_100_verb_classes.csv'): [
        ('1,put', '2,put', r'verb_classes\.csv has 2 classes, but none with the id 1'),
    ],
    ('charades', ''): [
        ('length', 'duration', r"Charades_v1_train\.csv, line 1 names no column 'length'"),
        ('N11GT', '46GP8', "line 4: '46GP8' is already in line 2"),
        ('c000 0.00', 'c002 0.00', r"line 2: there is no class 'c002' in Charades_v1_classes\.txt"),
        ('11.90 21.20', '21.20 11.90', r'line 2: the segment ends at 11\.9 s'),
        ('11.90 21.20', '11.90', "line 2: 'c001 11.90' is not a class, its start and its end"),
        (',20.50', ',long', "line 2: length='long' is not a number of seconds"),
        (' stands,a,', ' stands,', 'line 4: 10 values instead of 11'),
    ],
    ('charades', 'Charades_v1_classes.txt'): [
        ('c001', 'd001', "line 2: id='d001' is not a whole number"),
    ],
    ('diving48', ''): [
        (
            '"label": 1',
            '"label": 2',
            r'entry 1 \(_8Vy3dlHg2w_00000\): there is no class 2 in Diving48_vocab\.json',
        ),
        ('"label": 1', '"label": "one"', "label='one' is not a whole number"),
        (
            '"end_frame": 90',
            '"end_frame": 0',
            r'entry 2 \(2x00lRzlTVQ_00001\): end_frame=0 is not after start_frame=0',
        ),
        ('"end_frame": 90', '"end": 90', "entry 2 has no 'end_frame'"),
        (
            '2x00lRzlTVQ_00001',
            '_8Vy3dlHg2w_00000',
            "entry 2: '_8Vy3dlHg2w_00000' is already in",
        ),
    ],
    ('diving48', 'Diving48_vocab.json'): [
        ('"Back"', '1', r'Diving48_vocab\.json, class 0 is not a list of its parts'),
    ],
    ('jester', ''): [
        (
            'Thumb Up',
            'Thumbs Up',
            r"jester-v1-train\.csv, line 1: .* 'Thumbs Up' in jester-v1-labels\.csv \(did you",
        ),
        (';Thumb Up', '', 'line 1: 1 values instead of two, id;label; the test list of Jester'),
        ('107090', '9223', "line 2: '9223' is already in line 1"),
    ],
    ('jester', 'jester-v1-labels.csv'): [
        ('No gesture', 'Thumb Up', "line 3: 'Thumb Up' is already in line 2"),
    ],
}


@pytest.mark.parametrize(
    ('name', 'file', 'old', 'new', 'words'),
    [(*where, *edit) for where, edits in EDITS.items() for edit in edits],
)
def test_a_broken_file_is_one_sentence_with_file_and_line(tmp_path, name, file, old, new, words):
    case = CASES[name]
    path = case.write(tmp_path) / 'labels' / (file or case.main)
    text = path.read_bytes().decode()
    assert old in text
    sentence = broken(case, tmp_path, text.replace(old, new, 1).encode(), file)
    assert (file or case.main) in sentence
    assert re.search(words, sentence), sentence


def test_a_list_of_more_classes_than_the_data_set_has_is_another_one(tmp_path):
    rows = ''.join(f'class {i},{i:011d},0,10,train\n' for i in range(401))
    path = tmp_path / 'train.csv'
    path.write_text('label,youtube_id,time_start,time_end,split\n' + rows)
    with pytest.raises(UserError, match='401 classes, more than --dataset=kinetics400 has'):
        annotations.read('kinetics400', path, tmp_path, 'train')
    assert len(annotations.read('kinetics600', path, tmp_path, 'train').items) == 401


def test_the_second_release_of_diving48_counts_where_both_are_there(tmp_path):
    case = CASES['diving48']
    first = case.write(tmp_path) / 'labels/Diving48_test.json'
    second = tmp_path / 'labels' / case.main
    first.write_text(second.read_text().replace('"label": 1', '"label": 0'))
    assert case.read(tmp_path).items == case.items
    second.unlink()
    assert {item.labels for item in case.read(tmp_path).items} == {(('Back 15som 05Twis FREE',),)}


def test_an_action_after_the_end_of_its_video_is_named_and_holds_in_no_clip(tmp_path, caplog):
    case = CASES['charades']
    path = case.write(tmp_path) / 'labels' / case.main
    path.write_text(path.read_text().replace('c001 1.0 2.0', 'c001 20.5 22.0'))
    (first, _) = case.read(tmp_path).items
    assert first.spans[2] == (20.5, 20.5)
    assert first.labels == case.items[0].labels
    assert (
        f"{case.main}: 1 actions begin after the end of their videos: line 2, 'c001 20.5"
        in caplog.text
    )


# --- Arguments. ---


@pytest.mark.parametrize(
    ('dataset', 'labels', 'split', 'fold', 'words'),
    [
        ('kinetics', 'labels', 'train', None, r"--dataset=kinetics is none of .*\(did you mean"),
        ('sth', 'labels', 'train', None, '--dataset=sth is none of csv, folders'),
        ('ucf101', 'labels', 'train', None, '--fold is missing: ucf101 has the folds 1 to 3'),
        ('hmdb51', 'labels', 'train', 4, '--fold 4 is not one of them: hmdb51 has the folds 1 to 3'),
        ('jester', 'labels', 'train', 1, '--fold=1: jester has no folds'),
        ('jester', '', 'train', None, 'jester needs the folder of jester-v1-train.csv'),
        ('jester', 'labels', 'test', None, '--split=test: the lists of jester .* are train and validation'),
        ('charades', 'labels', 'val', None, '--split=val: the lists of charades .* train and test'),
        ('ucf101', 'labels', 'validation', 1, '--split=validation: .* train and test'),
        ('ucf101', 'labels/x.txt', 'train', 1, 'is not the folder of the lists, ucfTrainTestlist'),
        ('hmdb51', 'labels', 'train', 1, 'labels has no file brush_hair_test_split1.txt'),
        ('charades', 'labels', 'test', None, r'labels has no file Charades_v1_test\.csv'),
        ('diving48', 'labels', 'test', None, r'Diving48_V2_test\.json \(or Diving48_test\.json\)'),
        ('charades', 'none', 'test', None, 'none cannot be read: No such file'),
        ('folders', '', 'train', None, r'videos has no folders with videos'),
        ('folders', 'labels', 'train', None, 'labels: folders has none, its folders are the classes'),
    ],
)  # fmt: skip
def test_wrong_arguments(tmp_path, dataset, labels, split, fold, words):
    for folder in ('labels', 'videos'):
        (tmp_path / folder).mkdir()
    (tmp_path / 'labels/x.txt').touch()
    labels = labels and str(tmp_path / labels)
    with pytest.raises(UserError, match=words):
        annotations.read(dataset, labels, tmp_path / 'videos', split, fold=fold)


def test_folders_of_other_splits_or_no_class_are_errors(tmp_path):
    def read(split):
        return annotations.read('folders', '', tmp_path, split)

    for name in ('run/a.mp4', 'walk/b.mp4'):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    assert [item.labels for item in read('train').items] == [(('run',),), (('walk',),)]
    (tmp_path / 'c.png').touch()
    with pytest.raises(UserError, match=r'c\.png is in no folder of a class'):
        read('train')
    (tmp_path / 'test').mkdir()
    with pytest.raises(
        UserError, match=r'has folders of the splits test, but none of --split=train'
    ):
        read('train')
    os.rmdir(tmp_path / 'test')
    (tmp_path / 'c.png').unlink()
    (tmp_path / 'run' / os.fsdecode(b'caf\xe9.mp4')).touch()
    with pytest.raises(UserError, match=r'run/caf\\xe9\.mp4. is not UTF-8; rename it'):
        read('train')
    with pytest.raises(UserError, match=r'no-videos: there is no such folder'):
        annotations.read('folders', '', tmp_path / 'no-videos', 'train')


# --- The tree of videos. ---


def test_links_are_followed_and_never_in_circles(tmp_path):
    (tmp_path / 'fast disk').mkdir()
    (tmp_path / 'fast disk/a.mp4').touch()
    (tmp_path / 'videos').mkdir()
    (tmp_path / 'videos/train').symlink_to(tmp_path / 'fast disk')
    (tmp_path / 'fast disk/back').symlink_to(tmp_path / 'videos')
    videos = files.VideoFiles(files.epath.Path(tmp_path / 'videos'))
    assert videos.find('a.mp4') == 'train/a.mp4'
    assert [prefix for prefix, _, _ in files.walk(files.epath.Path(tmp_path / 'videos'))] == [
        '', 'train/',
    ]  # fmt: skip


def test_a_bucket_is_read_as_a_disk_is(tmp_path, monkeypatch):
    """Through epath, with a stand-in for its backend that lists as fsspec does: without the scheme."""
    case = CASES['jester']
    case.write(tmp_path)

    class Bucket(type(files.epath.Path(tmp_path)._backend)):
        def on_disk(self, path):
            return os.path.join(tmp_path, os.fspath(path).removeprefix('gs://bucket').lstrip('/'))

        def open(self, path, mode):
            return super().open(self.on_disk(path), mode)

        def exists(self, path):
            return super().exists(self.on_disk(path))

        def isdir(self, path):
            return super().isdir(self.on_disk(path))

        def listdir(self, path):
            return super().listdir(self.on_disk(path))

        def walk(self, top, *, top_down=True, on_error=None):
            for root, folders, names in os.walk(self.on_disk(top), topdown=top_down):
                yield root.replace(str(tmp_path), 'bucket', 1), folders, names

    bucket = Bucket()
    monkeypatch.setattr(type(files.epath.Path('/')), '_backend', bucket)
    made = annotations.read('jester', 'gs://bucket/labels', 'gs://bucket/videos', 'train')
    assert made.items == case.items
    with pytest.raises(UserError, match='gs://bucket/none cannot be read: No such file'):
        annotations.read('jester', 'gs://bucket/none', 'gs://bucket/videos', 'train')
    for method in ('open', 'exists'):  # TensorFlow's errors are no OSErrors.
        monkeypatch.setattr(bucket, method, lambda *_: 1 / 0)
        with pytest.raises(UserError, match=r'^gs://bucket/.* cannot be read: division by zero'):
            annotations.read('jester', 'gs://bucket/labels', 'gs://bucket/videos', 'train')


def test_nothing_slow_is_imported(tmp_path):
    """Of files on a disk: no TensorFlow (seconds), no jax, no decoder."""
    case = CASES['ucf101, test']
    case.write(tmp_path)
    code = (
        'import sys\n'
        'from vjax.data import annotations\n'
        f'folder = {str(tmp_path)!r}\n'
        "made = annotations.read('ucf101', folder + '/labels', folder + '/videos', 'test', fold=1)\n"
        "print(len(made.items), [m for m in ('tensorflow', 'jax', 'av', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == '1 []'
