"""The one clock of leases, announcements and superblocks: CLOCK_MONOTONIC in nanoseconds."""

from __future__ import annotations

from time import monotonic_ns

NS_PER_MS = 1_000_000
NS_PER_S = 1_000_000_000

__all__ = ["NS_PER_MS", "NS_PER_S", "monotonic_ns"]
