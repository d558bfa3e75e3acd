"""The tables that are ours alone: media driver, launcher, metrics, logging; and the root."""

from typing import Annotated, Any

from pydantic import Field

from tensorpool.config.fields import (
    AbsolutePath,
    BindAddress,
    CounterCount,
    Flag,
    IdleStrategy,
    LogLevel,
    Name,
    Port,
    PositiveUint32,
    Threading,
)
from tensorpool.config.metadata import Computed, Environment
from tensorpool.config.models import (
    DriverTable,
    PoliciesTable,
    ProfileTable,
    ShmTable,
    StreamTable,
    SupervisorTable,
    Table,
    _text,
)


def _table(model: type[Table]) -> Any:
    """A table that may be left out: every key then has its default."""
    factory: Any = model
    return Field(default_factory=factory)


class MediaDriverTable(Table):
    """The Aeron media driver that `tensorpool up` starts.

    Untethered, so that a frozen or killed subscriber blocks no publisher for longer than
    the window limit (design §4.1).
    """

    embedded: Flag = Field(
        default=True, description="Start one if none lives in `driver.aeron_dir`."
    )
    threading: Threading = Field("shared", description="Threads of its three agents.")
    tether_subscriptions: Flag = Field(
        default=False, description="Let a stalled subscriber block its stream."
    )
    untethered_window_limit_timeout_ms: PositiveUint32 = Field(
        200, description="A subscriber this long behind the window is taken off."
    )
    untethered_linger_timeout_ms: PositiveUint32 = Field(
        100, description="Time between taking it off and its image going."
    )
    untethered_resting_timeout_ms: PositiveUint32 = Field(
        100, description="Time before it may join again."
    )
    timer_interval_ms: PositiveUint32 = Field(
        50, description="How often the media driver looks at its timers."
    )
    client_liveness_timeout_ms: PositiveUint32 = Field(
        2000, description="An Aeron client silent this long is gone, with its streams."
    )
    publication_unblock_timeout_ms: PositiveUint32 = Field(
        2500, description="A message left half written blocks its stream this long at most."
    )
    term_buffer_sparse_file: Flag = Field(
        default=True, description="Take memory of term buffers when used, not when made."
    )
    max_counters: CounterCount = Field(
        65_536, description="Counters at most; each pair of publication and subscription has one."
    )


class LauncherTable(Table):
    """How `tensorpool up` restarts its children."""

    restart_backoff_initial_ms: PositiveUint32 = Field(
        50, description="Wait before the first restart; doubled for each further one."
    )
    restart_backoff_max_ms: PositiveUint32 = Field(2000, description="Longest wait.")
    crash_loop_restarts: PositiveUint32 = Field(
        10, description="This many restarts within the window end the host."
    )
    crash_loop_window_ms: PositiveUint32 = Field(30_000, description="The window.")
    hang_timeout_ms: PositiveUint32 = Field(
        5000, description="A child without a sign of life this long is killed and restarted."
    )
    idle_strategy: IdleStrategy = Field(
        "backoff",
        description="How media driver, driver and supervisor wait; `busy_spin` takes a core each.",
    )


class MetricsPorts(Table):
    """Port of each process; 0 asks the system for a free one."""

    launcher: Port = Field(0, description="Port of the launcher's metrics and probes.")
    media_driver: Port = Field(0, description="Port of the media driver's metrics.")
    driver: Port = Field(0, description="Port of the driver's metrics.")
    supervisor: Port = Field(0, description="Port of the supervisor's metrics.")
    gc: Port = Field(0, description="Port of the epoch GC's metrics.")


class MetricsTable(Table):
    """Prometheus endpoints, one a process."""

    enabled: Flag = Field(default=False, description="Serve `/metrics`.")
    bind_address: BindAddress = Field("127.0.0.1", description="Address to listen on.")
    discovery_file: Annotated[
        AbsolutePath, Computed("`<base_dir>/tensorpool-<user>/.<namespace>.targets.json`")
    ] = _text("File that lists the ports for Prometheus (`file_sd_configs`).")
    ports: MetricsPorts = _table(MetricsPorts)


class LoggingTable(Table):
    """What is logged."""

    level: Annotated[LogLevel, Environment(("TP_LOG_LEVEL",))] = Field(
        2, description="0 ERROR, 1 WARN, 2 INFO, 3 DEBUG, 4 TRACE."
    )


class HostConfig(Table):
    """The whole configuration of a host's driver."""

    driver: DriverTable = _table(DriverTable)
    shm: ShmTable = _table(ShmTable)
    policies: PoliciesTable = _table(PoliciesTable)
    profiles: dict[Name, ProfileTable] = Field(default_factory=dict)
    streams: dict[Name, StreamTable] = Field(default_factory=dict)
    supervisor: SupervisorTable | None = None
    media_driver: MediaDriverTable = _table(MediaDriverTable)
    launcher: LauncherTable = _table(LauncherTable)
    metrics: MetricsTable = _table(MetricsTable)
    logging: LoggingTable = _table(LoggingTable)
