"""One epoch of a stream, mapped: the header ring and the pools of an attach or an announce.

Views of frames keep their mapping alive; it is unmapped when the last of them is gone.
"""

from __future__ import annotations

import mmap
from dataclasses import dataclass

from tensorpool.shm.errors import RegionError
from tensorpool.shm.layout import (
    HEADER_SLOT_BYTES,
    LAYOUT_VERSION,
    SUPERBLOCK_BYTES,
    is_power_of_two,
)
from tensorpool.shm.region import map_region
from tensorpool.shm.superblock import (
    check_superblock,
    decode_superblock,
    header_ring_layout,
    payload_pool_layout,
)
from tensorpool.wire.control import PayloadPool


@dataclass(frozen=True, slots=True)
class EpochRegions:
    """What an attach response or an announce says about a stream's regions."""

    stream_id: int
    epoch: int
    layout_version: int
    header_nslots: int
    header_slot_bytes: int
    header_region_uri: str
    payload_pools: tuple[PayloadPool, ...]

    def check(self) -> None:
        """Raises RegionError if the parameters break Driver §4.2 or Wire §15.5."""
        problem = None
        if self.layout_version != LAYOUT_VERSION:
            problem = f"layout version {self.layout_version}, this client reads {LAYOUT_VERSION}"
        elif self.header_slot_bytes != HEADER_SLOT_BYTES:
            problem = f"header slots of {self.header_slot_bytes} bytes, must be {HEADER_SLOT_BYTES}"
        elif not is_power_of_two(self.header_nslots):
            problem = f"{self.header_nslots} header slots, must be a power of two"
        elif not self.payload_pools:
            problem = "no payload pool"
        elif any(pool.pool_nslots != self.header_nslots for pool in self.payload_pools):
            problem = "a pool's slot count differs from the header ring's"
        elif not all(
            uri.strip()
            for uri in (self.header_region_uri, *(p.region_uri for p in self.payload_pools))
        ):
            problem = "a region URI is missing"
        if problem is not None:
            raise RegionError(f"stream {self.stream_id}, epoch {self.epoch}: {problem}")


@dataclass(frozen=True, slots=True)
class MappedPool:
    """A mapped payload pool."""

    pool_id: int
    stride_bytes: int
    memory: mmap.mmap


class MappedEpoch:
    """The mapped regions of one epoch.

    Attributes:
        ring: the header ring as bytes.
        words: the header ring as 8-byte words, for the commit words.
        pools: sorted by stride, so that the first that fits is the smallest (Wire §9).
        pool_memory: the same as the slots' readers and writers take them.
        mask: `seq & mask` is a slot's index.
        mappings: of every region.

    Raises:
        ShmError: see `map_region`; nothing stays mapped.
    """

    def __init__(self, regions: EpochRegions, bases: tuple[str, ...], *, writable: bool) -> None:
        regions.check()
        self.epoch = regions.epoch
        self.stream_id = regions.stream_id
        self.nslots = regions.header_nslots
        self.mask = regions.header_nslots - 1
        ring = map_region(
            regions.header_region_uri,
            bases,
            header_ring_layout(
                regions.stream_id,
                regions.epoch,
                regions.header_nslots,
                regions.header_slot_bytes,
            ),
            writable=writable,
        )
        self._checked = [(ring, header_ring_layout(*_identity(regions), HEADER_SLOT_BYTES))]
        self.ring = memoryview(ring)
        self.words = self.ring.cast("Q")
        self.pools = sorted(
            (
                MappedPool(
                    pool.pool_id,
                    pool.stride_bytes,
                    map_region(
                        pool.region_uri,
                        bases,
                        payload_pool_layout(
                            regions.stream_id,
                            regions.epoch,
                            pool.pool_nslots,
                            pool.pool_id,
                            pool.stride_bytes,
                        ),
                        writable=writable,
                    ),
                )
                for pool in regions.payload_pools
            ),
            key=lambda pool: pool.stride_bytes,
        )
        self.pool_memory = [(pool.pool_id, pool.stride_bytes, pool.memory) for pool in self.pools]
        self._checked += [
            (
                pool.memory,
                payload_pool_layout(*_identity(regions), pool.pool_id, pool.stride_bytes),
            )
            for pool in self.pools
        ]
        self.mappings = tuple(memory for memory, _ in self._checked)
        self._pids = [
            decode_superblock(memory[:SUPERBLOCK_BYTES]).pid for memory, _ in self._checked
        ]

    def check_again(self) -> None:
        """Raises RegionError if the regions are no longer those that were mapped.

        Another pid is another writer (Wire §15.1, §15.14).
        """
        for (memory, expected), pid in zip(self._checked, self._pids, strict=True):
            superblock = decode_superblock(memory[:SUPERBLOCK_BYTES])
            check_superblock(superblock, expected)
            if superblock.pid != pid:
                raise RegionError(
                    f"stream {self.stream_id}, epoch {self.epoch}: the superblock of process {pid} "
                    f"is now that of process {superblock.pid}"
                )

    def require_whole(self) -> None:
        """Look whether every file is still as long as its mapping.

        To touch what was cut off is a SIGBUS, which no Python program survives; asking first
        turns all but the cut of this very moment into an error (docs/security.md).

        Raises:
            RegionError: somebody who may write a region's file has cut it.
        """
        for memory, _ in self._checked:
            if memory.size() < len(memory):
                raise RegionError(
                    f"stream {self.stream_id}, epoch {self.epoch}: a region's file was cut to "
                    f"{memory.size()} of {len(memory)} bytes underneath its mapping; the driver "
                    "makes new regions within a second"
                )


def _identity(regions: EpochRegions) -> tuple[int, int, int]:
    return regions.stream_id, regions.epoch, regions.header_nslots
