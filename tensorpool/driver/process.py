"""The driver process: from settings to a duty cycle that turns until told to stop."""

from __future__ import annotations

import logging
import os

from tensorpool import logs
from tensorpool.aeron.idle import DutyCycleIdle
from tensorpool.agent import DutyCycleTracker
from tensorpool.child import FatalError, LauncherLink, exit_with
from tensorpool.clock import NS_PER_MS
from tensorpool.driver.agent import DriverAgent
from tensorpool.driver.epoch import LockRefused
from tensorpool.driver.exposition import samples
from tensorpool.driver.provisioning import Provisioner
from tensorpool.driver.recovery import inherit
from tensorpool.driver.service import LeaseService
from tensorpool.errors import HostError, TensorPoolError
from tensorpool.namespace import prepare_namespace
from tensorpool.registry import RegistryWriter
from tensorpool.settings import HostSettings
from tensorpool.wire.driver import ShutdownReason

ROLE = "driver"
_BUSY_PARK_NS = NS_PER_MS
_QUIET_PARK_NS = 8 * NS_PER_MS
_DESERTED_PARK_NS = 40 * NS_PER_MS
"""While nobody has a lease: who comes first waits that long once, and each look of a host at rest
costs far more than it does of a busy one."""
_PROVISIONING_PAUSE_S = 0.2e-3
"""While regions are being made somebody waits for them. Between any two calls of the kernel their
workers need the interpreter, which a cycle takes for 50 us: cycles with no pause in between would
make them ten times as slow."""
_log = logging.getLogger(__name__)


def run(settings: HostSettings, link: LauncherLink) -> None:
    """Serve until told to stop; then drain."""
    link.adopt_process()
    logs.configure(ROLE, settings.log_level)
    try:
        _run(settings, link)
    except LockRefused as error:
        exit_with(FatalError(str(error)), link)
    except Exception as error:  # noqa: BLE001 - the outermost frame reports and ends
        if not isinstance(error, TensorPoolError):
            _log.exception("driver failed")
        exit_with(error, link)


def _run(settings: HostSettings, link: LauncherLink) -> None:
    shm, policies = settings.shm, settings.policies
    os.close(prepare_namespace(shm))
    heritage = inherit(shm, policies.node_id_reuse_cooldown_ns)
    try:
        registry = RegistryWriter(
            shm.registry_path,
            max_streams=policies.max_streams,
            max_leases=policies.max_leases,
            mode=shm.report_mode,
        )
    except OSError as error:
        raise HostError(
            f"registry {shm.registry_path} cannot be made: {error.strerror}; check space and "
            "permissions of its directory"
        ) from error
    provisioner = Provisioner(shm, prefault=policies.prefault_shm, mlock=policies.mlock_shm)
    service = LeaseService(settings, heritage, registry, provisioner)
    agent = DriverAgent(settings, service, registry)
    tracker = DutyCycleTracker()
    try:
        _publish(registry, shm.registry_path)
        link.serve_metrics(
            settings.metrics, ROLE, lambda: (*samples(agent, shm.base_dir), *tracker.samples())
        )
        idle = DutyCycleIdle(
            settings.launcher.idle_strategy, _BUSY_PARK_NS, _QUIET_PARK_NS, _DESERTED_PARK_NS
        )
        _duty_cycle(agent, provisioner, link, idle, tracker)
    finally:
        agent.on_close()
        provisioner.close()
        registry.close()


def _publish(registry: RegistryWriter, path: str) -> None:
    try:
        registry.publish()
    except OSError as error:
        raise HostError(
            f"registry {path} cannot be replaced: {error.strerror}; remove what is there"
        ) from error


def _duty_cycle(
    agent: DriverAgent,
    provisioner: Provisioner,
    link: LauncherLink,
    idle: DutyCycleIdle,
    tracker: DutyCycleTracker,
) -> None:
    has_reported = False
    stats = agent.service.stats
    while not agent.is_done:
        tracker.start()
        keepalives = stats.keepalives
        work = agent.do_work()
        tracker.stop()
        if agent.is_connected and not has_reported:
            has_reported = True
            link.ready(f"streams={len(agent.service.streams)}")
        link.poll(tracker.take_longest_ns())
        if link.stop_requested:
            agent.begin_shutdown(ShutdownReason.NORMAL)
        if link.reloaded is not None:
            agent.reload(link.reloaded)
            link.reloaded = None
        if provisioner.in_flight:
            provisioner.wait(_PROVISIONING_PAUSE_S)
        else:
            # Nobody waits for a keepalive: with thousands of leases one wake-up serves many.
            idle.idle(
                work,
                had_other_work=stats.keepalives != keepalives,
                is_deserted=not len(agent.service.leases),
            )
    if not link.stop_requested and agent.shutdown_reason is not None:
        link.stop_host(f"ShmDriverShutdownRequest, reason {agent.shutdown_reason.name}")
