"""Which machine, when, and how busy: what every result file says of its own making."""

from __future__ import annotations

import json
import os
import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tensorpool.client import hot
from tensorpool.version import __version__

RESULTS = Path(__file__).resolve().parent / "results"


def origin() -> dict[str, Any]:
    """Time, machine and version, for the head of a result file."""
    return {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {
            "processor": _processor(),
            "cores": os.cpu_count(),
            "kernel": platform.release(),
            "python": platform.python_version(),
        },
        "tensorpool": {"version": __version__, "native": hot.is_native},
    }


def save(path: Path, results: dict[str, Any]) -> None:
    """Write a result file, and its folder where there is none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def _processor() -> str:
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        for line in file:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()
