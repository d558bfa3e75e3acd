"""What the models say about their fields beside the type: rule, default, environment name.

The loader, the fault messages, `docs/configuration.md` and its test all read these, so a
rule is worded once.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Kind:
    """How a value is written in TOML.

    Attributes:
        toml: name of the TOML type.
        rule: what a value must be, for messages and the documentation.
        example: a valid value as TOML text.
    """

    toml: str
    rule: str
    example: str


@dataclass(frozen=True, slots=True)
class Computed:
    """The default follows from other values; `text` says how."""

    text: str


@dataclass(frozen=True, slots=True)
class Inherits:
    """The default is the effective value of another table's key."""

    source: str

    @property
    def text(self) -> str:
        """The default, for the documentation."""
        return f"`{self.source}`"


@dataclass(frozen=True, slots=True)
class Environment:
    """Environment variables of a key in order of precedence, instead of the derived one."""

    names: tuple[str, ...]
