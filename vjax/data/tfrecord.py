"""TFRecord files, read at any byte: a record's data stand alone between two checksums.

A record is the data's length (uint64, little endian), that number's masked CRC-32C, the data, and their
masked CRC-32C (tensorflow.org/tutorials/load_data/tfrecord), so any TFRecord reader can read the files
from end to end. Who knows where a record begins and how long it is reads it alone, in one system call.
"""

import os
import struct
from typing import BinaryIO

import google_crc32c

HEADER = 12  # Bytes before the data.
OVERHEAD = 16  # Bytes around them.


class DamagedRecord(Exception):
    """The bytes on the disk are not those that were written."""


def _checksum(data: bytes) -> int:
    crc = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def write(file: BinaryIO, data: bytes) -> None:
    """Appends a record; it takes `len(data) + OVERHEAD` bytes."""
    length = struct.pack('<Q', len(data))
    header = length + struct.pack('<I', _checksum(length))
    file.write(header + data + struct.pack('<I', _checksum(data)))


def read(descriptor: int, offset: int, size: int) -> bytes:
    """The data, `size` bytes, of the record that begins at `offset`; other threads may read as well.

    Raises:
        DamagedRecord: the file is shorter, or the checksum is another.
    """
    content = os.pread(descriptor, size + 4, offset + HEADER)
    data = content[:size]
    if len(content) != size + 4 or _checksum(data) != int.from_bytes(content[size:], 'little'):
        raise DamagedRecord(f'damaged at byte {offset}')
    return data
