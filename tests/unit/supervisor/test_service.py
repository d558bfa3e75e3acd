"""Hellos in, configs out: who gets which stream, what is repeated, what ends."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from tensorpool.supervisor.consumers import LEAVE_GRACE_NS
from tensorpool.supervisor.policy import Kind
from tensorpool.supervisor.service import SupervisorService
from tensorpool.wire.control import (
    ClockDomain,
    ConsumerConfig,
    ConsumerHello,
    DataSourceAnnounce,
    DataSourceMeta,
    Mode,
    QosProducer,
    ShmPoolAnnounce,
)
from tests.unit.supervisor.hellos import (
    DESCRIPTOR_IDS,
    IPC,
    STALE_NS,
    STREAM,
    asking,
    hello,
    qos,
    supervisor_settings,
)

MAX_STREAMS = 16
SESSION, OTHER_SESSION = 7, 8


class Desk:
    """A service and what it sent."""

    def __init__(self, **changes: Any) -> None:
        self.sent: list[ConsumerConfig] = []
        self.settings = supervisor_settings(**changes)
        self.service = SupervisorService(self.settings, MAX_STREAMS, self.sent.append)

    def hear(
        self, message: ConsumerHello, now_ns: int = 0, session: int = SESSION
    ) -> ConsumerConfig | None:
        """The config that answered the hello, if one did."""
        before = len(self.sent)
        self.service.on_hello(message, session, now_ns)
        assert len(self.sent) - before <= 1
        return self.sent[-1] if len(self.sent) > before else None

    def answer(
        self, message: ConsumerHello, now_ns: int = 0, session: int = SESSION
    ) -> ConsumerConfig:
        config = self.hear(message, now_ns, session)
        assert config is not None
        return config

    def in_use(self, kind: Kind = Kind.DESCRIPTOR) -> int:
        return self.service.assigner.stream_ids[kind].in_use


@pytest.fixture
def desk() -> Desk:
    return Desk()


def test_a_plain_hello_is_answered_once(desk: Desk) -> None:
    assert desk.answer(hello()) == ConsumerConfig(STREAM, 1, use_shm=1, mode=Mode.STREAM)
    assert desk.hear(hello()) is None


def test_a_request_gets_the_id_that_it_asks_for_on_our_channel(desk: Desk) -> None:
    asked = asking(descriptor_channel="aeron:ipc", control_channel=IPC, control_stream_id=32002)
    config = desk.answer(asked._replace(descriptor_stream_id=31002))
    assert (config.descriptor_channel, config.descriptor_stream_id) == (IPC, 31002)
    assert (config.control_channel, config.control_stream_id) == (IPC, 32002)


@pytest.mark.parametrize("preferred", [31000, 5])
def test_a_taken_or_foreign_id_is_replaced_by_a_free_one(desk: Desk, preferred: int) -> None:
    desk.answer(asking(1, 31000))
    assigned = desk.answer(asking(2, preferred)).descriptor_stream_id
    assert assigned in DESCRIPTOR_IDS
    assert assigned != 31000


@pytest.mark.clause("Wire §10.1.3-4")
def test_declined_means_empty_channel_and_zero(desk: Desk) -> None:
    config = desk.answer(hello(descriptor_channel=IPC, control_stream_id=32000))
    assert (config.descriptor_channel, config.descriptor_stream_id) == ("", 0)
    assert (config.control_channel, config.control_stream_id) == ("", 0)
    assert desk.service.stats.declines == {"half_request": 2}


def test_one_bad_request_does_not_spoil_the_other(desk: Desk) -> None:
    config = desk.answer(asking(control_channel=IPC))
    assert (config.descriptor_stream_id, config.control_stream_id) == (31000, 0)


def test_exhaustion_is_declined_and_healed_by_the_next_hello(desk: Desk) -> None:
    for consumer_id in range(1, 5):
        assert desk.answer(asking(consumer_id)).descriptor_stream_id
    declined = desk.answer(asking(5), 1)
    assert (declined.descriptor_channel, declined.descriptor_stream_id) == ("", 0)
    assert desk.service.stats.declines == {"exhausted": 1}
    desk.service.on_qos_consumer(qos(5), SESSION, STALE_NS)
    desk.service.do_work(STALE_NS)
    assert desk.answer(asking(5), STALE_NS).descriptor_stream_id in DESCRIPTOR_IDS


@pytest.mark.config_key("supervisor.consumer_capacity")
def test_beyond_capacity_consumers_are_answered_but_get_nothing() -> None:
    desk = Desk(consumer_capacity=1)
    assert desk.answer(asking(1)).descriptor_stream_id
    config = desk.answer(asking(2))
    assert (config.descriptor_channel, config.descriptor_stream_id, config.use_shm) == ("", 0, 1)
    assert desk.service.stats.declines == {"capacity": 1}
    assert len(desk.service.consumers) == 1


def test_forced_policies(desk: Desk) -> None:
    uri = "aeron:udp?endpoint=10.0.0.1:40000"
    forced = Desk(force_no_shm=True, force_mode=2, payload_fallback_uri=uri)
    config = forced.answer(hello())
    assert (config.use_shm, config.mode, config.payload_fallback_uri) == (0, Mode.RATE_LIMITED, uri)
    assert desk.answer(hello()).payload_fallback_uri == ""


def test_an_unchanged_answer_is_repeated_ever_more_rarely(desk: Desk) -> None:
    period = STALE_NS // 10
    answered = [at for at in range(0, 80 * period, period) if desk.hear(asking(), at) is not None]
    assert answered == [0, STALE_NS, 3 * STALE_NS, 7 * STALE_NS]
    assert {config.descriptor_stream_id for config in desk.sent} == {31000}


def test_a_restarted_consumer_is_told_at_once_and_keeps_its_stream(desk: Desk) -> None:
    first = desk.answer(asking())
    assert desk.answer(asking(), 1, OTHER_SESSION) == first
    assert desk.service.stats.id_collisions == 0


def test_a_session_that_comes_back_shows_a_collision(desk: Desk) -> None:
    for now_ns, session in enumerate([SESSION, OTHER_SESSION, SESSION]):
        desk.answer(asking(), now_ns, session)
    assert desk.service.stats.id_collisions == 1


def test_a_changed_wish_is_answered_and_moves_only_to_a_free_id(desk: Desk) -> None:
    desk.answer(asking(1, 31000))
    desk.answer(asking(2, 31001))
    assert desk.answer(asking(2, 31003)).descriptor_stream_id == 31003
    assert desk.answer(asking(2, 31000)).descriptor_stream_id == 31003
    assert desk.answer(asking(2, 5)).descriptor_stream_id == 31003
    assert desk.in_use() == 2


def test_who_asks_no_longer_gives_its_stream_back(desk: Desk) -> None:
    desk.answer(asking())
    assert desk.answer(hello()).descriptor_stream_id == 0
    assert desk.in_use() == 0


@pytest.mark.clause("Wire §5-4")
def test_qos_alone_keeps_a_consumer_and_its_stream(desk: Desk) -> None:
    desk.answer(asking())
    for step in range(1, 6):
        desk.service.on_qos_consumer(qos(), SESSION, step * STALE_NS // 2)
        desk.service.do_work(step * STALE_NS // 2)
    assert desk.in_use() == 1
    assert desk.service.do_work(5 * STALE_NS // 2 + STALE_NS) == 1
    assert desk.in_use() == 0
    view = desk.service.streams.get(STREAM)
    assert view is not None
    assert view.consumers == set()


@pytest.mark.clause("Wire §10.1.3-6")
def test_who_leaves_frees_its_streams_after_the_grace(desk: Desk) -> None:
    desk.answer(asking(control_channel=IPC, control_stream_id=32000))
    desk.service.consumers.sessions_gone({SESSION}, 10)
    desk.service.do_work(10 + LEAVE_GRACE_NS)
    assert (desk.in_use(), desk.in_use(Kind.CONTROL)) == (0, 0)


def test_a_reload_tells_those_whom_it_concerns(desk: Desk) -> None:
    desk.answer(asking(1))
    desk.answer(hello(2, supports_shm=0))
    desk.service.reload(replace(desk.settings, per_consumer_enabled=False, force_mode=2))
    del desk.sent[:]
    desk.service.do_work(1)
    assert [(c.consumer_id, c.mode, c.descriptor_stream_id) for c in desk.sent] == [
        (1, Mode.RATE_LIMITED, 0),
        (2, Mode.RATE_LIMITED, 0),
    ]
    assert desk.in_use() == 0
    del desk.sent[:]
    desk.service.reload(replace(desk.settings, per_consumer_enabled=False, force_mode=2))
    desk.service.do_work(2)
    assert desk.sent == []


def test_a_new_lease_is_told_again_though_session_and_hello_are_the_same(desk: Desk) -> None:
    """Publications of one IPC stream share one session, so a restart shows in the lease only."""
    key = (STREAM, 1)
    desk.answer(asking(), 10)
    desk.service.on_leases({key: 5}, since_ns=0, now_ns=20)
    assert desk.hear(asking(), 30) is None
    desk.service.on_leases({key: 6}, since_ns=40, now_ns=50)
    assert len(desk.sent) == 1, "no hello came since the last look"
    assert desk.answer(asking(), 60).descriptor_stream_id == 31000
    assert desk.hear(asking(), 70) is None


def test_a_hello_that_came_before_its_lease_was_seen_is_answered(desk: Desk) -> None:
    key = (STREAM, 1)
    desk.answer(asking(), 10)
    desk.service.on_leases({key: 5}, since_ns=0, now_ns=20)
    assert desk.hear(asking(), 30) is None
    desk.service.on_leases({key: 6}, since_ns=20, now_ns=40)
    assert len(desk.sent) == 2


def test_who_lost_its_lease_leaves_unless_the_driver_is_new(desk: Desk) -> None:
    for consumer_id in (1, 2):
        desk.answer(asking(consumer_id))
    desk.service.on_leases({(STREAM, 1): 5}, since_ns=0, now_ns=1)
    desk.service.forget_leases()
    desk.service.on_leases({}, since_ns=1, now_ns=2)
    assert desk.service.do_work(STALE_NS - 1) == 0
    desk.service.on_qos_consumer(qos(1), SESSION, STALE_NS - 1)
    desk.service.on_leases({(STREAM, 1): 6}, since_ns=2, now_ns=STALE_NS - 1)
    desk.service.on_leases({}, since_ns=3, now_ns=STALE_NS)
    desk.service.do_work(STALE_NS)
    assert [consumer.consumer_id for consumer in desk.service.consumers] == [1]
    desk.service.do_work(STALE_NS + LEAVE_GRACE_NS)
    assert desk.in_use() == 0


def test_what_is_kept_of_a_huge_hello_is_bounded(desk: Desk) -> None:
    desk.answer(asking(descriptor_channel=IPC + "|x=" + "y" * 500_000))
    (consumer,) = desk.service.consumers
    assert consumer.told is not None
    assert len(consumer.told.hello.descriptor_channel) < 1000
    assert desk.in_use() == 1


def test_unknown_modes_are_counted(desk: Desk) -> None:
    assert desk.answer(hello(mode=9)).mode == Mode.STREAM
    assert desk.service.stats.unknown_modes == 1


def test_the_view_of_a_stream(desk: Desk) -> None:
    service = desk.service
    announce = ShmPoolAnnounce(STREAM, 5, 77, 1, ClockDomain.MONOTONIC, 1, 64, 256, (), "")
    service.on_announce(announce, 1)
    service.on_source(DataSourceAnnounce(STREAM, 5, 77, 3, "cam", ""), 2)
    service.on_meta(DataSourceMeta(STREAM, 4, 0), 3)
    second = 1_000_000_000
    service.on_qos_producer(QosProducer(STREAM, 5, 77, 100), second)
    service.on_qos_producer(QosProducer(STREAM, 5, 77, 350), 2 * second)
    service.on_hello(hello(1), SESSION, 2 * second)
    service.on_qos_consumer(qos(1, drops_gap=2, drops_late=1), SESSION, 2 * second)
    service.on_qos_consumer(qos(2, drops_gap=5), SESSION, 2 * second)
    view = service.streams.get(STREAM)
    assert view is not None
    assert (view.epoch, view.name, view.meta_version) == (77, "cam", 4)
    assert view.producers[5].progress.rate_hz == pytest.approx(250)
    assert (view.consumers, view.drops_gap, view.drops_late) == ({1, 2}, 7, 1)
    assert (view.announced_ns, view.last_seen_ns) == (1, 2 * second)


class SupervisorMachine(RuleBasedStateMachine):
    """Consumers say hello, report, change their wishes, leave and fall silent, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.desk = Desk(consumer_capacity=6)
        self.now_ns = 1
        self.is_enabled = True
        self.config: dict[int, ConsumerConfig] = {}
        self.last_heard: dict[int, int] = {}

    consumer_ids = st.integers(1, 9)

    @rule(
        consumer_id=consumer_ids,
        preferred=st.sampled_from([0, 5, *DESCRIPTOR_IDS]),
        is_channel_given=st.booleans(),
        session=st.integers(1, 3),
    )
    def say_hello(
        self, consumer_id: int, preferred: int, is_channel_given: bool, session: int
    ) -> None:
        message = hello(
            consumer_id,
            descriptor_stream_id=preferred,
            descriptor_channel=IPC if is_channel_given else "",
        )
        config = self.desk.hear(message, self.now_ns, session * 100 + consumer_id)
        if config is not None:
            self.config[consumer_id] = config
        told = self.config[consumer_id]
        assert (told.descriptor_channel == "") == (told.descriptor_stream_id == 0)
        if not (preferred and is_channel_given and self.is_enabled):
            assert told.descriptor_stream_id == 0
        elif told.descriptor_stream_id == 0:
            assert self.desk.in_use() == len(DESCRIPTOR_IDS) or len(self.alive()) == 6
        self.last_heard[consumer_id] = self.now_ns

    @rule(consumer_id=consumer_ids)
    def report(self, consumer_id: int) -> None:
        self.desk.service.on_qos_consumer(qos(consumer_id), consumer_id, self.now_ns)
        if consumer_id in self.alive():
            self.last_heard[consumer_id] = self.now_ns

    @rule(consumer_id=consumer_ids, session=st.integers(1, 3))
    def session_ends(self, consumer_id: int, session: int) -> None:
        gone = {session * 100 + consumer_id, consumer_id}
        self.desk.service.consumers.sessions_gone(gone, self.now_ns)

    @rule(step=st.integers(1, 2 * STALE_NS))
    def time_passes(self, step: int) -> None:
        self.now_ns += step
        self.desk.service.do_work(self.now_ns)
        for consumer_id in self.alive():
            assert self.last_heard[consumer_id] + STALE_NS > self.now_ns
        self.config = {k: v for k, v in self.config.items() if k in self.alive()}

    @rule(enabled=st.booleans())
    def reload(self, enabled: bool) -> None:
        before = len(self.desk.sent)
        self.is_enabled = enabled
        self.desk.service.reload(replace(self.desk.settings, per_consumer_enabled=enabled))
        self.desk.service.do_work(self.now_ns)
        for config in self.desk.sent[before:]:
            self.config[config.consumer_id] = config

    def alive(self) -> set[int]:
        return {consumer.consumer_id for consumer in self.desk.service.consumers}

    @invariant()
    def no_id_is_shared(self) -> None:
        told = [
            config.descriptor_stream_id
            for consumer_id, config in self.config.items()
            if consumer_id in self.alive() and config.descriptor_stream_id
        ]
        assert len(told) == len(set(told)), "two live consumers share an id"
        held = {
            grant.stream_id
            for consumer in self.desk.service.consumers
            for grant in consumer.grants.values()
        }
        assert set(told) <= held
        assert self.desk.in_use() == len(held)
        assert len(self.alive()) <= 6


TestSupervisor = SupervisorMachine.TestCase
TestSupervisor.settings = hypothesis_settings(max_examples=60, stateful_step_count=40)
