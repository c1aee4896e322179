"""What was measured, as pictures."""

from typing import Any

from matplotlib.figure import Figure

from experiments.throughput.contenders import NAMES, UNROLLED
from vjax import visualize
from vjax.colours import BLUE, GREEN, ORANGE, SKY, VERMILLION

COLOURS = dict(zip((*NAMES, UNROLLED), (BLUE, ORANGE, GREEN, VERMILLION, SKY), strict=True))


@visualize.styled()
def steps(results: dict[str, Any]) -> Figure:
    """Seconds of a training step: bars below each other for a model, with their ratio to vjax's."""
    ticks, top, drawn = {}, 0.0, set()
    figure = Figure()
    axes = figure.subplots()
    for model, work in results['works'].items():
        rows = {name: row for name, row in work['contenders'].items() if 'step' in row}
        ticks[model] = top + (len(rows) - 1) / 2
        for name, row in rows.items():
            label = None if name in drawn else name
            axes.barh(top, row['step'], 0.9, color=COLOURS[name], label=label)
            text = f' {row["step"]:.3g} s'
            if name != 'vjax' and 'vjax' in rows:
                text += f', {row["step"] / rows["vjax"]["step"]:.2f} x'
            axes.text(row['step'], top, text, va='center', fontsize=7)
            drawn.add(name)
            top += 1
        top += 0.6  # To the next model.
    figure.set_size_inches(6.4, 0.8 + 0.22 * top)
    axes.set_yticks(list(ticks.values()), list(ticks))
    axes.set_ylim(top - 1, -1)
    axes.set_xlabel('seconds of a training step')
    axes.set_xlim(0, 1.15 * axes.dataLim.xmax)
    axes.legend(loc='lower right')
    return figure
