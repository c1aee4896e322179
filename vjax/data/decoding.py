"""Stored bytes -> the pixels of a window, in numpy: what a clip shows goes straight to its place.

libjpeg-turbo does the work (through simplejpeg, which lets go of Python's lock meanwhile, so that threads
decode side by side). A frame is decoded whole into a buffer that stays in the processor's cache, and what
is seen of it is copied from there: cheaper than tf.io.decode_and_crop_jpeg, whose pixels are copied twice
more on their way into a batch, and true at the window's edges as well. The pixels are those of
tf.io.decode_jpeg, whose default is the fast DCT, too.
"""

import io

import numpy as np
import simplejpeg
from etils import epy
from jaxtyping import Int, UInt8
from PIL import Image

from vjax.data import short_gops
from vjax.data.geometry import resized_shape

with epy.lazy_imports():
    import tensorflow as tf


def decode_window(
    content: list[bytes],
    frames: Int[np.ndarray, 'frames'],
    size: tuple[int, int],
    window: Int[np.ndarray, '4'],
    out: UInt8[np.ndarray, 'frames height width 3'],
    *,
    encoding: str,
    short_side: int,
) -> None:
    """Decodes frames of a video, and writes a window of each.

    Frames that were stored at the right size are cut; others are resized first (bilinear, with
    anti-aliasing).

    Args:
        content: from a store of this encoding: an image for each frame, or one video that has them all.
        frames: their numbers.
        size: height and width of what is stored, in pixels.
        window: top, left, height and width in the resized frame.
        out: for the pixels, of the window's height and width.
        encoding: of the store.
        short_side: what the frames' short side is resized to.

    Raises:
        Exception: the content cannot be decoded, or is of another size. Decoders fail in many ways.
    """
    top, left, height, width = window.tolist()
    if min(size) != short_side:
        whole = np.empty((len(frames), *size, 3), np.uint8)
        _decode(content, frames, size, (0, 0, *size), whole, encoding)
        resized = tf.image.resize(
            whole, resized_shape(*size, short_side), method='bilinear', antialias=True
        )
        cut = resized[:, top : top + height, left : left + width]
        out[:] = tf.saturate_cast(tf.round(cut), tf.uint8).numpy()
    else:
        _decode(content, frames, size, (top, left, height, width), out, encoding)


def _decode(content, frames, size, window, out, encoding):
    if encoding == 'video':
        out[:] = short_gops.decode_frames(content[0], frames, *size, np.array(window))
        return
    top, left, height, width = window
    buffer = np.empty((*size, 3), np.uint8)
    for image, shown in zip(content, out, strict=True):
        if encoding == 'jpeg':
            whole = simplejpeg.decode_jpeg(image, fastdct=True, buffer=buffer)
        else:
            whole = np.asarray(Image.open(io.BytesIO(image)).convert('RGB'))
        if whole.shape[:2] != size:
            raise ValueError(f'a frame has {whole.shape[0]} x {whole.shape[1]} pixels')
        shown[:] = whole[top : top + height, left : left + width]
