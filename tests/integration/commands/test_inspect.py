"""`tensorpool inspect` on a real host, and on files that lie about themselves."""

import json
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

import tensorpool
from tests.integration.host import STREAM, RunningHost


class Frames(NamedTuple):
    """A host, and the directory of an epoch in which ten frames were published."""

    host: RunningHost
    epoch: Path


@pytest.fixture
def frames(host: RunningHost) -> Frames:
    with tensorpool.connect(host.config) as pool, pool.producer(STREAM) as producer:
        for number in range(10):
            producer.publish(np.full((4, 6), number, np.uint16))
        return Frames(host, host.namespace_dir / str(STREAM) / str(producer.epoch))


def inspected(host: RunningHost, *arguments: str) -> Any:
    done = host.command("inspect", *arguments, "--json")
    assert done.status == 0, done
    return json.loads(done.output)


def test_a_stream_by_its_id(host: RunningHost) -> None:
    found = inspected(host, str(STREAM))
    assert found["stream_id"] == STREAM
    assert found["newest_seq"] is None
    assert found["slots"] == []
    assert [region["file"] for region in found["regions"]] == ["header.ring", "1.pool", "2.pool"]
    ring, small, large = found["regions"]
    assert (ring["region_type"], ring["nslots"], ring["slot_bytes"]) == ("header_ring", 8, 256)
    assert (small["pool_id"], small["stride_bytes"]) == (1, 4096)
    assert large["stride_bytes"] == 1 << 20
    assert all(region["problem"] is None for region in found["regions"])
    assert all(region["pid"] == host.pid_of("driver") for region in found["regions"])


def test_the_slots_of_a_path(frames: Frames) -> None:
    found = inspected(frames.host, str(frames.epoch), "--slots", "0")
    assert found["committed"] == 8
    assert found["newest_seq"] == 9
    assert [slot["index"] for slot in found["slots"]] == list(range(8))
    assert sorted(slot["seq"] for slot in found["slots"]) == list(range(2, 10))
    for slot in found["slots"]:
        assert (slot["state"], slot["dtype"], slot["shape"]) == ("committed", "uint16", [4, 6])
        assert slot["values_len_bytes"] == 48


def test_the_newest_slots_first_come_last(frames: Frames) -> None:
    found = inspected(frames.host, str(frames.epoch / "header.ring"), "--slots", "2")
    assert [slot["seq"] for slot in found["slots"]] == [8, 9]


def test_one_frame(frames: Frames) -> None:
    frame = inspected(frames.host, str(frames.epoch), "--frame")["frame"]
    assert (frame["seq"], frame["dtype"], frame["shape"]) == (9, "uint16", [4, 6])
    assert (frame["min"], frame["max"], frame["mean"]) == (9, 9, 9.0)
    assert frame["values"] == [[9] * 6] * 4
    assert inspected(frames.host, str(frames.epoch), "--seq", "3")["frame"]["max"] == 3


def test_people_see_it_too(frames: Frames) -> None:
    done = frames.host.command("inspect", str(frames.epoch), "--frame")
    assert done.status == 0
    for text in ("header.ring", "8 frames in the ring, newest seq 9", "4x6", "[[9 9 9"):
        assert text in done.output, done


def read_png(path: Path) -> tuple[tuple[int, ...], bytes]:
    """The header's fields and the unfiltered rows, each chunk's checksum verified."""
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    chunks, at = {}, 8
    while at < len(data):
        (length,) = struct.unpack_from(">I", data, at)
        kind, body = data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        assert struct.unpack_from(">I", data, at + 8 + length) == (zlib.crc32(kind + body),)
        chunks[kind] = body
        at += 12 + length
    return struct.unpack(">IIBBBBB", chunks[b"IHDR"]), zlib.decompress(chunks[b"IDAT"])


def test_a_frame_as_png(frames: Frames) -> None:
    out = frames.host.directory / "frame.png"
    done = frames.host.command("inspect", str(frames.epoch), "--png", str(out))
    assert done.status == 0, done
    assert "6x4" in done.output
    header, rows = read_png(out)
    out.unlink()
    assert header == (6, 4, 16, 0, 0, 0, 0)
    assert rows == (b"\0" + b"\0\x09" * 6) * 4


def test_what_is_not_there(host: RunningHost) -> None:
    for target, text in (
        ("777", "has no epoch"),
        (str(host.directory / "nothing"), "No such file"),
        (str(host.directory), "header.ring"),
    ):
        done = host.command("inspect", target)
        assert done.status == 1, done
        assert text in done.errors
        assert "Traceback" not in done.errors
    done = host.command("inspect", str(STREAM), "--frame")
    assert done.status == 1
    assert "no frame was committed yet" in done.errors


def test_no_symlink_is_followed(frames: Frames) -> None:
    link = frames.host.directory / "link"
    link.symlink_to(frames.epoch)
    assert frames.host.command("inspect", str(link)).status == 1
    link.unlink()
    copy = frames.host.directory / "copy"
    copy.mkdir()
    (copy / "header.ring").symlink_to(frames.epoch / "header.ring")
    assert frames.host.command("inspect", str(copy)).status == 1
    (copy / "header.ring").unlink()


def test_a_truncated_file_is_told_of(frames: Frames) -> None:
    copy = frames.host.directory / "copy"
    copy.mkdir()
    for name in ("header.ring", "1.pool"):
        (copy / name).write_bytes((frames.epoch / name).read_bytes())
    os.truncate(copy / "1.pool", 100)
    found = inspected(frames.host, str(copy))
    assert "its superblock says" in found["regions"][1]["problem"]
    done = frames.host.command("inspect", str(copy), "--frame")
    assert done.status == 1
    assert "truncated" in done.errors
    for name in ("header.ring", "1.pool"):
        (copy / name).unlink()


def test_nothing_is_changed(frames: Frames) -> None:
    directory = frames.epoch
    before = {path.name: path.read_bytes() for path in directory.iterdir()}
    inspected(frames.host, str(directory), "--frame")
    after = {path.name: path.read_bytes() for path in directory.iterdir()}
    # The driver itself tends the superblock of its current epoch only, which this is not.
    assert after == before


def test_a_host_that_is_down(tmp_shm: Path) -> None:
    host = RunningHost(tmp_shm)
    assert "has no epoch" in host.command("inspect", str(STREAM)).errors


def test_it_needs_no_aeron(frames: Frames) -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys; sys.modules['pyaeron'] = None; from tensorpool.cli import main; main()",
            "inspect",
            str(frames.epoch),
        ],
        capture_output=True,
        text=True,
        env=frames.host.environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr
