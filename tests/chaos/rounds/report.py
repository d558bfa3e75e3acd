"""The table of docs/reliability.md that rounds make."""

from __future__ import annotations

import os
import platform
from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

from tests.chaos.rounds.play import Round

PAGE = Path(__file__).parents[3] / "docs" / "reliability.md"
BEGIN, END = "<!-- rounds: begin (generated) -->", "<!-- rounds: end (generated) -->"
_ROUTINE = frozenset({"attached"})


def write_matrix(rounds: list[Round], seed: int, *, is_whole: bool) -> None:
    """Replace the generated part of the page; `is_whole`: no invariant was broken."""
    text = PAGE.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    PAGE.write_text(
        before + BEGIN + "\n\n" + matrix(rounds, seed, is_whole=is_whole) + "\n" + END + after,
        encoding="utf-8",
    )


def matrix(rounds: list[Round], seed: int, *, is_whole: bool) -> str:
    """The rounds by fault, as Markdown; those with two faults are one row."""
    when = datetime.now(UTC).strftime("%Y-%m-%d")
    machine = f"{os.cpu_count()} cores, Linux {platform.release()}"
    verdict = "no invariant was broken" if is_whole else "**an invariant was broken** after them"
    lines = [
        f"{when}, seed {seed}, {len(rounds)} rounds ({machine}): {verdict}.",
        "",
        "| fault | rounds | silence, ms | back, ms | what clients told |",
        "| --- | --- | --- | --- | --- |",
    ]
    by_fault: dict[str, list[Round]] = {}
    for played in rounds:
        key = played.faults[0] if len(played.faults) == 1 else "two faults at once"
        by_fault.setdefault(key, []).append(played)
    lines += [_row(fault, played) for fault, played in sorted(by_fault.items())]
    return "\n".join(lines) + "\n"


def _row(fault: str, rounds: list[Round]) -> str:
    silences = [silence for played in rounds for silence in played.silence_ms]
    backs = [played.back_ms for played in rounds]
    return (
        f"| {fault} | {len(rounds)} | {median(silences):.0f} / {max(silences):.0f} "
        f"| {median(backs):.0f} / {max(backs):.0f} | {_told(rounds)} |"
    )


def _told(rounds: Iterable[Round]) -> str:
    """Events by the share of rounds in which some client told them."""
    played = list(rounds)
    shares = Counter(name for one in played for name in one.events if name not in _ROUTINE)
    told = [f"{name} {100 * count / len(played):.0f} %" for name, count in shares.most_common()]
    return ", ".join(told) or "nothing"
