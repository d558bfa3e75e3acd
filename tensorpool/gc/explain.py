"""A single pass on request, and every decision of it in words (`tensorpool gc`)."""

from __future__ import annotations

from dataclasses import dataclass

from tensorpool.gc.collector import PassReport, run_pass
from tensorpool.gc.eligibility import Limits, Unreadable
from tensorpool.gc.watch import RegistryWatch
from tensorpool.settings import HostSettings


@dataclass(frozen=True, slots=True)
class Decision:
    """What becomes of one entry of the namespace directory.

    Attributes:
        stream_id: None for an entry that belongs to no stream.
        kind: `epoch`, `staging` (half made), `doomed` (half deleted) or `foreign`.
        action: `delete` or `keep`.
        rule: name of the rule that decided.
        sentence: why.
        size_bytes: what its region files take of the file system.
        error: why its deletion failed; empty otherwise.
    """

    stream_id: int | None
    name: str
    kind: str
    action: str
    rule: str
    sentence: str
    size_bytes: int
    error: str = ""


@dataclass(frozen=True, slots=True)
class Explanation:
    """A pass in words.

    Attributes:
        namespace_dir: where.
        is_dry_run: nothing was deleted.
        registry: why the registry could not be read; empty if it could.
        deleted: how many entries this pass deleted.
        bytes_freed: bytes of the files it unlinked.
    """

    namespace_dir: str
    is_dry_run: bool
    registry: str
    decisions: tuple[Decision, ...]
    deleted: int
    bytes_freed: int
    errors: tuple[str, ...]


def collect(settings: HostSettings, *, is_dry_run: bool) -> Explanation:
    """Run one pass with the rules of the GC process, or only say what it would do.

    It may run beside the GC process: an epoch is deleted by whoever renames it first.

    Raises:
        HostError: the namespace directory is not ours, or cannot be read.
    """
    watch = RegistryWatch(settings.shm.registry_path)
    try:
        report = run_pass(settings.shm, Limits.of(settings.policies), watch, is_dry_run=is_dry_run)
    finally:
        watch.close()
    return Explanation(
        settings.shm.namespace_dir,
        is_dry_run,
        report.view.reason if isinstance(report.view, Unreadable) else "",
        _decisions(report),
        report.deleted.total(),
        report.bytes_freed,
        tuple(f"{where}: {why}" for where, why in report.errors.items()),
    )


def _decisions(report: PassReport) -> tuple[Decision, ...]:
    return tuple(
        Decision(
            verdict.found.stream_id,
            verdict.found.name,
            verdict.found.kind.value,
            "delete" if verdict.deletes else "keep",
            verdict.rule.value,
            verdict.sentence,
            verdict.found.size_bytes,
            report.errors.get(f"{verdict.found.stream_id}/{verdict.found.name}", ""),
        )
        for verdict in report.verdicts
    )
