"""The epoch GC's counters as metrics."""

from __future__ import annotations

import os
from collections.abc import Iterator

from tensorpool.gc.agent import GcAgent
from tensorpool.gc.eligibility import Rule
from tensorpool.metrics import Sample
from tensorpool.shm import paths

_BLOCK_BYTES = 512
"""What `st_blocks` counts in, whatever the file system's own blocks are."""


def samples(agent: GcAgent, namespace_dir: str) -> Iterator[Sample]:
    """What a scrape of the epoch GC shows now."""
    deleted, kept = agent.deleted_by_rule, agent.kept_by_rule
    # Every rule from the start: a counter that appears with its first event has no increase.
    yield Sample("tensorpool_gc_passes_total", agent.passes)
    yield Sample("tensorpool_gc_pass_seconds", agent.pass_times)
    yield Sample("tensorpool_gc_last_pass_timestamp_seconds", agent.last_pass_at)
    waiting = max(agent.requests_seen - agent.requests_served, 0)
    yield Sample("tensorpool_gc_unserved_requests", waiting)
    by_rule = {str(rule): float(deleted[rule]) for rule in Rule if rule.deletes}
    yield Sample("tensorpool_gc_deleted_total", by_rule)
    yield Sample("tensorpool_gc_freed_bytes_total", agent.bytes_freed)
    by_rule = {str(rule): float(kept[rule]) for rule in Rule if not rule.deletes}
    yield Sample("tensorpool_gc_kept", by_rule)
    yield Sample("tensorpool_gc_errors_total", agent.errors)
    directories, size = _namespace(namespace_dir)
    yield Sample("tensorpool_gc_directories", directories)
    yield Sample("tensorpool_gc_namespace_bytes", size)


def _namespace(namespace_dir: str) -> tuple[int, int]:
    """Epoch directories and the memory of all files; what vanishes meanwhile is not counted."""
    directories = size = 0
    for path, _, files, descriptor in os.fwalk(namespace_dir):
        parts = os.path.relpath(path, namespace_dir).split(os.sep)
        epoch_depth = 2
        directories += len(parts) == epoch_depth and paths.parse_decimal_name(parts[-1]) is not None
        for name in files:
            try:
                info = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
            except OSError:
                continue
            size += info.st_blocks * _BLOCK_BYTES
    return directories, size
