"""The child's side of the launcher: readiness, heartbeats, orders, and dying with the parent.

A child tells the launcher over one pipe that it is ready and that its duty cycle turns;
the launcher tells it to stop or to reload. When the launcher goes, however it ends, the
pipe breaks and the kernel sends SIGTERM.
"""

from __future__ import annotations

import ctypes
import enum
import os
import select
import signal
import sys
from dataclasses import dataclass
from multiprocessing.connection import Connection

from tensorpool.clock import NS_PER_MS, monotonic_ns
from tensorpool.errors import TensorPoolError
from tensorpool.settings import HostSettings

HEARTBEAT_PERIOD_NS = 200 * NS_PER_MS
_PR_SET_PDEATHSIG = 1


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
class Heartbeat:
    """Child to launcher: the duty cycle turned; `lag_ns` is its longest turn since the last."""

    lag_ns: int


@dataclass(frozen=True, slots=True)
class Failed:
    """Child to launcher, before it exits: why, in one line."""

    reason: str
    fatal: bool


@dataclass(frozen=True, slots=True)
class StopHost:
    """Child to launcher: an authorised peer asked the whole host to stop (Driver §4.13)."""

    reason: str


@dataclass(frozen=True, slots=True)
class Stop:
    """Launcher to child: drain and end."""


@dataclass(frozen=True, slots=True)
class Reload:
    """Launcher to child: new settings, already judged as reloadable."""

    settings: HostSettings


class LauncherLink:
    """A child's end of its pipe to the launcher. Never blocks."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._next_heartbeat_ns = 0
        self.stop_requested = False
        self.dump_requested = False
        self.reloaded: HostSettings | None = None

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
        if os.getppid() == 1:
            self.stop_requested = True

    def ready(self, detail: str = "") -> None:
        """Report readiness."""
        self._send(Ready(detail))

    def failed(self, error: BaseException) -> None:
        """Report why this process is about to exit."""
        self._send(Failed(str(error) or repr(error), isinstance(error, FatalError)))

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
                if isinstance(order, Stop):
                    self.stop_requested = True
                elif isinstance(order, Reload):
                    self.reloaded = order.settings
        except (EOFError, OSError):
            self.stop_requested = True
            return
        self._send(Heartbeat(lag_ns))

    def _send(self, message: object) -> None:
        # A launcher that does not read (stopped, swapped) must not stop us.
        if not select.select([], [self._connection], [], 0)[1]:
            return
        try:
            self._connection.send(message)
        except OSError:
            self.stop_requested = True

    def _request_stop(self) -> None:
        self.stop_requested = True

    def _request_dump(self) -> None:
        self.dump_requested = True


def exit_with(error: BaseException, link: LauncherLink) -> None:
    """Report `error` to the launcher and end this process with the matching exit code."""
    link.failed(error)
    sys.exit(ExitCode.FATAL if isinstance(error, FatalError) else ExitCode.CRASHED)
