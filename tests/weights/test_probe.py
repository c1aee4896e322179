"""A probe's encoder starts from whatever its kind starts from; its blocks only from a probe's."""

import dataclasses

import numpy as np
import pytest

from vjax import models, weights
from vjax.errors import UserError
from vjax.models import costs
from vjax.weights.scenic import checkpoint

CLIP = (4, 16, 16, 3)
VIVIT = {
    'name': 'vivit',
    'width': 8,
    'depth': 2,
    'num_heads': 2,
    'mlp_dim': 12,
    'tubelet': (2, 8, 8),
}
IMAGES = {'name': 'vit', 'patch': (8, 8)} | {
    name: VIVIT[name] for name in ('width', 'depth', 'num_heads', 'mlp_dim')
}
CLASSES = {'label': ('a', 'b', 'c')}
HOW = weights.Adapt('auto', True, 'central_frame', 'paper', (), ())


def probe(encoder=VIVIT, **fields):
    own = {'num_classes': 3, 'num_heads': 2, 'mlp_dim': 16, 'encoder': encoder}
    return models.build('probe', **own | fields)


def source(model, input_shape=CLIP, classes=CLASSES, seed=0):
    shapes = weights.flatten(costs.param_shapes(model, input_shape))
    rng = np.random.default_rng(seed)
    params = {path: np.float32(rng.normal(size=leaf.shape)) for path, leaf in shapes.items()}
    return weights.Source('a source', model, params, classes)


def load(given, model, input_shape=CLIP, how=HOW, classes=CLASSES):
    shapes = weights.flatten(costs.param_shapes(model, input_shape))
    arrays, report = weights.adapt([given], model, shapes, input_shape, how, classes)
    assert set(arrays) | set(report.left) == set(shapes)
    assert not set(arrays) & set(report.left)
    return arrays, report


def test_from_a_model_of_the_encoders_kind():
    given = source(models.build(num_classes=3, **VIVIT))
    arrays, report = load(given, probe())
    body = {path for path in given.params if not path.startswith('head/')}
    assert set(arrays) == {f'encoder/{path}' for path in body}
    for path in body:
        np.testing.assert_array_equal(arrays[f'encoder/{path}'], given.params[path])
    # Of the same shape and the same classes, and yet of no use.
    assert set(report.unused) == {'head/logits/kernel', 'head/logits/bias'}
    assert report.left['head/logits/kernel'] == "a probe's classifier reads other features"
    assert report.left['pool/query'] == 'a probe of its own is trained'


def test_what_the_encoder_does_not_compute_alike_is_refused_and_dropout_is_not():
    given = source(models.build(num_classes=3, **VIVIT))
    load(given, probe(VIVIT | {'dropout': 0.1}))
    with pytest.raises(UserError, match='mlp_dim=12 there and 16 here'):
        load(given, probe(VIVIT | {'mlp_dim': 16}))
    with pytest.raises(UserError, match='has no classifier'):
        load(given, probe(), how=dataclasses.replace(HOW, head='keep'))
    extra = given._replace(params=given.params | {'more': np.zeros(1, np.float32)})
    with pytest.raises(UserError, match=r'has what config\.model lacks: more\.'):
        load(extra, probe())
    less = dict(given.params)
    del less['embedding/bias']
    with pytest.raises(UserError, match='lacks: encoder/embedding/bias'):
        load(given._replace(params=less), probe())


def test_positions_of_another_grid_are_resized():
    given = source(models.build(num_classes=3, **VIVIT))
    arrays, report = load(given, probe(), (4, 32, 32, 3))
    alone, _ = load(given, models.build(num_classes=3, **VIVIT), (4, 32, 32, 3))
    path = 'encoder/position_embedding/table'
    np.testing.assert_array_equal(arrays[f'encoder/{path}'], alone[path])
    assert set(report.changed) == {f'encoder/{path}'}


def test_from_an_image_model():
    given = source(models.build(num_classes=3, **IMAGES), (16, 16, 3))
    arrays, report = load(given, probe())
    alone, expected = load(given, models.build(num_classes=3, **VIVIT))
    inside = {path: array for path, array in alone.items() if not path.startswith('head/')}
    assert inside.keys() == {path.removeprefix('encoder/') for path in arrays}
    for path, array in inside.items():
        np.testing.assert_array_equal(arrays[f'encoder/{path}'], array)
    assert report.changed == {f'encoder/{path}': how for path, how in expected.changed.items()}
    assert 'embedding/kernel' in expected.changed


def test_a_file_is_read_for_the_encoder(tmp_path, monkeypatch):
    """Which knows what a file leaves open, such as where its attention is."""
    monkeypatch.setattr(checkpoint, 'read', lambda path, like: weights.Source('', like, {}))
    (tmp_path / 'file').touch()
    model = probe()
    for asked in (model, model.encoder):
        (read,) = weights.read(f'scenic:{tmp_path}/file', asked, CLIP)
        assert read.model == model.encoder


def test_from_another_probe():
    given = source(probe())
    arrays, report = load(given, probe(VIVIT | {'dropout': 0.1}, dropout=0.1))
    assert set(arrays) == set(given.params)
    for path, array in arrays.items():
        np.testing.assert_array_equal(array, given.params[path])
    assert not report.left
    arrays, report = load(given, probe(num_classes=4), classes={'label': ('a', 'b', 'c', 'd')})
    assert set(report.left) == set(report.unused) == {'head/logits/kernel', 'head/logits/bias'}
    # Of another grid, which only the encoder knows about.
    _, report = load(given, probe(), (4, 32, 32, 3))
    assert set(report.changed) == {'encoder/encoder/position_embedding/table'}

    with pytest.raises(UserError, match=r'another probe .* depth=4 there and 3 here'):
        load(given, probe(depth=3))
    with pytest.raises(UserError, match='mlp_dim=12 there and 16 here'):
        load(given, probe(VIVIT | {'mlp_dim': 16}))


def test_a_probe_is_no_source_of_another_kind():
    with pytest.raises(UserError, match='ViViT cannot start from AttentiveProbe'):
        load(source(probe()), models.build(num_classes=3, **VIVIT))
