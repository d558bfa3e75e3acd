"""The epoch GC process: from settings to a duty cycle that turns until told to stop."""

from __future__ import annotations

import logging
import time

from tensorpool import logs
from tensorpool.agent import DutyCycleTracker
from tensorpool.child import LauncherLink, exit_with
from tensorpool.clock import NS_PER_S, monotonic_ns
from tensorpool.errors import TensorPoolError
from tensorpool.gc.agent import GcAgent
from tensorpool.gc.exposition import samples
from tensorpool.registry import DriverState
from tensorpool.settings import HostSettings

ROLE = "gc"
_PERIOD_S = 0.08
"""How often it looks at the registry: the most that a driver short of space waits."""
_STOP_WAIT_NS = NS_PER_S
_log = logging.getLogger(__name__)


def run(settings: HostSettings, link: LauncherLink) -> None:
    """Collect until told to stop; then empty what a clean shutdown of the driver left."""
    link.adopt_process()
    logs.configure(ROLE, settings.log_level)
    try:
        _run(settings, link)
    except Exception as error:  # noqa: BLE001 - the launcher judges every end
        if not isinstance(error, TensorPoolError):
            _log.exception("epoch GC failed")
        exit_with(error, link)


def _run(settings: HostSettings, link: LauncherLink) -> None:
    tracker = DutyCycleTracker()
    agent = GcAgent(settings, on_step=lambda: link.poll(tracker.take_longest_ns()))
    link.describe = agent.describe
    agent.on_start()
    try:
        policies = settings.policies
        namespace_dir = settings.shm.namespace_dir
        link.serve_metrics(
            settings.metrics,
            ROLE,
            lambda: (*samples(agent, namespace_dir), *tracker.samples()),
        )
        link.ready(f"enabled={policies.epoch_gc_enabled} keep={policies.epoch_gc_keep}")
        _duty_cycle(agent, link, tracker)
        _await_driver(agent, link, policies.shutdown_timeout_ns)
        agent.run_final_pass()
    finally:
        agent.on_close()


def _duty_cycle(agent: GcAgent, link: LauncherLink, tracker: DutyCycleTracker) -> None:
    while not link.stop_requested:
        tracker.start()
        work = agent.do_work()
        tracker.stop()
        link.poll(tracker.take_longest_ns())
        if link.reloaded is not None:
            agent.reload(link.reloaded)
            link.reloaded = None
        if not work:
            time.sleep(_PERIOD_S)


def _await_driver(agent: GcAgent, link: LauncherLink, shutdown_timeout_ns: int) -> None:
    """Give a driver that is stopping beside us the time to say that it has.

    The launcher stops the driver first, then nothing is waited for. When the launcher was
    killed, all its children are told to stop at once.
    """
    begin_ns = monotonic_ns()
    while (state := agent.driver_state) is not None:
        waited_ns = monotonic_ns() - begin_ns
        is_stopping = state in {DriverState.DRAINING, DriverState.STOPPED}
        if waited_ns > _STOP_WAIT_NS + (shutdown_timeout_ns if is_stopping else 0):
            return
        link.poll(0)
        time.sleep(_PERIOD_S)
