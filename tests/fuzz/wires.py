"""Wire decoders and the region URI parser: bytes in, a message or the module's own error out."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_type_hints

from tensorpool import wire
from tensorpool.shm.errors import UriError
from tensorpool.shm.uri import RegionUri, parse_region_uri
from tensorpool.wire import control, driver
from tensorpool.wire.fields import Array, Group, Padding, Primitive, VarData

_BEHIND = b"\xee" * 9
# Wire §15.22, written down a second time: what the parser lets through must match.
_ABNF = re.compile(r"shm:file\?path=(/[!-{}~]*)(\|require_hugepages=(true|false))?")


def messages() -> list[Any]:
    """Two messages of every kind: one with text, data and entries, one at its bounds."""
    found = []
    for schema in (control.CONTROL, driver.DRIVER):
        for codec in schema.by_template.values():
            found += [_build(codec.message_type, full=True), _build(codec.message_type, full=False)]
    return found


def seeds() -> list[bytes]:
    """Every message, once full and once at its bounds."""
    return [wire.encode(message) for message in messages()]


@contextmanager
def open_decoder(directory: Path) -> Iterator[Callable[[bytes], None]]:
    """`wire.decode`: a message that survives its own encoding, or a WireError."""
    yield check_decoder


def check_decoder(data: bytes) -> None:
    """The message in `data` comes back from its own encoding; bytes behind it change nothing."""
    try:
        message = wire.decode(data)
    except wire.WireError as error:
        assert str(error), "an error says what is wrong"
        return
    assert wire.decode(memoryview(bytes(data) + _BEHIND)) == message
    if _is_ascii(message):
        assert wire.decode(wire.encode(message)) == message


@contextmanager
def open_uri(directory: Path) -> Iterator[Callable[[bytes], None]]:
    """`parse_region_uri`: exactly the language of Wire §15.22, or a UriError."""
    yield check_uri


def check_uri(data: bytes) -> None:
    """A parsed URI matches the ABNF, and its own text parses to itself; a refused one does not."""
    text = data.decode("utf-8", "surrogateescape")
    match = _ABNF.fullmatch(text)
    is_valid = match is not None and "?" not in match[1]
    try:
        uri = parse_region_uri(text)
    except UriError as error:
        assert not is_valid, (text, error)
        return
    assert is_valid, text
    assert uri.path.startswith("/")
    assert parse_region_uri(str(uri)) == uri


def uri_seeds() -> list[bytes]:
    """Valid URIs and the ways to break them."""
    path = "/dev/shm/tensorpool-user/default/10000/1/header.ring"
    texts = [
        str(RegionUri(path)),
        str(RegionUri(path, require_hugepages=True)),
        f"shm:file?path={path}",
        "shm:file?path=/",
        f"shm:file?require_hugepages=true|path={path}",
        f"shm:file?path={path}|require_hugepages=TRUE",
        f"shm:file?path={path}|require_hugepages=true|path=/etc/passwd",
        f"shm:file?path={path}%2e%2e\n",
        "shm:file?path=/é",
        "shm:anon?path=/x",
    ]
    return [text.encode() for text in texts]


def _is_ascii(value: Any) -> bool:
    if isinstance(value, str):
        return value.isascii()
    return all(map(_is_ascii, value)) if isinstance(value, tuple) else True


def _build(message_type: Any, *, full: bool) -> Any:
    hints = field_encodings(message_type)
    return message_type(**{name: _value(hints[name], full=full) for name in message_type._fields})


def field_encodings(message_type: Any) -> dict[str, Any]:
    """How each field of a message stands on the wire."""
    hints = get_type_hints(message_type, include_extras=True)
    return {name: hint.__metadata__[0] for name, hint in hints.items()}


def _value(encoding: Any, *, full: bool) -> Any:
    match encoding:
        case Primitive(code, size, null):
            top = (1 << 8 * size - (1 if code.islower() else 0)) - 1
            return 1 if full else (None if null is not None else top)
        case Array(item, length):
            return (_value(item, full=full),) * length
        case Padding(length):
            return bytes(length)
        case VarData(text):
            if not full:
                return "" if text else b""
            return "aeron:ipc?term-length=4m" if text else b"\x00\xff data"
        case Group(entry):
            return (_build(entry, full=True), _build(entry, full=False)) if full else ()
    raise AssertionError(encoding)
