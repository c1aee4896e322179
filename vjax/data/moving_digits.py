"""The embedded data set: handwritten digits that move over photographs, where only motion tells.

    python -m vjax.data.moving_digits --out=runs/demo/videos

Renders H.264 mp4 files (48 x 48 pixels, 20 frames, 12 frames per second) to OUT/videos/SPLIT/*.mp4 and
writes OUT/SPLIT.csv with their paths and labels, ready for vjax.prepare --videos=OUT.

The class is the motion of the digit alone. A digit has a state (x, y, angle, log size) on a torus (it
leaves on one side and enters on the other; a digit that has grown to the largest size goes on from the
smallest). The state is uniform on the torus in the first frame, and the class only says how it moves.
A uniform variable plus anything independent of it is uniform on a torus, so in every single frame the
state has the same distribution whatever the class: one frame tells nothing, by construction. Digit,
colours, background, speed, noise and distractors are drawn without a look at the class, and digits and
distractors cycle so that every class gets equally many. The background drifts as if the camera moved, in
a direction of its own, so that global motion tells nothing either. A clip played backwards is a clip of
`moving_digits_tasks.reversed_class`.

Sets, from easy to hard:
    motion6  left, right, up, down, grow, shrink
    curl     rotate_cw, rotate_ccw, orbit_cw, orbit_ccw: the sense of a turn, seen over several frames
    order12  right_then_up, ...: two different motions of four, in one order or the other
and for videos of several labels, with the motions of motion6:
    two_motions       two digits move at once, one partly behind the other at times, in two different
                      ways: two labels, multi-label. Their states are independent of each other and
                      uniform, so that one frame tells nothing here either. Without distractors.
    digit_and_motion  which digit it is, 0 to 4, and how it moves: two heads. The digit is larger and
                      nearly upright; one frame tells which it is, but nothing of its motion.

Train, validation and test share no image of a digit and no region of a photograph. A video is a function
of (set, seed, split, index) alone, and any one can be rendered by itself (`render`); the bytes of the mp4
files are the same for any number of workers, but another version of the encoder may write others.

Sources: the digits are scikit-learn's `load_digits`, the test part of "Optical Recognition of
Handwritten Digits" (E. Alpaydin, C. Kaynak, UCI Machine Learning Repository, CC BY 4.0); the
photographs are scikit-learn's sample images, CC BY 2.0: china.jpg by danielbuechele
(flickr.com/photos/danielbuechele/6061409035) and flower.jpg by vultilion
(flickr.com/photos/vultilion/6056698931; scikit-learn's note names danielbuechele here too), shown
cropped, reduced, dimmed and mirrored.
"""

import csv
import dataclasses
import functools
import hashlib
import io
import json
import math
import multiprocessing
import multiprocessing.connection
import os
import pathlib

import av
import numpy as np
import tqdm
from jaxtyping import Float, UInt8

from vjax import cli
from vjax.data import records
from vjax.data.annotations.labels_csv import SEPARATOR
from vjax.data.moving_digits_tasks import (
    NUM_FRAMES,
    SETS,
    SIZE,
    SMALLEST,
    TASKS,
    Task,
    draw_states,
)
from vjax.errors import UserError

FPS = 12
NUM_VIDEOS = {'train': 2400, 'validation': 240, 'test': 480}
_VERSION = 1  # Of the pictures: changed with anything that changes them.

_CAMERA_SPEED = 0.6  # Pixels per frame at most.

# Of each photograph, the columns of each split, as fractions of its width; a strip between is nobody's.
_COLUMNS = {'train': (0.0, 0.54), 'validation': (0.55, 0.76), 'test': (0.77, 1.0)}
_WINDOW = SIZE + math.ceil(_CAMERA_SPEED * (NUM_FRAMES - 1)) + 2


@dataclasses.dataclass(frozen=True)
class Digit:
    """One of the digits that a video shows.

    Attributes:
        motion: name of how it moves.
        image: index into scikit-learn's digits.
        states: x, y (pixels), angle (radians, clockwise), log size above `SMALLEST`, per frame.
        colour: red, green, blue in [0, 1].
    """

    motion: str
    image: int
    states: Float[np.ndarray, 'time 4']
    colour: Float[np.ndarray, '3']

    @property
    def numeral(self) -> int:
        """Which digit it is, 0 to 9."""
        return int(_digits()[1][self.image])


@dataclasses.dataclass(frozen=True)
class Scene:
    """Everything that a video shows, drawn from (set, seed, split, index).

    Attributes:
        digits: the hindmost first.
        photograph: 0 china, 1 flower.
        reduction: the photograph is reduced this many times.
        corner: y, x of the window in the reduced photograph.
        mirrored: the window is mirrored left to right.
        camera: y, x in the window per frame, in pixels.
        light: factor on the background.
        noise: standard deviation in [0, 1].
        disc: y, x per frame of the distractor, a striped disc, or None.
        disc_radius: pixels.
        seed: for the noise and the stripes.
    """

    digits: tuple[Digit, ...]
    photograph: int
    reduction: int
    corner: tuple[int, int]
    mirrored: bool
    camera: Float[np.ndarray, 'time 2']
    light: float
    noise: float
    disc: Float[np.ndarray, 'time 2'] | None
    disc_radius: float
    seed: int


def digits_of(split: str) -> np.ndarray:
    """Indices into scikit-learn's digits of those that a split may show."""
    index = np.arange(len(_digits()[1]))
    is_test, is_validation = index % 5 == 4, index % 10 == 3
    chosen = {'test': is_test, 'validation': is_validation, 'train': ~is_test & ~is_validation}
    return index[chosen[split]]


def draw_scene(motion_set: str, seed: int, split: str, index: int) -> Scene:
    """Draws what video `index` of a split shows; the choices of motions take turns over `index`."""
    task = TASKS[motion_set]
    # Videos of one turn have the same digit (0-9, not its image) and the same number of distractors.
    turn, number = divmod(index, len(task.choices))
    motion, *others = task.choices[number]
    key = [seed, list(NUM_VIDEOS).index(split), index]
    rng = np.random.default_rng(key)
    states = draw_states(rng, motion)
    photograph, reduction = int(rng.integers(2)), int(rng.integers(1, 3))
    left, top, right, bottom = region(split, photograph, reduction)
    corner = (
        int(rng.integers(top, bottom - _WINDOW + 1)),
        int(rng.integers(left, right - _WINDOW + 1)),
    )
    mirrored = bool(rng.integers(2))
    speed, direction = rng.uniform(0, _CAMERA_SPEED), rng.uniform(0, 2 * math.pi)
    camera = np.arange(NUM_FRAMES)[:, None] * speed * _unit(direction)
    camera -= np.minimum(camera.min(axis=0), 0)
    colour = _draw_colour(rng)
    disc_start, disc_direction = rng.uniform(0, SIZE, 2), rng.uniform(0, 2 * math.pi)
    disc = disc_start + np.arange(NUM_FRAMES)[:, None] * rng.uniform(0, 1.0) * _unit(disc_direction)
    digits = [
        Digit(motion, int(rng.choice(_images_of(split, turn % task.num_numerals))), states, colour)
    ]
    for place, other in enumerate(others, 1):
        own = np.random.default_rng([*key, place])
        states, colour = draw_states(own, other), _draw_colour(own)
        image = int(own.choice(_images_of(split, int(own.integers(task.num_numerals)))))
        digits.append(Digit(other, image, states, colour))
    return Scene(
        digits=tuple(_of_task(digit, task) for digit in digits),
        photograph=photograph,
        reduction=reduction,
        corner=corner,
        mirrored=mirrored,
        camera=camera,
        light=rng.uniform(0.2, 0.42),
        noise=rng.uniform(0.0, 0.02),
        disc=disc % SIZE if not others and turn // 10 % 4 == 0 else None,
        disc_radius=rng.uniform(2.5, 4.0),
        seed=int(rng.integers(2**32)),
    )


def _draw_colour(rng: np.random.Generator) -> Float[np.ndarray, '3']:
    colour = rng.uniform(0.0, 1.0, 3)
    return 0.25 + 0.75 * colour / colour.max()


@functools.cache
def _images_of(split: str, numeral: int) -> np.ndarray:
    candidates = digits_of(split)
    return candidates[_digits()[1][candidates] == numeral]


def _of_task(digit: Digit, task: Task) -> Digit:
    """The digit as upright and as large as its task wants it."""
    angle, log_size = digit.states[:, 2], digit.states[:, 3]
    if task.tilt < math.pi:
        angle = (angle / math.pi - 1) * task.tilt
    states = np.stack([*digit.states.T[:2], angle, log_size + math.log(task.scale)], axis=-1)
    return dataclasses.replace(digit, states=states)


def labels(motion_set: str, scene: Scene) -> tuple[str, ...]:
    """What the annotations say of a scene: a value for each of the task's columns."""
    motions = sorted(digit.motion for digit in scene.digits)
    values = {'label': motions[0], 'motion': motions[0], 'labels': SEPARATOR.join(motions)}
    values['digit'] = str(scene.digits[0].numeral)
    return tuple(values[column] for column in TASKS[motion_set].columns)


def _unit(direction: float) -> np.ndarray:
    return np.array([math.sin(direction), math.cos(direction)])


def region(split: str, photograph: int, reduction: int) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) of a split's part of a reduced photograph, in its pixels."""
    height, width = _photograph(photograph, reduction).shape[:2]
    first, last = _COLUMNS[split]
    return math.ceil(first * width), 0, math.floor(last * width), height


@functools.cache
def _digits() -> tuple[np.ndarray, np.ndarray]:
    """(images float32 [1797, 8, 8] in [0, 1], which digit each is [1797])."""
    from sklearn import datasets  # Takes a second, which --help does not have.

    digits = datasets.load_digits()
    return (digits.images / 16).astype(np.float32), digits.target


@functools.cache
def _photograph(number: int, reduction: int) -> Float[np.ndarray, 'height width 3']:
    from sklearn import datasets

    image = datasets.load_sample_image(('china.jpg', 'flower.jpg')[number])
    height, width = (side // reduction * reduction for side in image.shape[:2])
    image = image[:height, :width].astype(np.float32) / 255
    shape = height // reduction, reduction, width // reduction, reduction, 3
    return image.reshape(shape).mean(axis=(1, 3))


@functools.cache
def _sprite(image: int) -> Float[np.ndarray, 'side side']:
    """A digit drawn four times as large, smooth, with an empty rim that sampling can fall into."""
    from scipy import ndimage

    padded = np.pad(_digits()[0][image], 2)
    sprite = ndimage.zoom(padded, 4, order=3, grid_mode=True, mode='grid-constant')
    return np.clip(sprite * 1.3, 0, 1)


def render(
    motion_set: str, seed: int, split: str, index: int
) -> tuple[UInt8[np.ndarray, 'time height width 3'], tuple[str, ...]]:
    """The frames of video `index` of a split, and its `labels`."""
    scene = draw_scene(motion_set, seed, split, index)
    return render_scene(scene), labels(motion_set, scene)


def render_scene(scene: Scene) -> UInt8[np.ndarray, 'time height width 3']:
    """The frames of a scene."""
    frames = _background(scene)
    rng = np.random.default_rng(scene.seed)
    if scene.disc is not None:
        _paint(frames, *_disc(scene, rng))
    for digit in scene.digits:
        _paint(frames, opacity(digit), digit.colour.astype(np.float32))
    if scene.noise:
        frames += scene.noise * rng.standard_normal(frames.shape, np.float32)
    return (np.clip(frames, 0, 1) * 255 + 0.5).astype(np.uint8)


def _paint(frames: np.ndarray, alpha: np.ndarray, colour: np.ndarray) -> None:
    """Blends `colour` over the frames by `alpha` [time, height, width]."""
    frames += alpha[..., None] * (colour - frames)


def _background(scene: Scene) -> Float[np.ndarray, 'time height width 3']:
    top, left = scene.corner
    window = _photograph(scene.photograph, scene.reduction)
    window = window[top : top + _WINDOW, left : left + _WINDOW]
    if scene.mirrored:
        window = window[:, ::-1]
    whole = np.floor(scene.camera).astype(int)
    part = (scene.camera - whole).astype(np.float32)
    frames = np.empty((NUM_FRAMES, SIZE, SIZE, 3), np.float32)
    for frame, (y, x), (b, a) in zip(frames, whole, part, strict=True):
        view = window[y : y + SIZE + 1, x : x + SIZE + 1]
        rows = view[:-1] * (1 - b) + view[1:] * b
        frame[:] = rows[:, :-1] * (1 - a) + rows[:, 1:] * a
    return frames * np.float32(scene.light)


def _offsets(centres: Float[np.ndarray, 'time']) -> Float[np.ndarray, 'time size']:
    """From each centre to each pixel's middle, the short way round the torus."""
    pixels = np.arange(SIZE) + 0.5
    return ((pixels[None] - centres[:, None] + SIZE / 2) % SIZE - SIZE / 2).astype(np.float32)


def opacity(digit: Digit) -> Float[np.ndarray, 'time height width']:
    """Where a digit is: its sprite turned, sized and placed, sampled bilinearly."""
    x, y, angle, log_size = digit.states.T
    sprite = _sprite(digit.image)
    side = len(sprite)
    # Sprite pixels per picture pixel: the 8 x 8 image is 32 sprite pixels wide.
    scale = (32 / (SMALLEST * np.exp(log_size))).astype(np.float32)
    cos, sin = (f(angle).astype(np.float32) * scale for f in (np.cos, np.sin))
    dx, dy = _offsets(x)[:, None, :], _offsets(y)[:, :, None]
    u = cos[:, None, None] * dx + sin[:, None, None] * dy + np.float32((side - 1) / 2)
    v = cos[:, None, None] * dy - sin[:, None, None] * dx + np.float32((side - 1) / 2)
    # What falls outside lands on the rim, which is empty.
    u, v = (np.clip(c, 0, side - 1.001) for c in (u, v))
    left, top = u.astype(np.int32), v.astype(np.int32)
    a, b = u - left, v - top
    flat, corner = sprite.ravel(), top * side + left
    upper = flat[corner] * (1 - a) + flat[corner + 1] * a
    lower = flat[corner + side] * (1 - a) + flat[corner + side + 1] * a
    return upper * (1 - b) + lower * b


def _disc(scene: Scene, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Opacity [time, height, width] and colour [time, height, width, 3] of the distractor."""
    dx, dy = _offsets(scene.disc[:, 1])[:, None, :], _offsets(scene.disc[:, 0])[:, :, None]
    alpha = np.clip(scene.disc_radius + 0.5 - np.sqrt(dx**2 + dy**2), 0, 1)
    direction = rng.uniform(0, 2 * math.pi)
    stripes = np.sin((dx * math.cos(direction) + dy * math.sin(direction)) * 1.5)
    colours = rng.uniform(0.1, 0.6, (2, 3)).astype(np.float32)
    mix = (stripes[..., None] + 1) / 2
    return alpha.astype(np.float32), (colours[0] + mix * (colours[1] - colours[0])).astype(
        np.float32
    )


# --- Files. ---


def generate(
    out: str | os.PathLike,
    motion_set: str = 'motion6',
    *,
    num_train: int = NUM_VIDEOS['train'],
    num_validation: int = NUM_VIDEOS['validation'],
    num_test: int = NUM_VIDEOS['test'],
    seed: int = 0,
    workers: int | None = None,
) -> None:
    """Renders a set to mp4 files and a CSV per split; what is there already is kept.

    Runs worker processes by spawning: a script calls this under `if __name__ == '__main__':`.

    Args:
        out: folder for `SPLIT.csv` and `videos/SPLIT/*.mp4`.
        motion_set: one of `SETS`.
        num_train: videos of the split; the same for validation and test.
        num_validation: see there.
        num_test: see there.
        seed: of everything that is drawn. Sets of one seed have the same backgrounds, lights and first
            states, video by video; for sets that are independent, take two.
        workers: processes; None for one per CPU that this process may use. No effect on the result.

    Raises:
        UserError: no such set, a negative number, or `out` holds another set.
    """
    if motion_set not in SETS:
        raise UserError(f'there is no set {motion_set!r}; choose from {", ".join(SETS)}.')
    counts = {'train': num_train, 'validation': num_validation, 'test': num_test}
    for split, count in counts.items():
        if count < 0:
            raise UserError(f'--num_{split}={count} is negative.')
    if seed < 0 or (workers is not None and workers < 1):
        raise UserError('--seed must not be negative, and --workers at least 1.')
    out = pathlib.Path(out)
    _settle(out, {'set': motion_set, 'seed': seed, 'videos': counts, 'version': _VERSION})

    todo = []
    for split, count in counts.items():
        folder = out / 'videos' / split
        folder.mkdir(parents=True, exist_ok=True)
        for temporary in folder.glob('.*.tmp'):
            temporary.unlink(missing_ok=True)
        names = [file_name(motion_set, seed, split, i) for i in range(count)]
        present = {entry.name for entry in os.scandir(folder)}
        todo += [(split, i, name) for i, name in enumerate(names) if name not in present]
    _render_files(out, motion_set, seed, todo, sum(counts.values()), workers)

    header = ('path', *TASKS[motion_set].columns)
    for split, count in counts.items():
        rows = []
        for i in range(count):
            path = f'videos/{split}/{file_name(motion_set, seed, split, i)}'
            rows.append((path, *labels(motion_set, draw_scene(motion_set, seed, split, i))))
        text = io.StringIO()
        csv.writer(text, lineterminator='\n').writerows([header, *sorted(rows)])
        records.write_atomically(out / f'{split}.csv', text.getvalue())


def file_name(motion_set: str, seed: int, split: str, index: int) -> str:
    """A name from which nobody reads the class, nor from its place in the alphabet."""
    key = f'{motion_set} {seed} {split} {index}'.encode()
    return f'{hashlib.sha256(key).hexdigest()[:12]}.mp4'


def _settle(out: pathlib.Path, settings: dict) -> None:
    """Notes what is rendered here, or checks that it is the same as before."""
    note = out / 'moving_digits.json'
    try:
        before = json.loads(note.read_text(encoding='utf-8'))
    except FileNotFoundError:
        out.mkdir(parents=True, exist_ok=True)
        records.write_atomically(note, json.dumps(settings) + '\n')
        return
    except (NotADirectoryError, ValueError) as error:
        raise UserError(f'{note} cannot be read ({error}); give another --out.') from error
    if before != settings:
        different = [key for key in settings if before.get(key) != settings[key]]
        raise UserError(
            f'{out} holds another rendering ({different[0]}: {before.get(different[0])}, not '
            f'{settings[different[0]]}); give another --out.'
        )


def _render_files(
    out: pathlib.Path,
    motion_set: str,
    seed: int,
    todo: list[tuple[str, int, str]],
    total: int,
    workers: int | None,
) -> None:
    if not todo:
        return
    num_workers = min(workers or len(os.sched_getaffinity(0)), -(-len(todo) // 16))
    context = multiprocessing.get_context('spawn')
    processes, pipes = [], []
    bar = tqdm.tqdm(
        total=total, initial=total - len(todo), desc='rendering', unit=' videos', disable=None
    )
    try:
        for i in range(num_workers):
            ours, theirs = context.Pipe(duplex=False)
            arguments = (theirs, out, motion_set, seed, todo[i::num_workers])
            processes.append(context.Process(target=_work, args=arguments, daemon=True))
            processes[-1].start()
            theirs.close()
            pipes.append(ours)
        while pipes:
            for pipe in multiprocessing.connection.wait(pipes):
                try:
                    error = pipe.recv()
                except EOFError:
                    pipes.remove(pipe)
                    continue
                if error is not None:
                    raise error
                bar.update()
        for process in processes:
            process.join()
            if process.exitcode:
                raise RuntimeError(f'a rendering process failed (exit code {process.exitcode})')
    finally:
        bar.close()
        for process in processes:
            process.terminate()
            process.join()


def _work(
    pipe: multiprocessing.connection.Connection,
    out: pathlib.Path,
    motion_set: str,
    seed: int,
    todo: list[tuple[str, int, str]],
) -> None:
    """A process: renders its videos, and tells of each, which also ends it when the parent is gone."""
    try:
        for split, index, name in todo:
            frames, _ = render(motion_set, seed, split, index)
            path = out / 'videos' / split / name
            temporary = path.with_name(f'.{name}.{os.getpid()}.tmp')
            try:
                encode_mp4(frames, temporary)
                os.replace(temporary, path)
            except OSError as error:
                temporary.unlink(missing_ok=True)
                pipe.send(OSError(error.errno, os.strerror(error.errno), os.fspath(path)))
                return
            pipe.send(None)
    except (BrokenPipeError, KeyboardInterrupt):
        pass


def encode_mp4(frames: UInt8[np.ndarray, 'time height width 3'], path: str | os.PathLike) -> None:
    """Writes an H.264 mp4 file at `FPS`, on one thread so that equal frames are equal bytes."""
    with av.open(os.fspath(path), 'w', format='mp4') as container:
        stream = container.add_stream('libx264', rate=FPS)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = 'yuv420p'
        stream.codec_context.gop_size = 12
        stream.codec_context.thread_count = 1
        # At this size x264's look-ahead over blocks (mbtree) reads memory that it has not written.
        stream.options = {'crf': '23', 'preset': 'veryfast', 'mbtree': '0'}
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format='rgb24')))
        container.mux(stream.encode())


def main(argv: list[str]) -> None:
    """Parses the command line and renders."""
    parser = cli.parser(__doc__)
    parser.add_argument('--out', required=True, metavar='DIR', help='where files and lists go')
    parser.add_argument('--set', default='motion6', choices=SETS, help='default: %(default)s')
    for split, count in NUM_VIDEOS.items():
        parser.add_argument(f'--num_{split}', type=int, default=count, help='default: %(default)s')
    parser.add_argument('--seed', type=int, default=0, help='default: %(default)s')
    parser.add_argument('--workers', type=int, help='processes; default: one per CPU')
    args, _ = cli.parse_args(parser, argv)
    counts = {f'num_{split}': getattr(args, f'num_{split}') for split in NUM_VIDEOS}
    generate(args.out, args.set, seed=args.seed, workers=args.workers, **counts)
    print(f'{sum(counts.values()):,} videos in {args.out}')


if __name__ == '__main__':
    cli.run(main)
