"""One running driver for all conformance cases of a module; each case gets its own session.

Set TENSORPOOL_CONFORMANCE_CONFIG to the configuration file of a driver that runs already,
whoever made it, and the same cases judge that one instead.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from tensorpool.clock import monotonic_ns
from tensorpool.registry import RegistryError, RegistryReader
from tensorpool.settings import HostSettings
from tests.integration.host import running_host
from tests.leftovers import unique_shm_directory
from tests.support import wait_until
from tests.wire_client import WireClient, settings_of

TABLES: dict[str, dict[str, Any] | None] = {
    "driver": {"stream_id_range": "20000-20999"},
    "policies": {
        "announce_period_ms": 100,
        "lease_keepalive_interval_ms": 200,
        "lease_expiry_grace_intervals": 3,
        "node_id_reuse_cooldown_ms": 300,
        "shutdown_timeout_ms": 300,
        "shutdown_token": "open-sesame",
    },
    "supervisor": None,
}


@pytest.fixture(scope="module")
def driver_settings() -> Iterator[HostSettings]:
    """Settings of the driver under judgement."""
    config = os.environ.get("TENSORPOOL_CONFORMANCE_CONFIG")
    if config is not None:
        yield settings_of(config)
        return
    directory = unique_shm_directory()
    try:
        with running_host(directory, TABLES) as host:
            yield host.settings
    finally:
        shutil.rmtree(directory)


@pytest.fixture
def client(driver_settings: HostSettings) -> Iterator[WireClient]:
    """A session of its own; every lease of the case before is over."""
    started_ns = monotonic_ns()
    policies = driver_settings.policies
    # What an implementation that keeps no registry of ours takes to end what nobody keeps alive.
    silence_ns = policies.lease_ttl_ns + 2 * policies.lease_keepalive_interval_ns

    def are_leases_over() -> bool:
        try:
            with RegistryReader(driver_settings.shm.registry_path) as registry:
                return registry.active_leases == 0
        except RegistryError:
            return monotonic_ns() - started_ns > silence_ns

    wait_until(are_leases_over, 30, "the last case's leases to end")
    with WireClient(driver_settings) as wire_client:
        # A request that the last case did not await may lead to a lease after all.
        wire_client.round_trip()
        wait_until(are_leases_over, 30, "the last case's leases to end")
        yield wire_client
