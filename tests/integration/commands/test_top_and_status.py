"""`tensorpool top`, and what every command does with colours."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
from pathlib import Path

from tensorpool import wire
from tensorpool.aeron.client import Offer
from tensorpool.wire.control import QosConsumer
from tests.integration.host import DEADLINE_S, STREAM, RunningHost
from tests.support import wait_until
from tests.wire_client import WireClient

_COLOUR = re.compile(r"\x1b\[(?:\d+;)*[39][0-7](?:;\d+)*m")


def on_terminal(host: RunningHost, *arguments: str, **variables: str) -> tuple[int, str]:
    """A command's exit status and what it writes to a terminal."""
    terminal, end = pty.openpty()
    environment = {name: v for name, v in host.environment.items() if name != "NO_COLOR"}
    with subprocess.Popen(
        [sys.executable, "-m", "tensorpool", *arguments, "--config", str(host.config)],
        stdin=end,
        stdout=end,
        stderr=end,
        env={**environment, "TERM": "xterm-256color", **variables},
    ) as process:
        os.close(end)
        written = b""
        while True:
            try:
                data = os.read(terminal, 65536)
            except OSError:  # the other end is closed
                break
            if not data:
                break
            written += data
        os.close(terminal)
        return process.wait(DEADLINE_S), written.decode()


def test_top_once(host: RunningHost) -> None:
    done = host.command("top", "--once")
    assert done.status == 0, done
    for text in ("healthy", "media_driver", "cam1", "gap drops", "shared memory"):
        assert text in done.output
    assert "\x1b" not in done.output


def test_top_sums_the_drops_that_consumers_report(host: RunningHost) -> None:
    with (
        WireClient(host.settings) as client,
        subprocess.Popen(
            [
                *(sys.executable, "-m", "tensorpool", "top", "--json", "--interval", "0.1"),
                *("--config", str(host.config)),
            ],
            stdout=subprocess.PIPE,
            text=True,
            env=host.environment,
        ) as top,
    ):
        qos = client.publication(host.settings.driver.qos)

        def said() -> bool:
            return all(
                qos.offer(wire.encode(QosConsumer(STREAM, party, 1, 9, 2, party, 1))) is Offer.SENT
                for party in (1, 2)
            )

        wait_until(said, DEADLINE_S, "a listener")

        def summed() -> bool:
            assert top.stdout is not None
            said()
            rows = json.loads(top.stdout.readline())["qos"] or []
            return any(
                (row["stream_id"], row["reporting"], row["drops_gap"], row["drops_late"])
                == (STREAM, 2, 4, 3)
                for row in rows
            )

        wait_until(summed, DEADLINE_S, "drops")
        top.send_signal(signal.SIGINT)
        assert top.wait(DEADLINE_S) == 0


def test_top_while_nothing_runs(tmp_shm: Path) -> None:
    done = RunningHost(tmp_shm).command("top", "--once", "--interval", "0.1", "--json")
    assert done.status == 2
    found = json.loads(done.output)
    assert found["health"] == "down"
    assert found["qos"] is None


def test_top_on_a_terminal_ends_with_ctrl_c(host: RunningHost) -> None:
    terminal, end = pty.openpty()
    with subprocess.Popen(
        [
            *(sys.executable, "-m", "tensorpool", "top", "--interval", "0.1"),
            *("--config", str(host.config)),
        ],
        stdin=end,
        stdout=end,
        stderr=end,
        env={**host.environment, "TERM": "xterm"},
    ) as process:
        os.close(end)
        written = b""
        while b"shared memory" not in written:
            written += os.read(terminal, 65536)
        process.send_signal(signal.SIGINT)
        try:
            while data := os.read(terminal, 65536):
                written += data
        except OSError:
            pass
        os.close(terminal)
        assert process.wait(DEADLINE_S) == 0
        assert b"Traceback" not in written


def test_colours_on_a_terminal_unless_they_are_not_wanted(tmp_shm: Path) -> None:
    host = RunningHost(tmp_shm)
    for command in (("status",), ("top", "--once", "--interval", "0.1")):
        status, text = on_terminal(host, *command)
        assert status == 2
        assert _COLOUR.search(text), text
        _, plain = on_terminal(host, *command, NO_COLOR="1")
        assert not _COLOUR.search(plain), plain
    assert "\x1b" not in host.command("status").output
