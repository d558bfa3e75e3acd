"""The launcher's view of its children as metrics."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tensorpool.launcher.child_process import ChildProcess
from tensorpool.metrics import Sample


def samples(children: Sequence[ChildProcess]) -> Iterator[Sample]:
    """What a scrape of the launcher shows now."""
    yield Sample("tensorpool_host_ready", all(child.is_satisfied for child in children))
    yield Sample("tensorpool_child_up", {child.name: child.is_satisfied for child in children})
    yield Sample(
        "tensorpool_child_restarts_total", {child.name: child.restarts for child in children}
    )
