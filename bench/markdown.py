"""Tables and lines that the sections of docs/benchmarks.md have in common."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def target(what: str, wanted: str, measured: str, *, is_met: bool, why: str) -> list[str]:
    """A row of a table of targets: figure, target, measured, verdict."""
    return [what, wanted, measured, verdict(is_met=is_met, why=why)]


def verdict(*, is_met: bool, why: str) -> str:
    """How a target's row ends; `why`: the heading of bench/notes.md about a miss."""
    anchor = why.lower().replace(" ", "-")
    return "met" if is_met else f"**missed**: [{why.lower()}](#{anchor})"


def conditions(results: dict[str, Any]) -> str:
    """When a result was taken, and on which machine."""
    return f"{results['when'][:10]}, {machine_of(results)}."


def machine_of(results: dict[str, Any]) -> str:
    """The machine that a result was taken on, and how busy it was."""
    machine, load = results["machine"], results.get("load")
    busy = f"; load average {min(load):.1f} to {max(load):.1f} while it ran" if load else ""
    return (
        f"{machine['processor']}, {machine['cores']} cores, Linux {machine['kernel']}, "
        f"CPython {machine['python']}{busy}"
    )
