"""Image models in .npz, in every layout that vision_transformer and big_vision have written."""

import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from vjax import models, weights
from vjax.errors import UserError
from vjax.models import costs
from vjax.weights import scenic, vit
from vjax.weights.scenic import names

IMAGE = (16, 24, 3)
SIZES = {'width': 16, 'depth': 2, 'num_heads': 2, 'mlp_dim': 24, 'patch': (8, 4)}
HOW = weights.Adapt(
    head='auto',
    class_token=True,
    tubelet='central_frame',
    temporal='paper',
    position_grid=(),
    allow=(),
)
TABLE = 'Transformer/posembed_input/pos_embedding'
PRE_LINEN = {'MultiHeadDotProductAttention_0': 'MultiHeadDotProductAttention_1',
             'LayerNorm_1': 'LayerNorm_2', 'MlpBlock_0': 'MlpBlock_3'}  # fmt: skip


def image_model(classifier='token', **changes):
    return models.build('vit', **{'num_classes': 5, **SIZES, 'classifier': classifier, **changes})


def random_params(model, seed=0):
    rng = np.random.default_rng(seed)
    return {
        path: rng.normal(size=leaf.shape, scale=0.3).astype('f')
        for path, leaf in weights.flatten(costs.param_shapes(model, IMAGE)).items()
    }


def scenic_names(model, params):
    flat = scenic.flat_params(weights.unflatten(params), model)
    return {name.replace('output_projection', 'head'): array for name, array in flat.items()}


def stacked(flat):
    """Blocks as big_vision's scan=True writes them."""
    found, stacks = {}, {}
    for name, array in flat.items():
        block = re.fullmatch(r'Transformer/encoderblock_(\d+)/(.*)', name)
        if block:
            stacks.setdefault(f'Transformer/encoderblock/{block[2]}', {})[int(block[1])] = array
        else:
            found[name] = array
    return found | {name: np.stack([s[i] for i in sorted(s)]) for name, s in stacks.items()}


def pre_linen(flat):
    def rename(name):
        for new, old in PRE_LINEN.items():
            if '/encoderblock_' in name:
                name = name.replace(f'/{new}/', f'/{old}/')
        return name

    return {rename(name): array for name, array in flat.items()}


def read(tmp_path, flat, model=None):
    np.savez(tmp_path / 'it.npz', **flat)
    (source,) = weights.read(f'vit:{tmp_path / "it.npz"}', model)
    return source


def load(source, model, image=IMAGE, **how):
    shapes = weights.flatten(costs.param_shapes(model, image))
    choices = weights.Adapt(**{**vars(HOW), **how})
    return weights.adapt([source], model, shapes, image, choices)


def assert_equal(found, expected):
    assert found.keys() == expected.keys()
    for path, array in expected.items():
        np.testing.assert_array_equal(found[path], array, err_msg=path)


@pytest.mark.parametrize(
    ('prefix', 'classifier'),
    [
        ('', 'token'),
        ('', 'gap'),
        ('opt/target/', 'map'),
        ('params/', 'token'),
        ('optimizer/target/', 'gap'),
        ('optimizer/target/params/', 'token'),
        ('target/', 'token'),
        ('params/img/', 'map'),
    ],
)
def test_prefixes_and_classifiers(tmp_path, prefix, classifier):
    model = image_model(classifier, representation_size=7 * (prefix == ''))
    params = random_params(model)
    flat = {prefix + name: array for name, array in scenic_names(model, params).items()}
    if prefix:
        flat['opt/state/step'] = np.zeros(())
        flat['chrono/accum_train_time'] = np.zeros(())
    source = read(tmp_path, flat)
    assert source.model == model
    assert_equal(source.params, params)
    arrays, report = load(source, model)
    assert_equal(arrays, params)
    assert report.changed == {}
    assert report.left == {}
    if prefix:
        assert 'chrono' in report.unused


def test_numbers_from_before_linen(tmp_path):
    model = image_model()
    params = random_params(model)
    old = pre_linen(scenic_names(model, params))
    assert 'Transformer/encoderblock_1/MlpBlock_3/Dense_1/kernel' in old
    assert_equal(read(tmp_path, old).params, params)


def test_names_in_order_stay():
    flat = dict.fromkeys(['a/LayerNorm_0/scale', 'a/LayerNorm_1/scale', 'LayerNorm_0/b'])
    assert names.linen(flat) == flat
    assert list(names.linen(dict.fromkeys(['a_1/Dense_3/b', 'a_1/Dense_10/b']))) == [
        'a_1/Dense_0/b',
        'a_1/Dense_1/b',
    ]


@pytest.mark.parametrize('classifier', ['token', 'gap', 'map'])
@pytest.mark.parametrize('scan', [False, True])
def test_big_vision(tmp_path, scan, classifier):
    """Positions are beside the transformer, and the class token has none; there may be no head."""
    model = image_model(classifier)
    params = random_params(model)
    table = params['encoder/position_embedding/table']
    if classifier == 'token':
        table[:, 0] = 0
    flat = scenic_names(model, params)
    flat['pos_embedding'] = flat.pop(TABLE)[:, int(classifier == 'token') :]
    del flat['head/kernel'], flat['head/bias']
    flat = {f'params/{name}': x for name, x in (stacked(flat) if scan else flat).items()}
    source = read(tmp_path, flat)
    assert source.model == model.clone(num_classes=1)
    assert_equal(source.params, {k: v for k, v in params.items() if not k.startswith('head/')})
    _, report = load(source, model)
    assert report.left == dict.fromkeys(
        ['head/logits/kernel', 'head/logits/bias'], 'the source has no classifier'
    )


def test_older_big_vision(tmp_path):
    """Positions within the transformer, attention pooling at the top."""
    model = image_model('map')
    params = random_params(model)
    flat = scenic_names(model, params)
    flat['Transformer/pos_embedding'] = flat.pop(TABLE)
    flat = {name.removeprefix('MAPHead_0/'): array for name, array in flat.items()}
    assert 'probe' in flat
    source = read(tmp_path, flat)
    assert source.model == model
    assert_equal(source.params, params)


def test_bfloat16(tmp_path):
    model = image_model()
    params = random_params(model)
    flat = scenic_names(model, params)
    source = read(tmp_path, {name: x.astype(ml_dtypes.bfloat16) for name, x in flat.items()})
    assert {array.dtype for array in source.params.values()} == {np.dtype('f')}
    for path, array in params.items():
        np.testing.assert_allclose(source.params[path], array, rtol=2**-8)


class TestSines:
    """big_vision's position embeddings without parameters."""

    def read(self, tmp_path, classifier):
        model = image_model(classifier)
        flat = scenic_names(model, random_params(model))
        del flat[TABLE]
        return model, read(tmp_path, flat)

    def test_by_hand(self):
        """Width 8: two wavelengths, 2 pi and 10000 times that; the column before the row."""
        table = vit.sines((2, 3), 8)
        row, column = 1, 2
        slow = 1e-4
        expected = [
            *(np.sin(column), np.sin(column * slow), np.cos(column), np.cos(column * slow)),
            *(np.sin(row), np.sin(row * slow), np.cos(row), np.cos(row * slow)),
        ]
        np.testing.assert_allclose(table[row * 3 + column], expected, atol=1e-6)

    @pytest.mark.parametrize('classifier', ['token', 'gap'])
    def test_become_a_table(self, tmp_path, classifier):
        model, source = self.read(tmp_path, classifier)
        assert 'encoder/position_embedding/table' not in source.params
        arrays, report = load(source, model)
        table = vit.sines((2, 6), 16)
        if classifier == 'token':
            table = np.concatenate([np.zeros((1, 16)), table])
        np.testing.assert_array_equal(arrays['encoder/position_embedding/table'][0], table)
        assert 'sines' in report.changed['encoder/position_embedding/table']
        assert report.left == {}

    def test_become_those_of_a_video(self, tmp_path):
        _, source = self.read(tmp_path, 'gap')
        fields = {key: value for key, value in SIZES.items() if key != 'patch'}
        model = models.build('vivit', num_classes=5, **fields, tubelet=(2, 8, 4), classifier='gap')
        arrays, _ = load(source, model, (4, 32, 24, 3))
        expected = np.tile(vit.sines((4, 6), 16), (2, 1))
        np.testing.assert_array_equal(arrays['encoder/position_embedding/table'][0], expected)

    def test_are_not_vjaxs(self, tmp_path):
        model, source = self.read(tmp_path, 'gap')
        with pytest.raises(UserError, match='positions=learned there and sincos here'):
            load(source, model.clone(positions='sincos'))


def test_the_file_computes_what_plain_linen_does(tmp_path):
    """Of the original architecture, from the file's own names."""
    model = image_model(representation_size=7)
    flat = pre_linen(scenic_names(model, random_params(model)))
    source = read(tmp_path, flat)
    image = jnp.asarray(np.random.default_rng(5).normal(size=(2, *IMAGE)), 'float32')
    params = jax.tree.map(jnp.asarray, weights.unflatten(source.params))
    logits = jax.jit(source.model.apply)({'params': params}, image)
    # Sums in another order, over a handful of numbers of size 1.
    with jax.numpy_rank_promotion('allow'):
        expected = jax.jit(original)(flat, image)
    np.testing.assert_allclose(logits, expected, atol=2e-5)


def original(flat, image):
    """ViT written out: Dosovitskiy et al., arXiv 2010.11929, equations 1 to 4."""

    def norm(x, name):
        params = {'scale': flat[f'{name}/scale'], 'bias': flat[f'{name}/bias']}
        return nn.LayerNorm().apply({'params': params}, x)

    def dense(x, name, spec='...d,de->...e'):
        return jnp.einsum(spec, x, flat[f'{name}/kernel']) + flat[f'{name}/bias']

    kernel = flat['embedding/kernel']
    x = jax.lax.conv_general_dilated(
        image, kernel, SIZES['patch'], 'VALID', dimension_numbers=('NHWC', 'HWIO', 'NHWC')
    )
    x = (x + flat['embedding/bias']).reshape(len(image), -1, kernel.shape[-1])
    x = jnp.concatenate([jnp.broadcast_to(flat['cls'], (len(x), 1, x.shape[-1])), x], axis=1)
    x = x + flat[TABLE]
    for i in range(SIZES['depth']):
        block = f'Transformer/encoderblock_{i}'
        y, attention = norm(x, f'{block}/LayerNorm_0'), f'{block}/MultiHeadDotProductAttention_1'
        q, k, v = (
            dense(y, f'{attention}/{part}', 'bnd,dhk->bnhk') for part in ('query', 'key', 'value')
        )
        weights = jax.nn.softmax(jnp.einsum('bqhk,bmhk->bhqm', q, k) / q.shape[-1] ** 0.5)
        y = jnp.einsum('bhqm,bmhk->bqhk', weights, v)
        x = x + dense(y, f'{attention}/out', 'bnhk,hkd->bnd')
        y = dense(norm(x, f'{block}/LayerNorm_2'), f'{block}/MlpBlock_3/Dense_0')
        x = x + dense(jax.nn.gelu(y), f'{block}/MlpBlock_3/Dense_1')
    x = norm(x, 'Transformer/encoder_norm')[:, 0]
    return dense(jnp.tanh(dense(x, 'pre_logits')), 'head')


class TestWrongFiles:
    @pytest.fixture
    def flat(self):
        model = image_model()
        return scenic_names(model, random_params(model))

    def test_an_unexpected_array(self, tmp_path, flat):
        flat['Transformer/encoderblock_0/extra/kernel'] = np.zeros(3)
        source = read(tmp_path, flat)
        with pytest.raises(UserError, match='lacks: Transformer/encoderblock_0/extra/kernel'):
            load(source, image_model())
        _, report = load(source, image_model(), allow=('.*/extra/kernel',))
        assert 'Transformer/encoderblock_0/extra/kernel' in report.unused

    def test_a_missing_array(self, tmp_path, flat):
        del flat['Transformer/encoderblock_1/LayerNorm_1/bias']
        with pytest.raises(UserError, match=r'missing.*: Transformer/encoderblock_1/LayerNorm_1/b'):
            read(tmp_path, flat)

    def test_a_missing_layer(self, tmp_path, flat):
        flat = {name: x for name, x in flat.items() if '/encoderblock_0/' not in name}
        with pytest.raises(UserError, match=r'encoderblock_0/.* is missing'):
            read(tmp_path, flat)

    def test_another_shape(self, tmp_path, flat):
        flat['cls'] = np.zeros((1, 1, 7))
        with pytest.raises(UserError, match=r'it.npz is not a ViT .*: cls \(1, 1, 7\) instead'):
            read(tmp_path, flat)
        flat['embedding/kernel'] = np.zeros((3, 16))
        with pytest.raises(UserError, match=r'embedding/kernel should have 4 axes'):
            read(tmp_path, flat)

    @pytest.mark.parametrize('shape', [(), (10**6, 0)])
    def test_stacks_of_no_layers(self, tmp_path, flat, shape):
        flat['Transformer/encoderblock/LayerNorm_0/scale'] = np.zeros(shape)
        with pytest.raises(UserError, match='is not one array for each layer'):
            read(tmp_path, flat)

    def test_nothing_wide(self, tmp_path, flat):
        flat['embedding/kernel'] = np.zeros((8, 4, 3, 0))
        with pytest.raises(UserError, match='embedding/kernel should have 4 axes'):
            read(tmp_path, flat)
        flat['embedding/kernel'] = np.zeros((0, 4, 3, 16))
        with pytest.raises(UserError, match=r'embedding/kernel|patch=\(0, 4\)'):
            read(tmp_path, flat)

    def test_two_tables(self, tmp_path, flat):
        flat['pos_embedding'] = np.zeros((1, 12, 16))
        with pytest.raises(UserError, match='position embeddings twice'):
            read(tmp_path, flat)

    def test_a_hybrid(self, tmp_path, flat):
        flat['conv_root/kernel'] = np.zeros((7, 7, 3, 16))
        with pytest.raises(UserError, match='hybrid of a ResNet and a ViT'):
            read(tmp_path, flat)

    def test_no_vit(self, tmp_path):
        with pytest.raises(UserError, match="has no 'embedding/kernel'"):
            read(tmp_path, {'stem/kernel': np.zeros(3)})

    def test_python_objects(self, tmp_path, flat):
        flat['cls'] = np.array([print], dtype=object)
        with pytest.raises(UserError, match='Python objects'):
            read(tmp_path, flat)

    def test_no_file(self, tmp_path):
        with pytest.raises(UserError, match='there is no such file'):
            weights.read(f'vit:{tmp_path / "nowhere.npz"}', None)
