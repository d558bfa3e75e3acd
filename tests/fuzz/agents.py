"""Driver and supervisor, a sequence of messages an input: no exception, and the rules hold."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tensorpool import wire
from tensorpool.aeron.client import Offer
from tensorpool.aeron.outbox import Outbox
from tensorpool.clock import NS_PER_S, monotonic_ns
from tensorpool.driver.agent import DriverAgent
from tensorpool.driver.announcer import Announcer
from tensorpool.driver.provisioning import Provisioner
from tensorpool.driver.recovery import Heritage
from tensorpool.driver.service import LeaseService
from tensorpool.gc.collector import run_pass
from tensorpool.gc.eligibility import Limits
from tensorpool.gc.watch import RegistryWatch
from tensorpool.registry import RegistryWriter
from tensorpool.settings import Endpoint, IdRange, PoolLayout, Profile
from tensorpool.supervisor.agent import SupervisorAgent
from tensorpool.supervisor.service import SupervisorService
from tensorpool.wire.control import ConsumerConfig, ConsumerHello, QosConsumer, ResponseCode
from tensorpool.wire.driver import (
    PublishMode,
    Role,
    ShmAttachRequest,
    ShmAttachResponse,
    ShmDetachRequest,
    ShmDriverShutdownRequest,
    ShmLeaseKeepalive,
)
from tests.fuzz import wires
from tests.fuzz.files import settings_in
from tests.unit.supervisor.hellos import asking, hello, qos, supervisor_settings

STREAM = 10000
_HEAD_BYTES = 3
_ENDPOINT = Endpoint("aeron:ipc", 1)
_MAX_STREAMS, _MAX_LEASES, _CAPACITY = 4, 8, 6


def pack(fragments: Iterable[bytes], session: int = 1) -> bytes:
    """Messages as an input: of each a byte that tells session and pause, two of length."""
    return b"".join(bytes([session]) + len(data).to_bytes(2, "little") + data for data in fragments)


def unpack(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Session, pause in seconds and bytes of each message."""
    at = 0
    while at + _HEAD_BYTES <= len(data):
        head, length = data[at], int.from_bytes(data[at + 1 : at + 3], "little")
        at += _HEAD_BYTES
        yield head & 3, head >> 4, data[at : at + length]
        at += length


@contextmanager
def open_supervisor(directory: Path) -> Iterator[Callable[[bytes], None]]:
    """A supervisor with four stream ids of each kind and room for six consumers."""
    settings = settings_in(directory)

    def check(data: bytes) -> None:
        sent: list[ConsumerConfig] = []
        supervisor = dataclasses.replace(supervisor_settings(), consumer_capacity=_CAPACITY)
        agent = SupervisorAgent(settings, supervisor)
        service = agent.service = SupervisorService(supervisor, _MAX_STREAMS, sent.append)
        now_ns = 0
        for session, pause_s, fragment in unpack(data):
            now_ns += pause_s * NS_PER_S
            agent._now_ns = now_ns
            agent._on_fragment(memoryview(fragment), session)
            service.do_work(now_ns)
            assert len(service.consumers) <= _CAPACITY
            held = [
                grant.stream_id
                for consumer in service.consumers
                for grant in consumer.grants.values()
            ]
            assert len(held) == len(set(held)), "two consumers share a stream"
        for config in sent:
            assert wire.decode(wire.encode(config)) == config

    yield check


def supervisor_seeds() -> list[bytes]:
    """Consumers that come, ask, report and leave; every message of ours."""
    talk = [hello(1), asking(2), qos(1), qos(2), asking(3, 31001), asking(2, 0), hello(2)]
    crowd = [asking(number, 31000 + number) for number in range(1, 9)]
    return [
        pack(map(wire.encode, talk)),
        pack(map(wire.encode, crowd), session=2),
        pack(map(wire.encode, talk), session=0xF1),
        pack(
            wire.encode(message)
            for message in wires.messages()
            if not isinstance(message, ConsumerHello | QosConsumer)
        ),
    ]


class _Line:
    """A publication that everybody hears: what the driver said, each message decoded again."""

    endpoint = _ENDPOINT

    def __init__(self) -> None:
        self.heard: list[Any] = []

    def offer(self, data: bytes | bytearray | memoryview) -> Offer:
        self.heard.append(wire.decode(bytes(data)))
        return Offer.SENT


@contextmanager
def open_driver(directory: Path) -> Iterator[Callable[[bytes], None]]:
    """A driver's agent and service with real regions and registry, without a media driver."""
    settings = settings_in(directory)
    profile = Profile("tiny", 2, (PoolLayout(1, 64),))
    settings = dataclasses.replace(
        settings,
        driver=dataclasses.replace(settings.driver, stream_id_range=IdRange(20000, 20002)),
        policies=dataclasses.replace(
            settings.policies,
            allow_dynamic_streams=True,
            default_profile=profile.name,
            max_streams=_MAX_STREAMS,
            max_leases=_MAX_LEASES,
            prefault_shm=False,
            shutdown_token="open-sesame",  # noqa: S106 - a test's
            node_id_reuse_cooldown_ns=0,
            epoch_gc_keep=1,
            epoch_gc_min_age_ns=0,
        ),
        profiles=(profile,),
        streams=(),
    )
    shm = settings.shm

    def check(data: bytes) -> None:
        line = _Line()
        registry = RegistryWriter(
            shm.registry_path, max_streams=_MAX_STREAMS, max_leases=_MAX_LEASES, mode=0o600
        )
        provisioner = Provisioner(shm, prefault=False, mlock=False)
        service = LeaseService(settings, Heritage(), registry, provisioner)
        outbox, announcer = Outbox(line), Announcer(line, NS_PER_S)  # type: ignore[arg-type]
        service.connect(outbox, announcer)
        agent = DriverAgent(settings, service, registry)
        registry.publish()
        try:
            for session, pause_s, fragment in unpack(data):
                agent._on_fragment(memoryview(fragment), session)
                if pause_s & 1:
                    _settle(service, provisioner)
                if pause_s & 2:
                    service.orphan_sessions({session})
                service.expire_due(monotonic_ns() + pause_s * NS_PER_S)
                _check_leases(service)
            _settle(service, provisioner)
            _check_leases(service)
            service.forget_all()
        finally:
            provisioner.close()
            registry.close()
        granted = [m.lease_id for m in line.heard if _is_grant(m)]
        assert len(granted) == len(set(granted)), "a lease id was given twice"
        assert agent.shutdown_reason is None or b"open-sesame" in data
        watch = RegistryWatch(shm.registry_path)
        run_pass(shm, Limits(enabled=True, keep=1, min_age_ns=0), watch)
        watch.close()

    yield check


def _settle(service: LeaseService, provisioner: Provisioner) -> None:
    while provisioner.in_flight:
        if not service.take_provisioned():
            time.sleep(0)  # the worker's turn


def _check_leases(service: LeaseService) -> None:
    leases = list(service.leases)
    assert len(leases) <= _MAX_LEASES
    producers = [lease.stream_id for lease in leases if lease.role is Role.PRODUCER]
    assert len(producers) == len(set(producers)), "two producers on a stream"
    clients = [lease.client_id for lease in leases]
    assert len(clients) == len(set(clients)), "a client has two leases"
    assert len(service.streams) <= _MAX_STREAMS


def _is_grant(message: Any) -> bool:
    return isinstance(message, ShmAttachResponse) and message.code == ResponseCode.OK


def driver_seeds() -> list[bytes]:
    """Attaches of both roles, keepalives, detaches, shutdown requests."""
    create = PublishMode.EXISTING_OR_CREATE
    attaches: list[Any] = [
        ShmAttachRequest(1, 20000, 5, Role.PRODUCER, publish_mode=create),
        ShmAttachRequest(2, 20000, 6, Role.CONSUMER, publish_mode=create),
        ShmAttachRequest(3, 0, 7, Role.PRODUCER, 1, create, 1, 9),
        ShmAttachRequest(4, 20002, 8, Role.CONSUMER, publish_mode=PublishMode.REQUIRE_EXISTING),
    ]
    rest: list[Any] = [
        ShmLeaseKeepalive(1, 20000, 5, Role.PRODUCER, 1),
        ShmDetachRequest(5, 1, 20000, 5, Role.PRODUCER),
        ShmDetachRequest(6, 2, 20000, 6, Role.CONSUMER),
        ShmDriverShutdownRequest(7, 0, b"wrong"),
    ]
    return [
        pack(map(wire.encode, attaches), session=0x11),
        pack(map(wire.encode, attaches + rest), session=0x01),
        pack(map(wire.encode, attaches + rest + attaches), session=0x32),
    ]
