"""Which parameters go along, which are left, and what is an error."""

import dataclasses

import jax
import numpy as np
import pytest

from vjax import models, weights
from vjax.errors import UserError
from vjax.models import costs

FIELDS = {'width': 16, 'depth': 2, 'num_heads': 2, 'mlp_dim': 32, 'patch': (8, 8)}
SHAPE = (32, 32, 3)
HOW = weights.Adapt(
    head='auto',
    class_token=True,
    tubelet='central_frame',
    temporal='paper',
    position_grid=(),
    allow=(),
)
CLASSES = {'label': ('a', 'b', 'c')}


def vit(**fields):
    return models.build('vit', **FIELDS | {'num_classes': 3} | fields)


def shapes(model):
    return weights.flatten(costs.param_shapes(model, SHAPE))


def source(model, classes=None, **changes):
    rng = np.random.default_rng(0)
    params = {path: rng.normal(size=leaf.shape).astype('f') for path, leaf in shapes(model).items()}
    return weights.Source('vit:file.npz', model, params | changes, classes)


def adapt(source, model, classes=None, **how):
    how = dataclasses.replace(HOW, **how)
    return weights.adapt([source], model, shapes(model), SHAPE, how, classes)


def test_the_same_model_is_loaded_as_it_is():
    given = source(vit())
    arrays, report = adapt(given, vit())
    jax.tree.map(np.testing.assert_array_equal, arrays, dict(given.params))
    assert set(report.loaded) == set(given.params)
    assert not report.changed
    assert not report.left
    assert not report.unused


def test_fields_that_do_nothing_may_differ():
    fields = {'num_classes': 3, 'width': 16, 'depth': 2, 'num_heads': 2, 'mlp_dim': 32}
    ours, theirs = (
        models.build('vivit', **fields, tubelet=(1, 8, 8), temporal_depth=depth) for depth in (2, 4)
    )
    clip = (2, 32, 32, 3)
    flat = weights.flatten(costs.param_shapes(ours, clip))
    params = {path: np.ones(leaf.shape, 'f') for path, leaf in flat.items()}
    given = weights.Source('it', theirs, params)
    _, report = weights.adapt([given], ours, flat, clip, HOW)
    assert set(report.loaded) == set(params)
    apart = {'attention': 'factorised_encoder'}
    ours, theirs = ours.clone(**apart), theirs.clone(**apart)
    with pytest.raises(UserError, match='temporal_depth=4 there and 2 here'):
        weights.adapt([weights.Source('it', theirs, params)], ours, flat, clip, HOW)


@pytest.mark.parametrize(
    ('theirs', 'ours', 'head', 'taken'),
    [
        (CLASSES, CLASSES, 'auto', True),
        (CLASSES, None, 'auto', True),
        (None, None, 'auto', True),
        # Of as many classes, but others, or nobody knows which.
        (CLASSES, {'label': ('a', 'c', 'b')}, 'auto', False),
        (None, CLASSES, 'auto', False),
        (None, CLASSES, 'keep', True),
        (CLASSES, CLASSES, 'drop', False),
    ],
)
def test_the_classifier_goes_along_with_its_classes(theirs, ours, head, taken):
    arrays, report = adapt(source(vit(), theirs), vit(), ours, head=head)
    head = {'head/logits/kernel', 'head/logits/bias'}
    assert (head <= arrays.keys()) == taken
    assert (head == report.left.keys()) == (head == report.unused.keys()) == (not taken)


def test_what_comes_before_other_logits_goes_along():
    given, model = source(vit(representation_size=8)), vit(representation_size=8, num_classes=5)
    arrays, report = adapt(given, model)
    assert 'head/pre_logits/kernel' in arrays
    assert set(report.left) == {'head/logits/kernel', 'head/logits/bias'}
    assert set(report.left.values()) == {'of another shape'}


def test_a_classifier_that_is_not_there_cannot_be_kept():
    given = source(vit())
    headless = given._replace(
        params={path: x for path, x in given.params.items() if not path.startswith('head/')}
    )
    with pytest.raises(UserError, match='has no classifier'):
        adapt(headless, vit(), head='keep')
    assert adapt(headless, vit())[1].left


def test_what_is_unexpected_is_an_error_unless_it_is_allowed_by_name():
    given = source(vit(), **{'encoder/registers': np.zeros(3, 'f')})
    with pytest.raises(UserError, match=r'vit:file.npz has what .* lacks: encoder/registers'):
        adapt(given, vit())
    report = adapt(given, vit(), allow=('encoder/reg.*',))[1]
    assert report.unused == {'encoder/registers': 'allowed to be unused'}


def test_what_is_missing_is_an_error_unless_it_is_allowed_by_name():
    given = source(vit())
    del given.params['encoder/norm/scale']
    with pytest.raises(UserError, match=r'vit:file.npz lacks: encoder/norm/scale'):
        adapt(given, vit())
    arrays, report = adapt(given, vit(), allow=('encoder/norm/.*',))
    assert report.left == {'encoder/norm/scale': 'allowed to be missing'}
    assert 'encoder/norm/scale' not in arrays


@pytest.mark.parametrize(
    ('theirs', 'sentence'),
    [
        ({'depth': 3}, 'depth=3 there and 2 here'),
        ({'mlp_dim': 48}, 'mlp_dim=48 there and 32 here'),
        ({'gelu': 'erf'}, 'set config.model.gelu=erf'),
    ],
)
def test_another_model_is_refused(theirs, sentence):
    with pytest.raises(UserError, match=sentence):
        adapt(source(vit(**theirs)), vit())


def test_a_leaf_of_another_shape_is_named():
    given = source(vit(), **{'encoder/norm/scale': np.zeros(8, 'f')})
    with pytest.raises(UserError, match=r'encoder/norm/scale is \(8,\) there and \(16,\) here'):
        adapt(given, vit())


def test_an_unknown_choice_is_refused():
    with pytest.raises(UserError, match="temporal='zero' is not one of paper, copy, fresh"):
        dataclasses.replace(HOW, temporal='zero')


def test_a_pattern_that_is_no_regular_expression_is_refused():
    with pytest.raises(UserError, match=r"allow: '\(' is no regular expression"):
        dataclasses.replace(HOW, allow=('(',))


def test_what_was_never_trained_is_left_and_no_error():
    given = source(vit())
    del given.params['encoder/norm/scale']
    given = given._replace(untrained={'encoder/norm/scale': 'never trained'})
    assert adapt(given, vit())[1].left == {'encoder/norm/scale': 'never trained'}


def test_a_misspelt_source_is_no_workdir():
    assert weights.split_name('vit:a.npz') == ('vit', 'a.npz')
    assert weights.split_name('gs://bucket/run') == ('', 'gs://bucket/run')
    with pytest.raises(UserError, match="no source 'scenik'; did you mean 'scenic'"):
        weights.split_name('scenik:a')


def test_the_report_can_be_read():
    report = adapt(source(vit(), CLASSES), vit(num_classes=5), CLASSES)[1]
    assert str(report).splitlines()[0].startswith('loaded as they are: ')
    assert '  head/logits/* (2): of another shape' in str(report).splitlines()
