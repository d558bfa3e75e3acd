"""The vocabulary in which the SBE schemas are written: what a field's annotation may say.

A message is a `NamedTuple` whose annotations carry its encoding, e.g.
`epoch: Annotated[int, UINT64]`. The class is the schema; `tensorpool.wire.codec`
compiles it. Little-endian throughout (Wire §6).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Primitive:
    """A fixed-size scalar: its `struct` code, size in bytes and, if optional, null value."""

    code: str
    size: int
    null: int | None = None

    def optional(self, null: int | None = None) -> Primitive:
        """The same scalar with presence="optional"; None stands for `null` (Wire §10.1).

        Without `null` the sentinel is the largest unsigned value of the type.
        """
        return Primitive(self.code, self.size, (1 << 8 * self.size) - 1 if null is None else null)


@dataclass(frozen=True, slots=True)
class Array:
    """A fixed-length array of a scalar."""

    item: Primitive
    length: int


@dataclass(frozen=True, slots=True)
class Padding:
    """Reserved bytes: written as given, ignored by readers."""

    length: int


@dataclass(frozen=True, slots=True)
class VarData:
    """Variable-length data behind a uint32 length; length 0 means absent (Wire §10.1)."""

    text: bool


@dataclass(frozen=True, slots=True)
class Group:
    """A repeating group whose entries are the given message-like class."""

    entry: type


UINT8 = Primitive("B", 1)
UINT16 = Primitive("H", 2)
UINT32 = Primitive("I", 4)
UINT64 = Primitive("Q", 8)
INT16 = Primitive("h", 2)
INT32 = Primitive("i", 4)
INT64 = Primitive("q", 8)

ASCII = VarData(text=True)
DATA = VarData(text=False)
