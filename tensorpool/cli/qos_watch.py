"""What producers and consumers say of themselves: QoS messages, heard from outside."""

from __future__ import annotations

from collections.abc import Iterable
from types import TracebackType
from typing import NamedTuple, Self, TypedDict

from tensorpool import wire
from tensorpool.aeron.client import (
    AeronClient,
    MediaDriverLost,
    Subscription,
    has_media_driver_file,
)
from tensorpool.clock import NS_PER_S, monotonic_ns
from tensorpool.settings import HostSettings
from tensorpool.wire.control import QosConsumer, QosProducer

_STALE_NS = 5 * NS_PER_S
_RETRY_NS = 5 * NS_PER_S
_POLL_LIMIT = 256
_MAX_POLLS = 64


class StreamQos(TypedDict):
    """A stream's consumers as they report themselves (Wire §10.4); drops are their sums."""

    stream_id: int
    reporting: int
    drops_gap: int
    drops_late: int
    producer_seq: int | None


class _Heard(NamedTuple):
    message: QosConsumer | QosProducer
    at_ns: int


class QosWatch:
    """Listens to the QoS stream of a host; a context manager. A missing host is no error."""

    def __init__(self, settings: HostSettings) -> None:
        self._settings = settings
        self._client: AeronClient | None = None
        self._subscription: Subscription | None = None
        self._retry_ns = 0
        self._heard: dict[tuple[type, int, int], _Heard] = {}

    @property
    def is_connected(self) -> bool:
        """Whether it hears anything at all."""
        return self._subscription is not None

    def poll(self) -> None:
        """Take what has come; connect first, if a media driver is there."""
        if self._subscription is None and not self._connect():
            return
        assert self._subscription is not None
        try:
            for _ in range(_MAX_POLLS):
                if not self._subscription.poll(self._take, _POLL_LIMIT):
                    break
        except MediaDriverLost:
            self.close()
        if self._client is not None and self._client.is_lost:
            self.close()

    def streams(self) -> dict[int, StreamQos]:
        """The latest word of everybody who spoke in the last seconds, by stream id."""
        oldest = monotonic_ns() - _STALE_NS
        self._heard = {key: heard for key, heard in self._heard.items() if heard.at_ns >= oldest}
        return summed(heard.message for heard in self._heard.values())

    def close(self) -> None:
        """Let go of the media driver; the next poll connects again."""
        if self._client is not None:
            self._client.close()
        self._client = self._subscription = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _connect(self) -> bool:
        now_ns = monotonic_ns()
        aeron_dir = self._settings.aeron_dir
        if now_ns < self._retry_ns or not has_media_driver_file(aeron_dir):
            return False
        self._retry_ns = now_ns + _RETRY_NS
        try:
            self._client = AeronClient(aeron_dir, "tensorpool-top")
            self._subscription = self._client.subscription(self._settings.driver.qos)
        except MediaDriverLost:
            self.close()
            return False
        return True

    def _take(self, buffer: memoryview, _session_id: int) -> None:
        try:
            message = wire.decode(buffer)
        except wire.WireError:
            return
        match message:
            case QosConsumer(stream_id=stream_id, consumer_id=party):
                pass
            case QosProducer(stream_id=stream_id, producer_id=party):
                pass
            case _:
                return
        self._heard[type(message), stream_id, party] = _Heard(message, monotonic_ns())


def summed(messages: Iterable[QosConsumer | QosProducer]) -> dict[int, StreamQos]:
    """One row a stream, of the latest message of each of its parties."""
    rows: dict[int, StreamQos] = {}
    for message in messages:
        row = rows.setdefault(
            message.stream_id,
            {
                "stream_id": message.stream_id,
                "reporting": 0,
                "drops_gap": 0,
                "drops_late": 0,
                "producer_seq": None,
            },
        )
        if isinstance(message, QosProducer):
            row["producer_seq"] = message.current_seq
        else:
            row["reporting"] += 1
            row["drops_gap"] += message.drops_gap
            row["drops_late"] += message.drops_late
    return rows
