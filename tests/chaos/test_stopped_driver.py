"""The driver stands still for a while; who kept sending keeps its lease (design §4.2)."""

import os
import signal
from pathlib import Path

import pytest

from tensorpool.clock import NS_PER_S
from tensorpool.wire.driver import Role, ShmLeaseRevoked
from tests.chaos.length import IS_FULL
from tests.crowd import Crowd
from tests.integration.host import STREAM, Tables, running_host
from tests.support import wait_until
from tests.wire_client import WireClient, settings_of

MANY_CLIENTS = 500
"""Their keepalives of a lease's life are more than the driver takes in one duty cycle."""
TIMES = 5 if IS_FULL else 3
DEADLINE_S = 60.0
TABLES: Tables = {
    "supervisor": None,
    # Or the launcher would take the driver for hung, and rightly so.
    "launcher": {"hang_timeout_ms": 60_000},
    "policies": {
        "lease_keepalive_interval_ms": 200,
        "lease_expiry_grace_intervals": 3,
        "max_leases": 1024,
    },
}


@pytest.mark.parametrize(
    ("clients", "stopped_s", "times"),
    [(20, 10 if IS_FULL else 3, 1), (MANY_CLIENTS, 0.45, TIMES)],
)
def test_a_stopped_driver_revokes_nobody_who_kept_sending(
    tmp_shm: Path, clients: int, stopped_s: float, times: int
) -> None:
    with (
        running_host(tmp_shm, TABLES) as host,
        WireClient(settings_of(str(host.config))) as wire,
    ):
        driver = host.pid_of("driver")
        crowd = Crowd(wire, STREAM, clients)
        ttl_ns = host.settings.policies.lease_ttl_ns
        silent = wire.attach(STREAM, Role.CONSUMER, 1)
        for _ in range(times):
            os.kill(driver, signal.SIGSTOP)
            try:
                crowd.pass_time(int(stopped_s * NS_PER_S))
            finally:
                os.kill(driver, signal.SIGCONT)
            crowd.pass_time(ttl_ns)
        # It judges again: who sent nothing loses its lease, and nobody else does.
        crowd.run_until(
            lambda: any(
                isinstance(m, ShmLeaseRevoked) and m.lease_id == silent.lease_id for m in wire.heard
            ),
            DEADLINE_S,
        )
        crowd.pass_time(3 * ttl_ns)
        assert not crowd.lost()
        assert host.pid_of("driver") == driver
        wait_until(lambda: host.is_ready, DEADLINE_S, "a host that is whole")
