"""Offsets of slots, region URIs and canonical paths, as the Wire specification writes them."""

from __future__ import annotations

import pytest

from tensorpool.shm import layout, paths
from tensorpool.shm.superblock import MAGIC
from tensorpool.shm.uri import RegionUri, parse_region_uri


@pytest.mark.clause("Wire §8.1-1")
@pytest.mark.parametrize(("index", "offset"), [(0, 64), (1, 320), (63, 16192)])
def test_header_slot_offset(index: int, offset: int) -> None:
    assert layout.header_slot_offset(index) == offset


@pytest.mark.clause("Wire §9-1")
@pytest.mark.parametrize(
    ("index", "stride", "offset"), [(0, 4096, 64), (1, 4096, 4160), (5, 1048576, 5242944)]
)
def test_payload_slot_offset(index: int, stride: int, offset: int) -> None:
    assert layout.payload_slot_offset(index, stride) == offset


@pytest.mark.clause("Wire §6-1", "Wire §8.1-1", "Wire §9-1")
def test_region_sizes() -> None:
    assert layout.header_ring_bytes(1024) == 262208
    assert layout.payload_pool_bytes(1024, 4096) == 4194368


@pytest.mark.clause("Wire §6-1", "Wire §8.2-1", "Wire §8.2-3")
def test_fixed_sizes() -> None:
    assert layout.SUPERBLOCK_BYTES == 64
    assert layout.HEADER_SLOT_BYTES == 60 + 4 + 192
    assert layout.TENSOR_HEADER_BYTES == 8 + 184
    assert layout.LAYOUT_VERSION == 1


@pytest.mark.clause("Wire §7.1-2")
def test_magic_is_the_number_of_the_specification() -> None:
    """Its rendering as ASCII beside it transposes two letters; the number is what counts."""
    assert MAGIC == 0x544F504C53484D31
    assert MAGIC.to_bytes(8, "little") == b"1MHSLPOT"


@pytest.mark.clause("Wire §15.22-1")
def test_region_uris() -> None:
    plain = "shm:file?path=/mnt/tensorpool-alice/lab1/10000/7/header.ring"
    uri = parse_region_uri(plain)
    assert uri == RegionUri("/mnt/tensorpool-alice/lab1/10000/7/header.ring")
    assert str(uri) == plain + "|require_hugepages=false"
    assert str(RegionUri("/h/1.pool", require_hugepages=True)) == (
        "shm:file?path=/h/1.pool|require_hugepages=true"
    )


@pytest.mark.clause("Wire §15.21a.3-1", "Wire §15.21a.3-4")
def test_canonical_paths() -> None:
    namespace_dir = "/mnt/tensorpool-alice/lab1"
    assert paths.stream_dir(namespace_dir, 10000) == "/mnt/tensorpool-alice/lab1/10000"
    epoch_dir = paths.epoch_dir(namespace_dir, 10000, 2**64 - 1)
    assert epoch_dir == "/mnt/tensorpool-alice/lab1/10000/18446744073709551615"
    assert paths.HEADER_RING_NAME == "header.ring"
    assert paths.pool_file_name(513) == "513.pool"
