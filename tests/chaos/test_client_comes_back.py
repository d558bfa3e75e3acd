"""Clients that die by SIGKILL, and leases that outlive the process that attached."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tensorpool.clock import NS_PER_MS, monotonic_ns
from tensorpool.registry import LeaseRecord, LeaseState, RegistryReader
from tensorpool.wire.driver import Role, ShmLeaseRevoked
from tests.integration.host import DEADLINE_S, STREAM, RunningHost, running_host
from tests.support import wait_until
from tests.wire_client import WireClient, settings_of

CLIENT = 77
LIMIT_INTERVALS = 1.5
"""Issue 3's limit; the one time that is asserted, since it is what is promised."""

_USER = """
import sys, time, tensorpool
print("loaded", flush=True)
sys.stdin.readline()
config, role, stream, client = sys.argv[1:]
user = getattr(tensorpool.connect(config), role)(int(stream), client_id=int(client))
print("attached", flush=True)
time.sleep(1000)
"""
_ATTACHES = """
import sys, time
from tensorpool.wire.driver import Role
from tests.wire_client import WireClient, settings_of
config, stream, client = sys.argv[1:]
wire = WireClient(settings_of(config))
print(wire.attach(int(stream), Role.CONSUMER, int(client)).lease_id, flush=True)
time.sleep(1000)
"""


@contextmanager
def program(host: RunningHost, text: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """A process with this program; killed at the end."""
    with subprocess.Popen(
        [sys.executable, "-c", text, str(host.config), *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=host.environment | {"PYTHONPATH": str(Path(__file__).parents[2])},
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def line_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def go_on(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def lease_of(host: RunningHost, client_id: int) -> LeaseRecord | None:
    """The client's lease that is not over."""
    with RegistryReader(host.settings.shm.registry_path) as registry:
        return next(
            (
                lease
                for lease in registry.leases()
                if lease.client_id == client_id and lease.state != LeaseState.RELEASED
            ),
            None,
        )


def wait_keepalive(host: RunningHost, client_id: int, after_ns: int) -> LeaseRecord:
    """The client's lease, as soon as a keepalive has come after that time."""

    def is_kept() -> LeaseRecord | None:
        lease = lease_of(host, client_id)
        return lease if lease is not None and lease.keepalive_ns > after_ns else None

    lease = wait_until(is_kept, DEADLINE_S, "a keepalive")
    assert lease is not None
    return lease


@pytest.mark.parametrize("role", ["producer", "consumer"])
def test_a_killed_client_is_back_with_its_fixed_id(tmp_shm: Path, role: str) -> None:
    with running_host(tmp_shm) as host:
        interval_ns = host.settings.policies.lease_keepalive_interval_ns
        with (
            program(host, _USER, role, STREAM, CLIENT) as victim,
            program(host, _USER, role, STREAM, CLIENT) as successor,
        ):
            for process in (victim, successor):
                assert line_of(process) == "loaded"  # Python's own start is not ours to time
            go_on(victim)
            assert line_of(victim) == "attached"
            # Just after a keepalive its lease has the longest to live.
            former = wait_keepalive(host, CLIENT, monotonic_ns())
            killed_ns = monotonic_ns()
            os.kill(victim.pid, signal.SIGKILL)
            go_on(successor)
            assert line_of(successor) == "attached"
            lease = lease_of(host, CLIENT)
            assert lease is not None
            assert lease.lease_id != former.lease_id
            took_ns = lease.attached_ns - killed_ns
            # Shown by `pytest -rP`.
            sys.stdout.write(f"{role} attached again after {took_ns / NS_PER_MS:.0f} ms\n")
            assert took_ns <= LIMIT_INTERVALS * interval_ns


def test_keepalives_of_another_process_keep_the_lease(tmp_shm: Path) -> None:
    with (
        running_host(tmp_shm, {"policies": {"lease_keepalive_interval_ms": 300}}) as host,
        WireClient(settings_of(str(host.config))) as wire,
    ):
        policies = host.settings.policies
        with program(host, _ATTACHES, STREAM, CLIENT) as attacher:
            lease_id = int(line_of(attacher))
            wire.keep_alive(lease_id, STREAM, CLIENT, Role.CONSUMER)
            wire.round_trip()
            os.kill(attacher.pid, signal.SIGKILL)
        dead_ns = monotonic_ns()
        next_ns = 0

        def outlives() -> bool:
            nonlocal next_ns
            now_ns = monotonic_ns()
            if now_ns >= next_ns:
                next_ns = now_ns + policies.lease_keepalive_interval_ns // 2
                wire.keep_alive(lease_id, STREAM, CLIENT, Role.CONSUMER)
            wire.poll()
            lease = lease_of(host, CLIENT)
            assert lease is not None
            assert lease.lease_id == lease_id
            return lease.keepalive_ns > dead_ns + 3 * policies.lease_ttl_ns

        wait_until(outlives, DEADLINE_S, "the lease to outlive its attacher")
        assert wire.hears_nothing(ShmLeaseRevoked)
        # And it does hang on the keepalives: without them it ends.
        wire.expect(ShmLeaseRevoked, lambda m: m.lease_id == lease_id)
