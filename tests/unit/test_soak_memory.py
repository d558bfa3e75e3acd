"""Private memory of a soak's processes: what is of no file, whoever else has mapped the file."""

from __future__ import annotations

import mmap
import os
import tempfile
from pathlib import Path

import pytest

from bench.soak.sampler import anonymous_bytes, anonymous_mappings

SIZE = 16 << 20
NOISE = SIZE // 4


def touch(memory: mmap.mmap) -> None:
    for at in range(0, SIZE, mmap.PAGESIZE):
        memory[at] = 1


def test_pages_of_its_own_are_private_memory() -> None:
    before = anonymous_bytes(os.getpid())
    with mmap.mmap(-1, SIZE, flags=mmap.MAP_PRIVATE) as own:
        touch(own)
        assert abs(anonymous_bytes(os.getpid()) - before - SIZE) < NOISE
    assert abs(anonymous_bytes(os.getpid()) - before) < NOISE


def test_pages_of_a_shared_file_that_nobody_else_has_mapped_are_not() -> None:
    before = anonymous_bytes(os.getpid())
    with tempfile.TemporaryFile(prefix="tp-test-", dir="/dev/shm") as file:
        file.truncate(SIZE)
        with mmap.mmap(file.fileno(), SIZE) as shared:
            touch(shared)
            assert abs(anonymous_bytes(os.getpid()) - before) < NOISE


def test_a_large_mapping_takes_what_was_touched_of_it() -> None:
    with mmap.mmap(-1, SIZE * 16, flags=mmap.MAP_PRIVATE) as own:
        touch(own)
        found = [own for length, own in anonymous_mappings(os.getpid()) if length >= SIZE * 16]
    assert len(found) == 1
    assert SIZE <= found[0] < SIZE * 2


def test_a_mapped_file_is_no_anonymous_mapping() -> None:
    with tempfile.TemporaryFile(prefix="tp-test-", dir="/dev/shm") as file:
        file.truncate(SIZE * 16)
        with mmap.mmap(file.fileno(), SIZE * 16) as shared:
            touch(shared)
            assert all(length < SIZE * 16 for length, _ in anonymous_mappings(os.getpid()))


def test_no_process_no_number() -> None:
    with pytest.raises(OSError, match="smaps_rollup"):
        anonymous_bytes(int(Path("/proc/sys/kernel/pid_max").read_text()) + 1)
