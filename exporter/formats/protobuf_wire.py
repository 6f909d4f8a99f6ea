"""Read and write the little of protobuf's wire format that SentencePiece models need.

Source: protobuf.dev/programming-guides/encoding.
"""

import struct
from collections.abc import Iterator


def fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yield each field's number and value: varints as int, fixed 32 and 64 bits and messages as bytes.

    Raises ValueError where the bytes are not a protobuf message.
    """
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        field, wire = key >> 3, key & 7
        if wire == 0:
            value, at = _varint(data, at)
            yield field, value
            continue
        if wire == 2:
            size, at = _varint(data, at)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            raise ValueError(f"wire type {wire} at byte {at}")
        if field == 0 or size > len(data) - at:
            raise ValueError(f"field {field} of {size} bytes at byte {at} of {len(data)}")
        yield field, data[at : at + size]
        at += size


def field(number: int, value: int | float | bytes) -> bytes:
    """Encode one field: an int as varint, a float in 32 bits, bytes with their length."""
    if isinstance(value, bytes):
        return _to_varint(number << 3 | 2) + _to_varint(len(value)) + value
    if isinstance(value, float):
        return _to_varint(number << 3 | 5) + struct.pack("<f", value)
    return _to_varint(number << 3) + _to_varint(value)


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            break
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & (1 << 64) - 1, at
    raise ValueError(f"a number is cut off or too long at byte {at} of {len(data)}")


def _to_varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
