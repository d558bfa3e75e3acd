"""`tensorpool tail`: what passes, decoded; filters; clean ends."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

import tensorpool
from tensorpool import wire
from tensorpool.aeron.client import Offer
from tensorpool.wire.control import DataSourceMeta, MetaAttribute, QosConsumer
from tensorpool.wire.driver import Role, ShmDriverShutdownRequest, ShutdownReason
from tests.integration.host import DEADLINE_S, STREAM, RunningHost
from tests.support import wait_until
from tests.wire_client import WireClient

SECRET = b"let me in"


class Tail:
    """A running `tensorpool tail --json`, already listening."""

    def __init__(self, process: subprocess.Popen[str], output: Path) -> None:
        self.process = process
        self._output = output

    def lines(self) -> list[Any]:
        """What it wrote so far; a line that is not whole yet is left out."""
        text = self._output.read_text()
        return [json.loads(line) for line in text.splitlines(keepends=True) if line[-1] == "\n"]

    def of(self, type_name: str) -> list[Any]:
        """Fields of the messages of one type."""
        return [line["fields"] for line in self.lines() if line["type"] == type_name]


@contextmanager
def tailing(host: RunningHost, *arguments: str) -> Iterator[Tail]:
    output, errors = host.directory / "tail", host.directory / "tail-errors"
    with (
        output.open("w") as out,
        errors.open("w") as err,
        subprocess.Popen(
            [
                *(sys.executable, "-m", "tensorpool", "tail", "--json", *arguments),
                *("--config", str(host.config)),
            ],
            stdout=out,
            stderr=err,
            text=True,
            env=host.environment,
        ) as process,
    ):
        try:
            wait_until(lambda: "listening" in errors.read_text(), DEADLINE_S, errors.read_text)
            yield Tail(process, output)
        finally:
            process.kill()
            process.wait()
            output.unlink()
            errors.unlink()


def publish(host: RunningHost, count: int = 3) -> None:
    with tensorpool.connect(host.config) as pool, pool.consumer(STREAM), pool.producer(STREAM) as p:
        for _ in range(count):
            p.publish(np.zeros(8, np.uint8))


def test_everything_that_passes(host: RunningHost) -> None:
    with tailing(host) as tail:
        publish(host)
        wait_until(lambda: len(tail.of("FrameDescriptor")) == 3, DEADLINE_S, "descriptors")
        wait_until(lambda: len(tail.of("ShmDetachRequest")) == 2, DEADLINE_S, "the end")
        assert [frame["seq"] for frame in tail.of("FrameDescriptor")] == [0, 1, 2]
        assert {request["stream_id"] for request in tail.of("ShmAttachRequest")} == {STREAM}
        [announce, *_] = tail.of("ShmPoolAnnounce")
        assert [pool["pool_id"] for pool in announce["payload_pools"]] == [1, 2]
        for line in tail.lines():
            assert set(line) == {
                *("time", "kind", "type", "aeron_stream_id", "session_id", "fields")
            }
        kinds = {line["type"]: line["kind"] for line in tail.lines()}
        assert kinds["ShmAttachRequest"] == "control"
        assert kinds["ShmPoolAnnounce"] == "announce"
        assert kinds["FrameDescriptor"] == "descriptor"


def test_filters_by_kind_and_stream(host: RunningHost) -> None:
    with tailing(host, "--kind", "qos", "--kind", "metadata", "--stream", "5") as tail:
        with WireClient(host.settings) as client:
            driver = host.settings.driver
            qos, metadata = client.publication(driver.qos), client.publication(driver.metadata)
            wait_until(lambda: qos.is_connected and metadata.is_connected, DEADLINE_S, "tail")
            for stream_id in (4, 5):
                message = QosConsumer(stream_id, 7, 1, 2, 3, 4, 1)
                wait_until(lambda m=message: sent(qos, m), DEADLINE_S, "qos")  # type: ignore[misc]
            meta = DataSourceMeta(5, 1, 9, (MetaAttribute("k", "raw", b"\x00\xff"),))
            wait_until(lambda: sent(metadata, meta), DEADLINE_S, "metadata")
            publish(host, 1)
            wait_until(lambda: len(tail.lines()) == 2, DEADLINE_S, lambda: str(tail.lines()))
        [heard] = tail.of("QosConsumer")
        assert (heard["stream_id"], heard["drops_gap"], heard["drops_late"]) == (5, 3, 4)
        [meta_heard] = tail.of("DataSourceMeta")
        assert meta_heard["attributes"] == [{"key": "k", "format": "raw", "value": "0x00ff"}]


def sent(publication: Any, message: Any) -> bool:
    return publication.offer(wire.encode(message)) is Offer.SENT


def test_no_token_is_shown_and_garbage_is_named(host: RunningHost) -> None:
    with tailing(host) as tail, WireClient(host.settings) as client:
        client.send(ShmDriverShutdownRequest(1, ShutdownReason.ADMIN, SECRET))
        client.send_bytes(b"\x01\x02")
        wait_until(lambda: tail.of("malformed"), DEADLINE_S, "garbage")
        [request] = tail.of("ShmDriverShutdownRequest")
        assert request["token"] == f"<{len(SECRET)} bytes>"
        assert SECRET.decode() not in json.dumps(tail.lines())


def test_it_ends_after_its_count(host: RunningHost) -> None:
    with tailing(host, "--count", "2", "--kind", "descriptor") as tail:
        publish(host)
        assert tail.process.wait(DEADLINE_S) == 0
        assert len(tail.lines()) == 2


def test_it_ends_with_its_time(host: RunningHost) -> None:
    assert host.command("tail", "--timeout", "0.05").status == 0
    assert host.command("tail", "--timeout", "0.05", "--kind", "qos", "--count", "9").status == 1


def test_ctrl_c_is_a_clean_end(host: RunningHost) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        with tailing(host) as tail:
            tail.process.send_signal(number)
            assert tail.process.wait(DEADLINE_S) == 0


def test_people_read_names(host: RunningHost) -> None:
    with (
        WireClient(host.settings) as client,
        subprocess.Popen(
            [
                *(sys.executable, "-m", "tensorpool", "tail", "--kind", "control", "--count", "2"),
                *("--config", str(host.config)),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=host.environment,
        ) as tail,
    ):
        assert tail.stderr is not None
        assert "listening" in tail.stderr.readline()
        client.attach(STREAM, Role.PRODUCER, 7)
        output, _ = tail.communicate(timeout=DEADLINE_S)
        assert "ShmAttachRequest" in output
        assert "role=PRODUCER" in output
        assert "code=OK" in output


def test_without_a_media_driver(tmp_shm: Path) -> None:
    done = RunningHost(tmp_shm).command("tail")
    assert done.status == 1
    assert "no media driver" in done.errors
