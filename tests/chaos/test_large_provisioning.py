"""4 GiB are made ready while 200 clients live on leases of 600 ms (design §4.2)."""

import sys
from pathlib import Path

import pytest

from tensorpool.clock import NS_PER_MS, NS_PER_S, monotonic_ns
from tensorpool.wire.control import ResponseCode
from tensorpool.wire.driver import Role, ShmLeaseRevoked
from tests.chaos.length import IS_FULL
from tests.crowd import Attaching, Crowd
from tests.integration.host import STREAM, Tables, running_host
from tests.wire_client import WireClient, settings_of

LARGE_STREAM = 20000
LARGE_BYTES = 4 << 30
NSLOTS = 64
CLIENTS = 200
DEADLINE_S = 120.0
PAUSE_NS = 20 * NS_PER_MS
"""Between two attaches. Without any, a producer's waits for the epoch that the one before began."""
ATTACHES = [
    (Role.PRODUCER, PAUSE_NS),
    (Role.CONSUMER, 0),
    (Role.PRODUCER, 0),
    (Role.CONSUMER, PAUSE_NS),
]
"""`make test` plays the first."""
TABLES: Tables = {
    "supervisor": None,
    "profiles": {
        "default": {"header_nslots": 8, "payload_pools": [{"pool_id": 1, "stride_bytes": 4096}]},
        "large": {
            "header_nslots": NSLOTS,
            "payload_pools": [{"pool_id": 1, "stride_bytes": LARGE_BYTES // NSLOTS}],
        },
    },
    "policies": {
        "default_profile": "large",
        "prefault_shm": True,
        "lease_keepalive_interval_ms": 200,
        "lease_expiry_grace_intervals": 3,
        "max_leases": 1024,
    },
}


@pytest.mark.parametrize(("role", "pause_ns"), ATTACHES if IS_FULL else ATTACHES[:1])
def test_nobody_else_notices(tmp_shm: Path, role: Role, pause_ns: int) -> None:
    with (
        running_host(tmp_shm, TABLES) as host,
        WireClient(settings_of(str(host.config))) as wire,
    ):
        crowd = Crowd(wire, STREAM, CLIENTS)
        attaching = Attaching(wire, crowd)
        started_ns = monotonic_ns()
        large = attaching.ask(LARGE_STREAM, Role.CONSUMER, 1)
        while attaching.answer(large) is None:
            attaching.once(STREAM, role, 2, DEADLINE_S)
            crowd.pass_time(pause_ns)
        took_s = (monotonic_ns() - started_ns) / NS_PER_S
        # Shown by `pytest -rP`; a figure with others on the machine, so not asserted.
        sys.stdout.write(
            f"{LARGE_BYTES >> 30} GiB made in {took_s:.2f} s; {role.name.lower()}s meanwhile, "
            f"{pause_ns // NS_PER_MS} ms between two, {attaching.figures()}\n"
        )
        answer = attaching.answer(large)
        assert answer is not None
        assert answer.code == ResponseCode.OK, answer

        wire.round_trip()
        assert not crowd.lost()
        assert len(attaching.waits_ns) > 1
        # They do hang on their keepalives: without them they end.
        wire.expect(ShmLeaseRevoked, lambda m: m.lease_id in crowd.leases.values())
