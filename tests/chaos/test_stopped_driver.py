"""The driver stands still for 10 s; who kept sending keeps its lease (design §4.2)."""

import os
import signal
from pathlib import Path

from tensorpool.clock import NS_PER_S, monotonic_ns
from tensorpool.wire.driver import Role, ShmLeaseRevoked
from tests.crowd import Crowd
from tests.integration.host import STREAM, Tables, running_host
from tests.support import wait_until
from tests.wire_client import WireClient, settings_of

CLIENTS = 20
STOPPED_S = 10
DEADLINE_S = 60.0
TABLES: Tables = {
    "supervisor": None,
    # Or the launcher would take the driver for hung, and rightly so.
    "launcher": {"hang_timeout_ms": 60_000},
    "policies": {"lease_keepalive_interval_ms": 200, "lease_expiry_grace_intervals": 3},
}


def test_a_stopped_driver_revokes_nobody_who_kept_sending(tmp_shm: Path) -> None:
    with (
        running_host(tmp_shm, TABLES) as host,
        WireClient(settings_of(str(host.config))) as wire,
    ):
        driver = host.pid_of("driver")
        crowd = Crowd(wire, STREAM, CLIENTS)
        silent = wire.attach(STREAM, Role.CONSUMER, 1)
        os.kill(driver, signal.SIGSTOP)
        try:
            stopped_ns = monotonic_ns()
            crowd.run_until(lambda: monotonic_ns() - stopped_ns > STOPPED_S * NS_PER_S, DEADLINE_S)
        finally:
            os.kill(driver, signal.SIGCONT)
        # It judges again: who sent nothing loses its lease, and nobody else does.
        crowd.run_until(
            lambda: any(
                isinstance(m, ShmLeaseRevoked) and m.lease_id == silent.lease_id for m in wire.heard
            ),
            DEADLINE_S,
        )
        ttl_ns = host.settings.policies.lease_ttl_ns
        judged_ns = monotonic_ns()
        crowd.run_until(lambda: monotonic_ns() - judged_ns > 3 * ttl_ns, DEADLINE_S)
        assert not crowd.lost()
        assert host.pid_of("driver") == driver
        wait_until(lambda: host.is_ready, DEADLINE_S, "a host that is whole")
