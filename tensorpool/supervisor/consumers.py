"""The consumers that are alive, by stream and consumer id; who is silent or left comes out.

Either `ConsumerHello` or `QosConsumer` counts as life (Wire §5). All methods take the time
in nanoseconds, of a clock that never goes back.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

from tensorpool.clock import NS_PER_S
from tensorpool.supervisor.policy import Kind
from tensorpool.supervisor.progress import DropCounter, Progress
from tensorpool.wire.control import ConsumerConfig, ConsumerHello

LEAVE_GRACE_NS = NS_PER_S
"""From the end of a consumer's lease or last Aeron session to its own, unless it is heard again."""

type ConsumerKey = tuple[int, int]
"""Stream id and consumer id."""


@dataclass(slots=True)
class Grant:
    """A per-consumer stream; `preferred_id` is what the consumer asked for when it got it."""

    stream_id: int
    preferred_id: int


@dataclass(slots=True)
class Told:
    """The last config sent to a consumer, and the hello that it answered.

    Attributes:
        at_ns: when it was sent.
        repeat_after_ns: how long after that the same hello is not answered again.
        hello_ns: when that hello was last heard.
    """

    hello: ConsumerHello
    session_id: int
    config: ConsumerConfig
    at_ns: int
    repeat_after_ns: int
    hello_ns: int


@dataclass(slots=True)
class Consumer:
    """One consumer.

    Attributes:
        hello_session: Aeron session of its last hello, None once that is gone.
        qos_session: the same of its last QoS message.
        former_session: session of its hellos before the present one.
        lease_id: of its last known lease, 0 if none is known.
        has_lease: whether it still held that when the registry was last read.
        grants: its per-consumer streams.
        told: None until a config was sent, so also while only its QoS is known.
        mode: as it last reported.
        progress, drops: from its QoS.
    """

    stream_id: int
    consumer_id: int
    last_seen_ns: int
    hello_session: int | None = None
    qos_session: int | None = None
    former_session: int | None = None
    lease_id: int = 0
    has_lease: bool = False
    grants: dict[Kind, Grant] = field(default_factory=dict)
    told: Told | None = None
    mode: int = 0
    progress: Progress = field(default_factory=Progress)
    drops: DropCounter = field(default_factory=DropCounter)

    @property
    def key(self) -> ConsumerKey:
        """Its place in the table."""
        return self.stream_id, self.consumer_id


class ConsumerTable:
    """At most `capacity` consumers, ordered by when they were last heard."""

    def __init__(self, capacity: int, stale_ns: int) -> None:
        self.capacity = capacity
        self.stale_ns = stale_ns
        self._by_key: OrderedDict[ConsumerKey, Consumer] = OrderedDict()
        self._leaving: dict[ConsumerKey, int] = {}  # deadlines; in order, as the grace is fixed

    def __len__(self) -> int:
        return len(self._by_key)

    def __iter__(self) -> Iterator[Consumer]:
        return iter(self._by_key.values())

    def snapshot(self) -> list[Consumer]:
        """All of them as of one moment, for another thread."""
        return list(self._by_key.values())

    def get(self, key: ConsumerKey) -> Consumer | None:
        """The consumer, if it is alive."""
        return self._by_key.get(key)

    def touch(self, key: ConsumerKey, now_ns: int) -> Consumer | None:
        """The consumer, known or new, marked as heard now; None if it is new and there is no room.

        Only `pop_gone` makes room.
        """
        consumer = self._by_key.get(key)
        if consumer is None:
            if len(self._by_key) >= self.capacity:
                return None
            consumer = self._by_key[key] = Consumer(*key, last_seen_ns=now_ns)
            return consumer
        consumer.last_seen_ns = now_ns
        self._by_key.move_to_end(key)
        self._leaving.pop(key, None)
        return consumer

    def sessions_gone(self, gone: AbstractSet[int], now_ns: int) -> None:
        """Aeron sessions ended: who has none left leaves after `LEAVE_GRACE_NS`."""
        for consumer in self._by_key.values():
            if consumer.hello_session not in gone and consumer.qos_session not in gone:
                continue
            if consumer.hello_session in gone:
                consumer.hello_session = None
            if consumer.qos_session in gone:
                consumer.qos_session = None
            if consumer.hello_session is None and consumer.qos_session is None:
                self.leave(consumer, now_ns)

    def leave(self, consumer: Consumer, now_ns: int) -> None:
        """It left, unless it is heard within `LEAVE_GRACE_NS`."""
        self._leaving.setdefault(consumer.key, now_ns + LEAVE_GRACE_NS)

    def forget_sessions(self, now_ns: int) -> None:
        """The media driver went with all its sessions.

        Each consumer has the stale time anew, to connect again and be heard.
        """
        self._leaving.clear()
        for consumer in self._by_key.values():
            consumer.last_seen_ns = now_ns
            consumer.hello_session = consumer.qos_session = consumer.former_session = None
            consumer.told = None

    def pop_gone(self, now_ns: int) -> Consumer | None:
        """Take out one consumer that left or has been silent for `stale_ns`; None if there is none.

        Constant time.
        """
        for key, deadline_ns in self._leaving.items():
            return self._remove(key) if deadline_ns <= now_ns else self._pop_stale(now_ns)
        return self._pop_stale(now_ns)

    def _pop_stale(self, now_ns: int) -> Consumer | None:
        for key, consumer in self._by_key.items():
            return self._remove(key) if consumer.last_seen_ns + self.stale_ns <= now_ns else None
        return None

    def _remove(self, key: ConsumerKey) -> Consumer:
        self._leaving.pop(key, None)
        return self._by_key.pop(key)
