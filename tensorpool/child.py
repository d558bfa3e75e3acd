"""The child's side of the launcher: readiness, heartbeats, orders, and dying with the parent.

A child tells the launcher over one pipe that it is ready and that its duty cycle turns.
The launcher orders: SIGTERM to drain and end, SIGUSR1 to dump its state to the log, and
over the pipe new settings. When the launcher goes, however it ends, the pipe breaks and
the kernel sends SIGTERM.
"""

from __future__ import annotations

import ctypes
import enum
import logging
import os
import select
import signal
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing import parent_process
from multiprocessing.connection import Connection
from typing import NoReturn

from tensorpool import logs, metrics
from tensorpool.clock import NS_PER_MS, monotonic_ns
from tensorpool.errors import HostError, TensorPoolError
from tensorpool.settings import HostSettings, MetricsSettings

HEARTBEAT_PERIOD_NS = 400 * NS_PER_MS
CHILD_SIGNALS = frozenset({signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1})
"""Blocked from the spawn until the child has its handlers, so that none can end it before."""

_PR_SET_PDEATHSIG = 1
_ORPHAN_LIMIT_S = 5
_log = logging.getLogger(__name__)


class ExitCode(enum.IntEnum):
    """How a child ended, as the launcher reads it."""

    OK = 0
    CRASHED = 1
    FATAL = 3
    """A restart cannot help: wrong configuration, no permission, a demanded lock refused."""


class FatalError(TensorPoolError):
    """A fault that no restart of this process can cure; the whole host stops and says why."""


@dataclass(frozen=True, slots=True)
class Ready:
    """Child to launcher, once: it serves. `detail` is for the operator."""

    detail: str = ""


@dataclass(frozen=True, slots=True)
class NotNeeded:
    """Child to launcher, before it exits: somebody else does its job. Then it is not restarted."""

    detail: str


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """Child to launcher: the duty cycle turned; `lag_ns` is its longest turn since the last."""

    lag_ns: int


@dataclass(frozen=True, slots=True)
class Failed:
    """Child to launcher, before it exits: why, in one line."""

    reason: str
    fatal: bool


@dataclass(frozen=True, slots=True)
class MetricsServed:
    """Child to launcher: where its metrics are."""

    url: str


@dataclass(frozen=True, slots=True)
class StopHost:
    """Child to launcher: an authorised peer asked the whole host to stop (Driver §4.13)."""

    reason: str


@dataclass(frozen=True, slots=True)
class Reload:
    """Launcher to child: new settings, already judged as reloadable."""

    settings: HostSettings


class LauncherLink:
    """A child's end of its pipe to the launcher. Never blocks.

    Attributes:
        stop_requested: drain and end.
        reloaded: settings to take over, set back to None by who takes them. The log level
            is taken over here.
        describe: the role's state, flat and short, for the log on SIGUSR1.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._next_heartbeat_ns = 0
        self._is_dump_requested = False
        self._parent_pid = getattr(parent_process(), "pid", None) or os.getppid()
        self.stop_requested = False
        self.reloaded: HostSettings | None = None
        self.describe: Callable[[], Mapping[str, object]] = dict

    def adopt_process(self) -> None:
        """Take over this process: die with the parent, stop on SIGTERM, dump on SIGUSR1.

        SIGINT is the launcher's: Ctrl-C reaches the whole group, and the launcher drains
        its children in order.
        """
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, lambda *_: self._request_stop())
        signal.signal(signal.SIGUSR1, lambda *_: self._request_dump())
        signal.pthread_sigmask(signal.SIG_UNBLOCK, CHILD_SIGNALS)
        if self._is_orphan:  # It went before the kernel knew that we care.
            self._request_stop()

    def ready(self, detail: str = "") -> None:
        """Report readiness."""
        self._send(Ready(detail))

    def not_needed(self, detail: str) -> None:
        """Report that somebody else does this role's job, before ending."""
        self._send(NotNeeded(detail))

    def failed(self, error: BaseException) -> None:
        """Report why this process is about to exit."""
        self._send(Failed(str(error) or repr(error), isinstance(error, FatalError)))

    def serve_metrics(self, settings: MetricsSettings, role: str, collect: metrics.Collect) -> None:
        """Serve this process's metrics, if they are wanted, and report where.

        Raises:
            FatalError: the port is taken; a restart would find it taken again.
        """
        try:
            url = metrics.serve(settings, role, collect)
        except HostError as error:
            raise FatalError(str(error)) from error
        if url is not None:
            self._send(MetricsServed(url))

    def stop_host(self, reason: str) -> None:
        """Ask the launcher to drain and end every process."""
        self._send(StopHost(reason))

    def poll(self, lag_ns: int) -> None:
        """Take orders and beat, at most every `HEARTBEAT_PERIOD_NS`; part of the duty cycle."""
        now = monotonic_ns()
        if now < self._next_heartbeat_ns:
            return
        self._next_heartbeat_ns = now + HEARTBEAT_PERIOD_NS
        try:
            while self._connection.poll():
                order = self._connection.recv()
                if isinstance(order, Reload):
                    logs.set_level(order.settings.log_level)
                    self.reloaded = order.settings
        except (EOFError, OSError):
            self._request_stop()
            return
        # After the orders, one of which may have raised the log level.
        if self._is_dump_requested:
            self._is_dump_requested = False
            _log.info("state", extra={"lag_ns": lag_ns, **self.describe()})
        self._send(Heartbeat(lag_ns))

    @property
    def _is_orphan(self) -> bool:
        return os.getppid() != self._parent_pid

    def _send(self, message: object) -> None:
        # A launcher that does not read (stopped, swapped) must not stop us.
        if not select.select([], [self._connection], [], 0)[1]:
            return
        try:
            self._connection.send(message)
        except OSError:
            self._request_stop()

    def _request_stop(self) -> None:
        if not self.stop_requested and self._is_orphan:
            # Nobody is left to kill a drain that hangs; the kernel's default does.
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(_ORPHAN_LIMIT_S)
        self.stop_requested = True

    def _request_dump(self) -> None:
        self._is_dump_requested = True
        self._next_heartbeat_ns = 0


def exit_with(error: BaseException, link: LauncherLink) -> NoReturn:
    """Report `error` to the launcher and end this process with the matching exit code."""
    link.failed(error)
    sys.exit(ExitCode.FATAL if isinstance(error, FatalError) else ExitCode.CRASHED)
