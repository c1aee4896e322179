"""The experiment that does things to a training, on a small scale."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from experiments.faults import run

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which('unshare'), reason='needs unshare, of Linux')
def test_a_training_survives_faults(tmp_path):
    environment = {name: x for name, x in os.environ.items() if name != 'XLA_FLAGS'}
    subprocess.run(
        [
            *(sys.executable, '-m', 'experiments.faults.run', '--faults=3', '--seed=1'),
            *(f'--out={tmp_path / "out"}', f'--results={tmp_path}'),
        ],
        cwd=ROOT,
        env=environment,
        check=True,
        timeout=1200,
    )
    results = json.loads((tmp_path / 'results.json').read_text())
    (training,) = results['trainings']
    assert len(training['faults']) == 3
    assert training['equal']
    assert training['largest_difference_of_parameters'] == 0
    assert '| one process | 1 | 1 |' in (tmp_path / 'table.md').read_text()
    assert not list((tmp_path / 'out' / 'disk').iterdir())  # The disk went with its processes.


def test_runs_that_differ_are_not_equal(tmp_path, monkeypatch):
    losses = {'one': (3.0, 2.0), 'other': (3.0, 2.5)}
    for name, each in losses.items():
        (tmp_path / name).mkdir()
        lines = [
            json.dumps({'step': i, 'train/loss': loss}) + '\n' for i, loss in enumerate(each, 1)
        ]
        (tmp_path / name / 'metrics.jsonl').write_text(''.join(lines) + '{"step": 3, "tra')

    trained = SimpleNamespace(params={'kernel': np.ones(3)})
    monkeypatch.setattr(run.runs, 'load_run', lambda _: trained)
    found = run.compare(tmp_path / 'one', tmp_path / 'other')
    assert found == {
        'equal': False,
        'largest_difference_of_parameters': 0.0,
        'largest_difference_of_losses': 0.5,
    }
    assert run.compare(tmp_path / 'one', tmp_path / 'one')['equal']
