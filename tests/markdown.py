"""The fenced code blocks of our Markdown pages, for tests that run them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))

_FENCE = re.compile(
    r"^(?P<indent> *)```(?P<language>[^\n`]*)\n(?P<text>.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)


class Block(NamedTuple):
    """One fenced block.

    Attributes:
        line: its first line's number within the page.
        language: the word behind the fence, empty if there is none.
    """

    line: int
    language: str
    text: str


def blocks_of(page: Path) -> list[Block]:
    """Every fenced block of a page, in order."""
    content = page.read_text(encoding="utf-8")
    return [
        Block(
            content.count("\n", 0, match.start("text")) + 1,
            match["language"].strip(),
            match["text"],
        )
        for match in _FENCE.finditer(content)
    ]
