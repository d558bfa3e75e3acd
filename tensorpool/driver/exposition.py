"""The driver's counters as metrics."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping

from tensorpool.driver.agent import DriverAgent
from tensorpool.metrics import Sample


def samples(agent: DriverAgent, base_dir: str) -> Iterator[Sample]:
    """What a scrape of the driver shows now."""
    service, stats = agent.service, agent.service.stats
    space = os.statvfs(base_dir)
    yield Sample("tensorpool_shm_size_bytes", space.f_blocks * space.f_frsize)
    yield Sample("tensorpool_shm_free_bytes", space.f_bavail * space.f_frsize)
    yield Sample("tensorpool_driver_connected", agent.is_connected)
    yield Sample("tensorpool_driver_leases", len(service.leases))
    yield Sample("tensorpool_driver_streams", len(service.streams))
    if agent.is_connected:
        outbox, announcer = service.outbox, service.announcer
        yield Sample("tensorpool_driver_announces_total", announcer.sent)
        yield Sample(
            "tensorpool_driver_back_pressured_total",
            outbox.back_pressured + announcer.back_pressured,
        )
        yield Sample("tensorpool_driver_dropped_messages_total", outbox.dropped)
    totals: dict[str, float | Mapping[str, float]] = {
        "attach_requests": stats.attach_requests,
        "attaches": stats.attaches,
        "detaches": stats.detaches,
        "rejects": stats.rejects,
        "keepalives": stats.keepalives,
        "ignored_keepalives": stats.ignored_keepalives,
        "lease_ends": stats.ends,
        "superseded_leases": stats.superseded_leases,
        "epoch_bumps": stats.epoch_bumps,
        "provisioned_bytes": stats.provisioned_bytes,
        "provision_failures": stats.provision_failures,
        "malformed_messages": stats.malformed_messages,
        "refused_shutdowns": stats.refused_shutdowns,
        "stalls": stats.stalls,
        "media_driver_losses": stats.media_driver_losses,
    }
    for name, value in totals.items():
        yield Sample(f"tensorpool_driver_{name}_total", value)
