"""What a new driver takes over from its predecessor: epochs, lease ids, cooldowns, debts.

Read from the former registry and from the directories (design §4.6): a lost or damaged
registry costs the revocations, never the epochs' order.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, field
from time import time_ns

from tensorpool.clock import monotonic_ns
from tensorpool.registry import LeaseRecord, LeaseState, RegistryError, RegistryReader, StreamRecord
from tensorpool.settings import ShmSettings
from tensorpool.shm import paths

_log = logging.getLogger(__name__)
_NS_PER_US = 1000
_CREDIBLE = 1 << 63
"""Epochs are wall clock nanoseconds, lease ids began as microseconds: half of 64 bits is three
centuries away. What lies beyond is damage, and to start above it would leave no number."""


@dataclass(slots=True)
class Heritage:
    """What went before.

    Attributes:
        last_epoch: highest epoch ever known here.
        first_lease_id: above every lease id ever given out.
        debts: leases that the former registry shows active: to be revoked before serving.
        cooling: node ids at rest, with the CLOCK_MONOTONIC time until which they are.
        last_epochs: highest epoch by stream.
        answered: client and correlation id of each attach request that led to a lease.
    """

    last_epoch: int = 0
    first_lease_id: int = 1
    debts: list[LeaseRecord] = field(default_factory=list)
    cooling: list[tuple[int, int]] = field(default_factory=list)
    last_epochs: dict[int, int] = field(default_factory=dict)
    answered: set[tuple[int, int]] = field(default_factory=set)


def inherit(shm: ShmSettings, cooldown_ns: int) -> Heritage:
    """Everything that the former driver left in this namespace."""
    heritage = Heritage(first_lease_id=time_ns() // _NS_PER_US)
    try:
        with RegistryReader(shm.registry_path) as registry:
            streams = list(registry.streams())
            leases = list(registry.leases())
            last_epoch = registry.last_epoch
            is_of_this_boot = registry.is_of_this_boot()
    except RegistryError as error:
        if os.path.lexists(shm.registry_path):
            _log.warning("former registry not usable", extra={"reason": str(error)})
    else:
        if last_epoch < _CREDIBLE:
            heritage.last_epoch = last_epoch
        _take_streams(heritage, streams)
        _take_leases(heritage, leases, cooldown_ns, is_of_this_boot=is_of_this_boot)
    for stream_id, epoch in _epoch_directories(shm.namespace_dir):
        _note_epoch(heritage, stream_id, epoch)
    return heritage


def _take_streams(heritage: Heritage, streams: list[StreamRecord]) -> None:
    for record in streams:
        if record.last_epoch < _CREDIBLE:
            _note_epoch(heritage, record.stream_id, record.last_epoch)


def _take_leases(
    heritage: Heritage, leases: list[LeaseRecord], cooldown_ns: int, *, is_of_this_boot: bool
) -> None:
    now_ns = monotonic_ns()
    for lease in leases:
        if lease.lease_id >= _CREDIBLE:
            continue
        heritage.first_lease_id = max(heritage.first_lease_id, lease.lease_id + 1)
        if not is_of_this_boot:
            continue  # its clients died with the machine
        heritage.answered.add((lease.client_id, lease.correlation_id))
        if lease.state == LeaseState.RELEASED:
            if lease.expiry_ns > now_ns:
                heritage.cooling.append((lease.node_id, lease.expiry_ns))
        else:
            heritage.debts.append(lease)
            heritage.cooling.append((lease.node_id, now_ns + cooldown_ns))


def _note_epoch(heritage: Heritage, stream_id: int, epoch: int) -> None:
    heritage.last_epoch = max(heritage.last_epoch, epoch)
    heritage.last_epochs[stream_id] = max(heritage.last_epochs.get(stream_id, 0), epoch)


def _epoch_directories(namespace_dir: str) -> list[tuple[int, int]]:
    found = []
    for stream in os.scandir(namespace_dir):
        stream_id = paths.parse_decimal_name(stream.name)
        if stream_id is None or not stream.is_dir(follow_symlinks=False):
            continue
        for entry in _entries(stream.path):
            epoch = paths.parse_decimal_name(entry.name)
            if epoch is not None and epoch < _CREDIBLE and entry.is_dir(follow_symlinks=False):
                found.append((stream_id, epoch))
    return found


def _entries(path: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(path) as entries:
            return list(entries)
    except OSError:  # the epoch GC removes empty ones beside us
        return []
