"""The CSV files of an evaluation, and the lines that it prints."""

import csv
import io

import numpy as np
import pytest

from vjax.training import reporting, tables
from vjax.training.losses import Classification
from vjax.training.metrics import Outputs


def outputs_of(logits, label, index=None):
    index = np.arange(len(logits)) if index is None else np.array(index)
    return Outputs(np.log(np.array(logits)), np.zeros(len(logits)), np.array(label), index)


def read(text):
    assert '\r' not in text
    return list(csv.DictReader(io.StringIO(text)))


def test_a_prediction_has_the_label_and_the_best_classes_in_order():
    # The video 1 of the split could not be decoded; a name has a comma; equal classes go by id.
    classes = {'label': ('walk', 'sit, down', 'run')}
    outputs = outputs_of([[0.125, 0.625, 0.25], [0.4, 0.2, 0.4]], [[1], [0]], index=[0, 2])
    classification = Classification({'label': 3}, 'softmax', 0.0)
    text = tables.predictions(classes, classification, outputs, ['a.mp4', 'b.mp4', 'ç.mp4'])
    first, second = read(text)
    assert first == {
        'index': '0',
        'source': 'a.mp4',
        'label': 'sit, down',
        'class_1': 'sit, down',
        'probability_1': '0.625',
        'class_2': 'run',
        'probability_2': '0.25',
        'class_3': 'walk',
        'probability_3': '0.125',
    }
    assert (second['index'], second['source'], second['label']) == ('2', 'ç.mp4', 'walk')
    assert [second[f'class_{k}'] for k in (1, 2, 3)] == ['walk', 'run', 'sit, down']
    unnamed = read(tables.predictions(classes, classification, outputs))
    assert unnamed[0] == {name: value for name, value in first.items() if name != 'source'}


def test_no_more_than_five_classes_are_named():
    classes = {'label': tuple('abcdefg')}
    outputs = outputs_of([np.arange(1, 8) / 28], [[0]])
    (row,) = read(
        tables.predictions(classes, Classification({'label': 7}, 'softmax', 0.0), outputs)
    )
    assert [row[f'class_{k}'] for k in range(1, 6)] == list('gfedc')
    assert 'class_6' not in row


def test_equal_classes_are_named_by_id():
    classes = {'label': tuple(f'{i}' for i in range(40))}
    classification = Classification({'label': 40}, 'softmax', 0.0)
    outputs = outputs_of([np.where(np.arange(40) % 2, 2 / 60, 1 / 60)], [[7]])
    (row,) = read(tables.predictions(classes, classification, outputs))
    assert [row[f'class_{k}'] for k in range(1, 6)] == ['1', '3', '5', '7', '9']


def test_each_head_has_columns_of_its_own():
    classes = {'noun': ('cup', 'pan'), 'verb': ('take', 'put')}
    classification = Classification({'noun': 2, 'verb': 2}, 'softmax', 0.0)
    outputs = outputs_of([[0.25, 0.75, 0.9, 0.1]], [[0, 1]])
    (row,) = read(tables.predictions(classes, classification, outputs))
    assert (row['noun/label'], row['verb/label']) == ('cup', 'put')
    assert (row['noun/class_1'], row['noun/probability_1']) == ('pan', '0.75')
    assert (row['verb/class_1'], row['verb/probability_1']) == ('take', '0.9')
    matrices = tables.confusion(classes, classification, outputs)
    assert matrices['noun'] == 'class,cup,pan,(none)\ncup,0,1,0\npan,0,0,0\n'
    assert matrices['verb'] == 'class,take,put,(none)\ntake,0,0,0\nput,1,0,0\n'


def test_a_video_of_several_labels_names_them_all():
    classes = {'label': ('walk', 'sit', 'run')}
    classification = Classification({'label': 3}, 'sigmoid', 0.0, multi_label=True)
    # Odds of 3 : 1, even and 1 : 3.
    outputs = outputs_of([[3.0, 1.0, 1 / 3], [1 / 3, 3.0, 3.0]], [[1, 0, 1], [0, 0, 0]])
    first, second = read(tables.predictions(classes, classification, outputs))
    assert first['label'] == 'walk|run'
    assert [float(first[f'probability_{k}']) for k in (1, 2, 3)] == pytest.approx([0.75, 0.5, 0.25])
    assert second['label'] == ''
    assert [second[f'class_{k}'] for k in (1, 2, 3)] == ['sit', 'run', 'walk']
    assert tables.confusion(classes, classification, outputs)['label'] == (
        'class,true_positives,false_positives,false_negatives,true_negatives\n'
        'walk,1,0,0,1\nsit,0,1,0,1\nrun,0,1,1,0\n'
    )


def test_the_summary_names_what_there_is():
    scores = {'loss': 0.5, 'top1': 0.25, 'top5': 1.0, 'num_videos': 4}
    assert reporting.summary(scores) == ['top-1 25.00%, top-5 100.00%, loss 0.5000, 4 videos']
    heads = scores | {'noun/top1': 0.5, 'noun/mean_class_accuracy': 0.125, 'verb/top1': 0.75}
    assert reporting.summary(heads)[1:] == [
        '  noun: top-1 50.00%, mean class accuracy 12.50%',
        '  verb: top-1 75.00%',
    ]
    scores = {'loss': 0.5, 'mAP': 0.25, 'exact_match': 0.75, 'ece': 0.0625, 'num_videos': 4}
    assert reporting.summary(scores) == [
        'mAP 25.00%, exact match 75.00%, ECE 6.25%, loss 0.5000, 4 videos'
    ]
    assert reporting.shares({'train/loss': 0.5, 'train/exact_match': 0.5}, 'train/') == (
        'exact match 50.00%'
    )
