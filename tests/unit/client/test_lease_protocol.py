"""A client's leases as a state machine: whatever comes, in any order, they stay whole."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tensorpool import wire
from tensorpool.aeron.client import Offer
from tensorpool.client.channels import Channels
from tensorpool.client.events import EventLog
from tensorpool.client.lease import ClientLease, LeaseStatus
from tensorpool.client.lease_protocol import LeaseProtocol
from tensorpool.client.mapping import EpochRegions
from tensorpool.clock import NS_PER_S, monotonic_ns
from tensorpool.config import load, to_settings
from tensorpool.wire.control import ClockDomain, PayloadPool, ResponseCode, ShmPoolAnnounce
from tensorpool.wire.driver import (
    LeaseRevokeReason,
    Role,
    ShmAttachRequest,
    ShmAttachResponse,
    ShmDetachRequest,
    ShmDetachResponse,
    ShmDriverShutdown,
    ShmLeaseKeepalive,
    ShmLeaseRevoked,
)

STREAM, OTHER_STREAM = 10000, 10001
FIXED_ID = 77
LIFE_NS = 3600 * NS_PER_S
ROLES = list(Role)
LEASES = st.integers(0, len(ROLES))
FAULTS = ["lease_id", "epoch", "stream", "nslots", "over"]
POLICIES = to_settings(load(None, {}).config).policies


@dataclass
class Sent(Channels):
    """What was offered on the control stream, which takes it or not."""

    offers: list[Any] = field(default_factory=list)
    takes: bool = True

    def control(self, message: tuple[Any, ...]) -> Offer:
        if not self.takes:
            return Offer.BACK_PRESSURED
        self.offers.append(message)
        return Offer.SENT


class Quiet:
    """A user of a lease that neither says nor hears anything."""

    def on_connected(self, channels: Channels) -> None: ...

    def on_regions(self, lease: ClientLease) -> None: ...

    def hear(self, lease: ClientLease, message: Any, now_ns: int) -> None: ...

    def tick(self, lease: ClientLease, channels: Channels, now_ns: int) -> int:
        return 0

    def on_closed(self) -> None: ...


@dataclass(frozen=True)
class Seen:
    """What a lease's user may go by; it may not change without a new version."""

    status: LeaseStatus
    regions: EpochRegions | None
    lease_id: int


def seen(lease: ClientLease) -> Seen:
    is_attached = lease.status is LeaseStatus.ATTACHED
    # While it waits and asks again, a lease looks the same to its user.
    is_asking = lease.status is LeaseStatus.ATTACHING
    status = LeaseStatus.BACKOFF if is_asking else lease.status
    return Seen(status, lease.regions, lease.lease_id if is_attached else 0)


class ProtocolMachine(RuleBasedStateMachine):
    """A driver, honest and not, a slow control stream, and the passing of time."""

    @initialize()
    def start(self) -> None:
        self.events = EventLog(None)
        self.protocol = LeaseProtocol(POLICIES, self.events)
        self.channels = Sent()
        self.protocol.on_connected(self.channels)
        self.leases = [self.new_lease(number) for number in range(len(ROLES) + 1)]
        self.protocol.leases += self.leases
        self.before = [(lease.version, seen(lease)) for lease in self.leases]
        self.held: dict[ClientLease, int] = {}
        self.abandoned: set[int] = set()
        self.next_lease_id = 1
        self.epoch = 1

    # -- time and the control stream ----------------------------------------------------------

    @rule(which=LEASES)
    def time_comes(self, which: int) -> None:
        lease = self.leases[which]
        lease.next_action_ns = 0
        status, sent = lease.status, len(self.channels.offers)
        self.protocol.tend(lease, monotonic_ns())
        kinds = [type(message) for message in self.channels.offers[sent:]]
        expected = {
            LeaseStatus.BACKOFF: ShmAttachRequest,
            LeaseStatus.ATTACHING: ShmAttachRequest,
            LeaseStatus.ATTACHED: ShmLeaseKeepalive,
            LeaseStatus.DETACHING: ShmDetachRequest,
        }.get(status)
        assert kinds == ([expected] if expected is not None and self.channels.takes else [])
        assert status is LeaseStatus.CLOSED or lease.next_action_ns > 0

    @rule(which=LEASES)
    def deadline_passes(self, which: int) -> None:
        lease = self.leases[which]
        if seen(lease).status is not LeaseStatus.ATTACHED:
            return
        lease.next_action_ns = lease.deadline_ns = 0
        sent = len(self.channels.offers)
        self.protocol.tend(lease, monotonic_ns())
        assert lease.status is LeaseStatus.BACKOFF
        assert self.channels.offers[sent:] == [], "no keepalive for a lease that is over"
        assert self.events.latest[-1].what == "lease_expired"

    @rule(takes=st.booleans())
    def back_pressure(self, takes: bool) -> None:
        self.channels.takes = takes

    @rule(which=LEASES)
    def user_gives_it_back(self, which: int) -> None:
        lease = self.leases[which]
        if lease.status is LeaseStatus.ATTACHED:
            with lease.changed:
                lease.status = LeaseStatus.DETACHING
                lease.bump()

    @rule(which=LEASES)
    def user_is_gone(self, which: int) -> None:
        """And another one comes in its place."""
        lease = self.leases[which]
        with lease.changed:
            lease.status, lease.regions = LeaseStatus.CLOSED, None
        self.protocol.abandon(lease)
        self.abandoned |= set(lease.unanswered)
        self.leases[which] = successor = self.new_lease(which)
        self.protocol.leases.append(successor)
        self.before[which] = successor.version, seen(successor)

    # -- what the driver says -------------------------------------------------------------------

    @rule(which=LEASES)
    def attach(self, which: int) -> None:
        """What mostly happens, in one step, so that much else happens to attached leases."""
        lease = self.leases[which]
        if seen(lease).status is not LeaseStatus.BACKOFF or not self.channels.takes:
            return
        self.time_comes(which)
        self.grant_request(self.channels.offers[-1], "")
        assert lease.status is LeaseStatus.ATTACHED

    @precondition(lambda self: self.requests(ShmAttachRequest))
    @rule(data=st.data(), change=st.sampled_from(["", *FAULTS]))
    def grant(self, data: st.DataObject, change: str) -> None:
        self.grant_request(data.draw(st.sampled_from(self.requests(ShmAttachRequest))), change)

    def grant_request(self, request: ShmAttachRequest, change: str) -> None:
        awaited = self.asking(request.correlation_id)
        is_abandoned = request.correlation_id in self.abandoned
        self.abandoned.discard(request.correlation_id)
        sent = len(self.channels.offers)
        response = ShmAttachResponse(
            request.correlation_id,
            ResponseCode.OK,
            None if change == "lease_id" else self.next_lease_id,
            1 if change == "over" else monotonic_ns() + LIFE_NS,
            OTHER_STREAM if change == "stream" else STREAM,
            None if change == "epoch" else self.epoch,
            1,
            12 if change == "nslots" else 8,
            256,
            1,
            (PayloadPool(1, 8, 4096, "shm:file?path=/x"),),
            "shm:file?path=/y",
        )
        self.next_lease_id += 1
        self.hear(response)
        if awaited is None:
            given_back = self.channels.offers[sent:]
            is_wanted_back = is_abandoned and change != "lease_id" and self.channels.takes
            assert len(given_back) == is_wanted_back
            for message in given_back:
                assert isinstance(message, ShmDetachRequest)
                ids = (message.lease_id, message.client_id, message.role)
                assert ids == (response.lease_id, request.client_id, request.role)
            return
        if change:
            assert awaited.status is LeaseStatus.BACKOFF
            assert awaited.error is not None
            assert self.events.latest[-1].what == "protocol_error"
        else:
            assert awaited.status is LeaseStatus.ATTACHED
            self.held[awaited] = response.lease_id or 0
            assert awaited.error is None
            assert awaited.deadline_ns > monotonic_ns()

    @precondition(lambda self: self.requests(ShmAttachRequest))
    @rule(
        data=st.data(),
        code=st.sampled_from([code for code in ResponseCode if code != ResponseCode.OK]),
        reason=st.sampled_from(["client_id already attached", "stream has a producer", ""]),
    )
    def refuse(self, data: st.DataObject, code: ResponseCode, reason: str) -> None:
        request = data.draw(st.sampled_from(self.requests(ShmAttachRequest)))
        awaited = self.asking(request.correlation_id)
        before = awaited and (awaited.status, awaited.version)
        asked, former_id = (awaited.asked, awaited.client_id) if awaited else (0, 0)
        self.hear(ShmAttachResponse(request.correlation_id, code, error_message=reason))
        self.abandoned.discard(request.correlation_id)
        if awaited is not None and awaited.correlation_id != request.correlation_id:
            assert before == (awaited.status, awaited.version), "a later request is under way"
        elif awaited is not None:
            assert awaited.status is LeaseStatus.BACKOFF
            may_draw = reason.startswith("client_id") and not awaited.has_fixed_id and asked == 1
            assert (awaited.client_id != former_id) == may_draw  # Driver §B.2

    @precondition(lambda self: self.requests(ShmDetachRequest))
    @rule(data=st.data())
    def take_back(self, data: st.DataObject) -> None:
        request = data.draw(st.sampled_from(self.requests(ShmDetachRequest)))
        awaited = next(
            (
                lease
                for lease in self.leases
                if lease.correlation_id == request.correlation_id
                and lease.status is LeaseStatus.DETACHING
            ),
            None,
        )
        self.hear(ShmDetachResponse(request.correlation_id, ResponseCode.OK))
        assert awaited is None or awaited.status is LeaseStatus.CLOSED

    @rule(which=LEASES, reason=st.sampled_from([*LeaseRevokeReason, 200]))
    def revoke(self, which: int, reason: int) -> None:
        lease = self.leases[which]
        before = seen(lease)
        self.hear_revoked(lease.lease_id, lease.role, reason, monotonic_ns())
        if before.status is LeaseStatus.ATTACHED and reason in LeaseRevokeReason:
            assert lease.status is LeaseStatus.BACKOFF
        else:
            assert seen(lease) == before

    @rule(role=st.sampled_from(ROLES), is_old=st.booleans())
    def revoke_another(self, role: Role, is_old: bool) -> None:
        before = [seen(lease).status for lease in self.leases]
        now_ns = 0 if is_old else monotonic_ns()
        self.hear_revoked(1 << 40, role, LeaseRevokeReason.EXPIRED, now_ns)
        assert [seen(lease).status for lease in self.leases] == before
        for lease in self.leases:
            if lease.role is Role.CONSUMER and role is Role.PRODUCER and not is_old:
                assert lease.regions is None or lease.status is not LeaseStatus.ATTACHED

    @rule(step=st.integers(-1, 2), is_ours=st.booleans(), is_stale=st.booleans())
    def announce(self, step: int, is_ours: bool, is_stale: bool) -> None:
        self.epoch = max(1, self.epoch + step)
        announced = self.epoch
        former = [lease.regions.epoch if lease.regions else 0 for lease in self.leases]
        self.hear(
            ShmPoolAnnounce(
                STREAM,
                FIXED_ID if is_ours else FIXED_ID + 1000,
                announced,
                1 if is_stale else monotonic_ns(),
                ClockDomain.MONOTONIC,
                1,
                8,
                256,
                (PayloadPool(1, 8, 4096, "shm:file?path=/x"),),
                "shm:file?path=/y",
            )
        )
        for lease, epoch in zip(self.leases, former, strict=True):
            if lease.regions is not None:
                assert lease.regions.epoch >= epoch, "an epoch went back"
                assert not is_stale or lease.regions.epoch == epoch, "a stale announce counted"

    @rule()
    def shut_down(self) -> None:
        self.hear(ShmDriverShutdown(monotonic_ns(), 0))
        assert not any(
            lease.status in {LeaseStatus.ATTACHED, LeaseStatus.DETACHING} for lease in self.leases
        )

    @rule(noise=st.binary(max_size=64))
    def noise(self, noise: bytes) -> None:
        before = [(lease.version, seen(lease)) for lease in self.leases]
        self.protocol.on_fragment(memoryview(noise), 0)
        assert before == [(lease.version, seen(lease)) for lease in self.leases]

    # -- what always holds ----------------------------------------------------------------------

    @invariant()
    def regions_are_those_of_a_lease(self) -> None:
        for lease in self.leases:
            if lease.status in {LeaseStatus.BACKOFF, LeaseStatus.ATTACHING}:
                assert lease.regions is None
            if lease.status is LeaseStatus.ATTACHED:
                assert lease.lease_id == self.held[lease]

    @invariant()
    def a_change_has_a_version(self) -> None:
        now = [(lease.version, seen(lease)) for lease in self.leases]
        for (version, former), (later, present) in zip(self.before, now, strict=True):
            assert later >= version
            assert later > version or present == former, "a user would not notice"
        self.before = now

    @invariant()
    def ids_are_kept(self) -> None:
        for number, lease in enumerate(self.leases):
            assert lease.client_id > 0
            if lease.has_fixed_id:
                assert lease.client_id == FIXED_ID + number

    @invariant()
    def no_request_is_mistaken_for_another(self) -> None:
        requests = [*self.requests(ShmAttachRequest), *self.requests(ShmDetachRequest)]
        ids = [request.correlation_id for request in requests]
        assert len(set(ids)) == len(ids)
        assert all(0 <= each < 1 << 63 for each in ids)

    def requests(self, kind: type) -> list[Any]:
        return [message for message in self.channels.offers if isinstance(message, kind)]

    def new_lease(self, number: int) -> ClientLease:
        role = [*ROLES, Role.CONSUMER][number]
        return ClientLease(STREAM, role, FIXED_ID + number, bool(number % 2), 2, Quiet())

    def asking(self, correlation_id: int) -> ClientLease | None:
        """Whose request that is, if it still wants an answer to it."""
        for lease in self.leases:
            if seen(lease).status is LeaseStatus.BACKOFF and correlation_id in lease.unanswered:
                return lease
        return None

    def hear_revoked(self, lease_id: int, role: Role, reason: int, at_ns: int) -> None:
        self.hear(ShmLeaseRevoked(at_ns, lease_id, STREAM, 0, role, reason))

    def hear(self, message: tuple[Any, ...]) -> None:
        self.protocol.on_fragment(memoryview(wire.encode(message)), 0)


TestProtocolMachine = ProtocolMachine.TestCase
TestProtocolMachine.settings = settings(max_examples=250, stateful_step_count=40, deadline=None)
