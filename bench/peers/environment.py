"""The optional environment: .venv-bench, with the peers' published packages in it."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / ".venv-bench"
REQUIREMENTS = ROOT / "bench" / "requirements-peers.txt"
_STAMP = FOLDER / ".stamp"


def ensure() -> str:
    """Make the environment if it is not there, and return its Python.

    Each package is tried by itself: one that does not install is skipped with its reason.
    """
    python = str(FOLDER / "bin" / "python")
    wanted = REQUIREMENTS.read_text(encoding="ascii") + sys.prefix
    if _STAMP.is_file() and _STAMP.read_text(encoding="utf-8") == wanted:
        return python
    print("bench: making .venv-bench (a minute or two)", flush=True)
    venv.create(FOLDER, with_pip=True, clear=True)
    own = sysconfig.get_paths(vars={"base": str(FOLDER), "platbase": str(FOLDER)})["purelib"]
    # tensorpool and what it needs, as in the environment that this runs in.
    shared = f"{sysconfig.get_paths()['purelib']}\n{ROOT}\n"
    Path(own, "tensorpool-bench.pth").write_text(shared, encoding="utf-8")
    for line in REQUIREMENTS.read_text(encoding="ascii").splitlines():
        if line and not line.startswith("#"):
            _install(python, line)
    _STAMP.write_text(wanted, encoding="utf-8")
    return python


def _install(python: str, requirement: str) -> None:
    command = [python, "-m", "pip", "--disable-pip-version-check", "-q", "install", requirement]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    if run.returncode:
        reason = (run.stderr.strip().splitlines() or ["pip said nothing"])[-1]
        print(f"bench: {requirement} does not install, and is skipped: {reason}")
