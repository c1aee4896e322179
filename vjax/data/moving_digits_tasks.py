"""What moving digits do: the sets' motions, labels and paths of states; nothing here draws a picture.

A digit has a state (x, y, angle, log size) on a torus: it leaves on one side and enters on the other,
and one that has grown to the largest size goes on from the smallest.
"""

import dataclasses
import itertools
import math

import numpy as np
from jaxtyping import Float

SIZE = 48  # Pixels, the period of x and y.
NUM_FRAMES = 20
SMALLEST, LARGEST = 16.0, 32.0  # Pixels that a digit's 8 x 8 image is drawn to; the log's period.
PERIODS = np.array([SIZE, SIZE, 2 * math.pi, math.log(LARGEST / SMALLEST)])

# The steady motions: sign of the change of (x, y, angle, log size); y points down.
_MOTIONS = {
    'left': (-1, 0, 0, 0),
    'right': (1, 0, 0, 0),
    'up': (0, -1, 0, 0),
    'down': (0, 1, 0, 0),
    'rotate_cw': (0, 0, 1, 0),
    'rotate_ccw': (0, 0, -1, 0),
    'grow': (0, 0, 0, 1),
    'shrink': (0, 0, 0, -1),
}
_REVERSED = {'left': 'right', 'up': 'down', 'grow': 'shrink', 'cw': 'ccw'}
_REVERSED |= {after: before for before, after in _REVERSED.items()}
_COMPASS = ('left', 'right', 'up', 'down')

# Change per frame: pixels, pixels, radians, log size. Slowest and fastest.
_SPEEDS = np.array([(0.9, 1.8), (0.9, 1.8), (0.12, 0.2), (0.022, 0.036)])
_ORBIT_RADIUS = (7.0, 12.0)  # Pixels.
_ORBIT_SPEED = (0.18, 0.3)  # Radians per frame.


@dataclasses.dataclass(frozen=True)
class Task:
    """What is to be told of a video.

    Attributes:
        motions: those that a digit may have.
        columns: of the annotations after the path: `label`, the motion; `labels`, the motions of all
            digits, joined by |; `digit`, which digit it is; `motion`, how it moves.
        num_digits: digits that move at once, no two of them alike.
        num_numerals: how many of 0, 1, 2, ... there are among them.
        tilt: largest angle from upright, radians; less than pi makes the angle no longer uniform.
        scale: of a digit's size, from `SMALLEST` to `LARGEST` where it is 1.
    """

    motions: tuple[str, ...]
    columns: tuple[str, ...] = ('label',)
    num_digits: int = 1
    num_numerals: int = 10
    tilt: float = math.pi
    scale: float = 1.0

    @property
    def choices(self) -> tuple[tuple[str, ...], ...]:
        """The motions that a video's digits can have, the hindmost digit's first; all equally often."""
        return tuple(itertools.permutations(self.motions, self.num_digits))


_MOTION6 = (*_COMPASS, 'grow', 'shrink')
TASKS = {
    'motion6': Task(_MOTION6),
    'curl': Task(('rotate_cw', 'rotate_ccw', 'orbit_cw', 'orbit_ccw')),
    'order12': Task(tuple(f'{a}_then_{b}' for a in _COMPASS for b in _COMPASS if a != b)),
    'two_motions': Task(_MOTION6, ('labels',), num_digits=2, scale=0.75),
    'digit_and_motion': Task(_MOTION6, ('digit', 'motion'), num_numerals=5, tilt=0.2, scale=1.3),
}
SETS = {name: task.motions for name, task in TASKS.items()}


def reversed_class(motion_set: str, name: str) -> str:
    """The motion that a digit of motion `name` shows when its clip is played backwards."""
    if name not in SETS[motion_set]:
        raise ValueError(f'{name!r} is no class of {motion_set}')
    if '_then_' in name:
        first, second = name.split('_then_')
        return f'{_REVERSED[second]}_then_{_REVERSED[first]}'
    kind, _, sense = name.rpartition('_')
    return f'{kind}_{_REVERSED[sense]}' if kind else _REVERSED[name]


def draw_states(rng: np.random.Generator, motion: str) -> Float[np.ndarray, 'time 4']:
    """The path of a digit that moves so. What is drawn, and how, is the same for all motions.

    Returns:
        x, y (pixels), angle (radians, clockwise) and log size above the smallest, per frame; in every
        frame uniform on the torus of `PERIODS`, whatever the motion.
    """
    start = rng.uniform(0, PERIODS)
    speeds = rng.uniform(_SPEEDS[:, 0], _SPEEDS[:, 1])
    # The first step of the second motion, if there is one: either motion has 8 to 11 of the 19 steps.
    change = rng.integers(9, NUM_FRAMES - 7)
    radius, turn_speed = rng.uniform(*_ORBIT_RADIUS), rng.uniform(*_ORBIT_SPEED)
    phase = rng.uniform(0, 2 * math.pi)
    if motion.startswith('orbit'):
        # The centre is uniform and independent of the phase, so the place is uniform as well.
        sense = 1 if motion == 'orbit_cw' else -1
        phases = phase + sense * turn_speed * np.arange(NUM_FRAMES)
        states = np.repeat(start[None], NUM_FRAMES, axis=0)
        states[:, 0] += radius * np.cos(phases)
        states[:, 1] += radius * np.sin(phases)
    else:
        first, _, second = motion.partition('_then_')
        steps = np.empty((NUM_FRAMES, 4))
        steps[:] = speeds * _MOTIONS[first]
        if second:
            steps[change:] = speeds * _MOTIONS[second]
        steps[0] = 0
        states = start + np.cumsum(steps, axis=0)
    return states % PERIODS
