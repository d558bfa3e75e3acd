"""What must hold whatever happens, checked by a process that takes no part in it.

Invariants, by the registry and the announces that every process on the host may read:

    one-producer       a stream has at most one active producer's lease (Driver §4.5)
    lease-id-once      a lease id never means two leases (Driver §4.1)
    epoch-grows        a stream's epoch never decreases, in registry or announce (Driver §6)
    revoke-first       a lease is revoked before its stream's next epoch is announced (Driver §4.7)
    lease-deadline     no lease is active longer than its deadline and a grace (Driver §4.4)
    epoch-is-there     the regions of an active lease's epoch are on disk (epoch GC policy)
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

from tensorpool import wire
from tensorpool.aeron.client import AeronClient, MediaDriverLost, Subscription
from tensorpool.clock import NS_PER_MS, NS_PER_S, monotonic_ns
from tensorpool.errors import HostError
from tensorpool.registry import LeaseRecord, LeaseState, RegistryError, RegistryReader
from tensorpool.settings import HostSettings
from tensorpool.shm import paths
from tensorpool.wire.control import ShmPoolAnnounce
from tensorpool.wire.driver import Role, ShmLeaseRevoked
from tests.wire_client import settings_of

GRACE_NS = 2 * NS_PER_S
"""What a machine with fewer cores than processes may keep the driver from its duty."""
_PERIOD_S = 0.01
_ENOUGH = 20
"""Broken invariants told: what is wrong stays wrong at each look."""
_AGAIN_S = 0.05
_FRESH_NS = 100 * NS_PER_MS


@dataclass
class Observed:
    """What was seen.

    Attributes:
        broken: each invariant broken, in words.
        looks: how often the registry was read whole.
        announces: how many were heard.
        leases: how many different ones.
        epochs: the highest epoch of each stream.
    """

    broken: list[str] = field(default_factory=list)
    looks: int = 0
    announces: int = 0
    leases: int = 0
    epochs: dict[int, int] = field(default_factory=dict)


def observe(pipe: Connection, config: str) -> None:
    """Look until the pipe says None; anything else is answered with what was seen.

    A pair (stream, seconds) suspends `epoch-is-there` for a stream whose files are about to be
    taken away by force; of stream 0, all that the registry says, since it is to be damaged.

    The host must announce on its control stream, so that revocations and announces have an order.
    """
    observer = _Observer(settings_of(config))
    pipe.send(None)
    while True:
        if pipe.poll(_PERIOD_S):
            order = pipe.recv()
            if order is None:
                return
            if isinstance(order, tuple):
                stream_id, seconds = order
                observer.excuse(stream_id, seconds)
            pipe.send(observer.seen)
        observer.look()


class _Observer:
    def __init__(self, settings: HostSettings) -> None:
        self.seen = Observed()
        self._settings = settings
        self._registry: RegistryReader | None = None
        self._fresh_since_ns = 0
        self._owners: dict[int, tuple[int, int, int]] = {}
        self._announced: dict[tuple[int, int], int] = {}
        self._producer_epochs: dict[int, int] = {}
        self._ears: tuple[AeronClient, list[Subscription]] | None = None
        self._ears_ns = 0
        self._excused: dict[int, int] = {}
        self._is_memory_lost = False

    def excuse(self, stream_id: int, seconds: float) -> None:
        self._excused[stream_id] = monotonic_ns() + int(seconds * NS_PER_S)
        self._is_memory_lost |= stream_id == 0

    def look(self) -> None:
        self._read()
        self._listen()

    def _break(self, invariant: str, detail: str) -> None:
        if len(self.seen.broken) < _ENOUGH:
            self.seen.broken.append(f"{invariant}: {detail}")

    # -- the registry ---------------------------------------------------------------------

    def _read(self) -> None:
        if self._excused.get(0, 0) > monotonic_ns():
            self._forget()
            return
        try:
            if self._registry is None or self._registry.is_replaced:
                self._reopen()
            registry = self._registry
            if registry is None:
                return
            self._judge_streams(registry)
            self._judge_leases(registry)
            self.seen.looks += 1
        except (RegistryError, ValueError):  # damaged or replaced under us: looked at again
            self._forget()

    def _reopen(self) -> None:
        self._forget()
        with suppress(RegistryError):
            self._registry = RegistryReader(self._settings.shm.registry_path)

    def _forget(self) -> None:
        if self._registry is not None:
            self._registry.close()
        self._registry = None
        self._fresh_since_ns = 0

    def _judge_streams(self, registry: RegistryReader) -> None:
        # After a damage nobody knows the past of a stream without directories; its next is above.
        for record in registry.streams():
            if record.epoch or not self._is_memory_lost:
                self._grow(record.stream_id, record.last_epoch)

    def _grow(self, stream_id: int, epoch: int) -> None:
        """A registry's last epoch; it may be behind an announce only if it was read before it."""
        highest = self.seen.epochs.get(stream_id, 0)
        if epoch < highest:
            self._break("epoch-grows", f"registry: stream {stream_id} at {epoch} after {highest}")
        self.seen.epochs[stream_id] = max(epoch, highest)

    def _judge_leases(self, registry: RegistryReader) -> None:
        active = {lease.lease_id: lease for lease in _active(registry)}
        for lease in active.values():
            self._own(lease)
        self._judge_producers(registry, active)
        self._judge_deadlines(registry, active)
        self._judge_regions(registry, active)

    def _own(self, lease: LeaseRecord) -> None:
        owner = (lease.stream_id, lease.client_id, lease.role)
        known = self._owners.setdefault(lease.lease_id, owner)
        self.seen.leases = len(self._owners)
        if lease.role == Role.PRODUCER and lease.epoch:
            self._producer_epochs.setdefault(lease.lease_id, lease.epoch)
        if known != owner:
            self._break("lease-id-once", f"lease {lease.lease_id} is {owner}, was {known}")

    def _judge_producers(self, registry: RegistryReader, active: dict[int, LeaseRecord]) -> None:
        by_stream: dict[int, list[int]] = {}
        for lease in active.values():
            if lease.role == Role.PRODUCER:
                by_stream.setdefault(lease.stream_id, []).append(lease.lease_id)
        for stream_id, leases in by_stream.items():
            # A second look: records are whole one by one, the first may have ended meanwhile.
            if len(leases) > 1 and self._are_active_still(registry, leases):
                self._break("one-producer", f"stream {stream_id} has the leases {leases}")

    def _judge_deadlines(self, registry: RegistryReader, active: dict[int, LeaseRecord]) -> None:
        now_ns = monotonic_ns()
        if now_ns - registry.heartbeat_ns > _FRESH_NS:
            self._fresh_since_ns = 0  # dead, stopped or starved: it can end no lease now
            return
        self._fresh_since_ns = self._fresh_since_ns or now_ns
        for lease in active.values():
            late_ns = now_ns - max(lease.expiry_ns, self._fresh_since_ns)
            if late_ns > GRACE_NS and self._are_active_still(registry, [lease.lease_id]):
                self._break("lease-deadline", f"{lease} is {late_ns / NS_PER_S:.1f} s over")

    def _judge_regions(self, registry: RegistryReader, active: dict[int, LeaseRecord]) -> None:
        now_ns = monotonic_ns()
        for lease in active.values():
            if not lease.epoch or self._excused.get(lease.stream_id, 0) > now_ns:
                continue
            stream = paths.stream_dir(self._settings.shm.namespace_dir, lease.stream_id)
            if os.path.isdir(f"{stream}/{lease.epoch}"):
                continue
            again = next((one for one in _active(registry) if one.lease_id == lease.lease_id), None)
            if again is not None and again.epoch == lease.epoch and registry.is_writer_there():
                self._break("epoch-is-there", f"{lease}: no {stream}/{lease.epoch}")

    @staticmethod
    def _are_active_still(registry: RegistryReader, leases: list[int]) -> bool:
        if registry.is_replaced or not registry.is_writer_there():
            return False
        return set(leases) <= {lease.lease_id for lease in _active(registry)}

    # -- announces and revocations --------------------------------------------------------

    def _listen(self) -> None:
        if self._ears is None:
            self._open_ears()
            return
        client, subscriptions = self._ears
        try:
            for subscription in subscriptions:
                subscription.poll(self._hear, 100)
        except MediaDriverLost:
            self._shut_ears(client)
        else:
            if client.is_lost:
                self._shut_ears(client)

    def _open_ears(self) -> None:
        if monotonic_ns() < self._ears_ns:
            return
        self._ears_ns = monotonic_ns() + int(_AGAIN_S * NS_PER_S)
        driver = self._settings.driver
        client = None
        try:
            client = AeronClient(self._settings.aeron_dir, "chaos-observer")
            ears = [client.subscription(e, tether=False) for e in {driver.control, driver.announce}]
            self._ears = client, ears
            # An IPC subscription joins where the slowest subscriber is: it may hear again what
            # was heard before.
            self._announced.clear()
        except HostError:
            if client is not None:
                client.close()

    def _shut_ears(self, client: AeronClient) -> None:
        self._ears = None
        with suppress(HostError):
            client.close()

    def _hear(self, buffer: memoryview, session_id: int) -> None:
        try:
            message: Any = wire.decode(buffer)
        except wire.WireError:
            return
        if isinstance(message, ShmPoolAnnounce):
            self._on_announce(message, session_id)
        elif isinstance(message, ShmLeaseRevoked):
            self._on_revoked(message, session_id)

    def _on_announce(self, announce: ShmPoolAnnounce, session_id: int) -> None:
        """Of one driver, in its own order; a former one's last words may come in between."""
        self.seen.announces += 1
        key = session_id, announce.stream_id
        epoch = self._announced.get(key, 0)
        if announce.epoch < epoch:
            told = f"stream {announce.stream_id} at {announce.epoch} after {epoch}"
            self._break("epoch-grows", f"announce of session {session_id}: {told}")
        self._announced[key] = max(epoch, announce.epoch)

    def _on_revoked(self, revoked: ShmLeaseRevoked, session_id: int) -> None:
        epoch = self._producer_epochs.get(revoked.lease_id)
        announced = self._announced.get((session_id, revoked.stream_id), 0)
        if epoch is not None and announced > epoch:
            self._break("revoke-first", f"{revoked} of epoch {epoch} after epoch {announced}")


def _active(registry: RegistryReader) -> Iterator[LeaseRecord]:
    return (
        lease
        for lease in registry.leases()
        if lease.state in (LeaseState.ACTIVE, LeaseState.ORPHANED)
    )
