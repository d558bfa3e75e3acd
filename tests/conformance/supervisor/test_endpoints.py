"""Where the supervisor listens and speaks, and what it makes of hellos (Wire §5, §10.1, §10.5)."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tensorpool import wire
from tensorpool.aeron.client import AeronClient, Offer
from tensorpool.clock import monotonic_ns
from tensorpool.settings import Endpoint, HostSettings
from tensorpool.supervisor.agent import SupervisorAgent
from tensorpool.wire.control import (
    ClockDomain,
    ConsumerConfig,
    ConsumerHello,
    DataSourceAnnounce,
    DataSourceMeta,
    Mode,
    QosConsumer,
    QosProducer,
    ShmPoolAnnounce,
)
from tests.children import media_driver
from tests.integration.host import RunningHost
from tests.leftovers import unique_shm_directory
from tests.support import wait_until

STREAM = 10000
IPC = "aeron:ipc?term-length="
RANGE = 2
STALE_MS = 400


@pytest.fixture(scope="module")
def settings() -> Iterator[HostSettings]:
    """Each of the supervisor's four endpoints is its own, different from the driver's."""
    directory = unique_shm_directory()
    table = {
        "control_channel": IPC + "64k",
        "control_stream_id": 3000,
        "announce_channel": IPC + "128k",
        "announce_stream_id": 3001,
        "metadata_channel": IPC + "256k",
        "metadata_stream_id": 3002,
        "qos_channel": IPC + "512k",
        "qos_stream_id": 3003,
        "per_consumer_enabled": True,
        "consumer_stale_ms": STALE_MS,
    }
    ranges = {
        "descriptor_stream_id_range": f"31000-{31000 + RANGE - 1}",
        "control_stream_id_range": "32000-32099",
    }
    host = RunningHost(directory, {"supervisor": table, "driver": ranges})
    child = media_driver(host.settings)
    try:
        yield host.settings
    finally:
        child.end()
        shutil.rmtree(directory)


class Scene:
    """A supervisor and somebody who talks to it, each polled by the test."""

    def __init__(self, settings: HostSettings, client: AeronClient) -> None:
        assert settings.supervisor is not None
        self.endpoints = settings.supervisor
        self._ear = client.subscription(self.endpoints.control)
        wait_until(self._is_silent, 20, "the sessions of the last case to be gone")
        self.agent = SupervisorAgent(settings, settings.supervisor)
        self.configs: list[ConsumerConfig] = []
        self._client = client
        self._publications: dict[Endpoint, Any] = {}
        self.until(lambda: self.agent.is_connected, "the supervisor to connect")

    def _is_silent(self) -> bool:
        self._ear.poll(lambda *_: None, 100)
        return not self._ear.session_ids()

    def until[T](self, predicate: Callable[[], T], what: str) -> T:
        def step() -> T:
            self.agent.do_work()
            self._ear.poll(self._hear, 100)
            return predicate()

        return wait_until(step, 20, what)

    def send(self, endpoint: Endpoint, message: Any) -> None:
        if endpoint not in self._publications:
            self._publications[endpoint] = self._client.publication(endpoint)
        data = wire.encode(message)
        self.until(lambda: self._publications[endpoint].offer(data) is Offer.SENT, "an offer")

    def ask(self, consumer_id: int, **fields: Any) -> ConsumerConfig:
        self.configs.clear()
        plain = ConsumerHello(STREAM, consumer_id, 1, 0, Mode.STREAM, 0, 1)
        self.send(self.endpoints.control, plain._replace(**fields))

        def answer() -> ConsumerConfig | None:
            return next((c for c in self.configs if c.consumer_id == consumer_id), None)

        found = self.until(answer, "a config")
        assert found is not None
        return found

    def _hear(self, buffer: memoryview, _: int) -> None:
        message = wire.decode(buffer)
        if isinstance(message, ConsumerConfig):
            self.configs.append(message)


@pytest.fixture
def scene(settings: HostSettings) -> Iterator[Scene]:
    with AeronClient(settings.aeron_dir, "consumers") as client:
        made = Scene(settings, client)
        yield made
        made.agent.on_close()


def wish(**fields: Any) -> dict[str, Any]:
    return {"descriptor_channel": "aeron:ipc", "descriptor_stream_id": 31000, **fields}


@pytest.mark.clause("Wire §5-1", "Wire §5-6")
@pytest.mark.config_key("supervisor.control_channel", "supervisor.control_stream_id")
@pytest.mark.config_key("driver.descriptor_stream_id_range", "driver.control_stream_id_range")
def test_hellos_are_heard_and_answered_on_its_control_endpoint(scene: Scene) -> None:
    assert scene.endpoints.control == Endpoint(IPC + "64k", 3000)
    config = scene.ask(1, **wish(control_channel="aeron:ipc", control_stream_id=32007))
    assert (config.descriptor_stream_id, config.control_stream_id) == (31000, 32007)
    assert config.descriptor_channel != ""


@pytest.mark.clause("Driver §8-1")
@pytest.mark.config_key("supervisor.announce_channel", "supervisor.announce_stream_id")
def test_announces_are_heard_on_its_announce_endpoint(scene: Scene) -> None:
    assert scene.endpoints.announce == Endpoint(IPC + "128k", 3001)
    announce = ShmPoolAnnounce(
        STREAM, 5, 77, monotonic_ns(), ClockDomain.MONOTONIC, 1, 8, 256, (), ""
    )
    scene.send(scene.endpoints.announce, announce)
    service = scene.agent.service
    scene.until(lambda: service.stats.announces == 1, "the announce")
    view = service.streams.get(STREAM)
    assert view is not None
    assert view.epoch == 77


@pytest.mark.clause("Wire §15.11-1")
@pytest.mark.config_key("supervisor.metadata_channel", "supervisor.metadata_stream_id")
def test_metadata_is_heard_on_its_metadata_endpoint(scene: Scene) -> None:
    assert scene.endpoints.metadata == Endpoint(IPC + "256k", 3002)
    scene.send(scene.endpoints.metadata, DataSourceAnnounce(STREAM, 5, 77, 3, "cam", "480x640"))
    scene.send(scene.endpoints.metadata, DataSourceMeta(STREAM, 4, 1))
    service = scene.agent.service
    scene.until(lambda: service.stats.metadata_messages == 2, "the metadata")


@pytest.mark.clause("Wire §5-4")
@pytest.mark.config_key("supervisor.qos_channel", "supervisor.qos_stream_id")
def test_qos_is_heard_on_its_qos_endpoint_and_keeps_a_consumer(scene: Scene) -> None:
    assert scene.endpoints.qos == Endpoint(IPC + "512k", 3003)
    scene.send(scene.endpoints.qos, QosProducer(STREAM, 5, 77, 10))
    scene.ask(1, **wish())
    started_ns = monotonic_ns()

    def outlives_the_stale_time() -> bool:
        scene.send(scene.endpoints.qos, QosConsumer(STREAM, 1, 77, 10, 0, 0, Mode.STREAM))
        return monotonic_ns() - started_ns > 3 * STALE_MS * 1_000_000

    scene.until(outlives_the_stale_time, "three stale times")
    assert scene.agent.service.assigner.ids_in_use["descriptor"] == 1
    scene.until(lambda: not scene.agent.service.assigner.ids_in_use["descriptor"], "its end")


@pytest.mark.clause("Wire §10.1.2-1", "Wire §10.1.3-2", "Wire §10.1.3-3", "Wire §10.1.3-4")
@pytest.mark.clause("Wire §5-10")
@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"descriptor_channel": "aeron:ipc"},
        {"descriptor_stream_id": 31000},
        {"control_channel": "aeron:ipc"},
        {"control_stream_id": 32000},
        {"descriptor_channel": "aeron:udp?endpoint=10.0.0.1:1", "descriptor_stream_id": 31000},
        {"descriptor_channel": "nonsense", "descriptor_stream_id": 31000},
    ],
    ids=str,
)
def test_half_a_request_and_foreign_channels_are_declined(
    scene: Scene, fields: dict[str, Any]
) -> None:
    config = scene.ask(1, **fields)
    assert (config.descriptor_channel, config.descriptor_stream_id) == ("", 0)
    assert (config.control_channel, config.control_stream_id) == ("", 0)
    assert config.use_shm == 1


@pytest.mark.clause("Driver §11-5", "Wire §10.1.3-4", "Wire §10.1.3-6")
def test_an_exhausted_range_is_declined_until_somebody_is_stale(scene: Scene) -> None:
    given = [scene.ask(consumer_id, **wish()) for consumer_id in (1, 2)]
    assert {config.descriptor_stream_id for config in given} == {31000, 31001}
    declined = scene.ask(3, **wish())
    assert (declined.descriptor_channel, declined.descriptor_stream_id) == ("", 0)
    rates = iter(range(1, 10_000))
    scene.until(
        lambda: scene.ask(3, **wish(max_rate_hz=next(rates))).descriptor_stream_id, "a freed id"
    )
