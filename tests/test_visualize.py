"""Pictures: that overlays lie where weights are, and that nothing in a chart is cut off or markup."""

import io

import matplotlib
import matplotlib.text
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from vjax import visualize
from vjax.errors import UserError


def clip(num_frames=4, height=24, width=32, value=128):
    return np.full((num_frames, height, width, 3), value, np.uint8)


def brightness(picture):
    return picture.astype(float).sum(axis=-1)


def test_a_strip_has_the_first_and_the_last_frame():
    frames = np.arange(10, dtype=np.uint8)[:, None, None, None] * clip(1, 4, 6, 1)
    shown = visualize.strip(frames, num_frames=4, gap=1)
    assert shown.shape == (4, 4 * 6 + 3, 3)
    assert shown[0, ::7, 0].tolist() == [0, 3, 6, 9]
    assert (shown[:, 6] == 255).all()
    assert visualize.strip(frames[:2], num_frames=4, gap=0).shape == (4, 12, 3)


def test_a_grid_keeps_clips_apart_and_the_last_frames_of_short_ones():
    clips = [clip(3, value=10), clip(1, value=20), clip(2, 10, 12, value=30)]
    made = visualize.grid(clips, columns=2, gap=2)
    assert made.shape == (3, 24 + 2 + 24, 32 + 2 + 32, 3)
    assert (made[:, :24, :32] == 10).all()
    assert (made[2, :24, 34:] == 20).all()
    assert (made[:, 26:36, :12] == 30).all()
    assert (made[:, 26:, 34:] == 255).all()
    assert (made[:, 24:26] == 255).all()


def test_enlarged_pixels_are_squares():
    small = np.random.default_rng(0).integers(0, 255, (2, 5, 7, 3)).astype(np.uint8)
    large = visualize.enlarge(small, 12)
    assert large.shape == (2, 15, 21, 3)
    np.testing.assert_array_equal(large[:, 1::3, 1::3], small)
    assert visualize.enlarge(small, 5) is not None
    np.testing.assert_array_equal(visualize.enlarge(small, 3), small)


@pytest.mark.parametrize('smooth', [True, False])
def test_an_overlay_shows_each_weight_in_its_place_and_at_its_time(smooth):
    """One tubelet of 2 frames by 8 x 8 pixels of four: the frames and the pixels that it covers."""
    weights = np.zeros((2, 3, 4), np.float32)
    weights[1, 2, 1] = 0.3
    shown = visualize.overlay(clip(), weights, smooth=smooth)
    assert shown.shape == (4, 24, 32, 3)
    np.testing.assert_array_equal(shown[0], shown[1])
    np.testing.assert_array_equal(shown[2], shown[3])
    grey = shown[0, 0, 0]
    assert np.ptp(grey.astype(int)) <= 1
    assert (shown[0] == grey).all()
    bright = brightness(shown[2]) > brightness(grey) + 30
    rows, columns = np.nonzero(bright)
    assert bright[20, 12]
    if smooth:
        assert np.unravel_index(brightness(shown[2]).argmax(), (24, 32))[0] in range(18, 24)
        assert 10 < bright.sum() < 300
    else:
        assert (rows.min(), rows.max(), columns.min(), columns.max()) == (16, 23, 8, 15)
        assert bright.sum() == 64


def test_all_frames_of_an_overlay_have_one_scale():
    weights = np.stack([np.full((3, 4), 0.1), np.full((3, 4), 0.4)])
    shown = visualize.overlay(clip(), weights)
    assert brightness(shown[0]).max() < brightness(shown[2]).min()
    half = visualize.overlay(clip(), weights / 2, scale=0.4)
    np.testing.assert_allclose(
        half[2].astype(int), visualize.overlay(clip(), weights[1:] / 2, scale=0.4)[0], atol=1
    )
    np.testing.assert_array_equal(
        visualize.overlay(clip(), weights), visualize.overlay(clip(), 7 * weights)
    )


def test_a_map_of_zeros_leaves_the_picture_grey():
    shown = visualize.overlay(clip(value=200), np.zeros((1, 3, 4)))
    assert np.ptp(shown.astype(int)) <= 1


def test_a_map_that_does_not_fit_the_clip_is_refused():
    with pytest.raises(UserError, match='3 indices of time does not go with a clip of 4 frames'):
        visualize.overlay(clip(), np.zeros((3, 3, 4)))


def test_a_caption_is_above_and_never_wider_than_the_clip():
    long = 'a very long name ' * 20 + '\n<b>'
    made = visualize.caption(clip(), [long, 'слева'])
    head = made.shape[1] - 24
    assert made.shape[2] == 32
    assert (made[:, head:] == 128).all()
    assert made[0, : head // 2].min() < 100
    assert made[0, head // 2 : head].min() < 100


def test_names_are_shortened_to_one_line():
    assert visualize.shortened('short') == 'short'
    assert visualize.shortened('two\nlines\t!') == 'two lines !'
    assert visualize.shortened('x' * 60) == 'x' * 27 + '…'
    assert visualize.shortened('ends\x1b[0m') == 'ends [0m'


def drawn(figure):
    """Pixels of a figure as `save` draws it."""
    with visualize.styled():
        file = io.BytesIO()
        figure.savefig(file, format='png')
    return np.asarray(Image.open(file).convert('RGB'))


def texts(figure):
    return [text.get_text() for text in figure.findobj(matplotlib.text.Text) if text.get_text()]


def check_nothing_is_cut_off(figure):
    """Everything that is drawn lies within the figure."""
    with visualize.styled():
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        drawn, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
    assert min(drawn.x0, drawn.y0, width - drawn.x1, height - drawn.y1) > -0.02, drawn


LONG = 'Putting something similar to other things that are already on the table {}'


@pytest.mark.parametrize(
    ('num_classes', 'name', 'none'),
    [(2, '{}', 0), (16, 'class {}', 1), (30, LONG, 0), (400, LONG, 1)],
)
def test_a_confusion_matrix_of_any_number_of_classes_fits(num_classes, name, none):
    counts = np.diag(np.full(num_classes, 5))
    counts = np.pad(counts, ((0, 0), (0, none)))
    counts[0, 1] = 3
    names = [name.format(i) for i in range(num_classes)]
    figure = visualize.confusion_matrix(counts, names, title='<b>$x_1$</b>')
    check_nothing_is_cut_off(figure)
    shown = texts(figure)
    assert '<b>$x_1$</b>' in shown
    if num_classes <= 16:
        assert shown.count('5') >= num_classes
        assert shown.count('3') >= 1
    if num_classes == 400:
        assert any(text.startswith('0 Putting') and '→ 1 Putting' in text for text in shown)
    elif num_classes <= 40:
        assert sum(visualize.shortened(each) in shown for each in names) == num_classes
    assert ('(none)' in shown) == (none and num_classes <= 40)


def test_markup_in_names_is_text():
    """A name of matplotlib's markup, and a wrong one, which would not even be drawn."""
    figure = visualize.confusion_matrix(np.eye(2, dtype=int), ['$\\frac{$', '$x^2$'])
    assert drawn(figure).min() < 100


def test_an_accuracy_chart_names_every_series_and_model():
    series = {
        'LookupViT': [(3.0, 80.0, '5x5'), (1.0, 70.0, '3x3')],
        'a very long name of a model ' * 3: [(100.0, 81.0, '')],
    }
    figure = visualize.accuracy_against_cost(series, title='one')
    check_nothing_is_cut_off(figure)
    assert {'5x5', '3x3', 'LookupViT', 'one', 'top-1 (%)'} <= set(texts(figure))
    assert figure.axes[0].get_xscale() == 'log'
    assert {'1', '10', '100'} <= set(texts(figure))
    assert not any('$' in text for text in texts(figure))
    (line,) = (each for each in figure.axes[0].lines if each.get_label() == 'LookupViT')
    assert line.get_xdata().tolist() == [1, 3]
    markers = {each.get_marker() for each in figure.axes[0].lines}
    assert len(markers) == 2

    near = visualize.accuracy_against_cost({'a': [(1.0, 99.9, ''), (2.0, 99.8, '')]})
    low, high = near.axes[0].get_ylim()
    assert high - low > 9


def test_strips_are_named_and_saved_whole(tmp_path):
    figure = visualize.strips({'the clip': clip(), 'rollout ' + 'x' * 90: clip()}, title='y' * 200)
    check_nothing_is_cut_off(figure)
    visualize.save(figure, tmp_path / 'strips.png')
    visualize.save(figure, tmp_path / 'strips.svg')
    assert Image.open(tmp_path / 'strips.png').width > 900
    svg = (tmp_path / 'strips.svg').read_text()
    assert '>the clip</text>' in svg
    visualize.save(figure, tmp_path / 'again.svg')
    assert (tmp_path / 'again.svg').read_text() == svg
    assert len(list(tmp_path.iterdir())) == 3


def test_the_style_stays_where_it_is_used():
    before = dict(matplotlib.rcParams)
    visualize.confusion_matrix(np.eye(2, dtype=int), 'ab')
    assert dict(matplotlib.rcParams) == before
