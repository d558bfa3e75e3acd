"""The driver's counters as metrics.

Read on the scrape's thread: whatever the duty cycle may change meanwhile is copied first.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from tensorpool.driver.agent import DriverAgent
from tensorpool.driver.attach import RejectReason
from tensorpool.driver.stats import DriverStats
from tensorpool.driver.streams import Stream
from tensorpool.metrics import Sample
from tensorpool.registry import BumpReason
from tensorpool.wire.driver import LeaseRevokeReason, Role


def samples(agent: DriverAgent, base_dir: str) -> Iterator[Sample]:
    """What a scrape of the driver shows now."""
    yield from _space(base_dir)
    yield Sample("tensorpool_driver_connected", agent.is_connected)
    streams = agent.service.streams.snapshot()
    yield Sample("tensorpool_driver_streams", len(streams))
    yield Sample("tensorpool_driver_prepared_bytes", agent.service.ahead.ready_bytes)
    yield from _totals(agent.service.stats)
    yield from _by_stream(streams)


def _space(base_dir: str) -> Iterator[Sample]:
    space = os.statvfs(base_dir)
    size, free = space.f_blocks * space.f_frsize, space.f_bavail * space.f_frsize
    yield Sample("tensorpool_shm_size_bytes", size)
    yield Sample("tensorpool_shm_free_bytes", free)
    yield Sample("tensorpool_shm_used_bytes", size - space.f_bfree * space.f_frsize)


def _totals(stats: DriverStats) -> Iterator[Sample]:
    plain: dict[str, float] = {
        "attach_requests": stats.attach_requests,
        "attaches": stats.attaches,
        "detaches": stats.detaches,
        "keepalives": stats.keepalives,
        "ignored_keepalives": stats.ignored_keepalives,
        "superseded_leases": stats.superseded_leases,
        "provisioned_bytes": stats.provisioned_bytes,
        "provision_failures": stats.provision_failures,
        "announces": stats.announces.sent,
        "back_pressured": stats.outbox.back_pressured + stats.announces.back_pressured,
        "dropped_messages": stats.outbox.dropped,
        "malformed_messages": stats.malformed_messages,
        "refused_shutdowns": stats.refused_shutdowns,
        "stalls": stats.stalls,
        "media_driver_losses": stats.media_driver_losses,
    }
    for name, value in plain.items():
        yield Sample(f"tensorpool_driver_{name}_total", value)
    # Every reason from the start: a counter that appears with its first event has no increase.
    rejects = {(reason.code.name, reason.word): stats.rejects[reason] for reason in RejectReason}
    ends = {reason.name: stats.ends[reason.name] for reason in LeaseRevokeReason}
    bumps = {reason.name: stats.epoch_bumps[reason.name] for reason in BumpReason if reason}
    yield Sample("tensorpool_driver_rejects_total", rejects)
    yield Sample("tensorpool_driver_lease_ends_total", ends)
    yield Sample("tensorpool_driver_epoch_bumps_total", bumps)
    times = {role.name: histogram for role, histogram in stats.attach_times.items()}
    yield Sample("tensorpool_driver_attach_seconds", times)
    yield Sample("tensorpool_driver_detach_seconds", stats.detach_times)
    yield Sample("tensorpool_driver_keepalive_delay_seconds", stats.keepalive_delays)
    yield Sample("tensorpool_driver_provision_seconds", stats.provision_times)


def _by_stream(streams: list[Stream]) -> Iterator[Sample]:
    leases: dict[tuple[str, ...], float] = {}
    size: dict[str, float] = {}
    changes: dict[str, float] = {}
    created: dict[str, float] = {}
    for stream in streams:
        name = str(stream.stream_id)
        epoch = stream.epoch
        leases[name, Role.PRODUCER.name] = stream.producer is not None
        leases[name, Role.CONSUMER.name] = len(stream.consumers)
        size[name] = epoch.total_bytes if epoch is not None else 0
        changes[name] = stream.bumps
        if stream.epoch_created_at:
            created[name] = stream.epoch_created_at
    by_role = {
        role.name: sum(count for (_, name), count in leases.items() if name == role.name)
        for role in Role
    }
    yield Sample("tensorpool_driver_leases", by_role)
    yield Sample("tensorpool_driver_stream_leases", leases)
    yield Sample("tensorpool_driver_stream_bytes", size)
    yield Sample("tensorpool_driver_stream_epoch_changes_total", changes)
    yield Sample("tensorpool_driver_stream_epoch_created_timestamp_seconds", created)
