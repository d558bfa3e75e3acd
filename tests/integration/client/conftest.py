"""One host for all tests of a module that do not disturb it."""

import shutil
from collections.abc import Iterator

import pytest

import tensorpool
from tests.integration.host import RunningHost, running_host
from tests.leftovers import unique_shm_directory


@pytest.fixture(scope="module")
def calm_host() -> Iterator[RunningHost]:
    """A ready host with the default tables, shared by the tests of a module."""
    directory = unique_shm_directory()
    # The model kills its children more often than a host that is well would lose them.
    tables = {"launcher": {"crash_loop_restarts": 1000}}
    try:
        with running_host(directory, tables) as running:
            yield running
    finally:
        shutil.rmtree(directory)


@pytest.fixture
def pool(calm_host: RunningHost) -> Iterator[tensorpool.Pool]:
    """A connection to the shared host."""
    with tensorpool.connect(calm_host.config) as connected:
        yield connected
