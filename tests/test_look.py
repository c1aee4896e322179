"""The command that shows what a model looks at."""

import json

import numpy as np
import pytest
from PIL import Image

from vjax import cli, look
from vjax.data import video
from vjax.errors import UserError
from vjax.train import train


@pytest.fixture(scope='module')
def workdir(digits, tmp_path_factory):
    """A TokenLearner after two steps."""
    workdir = tmp_path_factory.mktemp('look') / 'run'
    override = f'--config.dataset.path={digits}'
    train(cli.load_config('configs/token_learner/moving_digits.py:tiny', [override]), workdir)
    return workdir


@pytest.fixture(scope='module')
def films(digits):
    return sorted((digits / '..').resolve().rglob('videos/test/*.mp4'))[:2]


@pytest.mark.slow
def test_a_file_of_overlays_for_each_video(workdir, films, tmp_path, capsys):
    broken = tmp_path / 'broken.mp4'
    broken.write_bytes(b'no video')
    out = tmp_path / 'looks'
    arguments = [f'--workdir={workdir}', *map(str, films), str(broken), f'--out={out}']
    assert look.main([*arguments, '--json']) == 2
    *done, failed = map(json.loads, capsys.readouterr().out.splitlines())
    assert 'not a video' in failed['error']
    assert sorted(path.name for path in out.iterdir()) == sorted(film.name for film in films)
    for result, film in zip(done, films, strict=True):
        assert result['path'] == str(film)
        assert 0 < result['top'][0]['score'] <= 1
        shown = video.decode(result['out'])
        assert len(shown.frames) == 4  # The clip that the model saw.
        assert shown.fps == 12
        # Clip, rollout, the mean of the maps and eight maps, in rows of four.
        height, width, _ = shown.frames[0].shape
        assert (height > 3 * 160, width > 4 * 160) == (True, True)

    assert look.main([*arguments[:2], f'--out={out}', '--format=gif', '--maps=rollout']) == 0
    text = capsys.readouterr().out
    assert str(out / f'{films[0].stem}.gif') in text
    assert Image.open(out / f'{films[0].stem}.gif').n_frames == 4
    look.main([*arguments[:2], f'--out={out}', '--format=png'])
    assert Image.open(out / f'{films[0].stem}.png').width > 900


def test_bad_options_are_one_sentence_and_write_nothing(workdir, films, tmp_path):
    out = tmp_path / 'none'
    with pytest.raises(UserError, match='--format=webm is not one of mp4, gif, png'):
        look.main([f'--workdir={workdir}', str(films[0]), f'--out={out}', '--format=webm'])
    with pytest.raises(UserError, match='--maps=gather: the maps of this model are rollout, token'):
        look.main([f'--workdir={workdir}', str(films[0]), f'--out={out}', '--maps=gather'])
    assert not out.exists()


@pytest.mark.parametrize('kind', ['mp4', 'gif'])
def test_a_video_that_is_looked_at_is_not_overwritten(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'link').symlink_to(tmp_path)
    film = tmp_path / f'mine.{kind}'
    film.write_bytes(b'dear')
    for out in ('.', 'link'):
        arguments = ['--workdir=none', f'link/mine.{kind}', f'--out={out}', f'--format={kind}']
        with pytest.raises(UserError, match=rf'would overwrite .link/mine\.{kind}.; name another'):
            look.main(arguments)
    assert film.read_bytes() == b'dear'


def test_files_of_one_name_do_not_replace_each_other():
    stems = look.unique_stems(['a/x.mp4', 'b/x.mp4', 'x_2.avi', 'c/x.mp4', 'y.mp4'])
    assert stems == ['x', 'x_2', 'x_2_2', 'x_3', 'y']


def test_the_few_maps_are_shown_unless_others_are_named():
    maps = {name: np.zeros((1, 2, 2, 2)) for name in ('gather', 'gather_tokens', 'rollout')}
    assert list(look.choose(maps)) == ['rollout', 'gather']
    assert list(look.choose(maps, ['gather_tokens', 'rollout'])) == ['gather_tokens', 'rollout']


def test_a_panel_is_of_one_map_or_of_the_mean_before_each(monkeypatch):
    seen = []
    monkeypatch.setattr(look.visualize, 'overlay', lambda clip, own: seen.append(own) or clip)
    several = np.arange(3 * 8, dtype=np.float32).reshape(3, 2, 2, 2)
    shown = look.panels(np.zeros((2, 8, 8, 3), np.uint8), {'rollout': several[:1], 'maps': several})
    assert list(shown) == ['rollout', 'maps, mean', 'maps 1', 'maps 2', 'maps 3']
    np.testing.assert_array_equal(seen, [several[0], several.mean(axis=0), *several])
