"""Leases of former drivers: over since they ended, whether their clients heard so or not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tensorpool.clock import monotonic_ns
from tensorpool.driver.recovery import Heritage
from tensorpool.registry import LeaseRecord
from tensorpool.settings import Policies
from tensorpool.wire.driver import LeaseRevokeReason, Role, ShmLeaseKeepalive, ShmLeaseRevoked


class FormerLeases:
    """Revokes what former drivers gave (Driver §10)."""

    def __init__(self, heritage: Heritage, policies: Policies) -> None:
        self._debts = heritage.debts
        self._first_own_id = heritage.first_lease_id
        self._interval_ns = policies.lease_keepalive_interval_ns
        self._most_told = policies.max_leases
        self._told_ns: dict[int, int] = {}

    def revoke_debts(self, send: Callable[[tuple[Any, ...]], None]) -> None:
        """Revoke those that the former registry shows active: their clients reattach at once."""
        for lease in self._debts:
            send(_revocation(lease, monotonic_ns()))
        self._debts.clear()

    def answer(
        self, keepalive: ShmLeaseKeepalive, now_ns: int, send: Callable[[tuple[Any, ...]], None]
    ) -> None:
        """Revoke the lease of a keepalive if a former driver gave it, once an interval at most.

        Its client had lost its connection when it was revoked at our start, or by a driver between
        us: nobody would tell it again, and it would go on with regions that nobody tends.
        """
        lease_id = keepalive.lease_id
        if not 0 < lease_id < self._first_own_id or keepalive.role not in Role:
            return
        told_ns = self._told_ns.get(lease_id)
        if told_ns is not None and now_ns - told_ns < self._interval_ns:
            return
        if len(self._told_ns) >= self._most_told:
            self._told_ns.clear()
        self._told_ns[lease_id] = now_ns
        send(_revocation(keepalive, now_ns))


def _revocation(lease: LeaseRecord | ShmLeaseKeepalive, now_ns: int) -> ShmLeaseRevoked:
    return ShmLeaseRevoked(
        now_ns,
        lease.lease_id,
        lease.stream_id,
        lease.client_id,
        lease.role,
        LeaseRevokeReason.REVOKED,
        "the driver restarted",
    )
