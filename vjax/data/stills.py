"""How large an image is, and where it ends, from its bytes alone: for files that cannot be trusted."""

import math
import re
import struct

# A byte of 255 in compressed data is followed by 0 or a restart marker; others have a meaning.
_JPEG_MARKER = re.compile(rb'\xff[^\x00\x01\xd0-\xd7\xff]')
_JPEG_START, _JPEG_END, _JPEG_LS, _JPEG_APP2 = 0xD8, 0xD9, 0xF7, 0xE2
_JPEG_SIZES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_ANOTHER_JPEG = re.compile(rb'\x00*\xff+\xd8')


def measure_jpeg(content: bytes) -> tuple[int, int, int] | None:
    """Width, height and number of bytes (0 if it does not end) of a JPEG image (ITU T.81, annex B).

    None if other JPEG images follow that are no part of a photo, as in Motion JPEG, or for JPEG-LS,
    which has a decoder of its own.
    """
    width = height = 0
    multi_picture = False
    at = 2
    while match := _JPEG_MARKER.search(content, at):
        marker, at = content[match.end() - 1], match.end()
        if marker == _JPEG_END:
            follows = _ANOTHER_JPEG.match(content, at) and not multi_picture
            return None if follows else (width, height, at)
        if marker in (_JPEG_START, _JPEG_LS):
            return None
        if marker in _JPEG_SIZES and len(content) >= at + 7:
            size = struct.unpack_from('>HH', content, at + 3)[::-1]
            width, height = max((width, height), size, key=math.prod)
        multi_picture |= marker == _JPEG_APP2 and content.startswith(b'MPF\0', at + 2)
        at += int.from_bytes(content[at : at + 2], 'big')
    return width, height, 0


def measure_png(content: bytes) -> tuple[int, int, int] | None:
    """As `measure_jpeg`, of a PNG image, whose first chunk has its size; None if it is animated."""
    width, height = struct.unpack('>II', content[16:24].ljust(8, b'\0'))
    at = 8
    while at + 12 <= len(content):
        length, kind = struct.unpack_from('>I4s', content, at)
        if kind == b'acTL':
            return None
        at += 12 + length
        if kind == b'IEND':
            return width, height, at if at <= len(content) else 0
    return width, height, 0
