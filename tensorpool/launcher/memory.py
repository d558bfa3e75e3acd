"""Whether a host fits the memory limit of its cgroup, such as that of a container.

Region files and term buffers are pages in memory and count like any other; a limit that is
too small would end in the kernel's killing of the driver, over and over. So a host that
cannot even make its first epochs is refused, and one that may outgrow its limit is warned.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass

from tensorpool.aeron_directory import media_driver_files_bytes
from tensorpool.cgroup import MemoryLimit, memory_limits
from tensorpool.errors import ConfigError
from tensorpool.settings import HostSettings, PerConsumerStreams, Profile

_PROCESS_BYTES = 32 << 20
"""Private memory of one of our processes, with room: 8 to 25 MiB are measured."""
_OTHER_PROCESSES = 2
"""The launcher itself and multiprocessing's resource tracker."""
_COMMAND_QUEUE_BYTES = 128 << 20
"""The ring through which Aeron's media driver has its log buffers made and freed: of fixed length,
and each page of it stays once it was written, by some 80 bytes an attach."""
_REMEDY = (
    "raise the limit (resources.limits.memory of the container, MemoryMax= of the unit), or lower "
    "header_nslots or stride_bytes of a profile, policies.epoch_gc_keep or the number of streams"
)
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class MemoryNeed:
    """What a host takes of its cgroup's limit, in bytes.

    Attributes:
        processes: private memory of all processes, the registry and Aeron's own files.
        command_queue: private memory too, but taken over weeks: of the embedded media driver.
        own_buffers: term buffers of the host's own publications.
        client_buffers: those of clients, as many as `policies.max_leases` and the ranges allow.
            With sparse files they are charged to the clients that write them: 0.
        first_epochs: one epoch of every static stream.
        kept_epochs: of every static stream the epochs that the GC keeps, one in the making, and
            those ahead of need.
        dynamic_epochs: the same for as many dynamic streams as there can be.
        hugepages: all of these epochs, if they are on huge pages. Those are a resource with a
            limit of its own; the three fields above are 0 then.
    """

    processes: int
    command_queue: int
    own_buffers: int
    client_buffers: int
    first_epochs: int
    kept_epochs: int
    dynamic_epochs: int
    hugepages: int

    @property
    def to_start(self) -> int:
        """Below this the host cannot become ready."""
        return self.processes + self.own_buffers + self.first_epochs

    @property
    def to_keep(self) -> int:
        """What it grows to while its static streams are used."""
        private = self.processes + self.command_queue
        return private + self.own_buffers + self.client_buffers + self.kept_epochs

    @property
    def at_most(self) -> int:
        """What it can ever grow to."""
        return self.to_keep + self.dynamic_epochs


def memory_need(settings: HostSettings) -> MemoryNeed:
    """What a host of these settings takes."""
    # Only a host with a limit, and tools, pay for these imports.
    from tensorpool.config.space import region_files_bytes  # noqa: PLC0415
    from tensorpool.launcher.processes import roles  # noqa: PLC0415
    from tensorpool.registry import registry_bytes  # noqa: PLC0415

    policies, shm = settings.policies, settings.shm

    def epoch(profile: Profile, page_bytes: int = shm.page_size_bytes) -> int:
        strides = [pool.stride_bytes for pool in profile.pools]
        return region_files_bytes(profile.header_nslots, strides, page_bytes)

    def all_epochs(profile: Profile) -> int:
        return epoch(profile) * settings.epochs_at_once(epoch(profile, page_bytes=1))

    profiles = [settings.profile(stream.profile) for stream in settings.streams]
    first, kept = sum(map(epoch, profiles)), sum(map(all_epochs, profiles))
    dynamic = _dynamic_streams(settings)
    dynamic_bytes = (
        dynamic * all_epochs(settings.profile(policies.default_profile)) if dynamic else 0
    )
    hugepages = kept + dynamic_bytes if shm.require_hugepages else 0
    own, clients = _term_buffers(settings, len(settings.streams) + dynamic)
    return MemoryNeed(
        processes=(len(roles(settings)) + _OTHER_PROCESSES) * _PROCESS_BYTES
        + media_driver_files_bytes(settings.media_driver.max_counters)
        + registry_bytes(policies.max_streams, policies.max_leases),
        command_queue=_COMMAND_QUEUE_BYTES if settings.media_driver.embedded else 0,
        own_buffers=own,
        client_buffers=clients,
        first_epochs=0 if hugepages else first,
        kept_epochs=0 if hugepages else kept,
        dynamic_epochs=0 if hugepages else dynamic_bytes,
        hugepages=hugepages,
    )


def _dynamic_streams(settings: HostSettings) -> int:
    ids = settings.driver.stream_id_range
    if not settings.policies.allow_dynamic_streams or ids is None:
        return 0
    return min(len(ids), settings.policies.max_streams - len(settings.streams))


def _term_buffers(settings: HostSettings, streams: int) -> tuple[int, int]:
    """Bytes of the host's own publications and of all those that clients can have."""
    if not settings.media_driver.embedded:
        return 0, 0
    from tensorpool.config.channels import log_buffer_bytes  # noqa: PLC0415

    driver, supervisor = settings.driver, settings.supervisor
    own = [driver.control.channel, driver.announce.channel]
    own += [supervisor.control.channel] if supervisor is not None else []
    own_bytes = sum(map(log_buffer_bytes, own))
    if settings.media_driver.is_sparse:
        return own_bytes, 0
    leases = settings.policies.max_leases
    client_bytes = leases * (
        log_buffer_bytes(driver.control.channel) + log_buffer_bytes(driver.qos.channel)
    ) + streams * (
        log_buffer_bytes(driver.descriptor.channel) + log_buffer_bytes(driver.metadata.channel)
    )
    if supervisor is not None and supervisor.per_consumer_enabled:
        for kind in (supervisor.per_consumer_descriptor, supervisor.per_consumer_control):
            consumers = min(_count(kind), supervisor.consumer_capacity)
            client_bytes += consumers * log_buffer_bytes(kind.channel)
    return own_bytes, client_bytes


def _count(kind: PerConsumerStreams) -> int:
    return len(kind.ids) if kind.ids is not None else 0


def check_memory(settings: HostSettings, limits: Iterable[MemoryLimit] | None = None) -> None:
    """Compare the host's need with `limits`, by default those of this process.

    Raises:
        ConfigError: its first epochs cannot fit. Less than it may grow to is a warning.
    """
    tightest = min(
        memory_limits() if limits is None else limits,
        key=lambda limit: limit.limit_bytes,
        default=None,
    )
    if tightest is None:
        return
    need = memory_need(settings)
    limit = f"the memory limit is {_mib(tightest.limit_bytes)} ({tightest.path})"
    if need.to_start > tightest.limit_bytes:
        raise ConfigError(
            f"{limit}, and this host cannot start with less than {_mib(need.to_start)}: "
            f"{_mib(need.first_epochs)} for the first epoch of each static stream, "
            f"{_mib(need.own_buffers)} of term buffers, {_mib(need.processes)} for processes; it "
            f"takes {_mib(need.to_keep)} in use, {_mib(need.at_most)} with all dynamic streams; "
            f"{_REMEDY}"
        )
    if need.to_keep > tightest.limit_bytes:
        _log.warning(
            "memory limit too small for what this host keeps",
            extra={
                "limit_bytes": tightest.limit_bytes,
                "file": tightest.path,
                "needed_bytes": need.to_keep,
                "kept_epochs_bytes": need.kept_epochs,
                "term_buffer_bytes": need.own_buffers + need.client_buffers,
                "process_bytes": need.processes + need.command_queue,
                "remedy": _REMEDY,
            },
        )


def _mib(size: int) -> str:
    return f"{size / (1 << 20):.1f} MiB"
