"""Variables of a TensorFlow checkpoint, read without TensorFlow.

A checkpoint is a `.index`, a sorted table in LevelDB's format whose values are messages (protocol buffers) that say
type, shape and place of each variable, and a `.data-00000-of-00001` with the numbers.

Source: LevelDB's doc/table_format; TensorFlow's tensor_bundle.proto and types.proto.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from models.errors import UserError

_MAGIC = 0xDB4775248B80FB57
_FOOTER_BYTES, _BLOCK_TRAILER_BYTES = 48, 5
_FLOAT = 1
_DTYPE, _SHAPE, _OFFSET, _SIZE = 1, 2, 4, 5  # fields of a variable's message
_DIMENSION, _DIMENSION_SIZE = 2, 1  # fields of its shape


def read_variables(index: bytes, data: bytes) -> dict[str, Tensor]:
    """Return the float variables by name; step counters and the like are left out.

    Raises:
        UserError: the bytes are no checkpoint, or cut off.
    """
    try:
        return {
            name: tensor for name, value in _table(index) if name and (tensor := _variable(value, data)) is not None
        }
    except (IndexError, ValueError, UnicodeDecodeError) as error:
        raise UserError(f"not a TensorFlow checkpoint that can be read: {error}") from error


def _table(index: bytes) -> Iterator[tuple[str, bytes]]:
    footer = index[-_FOOTER_BYTES:]
    if int.from_bytes(footer[-8:], "little") != _MAGIC:
        raise ValueError("the index does not end as a table does")
    _, place = _varint(footer, 0)
    _, place = _varint(footer, place)
    for _, handle in _block(index, footer[place:]):
        for key, value in _block(index, handle):
            yield key.decode(), value


def _block(index: bytes, handle: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the entries of a block: each shares a beginning of its key with the one before."""
    offset, place = _varint(handle, 0)
    size, _ = _varint(handle, place)
    if index[offset + size] != 0:
        raise ValueError("the index is compressed")
    block = index[offset : offset + size]
    num_restarts = int.from_bytes(block[-4:], "little")
    end = size - 4 * (num_restarts + 1)
    place, key = 0, b""
    while place < end:
        shared, place = _varint(block, place)
        unshared, place = _varint(block, place)
        length, place = _varint(block, place)
        key = key[:shared] + block[place : place + unshared]
        place += unshared
        yield key, block[place : place + length]
        place += length


def _variable(message: bytes, data: bytes) -> Tensor | None:
    fields = dict(_fields(message))
    if fields.get(_DTYPE) != _FLOAT:
        return None
    shape = fields.get(_SHAPE, b"")
    assert isinstance(shape, bytes)
    dimensions = [dict(_fields(value)) for number, value in _fields(shape) if isinstance(value, bytes)]
    sizes = [int(dimension.get(_DIMENSION_SIZE, 0)) for dimension in dimensions]  # type: ignore[arg-type]
    offset, size = int(fields.get(_OFFSET, 0)), int(fields.get(_SIZE, 0))  # type: ignore[arg-type]
    numbers = np.frombuffer(data[offset : offset + size], dtype="<f4")
    return torch.from_numpy(numbers.astype(np.float32)).reshape(sizes)


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yield number and value of a message's fields."""
    place = 0
    while place < len(message):
        tag, place = _varint(message, place)
        number, kind = tag >> 3, tag & 7
        if kind == 0:
            value, place = _varint(message, place)
        elif kind == 2:
            length, place = _varint(message, place)
            value, place = message[place : place + length], place + length
        elif kind in (1, 5):
            width = 8 if kind == 1 else 4
            value, place = message[place : place + width], place + width
        else:
            raise ValueError(f"a field of unknown kind {kind}")
        yield number, value


def _varint(content: bytes, place: int) -> tuple[int, int]:
    """Read a number of seven bits a byte; return it and the place after it."""
    value = shift = 0
    while True:
        byte = content[place]
        value |= (byte & 0x7F) << shift
        place += 1
        if byte < 0x80:
            return value, place
        shift += 7
