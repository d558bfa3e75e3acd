"""The real supervisor process on a real media driver, asked by raw Aeron clients."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest

from tensorpool import wire
from tensorpool.aeron.client import AeronClient, Offer
from tensorpool.child import NotNeeded, Ready, Reload
from tensorpool.clock import NS_PER_S
from tensorpool.config import load, to_settings
from tensorpool.settings import HostSettings, IdRange, PerConsumerStreams
from tensorpool.wire.control import (
    ConsumerConfig,
    ConsumerHello,
    Mode,
    QosConsumer,
    ResponseCode,
)
from tensorpool.wire.driver import Role
from tests.children import Child, media_driver
from tests.support import wait_until
from tests.wire_client import WireClient

DEADLINE_S = 20.0
STREAM = 10000
IPC = "aeron:ipc?term-length=4m"
IDS = IdRange(31000, 31099)
CONTROL_IDS = IdRange(32000, 32099)

_spawn = multiprocessing.get_context("spawn")


def supervisor(settings: HostSettings) -> Child:
    return Child("supervisor", "tensorpool.supervisor.process:run", settings).start()


class Consumers:
    """Raw Aeron: one session that speaks for any number of consumers."""

    def __init__(self, settings: HostSettings) -> None:
        assert settings.supervisor is not None
        self.configs: dict[int, ConsumerConfig] = {}
        self.heard = 0
        self._client = AeronClient(settings.aeron_dir, "consumers")
        control = settings.supervisor.control
        self._subscription = self._client.subscription(control, tether=True)
        self._control = self._client.publication(control)
        self._qos = self._client.publication(settings.supervisor.qos)

    def ask(self, consumer_id: int, descriptor: int, control: int = 0, **fields: Any) -> None:
        hello = ConsumerHello(
            STREAM,
            consumer_id,
            supports_shm=1,
            supports_progress=1,
            mode=Mode.STREAM,
            max_rate_hz=0,
            expected_layout_version=1,
            descriptor_stream_id=descriptor,
            control_stream_id=control,
            descriptor_channel=IPC if descriptor else "",
            control_channel=IPC if control else "",
        )
        self.send(wire.encode(hello._replace(**fields)))

    def report(self, consumer_id: int) -> None:
        message = QosConsumer(STREAM, consumer_id, 1, 0, 0, 0, Mode.STREAM)
        self._qos.offer(wire.encode(message))

    def send(self, data: bytes) -> None:
        def is_sent() -> bool:
            self.poll()
            return self._control.offer(data) is Offer.SENT

        wait_until(is_sent, DEADLINE_S, "the control stream to take a message")

    def poll(self) -> None:
        while self._subscription.poll(self._hear, 100):
            pass

    def answers(self, count: int) -> dict[int, ConsumerConfig]:
        """The last config of each consumer, once so many have one."""

        def is_complete() -> bool:
            self.poll()
            return len(self.configs) >= count

        wait_until(is_complete, DEADLINE_S, lambda: f"{count} configs, has {len(self.configs)}")
        return self.configs

    def answer(self, consumer_id: int) -> ConsumerConfig:
        """The next config of this consumer."""
        self.configs.pop(consumer_id, None)
        return self.await_config(consumer_id, lambda _: True)

    def await_config(
        self, consumer_id: int, matches: Callable[[ConsumerConfig], bool]
    ) -> ConsumerConfig:
        def is_there() -> bool:
            self.poll()
            config = self.configs.get(consumer_id)
            return config is not None and matches(config)

        wait_until(is_there, DEADLINE_S, lambda: f"a config of {consumer_id}: {self.configs}")
        return self.configs[consumer_id]

    def close(self) -> None:
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _hear(self, buffer: memoryview, _: int) -> None:
        try:
            message = wire.decode(buffer)
        except wire.WireError:
            return  # garbage sent on purpose comes back on the shared stream
        if isinstance(message, ConsumerConfig):
            self.heard += 1
            self.configs[message.consumer_id] = message


@pytest.fixture
def stale_ns() -> int:
    return 3 * NS_PER_S // 2


@pytest.fixture
def settings(tmp_shm: Path, stale_ns: int) -> HostSettings:
    host = to_settings(load(None, {}).config)
    assert host.supervisor is not None
    return replace(
        host,
        aeron_dir=str(tmp_shm / "aeron"),
        shm=replace(host.shm, base_dir=str(tmp_shm), allowed_base_dirs=(str(tmp_shm),)),
        supervisor=replace(
            host.supervisor,
            per_consumer_enabled=True,
            consumer_capacity=1000,
            consumer_stale_ns=stale_ns,
            per_consumer_descriptor=PerConsumerStreams(IPC, IDS),
            per_consumer_control=PerConsumerStreams(IPC, CONTROL_IDS),
        ),
    )


@pytest.fixture
def running(settings: HostSettings) -> Iterator[Child]:
    driver = media_driver(settings)
    child = supervisor(settings)
    try:
        child.await_message(Ready)
        yield child
        assert child.end() == 0
    finally:
        child.end(signal.SIGKILL)
        driver.end()


@pytest.fixture
def driver(settings: HostSettings, running: Child) -> Iterator[Child]:
    child = Child("driver", "tensorpool.driver.process:run", settings).start()
    try:
        child.await_message(Ready)
        yield child
        assert child.end() == 0
    finally:
        child.end(signal.SIGKILL)


def granted(configs: dict[int, ConsumerConfig]) -> list[int]:
    for config in configs.values():
        assert (config.descriptor_channel == "") == (config.descriptor_stream_id == 0)
    return [c.descriptor_stream_id for c in configs.values() if c.descriptor_stream_id]


@pytest.mark.clause("Driver §11-3", "Driver §11-5", "Wire §10.1.3-6")
def test_three_hundred_consumers_on_a_hundred_ids(settings: HostSettings, running: Child) -> None:
    with Consumers(settings) as consumers:
        for consumer_id in range(1, 301):
            consumers.ask(consumer_id, descriptor=IDS.first + consumer_id % 7)
        first = dict(consumers.answers(300))
        assert sorted(granted(first)) == list(IDS)

        # A third of them goes on to live, by QoS alone; the others fall silent. Then those that
        # were declined ask until each freed id has found a new owner.
        holders = [i for i, config in first.items() if config.descriptor_stream_id]
        living = holders[:33]
        kept = {first[i].descriptor_stream_id for i in living}
        newcomers = [i for i, config in first.items() if not config.descriptor_stream_id][:67]

        def are_all_served() -> bool:
            for consumer_id in living:
                consumers.report(consumer_id)
            for consumer_id in newcomers:
                consumers.ask(consumer_id, descriptor=IDS.first)
            consumers.poll()
            return all(consumers.configs[i].descriptor_stream_id for i in newcomers)

        wait_until(are_all_served, DEADLINE_S, "the ids of the silent to find new owners")
        served = {consumers.configs[i].descriptor_stream_id for i in newcomers}
        assert served == set(IDS) - kept
        assert {consumers.configs[i].descriptor_stream_id for i in living} == kept


@pytest.mark.parametrize("stale_ns", [3600 * NS_PER_S])
def test_a_consumer_that_detaches_frees_its_ids_before_it_is_stale(
    settings: HostSettings, running: Child, driver: Child
) -> None:
    with Consumers(settings) as consumers, WireClient(settings) as client:
        lease_id = _attach(client, 1)
        consumers.ask(1, descriptor=31050, control=32050)
        config = consumers.answer(1)
        assert (config.descriptor_stream_id, config.control_stream_id) == (31050, 32050)
        consumers.ask(2, descriptor=31050)
        assert consumers.answer(2).descriptor_stream_id != 31050
        client.detach(lease_id, STREAM, 1, Role.CONSUMER)

        def gets_it() -> bool:
            # A wish for another id in between makes the second one a new wish.
            consumers.ask(2, descriptor=31051)
            consumers.ask(2, descriptor=31050)
            consumers.poll()
            return consumers.configs[2].descriptor_stream_id == 31050

        wait_until(gets_it, DEADLINE_S, "the id of the consumer that left")


def test_a_consumer_started_anew_is_told_again(
    settings: HostSettings, running: Child, driver: Child
) -> None:
    """Its Aeron session is the former one's; its lease is not."""
    with Consumers(settings) as consumers, WireClient(settings) as client:
        lease_id = _attach(client, 1)
        consumers.ask(1, descriptor=31000)
        first = consumers.answer(1)
        client.detach(lease_id, STREAM, 1, Role.CONSUMER)
        _attach(client, 1)
        consumers.ask(1, descriptor=31000)
        assert consumers.answer(1) == first


def _attach(client: WireClient, consumer_id: int) -> int:
    answer = client.attach(STREAM, Role.CONSUMER, consumer_id)
    assert answer.code == ResponseCode.OK, answer.error_message
    assert answer.lease_id is not None
    return answer.lease_id


def test_a_repeated_hello_is_not_answered_again(settings: HostSettings, running: Child) -> None:
    with Consumers(settings) as consumers:
        for _ in range(50):
            consumers.ask(1, descriptor=31000)
        consumers.ask(2, descriptor=31001)
        consumers.await_config(2, lambda _: True)
        assert consumers.heard == 2


def test_garbage_stops_nothing(settings: HostSettings, running: Child) -> None:
    whole = wire.encode(ConsumerHello(STREAM, 3, 1, 1, 1, 0, 1, descriptor_channel=IPC))
    with Consumers(settings) as consumers:
        for length in range(len(whole)):
            consumers.send(whole[:length] or b"\0")
        consumers.send(b"\xff" * 100)
        consumers.send(whole[:-4] + b"\xff\xff\xff\x7f")
        consumers.ask(1, descriptor=31000)
        assert consumers.answer(1).descriptor_stream_id == 31000
        assert set(consumers.configs) == {1}


def test_it_serves_again_after_the_media_driver_and_after_its_own_end(
    settings: HostSettings,
) -> None:
    driver = media_driver(settings)
    child = supervisor(settings)
    try:
        child.await_message(Ready)
        driver.end(signal.SIGKILL)
        driver = media_driver(settings)
        with Consumers(settings) as consumers:
            assert _asked_until_answered(consumers).descriptor_stream_id == 31007
            child.end(signal.SIGKILL)
            child = supervisor(settings)
            consumers.configs.clear()
            assert _asked_until_answered(consumers).descriptor_stream_id == 31007
    finally:
        child.end()
        driver.end()


def _asked_until_answered(consumers: Consumers) -> ConsumerConfig:
    def is_answered() -> bool:
        consumers.ask(7, descriptor=31007)
        consumers.poll()
        return 7 in consumers.configs

    wait_until(is_answered, DEADLINE_S, "an answer of the supervisor")
    return consumers.configs[7]


def test_a_reload_reaches_consumers_that_are_there(settings: HostSettings, running: Child) -> None:
    assert settings.supervisor is not None
    with Consumers(settings) as consumers:
        consumers.ask(1, descriptor=31000)
        assert consumers.answer(1).use_shm == 1
        strict = replace(settings.supervisor, force_no_shm=True, per_consumer_enabled=False)
        running.link.send(Reload(replace(settings, supervisor=strict)))
        config = consumers.await_config(1, lambda config: config.use_shm == 0)
        assert (config.descriptor_channel, config.descriptor_stream_id) == ("", 0)


def test_without_its_table_it_is_not_needed(settings: HostSettings) -> None:
    child = supervisor(replace(settings, supervisor=None))
    try:
        child.await_message(NotNeeded)
        child.process.join(DEADLINE_S)
        assert child.process.exitcode == 0
    finally:
        child.end(signal.SIGKILL)
