"""What a host leaves that was killed whole: the numbers of processes that are no more."""

from __future__ import annotations

import os
import re
import struct
from pathlib import Path

import numpy as np

import tensorpool
from tensorpool.launcher.locks import aeron_lock_path, host_file_path, namespace_lock_path
from tensorpool.registry import RegistryReader
from tests.integration.host import DEADLINE_S, STREAM, RunningHost, running_host
from tests.support import wait_until

CNC_HEADER_BYTES = 128


def test_pids_that_others_have_by_now(tmp_shm: Path) -> None:
    """Each of them is this test's process: alive, and no host. Locks and heartbeats tell."""
    with running_host(tmp_shm) as host:
        with tensorpool.connect(host.config) as pool, pool.producer(STREAM) as camera:
            former = camera.epoch
            pids = _kill_all(host)
        _give_away(host, pids)
        status = host.command("status")
        assert status.status != 0, status
        assert "no `tensorpool up` runs" in status.output, status
        host.start()

        def is_theirs() -> bool:
            report = host.report()
            return report is not None and report["pid"] == host.process.pid

        wait_until(is_theirs, DEADLINE_S, "the new host's account")
        host.wait_ready()
        with (
            tensorpool.connect(host.config) as pool,
            pool.consumer(STREAM) as view,
            pool.producer(STREAM, timeout_s=DEADLINE_S) as camera,
        ):
            assert camera.epoch > former

            def is_heard() -> bool:
                seq = camera.publish(np.zeros(4, np.uint8))
                frame = view.next(0.5)
                return frame is not None and frame.seq == seq

            wait_until(is_heard, DEADLINE_S, "a frame")


def _kill_all(host: RunningHost) -> set[int]:
    tree = host.descendants()
    pids = {host.process.pid, *(process.pid for process in tree)}
    host.process.kill()
    for process in tree:
        process.kill()
    host.process.wait(DEADLINE_S)
    wait_until(lambda: not any(p.is_running() for p in tree), DEADLINE_S, "the end of all")
    return pids


def _give_away(host: RunningHost, pids: set[int]) -> None:
    """Put our own pid wherever one of theirs stands."""
    shm, aeron_dir = host.settings.shm, host.settings.aeron_dir
    ours, changed = str(os.getpid()), 0
    theirs = re.compile(rf"\b({'|'.join(map(str, pids))})\b")
    for path in map(
        Path, (namespace_lock_path(shm), aeron_lock_path(aeron_dir), host_file_path(shm))
    ):
        text, count = theirs.subn(ours, path.read_text())
        path.write_text(text)
        changed += count
    with RegistryReader(shm.registry_path) as registry:
        writer = registry.writer.pid
    assert writer in pids
    changed += _replace(
        Path(shm.registry_path), struct.pack("<I", writer), struct.pack("<I", os.getpid()), 4096
    )
    with RegistryReader(shm.registry_path) as registry:
        assert registry.writer.pid == os.getpid(), "changed, and not damaged"
    media_driver = {struct.pack("<q", pid) for pid in pids}
    for octets in media_driver:
        changed += _replace(
            Path(aeron_dir, "cnc.dat"), octets, struct.pack("<q", os.getpid()), CNC_HEADER_BYTES
        )
    assert changed >= len(pids)


def _replace(path: Path, former: bytes, octets: bytes, within: int) -> int:
    with path.open("r+b") as file:
        head = file.read(within)
        file.seek(0)
        file.write(head.replace(former, octets))
        return head.count(former)
