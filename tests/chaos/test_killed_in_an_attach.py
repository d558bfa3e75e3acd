"""The driver dies between any two of its steps of an attach, and nobody has to tidy up.

A consumer makes the stream (its epoch is the driver's first), then a producer attaches: a
point's second passing, unless said otherwise, is the producer's.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import tensorpool
from tensorpool.fault_points import ONCE_VARIABLE, POINT_VARIABLE, FaultPoint
from tensorpool.registry import LeaseState, RegistryReader, StreamRecord
from tensorpool.settings import EPOCHS_AHEAD
from tensorpool.shm import paths
from tensorpool.wire.control import ResponseCode, ShmPoolAnnounce
from tensorpool.wire.driver import Role
from tests.chaos.length import IS_FULL
from tests.integration.host import DEADLINE_S, RunningHost, Tables, running_host
from tests.support import wait_until
from tests.wire_client import WireClient, settings_of

DYNAMIC_STREAM = 20000
CLIENT = 77
KEEP = 2
TABLES: Tables = {
    "supervisor": None,
    "streams": None,
    "profiles": {
        "default": {
            "header_nslots": 8,
            "payload_pools": [
                {"pool_id": 1, "stride_bytes": 64},
                {"pool_id": 2, "stride_bytes": 4096},
            ],
        }
    },
    "policies": {
        "allow_dynamic_streams": True,
        "epoch_gc_keep": KEEP,
        "epoch_gc_min_age_ns": 200_000_000,
        "lease_keepalive_interval_ms": 400,
    },
}
SUPERSEDING = {
    FaultPoint.REVOCATION_SENT,
    FaultPoint.RECORD_RELEASED,
    FaultPoint.LEASE_ENDED,
}
"""Passed only when the producer's former lease ends with the attach."""
RING, FIRST_POOL, LAST_POOL = 4, 5, 6
"""Passings of the points that each of three regions passes, of the second epoch's."""
PASSINGS = {
    **dict.fromkeys(SUPERSEDING, (1,)),
    FaultPoint.STREAM_ADDED: (1,),
    FaultPoint.FILE_MADE: (RING, FIRST_POOL) if IS_FULL else (FIRST_POOL,),
    FaultPoint.FILE_RESERVED: (RING, LAST_POOL) if IS_FULL else (RING,),
    FaultPoint.FILE_STAMPED: (RING, FIRST_POOL, LAST_POOL) if IS_FULL else (LAST_POOL,),
}
KILLS = [(point, passing, 0) for point in FaultPoint for passing in PASSINGS.get(point, (2,))]
AHEAD_BYTES = 1 << 20
AHEAD_KILLS = [
    (point, PASSINGS.get(point, (2,))[0], AHEAD_BYTES)
    for point in (
        FaultPoint.FILE_STAMPED,
        FaultPoint.EPOCH_TAKEN,
        FaultPoint.CLIENT_ANSWERED,
        FaultPoint.STAGING_MADE,
        FaultPoint.EPOCH_RENAMED,
        FaultPoint.STREAM_RECORDED,
    )[: None if IS_FULL else 1]
]
"""The second epoch is the first of those made ahead."""


@pytest.fixture
def once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    path = tmp_path / "killed"
    monkeypatch.setenv(ONCE_VARIABLE, str(path))
    yield path
    assert path.exists(), "the point was not passed"


@pytest.mark.parametrize(("point", "passing", "ahead_bytes"), KILLS + AHEAD_KILLS)
def test_the_attach_succeeds_all_the_same(
    tmp_shm: Path,
    once: Path,
    monkeypatch: pytest.MonkeyPatch,
    point: FaultPoint,
    passing: int,
    ahead_bytes: int,
) -> None:
    monkeypatch.setenv(POINT_VARIABLE, f"{point.name}:{passing}")
    policies = {**(TABLES["policies"] or {}), "prepare_ahead_max_bytes": ahead_bytes}
    tables = {**TABLES, "policies": policies}
    with running_host(tmp_shm, tables) as host, WireClient(settings_of(str(host.config))) as wire:
        victim = host.pid_of("driver")
        if point in SUPERSEDING:
            former = wire.attach(DYNAMIC_STREAM, Role.PRODUCER, CLIENT)
            assert former.code == ResponseCode.OK
        with (
            tensorpool.connect(host.config) as pool,
            pool.consumer(DYNAMIC_STREAM, timeout_s=DEADLINE_S) as consumer,
            pool.producer(DYNAMIC_STREAM, client_id=CLIENT, timeout_s=DEADLINE_S) as producer,
        ):
            wait_until(once.exists, DEADLINE_S, f"the driver to pass {point.name}")
            host.wait_restarted("driver", victim)
            wait_until(
                lambda: producers(host, victim) == [CLIENT],
                DEADLINE_S,
                lambda: f"the producer to be back\n{producers(host, victim)}\n{host.logged()}",
            )
            second = wire.attach(DYNAMIC_STREAM, Role.PRODUCER, CLIENT + 1)
            assert second.code == ResponseCode.REJECTED
            assert "has a producer already" in second.error_message

            wait_until(lambda: carries_a_frame(producer, consumer), DEADLINE_S, "a frame")
            record = stream_record(host)
            assert producer.epoch == consumer.epoch == record.epoch
            assert (record.last_epoch > record.epoch) == bool(ahead_bytes)
            last = wire.announce(DYNAMIC_STREAM, above=record.epoch - 1)
            # By their time: the two drivers' announces come in two Aeron images.
            announces = sorted(
                [last, *(heard for heard in wire.heard if isinstance(heard, ShmPoolAnnounce))],
                key=lambda announce: announce.announce_timestamp_ns,
            )
            epochs = [announce.epoch for announce in announces]
            assert epochs == sorted(epochs)
            assert epochs[-1] == record.epoch

            wait_until(
                lambda: is_tidy(host, record),
                DEADLINE_S,
                lambda: f"the GC to tidy up {entries(host)}\n{host.logged()}",
            )


def producers(host: RunningHost, former_driver: int) -> list[int]:
    """Client ids of all producers' leases that are not over, by the new driver's account."""
    with RegistryReader(host.settings.shm.registry_path) as registry:
        if registry.writer.pid == former_driver:
            return []
        return [
            lease.client_id
            for lease in registry.leases()
            if lease.role == Role.PRODUCER and lease.state != LeaseState.RELEASED
        ]


def stream_record(host: RunningHost) -> StreamRecord:
    with RegistryReader(host.settings.shm.registry_path) as registry:
        (record,) = registry.streams()
        return record


def carries_a_frame(producer: tensorpool.Producer, consumer: tensorpool.Consumer) -> bool:
    """Whether a frame published now arrives, from the newest epoch."""
    seq = producer.publish(np.zeros(8, np.uint8))
    while (frame := consumer.next(0.05)) is not None:
        if (frame.epoch, frame.seq) == (producer.epoch, seq):
            return True
    return False


def entries(host: RunningHost) -> list[str]:
    return os.listdir(paths.stream_dir(host.settings.shm.namespace_dir, DYNAMIC_STREAM))


def is_tidy(host: RunningHost, stream: StreamRecord) -> bool:
    """Whether nothing is left but the epochs that policy keeps, the current one, those ahead."""
    names = entries(host)
    if stream.last_epoch > stream.epoch:
        ahead = [name for name in names if name.startswith(paths.STAGING_PREFIX)]
        if len(ahead) != EPOCHS_AHEAD or not any(str(stream.last_epoch) in name for name in ahead):
            return False
        names = [name for name in names if name not in ahead]
    epochs = [paths.parse_decimal_name(name) for name in names]
    return None not in epochs and len(epochs) == KEEP and stream.epoch in epochs
