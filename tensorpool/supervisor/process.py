"""The supervisor process: from settings to a duty cycle that turns until told to stop."""

from __future__ import annotations

import logging

from tensorpool import logs
from tensorpool.aeron.idle import DutyCycleIdle
from tensorpool.agent import DutyCycleTracker
from tensorpool.child import LauncherLink, exit_with
from tensorpool.clock import NS_PER_MS
from tensorpool.errors import TensorPoolError
from tensorpool.settings import HostSettings
from tensorpool.supervisor.agent import SupervisorAgent
from tensorpool.supervisor.exposition import samples

ROLE = "supervisor"
_BUSY_PARK_NS = 4 * NS_PER_MS
_QUIET_PARK_NS = 80 * NS_PER_MS
"""Nobody waits for a config as for an attach."""
_log = logging.getLogger(__name__)


def run(settings: HostSettings, link: LauncherLink) -> None:
    """Serve until told to stop. It owns nothing that needs a drain."""
    link.adopt_process()
    logs.configure(ROLE, settings.log_level)
    try:
        _run(settings, link)
    except Exception as error:  # noqa: BLE001 - the launcher judges every end
        if not isinstance(error, TensorPoolError):
            _log.exception("supervisor failed")
        exit_with(error, link)


def _run(settings: HostSettings, link: LauncherLink) -> None:
    if settings.supervisor is None:
        link.not_needed("the configuration has no [supervisor]")
        return
    agent = SupervisorAgent(settings, settings.supervisor)
    link.describe = agent.service.describe
    agent.on_start()
    tracker = DutyCycleTracker()
    try:
        link.serve_metrics(settings.metrics, ROLE, lambda: (*samples(agent), *tracker.samples()))
        idle = DutyCycleIdle(settings.launcher.idle_strategy, _BUSY_PARK_NS, _QUIET_PARK_NS)
        _duty_cycle(agent, link, idle, tracker)
    finally:
        agent.on_close()


def _duty_cycle(
    agent: SupervisorAgent, link: LauncherLink, idle: DutyCycleIdle, tracker: DutyCycleTracker
) -> None:
    has_reported = False
    while not link.stop_requested:
        tracker.start()
        work = agent.do_work()
        tracker.stop()
        if agent.is_connected and not has_reported:
            has_reported = True
            link.ready()
        link.poll(tracker.take_longest_ns())
        if link.reloaded is not None:
            agent.reload(link.reloaded)
            link.reloaded = None
        idle.idle(work)
