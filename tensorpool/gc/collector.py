"""One pass: list the directories, read the registry, judge, delete. In this order.

What was listed existed before the registry was read, so that the registry knows every
epoch on the list that anybody needs. Any number of passes may run beside each other.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from tensorpool.clock import monotonic_ns
from tensorpool.errors import HostError
from tensorpool.gc import deleter
from tensorpool.gc.directories import NotOursError, open_namespace, open_own
from tensorpool.gc.eligibility import (
    Kind,
    Limits,
    RegistryView,
    Rule,
    Unreadable,
    Verdict,
    judge,
)
from tensorpool.gc.scanner import scan
from tensorpool.gc.watch import RegistryWatch
from tensorpool.settings import ShmSettings

_log = logging.getLogger(__name__)
_HALF = frozenset({Kind.STAGING, Kind.DOOMED})


@dataclass(slots=True)
class PassReport:
    """What a pass found and did.

    Attributes:
        verdicts: on every entry, by stream and epoch.
        view: the registry that it was judged by.
        deleted: how many entries were deleted, by rule.
        bytes_freed: bytes of the files unlinked.
        streams_removed: empty stream directories removed.
        errors: deletions that failed, by `stream/entry`.
    """

    verdicts: list[Verdict] = field(default_factory=list)
    view: RegistryView | Unreadable = field(default_factory=lambda: Unreadable("not read yet"))
    deleted: Counter[Rule] = field(default_factory=Counter)
    bytes_freed: int = 0
    streams_removed: int = 0
    errors: dict[str, str] = field(default_factory=dict)

    @property
    def kept(self) -> Counter[Rule]:
        """How many entries were kept, by rule."""
        return Counter(verdict.rule for verdict in self.verdicts if not verdict.deletes)

    @property
    def foreign(self) -> Iterable[Verdict]:
        """What was left alone because it is not ours."""
        return (verdict for verdict in self.verdicts if verdict.rule is Rule.FOREIGN)

    @property
    def recheck_ns(self) -> int | None:
        """After this time another pass may delete more, whatever happens; None: it will not."""
        times = [v.recheck_ns for v in self.verdicts if v.recheck_ns is not None]
        return min(times, default=None)


def run_pass(  # noqa: PLR0913 - the pass's subject and the ways to run it
    shm: ShmSettings,
    limits: Limits,
    watch: RegistryWatch,
    *,
    is_dry_run: bool = False,
    is_sweep: bool = False,
    on_step: Callable[[], None] = lambda: None,
) -> PassReport:
    """Judge everything in the namespace and delete what may go.

    Args:
        shm: where.
        limits: the policy.
        watch: the registry, read after the directories.
        is_dry_run: only judge.
        is_sweep: judge and delete only what a crash left half made or half deleted.
        on_step: called between deletions; unlinking huge regions takes its time.

    Raises:
        HostError: the namespace directory is not ours, or cannot be read.
    """
    report = PassReport()
    try:
        namespace_fd = open_namespace(shm)
    except FileNotFoundError:
        report.view = Unreadable(f"there is no {shm.namespace_dir}: no driver has run here")
        return report
    except OSError as error:
        raise HostError(
            f"namespace directory {shm.namespace_dir}: {error.strerror}; check its owner and mode"
        ) from error
    except NotOursError as error:
        raise HostError(
            f"namespace directory {shm.namespace_dir}: {error}; nothing in it is deleted"
        ) from error
    try:
        try:
            found = scan(namespace_fd, on_step)
        except OSError as error:
            raise HostError(
                f"namespace directory {shm.namespace_dir} cannot be read: {error.strerror}"
            ) from error
        report.view = watch.view()
        now_ns = monotonic_ns()
        for stream_id, entries in found.items():
            verdicts = judge(entries, report.view, limits, now_ns)
            if is_sweep:
                verdicts = [v for v in verdicts if v.found.kind in _HALF]
            report.verdicts += verdicts
            if stream_id is None or is_dry_run:
                continue
            _delete_all(stream_id, verdicts, namespace_fd, report, on_step)
            if not is_sweep and limits.enabled:
                _remove_if_unserved(stream_id, verdicts, namespace_fd, watch, report)
    finally:
        os.close(namespace_fd)
    return report


def _delete_all(
    stream_id: int,
    verdicts: list[Verdict],
    namespace_fd: int,
    report: PassReport,
    on_step: Callable[[], None],
) -> None:
    doomed = [verdict for verdict in verdicts if verdict.deletes]
    if not doomed:
        return
    try:
        stream_fd = open_own(str(stream_id), namespace_fd)
    except FileNotFoundError:
        return
    except (NotOursError, OSError) as error:
        report.errors[str(stream_id)] = str(error)
        return
    try:
        for verdict in doomed:
            where = f"{stream_id}/{verdict.found.name}"
            try:
                freed = deleter.delete(verdict.found, stream_fd)
            except (NotOursError, OSError) as error:
                report.errors[where] = str(error)
                continue
            finally:
                on_step()
            if freed is not None:
                report.deleted[verdict.rule] += 1
                report.bytes_freed += freed
                fields = {"stream_id": stream_id, "entry": verdict.found.name}
                _log.debug("deleted", extra=fields | {"rule": verdict.rule, "bytes": freed})
    finally:
        os.close(stream_fd)


def _remove_if_unserved(
    stream_id: int,
    verdicts: list[Verdict],
    namespace_fd: int,
    watch: RegistryWatch,
    report: PassReport,
) -> None:
    """Remove the directory of a stream that nobody serves, once it is empty.

    The registry is asked again right before: a driver writes a stream into it before it
    makes its first epoch.
    """
    if any(not verdict.deletes for verdict in verdicts) or watch.serves(stream_id):
        return
    if deleter.remove_stream_directory(str(stream_id), namespace_fd):
        report.streams_removed += 1
