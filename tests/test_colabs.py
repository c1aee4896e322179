"""The notebooks of colabs/: the script that people review and the notebook that they open are one."""

import re
from pathlib import Path

import jupytext
import nbformat
import pytest

COLABS = Path(__file__).parents[1] / 'colabs'
NAMES = ('architectures', 'plan_a_pod', 'quickstart', 'what_it_looks_at', 'your_own_videos')
MAX_BYTES = 1_500_000
# What would fetch something: addresses, shell and package commands, and the libraries that load them.
FETCHES = re.compile(
    r'https?://|^\s*[!%]|urllib|requests|socket|huggingface_hub|tfds\.', re.MULTILINE
)
# A path from the root of a machine, but for those of addresses.
MACHINE_PATH = re.compile(
    r'(?<![\w.:/])/(home|root|tmp|work|workspace|content|Users|var|opt|usr|mnt)/'
)


@pytest.fixture(params=NAMES)
def name(request):
    return request.param


@pytest.fixture
def notebook(name):
    return nbformat.read(COLABS / f'{name}.ipynb', as_version=4)


def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == 'code']


def texts(output):
    """What an output shows as text; pictures and films are not."""
    found = [output.get('text', ''), *output.get('data', {}).values()]
    return [re.sub(r'base64,[A-Za-z0-9+/=]+', '', text) for text in found if isinstance(text, str)]


def test_all_notebooks_are_here():
    assert sorted(path.stem for path in COLABS.glob('*.ipynb')) == list(NAMES)
    assert sorted(path.stem for path in COLABS.glob('*.py')) == list(NAMES)


def test_the_notebook_has_the_cells_of_its_script(name, notebook):
    script = jupytext.read(COLABS / f'{name}.py')
    assert [(cell.cell_type, cell.source) for cell in notebook.cells] == [
        (cell.cell_type, cell.source) for cell in script.cells
    ]
    assert script.metadata.jupytext.formats == 'ipynb,py:percent'


def test_the_first_cell_has_the_badge_of_this_notebook(name, notebook):
    first = notebook.cells[0].source
    badge = f'colab.research.google.com/github/vjax/vjax/blob/main/colabs/{name}.ipynb'
    assert first.startswith('# ')
    assert f'](https://{badge})' in first
    assert first.count('colab.research.google.com/github') == 1


def test_the_first_code_installs_and_no_other_fetches_anything(notebook):
    install, *others = code(notebook)
    expected, *_ = code(nbformat.read(COLABS / 'quickstart.ipynb', as_version=4))
    assert notebook.cells[1] is install
    assert install.source == expected.source
    assert 'https://github.com/vjax/vjax' in install.source
    for cell in others:
        assert not FETCHES.search(cell.source), cell.source


def test_links_lead_to_files_of_the_repository(notebook):
    for cell in notebook.cells:
        if cell.cell_type == 'markdown':
            for link in re.findall(r'\]\((?!https?://)([^)]+)\)', cell.source):
                assert (COLABS / link).exists(), link


def test_configs_that_are_named_are_there(notebook):
    for cell in notebook.cells:
        for path in re.findall(r'configs/(\w+/\w+\.py)', cell.source):
            assert (COLABS.parent / 'configs' / path).is_file(), path


def test_it_was_run_from_top_to_bottom_without_an_error(notebook):
    cells = [cell for cell in code(notebook) if cell.source]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    for cell in cells:
        for output in cell.outputs:
            assert output.output_type != 'error', output.get('evalue')
            assert output.get('name') != 'stderr', output.get('text')
        # How a cell's prints arrived is chance: they are one output.
        assert sum(output.output_type == 'stream' for output in cell.outputs) <= 1


def test_outputs_are_small_and_tell_nothing_of_the_machine(name, notebook):
    assert (COLABS / f'{name}.ipynb').stat().st_size < MAX_BYTES
    for cell in code(notebook):
        assert 'execution' not in cell.metadata  # When it was run.
        for output in cell.outputs:
            for text in texts(output):
                assert not MACHINE_PATH.search(text), text[:2000]


@pytest.mark.parametrize('text', ['/mnt/a', 'in /home/me/b', "'/Users/me'", '(/var/lib)'])
def test_paths_of_machines_are_known(text):
    assert MACHINE_PATH.search(text)


@pytest.mark.parametrize('text', ['videos/home/a', 'https://host/home/a', 'a/b', '../mnt/x'])
def test_other_paths_are_none(text):
    assert not MACHINE_PATH.search(text)


@pytest.mark.parametrize(
    'source', ['!ls', '  %pip install x', "open('https://a')", 'import urllib']
)
def test_what_fetches_is_known(source):
    assert FETCHES.search(source)
