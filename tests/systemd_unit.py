"""deploy/systemd/tensorpool.service, read as systemd reads it."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from collections import defaultdict
from pathlib import Path

from tests.manifests import REPOSITORY

UNIT = REPOSITORY / "deploy" / "systemd" / "tensorpool.service"
_GROUP = "@"


def service() -> dict[str, list[str]]:
    """Each key of [Service] with its values, in order: keys may be repeated."""
    found: dict[str, list[str]] = defaultdict(list)
    section = ""
    for line in UNIT.read_text(encoding="ascii").splitlines():
        if line.startswith("["):
            section = line
        elif section == "[Service]" and line and not line.startswith("#"):
            key, _, value = line.partition("=")
            found[key].append(value)
    return found


def command() -> list[str]:
    """ExecStart's words."""
    (text,) = service()["ExecStart"]
    return shlex.split(text)


def analyze(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run systemd-analyze, which needs no systemd that runs."""
    program = shutil.which("systemd-analyze")
    assert program is not None, "these tests need systemd-analyze: install the systemd package"
    return subprocess.run([program, *arguments], capture_output=True, text=True, check=False)


def allowed_system_calls() -> set[str]:
    """What the unit's SystemCallFilter= leaves."""
    allowed: set[str] = set()
    for line in service()["SystemCallFilter"]:
        names = {name for word in line.lstrip("~").split() for name in _expand(word)}
        allowed = allowed - names if line.startswith("~") else allowed | names
    return allowed


def _expand(word: str) -> set[str]:
    if not word.startswith(_GROUP):
        return {word}
    listed = analyze("--no-pager", "syscall-filter", word)
    assert listed.returncode == 0, listed.stderr
    lines = [line.strip() for line in listed.stdout.splitlines()[1:]]
    words = [line for line in lines if line and not line.startswith("#")]
    return {name for each in words for name in _expand(each)}
