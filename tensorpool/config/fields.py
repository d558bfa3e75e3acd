"""The types of configuration values, each with its rule and remedy.

A validator here raises through `broken`, which carries rule and remedy to the fault.
Types are strict: TOML tells integers, strings and booleans apart, and so do we.
"""

import ipaddress
import os
import re
from typing import Annotated, Literal, NamedTuple

from pydantic import BeforeValidator, Field, PlainValidator, SecretStr, WithJsonSchema
from pydantic_core import PydanticCustomError

from tensorpool.config.metadata import Kind
from tensorpool.shm.layout import STRIDE_ALIGNMENT_BYTES, is_power_of_two
from tensorpool.shm.uri import is_uri_path

UINT16_MAX = 0xFFFF
UINT32_MAX = 0xFFFF_FFFF
UINT64_MAX = 0xFFFF_FFFF_FFFF_FFFF
INT32_MAX = 0x7FFF_FFFF
NAME_MAX_CHARS = 32
"""The registry's records keep this much of a stream's and a profile's name."""
NAMESPACE_MAX_CHARS = 255
PATH_MAX_CHARS = 1024
"""Leaves room below PATH_MAX for the canonical layout, and for Aeron's file names."""
MIN_PAGE_BYTES = 4096
TEXT_MAX_CHARS = 1024
LIST_MAX_ITEMS = 64

_RULE = "rule"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\Z")
_RANGE = re.compile(r"\s*([0-9]{1,20})\s*-\s*([0-9]{1,20})\s*\Z")
_OCTAL = re.compile(r"(?:0o?)?[0-7]{3}\Z")
_RANGE_LENGTH = 2
_OWNER_RW = 0o600
_EXECUTE = 0o111
_OTHERS = 0o007


def broken(rule: str, remedy: str) -> PydanticCustomError:
    """The error of a value that breaks `rule`; `remedy` says what to write."""
    return PydanticCustomError(_RULE, "{rule}", {"rule": rule, "remedy": remedy})


class StreamIdRange(NamedTuple):
    """An inclusive range of stream ids (Driver §11)."""

    first: int
    last: int

    def __str__(self) -> str:
        return f"{self.first}-{self.last}"


def _text(value: object, rule: str, remedy: str) -> str:
    if not isinstance(value, str):
        raise broken(rule, remedy)
    return value


def _power_of_two(value: object) -> object:
    if type(value) is int and not is_power_of_two(value):
        raise broken(
            "a power of two, for seq & (header_nslots - 1) finds the slot (Driver §17)",
            f"write {_nearest_power_of_two(value)}",
        )
    return value


def _nearest_power_of_two(value: int) -> int:
    if value < 1:
        return 64
    return int(min(1 << (value - 1).bit_length(), 1 << 31))


def _stride(value: object) -> object:
    if type(value) is int and (value <= 0 or value % STRIDE_ALIGNMENT_BYTES):
        up = max(1, -(-value // STRIDE_ALIGNMENT_BYTES)) * STRIDE_ALIGNMENT_BYTES
        raise broken(
            f"a positive multiple of {STRIDE_ALIGNMENT_BYTES} bytes (Wire §15.22)",
            f"write {min(up, UINT32_MAX + 1 - STRIDE_ALIGNMENT_BYTES)}",
        )
    return value


def _page_size(value: object) -> object:
    if type(value) is int and (value < MIN_PAGE_BYTES or not is_power_of_two(value)):
        raise broken(
            f"a power of two from {MIN_PAGE_BYTES} on",
            "write 4096, or the page size of the hugetlbfs mount (2097152 for 2 MiB pages)",
        )
    return value


def _printable(value: object) -> str:
    rule = f"a string of printable characters, at most {TEXT_MAX_CHARS}"
    remedy = 'write plain text, for example "driver-01"'
    text = _text(value, rule, remedy)
    if not text.isprintable() or len(text) > TEXT_MAX_CHARS:
        raise broken(rule, remedy)
    return text


def _token(value: object) -> str:
    rule = (
        f"a string of printable ASCII characters, at most {TEXT_MAX_CHARS}: the message that "
        "carries it holds nothing else (Driver appendix A)"
    )
    remedy = "write a long random word, or leave it empty to refuse every shutdown request"
    text = _text(value, rule, remedy)
    if not text.isprintable() or not text.isascii() or len(text) > TEXT_MAX_CHARS:
        raise broken(rule, remedy)
    return text


def _name(value: object) -> str:
    rule = (
        f"a safe path component: letters, digits, '.', '_', '-', not starting with one of the "
        f"latter three, at most {NAME_MAX_CHARS} characters"
    )
    remedy = 'rename it, for example "cam1"'
    text = _text(value, rule, remedy)
    if not _NAME.match(text) or len(text) > NAME_MAX_CHARS:
        raise broken(rule, remedy)
    return text


def _namespace(value: object) -> str:
    rule = (
        "one safe path component: letters, digits, '.', '_', '-', not starting with one of the "
        f"latter three, at most {NAMESPACE_MAX_CHARS} characters (Wire §15.21a.3)"
    )
    remedy = 'write namespace = "default" or a name like "lab1"'
    text = _text(value, rule, remedy)
    if not _NAME.match(text) or len(text) > NAMESPACE_MAX_CHARS:
        raise broken(rule, remedy)
    return text


def _absolute_path(value: object) -> str:
    rule = (
        "an absolute, normalized path of visible ASCII without '?', '|' and spaces, at most "
        f"{PATH_MAX_CHARS} characters: region URIs carry it (Wire §15.22)"
    )
    text = _text(value, rule, 'write a path like "/dev/shm/tensorpool"')
    if not text.startswith("/"):
        raise broken(rule, "start it at the root, like /dev/shm/tensorpool")
    if not is_uri_path(text) or len(text) > PATH_MAX_CHARS:
        raise broken(rule, "choose a path of plain characters; a symlink to it will not do")
    trimmed = "/" + text.strip("/")
    if trimmed != os.path.normpath(trimmed):
        raise broken(rule, f"write {os.path.normpath(trimmed)}")
    return trimmed


def _permissions(value: object) -> int:
    rule = (
        "an octal mode string with read and write for the owner, no execute bit and no bit for "
        "others: clients refuse files that others may open"
    )
    remedy = 'write "660" to share with the group, or "600" to keep it private'
    text = _text(value, rule, remedy)
    if not _OCTAL.match(text):
        raise broken(rule, remedy)
    mode = int(text.removeprefix("0o"), 8)
    if mode & _OWNER_RW != _OWNER_RW or mode & (_EXECUTE | _OTHERS):
        raise broken(rule, remedy)
    return mode


def _range(value: object, highest: int) -> StreamIdRange:
    rule = f'"first-last" or [first, last], 1 <= first <= last <= {highest} (Driver §11)'
    remedy = 'write it like "20000-29999", or leave it out'
    if isinstance(value, StreamIdRange):
        return value
    if isinstance(value, str) and (match := _RANGE.match(value)):
        bounds: list[object] = [int(match[1]), int(match[2])]
    elif isinstance(value, list) and len(value) == _RANGE_LENGTH:
        bounds = value
    else:
        raise broken(rule, remedy)
    integers = [bound for bound in bounds if type(bound) is int]
    if len(integers) != _RANGE_LENGTH:
        raise broken(rule, remedy)
    first, last = integers
    if first > last:
        raise broken(rule, f'swap the two: "{last}-{first}"')
    if first < 1 or last > highest:
        raise broken(rule, remedy)
    return StreamIdRange(first, last)


def _pool_range(value: object) -> StreamIdRange:
    return _range(value, UINT32_MAX - 1)


def _aeron_range(value: object) -> StreamIdRange:
    return _range(value, INT32_MAX)


def _bind_address(value: object) -> str:
    rule = "an IP address of this host"
    remedy = 'write "127.0.0.1" for this host only, "0.0.0.0" for every interface'
    text = _text(value, rule, remedy)
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        raise broken(rule, remedy) from None


def _integer(first: int, last: int, example: str) -> Kind:
    return Kind("integer", f"{first} to {last}", example)


Uint32 = Annotated[int, Field(strict=True, ge=0, le=UINT32_MAX), _integer(0, UINT32_MAX, "1000")]
PositiveUint32 = Annotated[
    int, Field(strict=True, ge=1, le=UINT32_MAX), _integer(1, UINT32_MAX, "1000")
]
CounterCount = Annotated[
    int, Field(strict=True, ge=8192, le=1_048_576), _integer(8192, 1_048_576, "131072")
]
"""Aeron has no fewer; more take above 640 MiB."""
Uint64 = Annotated[
    int, Field(strict=True, ge=0, le=UINT64_MAX), _integer(0, UINT64_MAX, "3000000000")
]
AeronStreamId = Annotated[
    int, Field(strict=True, ge=1, le=INT32_MAX), _integer(1, INT32_MAX, "1000")
]
"""Aeron's stream ids are int32, and 0 means unset in the messages that carry them."""
OptionalAeronStreamId = Annotated[
    int, Field(strict=True, ge=0, le=INT32_MAX), _integer(0, INT32_MAX, "31000")
]
PoolStreamId = Annotated[
    int, Field(strict=True, ge=0, le=UINT32_MAX - 1), _integer(0, UINT32_MAX - 1, "10000")
]
"""A tensor stream's id: uint32, whose highest value is the messages' null."""
PoolId = Annotated[int, Field(strict=True, ge=0, le=UINT16_MAX), _integer(0, UINT16_MAX, "1")]
Port = Annotated[int, Field(strict=True, ge=0, le=UINT16_MAX), _integer(0, UINT16_MAX, "9464")]
ForceMode = Annotated[int, Field(strict=True, ge=0, le=2), _integer(0, 2, "0")]
LogLevel = Annotated[int, Field(strict=True, ge=0, le=4), _integer(0, 4, "2")]
Flag = Annotated[bool, Field(strict=True), Kind("boolean", "true or false", "false")]
Text = Annotated[
    str,
    BeforeValidator(_printable),
    Kind("string", f"printable, at most {TEXT_MAX_CHARS} characters", '"driver-01"'),
]
Secret = Annotated[
    SecretStr,
    BeforeValidator(_token),
    Kind("string", f"printable ASCII, at most {TEXT_MAX_CHARS} characters", '"..."'),
]
HeaderSlots = Annotated[
    int,
    Field(strict=True, ge=1, le=1 << 31),
    BeforeValidator(_power_of_two),
    Kind("integer", f"a power of two, 1 to {1 << 31}", "64"),
]
StrideBytes = Annotated[
    int,
    Field(strict=True, ge=1, le=UINT32_MAX, multiple_of=STRIDE_ALIGNMENT_BYTES),
    BeforeValidator(_stride),
    Kind("integer", f"a multiple of {STRIDE_ALIGNMENT_BYTES}, up to {UINT32_MAX}", "1048576"),
]
PageBytes = Annotated[
    int,
    Field(strict=True, ge=1, le=UINT32_MAX),
    BeforeValidator(_page_size),
    Kind("integer", f"a power of two, {MIN_PAGE_BYTES} to {1 << 31}", "4096"),
]
Name = Annotated[
    str,
    BeforeValidator(_name),
    Kind("string", f"letters, digits, `.`, `_`, `-`; at most {NAME_MAX_CHARS}", '"cam1"'),
]
Namespace = Annotated[
    str,
    BeforeValidator(_namespace),
    Kind("string", "letters, digits, `.`, `_`, `-`", '"default"'),
]
AbsolutePath = Annotated[
    str,
    BeforeValidator(_absolute_path),
    Kind("string", "an absolute path, as region URIs can carry it", '"/dev/shm/tensorpool"'),
]
AbsolutePaths = Annotated[
    list[AbsolutePath],
    Field(strict=True, min_length=1, max_length=LIST_MAX_ITEMS),
    Kind("array of strings", "absolute paths", '["/dev/shm/tensorpool"]'),
]
BindAddress = Annotated[
    str,
    BeforeValidator(_bind_address),
    Kind("string", "an IP address of this host", '"127.0.0.1"'),
]
Permissions = Annotated[
    int,
    PlainValidator(_permissions),
    WithJsonSchema({"type": "string", "pattern": "^(0o?)?[0-7]{3}$"}),
    Kind("string", "octal; owner `rw`, no `x`, nothing for others", '"660"'),
]
_RANGE_SCHEMA = WithJsonSchema(
    {
        "anyOf": [
            {"type": "string", "pattern": "^[0-9]+-[0-9]+$"},
            {"type": "array", "items": {"type": "integer"}, "minItems": 2, "maxItems": 2},
        ]
    }
)
_RANGE_KIND = Kind("string or array", '`"a-b"` or `[a, b]`, 1 ≤ a ≤ b', '"20000-29999"')
PoolIdRange = Annotated[
    StreamIdRange | None, PlainValidator(_pool_range), _RANGE_SCHEMA, _RANGE_KIND
]
AeronIdRange = Annotated[
    StreamIdRange | None, PlainValidator(_aeron_range), _RANGE_SCHEMA, _RANGE_KIND
]
IdleStrategy = Annotated[
    Literal["backoff", "busy_spin"], Kind("string", "`backoff` or `busy_spin`", '"backoff"')
]
Threading = Annotated[
    Literal["shared", "shared_network", "dedicated"],
    Kind("string", "`shared`, `shared_network` or `dedicated`", '"shared"'),
]
