"""The config's sections `clip` and `augment`: what of a video is shown, and what is changed about it.

Both are read on the host (`vjax.data.pipeline`) and on the device (`vjax.data.augment`), so they import
neither TensorFlow nor jax.
"""

import dataclasses
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


@dataclasses.dataclass(frozen=True)
class Augment:
    """Random changes to training clips: the config's section `augment`.

    The host draws the crop (the first two); the rest are probabilities of `vjax.data.augment`.

    Attributes:
        scale_jitter: range (least, most) of the zoom, drawn once per clip for each axis.
        random_crop: crop anywhere in the frame, not in its centre.
        flip: probability of a horizontal flip.
        color_jitter: probability of other colours.
        color_drop: probability of no colours.

    Raises:
        UserError: a value is impossible.
    """

    scale_jitter: Sequence[float | int]
    random_crop: bool
    flip: float | int
    color_jitter: float | int
    color_drop: float | int

    def __post_init__(self):
        if len(self.scale_jitter) != 2 or not 0 < self.scale_jitter[0] <= self.scale_jitter[1]:
            raise UserError(
                f'config.augment.scale_jitter is {self.scale_jitter}; it must be (least, most) '
                f'zoom, such as (0.9, 1.33).'
            )
        for name in ('flip', 'color_jitter', 'color_drop'):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(
                    f'config.augment.{name} is {getattr(self, name)}; it is a probability.'
                )
