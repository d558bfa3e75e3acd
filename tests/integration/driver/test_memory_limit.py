"""The driver and its cgroup's limit: refused is what does not fit, and nobody is killed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import tensorpool
from tests.cgroups import memory_cgroup
from tests.integration.host import STREAM, RunningHost
from tests.support import wait_until

MIB = 1 << 20
LARGE = {"header_nslots": 256, "payload_pools": [{"pool_id": 1, "stride_bytes": 4 * MIB}]}


def test_an_epoch_beyond_the_limit_is_refused_and_the_host_goes_on(tmp_shm: Path) -> None:
    policies = {"allow_dynamic_streams": True, "default_profile": "large"}
    host = RunningHost(tmp_shm, {"policies": policies, "profiles": {"large": LARGE}})
    with memory_cgroup(512 * MIB) as group:
        host.start()
        group.procs.write_text(str(host.process.pid))
        try:
            host.wait_ready()
            with tensorpool.connect(host.config) as pool:
                with pytest.raises(tensorpool.TensorPoolError, match=str(group.limit_file)):
                    pool.producer(20000)
                assert pool.producer(STREAM).epoch
            assert group.kills == 0
            assert host.stop() == 0, host.logged()
        finally:
            host.close()


def test_what_is_left_goes_before_regions_are_made(tmp_shm: Path) -> None:
    host = RunningHost(tmp_shm, {"policies": {"epoch_gc_on_startup": True}})
    left = host.namespace_dir / str(STREAM) / ".staging-5-999999999-1"
    left.mkdir(parents=True)
    for directory in (left, *left.parents):
        if directory == tmp_shm:
            break
        directory.chmod(0o700)
    (left / "header.ring").write_bytes(bytes(4096))
    host.start()
    try:
        host.wait_ready()

        def lines() -> list[dict[str, object]]:
            return [json.loads(line) for line in host.logged().splitlines()]

        def messages() -> list[object]:
            return [line["message"] for line in lines()]

        wait_until(lambda: "epoch in service" in messages(), 20, host.logged)
        assert not left.exists()
        (deleted,) = [line for line in lines() if line["message"] == "epochs deleted"]
        assert deleted["trigger"] == "the driver asked"
        assert messages().index("epochs deleted") < messages().index("epoch in service")
        assert host.stop() == 0, host.logged()
    finally:
        host.close()
