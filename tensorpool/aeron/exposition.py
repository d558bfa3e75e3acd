"""The media driver's own counters as metrics."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from tensorpool.aeron.counters import (
    CLIENT_HEARTBEAT,
    PUBLICATION_LIMIT,
    SUBSCRIBER_POSITION,
    SYSTEM,
    most_counters,
    read_counters,
)
from tensorpool.clock import NS_PER_S
from tensorpool.metrics import Sample

_TOTALS = {
    15: "errors",
    18: "back_pressure",
    19: "unblocked_publications",
    24: "client_timeouts",
}
"""Aeron's ids of system counters."""
_LONGEST_CYCLE = {26: "conductor", 28: "sender", 30: "receiver"}
_SLOW_CYCLES = {27: "conductor", 29: "sender", 31: "receiver"}
_MAPPED_BYTES = 35


def samples(aeron_dir: str) -> Iterator[Sample]:
    """What a scrape of the media driver in `aeron_dir` shows now."""
    system: dict[int, int] = {}
    kinds: Counter[int] = Counter()
    for counter in read_counters(aeron_dir):
        kinds[counter.type_id] += 1
        if counter.type_id == SYSTEM:
            system[counter.key] = counter.value
    for number, name in _TOTALS.items():
        yield Sample(f"tensorpool_aeron_{name}_total", system.get(number, 0))
    yield Sample(
        "tensorpool_aeron_slow_cycles_total",
        {agent: float(system.get(number, 0)) for number, agent in _SLOW_CYCLES.items()},
    )
    yield Sample(
        "tensorpool_aeron_max_cycle_seconds",
        {agent: system.get(number, 0) / NS_PER_S for number, agent in _LONGEST_CYCLE.items()},
    )
    yield Sample("tensorpool_aeron_mapped_bytes", system.get(_MAPPED_BYTES, 0))
    yield Sample("tensorpool_aeron_clients", kinds[CLIENT_HEARTBEAT])
    yield Sample("tensorpool_aeron_publications", kinds[PUBLICATION_LIMIT])
    yield Sample("tensorpool_aeron_subscribers", kinds[SUBSCRIBER_POSITION])
    yield Sample("tensorpool_aeron_counters", kinds.total())
    yield Sample("tensorpool_aeron_counters_max", most_counters(aeron_dir))
