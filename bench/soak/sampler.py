"""Looking at a running host and its clients from outside, again and again."""

from __future__ import annotations

import contextlib
import os
import time
import urllib.request
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import psutil
from prometheus_client.parser import text_string_to_metric_families

from bench.soak.in_use import InUse
from tensorpool.launcher.host_file import HostReport, read_host
from tensorpool.registry import RegistryError, RegistryReader
from tensorpool.settings import HostSettings

CLIENTS = "clients"
_BLOCK_BYTES = 512
_LOG_SUFFIX = ".logbuffer"
_SCRAPE_TIMEOUT_S = 5.0
_KIB, _MIB = 1 << 10, 1 << 20
_QUEUE_BYTES = 128 * _MIB
_UNNAMED_WORDS = 5
"""Of the line of a mapping without a name: addresses, rights, offset, device, inode."""


@dataclass(frozen=True, slots=True)
class Measure:
    """Something that is measured.

    Attributes:
        name: a word for the result file.
        title: for people.
        unit: "" for a number of things.
        slack: growth an hour that is none, in its unit.
        is_judged: whether growth fails the soak.
    """

    name: str
    title: str
    unit: str
    slack: float
    is_judged: bool = True


PRIVATE = Measure("private", "private memory", "MiB", 1.0)
"""Anonymous pages: heaps, stacks, the data of libraries. Not the "unique set size" of psutil, which
counts a page of a shared file as private as long as one process alone has touched it."""
QUEUES = Measure("queues", "memory of command queues", "MiB", 1.0, is_judged=False)
"""Not judged: of Aeron's media driver, out of its private memory. Each of its four command queues
is a ring of 128 MiB, whose pages are taken as it is written for the first time; by some 80 bytes an
attach, it never takes more than its length."""
IN_USE = Measure("in_use", "memory in use, of malloc", "MiB", 0.25, is_judged=False)
"""Not judged: free pieces in the caches of threads count as in use, and those fill up for hours.
`tests/integration/client/test_kept_memory.py` judges it without such caches, by the kilobyte."""
BLOCKS = Measure("blocks", "blocks in use, of Python", "", 1.0)
RESIDENT = Measure(
    "resident", "resident memory, shared pages included", "MiB", 1.0, is_judged=False
)
"""Not judged: it grows as a process touches more pages of term buffers that were there before;
what they take altogether is judged as shared memory, and the rest as private memory."""
SHARED = Measure("shared", "shared memory", "MiB", 1.0)
LASTING = Measure("lasting", "shared memory of lasting logs", "MiB", 1.0, is_judged=False)
"""Not judged: a log that is there all the time is a sparse file, whose pages are taken as it is
written for the first time. It can grow up to its length and no further (`Sampler.lasting_bytes`),
which takes an hour where little is said. What comes and goes meanwhile is judged."""
DESCRIPTORS = Measure("descriptors", "file descriptors", "", 1.0)
THREADS = Measure("threads", "threads", "", 1.0)
EPOCHS = Measure("epochs", "epoch directories", "", 1.0)
LEASES = Measure("leases", "active leases", "", 1.0)
LAG = Measure("lag", "longest duty cycle in a second", "ms", 1.0, is_judged=False)
"""Not judged: it is as much the machine's, and what else runs on it, as ours."""
MEASURES = (
    PRIVATE,
    QUEUES,
    IN_USE,
    BLOCKS,
    RESIDENT,
    SHARED,
    LASTING,
    DESCRIPTORS,
    THREADS,
    EPOCHS,
    LEASES,
    LAG,
)


class Series(NamedTuple):
    """Which curve a value belongs to: what is measured, and of whom."""

    measure: Measure
    subject: str


type Sample = dict[Series, float]

_LOGS = Series(SHARED, "term buffers")
_LASTING_LOGS = Series(LASTING, "term buffers")


class Log(NamedTuple):
    """The file of a publication's or an image's term buffers: bytes taken, and its length."""

    used: int
    length: int


class Sampler:
    """Samples one host. What cannot be read just now is absent from the sample.

    Attributes:
        times_s: of the samples, since the first one.
        samples: as many.
        restarts: how often a process of the host was started again, and why the last time.
        cpu_s: processor time of the host's processes and the steady clients by subject, as of
            the last sample.
        lasting_logs, lasting_bytes: how many logs `part_logs` found to last, and what they take
            once every page of them was written.
    """

    def __init__(self, settings: HostSettings) -> None:
        self.times_s: list[float] = []
        self.samples: list[Sample] = []
        self.restarts: dict[str, tuple[int, str | None]] = {}
        self.cpu_s: dict[str, float] = {}
        self.lasting_logs = self.lasting_bytes = 0
        self._logs: list[dict[str, Log]] = []
        self._settings = settings
        self._started = 0.0

    def sample(self, client_pids: list[int], in_use: list[InUse]) -> Sample:
        """Take one, and keep it.

        Args:
            client_pids: watched as one subject.
            in_use: what these processes say of themselves; empty if not all do.
        """
        now = time.monotonic()
        self._started = self._started or now
        settings = self._settings
        values: Sample = {}
        report = read_host(settings.shm)
        if report is not None:
            for name, pid in _pids(report):
                self._look(values, name, [pid])
            for child in report["processes"]:
                if child["restarts"]:
                    self.restarts[child["name"]] = child["restarts"], child["last_exit"]
                if child["name"] != "media_driver":  # it has no duty cycle of ours
                    values[Series(LAG, child["name"])] = child["lag_ms"]
                if child["name"] == "media_driver":
                    _part_queues(values, child["name"], child["pid"])
        self._look(values, CLIENTS, client_pids)
        if in_use:
            values[Series(IN_USE, CLIENTS)] = sum(each.malloc_bytes for each in in_use) / _MIB
            values[Series(BLOCKS, CLIENTS)] = sum(each.blocks for each in in_use)
        regions = used_bytes(settings.shm.namespace_dir)
        values[Series(SHARED, "regions")] = regions / _MIB
        logs = find_logs(settings.aeron_dir)
        self._logs.append(logs)
        values[_LOGS] = sum(log.used for log in logs.values()) / _MIB
        values[Series(SHARED, "counters")] = (
            used_bytes(settings.aeron_dir, passing=_LOG_SUFFIX) / _MIB
        )
        values[Series(EPOCHS, "namespace")] = count_epochs(settings.shm.namespace_dir)
        with contextlib.suppress(RegistryError):
            values[Series(LEASES, "registry")] = active_leases(settings)
        self.times_s.append(now - self._started)
        self.samples.append(values)
        return values

    def part_logs(self, since_s: float) -> None:
        """Part the logs that are in every sample from `since_s` on from those that come and go.

        The former get a series of their own, at all times. A log that nobody needs any more, but
        that stays, is one of the latter if it was made after `since_s`: those are judged.
        """
        late = [logs for at, logs in zip(self.times_s, self._logs, strict=True) if at >= since_s]
        lasting = set.intersection(*(set(logs) for logs in late)) if late else set[str]()
        self.lasting_logs = len(lasting)
        self.lasting_bytes = sum(late[-1][name].length for name in lasting)
        for sample, logs in zip(self.samples, self._logs, strict=True):
            sample[_LASTING_LOGS] = sum(logs[n].used for n in lasting if n in logs) / _MIB
            sample[_LOGS] = sum(log.used for n, log in logs.items() if n not in lasting) / _MIB

    def curve(self, series: Series) -> tuple[list[float], list[float]]:
        """Times in seconds and values of one series, without the samples that lack it."""
        pairs = [
            (at, sample[series])
            for at, sample in zip(self.times_s, self.samples, strict=True)
            if series in sample
        ]
        return [at for at, _ in pairs], [value for _, value in pairs]

    def series(self) -> list[Series]:
        """Every series that was seen, by measure, then in order of appearance."""
        seen = dict.fromkeys(series for sample in self.samples for series in sample)
        return sorted(seen, key=lambda series: MEASURES.index(series.measure))

    def scrape(self) -> dict[str, float]:
        """The sum over its labels of every counter that the host's processes export now."""
        report = read_host(self._settings.shm)
        totals: dict[str, float] = {}
        if report is None:
            return totals
        urls = [report["metrics"], *(child["metrics"] for child in report["processes"])]
        for url in filter(None, urls):
            with contextlib.suppress(OSError):
                with urllib.request.urlopen(url, timeout=_SCRAPE_TIMEOUT_S) as answer:  # noqa: S310
                    text = answer.read().decode()
                for family in text_string_to_metric_families(text):
                    if family.type == "counter" and family.name.startswith("tensorpool_"):
                        totals[family.name] = totals.get(family.name, 0.0) + sum(
                            sample.value
                            for sample in family.samples
                            if sample.name.endswith("_total")
                        )
        return totals

    def _look(self, values: Sample, subject: str, pids: Iterable[int]) -> None:
        private = resident = descriptors = threads = cpu = 0.0
        try:
            for pid in pids:
                process = psutil.Process(pid)
                with process.oneshot():
                    private += anonymous_bytes(pid) / _MIB
                    resident += process.memory_info().rss / _MIB
                    descriptors += process.num_fds()
                    threads += process.num_threads()
                    times = process.cpu_times()
                    cpu += times.user + times.system
        except (psutil.Error, OSError):
            return  # one of them is not there just now: no sum
        values[Series(PRIVATE, subject)] = private
        values[Series(RESIDENT, subject)] = resident
        values[Series(DESCRIPTORS, subject)] = descriptors
        values[Series(THREADS, subject)] = threads
        self.cpu_s[subject] = cpu


def _part_queues(values: Sample, subject: str, pid: int | None) -> None:
    """Part the command queues of the media driver from its private memory."""
    private = Series(PRIVATE, subject)
    if pid is None or private not in values:
        return
    try:
        queues = sum(
            own
            for length, own in anonymous_mappings(pid)
            if length >= _QUEUE_BYTES  # neighbours are one mapping
        )
    except OSError:
        del values[private]  # it has just ended
        return
    values[private] -= queues / _MIB
    values[Series(QUEUES, subject)] = queues / _MIB


def _pids(report: HostReport) -> list[tuple[str, int]]:
    children = [(child["name"], child["pid"]) for child in report["processes"]]
    return [("launcher", report["pid"]), *((n, pid) for n, pid in children if pid is not None)]


def anonymous_bytes(pid: int) -> int:
    """The resident memory of a process that belongs to no file.

    Raises:
        OSError: there is no such process.
    """
    with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as rollup:
        for line in rollup:
            name, _, value = line.partition(":")
            if name == "Anonymous":
                return int(value.split()[0]) * _KIB
    raise ProcessLookupError(f"process {pid} is ending: it has no memory any more")


def anonymous_mappings(pid: int) -> Iterator[tuple[int, int]]:
    """Length, and bytes taken, of each mapping of a process that is of no file.

    Raises:
        OSError: there is no such process.
    """
    length = 0
    with open(f"/proc/{pid}/smaps", encoding="utf-8", errors="replace") as mappings:
        for line in mappings:
            words = line.split()
            if "-" in words[0] and not words[0].endswith(":"):
                begin, end = (int(edge, 16) for edge in words[0].split("-"))
                length = 0 if len(words) > _UNNAMED_WORDS else end - begin
            elif length and words[0] == "Anonymous:":
                yield length, int(words[1]) * _KIB


def find_logs(aeron_dir: str) -> dict[str, Log]:
    """The logs of the media driver in `aeron_dir`, by path."""
    found = {}
    for folder, _, names in os.walk(aeron_dir):
        for name in names:
            if name.endswith(_LOG_SUFFIX):
                path = os.path.join(folder, name)
                with contextlib.suppress(OSError):  # it was deleted meanwhile
                    status = os.lstat(path)
                    found[path] = Log(status.st_blocks * _BLOCK_BYTES, status.st_size)
    return found


def used_bytes(directory: str, *, passing: str | None = None) -> int:
    """What the files below `directory` take, but for those whose names end with `passing`."""
    used = 0
    for folder, _, names in os.walk(directory):
        for name in names:
            if passing is not None and name.endswith(passing):
                continue
            with contextlib.suppress(OSError):  # it was deleted meanwhile
                used += os.lstat(os.path.join(folder, name)).st_blocks * _BLOCK_BYTES
    return used


def count_epochs(namespace_dir: str) -> int:
    """Epoch directories of all streams, those in the making or half deleted included."""
    count = 0
    with contextlib.suppress(OSError), os.scandir(namespace_dir) as streams:
        for stream in streams:
            if stream.is_dir():
                with contextlib.suppress(OSError):
                    count += len(os.listdir(stream.path))
    return count


def active_leases(settings: HostSettings) -> int:
    """Leases that the registry shows as active.

    Raises:
        RegistryError: there is no registry.
    """
    with RegistryReader(settings.shm.registry_path) as registry:
        return registry.active_leases
