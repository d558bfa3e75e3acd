"""`tools/find-python`: what make uses where plain `python3` is too old, broken or absent."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

TOOLS = Path(__file__).parents[2] / "tools"
MINOR = sys.version_info.minor
VERSION = ".".join(map(str, sys.version_info[:3]))


def find_python(*directories: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHON"}
    return subprocess.run(
        [TOOLS / "find-python", *directories],
        env=inherited | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def place(path: Path, script: str) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def this_python(path: Path) -> Path:
    return place(path, f'exec "{sys.executable}" "$@"')


def pretending(path: Path, disguise: str) -> Path:
    """An interpreter that runs the statement `disguise` before what it is given to run."""
    start = f"import sys; {disguise}; exec(sys.stdin.read())"
    return place(path, f'shift 2; exec "{sys.executable}" -I -c \'{start}\' "$@"')


def test_a_versioned_interpreter_is_found_beside_an_older_python3(tmp_path: Path) -> None:
    pretending(tmp_path / "python3", "sys.version_info = (3, 11, 2)")
    this_python(tmp_path / f"python3.{MINOR}")

    result = find_python(tmp_path)

    assert (result.returncode, result.stdout.strip()) == (0, sys.executable)


def test_a_shim_that_does_not_run_is_passed_over(tmp_path: Path) -> None:
    place(tmp_path / "shims" / f"python3.{MINOR}", "echo 'command not found' >&2; exit 127")
    this_python(tmp_path / "bin" / f"python3.{MINOR}")

    result = find_python(tmp_path / "shims", tmp_path / "bin")

    assert (result.returncode, result.stdout.strip()) == (0, sys.executable)


def test_a_fitting_plain_python3_will_do(tmp_path: Path) -> None:
    this_python(tmp_path / "python3")

    assert find_python(tmp_path).stdout.strip() == sys.executable


def test_none_that_fits_is_told_with_what_was_seen_and_the_remedy(tmp_path: Path) -> None:
    pretending(tmp_path / "python3", "sys.version_info = (3, 11, 2)")
    place(tmp_path / "python3.12", "exit 127")

    result = find_python(tmp_path)

    assert result.returncode == 1
    assert result.stdout == ""
    assert f"{tmp_path}/python3 is Python 3.11.2" in result.stderr
    assert f"{tmp_path}/python3.12 does not run" in result.stderr
    assert "Remedy: install CPython 3.12 or newer" in result.stderr
    assert "make PYTHON=" in result.stderr


def test_a_chosen_interpreter_is_taken(tmp_path: Path) -> None:
    chosen = this_python(tmp_path / "mine")

    assert find_python(PYTHON=str(chosen)).stdout.strip() == sys.executable


@pytest.mark.parametrize(
    ("disguise", "because"),
    [
        ("sys.version_info = (3, 11, 2)", "is Python 3.11.2"),
        ("sys.version_info = (3, 99, 0)", "is Python 3.99.0"),
        ('sys.implementation.name = "pypy"', "is pypy, not CPython"),
        ('sys.modules["ensurepip"] = None', f"is Python {VERSION} without venv and ensurepip"),
    ],
)
def test_a_chosen_interpreter_that_does_not_fit_is_refused(
    tmp_path: Path, disguise: str, because: str
) -> None:
    chosen = pretending(tmp_path / "mine", disguise)

    result = find_python(PYTHON=str(chosen))

    assert result.returncode == 1
    assert result.stdout == ""
    assert f"PYTHON={chosen} {because}" in result.stderr
    assert "Remedy:" in result.stderr
