"""A soak of a few seconds, end to end: it reports, it ends when told, it leaves nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil

from tests.support import wait_until

DEADLINE_S = 90.0
SMALL = ["--streams", "3", "--clients", "9", "--sample-s", "0.3", "--churn-hz", "6"]
SMALL += ["--warm-up-minutes", "0.05"]


def command(folder: Path, *arguments: str) -> list[str]:
    page, result = folder / "reliability.md", folder / "results" / "soak.json"
    where = ["--output", str(page), "--result", str(result)]
    return [sys.executable, "-m", "bench.soak", *SMALL, *where, *arguments]


def result_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "results" / "soak.json").read_text("utf-8"))
    return found


def assert_nothing_left(result: dict[str, Any]) -> None:
    assert result["problems"] == []
    assert not os.path.exists(result["root"])
    for process in psutil.process_iter():
        try:
            assert result["root"] not in " ".join(process.cmdline())
        except psutil.Error:
            continue


def test_a_short_soak_reports_and_leaves_nothing(tmp_path: Path) -> None:
    done = subprocess.run(
        command(tmp_path, "--minutes", "0.15", "--kill-s", "3", "--freeze-s", "4"),
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    result = result_of(tmp_path)
    assert_nothing_left(result)
    assert result["passed"] is True
    tally = result["tally"]
    assert tally["error_count"] == 0
    assert tally["checked"] > 0
    assert tally["detaches"] > 0
    assert {"SIGKILL of a worker", "stop of a worker for 4 s"} <= set(result["faults"])
    assert result["totals"]["tensorpool_driver_epoch_bumps"] > 3
    seen = {(series["measure"], series["subject"]) for series in result["series"]}
    for process in ("launcher", "media_driver", "driver", "supervisor", "gc", "clients"):
        assert {(m, process) for m in ("private", "resident", "descriptors", "threads")} <= seen
    for pair in (
        ("queues", "media_driver"),
        ("shared", "regions"),
        ("shared", "term buffers"),
        ("epochs", "namespace"),
        ("leases", "registry"),
        ("lag", "driver"),
    ):
        assert pair in seen
    page = (tmp_path / "reliability.md").read_text("utf-8")
    assert "| private memory | driver |" in page
    assert "![" in page
    assert (tmp_path / "soak.svg").read_text("utf-8").startswith("<svg")


def test_a_signal_ends_it_early_with_a_report(tmp_path: Path) -> None:
    running = subprocess.Popen(
        command(tmp_path, "--minutes", "60"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        # Written with the first sample.
        wait_until((tmp_path / "results" / "soak.json").exists, DEADLINE_S, "the first sample")
        running.terminate()
        _, errors = running.communicate(timeout=DEADLINE_S)
    finally:
        running.kill()
        running.wait()
    assert running.returncode == 128 + signal.SIGTERM, errors
    result = result_of(tmp_path)
    assert result["interrupted_by"] == "SIGTERM"
    assert_nothing_left(result)
    assert "ended early by SIGTERM" in (tmp_path / "reliability.md").read_text("utf-8")
