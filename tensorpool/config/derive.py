"""From the validated configuration to the plain values that processes run on."""

import os
import pwd
import re

from tensorpool.aeron_directory import COUNTER_VALUE_BYTES
from tensorpool.config.fields import StreamIdRange
from tensorpool.config.models import SupervisorTable
from tensorpool.config.operations import HostConfig, MediaDriverTable
from tensorpool.settings import (
    DriverSettings,
    Endpoint,
    HostSettings,
    IdRange,
    LauncherSettings,
    MediaDriverSettings,
    MetricsSettings,
    PerConsumerStreams,
    Policies,
    PoolLayout,
    Profile,
    ShmSettings,
    StreamSettings,
    SupervisorSettings,
)

_AERON_BACKOFF = "10-20-1us-4ms"
"""Spins, yields, shortest and longest park."""
_NS_PER_MS = 1_000_000
_NOT_IN_A_USER = re.compile(r"[^A-Za-z0-9._-]")


def to_settings(config: HostConfig) -> HostSettings:
    """The settings of every process of the host that `config`, from `load`, describes."""
    return HostSettings(
        aeron_dir=config.driver.aeron_dir,
        log_level=config.logging.level,
        driver=_driver(config),
        shm=ShmSettings(
            base_dir=config.shm.base_dir,
            namespace=config.shm.namespace,
            user=current_user(),
            require_hugepages=config.shm.require_hugepages,
            page_size_bytes=config.shm.page_size_bytes,
            permissions_mode=config.shm.permissions_mode,
            allowed_base_dirs=tuple(config.shm.allowed_base_dirs),
        ),
        policies=_policies(config),
        profiles=_profiles(config),
        streams=tuple(
            StreamSettings(name, stream.stream_id, stream.profile)
            for name, stream in config.streams.items()
        ),
        supervisor=_supervisor(config.supervisor) if config.supervisor else None,
        media_driver=MediaDriverSettings(
            embedded=config.media_driver.embedded,
            threading=config.media_driver.threading,
            max_counters=config.media_driver.max_counters,
            environment=_aeron_environment(config.media_driver)
            + _aeron_idle(config.launcher.idle_strategy),
        ),
        launcher=LauncherSettings(
            restart_backoff_initial_ns=config.launcher.restart_backoff_initial_ms * _NS_PER_MS,
            restart_backoff_max_ns=config.launcher.restart_backoff_max_ms * _NS_PER_MS,
            crash_loop_restarts=config.launcher.crash_loop_restarts,
            crash_loop_window_ns=config.launcher.crash_loop_window_ms * _NS_PER_MS,
            hang_timeout_ns=config.launcher.hang_timeout_ms * _NS_PER_MS,
            idle_strategy=config.launcher.idle_strategy,
        ),
        metrics=MetricsSettings(
            enabled=config.metrics.enabled,
            bind_address=config.metrics.bind_address,
            discovery_file=config.metrics.discovery_file,
            ports=tuple(config.metrics.ports.model_dump().items()),
        ),
    )


def sanitized_user(name: str) -> str:
    """`name` as one path component that cannot lead anywhere else (Wire §15.21a.3)."""
    safe = _NOT_IN_A_USER.sub("_", name)
    return f"_{safe}" if not safe or safe[0] == "." else safe


def current_user() -> str:
    """The effective user's name, or its number where it has none, sanitized."""
    try:
        name = pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        name = str(os.geteuid())
    return sanitized_user(name)


def _driver(config: HostConfig) -> DriverSettings:
    driver = config.driver
    return DriverSettings(
        instance_id=driver.instance_id,
        control=Endpoint(driver.control_channel, driver.control_stream_id),
        announce=Endpoint(driver.announce_channel, driver.announce_stream_id),
        qos=Endpoint(driver.qos_channel, driver.qos_stream_id),
        metadata=Endpoint(driver.metadata_channel, driver.metadata_stream_id),
        descriptor=Endpoint(driver.descriptor_channel, driver.descriptor_stream_id),
        stream_id_range=_range(driver.stream_id_range),
        descriptor_stream_id_range=_range(driver.descriptor_stream_id_range),
        control_stream_id_range=_range(driver.control_stream_id_range),
    )


def _range(ids: StreamIdRange | None) -> IdRange | None:
    return IdRange(ids.first, ids.last) if ids is not None else None


def _policies(config: HostConfig) -> Policies:
    policies = config.policies
    return Policies(
        allow_dynamic_streams=policies.allow_dynamic_streams,
        default_profile=policies.default_profile,
        announce_period_ns=policies.announce_period_ms * _NS_PER_MS,
        lease_keepalive_interval_ns=policies.lease_keepalive_interval_ms * _NS_PER_MS,
        lease_expiry_grace_intervals=policies.lease_expiry_grace_intervals,
        node_id_reuse_cooldown_ns=policies.node_id_reuse_cooldown_ms * _NS_PER_MS,
        prefault_shm=policies.prefault_shm,
        mlock_shm=policies.mlock_shm,
        prepare_ahead_max_bytes=policies.prepare_ahead_max_bytes,
        epoch_gc_enabled=policies.epoch_gc_enabled,
        epoch_gc_keep=policies.epoch_gc_keep,
        epoch_gc_min_age_ns=policies.epoch_gc_min_age_ns,
        epoch_gc_on_startup=policies.epoch_gc_on_startup,
        shutdown_timeout_ns=policies.shutdown_timeout_ms * _NS_PER_MS,
        shutdown_token=policies.shutdown_token.get_secret_value(),
        max_leases=policies.max_leases,
        max_streams=policies.max_streams,
    )


def _profiles(config: HostConfig) -> tuple[Profile, ...]:
    return tuple(
        Profile(
            name=name,
            header_nslots=profile.header_nslots,
            pools=tuple(
                sorted(
                    (PoolLayout(pool.pool_id, pool.stride_bytes) for pool in profile.payload_pools),
                    key=lambda pool: (pool.stride_bytes, pool.pool_id),
                )
            ),
        )
        for name, profile in config.profiles.items()
    )


def _supervisor(table: SupervisorTable) -> SupervisorSettings:
    return SupervisorSettings(
        control=Endpoint(table.control_channel, table.control_stream_id),
        announce=Endpoint(table.announce_channel, table.announce_stream_id),
        metadata=Endpoint(table.metadata_channel, table.metadata_stream_id),
        qos=Endpoint(table.qos_channel, table.qos_stream_id),
        consumer_capacity=table.consumer_capacity,
        consumer_stale_ns=table.consumer_stale_ms * _NS_PER_MS,
        per_consumer_enabled=table.per_consumer_enabled,
        per_consumer_descriptor=_per_consumer(
            table.per_consumer_descriptor_channel,
            table.per_consumer_descriptor_base,
            table.per_consumer_descriptor_range,
        ),
        per_consumer_control=_per_consumer(
            table.per_consumer_control_channel,
            table.per_consumer_control_base,
            table.per_consumer_control_range,
        ),
        force_no_shm=table.force_no_shm,
        force_mode=table.force_mode,
        payload_fallback_uri=table.payload_fallback_uri,
    )


def _per_consumer(channel: str, base: int, count: int) -> PerConsumerStreams:
    return PerConsumerStreams(channel, IdRange(base, base + count - 1) if count else None)


def _aeron_environment(table: MediaDriverTable) -> tuple[tuple[str, str], ...]:
    """Aeron's own names and formats: durations with a unit, booleans in lower case."""
    flags = {
        "AERON_TETHER_SUBSCRIPTIONS": table.tether_subscriptions,
        "AERON_TERM_BUFFER_SPARSE_FILE": table.term_buffer_sparse_file,
    }
    milliseconds = {
        "AERON_UNTETHERED_WINDOW_LIMIT_TIMEOUT": table.untethered_window_limit_timeout_ms,
        "AERON_UNTETHERED_LINGER_TIMEOUT": table.untethered_linger_timeout_ms,
        "AERON_UNTETHERED_RESTING_TIMEOUT": table.untethered_resting_timeout_ms,
        "AERON_TIMER_INTERVAL": table.timer_interval_ms,
        "AERON_CLIENT_LIVENESS_TIMEOUT": table.client_liveness_timeout_ms,
        "AERON_PUBLICATION_UNBLOCK_TIMEOUT": table.publication_unblock_timeout_ms,
    }
    return (
        *((name, "true" if flag else "false") for name, flag in flags.items()),
        *((name, f"{value}ms") for name, value in milliseconds.items()),
        ("AERON_COUNTERS_BUFFER_LENGTH", str(table.max_counters * COUNTER_VALUE_BYTES)),
    )


def _aeron_idle(strategy: str) -> tuple[tuple[str, str], ...]:
    """How the media driver's threads wait.

    The default parks for 1 ms at most: 1,000 wake-ups a second that move nothing. Over IPC
    the thread answers commands and moves flow-control limits, and the windows of our channels
    hold far more than 4 ms of messages.
    """
    if strategy == "busy_spin":
        return tuple((f"AERON_{agent}_IDLE_STRATEGY", "spin") for agent in ("SHARED", "CONDUCTOR"))
    return tuple(
        (f"AERON_{agent}_IDLE_STRATEGY_INIT_ARGS", _AERON_BACKOFF)
        for agent in ("SHARED", "CONDUCTOR", "SHAREDNETWORK", "SENDER", "RECEIVER")
    )
