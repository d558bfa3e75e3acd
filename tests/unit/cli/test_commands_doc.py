"""docs/commands.md names every command, option, finding and JSON key, and no other."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from tensorpool.cli import qos_watch, regions, streams
from tensorpool.cli.app import app

_ROOT = Path(__file__).parents[3]
_DOC = (_ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
_DOCTOR = _ROOT / "tensorpool" / "doctor"
_DOCTOR_TESTS = _ROOT / "tests"


def section(title: str, level: int = 2) -> str:
    """The text under a heading, up to the next one of its level or above."""
    start = f"\n{'#' * level} {title}\n"
    assert start in _DOC, f"no section {title!r}"
    rest = _DOC.partition(start)[2]
    return re.split(rf"\n#{{1,{level}}} ", rest)[0]


def commands() -> Iterator[tuple[str, Any]]:
    """Every command that does something, by its words."""

    def walk(prefix: str, group: Any) -> Iterator[tuple[str, Any]]:
        for name in group.list_commands(None):
            command = group.get_command(None, name)
            words = f"{prefix} {name}".strip()
            if hasattr(command, "list_commands"):
                yield from walk(words, command)
            else:
                yield words, command

    yield from walk("", typer.main.get_command(app))


@pytest.mark.parametrize(("words", "command"), [pytest.param(*c, id=c[0]) for c in commands()])
def test_every_command_and_option(words: str, command: Any) -> None:
    text = section(f"`tensorpool {words}`")
    documented = set(re.findall(r"`(--[a-z-]+)", text))
    options = {
        name
        for parameter in command.params
        for name in (*parameter.opts, *parameter.secondary_opts)
        if name.startswith("--") and name != "--help"
    }
    assert documented == options
    assert "Exit status" in text


def finding_ids() -> set[str]:
    """The first argument of each `Finding(...)`, and the ids that are chosen from a table."""
    found: set[str] = set()
    for path in _DOCTOR.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "Finding":
                first = node.args[0]
                if isinstance(first, ast.Constant):
                    found.add(str(first.value))
    return found | {"port-taken", "port-denied", "port-address"}


def test_every_finding_is_documented_and_tested() -> None:
    text = section("`tensorpool doctor`")
    assert set(re.findall(r"^\| `([a-z][a-z-]+)` \|", text, re.MULTILINE)) == finding_ids()
    tests = "".join(
        path.read_text(encoding="utf-8") for path in _DOCTOR_TESTS.glob("*/doctor/test_*.py")
    )
    assert not {name for name in finding_ids() if f'"{name}"' not in tests}


@pytest.mark.parametrize(
    ("title", "kind"),
    [
        ("Region", regions.RegionFacts),
        ("Slot", regions.SlotFacts),
        ("QoS row", qos_watch.StreamQos),
        ("Stream row", streams.StreamRow),
    ],
)
def test_the_documented_keys_are_the_reported_ones(title: str, kind: Any) -> None:
    rows = [line.split("|")[1] for line in section(title, 3).splitlines() if line.startswith("| `")]
    documented = [key for row in rows for key in re.findall(r"`(\w+)`", row)]
    assert sorted(documented) == sorted(kind.__annotations__)
