"""The lease table: who may use which stream in which role, until when (Driver §4.1, §4.7).

Deadlines stand in a heap that is corrected lazily: a keepalive only moves the lease's own
deadline, and an entry that comes up too early is put back. The cost of a keepalive
therefore does not grow with the number of leases.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from tensorpool.driver.node_ids import NodeIds
from tensorpool.registry import LeaseRecord, LeaseState
from tensorpool.wire.driver import Role


@dataclass(slots=True, eq=False)
class Lease:
    """One lease. Times are CLOCK_MONOTONIC nanoseconds.

    Attributes:
        is_granted: False while its attach waits for regions; such a lease reserves the
            client id, the node id and the producer's place, and cannot expire.
        session_id: the client's Aeron session (design §4.12).
        is_orphaned: that session is gone; a keepalive from any session adopts the lease.
        index: its record in the registry.
        correlation_id: of the request that asked for it.
    """

    lease_id: int
    stream_id: int
    client_id: int
    role: Role
    node_id: int
    session_id: int
    index: int
    correlation_id: int = 0
    epoch: int = 0
    attached_ns: int = 0
    keepalive_ns: int = 0
    expiry_ns: int = 0
    is_granted: bool = False
    is_orphaned: bool = False

    def record(self) -> LeaseRecord:
        """The lease as the registry shows it."""
        return LeaseRecord(
            self.lease_id,
            self.stream_id,
            self.client_id,
            self.role,
            LeaseState.ORPHANED if self.is_orphaned else LeaseState.ACTIVE,
            0,
            self.node_id,
            self.session_id,
            0,
            self.epoch,
            self.attached_ns,
            self.keepalive_ns,
            self.expiry_ns,
            self.correlation_id,
        )


class LeaseTable:
    """All leases that are not over, by id and by client, with their deadlines.

    Args:
        capacity: most leases at a time (the registry's records).
        first_lease_id: never given out before, by this or any earlier driver.
        node_ids: where node ids come from.
    """

    def __init__(self, capacity: int, first_lease_id: int, node_ids: NodeIds) -> None:
        self.node_ids = node_ids
        self._by_id: dict[int, Lease] = {}
        self._by_client: dict[int, Lease] = {}
        self._free_indices = deque(range(capacity))
        self._deadlines: list[tuple[int, int]] = []
        self._next_lease_id = first_lease_id

    def __len__(self) -> int:
        return len(self._by_id)

    def __iter__(self) -> Iterator[Lease]:
        return iter(self._by_id.values())

    @property
    def is_full(self) -> bool:
        """Whether no record is left for another lease."""
        return not self._free_indices

    def get(self, lease_id: int) -> Lease | None:
        """The lease with this id, if it is not over."""
        return self._by_id.get(lease_id)

    def of_client(self, client_id: int) -> Lease | None:
        """The client's lease, if it has one: at most one (Driver §4.8)."""
        return self._by_client.get(client_id)

    def of_sessions(self, session_ids: set[int]) -> list[Lease]:
        """The leases whose clients were last heard from these Aeron sessions."""
        return [lease for lease in self._by_id.values() if lease.session_id in session_ids]

    def reserve(  # noqa: PLR0913 - one argument a fact
        self,
        *,
        stream_id: int,
        client_id: int,
        role: Role,
        node_id: int,
        session_id: int,
        correlation_id: int = 0,
    ) -> Lease:
        """A new lease, not granted yet. The caller has checked every rule of attaching."""
        lease = Lease(
            self._next_lease_id,
            stream_id,
            client_id,
            role,
            node_id,
            session_id,
            self._free_indices.popleft(),
            correlation_id,
        )
        self._next_lease_id += 1
        self.node_ids.take(node_id)
        self._by_id[lease.lease_id] = lease
        self._by_client[client_id] = lease
        return lease

    def grant(self, lease: Lease, *, epoch: int, now_ns: int, ttl_ns: int) -> None:
        """The attach succeeded: the lease's time runs from now."""
        lease.is_granted = True
        lease.epoch = epoch
        lease.attached_ns = lease.keepalive_ns = now_ns
        lease.expiry_ns = now_ns + ttl_ns
        heapq.heappush(self._deadlines, (lease.expiry_ns, lease.lease_id))

    def keep_alive(self, lease: Lease, *, session_id: int, now_ns: int, ttl_ns: int) -> None:
        """A valid keepalive came: extend the lease, adopt it if orphaned (Driver §4.4)."""
        lease.session_id = session_id
        lease.is_orphaned = False
        lease.keepalive_ns = now_ns
        lease.expiry_ns = now_ns + ttl_ns

    def orphan(self, lease: Lease, *, deadline_ns: int) -> None:
        """The client's session is gone: unless a keepalive comes, the lease ends sooner."""
        lease.is_orphaned = True
        if deadline_ns < lease.expiry_ns:
            lease.expiry_ns = deadline_ns
            heapq.heappush(self._deadlines, (deadline_ns, lease.lease_id))

    def extend_all(self, by_ns: int) -> None:
        """A stall of ours is no fault of the clients': move every deadline (design §4.7)."""
        for lease in self._by_id.values():
            lease.expiry_ns += by_ns

    def next_expired(self, now_ns: int) -> Lease | None:
        """A granted lease whose deadline has passed, or None. The caller ends it."""
        while self._deadlines and self._deadlines[0][0] <= now_ns:
            _, lease_id = heapq.heappop(self._deadlines)
            lease = self._by_id.get(lease_id)
            if lease is None:
                continue
            if lease.expiry_ns <= now_ns:
                return lease
            heapq.heappush(self._deadlines, (lease.expiry_ns, lease_id))
        return None

    def remove(self, lease: Lease, *, now_ns: int) -> None:
        """The lease is over: its client id is free, its node id cools down."""
        del self._by_id[lease.lease_id]
        del self._by_client[lease.client_id]
        # The oldest free record is used next, so that released node ids stay readable longest.
        self._free_indices.append(lease.index)
        self.node_ids.release(lease.node_id, now_ns=now_ns)
