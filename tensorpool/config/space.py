"""Sizes: what the profiles ask for must fit the file system and an address space."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from tensorpool.config.finding import Finding
from tensorpool.config.models import ProfileTable
from tensorpool.config.operations import HostConfig
from tensorpool.shm.layout import header_ring_bytes, payload_pool_bytes

ADDRESS_SPACE_BYTES = 1 << 47
"""What a process on x86-64 Linux can map."""


def epoch_bytes(profile: ProfileTable) -> int:
    """Bytes of one epoch's region files."""
    return header_ring_bytes(profile.header_nslots) + sum(
        payload_pool_bytes(profile.header_nslots, pool.stride_bytes)
        for pool in profile.payload_pools
    )


def region_files_bytes(nslots: int, strides: Iterable[int], page_bytes: int) -> int:
    """Memory that one epoch's region files take in pages of `page_bytes`."""
    sizes = [header_ring_bytes(nslots), *(payload_pool_bytes(nslots, size) for size in strides)]
    return sum(-(-size // page_bytes) * page_bytes for size in sizes)


def check_space(config: HostConfig, *, fits_host: bool = True) -> Iterator[Finding]:
    """Regions that cannot be mapped, and epochs that can never all be there."""
    yield from _unmappable(config)
    if not fits_host:
        return
    needed = config.policies.epoch_gc_keep * sum(
        epoch_bytes(config.profiles[stream.profile])
        for stream in config.streams.values()
        if stream.profile in config.profiles
    )
    directory = _existing(config.shm.base_dir)
    available = _file_system_bytes(directory)
    if available is not None and needed > available:
        yield Finding(
            ("shm", "base_dir"),
            config.shm.base_dir,
            f"a file system that holds policies.epoch_gc_keep = {config.policies.epoch_gc_keep} "
            f"epochs of every stream: they take {needed} bytes, {directory} has {available}",
            "lower header_nslots or stride_bytes of a profile or epoch_gc_keep, or choose a "
            "larger file system",
            (("profiles",), ("streams",), ("policies", "epoch_gc_keep")),
        )


def _unmappable(config: HostConfig) -> Iterator[Finding]:
    for name, profile in config.profiles.items():
        for index, pool in enumerate(profile.payload_pools):
            size = payload_pool_bytes(profile.header_nslots, pool.stride_bytes)
            if size > ADDRESS_SPACE_BYTES:
                yield Finding(
                    ("profiles", name, "payload_pools", index, "stride_bytes"),
                    pool.stride_bytes,
                    f"a pool that can be mapped: header_nslots * stride_bytes is {size} bytes, "
                    f"an address space {ADDRESS_SPACE_BYTES}",
                    f"lower it or profiles.{name}.header_nslots",
                    (("profiles", name, "header_nslots"),),
                )


def _existing(path: str) -> Path:
    """The directory itself, or the nearest one above it that is there."""
    for candidate in (Path(path), *Path(path).parents):
        # Path.is_dir raises where a directory above may not be searched.
        if os.path.isdir(candidate):
            return candidate
    return Path("/")


def _file_system_bytes(directory: Path) -> int | None:
    """Size of the file system, or None where there is no limit to know."""
    try:
        info = os.statvfs(directory)
    except OSError:
        return None
    return info.f_blocks * info.f_frsize or None
