"""Windows' scores to segments, on videos whose truth is made up."""

import csv
import io
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vjax.training.losses import Classification
from vjax.watching import segments
from vjax.watching.segments import Segment, Segmenter

NAMES = ('a', 'b', 'c')
ONE = {'label': NAMES}
SOFTMAX = Classification({'label': 3}, 'softmax', 0.0)
SIGMOID = Classification({'label': 3}, 'sigmoid', 0.0, multi_label=True)
CLIP = 2.0


def spans(found):
    return [(s.label, pytest.approx(s.start), pytest.approx(s.end)) for s in found]


def slide(truth, total, step=CLIP / 2, clip=CLIP, strength=8.0, noise=0.0):
    """(start, end, logits) of windows over [(class or None, end), ...]: classes by their share."""
    rng = np.random.default_rng(0)
    for i in range(max(1, math.floor((total - clip) / step + 1e-9) + 1)):
        start, end = i * step, i * step + clip
        logits, before = np.zeros(3, np.float32), 0.0
        for name, after in truth:
            overlap = max(0.0, min(end, after) - max(start, before))
            if name is not None:
                logits[NAMES.index(name)] += strength * overlap / clip
            before = after
        yield start, end, logits + noise * rng.standard_normal(3).astype(np.float32)


def run(windows, classification=SOFTMAX, classes=ONE, **options):
    options = {name: float(value) for name, value in options.items()}
    segmenter = Segmenter(classes, classification, **options)
    for start, end, logits in windows:
        segmenter.add(float(start), float(end), logits)
    return segmenter.finish()


@given(
    lengths=st.lists(st.integers(50, 300), min_size=1, max_size=8),
    step=st.sampled_from([0.1, 0.5, 1.0]),
    data=st.data(),
)
@settings(deadline=None, max_examples=60)
def test_boundaries_are_within_half_a_clip_of_the_truth(lengths, step, data):
    truth, end, last = [], 0.0, None
    for length in lengths:
        last = data.draw(st.sampled_from([n for n in NAMES if n != last]))
        end = round(end + length / 10, 6)
        truth.append((last, end))
    found = run(slide(truth, end, step))
    assert [segment.label for segment in found] == [name for name, _ in truth]
    for segment, (_, after) in zip(found[:-1], truth[:-1], strict=True):
        assert abs(segment.end - after) <= CLIP / 2 + 1e-6
    assert [s.start for s in found] == [0.0, *(s.end for s in found[:-1])]
    assert all(0.5 < segment.score <= 1 for segment in found)


def test_an_instant_has_the_mean_logits_of_the_windows_that_cover_it():
    left, right = np.array([3.0, 0, 0], np.float32), np.array([0, 4.0, 0], np.float32)
    found = run([(0, 2, left), (1, 3, right)], min_seconds=0)
    assert spans(found) == [('a', 0, 1), ('b', 1, 3)]
    e = np.exp
    of_a, both, of_b = e(3) / (e(3) + 2), e(2) / (e(1.5) + e(2) + 1), e(4) / (e(4) + 2)
    assert found[0].score == pytest.approx(of_a)
    assert found[1].score == pytest.approx((both + of_b) / 2)


def test_a_short_run_belongs_to_what_is_around_it():
    logits = np.eye(3, dtype=np.float32) * 9
    labels = 'aaaacaaaabbbb'
    windows = [(i, i + 1, logits[NAMES.index(x)]) for i, x in enumerate(labels)]
    assert spans(run(windows, min_seconds=2)) == [('a', 0, 9), ('b', 9, 13)]
    kept = run(windows, min_seconds=1)
    assert spans(kept) == [('a', 0, 4), ('c', 4, 5), ('a', 5, 9), ('b', 9, 13)]
    # Between two of different classes each gets a half; at the ends the nearest gets it.
    windows = [(i, i + 1, logits[NAMES.index(x)]) for i, x in enumerate('baaaacbbbbc')]
    assert spans(run(windows, min_seconds=2)) == [('a', 0, 5.5), ('b', 5.5, 11)]


def test_where_nothing_lasts_all_is_what_it_looks_most_like():
    logits = np.eye(3, dtype=np.float32) * 9
    windows = [(i, i + 1, logits[NAMES.index(x)]) for i, x in enumerate('abcbab')]
    assert spans(run(windows, min_seconds=2)) == [('b', 0, 6)]
    (short,) = run([(0, 0.7, logits[2])], min_seconds=5)
    assert short == Segment('label', 'c', 0.0, 0.7, pytest.approx(1, abs=1e-3))
    assert run(windows, min_seconds=2, min_score=0.9) == []
    assert run([]) == []


def test_instants_of_no_class_are_in_no_segment():
    truth = [('a', 10.0), (None, 20.0), ('b', 30.0)]
    found = run(slide(truth, 30.0), min_score=0.6)
    assert [s.label for s in found] == ['a', 'b']
    assert abs(found[0].end - 10) <= CLIP / 2
    assert abs(found[1].start - 20) <= CLIP / 2
    everywhere = run(slide(truth, 30.0))
    assert sum(s.end - s.start for s in everywhere) == pytest.approx(30)


def test_windows_that_lie_apart_stand_for_what_is_nearest():
    logits = np.eye(3, dtype=np.float32) * 9
    found = run([(0, 1, logits[0]), (10, 11, logits[1]), (20, 21, logits[1])])
    assert spans(found) == [('a', 0, 5.5), ('b', 5.5, 21)]


def test_any_number_of_labels_have_segments_of_their_own():
    on = 8.0
    windows = []
    for i in range(20):
        logits = np.array([on if i < 10 else -on, on if 5 <= i < 15 else -on, -on], np.float32)
        windows.append((i, i + 1, logits))
    found = run(windows, SIGMOID, min_seconds=1)
    assert spans(found) == [('a', 0, 10), ('b', 5, 15)]
    assert all(s.score == pytest.approx(1 / (1 + math.exp(-on))) for s in found)
    # The mean logit of an instant counts: +8 and -2 are more than 0.
    found = run([(0, 2, np.full(3, 8.0)), (1, 3, np.full(3, -2.0))], SIGMOID, min_seconds=0)
    assert {(s.label, s.start, s.end) for s in found} == {(n, 0, 2) for n in NAMES}


def test_every_head_has_segments_of_its_own():
    classes = {'noun': ('cup', 'pan'), 'verb': ('take', 'wash')}
    heads = Classification({'noun': 2, 'verb': 2}, 'softmax', 0.0)
    windows = []
    for i in range(12):
        logits = np.zeros(4, np.float32)
        logits[0 if i < 4 else 1] = logits[2 if i < 9 else 3] = 7
        windows.append((i, i + 1, logits))
    found = run(windows, heads, classes, min_seconds=2)
    assert [(s.head, *spans([s])[0]) for s in found] == [
        ('noun', 'cup', 0, 4),
        ('verb', 'take', 0, 9),
        ('noun', 'pan', 4, 12),
        ('verb', 'wash', 9, 12),
    ]


def test_memory_holds_few_windows():
    segmenter = Segmenter(ONE, SOFTMAX)
    for window in slide([('a', 1e9)], 2000.0, step=0.5):
        segmenter.add(*window)
        assert len(segmenter._active) <= 5
    assert spans(segmenter.finish()) == [('a', 0, 2000)]


def test_csv_and_json_say_the_same():
    found = [
        Segment('noun', 'a "b", c', 0.0, 1.23456, 0.98765),
        Segment('verb', 'd\n', 1.0, 2.0, 1.0),
    ]
    rows = list(csv.DictReader(io.StringIO(segments.to_csv(found, True))))
    assert rows[0] == {
        'head': 'noun',
        'label': 'a "b", c',
        'start': '0.0',
        'end': '1.235',
        'score': '0.9877',
    }
    content = json.loads(segments.to_json(found, True, {'video': 'x.mp4'}))
    assert content['video'] == 'x.mp4'
    assert [{k: str(v) for k, v in s.items()} for s in content['segments']] == rows
    assert segments.to_csv([], False) == 'label,start,end,score\n'
