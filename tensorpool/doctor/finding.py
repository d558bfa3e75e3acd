"""What an examination finds."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Severity(enum.StrEnum):
    """How much it matters."""

    NOTE = "note"
    """Works, but could do better; changes no exit status."""
    WARNING = "warning"
    """Works now, or mostly."""
    ERROR = "error"
    """Does not work, or is not safe."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One broken rule.

    Attributes:
        id: stable name, for scripts and for docs/commands.md.
        severity: see there.
        seen: what was found, with its value.
        rule: what must hold.
        remedy: what to do.
    """

    id: str
    severity: Severity
    seen: str
    rule: str
    remedy: str
