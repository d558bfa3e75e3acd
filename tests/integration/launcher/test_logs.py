"""The log of a real host: ids on its lines, and peers that try to flood it."""

import json
import os
import shutil
import signal
from typing import Any

import tensorpool
from tensorpool.wire.driver import Role, ShmDriverShutdownRequest, ShutdownReason
from tests.integration.host import DEADLINE_S, STREAM, RunningHost
from tests.support import wait_until
from tests.wire_client import WireClient

FLOOD = 3000


def lines(host: RunningHost, message: str) -> list[Any]:
    """Every whole line of the log with this message."""
    whole = [line for line in host.logged().splitlines(keepends=True) if line.endswith("\n")]
    return [line for line in map(json.loads, whole) if line["message"] == message]


def test_every_line_names_its_process_and_what_it_is_about(host: RunningHost) -> None:
    with tensorpool.connect(host.config) as pool, pool.consumer(STREAM):
        wait_until(lambda: lines(host, "lease attached"), DEADLINE_S, host.logged)
    wait_until(lambda: lines(host, "lease ended"), DEADLINE_S, host.logged)
    for message in ("lease attached", "lease ended"):
        [line] = lines(host, message)
        assert line["process"] == "driver"
        assert line["stream_id"] == STREAM
        assert line["lease_id"]
        assert line["client_id"]
        assert line["role"] == "CONSUMER"
    processes = {json.loads(line)["process"] for line in host.logged().splitlines()}
    assert {"launcher", "driver", "supervisor"} <= processes


def test_peers_cannot_flood_it(host: RunningHost) -> None:
    with WireClient(host.settings) as client:
        for number in range(FLOOD):
            client.send_bytes(b"\x01\x02")
            client.send(ShmDriverShutdownRequest(number, ShutdownReason.ADMIN, b"guess"))
            if number % 100 == 0:
                client.round_trip()
        client.round_trip()
        for _ in range(100):
            client.attach(0xFFFFFFFF, Role.CONSUMER, 0)
    messages = (
        "malformed message on the control stream",
        "shutdown request refused",
        "attach rejected",
    )
    for message in messages:
        found = lines(host, message)
        assert 1 <= len(found) < FLOOD // 50, f"{len(found)} lines of {message}"
    [first, *_] = lines(host, "attach rejected")
    assert first["code"] == "INVALID_PARAMS"
    assert "client_id" in first
    assert "guess" not in host.logged()
    with WireClient(host.settings) as client:

        def told() -> bool:
            client.attach(0xFFFFFFFF, Role.CONSUMER, 0)
            return any("suppressed" in line for line in lines(host, "attach rejected"))

        wait_until(told, DEADLINE_S, "the count of what was kept back")


def test_a_fault_that_lasts_is_told_less_and_less(host: RunningHost) -> None:
    """The stream's directory is taken by a file: no epoch can be made, again and again."""
    wait_until(lambda: lines(host, "epoch in service"), DEADLINE_S, host.logged)
    directory = host.namespace_dir / str(STREAM)
    driver = host.pid_of("driver")
    os.kill(driver, signal.SIGSTOP)  # It would make the directory again before we take its name.
    shutil.rmtree(directory)
    directory.touch()
    os.kill(driver, signal.SIGCONT)
    wait_until(lambda: lines(host, "provisioning failed"), DEADLINE_S, host.logged)
    again = wait_until(
        lambda: [line for line in lines(host, "provisioning failed") if "suppressed" in line],
        DEADLINE_S,
        host.logged,
    )
    assert again[0]["stream_id"] == STREAM
    directory.unlink()
    served = len(lines(host, "epoch in service"))
    wait_until(lambda: len(lines(host, "epoch in service")) > served, DEADLINE_S, host.logged)
