"""The documentation builds, and every public name is in it."""

import subprocess
import sys
from pathlib import Path

import tensorpool
from tests.markdown import ROOT


def test_it_builds_without_a_warning(tmp_path: Path) -> None:
    built = subprocess.run(
        [
            sys.executable,
            "-m",
            "sphinx",
            "-W",
            "--keep-going",
            "-q",
            "-b",
            "html",
            str(ROOT / "docs"),
            str(tmp_path / "html"),
        ],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    reference = (tmp_path / "html" / "reference.html").read_text(encoding="utf-8")
    missing = [
        name for name in tensorpool.__all__ if name != "__version__" and f".{name}" not in reference
    ]
    assert not missing
