"""How every command prints to people: colours on a terminal only, nothing folded in a pipe.

rich itself keeps colours off when NO_COLOR is set or TERM is dumb.
"""

from __future__ import annotations

from rich.console import Console

_FILE_WIDTH = 200
"""Into a file or a pipe nothing is folded."""


def make_console(*, stderr: bool = False) -> Console:
    """A console for standard output, or for standard error."""
    console = Console(highlight=False, stderr=stderr)
    if console.is_terminal:
        return console
    return Console(highlight=False, stderr=stderr, width=_FILE_WIDTH, no_color=True)
