"""The streams that the driver serves: layout, current epoch, producer, consumers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from tensorpool.driver.epoch import Epoch
from tensorpool.driver.leases import Lease
from tensorpool.logs import BackOff
from tensorpool.registry import BumpReason, StreamRecord
from tensorpool.settings import IdRange, Profile
from tensorpool.shm.layout import LAYOUT_VERSION
from tensorpool.wire.driver import ShmAttachRequest


@dataclass(slots=True)
class Waiting:
    """An attach whose answer waits for the stream's regions.

    Attributes:
        request: as its client has made it last; that one is answered.
    """

    request: ShmAttachRequest
    lease: Lease
    seen_ns: int


@dataclass(slots=True)
class SpaceWait:
    """A provisioning found no space and waits for the epoch GC's pass."""

    request: int
    deadline_ns: int


@dataclass(slots=True, eq=False)
class Stream:
    """One stream.

    Attributes:
        wanted_ns: when its epoch in the making was asked for.
        epoch_created_at: when it got its epoch (wall clock, seconds).
        epoch: its current regions; None before the first are made and after they failed.
        is_provisioning: a worker is making the next epoch's regions; the current ones are
            no longer announced.
        waiting: attaches to be answered with the next epoch.
        consumers: lease ids.
        retry_ns: when to try again after a failed provisioning; 0 if there is nothing to do.
        is_tainted: a former producer may still write to the current regions, so that they
            are never announced again.
        space: the GC pass that a provisioning waits for, once per provisioning.
    """

    stream_id: int
    name: str
    profile: Profile
    is_static: bool
    index: int
    epoch: Epoch | None = None
    last_epoch: int = 0
    is_provisioning: bool = False
    reason: BumpReason = BumpReason.NONE
    bumps: int = 0
    epoch_created_ns: int = 0
    epoch_created_at: float = 0.0
    wanted_ns: int = 0
    producer: Lease | None = None
    consumers: set[int] = field(default_factory=set)
    waiting: list[Waiting] = field(default_factory=list)
    retry_ns: int = 0
    is_tainted: bool = False
    space: SpaceWait | None = None
    has_retried: bool = False
    failure_log: BackOff = field(default_factory=BackOff)
    loss_log: BackOff = field(default_factory=BackOff)

    @property
    def is_idle(self) -> bool:
        """Whether nobody has or awaits a lease on it."""
        return self.producer is None and not self.consumers and not self.is_provisioning

    @property
    def producer_id(self) -> int:
        """The attached producer's client id, 0 if there is none (Driver §8)."""
        return self.producer.client_id if self.producer and self.producer.is_granted else 0

    def record(self) -> StreamRecord:
        """The stream as the registry shows it."""
        granted = self.producer if self.producer and self.producer.is_granted else None
        return StreamRecord(
            self.stream_id,
            self.profile.header_nslots,
            self.epoch.epoch if self.epoch else 0,
            self.last_epoch,
            granted.client_id if granted else 0,
            len(self.consumers),
            LAYOUT_VERSION,
            self.reason,
            granted.lease_id if granted else 0,
            self.epoch.total_bytes if self.epoch else 0,
            self.epoch_created_ns,
            self.bumps,
            self.name,
            self.profile.name,
        )


class StreamTable:
    """All streams by id. Dynamic ones are made on demand and, when idle, make room for others."""

    def __init__(self, capacity: int) -> None:
        self._by_id: dict[int, Stream] = {}
        self._free_indices = list(range(capacity - 1, -1, -1))

    def __iter__(self) -> Iterator[Stream]:
        return iter(self._by_id.values())

    def __len__(self) -> int:
        return len(self._by_id)

    def snapshot(self) -> list[Stream]:
        """All of them as of one moment, for another thread."""
        return list(self._by_id.values())

    def get(self, stream_id: int) -> Stream | None:
        """The stream with this id."""
        return self._by_id.get(stream_id)

    def free_id(self, ids: IdRange) -> int | None:
        """The lowest id of the range that no stream has, else that of an idle dynamic stream."""
        free = next((stream_id for stream_id in ids if stream_id not in self._by_id), None)
        if free is not None:
            return free
        return next(
            (s.stream_id for s in self._by_id.values() if self._is_spare(s) and s.stream_id in ids),
            None,
        )

    @property
    def has_room(self) -> bool:
        """Whether one more stream can be served."""
        return bool(self._free_indices) or self._find_idle_dynamic() is not None

    def evict_for_room(self) -> Stream | None:
        """The idle dynamic stream that had to go so that another fits, already removed."""
        if self._free_indices:
            return None
        idle = self._find_idle_dynamic()
        if idle is not None:
            self.remove(idle)
        return idle

    def add(self, stream_id: int, name: str, profile: Profile, *, is_static: bool) -> Stream:
        """A new stream.

        Raises:
            IndexError: no room (see `has_room`, `evict_for_room`).
        """
        stream = Stream(stream_id, name, profile, is_static, self._free_indices.pop())
        self._by_id[stream_id] = stream
        return stream

    def remove(self, stream: Stream) -> None:
        """Forget the stream; its epochs are the GC's."""
        if stream.epoch is not None:
            stream.epoch.close()
        del self._by_id[stream.stream_id]
        self._free_indices.append(stream.index)

    def _find_idle_dynamic(self) -> Stream | None:
        return next(filter(self._is_spare, self._by_id.values()), None)

    @staticmethod
    def _is_spare(stream: Stream) -> bool:
        return not stream.is_static and stream.is_idle
