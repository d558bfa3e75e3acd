"""SIGKILL of each process of the host, with users streaming: all of them stream again.

`python -m bench.recovery` does the same for many rounds and takes the times.
"""

import os
import signal
from pathlib import Path

import pytest

from tensorpool.registry import RegistryReader
from tests.chaos.length import IS_FULL
from tests.integration.host import DEADLINE_S, STREAM, RunningHost, running_host
from tests.peers import Peer, Report, peers
from tests.support import wait_until

ROUNDS = 20 if IS_FULL else 1
CONSUMERS = 3
RATE_HZ = 1000
AGAIN = 200
"""So many new frames count as streaming."""

# Kills come faster here than the limit for a child that ends by itself allows.
TABLES = {"launcher": {"crash_loop_restarts": 1000}}
EVENT = {"driver": "lease_revoked", "media_driver": "media_driver_back"}
"""What every user sees of the kill; the others have none to see."""


def reports(users: list[Peer]) -> list[Report]:
    return [user.report() for user in users]


def wait_streaming(users: list[Peer]) -> list[Report]:
    """Until every user has handled new frames."""
    wanted = [report.frames + AGAIN for report in reports(users)]

    def all_stream() -> list[Report] | None:
        now = reports(users)
        return now if all(r.frames >= w for r, w in zip(now, wanted, strict=True)) else None

    now = wait_until(all_stream, DEADLINE_S, lambda: f"frames: {reports(users)}")
    assert now is not None
    return now


def active_leases(host: RunningHost) -> int:
    with RegistryReader(host.settings.shm.registry_path) as registry:
        return registry.active_leases


@pytest.mark.parametrize("victim", ["media_driver", "driver", "supervisor", "gc"])
def test_every_user_streams_again(tmp_shm: Path, victim: str) -> None:
    with running_host(tmp_shm, TABLES) as host:
        with peers(str(host.config), STREAM, consumers=CONSUMERS, rate_hz=RATE_HZ) as (
            producer,
            consumers,
        ):
            users = [producer, *consumers]
            before = wait_streaming(users)
            for _ in range(ROUNDS):
                former = host.pid_of(victim)
                os.kill(former, signal.SIGKILL)
                host.wait_restarted(victim, former)
                if event := EVENT.get(victim):
                    wait_for_event(users, before, event)
                after = wait_streaming(users)
                assert [r.epoch for r in after] >= [r.epoch for r in before]
                assert len({r.epoch for r in after}) == 1
                assert after[0].epoch > before[0].epoch or victim != "driver"
                wrong = [(r.torn, r.disorder, r.drops_invalid) for r in after]
                assert wrong == [(0, 0, 0)] * len(users)
                before = after
            assert active_leases(host) == len(users)
        wait_until(lambda: active_leases(host) == 0, DEADLINE_S, "every lease to be given back")


def wait_for_event(users: list[Peer], before: list[Report], event: str) -> None:
    """Until each user has seen the event once more."""
    wait_until(
        lambda: all(
            now.events[event] > then.events[event]
            for now, then in zip(reports(users), before, strict=True)
        ),
        DEADLINE_S,
        lambda: f"{event}: {reports(users)}",
    )
