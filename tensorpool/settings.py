"""What a running process needs to know, derived once from the validated configuration.

`tensorpool.config` owns what the user may write (TOML, environment, rules, defaults).
The launcher derives these plain, picklable values from it and hands them to its
children, so that no child imports pydantic or judges a value a second time.
All durations are in nanoseconds, all sizes in bytes, all paths absolute.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

EPOCHS_AHEAD = 2
"""Made ahead of need for a stream: a producer that comes takes one, and its end the other."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An Aeron channel and the stream id on it."""

    channel: str
    stream_id: int


@dataclass(frozen=True, slots=True)
class IdRange:
    """An inclusive range of Aeron stream ids (Driver §11)."""

    first: int
    last: int

    def __contains__(self, stream_id: object) -> bool:
        return isinstance(stream_id, int) and self.first <= stream_id <= self.last

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.first, self.last + 1))

    def __len__(self) -> int:
        return self.last - self.first + 1


@dataclass(frozen=True, slots=True)
class PoolLayout:
    """One payload pool of a profile: `header_nslots` slots of `stride_bytes` each."""

    pool_id: int
    stride_bytes: int


@dataclass(frozen=True, slots=True)
class Profile:
    """The shared-memory layout of a stream. `pools` are sorted by `stride_bytes`."""

    name: str
    header_nslots: int
    pools: tuple[PoolLayout, ...]


@dataclass(frozen=True, slots=True)
class StreamSettings:
    """A statically configured stream (`[streams.<name>]`)."""

    name: str
    stream_id: int
    profile: str


@dataclass(frozen=True, slots=True)
class ShmSettings:
    """Where regions live and with which mode and backing (`[shm]`)."""

    base_dir: str
    namespace: str
    user: str
    require_hugepages: bool
    page_size_bytes: int
    permissions_mode: int
    allowed_base_dirs: tuple[str, ...]

    @property
    def namespace_dir(self) -> str:
        """`<base_dir>/tensorpool-<user>/<namespace>` (Wire §15.21a.3)."""
        return os.path.join(self.base_dir, f"tensorpool-{self.user}", self.namespace)

    @property
    def report_mode(self) -> int:
        """Mode of what one process of ours writes and others only read: registry and reports.

        Clients of the group may write regions; a registry that they could write would let
        any of them forge leases and mislead the epoch GC.
        """
        return self.permissions_mode & ~0o022

    @property
    def registry_path(self) -> str:
        """The lease registry's file, beside the stream directories."""
        return os.path.join(self.namespace_dir, "registry")


@dataclass(frozen=True, slots=True)
class Policies:
    """Leases, epochs and memory (`[policies]`)."""

    allow_dynamic_streams: bool
    default_profile: str
    announce_period_ns: int
    lease_keepalive_interval_ns: int
    lease_expiry_grace_intervals: int
    node_id_reuse_cooldown_ns: int
    prefault_shm: bool
    mlock_shm: bool
    prepare_ahead_max_bytes: int
    epoch_gc_enabled: bool
    epoch_gc_keep: int
    epoch_gc_min_age_ns: int
    epoch_gc_on_startup: bool
    shutdown_timeout_ns: int
    shutdown_token: str = field(repr=False)
    max_leases: int
    max_streams: int

    @property
    def lease_ttl_ns(self) -> int:
        """From one keepalive to expiry: the grace's missed intervals (Driver §4.4)."""
        return self.lease_keepalive_interval_ns * self.lease_expiry_grace_intervals


@dataclass(frozen=True, slots=True)
class DriverSettings:
    """The driver's endpoints and stream-id ranges (`[driver]`)."""

    instance_id: str
    control: Endpoint
    announce: Endpoint
    qos: Endpoint
    metadata: Endpoint
    descriptor: Endpoint
    stream_id_range: IdRange | None
    descriptor_stream_id_range: IdRange | None
    control_stream_id_range: IdRange | None


@dataclass(frozen=True, slots=True)
class PerConsumerStreams:
    """Where per-consumer streams of one kind are allocated from (Wire §10.1.3)."""

    channel: str
    ids: IdRange | None


@dataclass(frozen=True, slots=True)
class SupervisorSettings:
    """The policy engine (`[supervisor]`). `force_mode` 0 means no override."""

    control: Endpoint
    announce: Endpoint
    metadata: Endpoint
    qos: Endpoint
    consumer_capacity: int
    consumer_stale_ns: int
    per_consumer_enabled: bool
    per_consumer_descriptor: PerConsumerStreams
    per_consumer_control: PerConsumerStreams
    force_no_shm: bool
    force_mode: int
    payload_fallback_uri: str


@dataclass(frozen=True, slots=True)
class MediaDriverSettings:
    """The media driver that `tensorpool up` starts (`[media_driver]`).

    `embedded` False never starts one: a live one must be in `aeron_dir`.
    `environment` is what its process is started with (Aeron's `AERON_*` names).
    """

    embedded: bool
    threading: Literal["shared", "dedicated", "shared_network"]
    max_counters: int
    environment: tuple[tuple[str, str], ...]

    @property
    def is_sparse(self) -> bool:
        """Whether term buffers take memory when written, from the writer, not when made."""
        return dict(self.environment).get("AERON_TERM_BUFFER_SPARSE_FILE") == "true"


@dataclass(frozen=True, slots=True)
class LauncherSettings:
    """Restart policy of the children, and how their duty cycles wait (`[launcher]`)."""

    restart_backoff_initial_ns: int
    restart_backoff_max_ns: int
    crash_loop_restarts: int
    crash_loop_window_ns: int
    hang_timeout_ns: int
    idle_strategy: Literal["backoff", "busy_spin"]


@dataclass(frozen=True, slots=True)
class MetricsSettings:
    """Prometheus endpoints (`[metrics]`). Ports by process name; 0 asks for a free one.

    `discovery_file` lists them; empty: a file beside the namespace.
    """

    enabled: bool
    bind_address: str
    discovery_file: str
    ports: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class HostSettings:
    """Everything about one host, as every process of it sees it."""

    aeron_dir: str
    log_level: int
    driver: DriverSettings
    shm: ShmSettings
    policies: Policies
    profiles: tuple[Profile, ...]
    streams: tuple[StreamSettings, ...]
    supervisor: SupervisorSettings | None
    media_driver: MediaDriverSettings
    launcher: LauncherSettings
    metrics: MetricsSettings

    def profile(self, name: str) -> Profile:
        """The profile called `name`.

        Raises:
            KeyError: no such profile; the configuration has already ruled this out for
                every name that it holds.
        """
        for profile in self.profiles:
            if profile.name == name:
                return profile
        raise KeyError(name)

    def is_made_ahead(self, epoch_bytes: int) -> bool:
        """Whether a stream with epochs of this size has its next ones made ahead of need.

        Huge and locked pages are counted out by whoever set them aside, and a refused lock ends
        the driver (Driver §17): there is none of them.
        """
        is_scarce = self.shm.require_hugepages or self.policies.mlock_shm
        return not is_scarce and epoch_bytes <= self.policies.prepare_ahead_max_bytes

    def epochs_ahead(self, epoch_bytes: int) -> int:
        """How many epochs of this size are held ready ahead of need."""
        return EPOCHS_AHEAD if self.is_made_ahead(epoch_bytes) else 0

    def epochs_at_once(self, epoch_bytes: int) -> int:
        """How many epochs of this size a stream has: those kept, one in the making, those ahead."""
        return self.policies.epoch_gc_keep + 1 + self.epochs_ahead(epoch_bytes)
