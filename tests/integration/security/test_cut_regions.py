"""A region's file is cut while processes have it mapped: to touch the lost part is a SIGBUS.

The driver must survive it always, clients wherever they can ask first.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import tensorpool
from tensorpool.client.errors import StaleFrame
from tensorpool.driver.epoch import EpochPlan, provision
from tensorpool.settings import PoolLayout, Profile
from tensorpool.shm.errors import RegionError
from tests.fuzz.files import settings_in
from tests.integration.host import STREAM, RunningHost, running_host
from tests.support import wait_until

PROFILE = Profile("test", 2, (PoolLayout(1, 64),))
DEADLINE_S = 20.0

# Nothing but the driver's part: a signal would end the test run itself.
DRIVER = """
import os, sys
from pathlib import Path
from tensorpool.driver.epoch import EpochPlan, provision
from tests.fuzz.files import settings_in
from tests.integration.security.test_cut_regions import PROFILE, STREAM

shm = settings_in(Path(sys.argv[1])).shm
epoch = provision(EpochPlan(STREAM, 5, PROFILE), shm, prefault=False, mlock=False)
epoch.refresh_activity(1)
assert epoch.is_whole()
os.truncate(os.path.join(epoch.directory, sys.argv[2]), int(sys.argv[3]))
epoch.refresh_activity(2)
assert not epoch.is_whole()
epoch.close()
print("survived")
"""


@pytest.mark.parametrize("name", ["header.ring", "1.pool"])
@pytest.mark.parametrize("size", [0, 1, 63])
def test_the_driver_survives_and_notices(tmp_shm: Path, name: str, size: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, str(tmp_shm), name, str(size)],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    assert done.returncode == 0, f"ended by {signal.Signals(-done.returncode)!r}: {done.stderr}"
    assert done.stdout == "survived\n"


def test_a_cut_superblock_page_is_one_error_not_two(tmp_shm: Path) -> None:
    """The whole of an epoch's regions is refreshed although one of them is lost."""
    shm = settings_in(tmp_shm).shm
    epoch = provision(EpochPlan(STREAM, 5, PROFILE), shm, prefault=False, mlock=False)
    os.truncate(os.path.join(epoch.directory, "header.ring"), 0)
    epoch.refresh_activity(77)
    pool = Path(epoch.directory, "1.pool").read_bytes()
    epoch.close()
    assert pool[56:64] == (77).to_bytes(8, "little")


@pytest.fixture
def quiet_host(tmp_shm: Path) -> Iterator[RunningHost]:
    with running_host(tmp_shm, {"supervisor": None}) as host:
        yield host


def regions_of(host: RunningHost, epoch: int) -> list[Path]:
    return sorted(host.namespace_dir.glob(f"{STREAM}/{epoch}/*"))


def test_clients_get_an_error_and_then_new_regions(quiet_host: RunningHost) -> None:
    host = quiet_host
    driver_pid = host.pid_of("driver")
    image = np.arange(1000, dtype=np.uint16)
    with (
        tensorpool.connect(str(host.config)) as pool,
        pool.consumer(STREAM) as consumer,
        pool.producer(STREAM) as producer,
    ):
        producer.publish(image)
        frame = consumer.next(DEADLINE_S)
        assert frame is not None
        first = producer.epoch
        for path in regions_of(host, first):
            os.truncate(path, 0)
        # What was handed out can still be asked for, and says no.
        with pytest.raises(StaleFrame, match="cut"):
            frame.copy()
        errors = []

        def streams_again() -> bool:
            try:
                producer.publish(image)
            except RegionError as error:
                errors.append(error)
                return False
            received = consumer.next(0.01)
            return received is not None and received.epoch > first

        wait_until(streams_again, DEADLINE_S, "frames of another epoch")
        assert errors, "the producer wrote to regions that are no more"
        assert "was cut" in str(errors[0])
    assert host.pid_of("driver") == driver_pid
    assert host.process_report("driver")["restarts"] == 0


def test_a_consumer_drops_frames_of_regions_that_were_cut(quiet_host: RunningHost) -> None:
    host = quiet_host
    with (
        tensorpool.connect(str(host.config)) as pool,
        pool.consumer(STREAM) as consumer,
        pool.producer(STREAM) as producer,
    ):
        producer.publish(np.zeros(8))
        assert consumer.next(DEADLINE_S) is not None
        producer.publish(np.zeros(8))  # sent, not looked at yet
        for path in regions_of(host, consumer.epoch):
            os.truncate(path, 0)
        wait_until(
            lambda: consumer.next(0.01) is None and consumer.drops_invalid == 1,
            DEADLINE_S,
            "the frame to be dropped",
        )
