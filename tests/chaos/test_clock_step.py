"""The wall clock is set forth and back under everybody: all stream again, and nothing goes wrong.

Aeron tells a dead media driver by the wall clock: a step forth ends its clients' connections, and
with them frames for no longer than it takes to connect again.

`wall_clock.c` stands between the processes and CLOCK_REALTIME, since the machine's own clock is no
test's to set; CLOCK_MONOTONIC stays true.
"""

from __future__ import annotations

import shutil
import subprocess
from contextlib import ExitStack
from pathlib import Path

import pytest

from tensorpool.registry import RegistryReader
from tests.integration.host import DEADLINE_S, STREAM, RunningHost, Tables, running_host
from tests.peers import Peer, Report, peers, produce_frames
from tests.support import wait_until

CONSUMERS = 2
AGAIN = 50
RATE_HZ = 500
KEEP = 2
STEPS_S = [3600, -7200, -86400, 86400, 0]
"""How far from the true time, one after the other."""
TABLES: Tables = {
    "policies": {
        "lease_keepalive_interval_ms": 300,
        "epoch_gc_keep": KEEP,
        "epoch_gc_min_age_ns": 100_000_000,
    },
}


@pytest.fixture
def library(tmp_path: Path) -> str:
    """The compiled library."""
    compiler = shutil.which("cc")
    assert compiler is not None, "a C compiler is missing: apt-get install gcc (Debian, Ubuntu)"
    made = tmp_path / "wall_clock.so"
    source = Path(__file__).with_name("wall_clock.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-Wall", "-o", made, source], check=True)
    return str(made)


@pytest.fixture
def clock(tmp_path: Path, library: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that tells every process started from now on how far its wall clock is off."""
    path = tmp_path / "clock"
    path.write_text("0")
    monkeypatch.setenv("WALL_CLOCK_STEP", str(path))
    monkeypatch.setenv("LD_PRELOAD", library)
    return path


def epochs_of(host: RunningHost) -> list[str]:
    return [path.name for path in (host.namespace_dir / str(STREAM)).iterdir()]


def last_epoch(host: RunningHost) -> int:
    with RegistryReader(host.settings.shm.registry_path) as registry:
        return next(record.last_epoch for record in registry.streams())


def wait_streaming(users: list[Peer]) -> list[Report]:
    """Until every user has handled new frames."""
    wanted = [peer.report().frames + AGAIN for peer in users]
    wait_until(
        lambda: all(u.report().frames >= w for u, w in zip(users, wanted, strict=True)),
        DEADLINE_S,
        lambda: f"frames {wanted}: {[peer.report() for peer in users]}",
    )
    return [peer.report() for peer in users]


def test_everybody_streams_again(tmp_shm: Path, clock: Path) -> None:
    with (
        running_host(tmp_shm, TABLES) as host,
        peers(str(host.config), STREAM, consumers=CONSUMERS, rate_hz=RATE_HZ) as (first, consumers),
        ExitStack() as ends,
    ):
        users = [first, *consumers]
        wait_streaming(users)
        for step in STEPS_S:
            before = last_epoch(host)
            clock.write_text(str(step))
            for report in wait_streaming(users):
                assert (report.torn, report.disorder, report.drops_invalid) == (0, 0, 0), step
            # Whatever the wall clock says, a new epoch is above the one before.
            users[0].stop()
            users[0] = Peer(produce_frames, str(host.config), STREAM, RATE_HZ)
            ends.callback(users[0].stop)
            users[0].wait_attached()
            assert last_epoch(host) > before, step
            wait_streaming(users)
        wait_until(
            lambda: len(epochs_of(host)) <= KEEP, DEADLINE_S, lambda: f"the GC: {epochs_of(host)}"
        )
