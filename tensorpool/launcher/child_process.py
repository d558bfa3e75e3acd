"""One child of the launcher: its process, its pipe, and the state that it is in."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import select
import signal
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess

from tensorpool.child import (
    CHILD_SIGNALS,
    Failed,
    Heartbeat,
    MetricsServed,
    NotNeeded,
    Ready,
    Reload,
    StopHost,
)
from tensorpool.clock import NS_PER_MS, NS_PER_S, monotonic_ns
from tensorpool.launcher.child_main import InheritedFd, main
from tensorpool.launcher.exits import Exit, ExitKind, explain
from tensorpool.launcher.host_file import ProcessReport
from tensorpool.launcher.processes import Role
from tensorpool.launcher.restart import RestartPolicy
from tensorpool.settings import HostSettings

_START_LIMIT_NS = 30 * NS_PER_S
"""Until its first sign of life: imports from a cold disk on a busy machine."""
_LEAST_HANG_NS = NS_PER_S
"""Five heartbeats: less would kill children for the scheduler's delays."""
_spawn = multiprocessing.get_context("spawn")

type Message = Ready | NotNeeded | Heartbeat | MetricsServed | Failed | StopHost


@dataclass(frozen=True, slots=True)
class Starting:
    """Spawned, not yet ready."""

    name = "starting"


@dataclass(frozen=True, slots=True)
class Serving:
    """It said that it is ready."""

    name = "ready"
    since_ns: int


@dataclass(frozen=True, slots=True)
class Stopping:
    """Told to drain; killed at the deadline."""

    name = "stopping"
    deadline_ns: int


@dataclass(frozen=True, slots=True)
class Waiting:
    """Ended against our will; started again at `until_ns`."""

    name = "restarting"
    until_ns: int


@dataclass(frozen=True, slots=True)
class Ended:
    """No process, and none wanted."""

    name = "ended"
    is_not_needed: bool = False


type ChildState = Starting | Serving | Stopping | Waiting | Ended


class ChildProcess:
    """One child.

    Attributes:
        state: see the state types.
        since: when it entered it (wall clock, seconds), for people.
        restarts_by_kind: how often it was started again, by how it had ended.
        last_exit: how its process last ended against our will.
        lag_ns: its longest duty cycle since `take_lag` was called.
        last_lag_ns: what that call found.
        detail: what it said when it became ready, or why it is not needed.
        metrics_url: where its metrics are; None if they are disabled.
    """

    def __init__(self, role: Role, settings: HostSettings, locks: tuple[InheritedFd, ...]) -> None:
        self.role = role
        self.state: ChildState = Ended()
        self.since = time.time()
        self.restarts_by_kind: Counter[ExitKind] = Counter()
        self.last_exit: Exit | None = None
        self.lag_ns = self.last_lag_ns = 0
        self.detail = ""
        self.metrics_url: str | None = None
        self.policy = RestartPolicy(settings.launcher)
        self._settings = settings
        self._locks = locks
        self._process: SpawnProcess | None = None
        self._connection: Connection | None = None
        self._heard_ns = 0
        self._failed: Failed | None = None
        self._killed_because: str | None = None

    @property
    def name(self) -> str:
        """The role's name."""
        return self.role.name

    @property
    def pid(self) -> int | None:
        """Its process, if there is one."""
        return self._process.pid if self._process is not None else None

    @property
    def is_running(self) -> bool:
        """Whether it has a process that was not yet reaped."""
        return self._process is not None

    @property
    def is_satisfied(self) -> bool:
        """Whether the host can be ready as far as this child goes."""
        return isinstance(self.state, Serving) or (
            isinstance(self.state, Ended) and self.state.is_not_needed
        )

    @property
    def restarts(self) -> int:
        """How often it was started again."""
        return self.restarts_by_kind.total()

    @property
    def silent_ns(self) -> int:
        """How long ago it last gave a sign of life, or was started."""
        return monotonic_ns() - self._heard_ns

    def take_lag(self) -> None:
        """A period of reporting ends: keep its longest duty cycle, begin another."""
        self.last_lag_ns, self.lag_ns = self.lag_ns, 0

    def enter(self, state: ChildState) -> None:
        """Change the state."""
        if state.name != self.state.name:
            self.since = time.time()
        self.state = state

    # -- orders ---------------------------------------------------------------------------

    def start(self) -> None:
        """Spawn the process.

        Raises:
            OSError: the system refuses another process.
        """
        ours, theirs = _spawn.Pipe()
        process = _spawn.Process(
            name=f"tensorpool-{self.name}",
            target=main,
            args=(self.name, self.role.entry, self._settings, theirs, self._locks),
        )
        # The child inherits the mask: no signal ends it before it has its handlers.
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, CHILD_SIGNALS)
        try:
            process.start()
        except BaseException:
            ours.close()
            raise
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
            theirs.close()
        self._process, self._connection = process, ours
        self._heard_ns = monotonic_ns()
        self._failed = self._killed_because = None
        self.detail = ""
        self.enter(Starting())

    def stop(self, deadline_ns: int) -> None:
        """Tell it to drain, at the latest by `deadline_ns`; sooner than before is possible."""
        if self._process is None:
            self.enter(Ended())
            return
        if not isinstance(self.state, Stopping):
            self._signal(signal.SIGTERM)
            # One that is stopped (SIGSTOP) could not obey.
            self._signal(signal.SIGCONT)
        self.enter(Stopping(deadline_ns))

    def kill(self, because: str) -> None:
        """End it at once."""
        self._killed_because = because
        self._signal(signal.SIGKILL)

    def dump(self) -> None:
        """Tell it to write its state to the log."""
        self._signal(signal.SIGUSR1)

    def reload(self, settings: HostSettings) -> None:
        """Give it new settings, now or when it is next started."""
        self._settings = settings
        connection = self._connection
        # A child that does not read must not stop the launcher; its restart reads these.
        if connection is not None and select.select([], [connection], [], 0)[1]:
            with contextlib.suppress(OSError):
                connection.send(Reload(settings))

    def _signal(self, number: signal.Signals) -> None:
        # Not reaped yet, so the number is still this child's.
        if self._process is not None and self._process.pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process.pid, number)

    # -- what it says ---------------------------------------------------------------------

    def waitables(self) -> Iterator[Connection | int]:
        """What to wait on: its pipe and its end."""
        if self._connection is not None:
            yield self._connection
        if self._process is not None:
            yield self._process.sentinel

    def receive(self) -> Iterator[Message]:
        """What it said since the last call; its own bookkeeping is done."""
        connection = self._connection
        while connection is not None:
            try:
                if not connection.poll():
                    return
                message: Message = connection.recv()
            except (EOFError, OSError):
                self._close_connection()
                return
            self._take(message)
            yield message

    def _take(self, message: Message) -> None:
        self._heard_ns = monotonic_ns()
        match message:
            case Heartbeat(lag_ns):
                self.lag_ns = max(self.lag_ns, lag_ns)
            case Ready(detail):
                self.detail = detail
                if isinstance(self.state, Starting):
                    self.enter(Serving(self._heard_ns))
            case NotNeeded(detail):
                self.detail = detail
                if isinstance(self.state, Starting):
                    self.enter(Ended(is_not_needed=True))
            case MetricsServed(url):
                self.metrics_url = url
            case Failed():
                self._failed = message

    @property
    def has_ended(self) -> bool:
        """Whether its process is over; then it is to be reaped after its last words."""
        if self._process is None:
            return False
        self._process.join(0)
        return self._process.exitcode is not None

    def reap(self) -> Exit:
        """Take leave of a process that has ended and whose last words were received."""
        assert self._process is not None
        assert self._process.exitcode is not None
        ended = explain(self._process.exitcode, self._failed, self._killed_because)
        self._process.close()
        self._process = None
        self._close_connection()
        self.lag_ns = 0
        self.metrics_url = None
        return ended

    def _close_connection(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    # -- time -----------------------------------------------------------------------------

    def deadline_ns(self) -> int | None:
        """When something must be done about it if nothing is heard; None: never."""
        if self.is_running and self._killed_because is not None:
            return None  # Its end wakes us.
        match self.state:
            case Waiting(until_ns):
                return until_ns
            case Stopping(deadline_ns):
                return deadline_ns
            case Starting() | Serving():
                return self._heard_ns + self._silence_limit_ns()
            case Ended():
                # One that is not needed is about to end by itself.
                return self._heard_ns + _START_LIMIT_NS if self.is_running else None

    def silence(self, now_ns: int) -> str | None:
        """Why it must be taken for hung, or None."""
        silent_ns = now_ns - self._heard_ns
        if (
            not isinstance(self.state, Starting | Serving | Ended)
            or not self.is_running
            or self._killed_because is not None
            or silent_ns < self._silence_limit_ns()
        ):
            return None
        return f"hung: no sign of life for {silent_ns / NS_PER_S:.1f} s (launcher.hang_timeout_ms)"

    def _silence_limit_ns(self) -> int:
        limit = max(self._settings.launcher.hang_timeout_ns, _LEAST_HANG_NS)
        return limit if isinstance(self.state, Serving) else max(limit, _START_LIMIT_NS)

    def report(self) -> ProcessReport:
        """Its account for other processes."""
        return {
            "name": self.name,
            "pid": self.pid,
            "state": self.state.name,
            "needed": not (isinstance(self.state, Ended) and self.state.is_not_needed),
            "restarts": self.restarts,
            "since": self.since,
            "detail": self.detail,
            "last_exit": self.last_exit.reason if self.last_exit is not None else None,
            "lag_ms": self.lag_ns / NS_PER_MS,
            "metrics": self.metrics_url,
        }

    def served_ns(self, now_ns: int) -> int:
        """How long it has been ready."""
        return now_ns - self.state.since_ns if isinstance(self.state, Serving) else 0
