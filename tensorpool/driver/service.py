"""Leases and epochs in step: what each request, deadline and finished provisioning changes.

The driver's state proper. It survives the loss of the media driver: the way out (outbox,
announcer) is handed in anew with every connection. The registry is written in the same
step as the table that it shows.
"""

from __future__ import annotations

import logging
from time import time, time_ns

from tensorpool.aeron.outbox import Outbox
from tensorpool.clock import NS_PER_MS, NS_PER_S, monotonic_ns
from tensorpool.driver.ahead import EpochsAhead
from tensorpool.driver.announcer import Announcer
from tensorpool.driver.answers import Answers
from tensorpool.driver.attach import Admission, AttachRules, Rejection, RejectReason
from tensorpool.driver.epoch import Epoch, EpochPlan, LockRefused, NoSpace, is_shortage
from tensorpool.driver.former_leases import FormerLeases
from tensorpool.driver.leases import Lease, LeaseTable
from tensorpool.driver.node_ids import NodeIds
from tensorpool.driver.provisioning import Provisioned, Provisioner
from tensorpool.driver.recovery import Heritage
from tensorpool.driver.stats import DriverStats
from tensorpool.driver.streams import SpaceWait, Stream, StreamTable, Waiting
from tensorpool.errors import HostError
from tensorpool.fault_points import FaultPoint, fault_point
from tensorpool.gc_report import read_report
from tensorpool.logs import counted
from tensorpool.registry import BumpReason, LeaseState, RegistryWriter
from tensorpool.settings import HostSettings
from tensorpool.shm.backing import backing_of
from tensorpool.wire.driver import (
    LeaseRevokeReason,
    Role,
    ShmAttachRequest,
    ShmDetachRequest,
    ShmLeaseKeepalive,
)

_log = logging.getLogger(__name__)

_GC_WAIT_NS = 2 * NS_PER_S
_ROOM_WAIT_NS = 50 * NS_PER_MS
"""Until a worker has removed what was made ahead."""
_STARTUP_GC_NS = 5 * NS_PER_S
_GC_POLL_NS = 10 * NS_PER_MS
_RETRY_NS = NS_PER_S
_EXPIRIES_PER_CYCLE = 100
"""Expiries are spread, not stormed (design §4.14); the duty cycle stays bounded."""

_CREDIBLE_DELAY_NS = 60 * NS_PER_S
"""A client timestamp older than this is none."""

_BUMP_OF_END = {
    LeaseRevokeReason.DETACHED: BumpReason.PRODUCER_DETACHED,
    LeaseRevokeReason.EXPIRED: BumpReason.PRODUCER_EXPIRED,
    LeaseRevokeReason.REVOKED: BumpReason.PRODUCER_REVOKED,
}


class LeaseService:
    """All leases, streams and epochs of the host.

    Attributes:
        answers: what clients are told.
        announcer: what all are told; set with each connection.
        fatal: a fault that no restart cures; the agent ends the process with it.
    """

    announcer: Announcer

    def __init__(
        self,
        settings: HostSettings,
        heritage: Heritage,
        registry: RegistryWriter,
        provisioner: Provisioner,
    ) -> None:
        policies = settings.policies
        self.stats = DriverStats()
        self.answers = Answers(self.stats)
        self.fatal: HostError | None = None
        self.is_draining = False
        self.streams = StreamTable(policies.max_streams)
        self.leases = LeaseTable(
            policies.max_leases,
            heritage.first_lease_id,
            NodeIds(policies.node_id_reuse_cooldown_ns, heritage.cooling),
        )
        self._settings = settings
        self._policies = policies
        self._registry = registry
        self._provisioner = provisioner
        self.ahead = EpochsAhead(settings, provisioner)
        self._last_epoch = heritage.last_epoch
        registry.set_last_epoch(heritage.last_epoch)
        self._last_epochs = heritage.last_epochs
        self._answered = heritage.answered
        self.former_leases = FormerLeases(heritage, policies)
        self.rereads_until_ns = 0
        """Until then the control log may show us what our predecessor has answered."""
        self._next_gc_look_ns = 0
        # What a former driver left is collected before more is made: in a container its pages
        # count against our own memory limit.
        self._startup_pass: SpaceWait | None = None
        if policies.epoch_gc_enabled and policies.epoch_gc_on_startup:
            self._startup_pass = SpaceWait(registry.request_gc(), monotonic_ns() + _STARTUP_GC_NS)
        self._rules = AttachRules(
            settings, backing_of(settings.shm.base_dir), self.streams, self.leases
        )
        for static in settings.streams:
            self._add_stream(static.stream_id, static.name, static.profile, is_static=True)

    def connect(self, outbox: Outbox, announcer: Announcer) -> None:
        """Speak through these from now on: debts first, then every epoch that there is."""
        self.answers.outbox, self.announcer = outbox, announcer
        self.former_leases.revoke_debts(outbox.send)
        self.announce_all()

    # -- streams and epochs ---------------------------------------------------------------

    def provision_static_streams(self) -> None:
        """Static streams exist from the start: REQUIRE_EXISTING finds them (Driver §4.3)."""
        for stream in self.streams:
            if stream.epoch is None:
                self._begin_epoch(stream, BumpReason.CREATED)

    def add_static_streams(self, settings: HostSettings) -> None:
        """Serve the streams and profiles that a reload added."""
        self._settings = settings
        for static in settings.streams:
            if self.streams.get(static.stream_id) is None:
                self._add_stream(static.stream_id, static.name, static.profile, is_static=True)
        self.provision_static_streams()

    def announce_all(self) -> None:
        """After a reconnection: every valid epoch, now."""
        now_ns = monotonic_ns()
        for stream in self.streams:
            if stream.epoch is not None and not stream.is_tainted and not stream.is_provisioning:
                self.announcer.announce_now(stream, now_ns)

    def take_provisioned(self) -> int:
        """Put finished epochs into service; how many results there were."""
        count = 0
        while (result := self._provisioner.take()) is not None:
            count += 1
            stream = self.streams.get(result.plan.stream_id)
            if self.ahead.keep(result):
                if stream is not None:
                    self._make_ahead(stream)
                continue
            assert stream is not None, "a stream being provisioned is never removed"
            if result.epoch is None:
                assert result.error is not None
                self._on_provision_failure(stream, result.error)
            elif self._put_in_place(result.epoch):
                self._commit_epoch(stream, result)
                self._make_ahead(stream)
            else:
                self._submit(stream)
        return count

    def retry_provisioning(self, now_ns: int) -> int:
        """Streams that wait for space or for a second try; how many went on."""
        if now_ns < self._next_gc_look_ns:
            return 0
        self._next_gc_look_ns = now_ns + _GC_POLL_NS
        count = 0
        report = None
        startup_pass = self._startup_pass
        for stream in self.streams:
            if stream.space is not None:
                report = report or read_report(self._settings.shm.namespace_dir)
                served = report is not None and report.requests_served >= stream.space.request
                if served or now_ns > stream.space.deadline_ns:
                    # After the pass at the start, space that is short is worth another one.
                    stream.has_retried = stream.space is not startup_pass
                    self._startup_pass = stream.space = None
                    self._submit(stream)
                    count += 1
            elif stream.retry_ns and now_ns >= stream.retry_ns and not stream.is_provisioning:
                stream.retry_ns = 0
                self._begin_epoch(stream, stream.reason)
                count += 1
        return count

    def on_regions_lost(self, stream: Stream) -> None:
        """Its files were removed or cut underneath us: new regions, a new epoch (Driver §6).

        Consumers map what is announced; a producer gets other regions only by attaching again.
        """
        stream.is_tainted = True
        if stream.producer is not None:
            self._end(stream.producer, LeaseRevokeReason.REVOKED, "its regions were removed or cut")
        self._begin_epoch(stream, BumpReason.REGIONS_LOST)

    def _add_stream(
        self,
        stream_id: int,
        name: str,
        profile: str,
        *,
        is_static: bool,
    ) -> Stream:
        evicted = self.streams.evict_for_room()
        if evicted is not None:
            self._last_epochs[evicted.stream_id] = evicted.last_epoch
            self.ahead.drop(evicted.stream_id)
            self.announcer.withdraw(evicted.stream_id)
        stream = self.streams.add(
            stream_id, name, self._settings.profile(profile), is_static=is_static
        )
        stream.last_epoch = self._last_epochs.get(stream_id, self._last_epoch)
        self._registry.write_stream(stream.index, stream.record())
        fault_point(FaultPoint.STREAM_ADDED)
        return stream

    def _begin_epoch(self, stream: Stream, reason: BumpReason) -> None:
        """Have the stream's next epoch made; the current one is announced no more."""
        stream.reason = reason
        if hasattr(self, "announcer"):
            self.announcer.withdraw(stream.stream_id)
        if not stream.is_provisioning:
            # An epoch in the making was never visible: it serves this reason as well.
            stream.is_provisioning = True
            stream.has_retried = False
            stream.wanted_ns = monotonic_ns()
            if self._startup_pass is not None:
                stream.space = self._startup_pass
            else:
                self._submit(stream)

    def _submit(self, stream: Stream) -> None:
        if self.ahead.serve(stream.stream_id):
            return
        plan = self._plan_next(stream)
        self._record_begun(stream, plan)
        fault_point(FaultPoint.EPOCH_RECORDED)
        self._provisioner.submit(plan)
        fault_point(FaultPoint.EPOCH_SUBMITTED)

    def _make_ahead(self, stream: Stream) -> None:
        plan = self._plan_next(stream)
        if self.ahead.wants(plan) and not self.is_draining:
            self._record_begun(stream, plan)
            self.ahead.begin(plan)

    def _plan_next(self, stream: Stream) -> EpochPlan:
        return EpochPlan(stream.stream_id, max(self._last_epoch + 1, time_ns()), stream.profile)

    def _record_begun(self, stream: Stream, plan: EpochPlan) -> None:
        """In the registry before it exists: a successor starts above it, whatever happens."""
        self._last_epoch = stream.last_epoch = plan.epoch
        self._registry.set_last_epoch(plan.epoch)
        self._registry.write_stream(stream.index, stream.record())

    def _put_in_place(self, epoch: Epoch) -> bool:
        """Show the epoch to clients; whether it is there."""
        if not epoch.is_in_place:
            try:
                self._provisioner.put_in_place(epoch)
            except HostError as error:
                fields = {"stream_id": epoch.stream_id, "why": str(error)}
                _log.warning("epoch made ahead is lost", extra=fields)
                return False
        return True

    def _commit_epoch(self, stream: Stream, result: Provisioned) -> None:
        fault_point(FaultPoint.EPOCH_TAKEN)
        now_ns = monotonic_ns()
        former, stream.epoch = stream.epoch, result.epoch
        stream.is_provisioning = stream.is_tainted = False
        stream.failure_log.reset()
        stream.loss_log.reset()
        stream.retry_ns = 0
        stream.bumps += 1
        stream.epoch_created_ns = now_ns
        stream.epoch_created_at = time()
        self.stats.epoch_bumps[stream.reason.name] += 1
        self.stats.provisioned_bytes += result.plan.total_bytes
        self.stats.provision_times.observe_ns(now_ns - stream.wanted_ns)
        waiting, stream.waiting = stream.waiting, []
        for entry in waiting:
            self._grant(stream, entry)
        self._registry.write_stream(stream.index, stream.record())
        fault_point(FaultPoint.STREAM_RECORDED)
        self._registry.count_epoch_change()
        fault_point(FaultPoint.CHANGE_COUNTED)
        self.announcer.announce_now(stream, now_ns)
        if self.answers.outbox.is_empty:
            # Announced before its producer knows it: no descriptor can overtake the announce.
            self.announcer.do_work(now_ns, self.streams)
        fault_point(FaultPoint.EPOCH_ANNOUNCED)
        for entry in waiting:
            self.answers.granted(stream, entry)
        # Last, for there may be hundreds: until then the former epoch counts as theirs, and stays.
        for lease_id in stream.consumers:
            lease = self.leases.get(lease_id)
            if lease is not None:
                lease.epoch = result.plan.epoch
                self._registry.write_lease(lease.index, lease.record())
                fault_point(FaultPoint.CONSUMER_MOVED)
        if former is not None:
            former.close()
        _log.info(
            "epoch in service",
            extra={
                "stream_id": stream.stream_id,
                "epoch": result.plan.epoch,
                "reason": stream.reason.name,
                "bytes": result.plan.total_bytes,
            },
        )

    def _on_provision_failure(self, stream: Stream, error: HostError) -> None:
        self.stats.provision_failures += 1
        if isinstance(error, LockRefused):
            self.fatal = error
        can_collect = isinstance(error, NoSpace) and self._policies.epoch_gc_enabled
        has_room_now = is_shortage(error) and self.ahead.make_room()
        if (has_room_now or can_collect) and not stream.has_retried:
            deadline = monotonic_ns() + (_GC_WAIT_NS if can_collect else _ROOM_WAIT_NS)
            stream.space = SpaceWait(self._registry.request_gc(), deadline)
            return
        if (suppressed := stream.failure_log.take()) is not None:
            fields = {"stream_id": stream.stream_id, "why": str(error), **counted(suppressed)}
            _log.error("provisioning failed", extra=fields)
        stream.is_provisioning = False
        self.stats.provision_times.observe_ns(monotonic_ns() - stream.wanted_ns)
        waiting, stream.waiting = stream.waiting, []
        for entry in waiting:
            self._withdraw_reservation(entry.lease)
            self.answers.refused(
                entry.request.correlation_id, RejectReason.PROVISIONING, str(error)
            )
        if stream.epoch is not None and not stream.is_tainted:
            self.announcer.announce_now(stream, monotonic_ns())
        else:
            if stream.epoch is not None:
                stream.epoch.close()
                stream.epoch = None
            stream.retry_ns = monotonic_ns() + _RETRY_NS
        self._registry.write_stream(stream.index, stream.record())

    # -- requests -------------------------------------------------------------------------

    def attach(self, request: ShmAttachRequest, session_id: int) -> None:
        """Answer an attach, now or when the regions are there (Driver §4.2)."""
        self.stats.attach_requests += 1
        now_ns = monotonic_ns()
        if self._take_up_retry(request, session_id) or self._is_reread(request, now_ns):
            return
        try:
            if self.is_draining:
                raise Rejection(RejectReason.DRAINING, "the driver is shutting down")
            admission = self._rules.judge(request, session_id, now_ns)
        except Rejection as rejection:
            self.answers.refused(
                request.correlation_id, rejection.reason, rejection.message, request
            )
            return
        self._admit(request, session_id, admission, now_ns)

    def _take_up_retry(self, request: ShmAttachRequest, session_id: int) -> bool:
        """Whether its client waits for this lease already: then the newest request is answered.

        Regions of gigabytes take longer to make than a client waits for an answer. It asks again
        then, for the same with another correlation id (Driver §B.1); a second attach it is not
        (Driver §4.8), and a refusal would have it ignore the answer to the first.
        """
        lease = self.leases.of_client(request.client_id)
        stream = self.streams.get(request.stream_id)
        if lease is None or stream is None:
            return False
        for entry in stream.waiting:
            if entry.lease is lease:
                correlation_id = request.correlation_id
                is_same = entry.request._replace(correlation_id=correlation_id) == request
                if is_same and lease.session_id == session_id:
                    entry.request, lease.correlation_id = request, correlation_id
                return entry.request.correlation_id == correlation_id
        return False

    def _is_reread(self, request: ShmAttachRequest, now_ns: int) -> bool:
        """Whether our predecessor has given a lease for this very request.

        A new subscriber joins a log where the slowest reader stands, so it can hear again what
        was said before its time: a second lease for it would be nobody's, and in the way of
        the client's own attach until it expires.
        """
        return (
            now_ns < self.rereads_until_ns
            and (request.client_id, request.correlation_id) in self._answered
        )

    def _admit(
        self, request: ShmAttachRequest, session_id: int, admission: Admission, seen_ns: int
    ) -> None:
        if admission.superseded is not None:
            self.stats.superseded_leases += 1
            self._end(
                admission.superseded,
                LeaseRevokeReason.REVOKED,
                "superseded: its client attached again from a new session",
            )
            fault_point(FaultPoint.LEASE_ENDED)
        stream = admission.stream
        if stream is None:
            name = f"dynamic-{admission.stream_id}"
            profile = self._policies.default_profile
            stream = self._add_stream(admission.stream_id, name, profile, is_static=False)
        lease = self.leases.reserve(
            stream_id=stream.stream_id,
            client_id=request.client_id,
            role=admission.role,
            node_id=admission.node_id,
            session_id=session_id,
            correlation_id=request.correlation_id,
        )
        fault_point(FaultPoint.LEASE_RESERVED)
        entry = Waiting(request, lease, seen_ns)
        if admission.role is Role.PRODUCER:
            stream.producer = lease
            stream.waiting.append(entry)
            # A producer's first act is an epoch of its own (Driver §6).
            self._begin_epoch(stream, BumpReason.PRODUCER_ATTACHED)
            return
        stream.consumers.add(lease.lease_id)
        if stream.epoch is not None and not stream.is_provisioning:
            self._grant(stream, entry)
            self._registry.write_stream(stream.index, stream.record())
            self.answers.granted(stream, entry)
            # C consumers take their join time from the first announce that they hear, and ignore
            # that one: without this, the next epoch's could be it, a whole period before another.
            self.announcer.announce_now(stream, monotonic_ns())
            return
        stream.waiting.append(entry)
        if not stream.is_provisioning:
            self._begin_epoch(stream, BumpReason.CREATED)

    def _grant(self, stream: Stream, entry: Waiting) -> None:
        assert stream.epoch is not None
        lease = entry.lease
        self.leases.grant(
            lease,
            epoch=stream.epoch.epoch,
            now_ns=monotonic_ns(),
            ttl_ns=self._policies.lease_ttl_ns,
        )
        self._registry.write_lease(lease.index, lease.record())
        self._registry.set_active_leases(len(self.leases))
        fault_point(FaultPoint.LEASE_RECORDED)
        self.stats.attaches += 1

    def keep_alive(self, message: ShmLeaseKeepalive, session_id: int) -> None:
        """Extend the lease if everything matches; ignore and count it otherwise (Driver §4.4)."""
        lease = self.leases.get(message.lease_id)
        now_ns = monotonic_ns()
        if lease is None or not _matches(lease, message):
            self.stats.ignored_keepalives += 1
            if lease is None:
                self.former_leases.answer(message, now_ns, self.answers.outbox.send)
            return
        self.stats.keepalives += 1
        # Clients stamp by the wall clock, the monotonic one or none: one later than now is no time
        # of ours since boot.
        stamp_ns = message.client_timestamp_ns
        delay_ns = (time_ns() if stamp_ns > now_ns else now_ns) - stamp_ns
        if 0 <= delay_ns < _CREDIBLE_DELAY_NS:
            self.stats.keepalive_delays.observe_ns(delay_ns)
        self.leases.keep_alive(
            lease, session_id=session_id, now_ns=now_ns, ttl_ns=self._policies.lease_ttl_ns
        )
        self._registry.write_lease(lease.index, lease.record())

    def detach(self, message: ShmDetachRequest) -> None:
        """End the lease if everything matches (Driver §4.9)."""
        seen_ns = monotonic_ns()
        lease = self.leases.get(message.lease_id)
        if lease is None or not _matches(lease, message):
            self.answers.not_detached(message)
            return
        self.stats.detaches += 1
        self._end(lease, LeaseRevokeReason.DETACHED)
        self.answers.detached(message, seen_ns)

    # -- ends -----------------------------------------------------------------------------

    def expire_due(self, now_ns: int) -> int:
        """End the leases whose deadlines have passed; how many."""
        count = 0
        while count < _EXPIRIES_PER_CYCLE and (lease := self.leases.next_expired(now_ns)):
            text = "its client's Aeron session ended" if lease.is_orphaned else "no keepalive came"
            reason = LeaseRevokeReason.REVOKED if lease.is_orphaned else LeaseRevokeReason.EXPIRED
            self._end(lease, reason, text)
            count += 1
        return count

    def orphan_sessions(self, session_ids: set[int]) -> None:
        """These Aeron sessions are gone: their leases live on only by a keepalive."""
        deadline_ns = monotonic_ns() + self._policies.lease_keepalive_interval_ns
        for lease in self.leases.of_sessions(session_ids):
            self.leases.orphan(lease, deadline_ns=deadline_ns)
            if lease.is_granted:
                self._registry.write_lease(lease.index, lease.record())

    def forget_all(self) -> None:
        """A clean shutdown: `ShmDriverShutdown` has invalidated every lease (Driver §4.13)."""
        for lease in list(self.leases):
            self._release_records(lease)
        for stream in self.streams:
            self.ahead.drop(stream.stream_id)
            if stream.epoch is not None:
                stream.epoch.close()
                stream.epoch = None
            stream.producer = None
            stream.consumers.clear()
            self._registry.write_stream(stream.index, stream.record())

    def _end(self, lease: Lease, reason: LeaseRevokeReason, text: str = "") -> None:
        stream = self.streams.get(lease.stream_id)
        assert stream is not None, "a stream with leases is never removed"
        if not lease.is_granted:
            self._withdraw_reservation(lease)
            stream.waiting = [entry for entry in stream.waiting if entry.lease is not lease]
            return
        # Told before it is released: a successor revokes what the registry still shows, and a
        # lease released in silence would have its client write to regions that nobody reads.
        self.answers.revoked(lease, reason, text)
        self._release_records(lease)
        fault_point(FaultPoint.RECORD_RELEASED)
        if stream.producer is lease:
            stream.producer = None
            stream.is_tainted = True
            self._begin_epoch(stream, _BUMP_OF_END[reason])
        else:
            stream.consumers.discard(lease.lease_id)
        self._registry.write_stream(stream.index, stream.record())

    def _withdraw_reservation(self, lease: Lease) -> None:
        stream = self.streams.get(lease.stream_id)
        assert stream is not None, "a stream with leases is never removed"
        self.leases.remove(lease, now_ns=monotonic_ns())
        if stream.producer is lease:
            stream.producer = None
        stream.consumers.discard(lease.lease_id)

    def _release_records(self, lease: Lease) -> None:
        now_ns = monotonic_ns()
        self.leases.remove(lease, now_ns=now_ns)
        released = lease.record()._replace(
            state=LeaseState.RELEASED, expiry_ns=now_ns + self.leases.node_ids.cooldown_ns
        )
        self._registry.write_lease(lease.index, released)
        self._registry.set_active_leases(len(self.leases))


def _matches(lease: Lease, message: ShmLeaseKeepalive | ShmDetachRequest) -> bool:
    """Whether stream, client and role are the lease's own, and it was granted."""
    return (
        lease.is_granted
        and lease.stream_id == message.stream_id
        and lease.client_id == message.client_id
        and lease.role == message.role
    )
