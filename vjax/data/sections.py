"""The config's sections `clip` and `augment`: what of a video is shown, and what is changed about it.

Both are read on the host (`vjax.data.pipeline`) and on the device (`vjax.data.augment`), so they import
neither TensorFlow nor jax.
"""

import dataclasses
import math
from collections.abc import Sequence

from vjax.data import sampling
from vjax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Clip:
    """How a clip is cut from a video: the config's section `clip`.

    Attributes:
        num_frames: frames in a clip.
        stride: frames of the video from one frame of the clip to the next.
        fps: if not None, counts instead of the stride: frames of the clip in a second of video.
        short_side: pixels that a frame's short side is resized to.
        size: side of the square that is cut from the resized frame.
        short_clips: what follows a video's last frame: it starts again ('loop') or stands ('pad').
        order: 'forward', 'reversed', 'still' or 'shuffled'; see `sampling.reorder`.

    Raises:
        UserError: a value is impossible.
    """

    num_frames: int
    stride: int
    fps: float | int | None
    short_side: int
    size: int
    short_clips: str
    order: str

    def __post_init__(self):
        for name in ('num_frames', 'stride', 'short_side', 'size'):
            if getattr(self, name) < 1:
                raise UserError(
                    f'config.clip.{name} is {getattr(self, name)}; it must be at least 1.'
                )
        if self.fps is not None and not self.fps > 0:
            raise UserError(
                f'config.clip.fps is {self.fps}; it must be positive, or None for the stride.'
            )
        if self.size > self.short_side:
            raise UserError(
                f'config.clip.size={self.size} does not fit into clip.short_side={self.short_side}; make '
                f'the crop smaller or the frames larger.'
            )
        if self.short_clips not in sampling.SHORT_CLIPS:
            raise UserError(
                f'config.clip.short_clips is {self.short_clips!r}; choose from {sampling.SHORT_CLIPS}.'
            )
        if self.order not in sampling.ORDERS:
            raise UserError(f'config.clip.order is {self.order!r}; choose from {sampling.ORDERS}.')


FLIP_LABELS = ('ignore', 'keep', 'mirror')
RAND_AUGMENT_OPS = ('paper', 'all', 'colors', 'increasing')
AUTO_AUGMENT = ('', 'imagenet', 'cifar10', 'svhn')


@dataclasses.dataclass(frozen=True)
class Augment:
    """Random changes to training clips: the config's section `augment`.

    The host draws the region that a clip shows (`scale_jitter`, `random_crop`, `area`, `aspect`) and
    repeats videos; all else is done by `vjax.data.augment`, on the device, in the order of these fields.

    Attributes:
        scale_jitter: range (least, most) of the zoom, drawn once per clip for each axis.
        random_crop: crop anywhere in the frame, not in its centre.
        area: (least, most) part of the frame's area that a random resized crop shows (as Inception,
            arXiv 1409.4842 §6); it takes the place of both of the above. Empty: off.
        aspect: range of that crop's width / height, log-uniform.
        repeats: clips of a video that stand next to each other in a batch (repeated augmentation,
            arXiv 1901.09335); 1 is off.
        flip: probability of a horizontal flip.
        flip_labels: what a flip does to classes that are named after left or right: 'ignore' flips
            them like others, 'keep' does not flip them, 'mirror' flips them and exchanges left and
            right in the label, where there is such a class. See `vjax.data.augment.mirroring`.
        auto_augment: AutoAugment's policy for 'imagenet', 'cifar10' or 'svhn'; '' is off.
        rand_augment: number of RandAugment's layers; 0 is off.
        rand_augment_magnitude: its magnitude, out of 30 for the operations 'paper', else out of 10; for
            'all' and 'colors' it may be more.
        rand_augment_std: standard deviation of the magnitude from layer to layer.
        rand_augment_probability: of each layer; 1 in the paper.
        rand_augment_ops: what a layer draws from: 'paper', 'all', 'colors' or 'increasing'; see
            `vjax.data.augment.policies`.
        color_jitter: probability of other colours.
        color_drop: probability of no colours.
        erase: probability of random erasing.

    Raises:
        UserError: a value is impossible.
    """

    scale_jitter: Sequence[float | int]
    random_crop: bool
    area: Sequence[float | int]
    aspect: Sequence[float | int]
    repeats: int
    flip: float | int
    flip_labels: str
    auto_augment: str
    rand_augment: int
    rand_augment_magnitude: float | int
    rand_augment_std: float | int
    rand_augment_probability: float | int
    rand_augment_ops: str
    color_jitter: float | int
    color_drop: float | int
    erase: float | int

    def __post_init__(self):
        if len(self.scale_jitter) != 2 or not 0 < self.scale_jitter[0] <= self.scale_jitter[1]:
            raise UserError(
                f'config.augment.scale_jitter is {self.scale_jitter}; it must be (least, most) '
                f'zoom, such as (0.9, 1.33).'
            )
        if len(self.area) and (len(self.area) != 2 or not 0 < self.area[0] <= self.area[1] <= 1):
            raise UserError(
                f'config.augment.area is {self.area}; it must be (least, most) part of the frame, '
                f'such as (0.08, 1.0), or () for no random resized crops.'
            )
        if len(self.aspect) != 2 or not 0 < self.aspect[0] <= self.aspect[1] < math.inf:
            raise UserError(
                f'config.augment.aspect is {self.aspect}; it must be (least, most) width / height, '
                f'such as (0.75, 1.33).'
            )
        if self.repeats < 1:
            raise UserError(f'config.augment.repeats is {self.repeats}; it must be at least 1.')
        probabilities = ('flip', 'rand_augment_probability', 'color_jitter', 'color_drop', 'erase')
        for name in probabilities:
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(
                    f'config.augment.{name} is {getattr(self, name)}; it is a probability.'
                )
        for name, choices in (
            ('flip_labels', FLIP_LABELS),
            ('auto_augment', AUTO_AUGMENT),
            ('rand_augment_ops', RAND_AUGMENT_OPS),
        ):
            if getattr(self, name) not in choices:
                raise UserError(
                    f'config.augment.{name} is {getattr(self, name)!r}; choose from {choices}.'
                )
        for name, most in (
            ('rand_augment', math.inf),
            ('rand_augment_magnitude', 30),
            ('rand_augment_std', math.inf),
        ):
            if not 0 <= getattr(self, name) <= most:
                limits = 'at least 0' if most == math.inf else f'from 0 to {most}'
                raise UserError(
                    f'config.augment.{name} is {getattr(self, name)}; it must be {limits}.'
                )
        if (
            self.rand_augment
            and self.rand_augment_ops == 'increasing'
            and self.rand_augment_magnitude > 10
        ):
            raise UserError(
                f'config.augment.rand_augment_magnitude is {self.rand_augment_magnitude}, but the '
                f"operations 'increasing' end at 10."
            )
        if self.auto_augment and self.rand_augment:
            raise UserError(
                f'config.augment.auto_augment={self.auto_augment!r} and rand_augment='
                f'{self.rand_augment} exclude each other; switch one of them off.'
            )
