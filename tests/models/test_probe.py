"""Attentive probe: equal to the published head, blind to the encoder's gradients and its dropout."""

import functools

import einops
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vjax import models
from vjax.errors import UserError
from vjax.models import costs
from vjax.models.probe import AttentiveProbe

CLIP = (4, 16, 16, 3)
VIVIT = {
    'name': 'vivit',
    'width': 8,
    'depth': 2,
    'num_heads': 2,
    'mlp_dim': 12,
    'tubelet': (2, 8, 8),
}
SIZES = {'width': 8, 'depth': 2, 'num_heads': 2, 'mlp_dim': 12}
ENCODERS = {
    'vivit': VIVIT | {'attention': 'factorised_encoder', 'temporal_depth': 1},
    'token_learner_video': SIZES
    | {'name': 'token_learner_video', 'tubelet': (2, 4, 4), 'learned_tokens': 4},
    'mtv': {
        'name': 'mtv',
        'widths': (4, 8),
        'depths': (1, 2),
        'num_heads': (2, 2),
        'mlp_dims': (8, 8),
        'tubelets': ((4, 8, 8), (2, 8, 8)),
        'fusion_layers': (1,),
        'global_depth': 1,
        'global_num_heads': 2,
        'global_mlp_dim': 8,
    },
    'lookupvivit': SIZES
    | {'name': 'lookupvivit', 'tubelet': (2, 4, 4), 'grid': (2, 2), 'temporal_depth': 1},
}


def probe(encoder=None, **fields):
    own = {'num_classes': 3, 'num_heads': 2, 'mlp_dim': 16, 'encoder': encoder or VIVIT}
    return models.build('probe', **own | fields)


def clips(*shape):
    return jnp.float32(np.random.default_rng(0).uniform(-1, 1, shape))


class Tokens(nn.Module):
    """An encoder whose tokens are its input's cells."""

    @nn.compact
    def __call__(self, video, *, train=False, features=False):
        assert features
        assert not train
        return einops.rearrange(video, 'b t h w d -> b (t h w) d')


# --- The published head ---


def from_torch(state, num_heads):
    """transformers' parameters of a pooler and a classifier under our names."""

    def heads(name):
        weight, bias = state[f'{name}.weight'], state[f'{name}.bias']
        return {
            'kernel': einops.rearrange(weight, '(h k) d -> d h k', h=num_heads),
            'bias': einops.rearrange(bias, '(h k) -> h k', h=num_heads),
        }

    def dense(name):
        return {'kernel': state[f'{name}.weight'].T, 'bias': state[f'{name}.bias']}

    def norm(name):
        return {'scale': state[f'{name}.weight'], 'bias': state[f'{name}.bias']}

    def block(name, attention):
        module = f'{name}.{attention}'
        inner = {part: heads(f'{module}.{part[0]}_proj') for part in ('query', 'key', 'value')}
        if f'{module}.out_proj.weight' in state:
            out = state[f'{module}.out_proj.weight']
            inner['out'] = {
                'kernel': einops.rearrange(out, 'd (h k) -> h k d', h=num_heads),
                'bias': state[f'{module}.out_proj.bias'],
            }
        return {
            'attention_norm': norm(f'{name}.layer_norm1'),
            'attention': inner,
            'mlp_norm': norm(f'{name}.layer_norm2'),
            'mlp': {'up': dense(f'{name}.mlp.fc1'), 'down': dense(f'{name}.mlp.fc2')},
        }

    layers = [block(f'self_attention_layers.{i}', 'self_attn') for i in range(3)]
    return {
        'blocks': jax.tree.map(lambda *each: np.stack(each), *layers),
        'pool': block('cross_attention_layer', 'cross_attn') | {'query': state['query_tokens']},
        'head': {'logits': dense('classifier')},
    }


def test_the_head_is_that_of_v_jepa_2():
    torch = pytest.importorskip('torch', reason='needs the [parity] extra')
    transformers = pytest.importorskip('transformers', reason='needs the [parity] extra')
    from transformers.models.vjepa2.modeling_vjepa2 import VJEPA2AttentivePooler

    config = transformers.VJEPA2Config(hidden_size=12, num_attention_heads=3, num_pooler_layers=3)
    torch.manual_seed(0)
    pooler, classifier = VJEPA2AttentivePooler(config).eval(), torch.nn.Linear(12, 5)
    with torch.no_grad():
        for param in pooler.parameters():
            param.copy_(0.3 * torch.randn_like(param))
        tokens = torch.randn(2, 2 * 3 * 4, 12)
        expected = classifier(pooler(tokens)).numpy()
    state = pooler.state_dict() | {f'classifier.{k}': v for k, v in classifier.state_dict().items()}
    params = from_torch({name: value.numpy() for name, value in state.items()}, num_heads=3)

    eps = config.layer_norm_eps
    model = AttentiveProbe(5, Tokens(), num_heads=3, mlp_dim=48, gelu='erf', norm_epsilon=eps)
    video = einops.rearrange(tokens.numpy(), 'b (t h w) d -> b t h w d', t=2, h=3)
    logits = jax.jit(model.apply)({'params': params}, video)
    # Sums of float32 in another order.
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)
    # That the test would notice: the activation and the depth are the published ones.
    for different in (model.clone(gelu='tanh'), model.clone(norm_epsilon=1e-2)):
        logits = jax.jit(different.apply)({'params': params}, video)
        assert np.abs(logits - expected).max() > 1e-4


# --- The frozen encoder ---


@pytest.mark.parametrize('name', ENCODERS)
def test_the_encoders_parameters_are_the_models_without_its_head(name):
    model = probe(ENCODERS[name], depth=3)
    shapes = costs.param_shapes(model, CLIP)
    alone = costs.param_shapes(models.build(num_classes=7, **ENCODERS[name]), CLIP)
    assert alone.pop('head')
    assert shapes['encoder'] == alone
    assert set(shapes) == {'encoder', 'blocks', 'pool', 'head'}
    assert {leaf.shape[0] for leaf in jax.tree.leaves(shapes['blocks'])} == {2}
    assert set(shapes['head']) == {'logits'}
    assert model.num_tokens(CLIP) == model.encoder.num_tokens(CLIP)
    model.check(CLIP)


def test_no_gradient_reaches_the_encoder(random_params):
    model, video = probe(), clips(2, *CLIP)
    params = random_params(model, video)
    grads = jax.jit(
        jax.grad(lambda params: jnp.sum(model.apply({'params': params}, video, train=True) ** 2))
    )(params)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(grads.pop('encoder')))
    # But for the keys' biases, which shift all logits of a softmax alike.
    for path, leaf in jax.tree_util.tree_leaves_with_path(grads):
        assert np.any(leaf) or 'key' in jax.tree_util.keystr(path)


def test_the_encoder_is_always_in_evaluation_mode(random_params):
    rates = {'dropout': 0.5, 'attention_dropout': 0.5, 'stochastic_depth': 0.5}
    model, video = probe(VIVIT | rates), clips(2, *CLIP)
    params = random_params(model, video)
    # Without a key for dropout: nobody asks for one.
    training, testing = (
        jax.jit(functools.partial(model.apply, train=train))({'params': params}, video)
        for train in (True, False)
    )
    np.testing.assert_array_equal(training, testing)

    noisy = model.clone(**rates)
    apply = jax.jit(
        lambda key: noisy.apply({'params': params}, video, train=True, rngs={'dropout': key})
    )
    first, second = (apply(jax.random.key(seed)) for seed in (0, 1))
    assert np.abs(first - second).max() > 1e-3


def test_one_block_is_the_query_alone_and_features_are_what_it_reads(random_params):
    model, video = probe(depth=1), clips(2, *CLIP)
    params = random_params(model, video)
    assert set(params) == {'encoder', 'pool', 'head'}
    tokens = jax.jit(functools.partial(model.apply, features=True))({'params': params}, video)
    own = jax.jit(functools.partial(model.encoder.apply, features=True))(
        {'params': params['encoder']}, video
    )
    np.testing.assert_allclose(tokens, own, atol=1e-6)
    assert tokens.shape == (2, 1 + 2 * 2 * 2, 8)
    # A query that all tokens tell the same has no order of tokens to go by.
    pooled = AttentiveProbe(3, Tokens(), num_heads=2, mlp_dim=16, depth=1)
    head = {name: params[name] for name in ('pool', 'head')}
    cells = tokens[:, :8].reshape(2, 2, 2, 2, 8)
    pool = jax.jit(pooled.apply)
    there, back = (pool({'params': head}, x) for x in (cells, cells[:, ::-1]))
    np.testing.assert_allclose(there, back, atol=1e-5)


# --- What it costs ---


def test_costs_are_the_encoders_and_the_heads():
    model, (d, m, n) = probe(num_classes=5), (8, 16, 9)
    encoder = costs.matrix_products(model.encoder, CLIP) - d  # Without its classifier of one class.
    block = 4 * n * d**2 + 2 * n**2 * d + 2 * n * d * m
    query = d**2 + 2 * n * d**2 + 2 * n * d + 2 * d * m
    assert costs.matrix_products(model, CLIP) == encoder + 3 * block + query + 5 * d
    # The encoder's blocks are counted one by one as well.
    unrolled = model.clone(encoder=model.encoder.clone(unroll=True))
    assert costs.gflops(model, CLIP) == costs.gflops(unrolled, CLIP)
    assert costs.gflops(model, CLIP) * 1e9 > costs.matrix_products(model, CLIP)


# --- What does not fit ---


def test_an_encoder_may_have_a_class_count_that_means_nothing():
    assert probe(VIVIT | {'num_classes': 9}).encoder.num_classes == 9
    assert probe().encoder.num_classes == 1
    assert probe(VIVIT | {'tubelet': [2, 8, 8]}).encoder.tubelet == (2, 8, 8)
    assert hash(probe())


@pytest.mark.parametrize(
    ('fields', 'message'),
    [
        ({'encoder': VIVIT | {'width': 7}}, 'num_heads=2 does not divide width=7'),
        ({'encoder': VIVIT | {'tubelet': (3, 8, 8)}}, 'num_frames=4 is not divisible'),
        ({'encoder': VIVIT | {'witdh': 8}}, "'vivit' has no field 'witdh'; did you mean 'width'"),
        ({'encoder': {'width': 8}}, "lack its 'name'"),
        ({'encoder': 'vivit'}, "encoder='vivit' is no model"),
        ({'num_heads': 3}, "num_heads=3 does not divide 8, the width of the encoder's tokens"),
        ({'depth': 0}, 'depth=0 should be at least 1'),
        ({'gelu': 'relu'}, "gelu='relu' is not one of tanh, erf"),
        ({'dropout': 1.0}, r'dropout=1\.0 is not a rate'),
    ],
)
def test_what_does_not_fit_is_named(fields, message):
    with pytest.raises(UserError, match=message):
        probe(**fields).check(CLIP)
    if 'num_heads' in fields:
        with pytest.raises(UserError, match=message):
            costs.param_shapes(probe(**fields), CLIP)
