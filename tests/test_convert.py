"""Conversion end to end: from a checkpoint to a workdir that is evaluated, asked and started from."""

import json
import signal

import jax
import numpy as np
import pytest

from vjax import cli, models, weights
from vjax import convert as convert_module
from vjax.convert import convert, main
from vjax.data import records
from vjax.errors import UserError
from vjax.evaluate import evaluate_run
from vjax.models import costs
from vjax.predict import load_classifier, predict
from vjax.train import train
from vjax.training import runs
from vjax.weights import huggingface, scenic

CONFIG = 'configs/vivit/moving_digits.py:tiny'
IMAGE = {'width': 16, 'depth': 2, 'num_heads': 2, 'mlp_dim': 32, 'patch': (8, 8)}
MOTIONS = ['down', 'grow', 'left', 'right', 'shrink', 'up']


def config(digits, *overrides):
    overrides = [f'--config.dataset.path={digits}', *(f'--config.{o}' for o in overrides)]
    return cli.load_config(CONFIG, overrides)


@pytest.fixture(scope='module')
def image_file(tmp_path_factory):
    """An image ViT as an .npz file in the layout of vision_transformer, with ten classes."""
    path = tmp_path_factory.mktemp('image') / 'ViT.npz'
    model = models.build('vit', num_classes=10, **IMAGE)
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: rng.normal(size=leaf.shape).astype('f'),
        costs.param_shapes(model, (32, 32, 3)),
    )
    flat = scenic.flat_params(params, model)
    np.savez(path, **{name.replace('output_projection', 'head'): x for name, x in flat.items()})
    return path


@pytest.mark.slow
def test_a_converted_run_is_the_run(trained, digits, tmp_path):
    report = convert(str(trained), tmp_path / 'out')
    run, converted = runs.load_run(trained), runs.load_run(tmp_path / 'out')
    jax.tree.map(np.testing.assert_array_equal, run.params, converted.params)
    assert (len(report.loaded), report.changed, report.left, report.unused) == (
        len(jax.tree.leaves(run.params)),
        {},
        {},
        {},
    )
    assert converted.classes == run.classes
    assert converted.settings == run.settings
    scores, again = evaluate_run(trained), evaluate_run(tmp_path / 'out')
    assert [again[key] for key in ('top1', 'loss', 'num_videos')] == [
        scores[key] for key in ('top1', 'loss', 'num_videos')
    ]
    [answer] = predict(tmp_path / 'out', [next((digits.parent / 'videos').rglob('*.mp4'))])
    assert {entry['label'] for entry in answer['top']} <= set(MOTIONS)


@pytest.mark.slow
def test_training_goes_on_from_an_image_model(image_file, digits, tmp_path):
    settings = config(digits, f'init_from=vit:{image_file}', 'optimizer.learning_rate=0.0')
    train(settings, tmp_path)
    params = weights.flatten(runs.load_run(tmp_path).params)
    with np.load(image_file) as stored:
        np.testing.assert_array_equal(
            params['spatial_encoder/norm/scale'], stored['Transformer/encoder_norm/scale']
        )
        kernel = params['embedding/kernel']
        np.testing.assert_array_equal(kernel[1], stored['embedding/kernel'])
    assert not np.any(kernel[0])
    assert not np.any(params['head/logits/kernel'])


@pytest.mark.slow
def test_a_conversion_left_without_classifier_is_not_evaluated_but_started_from(
    image_file, digits, tmp_path
):
    out = tmp_path / 'out'
    report = convert(f'vit:{image_file}', out, config=config(digits))
    assert 'head/logits/kernel' in report.left
    for use in (lambda: evaluate_run(out), lambda: next(predict(out, ['video.mp4']))):
        with pytest.raises(UserError, match='left at their initialisation'):
            use()
    with pytest.raises(UserError, match=r'choose another --workdir.*--config.init_from='):
        train(config(digits), out)
    train(config(digits, f'init_from={out}', 'optimizer.learning_rate=0.0'), tmp_path / 'run')
    jax.tree.map(
        np.testing.assert_array_equal,
        runs.load_run(out).params,
        runs.load_run(tmp_path / 'run').params,
    )


def scenic_file(folder, model):
    """A checkpoint file of Scenic's for the model, and the parameters in it."""
    import flax.serialization

    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: rng.normal(size=leaf.shape).astype('f'),
        costs.param_shapes(model, (4, 32, 32, 3)),
    )
    flat = scenic.flat_params(params, model)
    state = {'optimizer': {'target': weights.unflatten(flat), 'state': {'step': 3}}}
    path = folder / 'checkpoint'
    path.write_bytes(flax.serialization.msgpack_serialize(state))
    return path, params


@pytest.fixture
def vivit(digits):
    return models.build(**config(digits, 'model.num_classes=6').model)


@pytest.mark.slow
def test_a_scenic_checkpoint_is_evaluated_once_its_classes_have_names(vivit, digits, tmp_path):
    path, params = scenic_file(tmp_path, vivit)
    convert(f'scenic:{path}', tmp_path / 'unnamed', config=config(digits))
    with pytest.raises(UserError, match=r'does not name its classes.*--classes=FILE'):
        evaluate_run(tmp_path / 'unnamed')

    names = tmp_path / 'classes.txt'
    names.write_text('\n'.join(MOTIONS))
    arguments = f'--source=scenic --checkpoint={path} --out={tmp_path / "named"} --classes={names}'
    main([*arguments.split(), f'--config={CONFIG}', f'--config.dataset.path={digits}'])
    run = runs.load_run(tmp_path / 'named')
    jax.tree.map(np.testing.assert_array_equal, run.params, params)
    assert run.classes == {'label': tuple(MOTIONS)} == records.open_dataset(digits).classes
    assert evaluate_run(tmp_path / 'named')['num_videos'] == 12
    about = json.loads((tmp_path / 'named' / 'config.json').read_text())
    assert about['conversion']['source'] == f'scenic:{path}'


@pytest.mark.parametrize(
    ('overrides', 'sentence'),
    [
        (('model.num_classes=7',), r'has 6 classes and config.model.num_classes says 7'),
        (('dataset.num_classes=7',), r'has 6 classes and config.dataset.num_classes says 7'),
        (('model.temporal_depth=3',), r'temporal_depth'),
        (('model.depth=1',), r'depth'),
        (('model.attention=spacetime',), r'spacetime'),
        (('clip.num_frames=8',), r'frames'),
    ],
)
def test_a_checkpoint_of_another_size_is_refused(vivit, digits, tmp_path, overrides, sentence):
    path, _ = scenic_file(tmp_path, vivit)
    with pytest.raises(UserError, match=sentence):
        convert(f'scenic:{path}', tmp_path / 'out', config=config(digits, *overrides))
    assert [file.name for file in tmp_path.iterdir()] == ['checkpoint']


def test_a_missing_file_leaves_nothing_behind(digits, tmp_path):
    with pytest.raises(UserError, match='no such file'):
        train(config(digits, 'init_from=vit:nowhere.npz'), tmp_path / 'run')
    with pytest.raises(UserError, match='no such file'):
        convert('vit:nowhere.npz', tmp_path / 'out', config=config(digits))
    assert not list(tmp_path.iterdir())


def test_classes_without_names_are_said(trained, monkeypatch, caplog):
    run = runs.load_run(trained)
    monkeypatch.setattr(runs, 'load_run', lambda *_, **__: run)
    load_classifier(trained)
    assert not caplog.text
    run = run._replace(conversion={'named_classes': False})
    load_classifier(trained)
    assert 'have no names: convert again with --classes=FILE' in caplog.text


def test_an_existing_folder_is_not_written_over(trained, tmp_path):
    with pytest.raises(UserError, match='exists already'):
        convert(str(trained), tmp_path)


@pytest.mark.slow
def test_what_was_never_trained_stays_so_through_another_conversion(image_file, digits, tmp_path):
    first = convert(f'vit:{image_file}', tmp_path / 'first', config=config(digits))
    again = convert(str(tmp_path / 'first'), tmp_path / 'again')
    assert again.left.keys() == first.left.keys() > {'head/logits/kernel'}
    with pytest.raises(UserError, match='is no trained model'):
        evaluate_run(tmp_path / 'again')
    with pytest.raises(UserError, match='left at their initialisation'):
        convert(str(tmp_path / 'first'), tmp_path / 'exported', to='huggingface')
    assert not (tmp_path / 'exported').exists()


@pytest.mark.slow
def test_how_a_run_was_started_does_not_matter_to_its_conversion(trained, digits, tmp_path):
    dropped = config(digits, f'init_from={trained}', 'adapt.head=drop')
    train(dropped, tmp_path / 'run')
    report = convert(str(tmp_path / 'run'), tmp_path / 'out')
    assert not report.left
    main(
        f'--source=vjax --checkpoint={trained} --out={tmp_path / "b"} --config.adapt.head=drop'.split()
    )
    assert runs.left_of(runs.load_run(tmp_path / 'b')) == ['head/logits/bias', 'head/logits/kernel']


def test_classes_in_another_order_than_the_source_names_them_are_refused(trained, tmp_path):
    given = {'label': tuple(MOTIONS[::-1])}
    with pytest.raises(UserError, match="class 0 is 'up' and 'down'"):
        convert(str(trained), tmp_path / 'out', classes=given)


def test_classes_may_be_a_list(trained, tmp_path):
    convert(str(trained), tmp_path / 'out', classes={'label': MOTIONS})
    assert runs.load_run(tmp_path / 'out').classes == {'label': tuple(MOTIONS)}


def test_pooling_without_logits_is_no_classifier(digits):
    """As in a contrastive VideoPrism, whose model has a class for want of any."""
    pooling = {'head/pool/probe': np.zeros((1, 1, 4), 'f')}
    source = weights.Source('v:file', models.build('vit', **IMAGE, num_classes=1), pooling)
    chosen = config(digits, 'dataset.num_classes=6', 'model.name=vit')
    assert convert_module.count_classes([source], chosen, None) == 6
    assert convert_module.count_classes([source], chosen, {'label': 'abcdefghij'}) == 10
    logits = weights.Source('v:file', source.model, {'head/logits/bias': np.zeros(1, 'f')})
    with pytest.raises(UserError, match=r'v:file has 1 classes and config\.dataset\.num_classes'):
        convert_module.count_classes([logits], chosen, None)


def test_positions_that_are_computed_are_of_no_other_size(digits):
    table = 'encoder/position_embedding/table'
    report = weights.Report(('head/logits/bias',), {table: 'how'}, {}, {})
    source = weights.Source('vit:file', models.build('vit', **IMAGE, num_classes=6), {})
    with pytest.raises(UserError, match=r'vit:file was trained on clips of another size'):
        convert_module.check_classifier([source], config(digits), report)
    computed = source._replace(positions=lambda grid: np.zeros((1, 4)))
    assert convert_module.check_classifier([computed], config(digits), report) is False


def test_a_classifier_of_several_labels_wants_their_loss(digits, tmp_path):
    """As Hugging Face's config.json says it, and as it is written."""
    model = models.build(
        'vivit',
        num_classes=6,
        width=16,
        depth=2,
        num_heads=2,
        mlp_dim=32,
        tubelet=(2, 8, 8),
        gelu='tanh',
    )
    shape = (4, 32, 32, 3)
    params = weights.flatten(costs.param_shapes(model, shape))
    params = {path: np.zeros(leaf.shape, 'f') for path, leaf in params.items()}
    classes = {'label': tuple(MOTIONS)}
    huggingface.write(tmp_path / 'theirs', model, params, classes, shape, multi_label=True)
    ours = config(digits, 'model.attention=spacetime')
    fields = {name: getattr(model, name) for name in ('width', 'depth', 'num_heads', 'mlp_dim')}
    ours.model.update(fields | {'tubelet': model.tubelet, 'classifier': 'token'})
    ours.clip.update(num_frames=4, size=32, short_side=32)
    name = f'huggingface:{tmp_path / "theirs"}'
    with pytest.raises(UserError, match=r'answers for each class by itself: .*loss\.name=sigmoid'):
        convert(name, tmp_path / 'out', config=ours)
    ours.loss.name = 'sigmoid'
    convert(name, tmp_path / 'out', config=ours)
    assert runs.load_run(tmp_path / 'out').multi_label
    convert(str(tmp_path / 'out'), tmp_path / 'again', to='huggingface')
    written = json.loads((tmp_path / 'again' / 'config.json').read_text())
    assert written['problem_type'] == 'multi_label_classification'


@pytest.mark.parametrize(
    ('options', 'sentence'),
    [({'to': 'huggingfac'}, 'is not one of vjax, huggingface'), ({}, 'needs a config')],
)
def test_the_function_checks_what_the_command_does(tmp_path, options, sentence):
    with pytest.raises(UserError, match=sentence):
        convert('vit:x.npz', tmp_path / 'out', **options)


def test_an_interrupted_conversion_leaves_nothing(trained, tmp_path, monkeypatch):
    def write_and_interrupt(*args):
        write(*args)
        signal.raise_signal(signal.SIGINT)

    write = convert_module.write_workdir
    monkeypatch.setattr(convert_module, 'write_workdir', write_and_interrupt)
    with pytest.raises(SystemExit) as stop:
        convert(str(trained), tmp_path / 'out')
    assert stop.value.code == 130
    assert not list(tmp_path.iterdir())
