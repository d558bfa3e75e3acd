"""Mapping a region that the driver announced: contained, of the right size and layout.

Clients map; they never create, truncate or unlink (Driver §2.2, §2.3).
"""

from __future__ import annotations

import mmap
import os

from tensorpool.shm import layout, paths
from tensorpool.shm.backing import backing_of
from tensorpool.shm.errors import RegionError
from tensorpool.shm.superblock import RegionLayout, check_superblock, decode_superblock
from tensorpool.shm.uri import parse_region_uri
from tensorpool.wire.control import RegionType


def region_bytes(expected: RegionLayout) -> int:
    """File size of a region of this layout."""
    if expected.region_type == RegionType.HEADER_RING:
        return layout.header_ring_bytes(expected.nslots)
    return layout.payload_pool_bytes(expected.nslots, expected.stride_bytes)


def check_layout(expected: RegionLayout) -> None:
    """Raises RegionError if no region may have this layout, whatever its superblock says."""
    if not layout.is_power_of_two(expected.nslots):
        raise RegionError(f"{expected.nslots} slots are no power of two")
    if expected.region_type == RegionType.HEADER_RING:
        if expected.slot_bytes != layout.HEADER_SLOT_BYTES:
            raise RegionError(f"header slots of {expected.slot_bytes} bytes, not 256")
    elif expected.stride_bytes == 0 or expected.stride_bytes % layout.STRIDE_ALIGNMENT_BYTES:
        raise RegionError(f"stride {expected.stride_bytes} is no positive multiple of 64")


def map_region(
    uri: str, bases: tuple[str, ...], expected: RegionLayout, *, writable: bool
) -> mmap.mmap:
    """The shared mapping of the region at `uri`, all its checks passed.

    `bases` are canonical base directories (`paths.canonical_bases`). The mapping is as long
    as the region; on hugetlbfs it is rounded up to whole huge pages.

    Raises:
        UriError: `uri` breaks Wire §15.22.
        ContainmentError: its path breaks Wire §15.21a.5.
        RegionError: `expected` is no valid layout, the file is too short, its backing is
            not what the URI requires, or its superblock differs from `expected`.
    """
    region = parse_region_uri(uri)
    try:
        check_layout(expected)
    except RegionError as error:
        raise RegionError(f"{uri}: {error}") from None
    fd = paths.open_contained(region.path, bases, writable=writable)
    try:
        wanted = region_bytes(expected)
        size = os.fstat(fd).st_size
        if size < wanted:
            raise RegionError(f"{region.path}: {size} bytes, the announced layout has {wanted}")
        backing = backing_of(fd)
        if region.require_hugepages and not backing.is_hugetlbfs:
            raise RegionError(
                f"{region.path}: not on hugetlbfs, but its URI says require_hugepages=true"
            )
        if backing.is_hugetlbfs:
            # munmap fails on a part of a huge page, and mmap.close() would not say so.
            wanted += -wanted % backing.page_size_bytes
        access = mmap.PROT_READ | mmap.PROT_WRITE if writable else mmap.PROT_READ
        try:
            mapping = mmap.mmap(fd, wanted, flags=mmap.MAP_SHARED, prot=access)
        except (OSError, ValueError, OverflowError) as error:
            raise RegionError(f"{region.path}: cannot map {wanted} bytes: {error}") from error
    finally:
        os.close(fd)
    try:
        check_superblock(decode_superblock(mapping[: layout.SUPERBLOCK_BYTES]), expected)
    except RegionError as error:
        mapping.close()
        raise RegionError(f"{region.path}: {error}") from None
    return mapping
