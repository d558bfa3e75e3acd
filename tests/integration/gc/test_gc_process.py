"""The GC process beside a driver that is played by this process, with a true registry."""

import contextlib
import json
import multiprocessing
import os
import random
import signal
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from tensorpool.child import ExitCode, Failed, Heartbeat, LauncherLink, Ready
from tensorpool.cli.gc import gc as gc_command
from tensorpool.clock import monotonic_ns
from tensorpool.gc.process import run
from tensorpool.gc_report import GcReport, read_report
from tensorpool.registry import DriverState, LeaseState, own_identity
from tensorpool.settings import HostSettings
from tests.gc_world import SECOND_NS, STREAM, World, other_process
from tests.support import wait_until

DEADLINE_S = 20
BUMPS = 1000
KEEP = 2


def child(settings: HostSettings, connection: Connection) -> None:
    """The process as the launcher starts it."""
    run(settings, LauncherLink(connection))


class GcProcess:
    """One GC process, with this process as its launcher."""

    def __init__(self, settings: HostSettings) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process: BaseProcess = context.Process(target=child, args=(settings, theirs))
        self.process.start()
        theirs.close()
        self.messages: list[object] = []

    def receive(self) -> list[object]:
        """Everything it has said so far."""
        with contextlib.suppress(EOFError):
            while self.connection.poll():
                self.messages.append(self.connection.recv())
        return self.messages

    def await_ready(self) -> None:
        wait_until(
            lambda: any(isinstance(message, Ready) for message in self.receive()),
            DEADLINE_S,
            "the GC to be ready",
        )

    def kill(self) -> None:
        self.process.kill()
        self.process.join(DEADLINE_S)
        self.connection.close()

    def stop(self) -> int | None:
        """As the launcher stops a child; its exit code."""
        self.process.terminate()
        self.process.join(DEADLINE_S)
        self.receive()
        self.connection.close()
        return self.process.exitcode


@pytest.fixture
def start(tmp_shm: Path) -> Iterator[Callable[[World], GcProcess]]:
    """Starts GC processes and ends those that the test leaves running."""
    assert tmp_shm.is_dir()
    started: list[GcProcess] = []

    def start_one(world: World) -> GcProcess:
        started.append(GcProcess(world.settings))
        return started[-1]

    yield start_one
    for gc in started:
        if gc.process.is_alive():
            gc.kill()


def report_of(world: World) -> GcReport:
    report = read_report(str(world.dir))
    assert report is not None
    return report


def await_names(world: World, names: set[int]) -> None:
    wait_until(
        lambda: world.names() == {str(name) for name in names},
        DEADLINE_S,
        lambda: f"{sorted(names)}, there are {sorted(world.names())}",
    )


def await_at_most(world: World, count: int) -> None:
    wait_until(
        lambda: len(world.names()) <= count,
        DEADLINE_S,
        lambda: f"at most {count} entries, there are {len(world.names())}",
    )


def bump_all(world: World, held: dict[int, int]) -> Iterator[int]:
    """`BUMPS` bumps; nothing current or held may ever be missing.

    `held` maps lease ids to the epochs they are on.
    """
    for number in range(1, BUMPS + 1):
        epoch = number * 1000 + 1
        world.bump(epoch)
        names = world.names()
        assert str(epoch) in names
        for lease, leased in held.items():
            assert set(os.listdir(world.epoch_dir(leased))) == {
                "header.ring",
                "1.pool",
                "2.pool",
            }, f"bump {number}: lease {lease} lost its epoch {leased}"
        if number % 100 == 50:
            lease = number // 100 % 3 + 1
            world.put_lease(lease, epoch)
            held[lease] = epoch
        if number % 100 == 0:
            yield epoch


def test_a_thousand_bumps_stay_at_the_bound(
    tmp_shm: Path, start: Callable[[World], GcProcess]
) -> None:
    world = World(tmp_shm, keep=KEEP)
    world.start_driver()
    gc = start(world)
    held: dict[int, int] = {}
    for epoch in bump_all(world, held):
        await_names(world, {epoch - 1000, epoch, *held.values()})
    for lease, epoch in held.items():
        world.put_lease(lease, epoch, state=LeaseState.RELEASED)
    await_names(world, {(BUMPS - 1) * 1000 + 1, BUMPS * 1000 + 1})
    wait_until(
        lambda: report_of(world).deleted == BUMPS - KEEP,
        DEADLINE_S,
        lambda: f"a report of {BUMPS - KEEP} deletions, it is {report_of(world)}",
    )
    assert report_of(world).errors == 0
    assert any(isinstance(message, Heartbeat) for message in gc.receive())
    assert gc.stop() == ExitCode.OK
    world.stop_driver()


def test_killed_again_and_again_it_finishes_what_it_began(
    tmp_shm: Path, start: Callable[[World], GcProcess]
) -> None:
    world = World(tmp_shm, keep=KEEP)
    world.start_driver()
    held: dict[int, int] = {}
    choice = random.Random(7)
    gc = start(world)
    for _ in bump_all(world, held):
        enough = max(len(world.names()) - choice.randrange(1, 40), KEEP + len(held))
        await_at_most(world, enough)
        gc.kill()
        gc = start(world)
    await_names(world, {(BUMPS - 1) * 1000 + 1, BUMPS * 1000 + 1, *held.values()})
    assert gc.stop() == ExitCode.OK
    world.stop_driver()


def test_it_is_ready_before_any_driver_and_serves_its_demand(
    tmp_shm: Path, start: Callable[[World], GcProcess]
) -> None:
    world = World(tmp_shm)
    gc = start(world)
    gc.await_ready()
    for epoch in (1, 2, 3):
        world.make_epoch(epoch)
    writer = world.start_driver()
    world.put_stream(3, bumps=1)
    number = writer.request_gc()
    wait_until(
        lambda: (report := read_report(str(world.dir))) and report.requests_served >= number,
        DEADLINE_S,
        "the demand to be served",
    )
    assert world.names() == {"2", "3"}
    gc.kill()
    world.stop_driver()


def test_after_a_clean_shutdown_only_the_registry_remains(
    tmp_shm: Path, start: Callable[[World], GcProcess]
) -> None:
    world = World(tmp_shm, min_age_ns=3600 * SECOND_NS)
    writer = world.start_driver()
    world.make_epoch(1, active_ns=monotonic_ns())
    world.put_stream(0, last=1)
    world.make_epoch(2, stream=77, active_ns=monotonic_ns())
    gc = start(world)
    wait_until(lambda: read_report(str(world.dir)), DEADLINE_S, "the GC at work")
    writer.set_state(DriverState.STOPPED)
    world.stop_driver()
    assert gc.stop() == ExitCode.OK
    assert os.listdir(world.dir) == ["registry"]
    assert not any(isinstance(message, Failed) for message in gc.messages)


def test_it_waits_for_a_driver_that_is_draining(
    tmp_shm: Path, start: Callable[[World], GcProcess]
) -> None:
    world = World(tmp_shm)
    writer = world.start_driver()
    world.make_epoch(1)
    world.put_stream(0, last=1)
    gc = start(world)
    wait_until(lambda: read_report(str(world.dir)), DEADLINE_S, "the GC at work")
    writer.set_state(DriverState.DRAINING)
    os.kill(gc.process.pid or 0, signal.SIGTERM)
    writer.heartbeat()
    writer.set_state(DriverState.STOPPED)
    world.stop_driver()
    gc.process.join(DEADLINE_S)
    assert gc.process.exitcode == ExitCode.OK
    assert os.listdir(world.dir) == ["registry"]


def test_after_a_crash_of_the_driver_the_current_epoch_stays(
    tmp_shm: Path, start: Callable[[World], GcProcess]
) -> None:
    world = World(tmp_shm)
    world.start_driver()
    world.bump(1)
    world.put_lease(1, 1)
    gc = start(world)
    wait_until(lambda: read_report(str(world.dir)), DEADLINE_S, "the GC at work")
    world.stop_driver()
    assert gc.stop() == ExitCode.OK
    assert sorted(os.listdir(world.dir)) == [str(STREAM), "registry"]
    assert world.names() == {"1"}


def test_disabled_it_runs_and_deletes_nothing(
    tmp_shm: Path, start: Callable[[World], GcProcess]
) -> None:
    world = World(tmp_shm, enabled=False, on_startup=True)
    gc = start(world)
    gc.await_ready()
    writer = world.start_driver()
    for epoch in range(1, 20):
        world.bump(epoch)
    writer.request_gc()
    beats = sum(isinstance(message, Heartbeat) for message in gc.receive())
    wait_until(
        lambda: sum(isinstance(m, Heartbeat) for m in gc.receive()) > beats + 2,
        DEADLINE_S,
        "some duty cycles",
    )
    writer.set_state(DriverState.STOPPED)
    world.stop_driver()
    assert gc.stop() == ExitCode.OK
    assert len(world.names()) == 19


# -- the command --------------------------------------------------------------------------


@pytest.fixture
def config(tmp_shm: Path) -> Path:
    path = tmp_shm / "host.toml"
    path.write_text(
        f"""
        [shm]
        base_dir = "{tmp_shm}/base"
        namespace = "test"
        [policies]
        epoch_gc_keep = 2
        [profiles.default]
        header_nslots = 16
        payload_pools = [{{ pool_id = 1, stride_bytes = 65536 }}]
        [streams.cam]
        stream_id = {STREAM}
        profile = "default"
        """
    )
    return path


def command(*arguments: str, status: int = 0) -> str:
    app = typer.Typer()
    app.command()(gc_command)
    result = CliRunner().invoke(app, arguments, env={"COLUMNS": "200"})
    assert result.exit_code == status, result.output
    return result.stdout


def test_the_command_tells_each_rule_and_then_does_so(tmp_shm: Path, config: Path) -> None:
    world = World(tmp_shm)
    world.start_driver()
    with other_process() as process:
        mine = own_identity()
        world.make_epoch(1, pid=process.pid)
        world.make_epoch(2)
        world.make_epoch(3, active_ns=monotonic_ns())
        world.make_epoch(4)
        world.make_epoch(5)
        world.make_epoch(6)
        world.make_epoch(7, stream=77)
        world.fill(world.stream_dir() / ".staging-8-2147483647-1", 8)
        world.fill(world.stream_dir() / f".staging-9-{mine.pid}-{mine.start_ticks}", 9)
        (world.epoch_dir(2) / "notes").touch()
        world.put_stream(6)
        world.put_lease(3, 4)
        expected = {
            "1": ("keep", "live-stamp"),
            "2": ("keep", "foreign"),
            "3": ("keep", "young"),
            "4": ("keep", "referenced"),
            "5": ("keep", "newest"),
            "6": ("keep", "current"),
            "7": ("delete", "unknown-stream"),
            ".staging-8-2147483647-1": ("delete", "half-made"),
            f".staging-9-{mine.pid}-{mine.start_ticks}": ("keep", "in-the-making"),
        }
        before = world.names()
        dry = json.loads(command("--dry-run", "--json", "--config", str(config)))
        assert {d["name"]: (d["action"], d["rule"]) for d in dry["decisions"]} == expected
        assert all(d["sentence"] for d in dry["decisions"])
        assert dry["namespace_dir"] == str(world.dir)
        assert world.names() == before
        table = command("--dry-run", "--config", str(config))
        assert "in use by lease 3" in table
        assert "would delete 2 entries, 49152 bytes" in table
        assert "deleted 2 entries, 49152 bytes" in command("--config", str(config))
        assert world.names() == before - {".staging-8-2147483647-1"}
        assert not world.stream_dir(77).exists()
    world.stop_driver()


def test_the_command_without_a_registry_explains_and_deletes_nothing(
    tmp_shm: Path, config: Path
) -> None:
    assert "no driver has run here" in command("--config", str(config))
    world = World(tmp_shm)
    world.make_epoch(1)
    output = command("--config", str(config))
    assert "nothing is deleted: no registry at" in output.replace("\n", " ")
    assert world.names() == {"1"}
