"""The launcher: one loop over the children's pipes and ends, signals, and deadlines.

Nothing polls and nothing sleeps: the loop waits on every pipe, every process and the
signal queue at once, until the next deadline.
"""

from __future__ import annotations

import enum
import logging
import os
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing import connection, resource_tracker

from tensorpool import logs, metrics
from tensorpool.child import NotNeeded, Ready, StopHost
from tensorpool.clock import NS_PER_MS, NS_PER_S, monotonic_ns
from tensorpool.errors import HostError, TensorPoolError
from tensorpool.launcher.child_main import InheritedFd
from tensorpool.launcher.child_process import ChildProcess, Ended, Message, Stopping, Waiting
from tensorpool.launcher.discovery import TargetsFile
from tensorpool.launcher.exits import Exit, ExitKind
from tensorpool.launcher.exposition import samples
from tensorpool.launcher.host_file import VERSION, HostFile, HostReport
from tensorpool.launcher.locks import take_locks
from tensorpool.launcher.memory import check_memory
from tensorpool.launcher.probes import Probes
from tensorpool.launcher.processes import DRAIN_ORDER, roles
from tensorpool.launcher.reload import HostConfiguration, changed_keys, refused_keys
from tensorpool.launcher.signals import SignalQueue, reap_orphans
from tensorpool.launcher.systemd import ServiceManager
from tensorpool.pid_namespace import own_pid_namespace

_REPORT_PERIOD_NS = NS_PER_S
_HURRY_NS = NS_PER_S
_log = logging.getLogger(__name__)


class HostState(enum.Enum):
    """The host as a whole."""

    STARTING = "starting"
    READY = "ready"
    DEGRADED = "degraded"
    DRAINING = "draining"


@dataclass(frozen=True, slots=True)
class HostHooks:
    """What the launcher asks of the command that runs it.

    Attributes:
        on_ready: called when the host is ready for the first time.
        load: reads the configuration anew; raises ConfigError.
    """

    on_ready: Callable[[], None]
    load: Callable[[], HostConfiguration]


class Host:
    """A host's process tree.

    Args:
        config: what to run.
        lock_fds: descriptors of the host's locks, which every child holds with us.
        signals: entered already.
        manager: who started us.
        hooks: see there.
    """

    def __init__(
        self,
        config: HostConfiguration,
        lock_fds: tuple[int, ...],
        signals: SignalQueue,
        manager: ServiceManager,
        hooks: HostHooks,
    ) -> None:
        settings = config.settings
        locks = tuple(InheritedFd(fd) for fd in lock_fds)
        self.children = [ChildProcess(role, settings, locks) for role in roles(settings)]
        self.state = HostState.STARTING
        self._config = config
        self._signals = signals
        self._manager = manager
        self._hooks = hooks
        self._failure: str | None = None
        self._metrics_url: str | None = None
        self._file = HostFile(settings.shm)
        self._targets = TargetsFile(settings)
        self._probes = Probes(self.children, settings.shm)
        self._started_at = time.time()
        self._next_report_ns = 0
        self._next_watchdog_ns = 0
        self._reported: list[object] = []

    def run(self) -> None:
        """Start every child, keep them running, and drain when told to.

        Raises:
            HostError: a child's fault that no restart cures, a crash loop, or a drain that
                had to be ended by force. Every process is gone by then.
        """
        # It unblocks signals when it starts; so before ours are blocked for a spawn.
        resource_tracker.ensure_running()
        self._serve_metrics()
        try:
            for child in self.children:
                self._start(child)
            while not self._is_over:
                self._turn()
        finally:
            self._kill_all()
            self._file.remove()
            self._targets.remove()
        if self._failure is not None:
            raise HostError(self._failure)

    def _serve_metrics(self) -> None:
        settings = self._config.settings
        self._metrics_url = metrics.serve(
            settings.metrics,
            "launcher",
            lambda: samples(self.children, self._probes),
            self._probes.routes(),
        )
        if self._metrics_url is not None:
            self._targets.write({"launcher": self._metrics_url})

    @property
    def _is_over(self) -> bool:
        return self.state is HostState.DRAINING and not any(
            child.is_running for child in self.children
        )

    # -- one turn of the loop -------------------------------------------------------------

    def _turn(self) -> None:
        waitables = [item for child in self.children for item in child.waitables()]
        connection.wait([self._signals.fileno(), *waitables], self._patience_s())
        self._probes.on_turn()
        for number in self._signals.take():
            self._on_signal(number)
        for child in self.children:
            has_ended = child.has_ended  # Asked first, so that its last words are in the pipe.
            for message in child.receive():
                self._on_message(child, message)
            if has_ended:
                self._on_end(child, child.reap())
        if self._signals.is_init:
            reap_orphans({child.pid for child in self.children if child.pid is not None})
        self._keep_time(monotonic_ns())
        self._judge()
        self._report()

    def _patience_s(self) -> float:
        deadlines = [self._next_report_ns]
        deadlines += [due for child in self.children if (due := child.deadline_ns()) is not None]
        if self._manager.watchdog_ns:
            deadlines.append(self._next_watchdog_ns)
        return max(min(deadlines) - monotonic_ns(), 0) / NS_PER_S

    def _keep_time(self, now_ns: int) -> None:
        for child in self.children:
            if isinstance(child.state, Waiting) and now_ns >= child.state.until_ns:
                ended = child.last_exit
                child.restarts_by_kind[ended.kind if ended else ExitKind.ERROR] += 1
                self._start(child)
            elif isinstance(child.state, Stopping) and now_ns >= child.state.deadline_ns:
                self._end_by_force(child)
            elif (why := child.silence(now_ns)) is not None:
                _log.error("child hung", extra={"child": child.name, "pid": child.pid, "why": why})
                child.kill(why)
        if self.state is HostState.DRAINING:
            self._drain_next(now_ns)
        if self._manager.watchdog_ns and now_ns >= self._next_watchdog_ns:
            self._next_watchdog_ns = now_ns + self._manager.watchdog_ns
            self._manager.alive()

    # -- children -------------------------------------------------------------------------

    def _start(self, child: ChildProcess) -> None:
        try:
            child.start()
        except OSError as error:
            self._on_end(child, _not_started(error))
            return
        _log.debug("child started", extra={"child": child.name, "pid": child.pid})

    def _on_message(self, child: ChildProcess, message: Message) -> None:
        match message:
            case Ready(detail):
                _log.info("child ready", extra={"child": child.name, "pid": child.pid})
                _log.debug("child says", extra={"child": child.name, "detail": detail})
            case NotNeeded(detail):
                _log.info("child not needed", extra={"child": child.name, "detail": detail})
            case StopHost(reason):
                self._drain(reason)
            case _:
                pass

    def _on_end(self, child: ChildProcess, ended: Exit) -> None:
        state, now_ns = child.state, monotonic_ns()
        if isinstance(state, Ended) and ended.code == 0:
            return
        if self.state is HostState.DRAINING:
            if ended.code != 0:
                _log.warning("child failed to drain", extra=_why(child, ended))
            child.enter(Ended())
            return
        child.last_exit = ended
        if ended.is_fatal:
            self._fail(child, ended.reason)
            return
        delay_ns = child.policy.delay_ns(now_ns, child.served_ns(now_ns))
        if delay_ns is None:
            launcher = self._config.settings.launcher
            self._fail(
                child,
                f"restarted {launcher.crash_loop_restarts} times within "
                f"{launcher.crash_loop_window_ns / NS_PER_S:g} s and ended again "
                f"({ended.reason}); cure that, or see launcher.crash_loop_restarts",
            )
            return
        restart_in_ms = delay_ns // NS_PER_MS
        _log.warning("child ended", extra=_why(child, ended) | {"restart_in_ms": restart_in_ms})
        child.enter(Waiting(now_ns + delay_ns))

    def _fail(self, child: ChildProcess, reason: str) -> None:
        child.enter(Ended())
        if self._failure is None:
            self._failure = f"{child.name}: {reason}"
        self._drain(f"{child.name} cannot run")

    # -- the end --------------------------------------------------------------------------

    def _drain(self, why: str) -> None:
        if self.state is HostState.DRAINING:
            return
        self.state = HostState.DRAINING
        self._probes.is_draining = True
        _log.info("draining", extra={"why": why})
        self._manager.stopping()
        self._drain_next(monotonic_ns())

    def _drain_next(self, now_ns: int) -> None:
        """Stop the next child when the one before it is gone; those without a process at once."""
        by_name = {child.name: child for child in self.children}
        for name in DRAIN_ORDER:
            child = by_name.get(name)
            if child is None:
                continue
            if not isinstance(child.state, Stopping | Ended):
                child.stop(now_ns + child.role.stop_limit_ns)
            if child.is_running:
                return

    def _hurry(self) -> None:
        _log.warning("draining in a hurry")
        deadline = monotonic_ns() + _HURRY_NS
        for child in self.children:
            if child.is_running:
                child.stop(deadline)

    def _end_by_force(self, child: ChildProcess) -> None:
        _log.error("child did not drain in time; killed", extra={"child": child.name})
        if self._failure is None:
            self._failure = f"{child.name} did not drain in time and was killed"
        child.kill("did not drain in time")
        child.stop(monotonic_ns() + _HURRY_NS)  # until it is gone, which takes a moment

    def _kill_all(self) -> None:
        """Only if the loop itself failed: the children must not outlive it."""
        for child in self.children:
            child.kill("the launcher failed")
        while any(child.is_running for child in self.children):
            connection.wait([item for child in self.children for item in child.waitables()])
            for child in self.children:
                if child.has_ended:
                    child.reap()

    # -- signals --------------------------------------------------------------------------

    def _on_signal(self, number: signal.Signals) -> None:
        match number:
            case signal.SIGINT if self.state is HostState.DRAINING:
                self._hurry()
            case signal.SIGINT | signal.SIGTERM:
                self._drain(number.name)
            case signal.SIGHUP:
                self._reload()
            case signal.SIGUSR1:
                self._dump()
            case _:
                pass

    def _reload(self) -> None:
        self._manager.reloading()
        try:
            self._apply(self._hooks.load())
        except TensorPoolError as error:
            _log.error("reload refused", extra={"why": str(error)})
        self._manager.ready("reloaded")

    def _apply(self, new: HostConfiguration) -> None:
        old = self._config
        refused = refused_keys(old.tables, new.tables)
        if refused:
            _log.error(
                "reload refused: a new start of the host is needed for these keys; nothing changed",
                extra={"keys": ", ".join(refused)},
            )
            return
        check_memory(new.settings)
        self._config = new
        logs.set_level(new.settings.log_level)
        for child in self.children:
            child.reload(new.settings)
        keys = ", ".join(changed_keys(old.tables, new.tables)) or "none"
        _log.info("reloaded", extra={"keys": keys})

    def _dump(self) -> None:
        report = self._account()
        _log.info("state", extra={"host": report["state"], "pid": report["pid"]})
        for process in report["processes"]:
            fields = {key: value for key, value in process.items() if key != "name"}
            _log.info("child state", extra={"child": process["name"], **fields})
        for child in self.children:
            child.dump()

    # -- what others see ------------------------------------------------------------------

    def _judge(self) -> None:
        if self.state is HostState.DRAINING:
            return
        is_ready = all(child.is_satisfied for child in self.children)
        if is_ready and self.state is not HostState.READY:
            is_first = self.state is HostState.STARTING
            self.state = HostState.READY
            self._report()
            self._manager.ready("ready")
            if is_first:
                self._hooks.on_ready()
            else:
                _log.info("ready again")
        elif not is_ready and self.state is HostState.READY:
            self.state = HostState.DEGRADED
            self._manager.status("degraded")

    def _report(self) -> None:
        now_ns = monotonic_ns()
        key = [self.state, *((child.state, child.pid, child.restarts) for child in self.children)]
        if key == self._reported and now_ns < self._next_report_ns:
            return
        try:
            self._file.write(self._account())
        except OSError as error:
            _log.warning("status file not written", extra={"why": str(error)})
        for child in self.children:
            child.take_lag()
        if self._metrics_url is not None:
            self._list_targets(self._metrics_url)
        self._reported = key
        self._next_report_ns = now_ns + _REPORT_PERIOD_NS

    def _list_targets(self, own_url: str) -> None:
        urls = {child.name: child.metrics_url for child in self.children if child.metrics_url}
        try:
            self._targets.write({"launcher": own_url} | urls)
        except HostError as error:
            _log.warning("targets not written", extra={"why": str(error)})

    def _account(self) -> HostReport:
        settings = self._config.settings
        return {
            "version": VERSION,
            "pid": os.getpid(),
            "pid_namespace": own_pid_namespace(),
            "written_ns": monotonic_ns(),
            "state": self.state.value,
            "ready": self.state is HostState.READY,
            "started_at": self._started_at,
            "config": self._config.path,
            "instance_id": settings.driver.instance_id,
            "aeron_dir": settings.aeron_dir,
            "namespace_dir": settings.shm.namespace_dir,
            "metrics": self._metrics_url,
            "processes": [child.report() for child in self.children],
        }


def _not_started(error: OSError) -> Exit:
    return Exit(1, f"cannot be started: {error}", is_fatal=False, kind=ExitKind.NOT_STARTED)


def _why(child: ChildProcess, ended: Exit) -> dict[str, object]:
    return {"child": child.name, "why": ended.reason}


def run_host(config: HostConfiguration, environ: Mapping[str, str], hooks: HostHooks) -> None:
    """Run a host until it is told to stop.

    Raises:
        ConfigError: the cgroup's memory limit is below what the host needs to start.
        HostError: it is refused (a lock, a directory), or see `Host.run`.
    """
    check_memory(config.settings)
    locks = take_locks(config.settings)
    try:
        with SignalQueue() as signals:
            lock_fds = tuple(lock.fd for lock in locks)
            Host(config, lock_fds, signals, ServiceManager(environ), hooks).run()
    finally:
        for lock in reversed(locks):
            lock.release()
