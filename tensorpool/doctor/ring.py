"""What the size of a ring costs."""

from __future__ import annotations

from collections.abc import Iterator

from tensorpool.doctor.finding import Finding, Severity
from tensorpool.doctor.texts import size
from tensorpool.processor import last_level_cache_bytes
from tensorpool.settings import HostSettings
from tensorpool.shm.layout import payload_pool_bytes


def check_rings(settings: HostSettings) -> Iterator[Finding]:
    """A pool larger than the last-level cache makes every frame a walk through main memory."""
    cache = last_level_cache_bytes()
    if cache is None:
        return
    for profile in settings.profiles:
        largest = max(profile.pools, key=lambda pool: pool.stride_bytes)
        ring = payload_pool_bytes(profile.header_nslots, largest.stride_bytes)
        if ring > cache:
            fitting = max(cache // largest.stride_bytes, 1)
            yield Finding(
                "ring-size",
                Severity.NOTE,
                f"profile {profile.name}: {profile.header_nslots} slots of "
                f"{size(largest.stride_bytes)} are {size(ring)}, the last-level cache has "
                f"{size(cache)}",
                "a ring is as small as the rate and the slowest consumer allow: beyond the cache "
                "each frame is read from main memory",
                f"profiles.{profile.name}.header_nslots = {1 << fitting.bit_length() - 1} or less "
                "stays in the cache; leave it if consumers need the time",
            )
