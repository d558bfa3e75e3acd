"""Every example does its job, as a user runs it: recorder, live picture, inference, pipeline."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pytest

import tensorpool
from tests.integration.host import STREAM, RunningHost, running_host

EXAMPLES = Path(__file__).parents[3] / "examples"


@contextmanager
def example(host: RunningHost, name: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """An example that runs beside the test."""
    with subprocess.Popen(
        [sys.executable, EXAMPLES / f"{name}.py", *map(str, arguments)],
        stdout=subprocess.PIPE,
        text=True,
        env=host.environment | {"TENSORPOOL_CONFIG": str(host.config)},
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def first_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


def rest(process: subprocess.Popen[str]) -> str:
    """What else it prints, until it ends well."""
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == 0, printed
    return printed


def test_a_camera_with_three_watchers(host: RunningHost) -> None:
    with ExitStack() as stack:
        watchers = [stack.enter_context(example(host, "watch", STREAM, 10)) for _ in range(3)]
        for watcher in watchers:
            assert first_line(watcher).startswith("watching")
        with example(host, "camera", STREAM, 30) as camera:
            for watcher in watchers:
                seen = re.findall(r"seq (\d+): bar at column (\d+)", rest(watcher))
                assert seen
                assert all(seq == column for seq, column in seen)
            assert rest(camera) == "30 frames published\n"


def test_a_recorder(host: RunningHost, tmp_path: Path) -> None:
    file = tmp_path / "frames.npy"
    with example(host, "record", file, STREAM, 10) as recorder:
        assert first_line(recorder).startswith("recording")
        with example(host, "camera", STREAM, 40):
            assert "10 frames" in rest(recorder)
    frames = np.load(file, mmap_mode="r")
    assert frames.shape == (10, 480, 640)
    bars = frames[:, 0].argmax(axis=1)
    assert (np.diff(bars) > 0).all()
    assert (frames.max(axis=(1, 2)) == 1000).all()


def test_a_live_picture(host: RunningHost) -> None:
    with example(host, "live", STREAM, 2) as live:
        assert first_line(live).startswith("showing")
        with example(host, "camera", STREAM, 300) as camera:
            printed = rest(live)
            camera.kill()
    pictures = re.findall(r"((?:[ .:=+*#%@-]{64}\n){24})frame (\d+)", printed)
    assert pictures
    for picture, seq in pictures:
        columns = [line.index("@") for line in picture.splitlines()]
        assert set(columns) == {int(seq) % 640 // 10}


def test_inference_with_torch(host: RunningHost) -> None:
    """Skipped where torch is not installed: it is an extra."""
    pytest.importorskip("torch")
    with (
        tensorpool.connect(host.config) as pool,
        pool.consumer(20000) as answers,
        example(host, "inference", STREAM, 20000, 5) as worker,
    ):
        assert first_line(worker).startswith("inferring")
        with example(host, "camera", STREAM, 300) as camera:
            frame = answers.next(30)
            assert frame is not None
            column, brightness = frame.copy()
            assert (column, brightness) == (frame.trace_id or 0, 1000)
            assert "5 answers" in rest(worker)
            camera.kill()


def test_a_pipeline_of_two_stages(tmp_shm: Path) -> None:
    with running_host(tmp_shm) as host, ExitStack() as stack:
        roles = {
            role: stack.enter_context(example(host, "pipeline", role, 5))
            for role in ("show", "threshold", "smooth")
        }
        for process in roles.values():
            assert first_line(process)
        stack.enter_context(example(host, "pipeline", "source", 200))
        printed = rest(roles["show"])
    seen = re.findall(r"trace (\d+): (\d+) bright pixels, ([\d.]+) ms", printed)
    traces = [int(trace) for trace, _, _ in seen]
    assert traces == sorted(set(traces))
    assert min(traces) >= 1000
    assert all(200 <= int(pixels) <= 320 for _, pixels, _ in seen)
