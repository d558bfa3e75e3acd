"""What a driver knows of those before it, when files and records of a stream are gone."""

from __future__ import annotations

import shutil
from pathlib import Path

import tensorpool
from tensorpool.driver.recovery import inherit
from tensorpool.registry import RegistryReader
from tests.integration.host import RunningHost, Tables, running_host

TABLES: Tables = {
    "streams": None,
    "supervisor": None,
    "driver": {"stream_id_range": "20000-20999"},
}


def restart(host: RunningHost) -> None:
    host.process.kill()
    host.process.wait()
    host.start()
    host.wait_ready()


def test_epochs_grow_over_a_driver_that_had_nothing_to_do(tmp_shm: Path) -> None:
    with running_host(tmp_shm, TABLES) as host:
        with tensorpool.connect(host.config) as pool, pool.producer(0) as producer:
            stream_id, epoch = producer.stream_id, producer.epoch
        restart(host)  # serves no stream, so that no record is left
        # As the epoch GC does in its time; it may be about it now.
        shutil.rmtree(host.namespace_dir / str(stream_id), ignore_errors=True)
        restart(host)
        assert inherit(host.settings.shm, 0).last_epoch >= epoch
        with RegistryReader(host.settings.shm.registry_path) as registry:
            assert list(registry.streams()) == []
            assert registry.last_epoch >= epoch
        with tensorpool.connect(host.config) as pool, pool.producer(stream_id) as producer:
            assert producer.epoch > epoch
