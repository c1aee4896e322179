"""Models by name, and the errors of a config that names something wrong."""

import subprocess
import sys

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
