"""What a client has in use of malloc after lost connections and leases: not a kilobyte more.

In a process of its own without the allocator's caches of threads, whose free pieces would count.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

from tests.integration.host import RunningHost

WARM_UP, ROUNDS = 3, 3
STOP_S = 3.5
"""Longer than a lease lives, and than the media driver waits for a client."""
ALLOWED_BYTES = 2 << 10
STREAMS = range(20001, 20011)

CLIENT = f"""
import sys, time
import tensorpool
from bench.soak.in_use import collect_and_measure

with tensorpool.connect(sys.argv[1]) as pool:
    for number in range(pool.events.maxlen):  # as full as it gets
        pool.events.append(tensorpool.PoolEvent("attached", 1, 2, f"epoch {{number}}"))
    cameras = [pool.producer(number) for number in {list(STREAMS)}]
    views = [pool.consumer(number) for number in {list(STREAMS)}]
    for _ in sys.stdin:
        for camera, view in zip(cameras, views):
            deadline = time.monotonic() + 60
            while True:
                camera.publish(b"frame")
                if view.next(0.2) is not None:
                    break
                assert time.monotonic() < deadline, "no frame came back"
        print(collect_and_measure().malloc_bytes, flush=True)
"""


def test_lost_connections_and_leases_leave_nothing(host: RunningHost) -> None:
    client = subprocess.Popen(
        [sys.executable, "-c", CLIENT, str(host.config)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"GLIBC_TUNABLES": "glibc.malloc.tcache_count=0"},
    )
    assert client.stdin is not None
    assert client.stdout is not None
    try:
        in_use = []
        for _ in range(WARM_UP + ROUNDS):
            print("go", file=client.stdin, flush=True)
            in_use.append(int(client.stdout.readline()))
            client.send_signal(signal.SIGSTOP)
            time.sleep(STOP_S)
            client.send_signal(signal.SIGCONT)
        client.stdin.close()
        assert client.wait(60) == 0
    finally:
        client.kill()
        client.wait()
        client.stdout.close()
    assert max(in_use[WARM_UP:]) - in_use[WARM_UP - 1] < ALLOWED_BYTES, in_use
