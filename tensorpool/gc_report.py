"""What the epoch GC tells the other processes: a small file that only it writes.

`<namespace_dir>/gc`: little-endian u64 words, each stored by one aligned 8-byte store:
magic "TPGCREP1", requests served, passes, epochs deleted, bytes freed, epochs kept, last
pass (CLOCK_MONOTONIC ns), errors.
"""

from __future__ import annotations

import enum
import mmap
import os
from contextlib import suppress
from dataclasses import dataclass

from tensorpool.shm.seqlock import load_acquire, store_release

MAGIC = int.from_bytes(b"TPGCREP1", "little")
_BYTES = 64


class _Word(enum.IntEnum):
    MAGIC = 0
    REQUESTS_SERVED = 1
    PASSES = 2
    DELETED = 3
    BYTES_FREED = 4
    KEPT = 5
    LAST_PASS_NS = 6
    ERRORS = 7


@dataclass(frozen=True, slots=True)
class GcReport:
    """The epoch GC's totals since it started."""

    requests_served: int
    passes: int
    deleted: int
    bytes_freed: int
    kept: int
    last_pass_ns: int
    errors: int


def report_path(namespace_dir: str) -> str:
    """Where the report of this namespace lies."""
    return os.path.join(namespace_dir, "gc")


class GcReportWriter:
    """The one writer: the epoch GC.

    Raises:
        OSError: the file cannot be made.
    """

    def __init__(self, namespace_dir: str, mode: int) -> None:
        self._path = report_path(namespace_dir)
        staging = f"{self._path}.new"
        with suppress(FileNotFoundError):
            os.unlink(staging)
        # Never into what is there: it may be a link to another file, or a FIFO.
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(staging, flags, 0o600)
        try:
            os.fchmod(fd, mode)
            os.posix_fallocate(fd, 0, _BYTES)
            self._map = mmap.mmap(fd, _BYTES)
        finally:
            os.close(fd)
        self._words = memoryview(self._map).cast("Q")
        store_release(self._words, _Word.MAGIC, MAGIC)
        os.rename(staging, self._path)

    def write(self, report: GcReport) -> None:
        """Publish the totals; the number of served requests last."""
        for word, value in (
            (_Word.PASSES, report.passes),
            (_Word.DELETED, report.deleted),
            (_Word.BYTES_FREED, report.bytes_freed),
            (_Word.KEPT, report.kept),
            (_Word.LAST_PASS_NS, report.last_pass_ns),
            (_Word.ERRORS, report.errors),
            (_Word.REQUESTS_SERVED, report.requests_served),
        ):
            store_release(self._words, word, value)

    def close(self) -> None:
        """Unmap; the file stays until the namespace is emptied."""
        self._words.release()
        self._map.close()


def read_report(namespace_dir: str) -> GcReport | None:
    """The report, or None if no GC has run here or the file is damaged."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        fd = os.open(report_path(namespace_dir), flags)
    except OSError:
        return None
    try:
        raw = os.pread(fd, _BYTES, 0)
    except OSError:  # a directory, a FIFO
        return None
    finally:
        os.close(fd)
    if len(raw) < _BYTES:
        return None
    words = memoryview(bytearray(raw)).cast("Q")
    if words[_Word.MAGIC] != MAGIC:
        return None
    return GcReport(*(load_acquire(words, index) for index in range(1, 8)))
