"""Settings and messages that the supervisor's tests start from."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tensorpool.config import load, to_settings
from tensorpool.settings import IdRange, PerConsumerStreams, SupervisorSettings
from tensorpool.wire.control import ConsumerHello, Mode, QosConsumer

IPC = "aeron:ipc?term-length=4m"
STREAM = 10000
DESCRIPTOR_IDS = IdRange(31000, 31003)
CONTROL_IDS = IdRange(32000, 32003)
STALE_NS = 10_000_000_000


def supervisor_settings(**changes: Any) -> SupervisorSettings:
    """The built-in configuration's, with four ids of each kind."""
    supervisor = to_settings(load(None, {}).config).supervisor
    assert supervisor is not None
    return replace(
        supervisor,
        per_consumer_enabled=True,
        per_consumer_descriptor=PerConsumerStreams(IPC, DESCRIPTOR_IDS),
        per_consumer_control=PerConsumerStreams(IPC, CONTROL_IDS),
        consumer_stale_ns=STALE_NS,
        **changes,
    )


def hello(consumer_id: int = 1, /, **fields: Any) -> ConsumerHello:
    """A hello that asks for nothing but what `fields` say."""
    plain = ConsumerHello(
        STREAM,
        consumer_id,
        supports_shm=1,
        supports_progress=0,
        mode=Mode.STREAM,
        max_rate_hz=0,
        expected_layout_version=1,
    )
    return plain._replace(**fields)


def asking(consumer_id: int = 1, /, descriptor: int = 31000, **fields: Any) -> ConsumerHello:
    """A hello that asks for a descriptor stream, by preference this one."""
    plain = hello(consumer_id, descriptor_channel=IPC, descriptor_stream_id=descriptor)
    return plain._replace(**fields)


def qos(consumer_id: int = 1, /, **fields: Any) -> QosConsumer:
    """A consumer's report."""
    return QosConsumer(STREAM, consumer_id, 1, 0, 0, 0, Mode.STREAM)._replace(**fields)
