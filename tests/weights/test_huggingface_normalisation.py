"""An image processor's normalisation, folded into the embedding."""

import json

import numpy as np
import pytest

from vjax.errors import UserError
from vjax.weights.huggingface import normalisation

IMAGENET = {'image_mean': [0.485, 0.456, 0.406], 'image_std': [0.229, 0.224, 0.225]}


@pytest.fixture
def params():
    rng = np.random.default_rng(0)
    return {
        'embedding/kernel': rng.normal(size=(4, 4, 3, 8)).astype('f'),
        'embedding/bias': rng.normal(size=8).astype('f'),
        'encoder/norm/scale': np.ones(8, 'f'),
    }


def embed(params, patch):
    return np.einsum('hwc,hwcd->d', patch, params['embedding/kernel']) + params['embedding/bias']


def write(folder, file='preprocessor_config.json', **content):
    (folder / file).write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize(
    'processor',
    [
        IMAGENET,
        {'do_normalize': False},
        {**IMAGENET, 'rescale_factor': 1 / 127.5},
        {**IMAGENET, 'image_processor_type': 'VivitImageProcessor', 'rescale_factor': 1 / 127.5},
        {**IMAGENET, 'video_processor_type': 'VivitVideoProcessor', 'rescale_factor': 1 / 100},
    ],
)
def test_the_embedding_is_that_of_the_processors_output(params, processor, tmp_path):
    pixels = np.random.default_rng(1).integers(0, 256, (4, 4, 3))
    theirs = pixels * processor.get('rescale_factor', 1 / 255)
    theirs = theirs - any('Vivit' in str(value) for value in processor.values())
    if processor.get('do_normalize', True):
        theirs = (theirs - np.array(IMAGENET['image_mean'])) / np.array(IMAGENET['image_std'])
    folded = normalisation.fold(params, write(tmp_path, **processor))
    np.testing.assert_allclose(
        embed(folded, pixels * 2 / 255 - 1), embed(params, theirs), rtol=0, atol=2e-4
    )
    assert not np.allclose(folded['embedding/kernel'], params['embedding/kernel'], rtol=0.1)


def test_input_in_our_range_needs_no_folding(params, tmp_path):
    half = {'image_mean': [0.5] * 3, 'image_std': [0.5] * 3}
    for path in (write(tmp_path, **half), tmp_path / 'absent'):
        for name, array in normalisation.fold(params, path).items():
            np.testing.assert_array_equal(array, params[name])


def test_a_vivits_own_processor_is_meant_where_the_file_names_none(params, tmp_path):
    """[-1, 1] before it is normalised."""
    path = write(tmp_path, do_normalize=False)
    for name, array in normalisation.fold(params, path, 'vivit').items():
        np.testing.assert_array_equal(array, params[name])
    path = write(tmp_path, do_normalize=False, offset=False, rescale_factor=1 / 255)
    folded = normalisation.fold(params, path, 'vivit')
    np.testing.assert_allclose(folded['embedding/kernel'], params['embedding/kernel'] / 2)


def test_of_several_files_the_one_that_transformers_reads_counts(params, tmp_path):
    """Later ones of these come first; each makes of [-1, 1] something else."""
    means = iter((0.1, 0.2, 0.3, 0.4))

    def folded(model_type):
        return normalisation.fold(params, tmp_path, model_type)['embedding/bias']

    def expected():
        shift = (1 - 2 * mean) * params['embedding/kernel'].sum((0, 1, 2))
        return params['embedding/bias'] + shift

    entry = {'image_std': 0.5, 'offset': False, 'rescale_factor': 1 / 255}
    for file, name, own in (
        ('preprocessor_config.json', '', ('vit', 'vivit')),
        ('video_preprocessor_config.json', '', ('vivit',)),
        ('processor_config.json', 'image_processor', ('vit', 'vivit')),
        ('processor_config.json', 'video_processor', ('vivit',)),
    ):
        mean = next(means)
        content = entry | {'image_mean': mean}
        if name:
            old = tmp_path / file
            old = json.loads(old.read_text()) if old.exists() else {}
            content = old | {name: content}
        before = folded('vit')
        write(tmp_path, file, **content)
        np.testing.assert_allclose(folded('vivit'), expected(), rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(
            folded('vit'), expected() if 'vit' in own else before, rtol=1e-5, atol=1e-5
        )


@pytest.mark.parametrize('entry', ['video_processor', 'image_processor'])
def test_a_processor_that_is_none_is_named(entry, params, tmp_path):
    write(tmp_path, 'processor_config.json', **{entry: [1]})
    with pytest.raises(UserError, match=rf'{entry}=\[1\] should be a JSON object'):
        normalisation.fold(params, tmp_path, 'vivit')


@pytest.mark.parametrize(
    'wrong',
    [
        {'image_mean': None},
        {'rescale_factor': None},
        {'image_mean': [1, 2]},
        {'image_std': 'wide'},
        {'image_std': [0.1, 0.0, 0.1]},
    ],
)
def test_a_wrong_entry_is_named(params, wrong, tmp_path):
    (name,) = wrong
    with pytest.raises(UserError, match=name):
        normalisation.fold(params, write(tmp_path, **wrong))
