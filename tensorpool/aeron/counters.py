"""Reading the counters that a media driver keeps in its CnC file.

They are read from the file, not by a mapping that a vanished directory would turn into SIGBUS.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO, NamedTuple

from tensorpool.aeron_directory import COUNTER_METADATA_BYTES, COUNTER_VALUE_BYTES
from tensorpool.errors import HostError

_HEAD = struct.Struct("<6i")
_HEAD_BYTES = 128
_METADATA = struct.Struct("<iiqi")
_VALUE = struct.Struct("<q")
_UNUSED, _ALLOCATED = 0, 1
_CHUNK_COUNTERS = 256

SYSTEM, PUBLICATION_LIMIT, SUBSCRIBER_POSITION, CLIENT_HEARTBEAT = 0, 1, 4, 11
"""Types of counters (Aeron's type ids) that are of interest here."""


class Counter(NamedTuple):
    """One counter: its type, the first number of its key (a system counter's id), its value."""

    type_id: int
    key: int
    value: int


def most_counters(aeron_dir: str) -> int:
    """How many the media driver in `aeron_dir` can have.

    Raises:
        HostError: there is no CnC file, or it is too short to be one.
    """
    with _cnc_file(aeron_dir) as (_, _, metadata_bytes):
        return metadata_bytes // COUNTER_METADATA_BYTES


def read_counters(aeron_dir: str) -> Iterator[Counter]:
    """Every counter in use of the media driver in `aeron_dir`.

    Raises:
        HostError: there is no CnC file, or it is too short to be one.
    """
    with _cnc_file(aeron_dir) as (file, at, metadata_bytes):
        values_at = at + metadata_bytes
        for first in range(0, metadata_bytes // COUNTER_METADATA_BYTES, _CHUNK_COUNTERS):
            file.seek(at + first * COUNTER_METADATA_BYTES)
            described = file.read(_CHUNK_COUNTERS * COUNTER_METADATA_BYTES)
            file.seek(values_at + first * COUNTER_VALUE_BYTES)
            values = file.read(_CHUNK_COUNTERS * COUNTER_VALUE_BYTES)
            for index in range(len(described) // COUNTER_METADATA_BYTES):
                state, kind, _, key = _METADATA.unpack_from(
                    described, index * COUNTER_METADATA_BYTES
                )
                if state == _UNUSED:
                    return
                if state == _ALLOCATED:
                    yield Counter(
                        kind, key, *_VALUE.unpack_from(values, index * COUNTER_VALUE_BYTES)
                    )


@contextmanager
def _cnc_file(aeron_dir: str) -> Iterator[tuple[BinaryIO, int, int]]:
    """The open file, where its buffer of counters' metadata begins, and the bytes of that."""
    path = os.path.join(aeron_dir, "cnc.dat")
    try:
        with open(path, "rb") as file:
            _, to_driver, to_clients, metadata, _, _ = _HEAD.unpack(file.read(_HEAD.size))
            yield file, _HEAD_BYTES + to_driver + to_clients, metadata
    except (OSError, struct.error) as error:
        raise HostError(f"{path}: no counters can be read: {error}") from error
