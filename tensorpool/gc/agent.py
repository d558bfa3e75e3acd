"""When the epoch GC runs a pass, and what it tells of it.

It looks at two words of the registry every few milliseconds and runs a pass when the
driver asks for one, when an epoch was superseded, when a kept epoch comes of age, and
sweeps what a crash left half made whenever a new driver has come. Unlinking may block;
the launcher hears of the agent between any two deletions.
"""

from __future__ import annotations

import logging
import os
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress

from tensorpool.clock import NS_PER_MS, NS_PER_S, monotonic_ns
from tensorpool.errors import HostError
from tensorpool.gc.collector import PassReport, run_pass
from tensorpool.gc.eligibility import Limits, Rule, Unreadable
from tensorpool.gc.watch import RegistryWatch, is_stopped
from tensorpool.gc_report import GcReport, GcReportWriter, report_path
from tensorpool.metrics import Histogram
from tensorpool.metrics.histogram import WORK_BOUNDS_S
from tensorpool.registry import BumpReason, DriverState, RegistryError, RegistryReader
from tensorpool.settings import HostSettings

_log = logging.getLogger(__name__)

_RETRY_NS = NS_PER_S
_MIN_REST_NS = 20 * NS_PER_MS
_REST_FACTOR = 4
"""Passes that nobody waits for take at most a fifth of a core, unless the GC would fall behind:
no rest is longer than `epoch_gc_min_age_ns`, or old epochs would pile up while it rests."""
_MAX_TOLD = 1000
"""Lines remembered so as not to repeat them."""


class GcAgent:
    """The epoch GC, as an agent.

    Args:
        on_step: called between deletions of a pass.

    Attributes:
        passes, deletions, bytes_freed, errors: totals since the start.
        deleted_by_rule: totals since the start.
        kept_by_rule: of the last pass.
        last_pass: the last one's report; `last_pass_at` is when it ended (wall clock, seconds).
        pass_times: how long passes and sweeps took.
        requests_seen, requests_served: numbers of the driver's last request and of the last one
            that a pass has served.
    """

    role_name = "gc"

    def __init__(self, settings: HostSettings, on_step: Callable[[], None]) -> None:
        self.passes = 0
        self.sweeps = 0
        self.bytes_freed = 0
        self.errors = 0
        self.streams_removed = 0
        self.deleted_by_rule: Counter[Rule] = Counter()
        self.kept_by_rule: Counter[Rule] = Counter()
        self.last_pass: PassReport | None = None
        self.last_pass_ns = 0
        self.last_pass_at = 0.0
        self.pass_times = Histogram(WORK_BOUNDS_S)
        self.requests_seen = 0
        self.requests_served = 0
        self._settings = settings
        self._limits = Limits.of(settings.policies)
        self._on_step = on_step
        self._watch = RegistryWatch(settings.shm.registry_path)
        self._report: GcReportWriter | None = None
        self._generation = 0
        self._is_swept = False
        self._is_startup_pass_due = settings.policies.epoch_gc_on_startup
        self._seen_changes = 0
        self._due_ns: int | None = None
        self._rest_until_ns = 0
        self._told: set[str] = set()

    @property
    def deletions(self) -> int:
        """How many epochs were deleted, the half made and half deleted included."""
        return self.deleted_by_rule.total()

    def on_start(self) -> None:
        """Nothing: the first cycles look for the registry."""

    def on_close(self) -> None:
        """Let go of the registry, and take the report away: it is of a process that ends."""
        self._watch.close()
        if self._report is not None:
            self._report.close()
            self._report = None
            with suppress(FileNotFoundError):
                os.unlink(report_path(self._settings.shm.namespace_dir))

    def reload(self, settings: HostSettings) -> None:
        """Take over new settings."""
        self._settings = settings
        self._limits = Limits.of(settings.policies)

    def describe(self) -> dict[str, object]:
        """Its state, flat and short, for the log."""
        return {
            "passes": self.passes,
            "sweeps": self.sweeps,
            "deleted": dict(self.deleted_by_rule),
            "kept": dict(self.kept_by_rule),
            "bytes_freed": self.bytes_freed,
            "errors": self.errors,
            "requests_served": self.requests_served,
        }

    def do_work(self) -> int:
        """Run a pass if there is a reason to; whether it did."""
        registry = self._watch.refresh()
        if registry is None:
            self._tell_once("no registry: nothing is deleted", self._watch.why, logging.DEBUG)
            return 0
        if self._generation != self._watch.generation:
            self._begin_with_new_registry()
        self._make_report()
        if not self._limits.enabled:
            return 0
        try:
            requests, changes = registry.gc_requests, registry.epoch_changes
            self.requests_seen = requests
            reason = self._reason(registry, requests, changes)
        except RegistryError as error:
            self._tell_once("no registry: nothing is deleted", str(error), logging.ERROR)
            return 0
        if reason is None:
            return self._sweep_once()
        report = self._collect(reason)
        if report is not None and not isinstance(report.view, Unreadable):
            self._is_swept = True
            self._is_startup_pass_due = False
            self._seen_changes = changes
            if self._generation == self._watch.generation:
                self.requests_served = max(self.requests_served, requests)
        self._publish()
        return 1

    def _sweep_once(self) -> int:
        """What another driver left half made goes as soon as a new one has come."""
        if self._is_swept or monotonic_ns() < self._rest_until_ns:
            return 0
        report = self._collect("new driver", is_sweep=True)
        self._is_swept = report is not None and not isinstance(report.view, Unreadable)
        self._publish()
        return 1

    # -- the end --------------------------------------------------------------------------

    @property
    def driver_state(self) -> DriverState | None:
        """What the living driver says of itself; None if it lives no longer, or never did."""
        registry = self._watch.refresh()
        if registry is None or not registry.is_writer_alive():
            return None
        try:
            return registry.state
        except RegistryError:
            return None

    def run_final_pass(self) -> None:
        """After a clean shutdown of the driver: empty the namespace (Driver §4.13)."""
        registry = self._watch.refresh()
        if registry is None or not self._limits.enabled:
            return
        try:
            if not is_stopped(registry):
                return
        except RegistryError:
            return
        self._collect("shutdown")
        self._publish()

    # -- when -----------------------------------------------------------------------------

    def _begin_with_new_registry(self) -> None:
        self._generation = self._watch.generation
        self._is_swept = False
        self._seen_changes = 0
        # A new driver counts its requests from the start.
        self.requests_seen = self.requests_served = 0

    def _reason(self, registry: RegistryReader, requests: int, changes: int) -> str | None:
        """Why a pass should run now, if it should."""
        if requests > self.requests_served:
            return "the driver asked"
        now_ns = monotonic_ns()
        if now_ns < self._rest_until_ns:
            return None
        if self._is_startup_pass_due:
            return "start"
        if changes != self._seen_changes:
            if _has_superseded(registry):
                return "epoch change"
            self._seen_changes = changes
        if self._due_ns is not None and now_ns >= self._due_ns:
            return "age"
        return None

    def _collect(self, reason: str, *, is_sweep: bool = False) -> PassReport | None:
        started_ns = monotonic_ns()
        try:
            report = run_pass(
                self._settings.shm,
                self._limits,
                self._watch,
                is_sweep=is_sweep,
                on_step=self._on_step,
            )
        except HostError as error:
            self.errors += 1
            self._tell_once("no pass is possible", str(error), logging.ERROR)
            self._rest_until_ns = monotonic_ns() + _RETRY_NS
            return None
        self._account(report, reason, is_sweep=is_sweep)
        ended_ns = monotonic_ns()
        self.last_pass_ns = ended_ns
        self.last_pass_at = time.time()
        self.pass_times.observe_ns(ended_ns - started_ns)
        fair_ns = (ended_ns - started_ns) * _REST_FACTOR
        rest_ns = max(_MIN_REST_NS, min(fair_ns, self._limits.min_age_ns))
        self._rest_until_ns = ended_ns + rest_ns
        if not is_sweep:
            self._due_ns = self._next_due_ns(report, ended_ns)
        return report

    @staticmethod
    def _next_due_ns(report: PassReport, now_ns: int) -> int | None:
        times = [] if report.recheck_ns is None else [report.recheck_ns]
        if report.errors or isinstance(report.view, Unreadable):
            times.append(_RETRY_NS)
        return now_ns + min(times) if times else None

    # -- what it tells --------------------------------------------------------------------

    def _account(self, report: PassReport, reason: str, *, is_sweep: bool) -> None:
        self.deleted_by_rule += report.deleted
        self.bytes_freed += report.bytes_freed
        self.streams_removed += report.streams_removed
        self.errors += len(report.errors)
        if is_sweep:
            self.sweeps += 1
        else:
            self.passes += 1
            self.kept_by_rule = report.kept
            self.last_pass = report
        if report.deleted:
            _log.info(
                "epochs deleted",
                extra={
                    "trigger": reason,
                    "deleted": report.deleted.total(),
                    "bytes_freed": report.bytes_freed,
                    "kept": report.kept.total(),
                },
            )
        for where, why in report.errors.items():
            self._tell_once(f"not deleted: {where}", why, logging.ERROR)
        for verdict in report.foreign:
            found = verdict.found
            where = found.name if found.stream_id is None else f"{found.stream_id}/{found.name}"
            self._tell_once(f"not ours, left alone: {where}", found.foreign, logging.WARNING)

    def _tell_once(self, what: str, why: str, level: int) -> None:
        line = f"{what}: {why}"
        if line not in self._told:
            if len(self._told) >= _MAX_TOLD:
                self._told.clear()
            self._told.add(line)
            _log.log(level, what, extra={"why": why})

    def _make_report(self) -> None:
        if self._report is not None:
            return
        shm = self._settings.shm
        try:
            self._report = GcReportWriter(shm.namespace_dir, shm.report_mode)
        except OSError as error:
            self._tell_once("no report", str(error), logging.ERROR)
            return
        self._publish()

    def _publish(self) -> None:
        if self._report is None:
            return
        self._report.write(
            GcReport(
                self.requests_served,
                self.passes,
                self.deletions,
                self.bytes_freed,
                self.kept_by_rule.total(),
                self.last_pass_ns,
                self.errors,
            )
        )


def _has_superseded(registry: RegistryReader) -> bool:
    """Whether this driver has put any stream above an epoch that was in use.

    A stream's first epoch at the driver's start is no reason for a pass: whether to
    collect then is what `policies.epoch_gc_on_startup` says.
    """
    return any(
        record.epoch_bumps > 1 or record.reason != BumpReason.CREATED
        for record in registry.streams()
        if record.epoch_bumps
    )
