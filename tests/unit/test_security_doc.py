"""docs/security.md promises tests: they exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from tests.fuzz.targets import TARGETS

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs/security.md").read_text()
_REFERENCE = re.compile(r"`(tests/[\w/]+\.py)?(?:::(test_\w+))?`")


def references() -> list[tuple[str, str | None]]:
    """File and test of each reference; `::name` alone is of the file named last before."""
    found: list[tuple[str, str | None]] = []
    for file, name in _REFERENCE.findall(TEXT):
        if file or name:
            found.append((file or found[-1][0], name or None))
    return found


def test_every_test_that_is_named_exists() -> None:
    assert len(references()) > 30
    for file, name in references():
        path = ROOT / file
        assert path.is_file(), file
        functions = {
            node.name
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.FunctionDef)
        }
        assert name is None or name in functions, f"{file}::{name}"


def test_every_fuzz_target_is_named() -> None:
    for name in TARGETS:
        assert f"`{name}`" in TEXT
