"""Which epochs may go, and by which rule: a judgement on plain data, with no side effect.

The first rule that applies decides. An epoch that nobody current refers to stays so for
ever: epochs only grow, and a lease is only ever granted on the current one. A judgement
made on a registry read *after* the directories were listed therefore never becomes wrong.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

from tensorpool.clock import NS_PER_S
from tensorpool.settings import Policies

_RECHECK_NS = NS_PER_S
"""No word of the registry tells that a lease on an old epoch or a stamper's process ended."""


class Kind(enum.StrEnum):
    """What lies in a stream's directory."""

    EPOCH = "epoch"
    STAGING = "staging"
    """An epoch that was being made, and never got its name (design §4.15)."""
    DOOMED = "doomed"
    """An epoch that was being deleted."""
    FOREIGN = "foreign"
    """Nothing of ours."""


class Rule(enum.StrEnum):
    """Why something is kept (first block) or deleted (second block)."""

    DISABLED = "gc-disabled"
    REGISTRY_UNREADABLE = "registry-unreadable"
    FOREIGN = "foreign"
    CURRENT = "current"
    IN_THE_MAKING = "in-the-making"
    REFERENCED = "referenced"
    LIVE_STAMP = "live-stamp"
    NEWEST = "newest"
    YOUNG = "young"

    SUPERSEDED = "superseded"
    UNKNOWN_STREAM = "unknown-stream"
    CLEAN_SHUTDOWN = "clean-shutdown"
    HALF_MADE = "half-made"
    HALF_DELETED = "half-deleted"

    @property
    def deletes(self) -> bool:
        """Whether what falls under it is deleted."""
        return self in _DELETING


_DELETING = frozenset(
    {
        Rule.SUPERSEDED,
        Rule.UNKNOWN_STREAM,
        Rule.CLEAN_SHUTDOWN,
        Rule.HALF_MADE,
        Rule.HALF_DELETED,
    }
)


@dataclass(frozen=True, slots=True)
class Limits:
    """The policy (`policies.epoch_gc_*`)."""

    enabled: bool
    keep: int
    min_age_ns: int

    @classmethod
    def of(cls, policies: Policies) -> Self:
        """The policy of a configuration."""
        return cls(policies.epoch_gc_enabled, policies.epoch_gc_keep, policies.epoch_gc_min_age_ns)


@dataclass(frozen=True, slots=True)
class Stamp:
    """What the header ring's superblock says of its maker.

    Attributes:
        pid: the process that made it.
        activity_ns: when the region was last tended (CLOCK_MONOTONIC).
        is_alive: the very process that stamped it lives now.
    """

    pid: int
    activity_ns: int
    is_alive: bool


@dataclass(frozen=True, slots=True)
class Found:
    """One entry of a stream's directory.

    Attributes:
        stream_id: None for an entry that belongs to no stream.
        maker: of a staging directory: pid and start time (clock ticks) of the process
            that made it.
        stamp: of an epoch; None if its header ring has no readable superblock.
        file_age_ns: since the header ring, or without one the directory, was made, by
            the wall clock; 0 if that lies in the future.
        foreign: why not all of it is ours to delete; empty if it is.
    """

    stream_id: int | None
    name: str
    kind: Kind
    epoch: int = 0
    maker: tuple[int, int] = (0, 0)
    stamp: Stamp | None = None
    file_age_ns: int = 0
    size_bytes: int = 0
    foreign: str = ""


@dataclass(frozen=True, slots=True)
class StreamEpochs:
    """A stream in the registry: epoch in service (0: none), highest epoch begun."""

    current: int
    last: int


@dataclass(frozen=True, slots=True)
class RegistryView:
    """The registry, read at one time.

    Attributes:
        writer: pid and start time (clock ticks) of the driver that wrote it.
        is_writer_alive: that driver lives, even if it is stopped or stalled.
        is_stopped: that driver said that its shutdown is complete.
        streams: by stream id.
        leases: ids of the leases that are not over, by stream id and epoch.
    """

    writer: tuple[int, int]
    is_writer_alive: bool
    is_of_this_boot: bool
    is_stopped: bool
    streams: Mapping[int, StreamEpochs] = field(default_factory=dict)
    leases: Mapping[tuple[int, int], Sequence[int]] = field(default_factory=dict)

    @property
    def is_clean_stop(self) -> bool:
        """`ShmDriverShutdown` has ended every lease: nothing is in use (Driver §4.13)."""
        return self.is_stopped and not self.leases


@dataclass(frozen=True, slots=True)
class Unreadable:
    """No registry could be read, and why."""

    reason: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of an entry.

    Attributes:
        sentence: why, for the operator.
        recheck_ns: after this time the verdict may be another, though nothing that wakes
            the GC happens; None if only such an event can change it.
    """

    found: Found
    rule: Rule
    sentence: str
    recheck_ns: int | None = None

    @property
    def deletes(self) -> bool:
        """Whether the entry is to be deleted."""
        return self.rule.deletes


def judge(
    found: Sequence[Found], view: RegistryView | Unreadable, limits: Limits, now_ns: int
) -> list[Verdict]:
    """A verdict on every entry of one stream's directory, in the order given.

    Args:
        found: all entries of the directory.
        view: read after `found`.
        limits: the policy.
        now_ns: CLOCK_MONOTONIC, read after `view`.
    """
    by_age = sorted((entry.epoch for entry in found if entry.kind is Kind.EPOCH), reverse=True)
    newest = frozenset(by_age[: limits.keep])
    return [_judge(entry, view, limits, newest, now_ns) for entry in found]


def _judge(
    entry: Found,
    view: RegistryView | Unreadable,
    limits: Limits,
    newest: frozenset[int],
    now_ns: int,
) -> Verdict:
    if entry.foreign:
        return Verdict(entry, Rule.FOREIGN, f"never touched: {entry.foreign}")
    if not limits.enabled:
        return Verdict(entry, Rule.DISABLED, "policies.epoch_gc_enabled is false")
    if isinstance(view, Unreadable):
        return Verdict(
            entry,
            Rule.REGISTRY_UNREADABLE,
            f"without a registry nothing is provably dead: {view.reason}",
        )
    match entry.kind:
        case Kind.DOOMED:
            return Verdict(entry, Rule.HALF_DELETED, "its deletion was begun and not finished")
        case Kind.STAGING:
            return _judge_staging(entry, view)
        case _:
            return _judge_epoch(entry, view, limits, newest, now_ns)


def _judge_staging(entry: Found, view: RegistryView) -> Verdict:
    pid, _ = entry.maker
    if view.is_writer_alive and entry.maker == view.writer:
        return Verdict(
            entry, Rule.IN_THE_MAKING, f"the living driver (pid {pid}) makes it, or has it ready"
        )
    return Verdict(
        entry, Rule.HALF_MADE, f"never became an epoch, and its maker (pid {pid}) is gone"
    )


def _judge_epoch(
    entry: Found, view: RegistryView, limits: Limits, newest: frozenset[int], now_ns: int
) -> Verdict:
    stream = None if entry.stream_id is None else view.streams.get(entry.stream_id)
    in_use = None if view.is_clean_stop else _use_of(entry, view, stream)
    if in_use is not None:
        return in_use
    stamp = entry.stamp
    # That our own driver lives says nothing about an epoch it left behind (design §4.13).
    if stamp is not None and stamp.is_alive and stamp.pid != view.writer[0]:
        return Verdict(
            entry,
            Rule.LIVE_STAMP,
            f"its superblock names process {stamp.pid}, which lives and is not our driver",
            _RECHECK_NS,
        )
    if view.is_clean_stop:
        return Verdict(
            entry, Rule.CLEAN_SHUTDOWN, "the driver shut down cleanly and ended every lease"
        )
    if stream is not None and entry.epoch in newest:
        return Verdict(
            entry, Rule.NEWEST, f"among the newest {limits.keep} (policies.epoch_gc_keep)"
        )
    return _judge_age(entry, view, limits, now_ns, is_stream_known=stream is not None)


def _use_of(entry: Found, view: RegistryView, stream: StreamEpochs | None) -> Verdict | None:
    if stream is not None:
        if entry.epoch == stream.current:
            return Verdict(entry, Rule.CURRENT, "the stream's current epoch")
        if entry.epoch >= stream.last:
            return Verdict(
                entry, Rule.IN_THE_MAKING, f"the driver has begun no later epoch than {stream.last}"
            )
        # Others are made ahead of need meanwhile, so that it need not be the last begun.
        if entry.epoch > stream.current > 0:
            return Verdict(
                entry, Rule.IN_THE_MAKING, f"later than the epoch in service, {stream.current}"
            )
    leases = view.leases.get((entry.stream_id or 0, entry.epoch))
    if leases:
        ids = ", ".join(str(lease_id) for lease_id in leases)
        return Verdict(entry, Rule.REFERENCED, f"in use by lease {ids}", _RECHECK_NS)
    return None


def _judge_age(
    entry: Found, view: RegistryView, limits: Limits, now_ns: int, *, is_stream_known: bool
) -> Verdict:
    age_ns, clock = _age(entry, view, now_ns)
    limit = f"policies.epoch_gc_min_age_ns is {limits.min_age_ns / NS_PER_S:.3f} s"
    if age_ns is not None and age_ns <= limits.min_age_ns:
        return Verdict(
            entry,
            Rule.YOUNG,
            f"{clock} {age_ns / NS_PER_S:.3f} s ago, {limit}",
            limits.min_age_ns - age_ns + 1,
        )
    past = f"{clock} {age_ns / NS_PER_S:.3f} s ago, {limit}" if age_ns is not None else clock
    if is_stream_known:
        return Verdict(entry, Rule.SUPERSEDED, f"superseded, no lease uses it; {past}")
    return Verdict(
        entry, Rule.UNKNOWN_STREAM, f"the driver serves no such stream, no lease uses it; {past}"
    )


def _age(entry: Found, view: RegistryView, now_ns: int) -> tuple[int | None, str]:
    """Age in nanoseconds (None: older than this boot), and what it was told by.

    A time in the future was not told by this boot's monotonic clock: then the file's own
    age counts. With a registry of an earlier boot no driver has made anything since.
    """
    if not view.is_of_this_boot:
        return None, "made before the machine booted"
    if entry.stamp is not None and entry.stamp.activity_ns <= now_ns:
        return now_ns - entry.stamp.activity_ns, "last active"
    return entry.file_age_ns, "made"
