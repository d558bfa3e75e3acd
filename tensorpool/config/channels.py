"""Aeron channel URIs: the syntax, checked before Aeron sees them."""

import re
from typing import Annotated

from pydantic import BeforeValidator

from tensorpool.config.fields import broken
from tensorpool.config.metadata import Kind

_PARAMETER = re.compile(r"([A-Za-z][A-Za-z0-9_-]*)=([\x21-\x7b\x7d\x7e]+)\Z")
_SIZE = re.compile(r"([0-9]{1,12})([kKmMgG]?)\Z")
_SHIFTS = {"": 0, "k": 10, "m": 20, "g": 30}
_MEDIA = ("aeron:ipc", "aeron:udp")
_TERM_MIN_BYTES = 64 << 10
_TERM_MAX_BYTES = 1 << 30
_DEFAULT_TERM_BYTES = {"aeron:ipc": 64 << 20, "aeron:udp": 16 << 20}
"""Aeron's own, where a channel names none."""
_LOG_METADATA_BYTES = 4096
_MAX_CHARS = 4095
_BRIDGE = re.compile(r"bridge://[\x21-\x7e]+\Z")
_EXAMPLE = 'write it like "aeron:ipc?term-length=4m"'


def check_channel(uri: object) -> str:
    """`uri`, if it is an Aeron channel.

    Raises:
        PydanticCustomError: it is not; rule and remedy are in its context.
    """
    rule = "an Aeron channel: aeron:ipc or aeron:udp, then ?key=value, more divided by '|'"
    if not isinstance(uri, str) or len(uri) > _MAX_CHARS:
        raise broken(rule, _EXAMPLE)
    medium, question, query = uri.partition("?")
    if medium not in _MEDIA:
        raise broken(rule, _EXAMPLE)
    parameters: dict[str, str] = {}
    for text in query.split("|") if question else ():
        match = _PARAMETER.match(text)
        if match is None:
            raise broken(rule, _EXAMPLE)
        if match[1] in parameters:
            raise broken(f"{rule}; each key once", f"leave one {match[1]}")
        parameters[match[1]] = match[2]
    if medium == "aeron:udp" and not parameters.keys() & {"endpoint", "control"}:
        raise broken(
            "a udp channel needs an endpoint or a control address",
            'write it like "aeron:udp?endpoint=localhost:40456"',
        )
    _check_term_length(parameters.get("term-length"))
    return uri


def log_buffer_bytes(channel: str) -> int:
    """Size of the file behind one publication on `channel`, which `check_channel` accepted.

    Over UDP its subscribers' images have as much again.
    """
    medium, _, query = channel.partition("?")
    parameters = dict(text.partition("=")[::2] for text in query.split("|"))
    text = parameters.get("term-length")
    size = _size(text) if text is not None else _DEFAULT_TERM_BYTES[medium]
    return (3 * size + _LOG_METADATA_BYTES) * (1 if medium == "aeron:ipc" else 2)


def _size(text: str) -> int:
    match = _SIZE.match(text)
    return int(match[1]) << _SHIFTS[match[2].lower()] if match else 0


def _check_term_length(text: str | None) -> None:
    if text is None:
        return
    size = _size(text)
    if not _TERM_MIN_BYTES <= size <= _TERM_MAX_BYTES or size & (size - 1):
        raise broken(
            "an Aeron channel's term-length is a power of two from 64k to 1g",
            "write term-length=4m",
        )


def check_fallback_uri(uri: object) -> str:
    """`uri`, if it can be a `payload_fallback_uri`: an Aeron channel or a bridge."""
    if isinstance(uri, str):
        if _BRIDGE.match(uri) and len(uri) <= _MAX_CHARS:
            return uri
        if uri.startswith("aeron:"):
            return check_channel(uri)
    raise broken(
        "an Aeron channel or a bridge:// URI (Wire §10.1.3)",
        'write it like "aeron:udp?endpoint=host:40456", or leave it empty',
    )


Channel = Annotated[
    str,
    BeforeValidator(check_channel),
    Kind("string", "an Aeron `ipc` or `udp` channel", '"aeron:ipc?term-length=4m"'),
]
FallbackUri = Annotated[
    str,
    BeforeValidator(check_fallback_uri),
    Kind("string", "an Aeron channel or `bridge://…`", '"aeron:udp?endpoint=host:40456"'),
]
