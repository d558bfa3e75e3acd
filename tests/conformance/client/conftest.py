"""Our client against a scripted driver: one media driver for all, a driver and a pool a case."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import tensorpool
from tests.children import media_driver
from tests.integration.host import RunningHost, Tables
from tests.leftovers import unique_shm_directory
from tests.scripted_driver import ScriptedDriver

TABLES: Tables = {
    "policies": {
        "announce_period_ms": 500,
        "lease_keepalive_interval_ms": 50,
        "lease_expiry_grace_intervals": 100,
    },
    "supervisor": None,
}


@pytest.fixture(scope="module")
def host() -> Iterator[RunningHost]:
    """A configuration and a media driver; no driver of ours."""
    directory = unique_shm_directory()
    host = RunningHost(directory, TABLES)
    child = media_driver(host.settings)
    try:
        yield host
    finally:
        child.end()
        shutil.rmtree(directory)


@pytest.fixture
def driver(host: RunningHost) -> Iterator[ScriptedDriver]:
    directory = Path(host.settings.shm.base_dir, "scripted")
    directory.mkdir(parents=True)
    with ScriptedDriver(host.settings, directory) as scripted:
        yield scripted
    shutil.rmtree(directory)


@pytest.fixture
def pool(host: RunningHost, driver: ScriptedDriver) -> Iterator[tensorpool.Pool]:
    with tensorpool.connect(host.config) as connected:
        yield connected


type Happened = Callable[[str], list[str]]


@pytest.fixture
def happened(pool: tensorpool.Pool) -> Happened:
    """The details of every event of this name so far."""

    def details(what: str) -> list[str]:
        return [event.detail for event in list(pool.events) if event.what == what]

    return details
