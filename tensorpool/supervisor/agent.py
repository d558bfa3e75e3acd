"""The supervisor's duty cycle: its connection, and each message to whom it concerns.

QoS and hellos are taken before the ends of sessions and leases, and those before silence is
judged: who was heard in a cycle does not end in it.
"""

from __future__ import annotations

import logging
import os
from typing import Any

from tensorpool import wire
from tensorpool.aeron.client import (
    PATIENT_SLEEP_MS,
    AeronClient,
    MediaDriverLost,
    Subscription,
    has_media_driver_file,
)
from tensorpool.aeron.outbox import Outbox
from tensorpool.aeron.sessions import SessionWatch
from tensorpool.clock import NS_PER_MS, monotonic_ns
from tensorpool.logs import RateLimit, counted
from tensorpool.settings import HostSettings, SupervisorSettings
from tensorpool.supervisor.leases import LeaseWatch
from tensorpool.supervisor.service import SupervisorService
from tensorpool.wire.control import (
    CONTROL,
    ConsumerConfig,
    ConsumerHello,
    DataSourceAnnounce,
    DataSourceMeta,
    QosConsumer,
    QosProducer,
    ShmPoolAnnounce,
)

_log = logging.getLogger(__name__)

_POLL_LIMIT = 64
_STALL_NS = 500 * NS_PER_MS
_LEASE_PERIOD_NS = 250 * NS_PER_MS
# Not ConsumerConfig: our own come back to us.
_OF_INTEREST = {
    CONTROL.by_type[kind].template_id
    for kind in (
        ConsumerHello,
        DataSourceAnnounce,
        DataSourceMeta,
        QosConsumer,
        QosProducer,
        ShmPoolAnnounce,
    )
}


class SupervisorAgent:
    """The supervisor, as an agent.

    Args:
        settings: of the host.
        supervisor: its `[supervisor]` table.
    """

    role_name = "supervisor"

    def __init__(self, settings: HostSettings, supervisor: SupervisorSettings) -> None:
        self.service = SupervisorService(supervisor, settings.policies.max_streams, self._send)
        self._aeron_dir = settings.aeron_dir
        self._endpoints = supervisor
        self._client: AeronClient | None = None
        self._subscriptions: list[Subscription] = []
        self._outbox: Outbox | None = None
        self._malformed_log = RateLimit()
        # Time in which nobody could be heard is no time in which anybody was silent.
        self._deaf_ns = 0
        self._now_ns = 0
        self._leases = LeaseWatch(settings.shm.registry_path)
        self._lease_generation = 0
        self._leases_read_ns = 0
        self._last_cycle_ns = 0

    @property
    def is_connected(self) -> bool:
        """Whether it has a live media driver."""
        return self._client is not None

    def on_start(self) -> None:
        """Nothing: the first cycles connect."""

    def on_close(self) -> None:
        """Let go of the media driver and the registry."""
        self._disconnect()
        self._leases.close()

    def reload(self, settings: HostSettings) -> None:
        """Take over new policies."""
        if settings.supervisor is not None:
            self.service.reload(settings.supervisor)

    def do_work(self) -> int:
        """One duty cycle.

        Raises:
            HostError: a fault that the launcher must judge.
        """
        if self._client is None:
            return self._connect()
        try:
            return self._work()
        except MediaDriverLost as error:
            _log.warning("media driver lost", extra={"why": str(error)})
            self.service.stats.media_driver_losses += 1
            self._disconnect()
            return 1

    # -- connection -----------------------------------------------------------------------

    def _connect(self) -> int:
        if not has_media_driver_file(self._aeron_dir):
            return 0
        client = None
        try:
            client = AeronClient(
                self._aeron_dir,
                f"tensorpool-supervisor {os.getpid()}",
                conductor_sleep_ms=PATIENT_SLEEP_MS,
            )
            control = client.publication(self._endpoints.control)
            heard_of = {self._endpoints.control, self._endpoints.qos}
            self._subscriptions = self._subscribe(client)
            self._sessions = SessionWatch(
                *(s for s in self._subscriptions if s.endpoint in heard_of)
            )
        except MediaDriverLost as error:
            _log.debug("media driver not reachable", extra={"why": str(error)})
            if client is not None:
                client.close()
            return 0
        self._client = client
        self._outbox = Outbox(control)
        now_ns = monotonic_ns()
        if self._last_cycle_ns:
            self._deaf_ns += now_ns - self._last_cycle_ns
        self._last_cycle_ns = now_ns
        _log.info("serving", extra={"aeron_dir": self._aeron_dir})
        return 1

    def _subscribe(self, client: AeronClient) -> list[Subscription]:
        """One subscription an endpoint: several kinds of messages may share one (Wire §5)."""
        control = self._endpoints.control
        others = {self._endpoints.qos, self._endpoints.announce, self._endpoints.metadata}
        return [
            # A hello must not be lost; of all else the next one comes in a second.
            client.subscription(control, tether=True),
            *(
                client.subscription(endpoint)
                for endpoint in sorted(others - {control}, key=lambda e: (e.channel, e.stream_id))
            ),
        ]

    def _disconnect(self) -> None:
        if self._client is None:
            return
        self._client.close()
        self._client = None
        self._outbox = None
        self._subscriptions = []
        self.service.consumers.forget_sessions(self._now_ns)

    # -- one cycle ------------------------------------------------------------------------

    def _work(self) -> int:
        assert self._client is not None
        assert self._outbox is not None
        if self._client.is_lost:
            raise MediaDriverLost("silent for a second")
        now_ns = monotonic_ns()
        gap_ns = now_ns - self._last_cycle_ns
        self._last_cycle_ns = now_ns
        if gap_ns > _STALL_NS:
            self.service.stats.stalls += 1
            self._deaf_ns += gap_ns
            _log.warning("duty cycle stalled", extra={"stall_ms": gap_ns // NS_PER_MS})
        self._now_ns = now_ns - self._deaf_ns
        gone = self._sessions.take_gone(now_ns)
        work = self._outbox.flush()
        self._subscriptions[0].skip_own(self._outbox.publication)
        for subscription in self._subscriptions:
            work += subscription.poll_fairly(self._on_fragment, _POLL_LIMIT)
        if gone:
            self.service.consumers.sessions_gone(gone, self._now_ns)
        if self._now_ns - self._leases_read_ns >= _LEASE_PERIOD_NS and self.service.consumers:
            self._read_leases()
        return work + self.service.do_work(self._now_ns)

    def _read_leases(self) -> None:
        since_ns, self._leases_read_ns = self._leases_read_ns, self._now_ns
        leases = self._leases.read()
        if self._lease_generation != self._leases.generation:
            self._lease_generation = self._leases.generation
            self.service.forget_leases()
        if leases is not None:
            self.service.on_leases(leases, since_ns, self._now_ns)

    def _send(self, config: ConsumerConfig) -> None:
        if self._outbox is not None:
            self._outbox.send(config)

    # -- messages -------------------------------------------------------------------------

    def _on_fragment(self, buffer: memoryview, session_id: int) -> None:
        try:
            header = wire.read_header(buffer)
            if header.schema_id == CONTROL.schema_id:
                if header.template_id in _OF_INTEREST:
                    self._dispatch(CONTROL.decode(buffer, header), session_id)
            elif not wire.is_known_schema(header.schema_id):
                raise wire.UnknownMessage(f"schema id {header.schema_id}")
        except wire.WireError as error:
            self._on_malformed(error, session_id)

    def _dispatch(self, message: Any, session_id: int) -> None:
        match message:
            case QosConsumer():
                self.service.on_qos_consumer(message, session_id, self._now_ns)
            case QosProducer():
                self.service.on_qos_producer(message, self._now_ns)
            case ConsumerHello():
                self.service.on_hello(message, session_id, self._now_ns)
            case ShmPoolAnnounce():
                self.service.on_announce(message, self._now_ns)
            case DataSourceAnnounce():
                self.service.on_source(message, self._now_ns)
            case DataSourceMeta():
                self.service.on_meta(message, self._now_ns)

    def _on_malformed(self, error: wire.WireError, session_id: int) -> None:
        self.service.stats.malformed_messages += 1
        if (suppressed := self._malformed_log.take()) is not None:
            _log.warning(
                "malformed message",
                extra={"why": str(error), "session_id": session_id, **counted(suppressed)},
            )
