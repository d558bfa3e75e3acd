"""Seeded mutants of known inputs: the same seed gives the same mutants, on every machine."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

_EDGES = (
    0,
    1,
    0x7F,
    0x80,
    0xFF,
    0x7FFF,
    0xFFFF,
    0x7FFF_FFFF,
    0xFFFF_FFFF,
    (1 << 63) - 1,
    (1 << 64) - 1,
)
_MAX_EDITS = 4
_MAX_RUN = 64


def mutants(corpus: Sequence[bytes], count: int, seed: int) -> Iterator[bytes]:
    """`count` inputs, each a few edits away from one or two of `corpus`."""
    dice = random.Random(seed)
    for _ in range(count):
        data = bytearray(dice.choice(corpus))
        for _ in range(dice.randint(1, _MAX_EDITS)):
            _edit(data, corpus, dice)
        yield bytes(data)


def _edit(data: bytearray, corpus: Sequence[bytes], dice: random.Random) -> None:
    at = dice.randint(0, len(data))
    match dice.randrange(7):
        case 0 if data:
            data[min(at, len(data) - 1)] ^= 1 << dice.randrange(8)
        case 1 if data:
            data[min(at, len(data) - 1)] = dice.randrange(256)
        case 2:
            width = dice.choice((1, 2, 4, 8))
            value = dice.choice(_EDGES) & (1 << 8 * width) - 1
            data[at : at + width] = value.to_bytes(width, "little")
        case 3:
            del data[at : at + dice.randint(1, _MAX_RUN)]
        case 4:
            data[at:at] = dice.randbytes(dice.randint(1, _MAX_RUN))
        case 5:
            other = dice.choice(corpus)
            start = dice.randint(0, len(other))
            data[at:at] = other[start : start + dice.randint(1, _MAX_RUN)]
        case _:
            del data[at:]
