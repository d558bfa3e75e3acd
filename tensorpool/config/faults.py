"""What can be wrong with a configuration, said so that the user can put it right.

Every fault names the key, its value, the rule it breaks and the remedy. A value that may
be a secret, or a container that may hold one, never appears in a fault.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from tensorpool.errors import ConfigError

MASK = "********"
"""Stands for the value of a secret that is set."""

_SECRET_KEY = re.compile(r"token|secret|passw", re.IGNORECASE)
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+\Z")
_MAX_VALUE_CHARS = 80
_MAX_INTEGER_BITS = 128

Path = tuple[str | int, ...]
"""Where a value stands in the document: keys and array indexes from the root."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One broken rule.

    Attributes:
        where: dotted key (`driver.control_stream_id`), or the environment variable's name.
        value: the value as TOML would show it, masked if it may be secret; empty if none.
        rule: what must hold, with its source where a specification says so.
        remedy: what to write instead.
        line: line of the file, 1-based; None if unknown or not from the file.
    """

    where: str
    value: str
    rule: str
    remedy: str
    line: int | None = None

    def __str__(self) -> str:
        place = f"line {self.line}: " if self.line is not None else ""
        value = f" = {self.value}" if self.value else ""
        return f"{place}{self.where}{value}\n      rule: {self.rule}\n    remedy: {self.remedy}"


class InvalidConfig(ConfigError):
    """A configuration breaks rules; all of them are told at once."""

    def __init__(self, origin: str, faults: Sequence[Fault]) -> None:
        self.origin = origin
        self.faults = tuple(faults)
        count = "1 fault" if len(self.faults) == 1 else f"{len(self.faults)} faults"
        super().__init__(
            "\n".join([f"{origin}: {count}", *(f"  {fault}" for fault in self.faults)])
        )


def dotted(path: Path) -> str:
    """`path` as TOML would write it: `profiles.camera.payload_pools[0].stride_bytes`."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            key = part if _BARE_KEY.match(part) else _quoted(part)
            text += f".{key}" if text else key
    return text


def is_secret(path: Path) -> bool:
    """Whether the value at `path` may be a secret, going by the names of its keys."""
    return any(isinstance(part, str) and _SECRET_KEY.search(part) for part in path)


def shown(value: object, path: Path = ()) -> str:
    """`value` for a message: short, on one line, without control characters or secrets."""
    if is_secret(path):
        return MASK
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        text = _quoted(value)
    elif isinstance(value, dict):
        return "a table"
    elif isinstance(value, list | tuple):
        if any(isinstance(item, dict | list | tuple) for item in value):
            return f"an array of {len(value)}"
        text = "[" + ", ".join(shown(item) for item in value) + "]"
    elif isinstance(value, int):
        # Python refuses to print integers of thousands of digits, which TOML can hold.
        bits = value.bit_length()
        text = str(value) if bits <= _MAX_INTEGER_BITS else f"an integer of {bits} bits"
    else:
        text = str(value)
    return text if len(text) <= _MAX_VALUE_CHARS else f"{text[: _MAX_VALUE_CHARS - 1]}…"


def _quoted(text: str) -> str:
    escaped = text[: _MAX_VALUE_CHARS + 1].encode("unicode_escape").decode("ascii")
    return '"' + escaped.replace('"', '\\"') + '"'
