"""docs/conformance.md from the clause table and the tests' own marks.

    python -m tools.conformance            write it
    python -m tools.conformance --check    say what is wrong, exit 1 if anything is

Marks are read from the sources (`ast`), so nothing is imported or started.
"""

from __future__ import annotations

import ast
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import tomli

ROOT = Path(__file__).parents[1]
TESTS = ROOT / "tests"
CLAUSES = TESTS / "conformance" / "clauses.toml"
DOCUMENT = ROOT / "docs" / "conformance.md"
BEGIN, END = "<!-- clauses: begin (generated) -->", "<!-- clauses: end -->"
PARTIES = ("driver", "supervisor", "gc", "client", "producer", "consumer", "deployment")
LEVELS = ("MUST", "MUST NOT", "SHOULD", "SHOULD NOT", "MAY", "LAYOUT")
_FIELDS = 3


class Clause(NamedTuple):
    """One normative sentence; `argued` is empty unless it says why no test proves it."""

    id: str
    party: str
    level: str
    says: str
    argued: str


class Mark(NamedTuple):
    """A test and one thing that it says it proves."""

    test: str
    proves: str


@dataclass(frozen=True)
class Marks:
    """Every `clause` and `config_key` mark of the tests."""

    clauses: list[Mark]
    config_keys: list[Mark]
    faults: list[str]


def read_clauses(text: str) -> dict[str, Clause]:
    """The table, by id, in its order.

    Raises:
        ValueError: an entry that is no clause.
    """
    clauses: dict[str, Clause] = {}
    for section, entries in tomli.loads(text).items():
        for number, fields in entries.items():
            clause_id = f"{section}-{number}"
            if not _FIELDS <= len(fields) <= _FIELDS + 1:
                raise ValueError(f"{clause_id}: [party, level, text] or with a fourth, why not")
            party, level, says, *argued = fields
            if party not in PARTIES or level not in LEVELS or not all(fields):
                raise ValueError(f"{clause_id}: unknown party or level, or an empty text")
            clauses[clause_id] = Clause(clause_id, party, level, says, "".join(argued))
    return clauses


def read_marks(tests: Path = TESTS) -> Marks:
    """The marks of every test module below `tests`."""
    marks = Marks([], [], [])
    for path in sorted(tests.rglob("test_*.py")):
        name = path.relative_to(tests.parent).as_posix()
        _Reader(name, marks).visit(ast.parse(path.read_text(encoding="utf-8"), name))
    return marks


class _Reader(ast.NodeVisitor):
    """Collects the marks in the decorators of one module's tests."""

    def __init__(self, module: str, marks: Marks) -> None:
        self._module = module
        self._marks = marks
        self._read: set[ast.Call] = set()

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        for decorator in node.decorator_list:
            for call in ast.walk(decorator):
                if isinstance(call, ast.Call):
                    self._take(call, f"{self._module}::{node.name}")
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        if _mark_name(node) is not None and node not in self._read:
            self._fault(node, "a mark that stands in no decorator of a test is not seen")
        self.generic_visit(node)

    def _take(self, call: ast.Call, test: str) -> None:
        name = _mark_name(call)
        if name is None:
            return
        self._read.add(call)
        if not call.args or call.keywords:
            self._fault(call, f"{name} takes one or more names")
        into = self._marks.clauses if name == "clause" else self._marks.config_keys
        for argument in call.args:
            if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                mark = Mark(test, argument.value)
                if mark not in into:
                    into.append(mark)
            else:
                self._fault(call, f"{name} takes literal text")

    def _fault(self, node: ast.Call, why: str) -> None:
        self._marks.faults.append(f"{self._module}:{node.lineno}: {why}")


def _mark_name(call: ast.Call) -> str | None:
    """`clause` or `config_key` if this is `pytest.mark.…(…)`."""
    function = call.func
    if (
        isinstance(function, ast.Attribute)
        and function.attr in {"clause", "config_key"}
        and isinstance(function.value, ast.Attribute)
        and function.value.attr == "mark"
    ):
        return function.attr
    return None


def faults(clauses: Mapping[str, Clause], marks: Marks) -> Iterator[str]:
    """Everything that would make the document lie."""
    yield from marks.faults
    proven = {mark.proves for mark in marks.clauses}
    for mark in marks.clauses:
        if mark.proves not in clauses:
            yield f"{mark.test}: there is no clause {mark.proves!r} in {CLAUSES.name}"
    for clause in clauses.values():
        if clause.id not in proven and not clause.argued:
            yield f"{clause.id}: no test proves it and no line argues the gap: {clause.says}"
        if clause.id in proven and clause.argued:
            yield f"{clause.id}: a test proves it: remove the line that argues the gap"


def render(clauses: Mapping[str, Clause], marks: Marks) -> str:
    """The generated part of the document."""
    proofs = defaultdict(list)
    for mark in marks.clauses:
        proofs[mark.proves].append(mark.test)
    n_argued = sum(1 for clause in clauses.values() if clause.argued)
    n_gaps = sum(1 for c in clauses.values() if not proofs[c.id] and not c.argued)
    n_proven = len(clauses) - n_argued - n_gaps
    lines = [
        BEGIN,
        "",
        "## Clauses",
        "",
        f"{len(clauses)} clauses: {n_proven} proven, {n_argued} gaps argued, {n_gaps} gaps.",
    ]
    section = ""
    for clause in clauses.values():
        if clause.id.split("-")[0] != section:
            section = clause.id.split("-")[0]
            lines += ["", f"### {section}", "", "| clause | binds | level | demands | proof |"]
            lines.append("| --- | --- | --- | --- | --- |")
        tests = "<br>".join(f"`{_short(test)}`" for test in proofs[clause.id])
        proof = tests or (f"*Gap, argued:* {clause.argued}" if clause.argued else "**GAP**")
        lines.append(f"| {clause.id} | {clause.party} | {clause.level} | {clause.says} | {proof} |")
    lines += ["", "## Keys of the seed document", "", "| key | proof |", "| --- | --- |"]
    by_key = defaultdict(list)
    for mark in marks.config_keys:
        by_key[mark.proves].append(mark.test)
    for key in sorted(by_key):
        lines.append(f"| `{key}` | " + "<br>".join(f"`{_short(t)}`" for t in by_key[key]) + " |")
    return "\n".join([*lines, "", END])


def _short(test: str) -> str:
    return test.removeprefix("tests/")


def assemble(document: str, generated: str) -> str:
    """`document` with its generated part replaced; what stands around it is people's.

    Raises:
        ValueError: the markers are missing.
    """
    head, begin, rest = document.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{DOCUMENT.name} has lost its markers {BEGIN!r} and {END!r}")
    return head + generated + tail


def check() -> list[str]:
    """What is wrong with marks, table or document; empty if nothing is."""
    clauses, marks = read_clauses(CLAUSES.read_text(encoding="utf-8")), read_marks()
    found = list(faults(clauses, marks))
    written = DOCUMENT.read_text(encoding="utf-8")
    if not found and assemble(written, render(clauses, marks)) != written:
        found.append(f"{DOCUMENT.name} is stale: run `python -m tools.conformance`")
    return found


def main(arguments: list[str]) -> int:
    """The command."""
    if arguments != ["--check"]:
        clauses, marks = read_clauses(CLAUSES.read_text(encoding="utf-8")), read_marks()
        generated = render(clauses, marks)
        DOCUMENT.write_text(assemble(DOCUMENT.read_text(encoding="utf-8"), generated), "utf-8")
    found = check()
    for line in found:
        print(line, file=sys.stderr)  # noqa: T201 - a command's output
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
