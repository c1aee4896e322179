"""What the throughput experiment compares is the same, and it says so where it is not."""

import jax
import numpy as np
import pytest

from experiments.apart import apart
from experiments.throughput import contenders, flags, limit, microbatches, plots, run, tables
from experiments.throughput.work import Work, groups
from vjax.errors import UserError
from vjax.models import fields

SIZES = {'width': 16, 'depth': 2, 'num_heads': 2, 'mlp_dim': 32, 'num_classes': 5}
SPACETIME = Work('Model 1', dict(name='vivit', tubelet=(2, 4, 4), **SIZES), (4, 8, 8, 3), 2)
FACTORISED = Work(
    'Model 2', {**SPACETIME.model, 'attention': 'factorised_encoder'}, (4, 8, 8, 3), 2
)


@pytest.mark.slow
@pytest.mark.parametrize('work', [SPACETIME, FACTORISED], ids=lambda work: work.name)
def test_the_textbook_computes_and_learns_the_same(work):
    rows = {}
    for name in ('vjax', 'textbook'):
        rows[name] = contenders.first_calls(contenders.make(name, work), 3)
    assert np.std(rows['vjax']['logits']) > 0.01
    losses = rows['vjax']['losses']
    assert losses[2] < losses[0]
    run.compare(work, rows)
    assert 0 <= rows['textbook']['logits_error'] < 1e-4


@pytest.mark.parametrize('wrong', ['logits', 'losses'])
def test_a_contender_that_computes_something_else_is_refused(wrong):
    same = {'logits': np.array([[1.0, -1.0]]), 'losses': [2.0, 1.0]}
    rows = {'vjax': dict(same), 'other': dict(same)}
    rows['other'][wrong] = np.add(same[wrong], 0.01)
    with pytest.raises(UserError, match='other does not compute Model 1 as vjax does'):
        run.compare(SPACETIME, rows)


class Greedy:
    """A contender that finds too little memory, or another fault."""

    def __init__(self, message):
        self.message = message

    def forward(self):
        raise jax.errors.JaxRuntimeError(self.message)


def test_a_contender_that_does_not_fit_is_told_from_one_that_fails():
    assert contenders.first_calls(Greedy('RESOURCE_EXHAUSTED: 9 GiB'), 3) == 'does not fit'
    with pytest.raises(jax.errors.JaxRuntimeError, match='INTERNAL'):
        contenders.first_calls(Greedy('INTERNAL: ptxas'), 3)


def test_the_rate_is_that_of_all_products():
    products = limit.Products('float32', size=32)
    assert products.flops == 8 * 2 * 32**3
    products.seconds = iter([0.5, 1.0, 1.0, 1.0, 1.0, 1.0, 9.0]).__next__
    assert limit.rate(products) == products.flops


@pytest.mark.parametrize('size', ['small', 'full'])
def test_all_models_can_be_built_and_take_their_inputs(size):
    works = [work for group in groups(size, 'float32') for work in group]
    names = [work.name for work in works]
    assert len(set(names)) == len(names)
    for work in works:
        work.build().check(work.shape)
        fields.check_choice('base', work.base, ['', *names])


def test_ratios_are_to_vjax_and_to_the_model_that_is_made_cheaper():
    def row(seconds):
        return {'forward': seconds, 'step': 3 * seconds, 'first_step': 9.0, 'peak_bytes': 10**9}

    def work(gflops, base, **rows):
        return {
            'shape': [2, 8, 8, 3],
            'dtype': 'float32',
            'base': base,
            'gflops': gflops,
            'contenders': rows,
        }

    text = tables.measured(
        {
            'command': 'python',
            'device': 'cpu',
            'cores': 2,
            'calls': 2,
            'versions': {'jax': '1', 'torch': None},
            'matrix_rate': 1e12,
            'works': {
                'A': work(100.0, '', vjax=row(0.1), textbook=row(0.25), other={'missing': 'x'}),
                'B': work(40.0, 'A', vjax=row(0.05), textbook={'missing': 'does not fit'}),
            },
        }
    )
    lines = [[cell.strip() for cell in line.split('|')[1:-1]] for line in text.splitlines()]
    textbook, missing = (cells for cells in lines if len(cells) > 3 and cells[3] == 'textbook')
    assert textbook[4:10] == ['250.0', '750.0', '2.50', '2.50', '133', '13%']
    assert missing[4:] == ['does not fit'] + [''] * 7
    assert 'A large matrix product has 1,000 GFLOP/s.' in text
    assert ['B', 'A', '2.50', '2.00', '2.00'] in lines
    assert 'torch' not in text


def test_an_unknown_contender_is_refused():
    with pytest.raises(UserError, match='--against=tensorflow: there is no such contender'):
        run.main(['--against=textbook,tensorflow'])


def _made(value):
    return value if isinstance(value, list) else f'{value} cannot be made'


def _append(made, value):
    made.append(value)
    return made


def test_what_is_made_in_a_process_of_its_own_stays_there():
    with apart(_made, [1]) as ask:
        assert ask(_append, 2) == [1, 2]
        assert ask(_append, 3) == [1, 2, 3]
        with pytest.raises(RuntimeError, match=r'the process of _made.* ended'):
            ask(_append)
    with apart(_made, 'it') as reason:
        assert reason == 'it cannot be made'


def test_the_plot_has_a_bar_for_every_contender_that_was_measured():
    contenders = {'vjax': {'step': 2.0}, 'huggingface': {'step': 3.0}, 'textbook': {'missing': 'x'}}
    works = {'A': {'contenders': contenders}, 'B': {'contenders': {'vjax': {'step': 1.0}}}}
    (axes,) = plots.steps({'works': works}).axes
    assert [bar.get_width() for bar in axes.patches] == [2.0, 3.0, 1.0]
    assert [text.get_text().strip() for text in axes.texts] == [
        '2 s',
        '3 s, 1.50 x',
        '1 s',
    ]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ['vjax', 'huggingface']


def test_estimates_say_what_does_not_fit_and_hold_efficient_models_against_others():
    def work(gflops, base, **rows):
        return {'shape': [8, 8, 8, 3], 'base': base, 'gflops': gflops, 'contenders': rows}

    row = {'step': 0.2, 'mfu': 0.25, 'peak_bytes': 2**30}
    works = {
        'A': work(100.0, '', vjax=row, textbook={'missing': 'does not fit'}),
        'B': work(40.0, 'A', vjax={**row, 'step': 0.1}),
        'C': work(40.0, 'D', vjax=row),
    }
    lines = tables.planned({'topology': 'v5e:2x2', 'works': works}).splitlines()
    assert '| A | 8x8x8x3 | vjax | 200.0 | 1.00 | 25.0% | 1.00 |' in lines
    assert '| A | 8x8x8x3 | textbook | does not fit |  |  |  |' in lines
    assert lines[-1] == '| B | A | 2.50 | 2.00 |'

    unrolled = {contenders.UNROLLED: {**row, 'step': 0.04}}
    for name in 'AB':
        works[name]['contenders'] |= unrolled
    *_, last = tables.planned({'topology': 'v5e:2x2', 'works': works}).splitlines()
    assert last == '| B | A | 2.50 | 1.00 |'


def test_a_step_may_not_fit_with_a_flag_or_without():
    missing, slow, fast = {'missing': 'does not fit'}, {'step': 0.1}, {'step': 0.05}
    assert flags.cell(slow) == '100.0'
    assert flags.cell(fast, slow) == '50.0 (2.00)'
    assert flags.cell(fast, missing) == '50.0'
    assert flags.cell(missing, slow) == flags.cell(missing) == 'does not fit'


def test_a_batch_that_does_not_fit_as_a_whole_may_in_microbatches():
    def plan(accumulate, fits, seconds):
        rate = {'step_seconds': seconds, 'clips_per_second': 8 / seconds if fits else None}
        memory = {'fits': fits, 'peak': 2**34 // accumulate}
        return {'batch_size': 8, 'accumulate': accumulate, 'memory': memory, 'mfu': 0.3, **rate}

    too_large, whole, halves = plan(1, False, None), plan(1, True, 0.2), plan(2, True, 0.1)
    assert microbatches.row('B', too_large, too_large) == (
        '| B | 8 | 1 | does not fit |  |  | 16.00 |  |'
    )
    assert (
        microbatches.row('B', halves, too_large) == '| B | 8 | 2 | 100.0 | 80 | 30.0% | 8.00 |  |'
    )
    assert (
        microbatches.row('B', halves, whole) == '| B | 8 | 2 | 100.0 | 80 | 30.0% | 8.00 | 2.00 |'
    )
