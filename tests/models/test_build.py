"""Models by name, and the errors of a config that names something wrong."""

import subprocess
import sys

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest

from vjax import models
from vjax.errors import UserError

VIT = {'num_classes': 3, 'width': 8, 'depth': 1, 'num_heads': 2, 'mlp_dim': 8, 'patch': (4, 4)}


def test_builds_with_lists_as_tuples():
    model = models.build('vit', **{**VIT, 'patch': [4, 4]})
    assert model.patch == (4, 4)
    assert hash(model)


def test_unknown_model():
    with pytest.raises(UserError, match=r"unknown model 'vivt'; did you mean 'vivit'\?"):
        models.build('vivt')


def test_unknown_field():
    with pytest.raises(UserError, match=r"'vit' has no field 'widht'; did you mean 'width'\?"):
        models.build('vit', **VIT, widht=8)


def test_unknown_field_that_resembles_nothing_lists_the_fields():
    with pytest.raises(UserError, match=r"no field 'qqq' \(fields: num_classes, width, "):
        models.build('vit', **VIT, qqq=8)


def test_linens_own_fields_are_not_fields():
    with pytest.raises(UserError, match="no field 'parent'"):
        models.build('vit', **VIT, parent=None)


def test_missing_fields():
    with pytest.raises(UserError, match="'vivit' needs the fields mlp_dim, tubelet"):
        models.build('vivit', num_classes=3, width=8, depth=1, num_heads=2)


def test_importing_models_imports_neither_flax_nor_tensorflow():
    code = 'import sys, vjax.models; print({"flax", "tensorflow"} & set(sys.modules))'
    result = subprocess.run(
        [sys.executable, '-c', code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == 'set()'


SMALL = {'num_classes': 3, 'width': 16, 'depth': 2, 'num_heads': 2, 'mlp_dim': 32}
OF_VIDEOS = SMALL | {'tubelet': (2, 8, 8)}
FAMILIES = [
    ('vit', SMALL | {'patch': (8, 8)}),
    ('vivit', OF_VIDEOS | {'attention': 'factorised_encoder', 'classifier': 'map'}),
    ('vivit', OF_VIDEOS | {'attention': 'factorised_dot_product', 'classifier': 'gap'}),
    ('vivit', OF_VIDEOS | {'attention': 'factorised_self_attention', 'classifier': 'gap'}),
    ('token_learner_video', OF_VIDEOS | {'attention': 'spacetime', 'version': '1.0'}),
    ('token_learner_video', OF_VIDEOS | {'attention': 'spacetime', 'fuser': True}),
    ('lookupvit', SMALL | {'patch': (8, 8), 'grid': (2, 2), 'qk_norm': True}),
    ('videoprism', OF_VIDEOS | {'temporal_depth': 1, 'auxiliary_depth': 1, 'logit_cap': 0.0}),
]


@pytest.mark.parametrize(('name', 'sizes'), FAMILIES)
def test_gelu_and_epsilon_reach_every_part(name, sizes):
    epsilon = 0.0123
    model = models.build(name, **sizes, gelu='erf', norm_epsilon=epsilon)
    shape = (1, 32, 32, 3) if 'patch' in sizes else (1, 4, 32, 32, 3)
    variables = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros(shape))
    jaxpr = jax.make_jaxpr(model.apply)(variables, jnp.zeros(shape)).jaxpr
    found = list(_equations(jaxpr))
    assert 'erf' in {eqn.primitive.name for eqn in found} or 'erfc' in {
        eqn.primitive.name for eqn in found
    }
    assert 'tanh' not in {eqn.primitive.name for eqn in found}
    added = {
        float(arg.val)
        for eqn in found
        if eqn.primitive.name == 'add'
        for arg in eqn.invars
        if isinstance(arg, jax.extend.core.Literal) and np.ndim(arg.val) == 0
    }
    assert any(abs(value - epsilon) < 1e-6 for value in added)
    assert not any(0 < abs(value) < 1e-3 for value in added)


def _equations(jaxpr):
    for eqn in jaxpr.eqns:
        yield eqn
        for inner in jax.extend.core.jaxprs_in_params(eqn.params):
            yield from _equations(inner)
