"""The progress of a benchmark: a line on a terminal, nothing elsewhere."""

import os
import pty
import subprocess
import sys

_PROGRAM = "from bench.progress import rounds\nprint(list(rounds(3, 'kills')))"


def test_a_line_on_a_terminal_that_is_gone_at_the_end() -> None:
    terminal, end = pty.openpty()
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM], stdout=subprocess.PIPE, stderr=end, check=True, text=True
    )
    os.close(end)
    shown = os.read(terminal, 4096).decode()
    os.close(terminal)
    assert done.stdout == "[0, 1, 2]\n"
    assert "2/3 kills" in shown
    assert shown.endswith("\r\x1b[K")


def test_nothing_in_a_file() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM], capture_output=True, check=True, text=True
    )
    assert done.stderr == ""
