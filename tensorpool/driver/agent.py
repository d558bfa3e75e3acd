"""The driver's duty cycle: every request, deadline and result, each in a bounded step.

Order within one cycle: what waits to go out; what workers and media driver report;
requests and keepalives; deadlines; announcements, and those only when the control stream
has nothing waiting. A revocation thus always leaves before the announce of the epoch that
it causes (Driver §4.9).
"""

from __future__ import annotations

import hmac
import logging
import os
from typing import Any

from tensorpool import wire
from tensorpool.aeron.client import (
    PATIENT_SLEEP_MS,
    AeronClient,
    MediaDriverLost,
    has_media_driver_file,
)
from tensorpool.aeron.outbox import Outbox
from tensorpool.aeron.sessions import SessionWatch
from tensorpool.clock import NS_PER_MS, NS_PER_S, monotonic_ns
from tensorpool.driver.announcer import Announcer
from tensorpool.driver.service import LeaseService
from tensorpool.logs import RateLimit, counted
from tensorpool.registry import DriverState, RegistryWriter
from tensorpool.settings import HostSettings
from tensorpool.wire.driver import (
    DRIVER,
    ShmAttachRequest,
    ShmDetachRequest,
    ShmDriverShutdown,
    ShmDriverShutdownRequest,
    ShmLeaseKeepalive,
    ShutdownReason,
)

_log = logging.getLogger(__name__)

_POLL_LIMIT = 64
_REREAD_NS = NS_PER_S
"""More than it takes to read what a control log holds."""
_BITE = 8
_REQUEST_BUDGET_NS = 2 * NS_PER_MS
_STALL_NS = 500 * NS_PER_MS
_LEAST_LATE_NS = 50 * NS_PER_MS
"""Every process is later than planned at times; that is nothing to make up for."""
_MAKE_UP_SHARE = 0.6
"""Of what counts as late, so that making up for it is not the next delay."""
_REGION_CHECK_NS = NS_PER_S
_REQUESTS = {
    DRIVER.by_type[kind].template_id
    for kind in (ShmAttachRequest, ShmDetachRequest, ShmLeaseKeepalive, ShmDriverShutdownRequest)
}


class DriverAgent:
    """The driver, as an agent.

    Attributes:
        is_done: a requested shutdown is complete.
        shutdown_reason: why, if a peer with the right token asked for it.
    """

    role_name = "driver"

    def __init__(
        self,
        settings: HostSettings,
        service: LeaseService,
        registry: RegistryWriter,
    ) -> None:
        self.service = service
        self.is_done = False
        self.shutdown_reason: ShutdownReason | None = None
        self._settings = settings
        self._registry = registry
        self._malformed_log = RateLimit()
        self._refusal_log = RateLimit()
        self._client: AeronClient | None = None
        self._lost_since_ns = 0
        self._last_cycle_ns = 0
        # Who is away for a keepalive interval has missed one of every client.
        interval_ns = settings.policies.lease_keepalive_interval_ns
        self._late_ns = max(_LEAST_LATE_NS, min(_STALL_NS, interval_ns))
        self._drain_deadline_ns = 0
        self._next_region_check_ns = 0

    @property
    def is_connected(self) -> bool:
        """Whether it has a live media driver."""
        return self._client is not None

    def on_start(self) -> None:
        """Nothing: the first cycles connect."""

    def on_close(self) -> None:
        """Let go of the media driver."""
        self._disconnect()

    def do_work(self) -> int:
        """One duty cycle; how much was done that somebody waits for.

        Raises:
            HostError: a fault that the launcher must judge.
        """
        self._registry.heartbeat()
        if self.service.fatal is not None:
            raise self.service.fatal
        if self._client is None:
            return self._connect()
        try:
            return self._work()
        except MediaDriverLost as error:
            _log.warning("media driver lost", extra={"why": str(error)})
            self.service.stats.media_driver_losses += 1
            self._disconnect()
            # What clients sent since our last whole cycle may be lost with the connection.
            self._lost_since_ns = self._last_cycle_ns
            return 1

    def begin_shutdown(self, reason: ShutdownReason) -> None:
        """Drain: refuse attaches, announce a last time, give clients the time to leave."""
        if self._drain_deadline_ns:
            return
        self.shutdown_reason = reason
        self.service.is_draining = True
        self._registry.set_state(DriverState.DRAINING)
        self._drain_deadline_ns = monotonic_ns() + self._settings.policies.shutdown_timeout_ns
        _log.info("draining", extra={"leases": len(self.service.leases)})
        if self._client is not None:
            self.service.announce_all()

    def reload(self, settings: HostSettings) -> None:
        """Take over what a reload may change: streams and profiles."""
        self._settings = settings
        self.service.add_static_streams(settings)

    # -- connection -----------------------------------------------------------------------

    def _connect(self) -> int:
        if self._drain_deadline_ns and monotonic_ns() >= self._drain_deadline_ns:
            self._finish_shutdown()
            return 1
        if not has_media_driver_file(self._settings.aeron_dir):
            return 0
        driver = self._settings.driver
        client = None
        try:
            client = AeronClient(
                self._settings.aeron_dir,
                f"tensorpool-driver {os.getpid()}",
                conductor_sleep_ms=PATIENT_SLEEP_MS,
            )
            self._control = control = client.publication(driver.control)
            announce = client.publication(driver.announce)
            self._subscription = client.subscription(driver.control, tether=True)
        except MediaDriverLost as error:
            _log.debug("media driver not reachable", extra={"why": str(error)})
            if client is not None:
                client.close()
            return 0
        self._client = client
        now_ns = monotonic_ns()
        stats = self.service.stats
        self._sessions = SessionWatch(self._subscription)
        if self._lost_since_ns:
            self.service.leases.extend_all(now_ns - self._lost_since_ns)
        self.service.rereads_until_ns = now_ns + _REREAD_NS
        self._outbox = Outbox(control, stats.outbox)
        period_ns = self._settings.policies.announce_period_ns
        self.service.connect(self._outbox, Announcer(announce, period_ns, stats.announces))
        self.service.provision_static_streams()
        self._last_cycle_ns = now_ns
        if not self._drain_deadline_ns:
            self._registry.set_state(DriverState.SERVING)
        _log.info("serving", extra={"aeron_dir": self._settings.aeron_dir})
        return 1

    def _disconnect(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None

    # -- one cycle ------------------------------------------------------------------------

    def _work(self) -> int:
        assert self._client is not None
        if self._client.is_lost:
            raise MediaDriverLost("silent for a second")
        now_ns = monotonic_ns()
        delay_ns = now_ns - self._last_cycle_ns
        service = self.service
        work = self._outbox.flush() + service.take_provisioned()
        work += self._take_awaited_requests(now_ns)
        if delay_ns > self._late_ns:
            self._make_up_for(delay_ns)
        gone = self._sessions.take_gone(now_ns)
        if gone:
            service.orphan_sessions(gone)
        work += service.expire_due(now_ns) + service.retry_provisioning(now_ns)
        if self._outbox.is_empty:
            work += service.announcer.do_work(now_ns, service.streams)
        if now_ns >= self._next_region_check_ns:
            self._next_region_check_ns = now_ns + _REGION_CHECK_NS
            self._check_regions()
        if self._drain_deadline_ns and (
            now_ns >= self._drain_deadline_ns or not len(service.leases)
        ):
            self._finish_shutdown()
        self._last_cycle_ns = now_ns
        return work

    def _take_awaited_requests(self, now_ns: int) -> int:
        """As `_take_requests`, keepalives not counted unless more of them may be waiting."""
        stats = self.service.stats
        keepalives = stats.keepalives
        count = self._take_requests(now_ns)
        return count - (stats.keepalives - keepalives) if count < _POLL_LIMIT else count

    def _take_requests(self, now_ns: int) -> int:
        """A bounded share of what waits: in bites, so that nobody's flood delays the others."""
        count = 0
        self._subscription.skip_own(self._control)
        while count < _POLL_LIMIT:
            bite = self._subscription.poll_fairly(self._on_fragment, _BITE)
            count += bite
            if bite < _BITE or monotonic_ns() - now_ns > _REQUEST_BUDGET_NS:
                break
        return count

    def _make_up_for(self, delay_ns: int) -> None:
        """We were late, not the clients: take what they sent, then judge (design §4.7).

        For a bounded time: under a flood there is always more, and a driver that only takes
        requests shows no sign of life. Deadlines move by that time as well.
        """
        if delay_ns > _STALL_NS:
            self.service.stats.stalls += 1
            _log.warning("duty cycle stalled", extra={"stall_ms": delay_ns // NS_PER_MS})
        started_ns = now_ns = monotonic_ns()
        budget_ns = _MAKE_UP_SHARE * self._late_ns
        while now_ns - started_ns < budget_ns and self._take_requests(now_ns):
            now_ns = monotonic_ns()
        self.service.leases.extend_all(delay_ns + now_ns - started_ns)

    def _check_regions(self) -> None:
        for stream in self.service.streams:
            if stream.epoch is None or stream.is_provisioning or stream.is_tainted:
                continue
            if not stream.epoch.is_whole():
                if (suppressed := stream.loss_log.take()) is not None:
                    fields = {"stream_id": stream.stream_id, **counted(suppressed)}
                    _log.error("regions removed or cut underneath us", extra=fields)
                self.service.on_regions_lost(stream)

    def _finish_shutdown(self) -> None:
        if self._client is not None:
            reason = self.shutdown_reason or ShutdownReason.NORMAL
            self._outbox.send(ShmDriverShutdown(monotonic_ns(), reason))
            self._outbox.flush()
        self.service.forget_all()
        self._registry.set_state(DriverState.STOPPED)
        self.is_done = True

    # -- messages -------------------------------------------------------------------------

    def _on_fragment(self, buffer: memoryview, session_id: int) -> None:
        try:
            header = wire.read_header(buffer)
            if header.schema_id == DRIVER.schema_id:
                if header.template_id in _REQUESTS:
                    self._dispatch(DRIVER.decode(buffer, header), session_id)
            elif not wire.is_known_schema(header.schema_id):
                raise wire.UnknownMessage(f"schema id {header.schema_id}")
        except wire.UnsupportedVersion as error:
            self._on_unsupported(error)
        except wire.WireError as error:
            self._on_malformed(error, session_id)

    def _dispatch(self, message: Any, session_id: int) -> None:
        match message:
            case ShmLeaseKeepalive():
                self.service.keep_alive(message, session_id)
            case ShmAttachRequest():
                self.service.attach(message, session_id)
            case ShmDetachRequest():
                self.service.detach(message)
            case ShmDriverShutdownRequest():
                self._on_shutdown_request(message)

    def _on_unsupported(self, error: wire.UnsupportedVersion) -> None:
        self.service.stats.malformed_messages += 1
        if isinstance(error.message, ShmAttachRequest | ShmDetachRequest):
            self.service.answers.unsupported(
                error.message.correlation_id,
                is_attach=isinstance(error.message, ShmAttachRequest),
                text=str(error),
            )

    def _on_malformed(self, error: wire.WireError, session_id: int) -> None:
        self.service.stats.malformed_messages += 1
        suppressed = self._malformed_log.take()
        if suppressed is not None:
            _log.warning(
                "malformed message on the control stream",
                extra={"why": str(error), "session_id": session_id, **counted(suppressed)},
            )

    def _on_shutdown_request(self, message: ShmDriverShutdownRequest) -> None:
        """Obey the configured token only; no trace of a token in the log (Driver §4.13)."""
        token = self._settings.policies.shutdown_token.encode()
        if not token or not hmac.compare_digest(token, message.token):
            self.service.stats.refused_shutdowns += 1
            if (suppressed := self._refusal_log.take()) is not None:
                _log.warning("shutdown request refused", extra=counted(suppressed))
            return
        known = message.reason in ShutdownReason
        reason = ShutdownReason(message.reason) if known else ShutdownReason.ADMIN
        _log.info("shutdown requested", extra={"reason": reason.name})
        self.begin_shutdown(reason)
