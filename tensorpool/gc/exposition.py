"""The epoch GC's counters as metrics."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from tensorpool.gc.agent import GcAgent
from tensorpool.gc.eligibility import Rule
from tensorpool.metrics import Sample


def samples(agent: GcAgent) -> Iterator[Sample]:
    """What a scrape of the epoch GC shows now."""
    yield Sample("tensorpool_gc_passes_total", agent.passes)
    yield Sample("tensorpool_gc_deleted_total", _by_name(agent.deleted_by_rule))
    yield Sample("tensorpool_gc_freed_bytes_total", agent.bytes_freed)
    yield Sample("tensorpool_gc_kept", _by_name(agent.kept_by_rule))
    yield Sample("tensorpool_gc_errors_total", agent.errors)


def _by_name(counts: Mapping[Rule, int]) -> dict[str, float]:
    return {str(rule): count for rule, count in dict(counts).items()}
