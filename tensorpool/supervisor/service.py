"""The supervisor's state proper: from messages to grants, configs and the view of every stream.

It knows no Aeron: the agent hands in messages, their Aeron session and the time, and
takes configs out through `send`. Every method is bounded; none blocks.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Mapping

from tensorpool.logs import RateLimit, counted
from tensorpool.settings import SupervisorSettings
from tensorpool.supervisor import policy
from tensorpool.supervisor.assignment import Assigner
from tensorpool.supervisor.consumers import Consumer, ConsumerKey, ConsumerTable, Told
from tensorpool.supervisor.stats import SupervisorStats
from tensorpool.supervisor.streams import StreamTable, StreamView
from tensorpool.wire.control import (
    ConsumerConfig,
    ConsumerHello,
    DataSourceAnnounce,
    DataSourceMeta,
    QosConsumer,
    QosProducer,
    ShmPoolAnnounce,
)

_log = logging.getLogger(__name__)

_SWEEP_LIMIT = 64
"""Consumers ended or judged again in one duty cycle."""

_MAX_CHANNEL_CHARS = 256
"""Kept of a channel in a hello: only its head is read, and a peer may send half a megabyte."""


class SupervisorService:
    """Answers hellos, keeps the consumers and their streams, and the view of every stream.

    Args:
        settings: the `[supervisor]` table.
        max_streams: streams viewed at most.
        send: sends a config, in order.

    Attributes:
        consumers: those that are alive.
        streams: what is known of every stream.
        assigner: who has which per-consumer stream.
    """

    def __init__(
        self,
        settings: SupervisorSettings,
        max_streams: int,
        send: Callable[[ConsumerConfig], None],
    ) -> None:
        self.stats = SupervisorStats()
        self.consumers = ConsumerTable(settings.consumer_capacity, settings.consumer_stale_ns)
        self.streams = StreamTable(max_streams, settings.consumer_stale_ns)
        self.assigner = Assigner(settings, self.stats)
        self._send_config = send
        self._to_judge: deque[ConsumerKey] = deque()
        self._collision_log = RateLimit()
        self._capacity_log = RateLimit()

    # -- consumers ------------------------------------------------------------------------

    def on_hello(self, hello: ConsumerHello, session_id: int, now_ns: int) -> None:
        """Answer a hello, unless the consumer has been told just that (Wire §10.1.2)."""
        self.stats.hellos += 1
        if not policy.is_known_mode(hello.mode):
            self.stats.unknown_modes += 1
        consumer = self._touch(hello.stream_id, hello.consumer_id, now_ns)
        if consumer is None:
            self._send(self.assigner.refuse(hello))
            return
        if consumer.hello_session not in {None, session_id}:
            self._on_new_session(consumer, session_id)
        hello = _bounded(hello)
        consumer.hello_session = session_id
        consumer.mode = hello.mode
        self._answer(consumer, hello, session_id, now_ns)

    def on_qos_consumer(self, qos: QosConsumer, session_id: int, now_ns: int) -> None:
        """A consumer's report: a sign of life, its position and its drops (Wire §10.4.1)."""
        self.stats.qos_messages += 1
        consumer = self._touch(qos.stream_id, qos.consumer_id, now_ns)
        if consumer is None:
            return
        consumer.qos_session = session_id
        consumer.mode = qos.mode
        consumer.progress.report(qos.epoch, qos.last_seq_seen, now_ns)
        gap, late = consumer.drops.report(qos.drops_gap, qos.drops_late)
        view = self.streams.get(qos.stream_id)
        if view is not None:
            view.drops_gap += gap
            view.drops_late += late

    def on_leases(self, leases: Mapping[ConsumerKey, int], since_ns: int, now_ns: int) -> None:
        """The leases of all consumers as they are now, read before that at `since_ns`.

        Who lost its lease leaves. Who has a new one may have been started anew, and then
        does not know what was told to the former: its next hello is answered, and so is one
        that came since the last look.
        """
        for consumer in self.consumers:
            lease_id = leases.get(consumer.key)
            if lease_id is None:
                if consumer.has_lease:
                    self.consumers.leave(consumer, now_ns)
                consumer.has_lease = False
                continue
            told = consumer.told
            if consumer.lease_id not in {0, lease_id} and told is not None:
                told.repeat_after_ns = 0
                if told.hello_ns >= since_ns:
                    self._send(told.config)
            consumer.lease_id, consumer.has_lease = lease_id, True

    def forget_leases(self) -> None:
        """A new driver: that it knows no lease yet ends nobody."""
        for consumer in self.consumers:
            consumer.has_lease = False

    def do_work(self, now_ns: int) -> int:
        """End who is silent or left, judge again who a reload concerns; how many it were."""
        count = 0
        while count < _SWEEP_LIMIT and (consumer := self.consumers.pop_gone(now_ns)) is not None:
            self._end(consumer)
            count += 1
        while count < _SWEEP_LIMIT and self._to_judge:
            judged = self.consumers.get(self._to_judge.popleft())
            if judged is not None and judged.told is not None:
                self._answer(judged, judged.told.hello, judged.told.session_id, now_ns)
            count += 1
        return count

    def reload(self, settings: SupervisorSettings) -> None:
        """Take over new policies; every consumer is judged by them, and told what changed."""
        self.assigner.reload(settings)
        self.consumers.capacity = settings.consumer_capacity
        self.consumers.stale_ns = self.streams.stale_ns = settings.consumer_stale_ns
        self._to_judge = deque(consumer.key for consumer in self.consumers)

    def _touch(self, stream_id: int, consumer_id: int, now_ns: int) -> Consumer | None:
        consumer = self.consumers.touch((stream_id, consumer_id), now_ns)
        view = self.streams.touch(stream_id, now_ns)
        if consumer is None:
            self._on_full(stream_id, consumer_id)
        elif view is not None:
            view.consumers.add(consumer_id)
        return consumer

    def _on_full(self, stream_id: int, consumer_id: int) -> None:
        self.stats.consumers_refused += 1
        if (suppressed := self._capacity_log.take()) is not None:
            _log.warning(
                "more consumers than supervisor.consumer_capacity; those beyond it stay on the "
                "shared streams: raise it",
                extra={
                    "stream_id": stream_id,
                    "consumer_id": consumer_id,
                    "consumer_capacity": self.consumers.capacity,
                    **counted(suppressed),
                },
            )

    def _on_new_session(self, consumer: Consumer, session_id: int) -> None:
        """A restart, as a rule; a session that comes back after another is a collision."""
        former, consumer.former_session = consumer.former_session, consumer.hello_session
        if session_id != former:
            return
        self.stats.id_collisions += 1
        if (suppressed := self._collision_log.take()) is not None:
            _log.warning(
                "two consumers use one consumer id on one stream; give each an id of its own",
                extra={
                    "stream_id": consumer.stream_id,
                    "consumer_id": consumer.consumer_id,
                    **counted(suppressed),
                },
            )

    def _end(self, consumer: Consumer) -> None:
        self.assigner.release_all(consumer)
        view = self.streams.get(consumer.stream_id)
        if view is not None:
            view.consumers.discard(consumer.consumer_id)
        self.stats.consumers_ended += 1
        _log.debug(
            "consumer gone",
            extra={"stream_id": consumer.stream_id, "consumer_id": consumer.consumer_id},
        )

    # -- configs --------------------------------------------------------------------------

    def _answer(
        self, consumer: Consumer, hello: ConsumerHello, session_id: int, now_ns: int
    ) -> None:
        """Tell the consumer what holds, if it was not told.

        A C consumer sends its hello again on every announce and opens its streams anew on
        every config. The same answer to the same hello is therefore repeated only in case
        that it got lost: after the stale time, then after twice as long each time.
        """
        config = self.assigner.judge(consumer, hello)
        told = consumer.told
        repeat_after_ns = self.consumers.stale_ns
        if told is not None and (told.hello, told.session_id, told.config) == (
            hello,
            session_id,
            config,
        ):
            told.hello_ns = now_ns
            if now_ns - told.at_ns < told.repeat_after_ns:
                return
            repeat_after_ns = 2 * told.repeat_after_ns or repeat_after_ns
        consumer.told = Told(hello, session_id, config, now_ns, repeat_after_ns, now_ns)
        self._send(config)

    def _send(self, config: ConsumerConfig) -> None:
        self.stats.configs_sent += 1
        self._send_config(config)

    # -- streams --------------------------------------------------------------------------

    def on_announce(self, announce: ShmPoolAnnounce, now_ns: int) -> None:
        """The driver announced a stream's epoch (Wire §10.1.1)."""
        self.stats.announces += 1
        view = self.streams.touch(announce.stream_id, now_ns)
        if view is not None:
            view.on_epoch(announce.epoch, announce.header_nslots, now_ns)

    def on_qos_producer(self, qos: QosProducer, now_ns: int) -> None:
        """A producer's report: a sign of life and its position (Wire §10.4.2)."""
        self.stats.qos_messages += 1
        view = self.streams.touch(qos.stream_id, now_ns)
        if view is not None:
            progress = view.producer(qos.producer_id, now_ns).progress
            view.frames += progress.report(qos.epoch, qos.current_seq, now_ns)

    def on_source(self, source: DataSourceAnnounce, now_ns: int) -> None:
        """A data source's beacon (Wire §10.3.1)."""
        view = self._on_metadata(source.stream_id, now_ns)
        if view is not None:
            view.producer(source.producer_id, now_ns)
            view.on_meta(source.meta_version, source.name)

    def on_meta(self, meta: DataSourceMeta, now_ns: int) -> None:
        """A data source's metadata (Wire §10.3.2); only its version is of interest here."""
        view = self._on_metadata(meta.stream_id, now_ns)
        if view is not None:
            view.on_meta(meta.meta_version)

    def _on_metadata(self, stream_id: int, now_ns: int) -> StreamView | None:
        self.stats.metadata_messages += 1
        return self.streams.touch(stream_id, now_ns)

    def describe(self) -> dict[str, object]:
        """Its state, flat and short, for the log."""
        return {
            "consumers": len(self.consumers),
            "streams": len(self.streams),
            "ids_in_use": self.assigner.ids_in_use,
            "hellos": self.stats.hellos,
            "configs_sent": self.stats.configs_sent,
            "declines": dict(self.stats.declines),
            "malformed": self.stats.malformed_messages,
        }


def _bounded(hello: ConsumerHello) -> ConsumerHello:
    if max(len(hello.descriptor_channel), len(hello.control_channel)) <= _MAX_CHANNEL_CHARS:
        return hello
    return hello._replace(
        descriptor_channel=hello.descriptor_channel[:_MAX_CHANNEL_CHARS],
        control_channel=hello.control_channel[:_MAX_CHANNEL_CHARS],
    )
