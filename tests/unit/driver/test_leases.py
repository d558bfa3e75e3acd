"""The lease table as a state machine: ids, clients, node ids and deadlines always agree."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    precondition,
    rule,
)

from tensorpool.driver.leases import Lease, LeaseTable
from tensorpool.driver.node_ids import NULL_NODE_ID, NodeIds
from tensorpool.wire.driver import Role

CAPACITY = 8
TTL_NS = 300
COOLDOWN_NS = 500


class LeaseMachine(RuleBasedStateMachine):
    """Clients attach, keep alive, fall silent, are orphaned and end, in any order."""

    leases = Bundle("leases")

    def __init__(self) -> None:
        super().__init__()
        self.node_ids = NodeIds(COOLDOWN_NS)
        self.table = LeaseTable(CAPACITY, 1, self.node_ids)
        self.now = 1000
        self.seen_ids: set[int] = set()
        self.released_at: dict[int, int] = {}
        self.live: dict[int, Lease] = {}
        self.next_client = 1

    @precondition(lambda self: not self.table.is_full)
    @rule(target=leases, role=st.sampled_from(list(Role)), session=st.integers(1, 3))
    def attach(self, role: Role, session: int) -> Lease:
        node_id = self.node_ids.choose(now_ns=self.now)
        assert self.released_at.get(node_id, -COOLDOWN_NS) + COOLDOWN_NS <= self.now
        lease = self.table.reserve(
            stream_id=1, client_id=self.next_client, role=role, node_id=node_id, session_id=session
        )
        self.next_client += 1
        assert lease.lease_id not in self.seen_ids, "a lease id was used twice (Driver §4.8)"
        self.seen_ids.add(lease.lease_id)
        self.table.grant(lease, epoch=1, now_ns=self.now, ttl_ns=TTL_NS)
        self.live[lease.lease_id] = lease
        return lease

    @rule(lease=leases, session=st.integers(1, 3))
    def keep_alive(self, lease: Lease, session: int) -> None:
        if self.table.get(lease.lease_id) is lease:
            self.table.keep_alive(lease, session_id=session, now_ns=self.now, ttl_ns=TTL_NS)
            assert not lease.is_orphaned
            assert lease.expiry_ns == self.now + TTL_NS

    @rule(lease=consumes(leases))
    def detach(self, lease: Lease) -> None:
        if self.table.get(lease.lease_id) is lease:
            self._end(lease)

    @rule(session=st.integers(1, 3))
    def session_gone(self, session: int) -> None:
        for lease in self.table.of_sessions({session}):
            self.table.orphan(lease, deadline_ns=self.now + 50)

    @rule(step=st.integers(1, 400))
    def time_passes(self, step: int) -> None:
        self.now += step
        while (lease := self.table.next_expired(self.now)) is not None:
            assert lease.expiry_ns <= self.now
            self._end(lease)

    @rule(stall=st.integers(1, 1000))
    def stall(self, stall: int) -> None:
        self.now += stall
        self.table.extend_all(stall)

    def _end(self, lease: Lease) -> None:
        self.table.remove(lease, now_ns=self.now)
        self.released_at[lease.node_id] = self.now
        del self.live[lease.lease_id]

    @invariant()
    def table_agrees_with_the_model(self) -> None:
        assert {lease.lease_id for lease in self.table} == set(self.live)
        assert self.table.is_full == (len(self.live) == CAPACITY)
        node_ids = [lease.node_id for lease in self.table]
        indices = [lease.index for lease in self.table]
        assert len(set(node_ids)) == len(node_ids)
        assert len(set(indices)) == len(indices)
        for lease in self.live.values():
            assert self.table.of_client(lease.client_id) is lease

    @invariant()
    def nothing_outlives_its_deadline(self) -> None:
        due = {lease.lease_id for lease in self.live.values() if lease.expiry_ns <= self.now}
        found = set()
        expired = []
        while (lease := self.table.next_expired(self.now)) is not None:
            if lease.lease_id in found:
                break
            found.add(lease.lease_id)
            expired.append(lease)
        assert found == due
        for lease in expired:
            self._end(lease)


TestLeaseMachine = LeaseMachine.TestCase
TestLeaseMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


@pytest.mark.config_key("policies.node_id_reuse_cooldown_ms")
def test_node_id_cooldown_is_enforced() -> None:
    node_ids = NodeIds(COOLDOWN_NS)
    node_ids.take(7)
    assert not node_ids.is_available(7, now_ns=0)
    node_ids.release(7, now_ns=100)
    assert not node_ids.is_available(7, now_ns=100 + COOLDOWN_NS - 1)
    assert node_ids.is_available(7, now_ns=100 + COOLDOWN_NS)


def test_node_id_cooldown_survives_a_restart() -> None:
    node_ids = NodeIds(COOLDOWN_NS, cooling=[(3, 900)])
    assert not node_ids.is_available(3, now_ns=899)
    assert node_ids.is_available(3, now_ns=900)


def test_null_node_id_is_never_given() -> None:
    node_ids = NodeIds(0)
    assert not node_ids.is_available(NULL_NODE_ID, now_ns=0)


@pytest.mark.parametrize("cooling", [[], [(1, 10**9), (2, 10**9)]])
def test_choose_skips_what_is_cooling(cooling: list[tuple[int, int]]) -> None:
    node_ids = NodeIds(COOLDOWN_NS, cooling)
    assert node_ids.choose(now_ns=0) == len(cooling) + 1
