"""A film of moving digits of any length, whose segments are known, written as it is rendered."""

import dataclasses
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
from jaxtyping import Float, UInt8

from vjax.data import moving_digits, records
from vjax.data.moving_digits_tasks import NUM_FRAMES, PERIODS, SETS, SIZE, draw_states

SECONDS = (5.0, 30.0)  # The shortest and the longest segment.
SPLIT = 'test'  # Digits and photographs that no model was trained on.


def write_film(path: Path, truth: Path, seconds: float, seed: int = 0) -> None:
    """Renders a film, and the list of its segments as JSON; keeps what is there already.

    Each segment shows one motion of `motion6`, never that of the one before it, for a random time. Every
    other one begins with a cut to another digit over another picture; in the others the digit that is
    there goes on from where it is, in another way.

    Args:
        path: of an mp4 file.
        truth: of the list, `{'label': ..., 'start': ..., 'end': ...}` in seconds.
        seconds: length of the film, to the next whole frame.
        seed: of everything that is drawn.
    """
    if path.exists() and truth.exists():
        return
    rng = np.random.default_rng(seed)
    temporary = path.with_name(f'.{path.name}.{os.getpid()}.tmp')
    segments, done, total = [], 0, round(seconds * moving_digits.FPS)
    scene, motion, state, shown = None, '', None, 0  # `shown`: frames since the cut.
    with av.open(os.fspath(temporary), 'w', format='mp4') as container:
        stream = container.add_stream('libx264', rate=moving_digits.FPS)
        stream.height = stream.width = SIZE
        stream.pix_fmt = 'yuv420p'
        stream.options = {'crf': '23', 'preset': 'veryfast', 'mbtree': '0'}
        while done < total:
            motion = str(rng.choice([name for name in SETS['motion6'] if name != motion]))
            if len(segments) % 2 == 0:
                state, shown = None, 0
                index = SETS['motion6'].index(motion) + len(SETS['motion6']) * int(
                    rng.integers(400)
                )
                scene = moving_digits.draw_scene('motion6', 0, SPLIT, index)
            left, shortest = total - done, round(SECONDS[0] * moving_digits.FPS)
            length = round(rng.uniform(*SECONDS) * moving_digits.FPS)
            length = left if left - length < shortest else length
            states = path_of(motion, length, state, rng)
            state = states[-1]
            for frame in shots(scene, motion, states, shown):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format='rgb24')))
            times = (done / moving_digits.FPS, (done + length) / moving_digits.FPS)
            segments.append({'label': motion, 'start': times[0], 'end': times[1]})
            done, shown = done + length, shown + length
        container.mux(stream.encode())
    os.replace(temporary, path)
    records.write_atomically(truth, json.dumps(segments, indent=1) + '\n')


def path_of(
    motion: str, length: int, before: Float[np.ndarray, '4'] | None, rng: np.random.Generator
) -> Float[np.ndarray, 'time 4']:
    """The states of a digit that moves so for `length` frames, after the state `before` if there is one."""
    drawn = draw_states(rng, motion)
    step = steady_step(drawn, PERIODS)
    first = drawn[0] if before is None else before + step
    return (first + np.arange(length)[:, None] * step) % PERIODS


def steady_step(path: Float[np.ndarray, 'time n'], periods: Any) -> Float[np.ndarray, 'n']:
    """The change per frame of a steady path on a torus, the short way round."""
    return (path[1] - path[0] + np.divide(periods, 2)) % periods - np.divide(periods, 2)


def shots(
    scene: moving_digits.Scene, motion: str, states: Float[np.ndarray, 'time 4'], shown: int
) -> Iterator[UInt8[np.ndarray, 'height width 3']]:
    """The next frames of a scene of which some have been `shown`, one for each state of its digit.

    The camera drifts on and turns back where the picture ends; that tells nothing of the motion.
    """
    (digit,) = scene.digits
    far = 0.6 * (NUM_FRAMES - 1)  # As far as the fastest camera goes in a video of the data set.
    drift = scene.camera[1] - scene.camera[0]
    float_by = 0 if scene.disc is None else steady_step(scene.disc, SIZE)
    for first in range(0, len(states), NUM_FRAMES):
        chunk = states[np.minimum(first + np.arange(NUM_FRAMES), len(states) - 1)]
        times = shown + first + np.arange(NUM_FRAMES)[:, None]
        camera = far - np.abs((scene.camera[0] + times * drift) % (2 * far) - far)
        disc = None if scene.disc is None else (scene.disc[0] + times * float_by) % SIZE
        moved = dataclasses.replace(digit, motion=motion, states=chunk)
        now = dataclasses.replace(scene, digits=(moved,), camera=camera, disc=disc)
        yield from moving_digits.render_scene(now)[: len(states) - first]
