"""What a host takes of a memory limit, and what becomes of one that is too small."""

from __future__ import annotations

import dataclasses
import logging
from typing import Any

import pytest

from tensorpool.cgroup import MemoryLimit
from tensorpool.config import to_settings
from tensorpool.config.channels import log_buffer_bytes
from tensorpool.config.load import validate
from tensorpool.errors import ConfigError
from tensorpool.launcher.memory import check_memory, memory_need
from tensorpool.settings import EPOCHS_AHEAD, HostSettings

MIB = 1 << 20


def settings(**tables: dict[str, Any]) -> HostSettings:
    document: dict[str, Any] = {
        "profiles": {
            "default": {
                "header_nslots": 16,
                "payload_pools": [{"pool_id": 1, "stride_bytes": MIB}],
            }
        },
        "streams": {"cam1": {"stream_id": 1, "profile": "default"}},
    }
    return to_settings(validate(document | tables, {}).config)


def limit(size: int) -> list[MemoryLimit]:
    return [MemoryLimit("/high/memory.max", 1 << 50, 0), MemoryLimit("/low/memory.max", size, 0)]


EPOCH = 16 * MIB + 4096 + (4096 + 4096)  # the pool and its superblock, the header ring: in pages
RESERVED = {"term_buffer_sparse_file": False}


def test_epochs_count_in_pages_and_one_is_in_the_making() -> None:
    need = memory_need(settings(policies={"epoch_gc_keep": 3}))
    assert need.first_epochs == EPOCH
    assert need.kept_epochs == 4 * EPOCH
    assert need.dynamic_epochs == 0


@pytest.mark.parametrize(
    ("table", "at_once"),
    [
        ({"policies": {"prepare_ahead_max_bytes": 17 * MIB}}, 3 + EPOCHS_AHEAD),
        ({"policies": {"prepare_ahead_max_bytes": 16 * MIB}}, 3),
        ({"policies": {"prepare_ahead_max_bytes": 17 * MIB, "mlock_shm": True}}, 3),
    ],
)
def test_more_epochs_are_there_where_they_are_made_ahead(
    table: dict[str, dict[str, object]], at_once: int
) -> None:
    assert memory_need(settings(**table)).kept_epochs == at_once * EPOCH


def test_dynamic_streams_count_as_far_as_they_can_be() -> None:
    policies = {"allow_dynamic_streams": True, "max_streams": 6}
    wide = settings(policies=policies, driver={"stream_id_range": "20000-29999"})
    assert memory_need(wide).dynamic_epochs == 5 * 3 * EPOCH
    narrow = settings(policies=policies, driver={"stream_id_range": "20000-20001"})
    assert memory_need(narrow).dynamic_epochs == 2 * 3 * EPOCH


@pytest.mark.parametrize(
    ("channel", "size"),
    [
        ("aeron:ipc?term-length=4m", 3 * 4 * MIB + 4096),
        ("aeron:ipc?alias=x|term-length=64k", 3 * 65536 + 4096),
        ("aeron:ipc", 3 * 64 * MIB + 4096),
        ("aeron:udp?endpoint=localhost:1", 2 * (3 * 16 * MIB + 4096)),
    ],
)
def test_the_size_of_a_log(channel: str, size: int) -> None:
    assert log_buffer_bytes(channel) == size


def test_sparse_logs_of_clients_are_the_clients() -> None:
    log = log_buffer_bytes("aeron:ipc?term-length=4m")
    sparse = memory_need(settings(policies={"max_leases": 10}))
    assert (sparse.own_buffers, sparse.client_buffers) == (2 * log, 0)
    whole = memory_need(settings(policies={"max_leases": 10}, media_driver=RESERVED))
    # Each lease may be a client's only one: control and QoS. A stream: descriptors, metadata.
    assert whole.client_buffers == (2 * 10 + 2) * log


def test_per_consumer_streams_count_up_to_the_smaller_bound() -> None:
    ranges = {"descriptor_stream_id_range": "31000-31999", "control_stream_id_range": "32000-32003"}
    supervisor = {"per_consumer_enabled": True, "consumer_capacity": 8}
    shared = settings(driver=ranges, media_driver=RESERVED, supervisor={})
    own = settings(driver=ranges, media_driver=RESERVED, supervisor=supervisor)
    more = memory_need(own).client_buffers - memory_need(shared).client_buffers
    assert more == (8 + 4) * log_buffer_bytes("aeron:ipc?term-length=4m")


def test_an_external_media_driver_has_its_own_limit() -> None:
    need = memory_need(settings(media_driver={"embedded": False, **RESERVED}))
    assert (need.command_queue, need.own_buffers, need.client_buffers) == (0, 0, 0)


def test_the_command_queue_counts_though_it_fills_late() -> None:
    need = memory_need(settings())
    assert need.command_queue == 128 * MIB
    assert need.to_start == need.processes + need.own_buffers + EPOCH
    assert need.to_keep == need.to_start + need.command_queue + 2 * EPOCH


def test_huge_pages_are_another_resource() -> None:
    plain = settings()
    shm = dataclasses.replace(plain.shm, require_hugepages=True, page_size_bytes=2 * MIB)
    need = memory_need(dataclasses.replace(plain, shm=shm))
    assert (need.first_epochs, need.kept_epochs) == (0, 0)
    assert need.hugepages == 3 * (16 * MIB + 2 * MIB + 2 * MIB)


def test_without_a_limit_nothing_is_said(caplog: pytest.LogCaptureFixture) -> None:
    check_memory(settings(), [])
    assert not caplog.records


def test_what_cannot_start_is_refused_with_its_figures() -> None:
    need = memory_need(settings())
    with pytest.raises(ConfigError) as refused:
        check_memory(settings(), limit(need.to_start - 1))
    text = str(refused.value)
    assert "/low/memory.max" in text
    for figure in (need.to_start, need.first_epochs, need.to_keep, need.at_most):
        assert f"{figure / MIB:.1f} MiB" in text
    assert "resources.limits.memory" in text
    assert "header_nslots" in text


def test_what_cannot_be_kept_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    need = memory_need(settings())
    with caplog.at_level(logging.WARNING):
        check_memory(settings(), limit(need.to_start))
    (record,) = caplog.records
    assert record.needed_bytes == need.to_keep  # type: ignore[attr-defined]
    caplog.clear()
    check_memory(settings(), limit(need.to_keep))
    assert not caplog.records
