"""What a producer says of a frame beside its tensor: when, under which metadata, which trace."""

from __future__ import annotations

import operator
from typing import NamedTuple

from tensorpool.client.errors import FrameFieldError

_LATEST_NS = 2**64 - 2
_LATEST_VERSION = 2**32 - 2
_GREATEST_TRACE_ID = 2**64 - 1


class FrameFields(NamedTuple):
    """Of one frame; a time of None is that of its commit or claim."""

    timestamp_ns: int | None
    meta_version: int
    trace_id: int


def frame_fields(timestamp_ns: object, meta_version: object, trace_id: object) -> FrameFields:
    """The fields as plain integers that the wire can carry.

    The greatest timestamp and version stand for none there (Wire §4, §8.2, §10.2.1); a trace id
    is any 64 bits, 0 for none.

    Raises:
        FrameFieldError: one of them is no integer, or out of its range.
    """
    return FrameFields(
        None if timestamp_ns is None else timestamp_field(timestamp_ns),
        meta_version_field(meta_version),
        trace_id_field(trace_id),
    )


def timestamp_field(value: object) -> int:
    """A capture time. Raises FrameFieldError."""
    return _checked("timestamp_ns", value, _LATEST_NS)


def meta_version_field(value: object) -> int:
    """A version of the metadata. Raises FrameFieldError."""
    return _checked("meta_version", value, _LATEST_VERSION)


def trace_id_field(value: object) -> int:
    """A trace id. Raises FrameFieldError."""
    return _checked("trace_id", value, _GREATEST_TRACE_ID)


def _checked(name: str, value: object, greatest: int) -> int:
    try:
        number = operator.index(value)  # type: ignore[arg-type] # that is the question
    except TypeError:
        raise FrameFieldError(
            f"{name} = {value!r}: must be an integer; convert it with int()"
        ) from None
    if not 0 <= number <= greatest:
        raise FrameFieldError(
            f"{name} = {number}: must be from 0 to {greatest}; leave it out if there is none"
        )
    return number
