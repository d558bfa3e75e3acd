"""SBE messages of the tensor pool: schemas 900 (control) and 901 (driver).

data = wire.encode(ShmLeaseKeepalive(...))
message = wire.decode(data)
"""

from __future__ import annotations

from typing import Any

from tensorpool.wire.codec import Buffer, MessageHeader, Schema, read_header
from tensorpool.wire.control import CONTROL
from tensorpool.wire.driver import DRIVER
from tensorpool.wire.errors import (
    EncodeError,
    MalformedMessage,
    UnknownMessage,
    UnsupportedVersion,
    WireError,
)

_SCHEMAS: dict[int, Schema] = {schema.schema_id: schema for schema in (CONTROL, DRIVER)}
_BY_TYPE = {**CONTROL.by_type, **DRIVER.by_type}


def encode(message: tuple[Any, ...]) -> bytes:
    """`message` with its message header, ready to be offered.

    Raises:
        EncodeError: a value does not fit its field.
    """
    return _BY_TYPE[type(message)].encode(message)


def decode(buffer: Buffer) -> Any:
    """The message in `buffer`: an instance of one of the classes of our schemas.

    Raises:
        UnknownMessage: schema or template id is none of ours.
        UnsupportedVersion: its schema version is newer than ours.
        MalformedMessage: it breaks its schema.
    """
    header = read_header(buffer)
    schema = _SCHEMAS.get(header.schema_id)
    if schema is None:
        raise UnknownMessage(f"schema id {header.schema_id}, template id {header.template_id}")
    return schema.decode(buffer, header)


def is_known_schema(schema_id: int) -> bool:
    """Whether messages of this schema are ours."""
    return schema_id in _SCHEMAS


__all__ = [
    "Buffer",
    "EncodeError",
    "MalformedMessage",
    "MessageHeader",
    "UnknownMessage",
    "UnsupportedVersion",
    "WireError",
    "decode",
    "encode",
    "is_known_schema",
    "read_header",
]
