"""A host on which nothing is as it is by default: each key does what it says.

Other endpoints, a base directory whose name is longer than an error message, huge pages
required where there are none, static streams only, an odd umask.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import tensorpool
from tensorpool import wire
from tensorpool.client import lease_protocol
from tensorpool.settings import Endpoint
from tensorpool.shm.uri import parse_region_uri
from tensorpool.wire.control import QosProducer, ResponseCode
from tensorpool.wire.driver import HugepagesPolicy, Role, ShmAttachResponse
from tests.integration.host import RunningHost, running_host
from tests.leftovers import unique_shm_directory
from tests.support import wait_until
from tests.wire_client import WireClient

ODD = 4711
IPC = "aeron:ipc?term-length="
LONG_PATH_CHARS = 1000
"""Allowed is 1024; with the words around it a diagnostic is longer than it may be."""


@pytest.fixture(scope="module")
def host() -> Iterator[RunningHost]:
    directory = unique_shm_directory()
    base = directory
    while len(str(base)) < LONG_PATH_CHARS:
        base /= "x" * min(LONG_PATH_CHARS - len(str(base)), 200)
    base.parent.mkdir(parents=True)
    tables: dict[str, dict[str, Any] | None] = {
        "driver": {
            "control_channel": IPC + "256k",
            "control_stream_id": 2000,
            "announce_channel": IPC + "512k",
            "announce_stream_id": 2001,
            "qos_channel": IPC + "128k",
            "qos_stream_id": 2200,
            "metadata_stream_id": 2300,
            "stream_id_range": "20000-20999",
        },
        "shm": {
            "base_dir": str(base),
            "namespace": "lab7",
            "require_hugepages": True,
            "page_size_bytes": 2 << 20,
            "permissions_mode": "640",
            "allowed_base_dirs": [str(base), "/elsewhere"],
        },
        "policies": {"allow_dynamic_streams": False, "announce_period_ms": 100},
        "profiles": {
            "odd": {"header_nslots": 4, "payload_pools": [{"pool_id": 9, "stride_bytes": 192}]}
        },
        "streams": {"odd": {"stream_id": ODD, "profile": "odd"}},
        "supervisor": None,
    }
    former = os.umask(0o027)
    try:
        with running_host(directory, tables) as running:
            yield running
    finally:
        os.umask(former)
        shutil.rmtree(directory)


@pytest.fixture
def client(host: RunningHost) -> Iterator[WireClient]:
    with WireClient(host.settings) as wire_client:
        yield wire_client


def attach(client: WireClient, client_id: int) -> ShmAttachResponse:
    return client.attach(ODD, Role.CONSUMER, client_id, require_hugepages=HugepagesPolicy.STANDARD)


@pytest.mark.clause("Driver §4.5-1")
@pytest.mark.config_key("driver.control_channel", "driver.control_stream_id")
@pytest.mark.config_key("driver.announce_channel", "driver.announce_stream_id")
def test_control_and_announces_are_where_the_configuration_says(client: WireClient) -> None:
    driver = client.settings.driver
    assert driver.control == Endpoint(IPC + "256k", 2000)
    assert driver.announce == Endpoint(IPC + "512k", 2001)
    assert attach(client, 21).code == ResponseCode.OK
    assert client.announce(ODD).stream_id == ODD


@pytest.mark.clause("Driver §4.3-6", "Driver §4.3-4", "Driver §4.2-25", "Driver §4.2-26")
@pytest.mark.clause("Driver §4.2-9")
@pytest.mark.config_key("shm.require_hugepages")
@pytest.mark.parametrize("policy", [HugepagesPolicy.UNSPECIFIED, HugepagesPolicy.HUGEPAGES])
def test_unspecified_takes_the_configured_policy_and_a_long_diagnostic_is_cut(
    client: WireClient, policy: int
) -> None:
    answer = client.attach(ODD, Role.CONSUMER, 22, require_hugepages=policy)
    assert answer.code == ResponseCode.REJECTED
    assert "huge pages are required" in answer.error_message
    assert len(answer.error_message.encode()) == 1024


@pytest.mark.clause("Driver §4.3-5", "Wire §15.22-2", "Driver §4.2-23")
def test_standard_pages_are_given_and_the_uris_say_so(client: WireClient) -> None:
    answer = attach(client, 23)
    assert not parse_region_uri(answer.header_region_uri).require_hugepages
    assert all(
        not parse_region_uri(pool.region_uri).require_hugepages for pool in answer.payload_pools
    )


@pytest.mark.clause("Wire §15.21a.3-1", "Wire §15.21a.3-3", "Wire §15.21a.4-1", "Wire §15.10-1")
@pytest.mark.clause("Wire §15.21a.6-1", "Driver §15-1")
@pytest.mark.config_key("shm.base_dir", "shm.namespace", "shm.permissions_mode")
@pytest.mark.config_key("profiles.header_nslots", "profiles.payload_pools")
@pytest.mark.config_key("streams.stream_id", "streams.profile")
def test_files_lie_where_and_are_as_the_configuration_says(client: WireClient) -> None:
    answer = attach(client, 24)
    shm = client.settings.shm
    directory = Path(shm.base_dir, f"tensorpool-{shm.user}", "lab7", str(ODD), str(answer.epoch))
    assert len(shm.base_dir) >= LONG_PATH_CHARS
    assert parse_region_uri(answer.header_region_uri).path == f"{directory}/header.ring"
    assert sorted(entry.name for entry in directory.iterdir()) == ["9.pool", "header.ring"]
    assert {stat.S_IMODE(entry.stat().st_mode) for entry in directory.iterdir()} == {0o640}
    for parent in [directory, *directory.parents][:4]:
        assert parent.stat().st_mode & 0o022 == 0, "nobody else may write"
    assert stat.S_IMODE(directory.stat().st_mode) == 0o2750
    assert (answer.stream_id, answer.header_nslots) == (ODD, 4)
    assert [(p.pool_id, p.stride_bytes) for p in answer.payload_pools] == [(9, 192)]


@pytest.mark.clause("Driver §17-5", "Driver §4.6-4")
@pytest.mark.config_key("policies.allow_dynamic_streams")
def test_without_leave_no_stream_is_made_on_demand(client: WireClient) -> None:
    answer = client.attach(20000, Role.PRODUCER, 25, require_hugepages=HugepagesPolicy.STANDARD)
    assert answer.code == ResponseCode.REJECTED
    assert "policies.allow_dynamic_streams" in answer.error_message


@pytest.mark.clause("Driver §9-1")
@pytest.mark.config_key("driver.qos_channel", "driver.qos_stream_id")
def test_qos_goes_to_its_endpoint(
    host: RunningHost, client: WireClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Our client asks for UNSPECIFIED pages, which this host refuses: ask for standard ones."""
    assert client.settings.driver.qos == Endpoint(IPC + "128k", 2200)
    ear = client.subscription(client.settings.driver.qos)
    found: list[QosProducer] = []
    standard = SimpleNamespace(UNSPECIFIED=HugepagesPolicy.STANDARD)
    monkeypatch.setattr(lease_protocol, "HugepagesPolicy", standard)
    with tensorpool.connect(host.config) as pool, pool.producer(ODD) as camera:
        camera.publish(np.zeros(4, np.uint8))

        def hears_qos() -> bool:
            ear.poll(lambda buffer, _: found.append(wire.decode(buffer)), 10)
            return bool(found)

        wait_until(hears_qos, 10, "QoS")
        assert (found[0].stream_id, found[0].producer_id) == (ODD, camera.client_id)
