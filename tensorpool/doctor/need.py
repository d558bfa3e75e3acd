"""How much a configuration takes at most, derived from the values that the host runs on."""

from __future__ import annotations

import re
from dataclasses import dataclass

from tensorpool.aeron_directory import media_driver_files_bytes
from tensorpool.driver.epoch import EpochPlan
from tensorpool.registry import registry_bytes
from tensorpool.settings import HostSettings, Profile
from tensorpool.shm.region import region_bytes

_TERMS = 3
_LOG_METADATA_BYTES = 4096
_DEFAULT_TERM_BYTES = {"aeron:ipc": 64 << 20, "aeron:udp": 16 << 20}
_TERM_LENGTH = re.compile(r"[?|]term-length=(\d+)([kKmMgG]?)")
_SHIFTS = {"": 0, "k": 10, "m": 20, "g": 30}

_PROCESS_BYTES = 64 << 20
"""Private memory of one Python process of the host, generously."""
_PROCESS_FDS = 64
"""Descriptors of a process without any region: pipes, locks, Aeron's files, metrics."""


@dataclass(frozen=True, slots=True)
class Need:
    """What a host takes at most, its static streams all in use.

    Attributes:
        region_bytes: regions of `epoch_gc_keep` epochs of each static stream, of the one that is
            made before the oldest may go, and of those ahead of need; the registry.
        aeron_bytes: Aeron's own files and term buffers of the host's own publications and of one
            producer and one consumer a static stream.
        process_bytes: private memory of the processes.
        fds: descriptors of the driver, which keeps one for each mapped region.
    """

    region_bytes: int
    aeron_bytes: int
    process_bytes: int
    fds: int

    @property
    def memory_bytes(self) -> int:
        """All of it, as a memory limit counts it: tmpfs pages are charged to their writer."""
        return self.region_bytes + self.aeron_bytes + self.process_bytes


def need_of(settings: HostSettings) -> Need:
    """What a host with these settings takes at most; dynamic streams come on top."""
    policies = settings.policies
    profiles = [settings.profile(stream.profile) for stream in settings.streams]
    epochs = map(epoch_bytes, profiles)
    processes = 5 if settings.supervisor is not None else 4
    return Need(
        region_bytes=sum(nbytes * settings.epochs_at_once(nbytes) for nbytes in epochs)
        + registry_bytes(policies.max_streams, policies.max_leases),
        aeron_bytes=media_driver_files_bytes(settings.media_driver.max_counters)
        + sum(map(log_bytes, _channels(settings))),
        process_bytes=processes * _PROCESS_BYTES,
        fds=_PROCESS_FDS + sum(_epoch_fds(settings, profile) for profile in profiles),
    )


def _epoch_fds(settings: HostSettings, profile: Profile) -> int:
    """Of one stream: one a mapped region, and of an epoch made ahead its directory."""
    ahead = settings.epochs_ahead(epoch_bytes(profile))
    # The one in service, and those ahead or the one that is replacing it.
    return (1 + max(1, ahead)) * (1 + len(profile.pools)) + ahead


def locked_bytes(settings: HostSettings) -> int:
    """What `mlock_shm` locks at most in the driver: two epochs of each static stream."""
    return 2 * sum(epoch_bytes(settings.profile(stream.profile)) for stream in settings.streams)


def epoch_bytes(profile: Profile) -> int:
    """Bytes of one epoch's region files."""
    return EpochPlan(0, 0, profile).total_bytes


def huge_pages(settings: HostSettings, page_bytes: int) -> int:
    """Huge pages that the kept epochs and one more take: each region file has whole ones."""
    one_epoch = sum(
        -(-region_bytes(region) // page_bytes)
        for stream in settings.streams
        for _, region in EpochPlan(0, 0, settings.profile(stream.profile)).region_layouts()
    )
    return (settings.policies.epoch_gc_keep + 1) * one_epoch


def log_bytes(channel: str) -> int:
    """Bytes of the log of one publication on `channel`: three terms and their metadata."""
    match = _TERM_LENGTH.search(channel)
    if match is None:
        term = _DEFAULT_TERM_BYTES.get(channel.partition("?")[0], max(_DEFAULT_TERM_BYTES.values()))
    else:
        term = int(match[1]) << _SHIFTS[match[2].lower()]
    return _TERMS * term + _LOG_METADATA_BYTES


def _channels(settings: HostSettings) -> list[str]:
    """The channel of each publication that is counted."""
    driver = settings.driver
    own = [driver.control.channel, driver.announce.channel]
    if settings.supervisor is not None:
        own.append(settings.supervisor.control.channel)
    producer = [driver.control, driver.descriptor, driver.qos, driver.metadata]
    consumer = [driver.control, driver.qos]
    each = [endpoint.channel for endpoint in (*producer, *consumer)]
    return own + each * len(settings.streams)
