"""Garbage on the control stream: counted, never fatal; honest clients notice nothing."""

from __future__ import annotations

import random

import pytest

from tensorpool import wire
from tensorpool.wire.control import ResponseCode
from tensorpool.wire.driver import (
    Role,
    ShmAttachRequest,
    ShmDetachRequest,
    ShmDriverShutdown,
    ShmDriverShutdownRequest,
    ShmLeaseKeepalive,
    ShmLeaseRevoked,
)
from tests.wire_client import WireClient

STATIC = 10000
VALID = [
    wire.encode(ShmAttachRequest(1, STATIC, 5, Role.PRODUCER, publish_mode=1)),
    wire.encode(ShmDetachRequest(2, 3, STATIC, 5, Role.CONSUMER)),
    wire.encode(ShmLeaseKeepalive(3, STATIC, 5, Role.CONSUMER, 0)),
    wire.encode(ShmDriverShutdownRequest(4, 0, b"wrong")),
]


@pytest.mark.clause("Driver §4.6-3", "Driver §4.1-1")
def test_every_truncation_and_many_mutants(client: WireClient) -> None:
    lease = client.attach(STATIC, Role.CONSUMER, 11)
    assert lease.lease_id is not None
    dice = random.Random(20261123)
    for data in VALID:
        for length in range(1, len(data)):
            client.send_bytes(data[:length])
    for _ in range(3000):
        mutant = bytearray(dice.choice(VALID))
        for _ in range(dice.randrange(1, 4)):
            mutant[dice.randrange(len(mutant))] = dice.randrange(256)
        client.send_bytes(bytes(mutant))
        if dice.random() < 0.02:
            client.keep_alive(lease.lease_id, STATIC, 11, Role.CONSUMER)
            client.poll()
    client.keep_alive(lease.lease_id, STATIC, 11, Role.CONSUMER)
    client.round_trip()
    assert not any(
        isinstance(m, ShmLeaseRevoked) and m.lease_id == lease.lease_id for m in client.heard
    )
    assert client.detach(lease.lease_id, STATIC, 11, Role.CONSUMER).code == ResponseCode.OK


@pytest.mark.clause("Driver §4.13-1", "Driver §4.13-3")
def test_a_wrong_or_empty_token_is_ignored(client: WireClient) -> None:
    for token in (b"", b"wrong", b"x" * 2000):
        client.send(ShmDriverShutdownRequest(1, 0, token))
    assert client.hears_nothing(ShmDriverShutdown)
    assert client.attach(STATIC, Role.CONSUMER, 11).code == ResponseCode.OK
