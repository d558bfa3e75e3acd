"""The launcher's view of its children as metrics."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tensorpool.clock import NS_PER_S
from tensorpool.launcher.child_process import ChildProcess
from tensorpool.launcher.exits import ExitKind
from tensorpool.launcher.probes import Probes
from tensorpool.metrics import Sample


def samples(children: Sequence[ChildProcess], probes: Probes) -> Iterator[Sample]:
    """What a scrape of the launcher shows now."""
    yield Sample("tensorpool_host_ready", all(child.is_satisfied for child in children))
    yield Sample("tensorpool_driver_serving", probes.driver_problem() is None)
    yield Sample("tensorpool_child_up", {child.name: child.is_satisfied for child in children})
    # Every reason from the start: a counter that appears with its first event has no increase.
    restarts = {
        (child.name, kind.value): child.restarts_by_kind[kind]
        for child in children
        for kind in ExitKind
    }
    yield Sample("tensorpool_child_restarts_total", restarts)
    watched = [child for child in children if child.is_running]
    lags = {child.name: max(child.lag_ns, child.last_lag_ns) / NS_PER_S for child in watched}
    yield Sample("tensorpool_child_lag_seconds", lags)
    ages = {child.name: child.silent_ns / NS_PER_S for child in watched}
    yield Sample("tensorpool_child_heartbeat_age_seconds", ages)
