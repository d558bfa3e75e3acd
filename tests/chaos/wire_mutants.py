"""Damaged messages: every truncation, every field at its bounds, wrong heads, and mutants."""

from __future__ import annotations

import random
from collections.abc import Iterator

from tensorpool import wire
from tensorpool.wire import control, driver
from tensorpool.wire.codec import MESSAGE_HEADER, MessageCodec
from tensorpool.wire.fields import Group, Primitive, VarData
from tests.fuzz.mutation import mutants
from tests.fuzz.wires import field_encodings, messages

_EDGE_LENGTHS = (0, 1, 0x7F, 0xFFFF, 0x10000, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFE, 0xFFFF_FFFF)
_EDGE_COUNTS = (0, 1, 0x7FFF, 0x8000, 0xFFFF)
_IDS = (0, 1, 2, 3, 8, 9, 13, 14, 50, 51, 52, 53, 899, 900, 901, 902, 0xFFFF)


def codecs() -> list[MessageCodec]:
    """Every message of both schemas."""
    return [
        codec
        for schema in (control.CONTROL, driver.DRIVER)
        for codec in schema.by_template.values()
    ]


def truncations() -> Iterator[bytes]:
    """Every message cut at every length."""
    for message in messages():
        data = wire.encode(message)
        for length in range(1, len(data)):
            yield data[:length]


def bounds() -> Iterator[bytes]:
    """Every fixed field of every message at the bounds of its type, one at a time."""
    for message in messages():
        codec = _codec_of(message)
        data = wire.encode(message)
        for name, encoding in field_encodings(type(message)).items():
            if isinstance(encoding, Primitive):
                at = MESSAGE_HEADER.size + codec.offsets[name]
                for value in _edges(encoding):
                    yield data[:at] + value + data[at + encoding.size :]


def heads() -> Iterator[bytes]:
    """Every message under other block lengths, template ids, schema ids and versions."""
    for message in messages():
        data = wire.encode(message)
        head = MESSAGE_HEADER.unpack_from(data)
        for position in range(len(head)):
            for value in (*_IDS, head[position] - 1, head[position] + 1):
                changed = list(head)
                changed[position] = value & 0xFFFF
                yield MESSAGE_HEADER.pack(*changed) + data[MESSAGE_HEADER.size :]


def tails() -> Iterator[bytes]:
    """Group dimensions and lengths that promise too much, in every message that has any."""
    for message in messages():
        codec = _codec_of(message)
        at = MESSAGE_HEADER.size + codec.block_length
        data = wire.encode(message)
        for encoding in field_encodings(type(message)).values():
            if isinstance(encoding, Group):
                for count in _EDGE_COUNTS:
                    for block in _EDGE_COUNTS:
                        dimensions = block.to_bytes(2, "little") + count.to_bytes(2, "little")
                        yield data[:at] + dimensions + data[at + 4 :]
                break
            if isinstance(encoding, VarData):
                for length in _EDGE_LENGTHS:
                    yield data[:at] + length.to_bytes(4, "little") + data[at + 4 :]
                break


def systematic() -> list[bytes]:
    """All of the above."""
    return [*truncations(), *bounds(), *heads(), *tails()]


def seeded(count: int, seed: int) -> Iterator[bytes]:
    """Mutants of every message; none longer than a message may be."""
    for data in mutants([wire.encode(message) for message in messages()], count, seed):
        yield data[:4096] or b"\0"


def shuffled(seed: int) -> list[bytes]:
    """The systematic ones in an order of the seed's."""
    found = systematic()
    random.Random(seed).shuffle(found)
    return found


def _codec_of(message: object) -> MessageCodec:
    return next(codec for codec in codecs() if codec.message_type is type(message))


def _edges(encoding: Primitive) -> list[bytes]:
    top = (1 << 8 * encoding.size) - 1
    values = {0, 1, top >> 1, (top >> 1) + 1, top - 1, top}
    return [value.to_bytes(encoding.size, "little") for value in sorted(values)]
