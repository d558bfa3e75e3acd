import errno
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tensorpool.clock import monotonic_ns
from tensorpool.errors import HostError
from tensorpool.gc.collector import PassReport, run_pass
from tensorpool.gc.eligibility import Limits, Rule, Unreadable
from tensorpool.gc.watch import RegistryWatch
from tensorpool.registry import DriverState, LeaseState, own_identity
from tests.gc_world import POOL_BYTES, SECOND_NS, STREAM, World, other_process

UNUSED_PID = 0x7FFF_FFFF


def collect(world: World, *, is_dry_run: bool = False, is_sweep: bool = False) -> PassReport:
    watch = RegistryWatch(world.settings.shm.registry_path)
    try:
        return run_pass(
            world.settings.shm,
            Limits.of(world.settings.policies),
            watch,
            is_dry_run=is_dry_run,
            is_sweep=is_sweep,
        )
    finally:
        watch.close()


@pytest.fixture
def world(tmp_shm: Path) -> World:
    """Epochs 1 to 4; 4 is current."""
    world = World(tmp_shm)
    world.start_driver()
    for epoch in (1, 2, 3, 4):
        world.make_epoch(epoch)
    world.put_stream(4)
    return world


def rule_of(report: PassReport, name: str) -> Rule:
    return next(v.rule for v in report.verdicts if v.found.name == name)


# -- what goes and what stays -------------------------------------------------------------


@pytest.mark.clause("Wire §15.21a.7-1")
@pytest.mark.config_key("policies.epoch_gc_keep")
def test_superseded_epochs_go_and_their_bytes_are_counted(world: World) -> None:
    report = collect(world)
    assert world.names() == {"3", "4"}
    assert report.deleted == {Rule.SUPERSEDED: 2}
    assert report.bytes_freed == 2 * 3 * POOL_BYTES
    assert report.kept == {Rule.CURRENT: 1, Rule.NEWEST: 1}
    assert not report.errors


def test_a_dry_run_says_the_same_and_touches_nothing(world: World) -> None:
    before = world.names()
    dry = collect(world, is_dry_run=True)
    assert world.names() == before
    assert dry.verdicts
    assert [v.rule for v in dry.verdicts] == [v.rule for v in collect(world).verdicts]


def test_active_and_orphaned_leases_keep_their_epochs_released_ones_do_not(world: World) -> None:
    world.put_lease(1, 1, state=LeaseState.ACTIVE)
    world.put_lease(2, 2, state=LeaseState.ORPHANED)
    collect(world)
    assert world.names() == {"1", "2", "3", "4"}
    world.put_lease(1, 1, state=LeaseState.RELEASED)
    collect(world)
    assert world.names() == {"2", "3", "4"}


@pytest.mark.parametrize("damage", ["missing", "truncated", "foreign", "directory", "symlink"])
def test_without_a_readable_registry_nothing_goes(world: World, damage: str) -> None:
    path = Path(world.settings.shm.registry_path)
    content = path.read_bytes()
    world.fill(world.stream_dir() / ".staging-9-1-1", 9)
    path.unlink()
    if damage == "truncated":
        path.write_bytes(content[:100])
    elif damage == "foreign":
        path.write_bytes(b"X" * len(content))
    elif damage == "directory":
        path.mkdir()
    elif damage == "symlink":
        path.with_name("elsewhere").write_bytes(content)
        path.symlink_to("elsewhere")
    report = collect(world)
    assert world.names() == {"1", "2", "3", "4", ".staging-9-1-1"}
    assert isinstance(report.view, Unreadable)
    assert {v.rule for v in report.verdicts if v.found.stream_id} == {Rule.REGISTRY_UNREADABLE}


def test_a_driver_state_of_no_known_release_counts_as_unreadable(world: World) -> None:
    assert world.writer is not None
    world.writer.set_state(99)  # type: ignore[arg-type]
    assert isinstance(collect(world).view, Unreadable)
    assert world.names() == {"1", "2", "3", "4"}


@pytest.mark.config_key("policies.epoch_gc_enabled")
def test_disabled_deletes_nothing(tmp_shm: Path) -> None:
    world = World(tmp_shm, enabled=False)
    world.start_driver(DriverState.STOPPED)
    world.make_epoch(1)
    world.fill(world.stream_dir() / ".doomed-2", 2)
    assert set(collect(world).kept) == {Rule.DISABLED}
    assert world.names() == {"1", ".doomed-2"}


@pytest.mark.clause("Wire §15.21a.7-1")
@pytest.mark.config_key("policies.epoch_gc_min_age_ns")
def test_young_epochs_stay_until_their_age_has_passed(tmp_shm: Path) -> None:
    world = World(tmp_shm, min_age_ns=3600 * SECOND_NS, keep=1)
    world.start_driver()
    world.make_epoch(1, active_ns=monotonic_ns())
    world.make_epoch(2)
    world.put_stream(2)
    report = collect(world)
    assert rule_of(report, "1") is Rule.YOUNG
    assert report.recheck_ns is not None
    assert 0 < report.recheck_ns <= 3600 * SECOND_NS
    assert world.names() == {"1", "2"}


@pytest.mark.clause("Wire §15.21a.7-1")
def test_a_stamp_of_another_process_keeps_an_epoch_while_that_lives(world: World) -> None:
    with other_process() as process:
        world.make_epoch(0, pid=process.pid)
        assert rule_of(collect(world), "0") is Rule.LIVE_STAMP
        process.kill()
        process.wait()
        assert rule_of(collect(world), "0") is Rule.SUPERSEDED
    assert world.names() == {"3", "4"}


def test_a_pid_that_was_given_to_a_later_process_keeps_nothing(world: World) -> None:
    with other_process() as process:
        world.make_epoch(0, pid=process.pid, stamped_ns=monotonic_ns() - 60 * SECOND_NS)
        assert rule_of(collect(world), "0") is Rule.SUPERSEDED


def test_a_stopped_driver_frees_everything_with_the_stream_directories(world: World) -> None:
    assert world.writer is not None
    world.make_epoch(5, stream=77)
    world.writer.set_state(DriverState.STOPPED)
    report = collect(world)
    assert set(report.deleted) == {Rule.CLEAN_SHUTDOWN}
    assert os.listdir(world.dir) == ["registry"]
    assert report.streams_removed == 2


def test_an_unknown_stream_goes_with_its_directory_a_served_one_stays(tmp_shm: Path) -> None:
    world = World(tmp_shm)
    world.start_driver()
    world.put_stream(0)
    world.stream_dir().mkdir(mode=0o700)
    world.make_epoch(5, stream=77)
    world.stream_dir(78).mkdir(mode=0o700)
    collect(world)
    assert sorted(os.listdir(world.dir)) == [str(STREAM), "registry"]


def test_half_made_and_half_deleted_go_the_living_drivers_stays(world: World) -> None:
    mine = own_identity()
    living = f".staging-5-{mine.pid}-{mine.start_ticks}"
    dead = f".staging-5-{UNUSED_PID}-1"
    reused = f".staging-5-{mine.pid}-{mine.start_ticks + 1}"
    for name in (living, dead, reused, ".doomed-1"):
        world.fill(world.stream_dir() / name, 5)
    report = collect(world, is_sweep=True)
    assert world.names() == {"1", "2", "3", "4", living}
    assert report.deleted == {Rule.HALF_MADE: 2, Rule.HALF_DELETED: 1}


def test_a_stalled_driver_that_beats_no_more_keeps_what_it_is_making(world: World) -> None:
    assert world.writer is not None
    mine = own_identity()
    name = f".staging-5-{mine.pid}-{mine.start_ticks}"
    world.fill(world.stream_dir() / name, 5)
    world.writer._words[8] = 1  # its last heartbeat: just after boot
    collect(world)
    assert name in world.names()


# -- what is not ours ---------------------------------------------------------------------


def test_a_foreign_file_keeps_its_epoch_whole(world: World) -> None:
    (world.epoch_dir(1) / "notes.txt").write_text("mine")
    report = collect(world)
    assert rule_of(report, "1") is Rule.FOREIGN
    assert len(os.listdir(world.epoch_dir(1))) == 4
    assert world.names() == {"1", "3", "4"}


@pytest.mark.parametrize("name", ["01.pool", "65536.pool", "1.pool.bak", "header.ring~", ".pool"])
def test_names_near_the_canonical_ones_are_foreign(world: World, name: str) -> None:
    (world.epoch_dir(1) / name).touch()
    assert rule_of(collect(world), "1") is Rule.FOREIGN
    assert "1" in world.names()


@pytest.mark.parametrize(
    "name", ["01", "-1", "1x", "\u0661", str(1 << 64), ".staging-1", ".staging-1-2-x", ".doomed-x"]
)
def test_foreign_names_beside_the_epochs_are_left_alone(world: World, name: str) -> None:
    world.fill(world.stream_dir() / name, 1)
    assert rule_of(collect(world), name) is Rule.FOREIGN
    assert len(os.listdir(world.stream_dir() / name)) == 3


@pytest.fixture
def treasure(tmp_shm: Path) -> Path:
    """A directory elsewhere that looks like an epoch, and must survive."""
    path = tmp_shm / "treasure"
    path.mkdir()
    for name in ("header.ring", "1.pool"):
        (path / name).write_text("precious")
    return path


def plant_at_file(world: World, treasure: Path) -> None:
    (world.epoch_dir(1) / "1.pool").unlink()
    (world.epoch_dir(1) / "1.pool").symlink_to(treasure / "1.pool")


def plant_at_ring(world: World, treasure: Path) -> None:
    (world.epoch_dir(1) / "header.ring").unlink()
    (world.epoch_dir(1) / "header.ring").symlink_to(treasure / "header.ring")


def plant_at_epoch(world: World, treasure: Path) -> None:
    shutil.rmtree(world.epoch_dir(1))
    world.epoch_dir(1).symlink_to(treasure)


def plant_at_doomed(world: World, treasure: Path) -> None:
    (world.stream_dir() / ".doomed-1").symlink_to(treasure)


def plant_at_stream(world: World, treasure: Path) -> None:
    (treasure / "1").mkdir()
    (treasure / "1" / "header.ring").write_text("precious")
    (world.dir / "99").symlink_to(treasure)


def plant_at_namespace(world: World, treasure: Path) -> None:
    (treasure / "1").mkdir()
    world.dir.rename(treasure / "test")
    world.dir.symlink_to(treasure / "test")


def plant_at_user(world: World, treasure: Path) -> None:
    world.dir.parent.rename(treasure / "user")
    world.dir.parent.symlink_to(treasure / "user")


def snapshot(path: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(path)): file.read_bytes()
        for file in path.rglob("*")
        if file.is_file() and file.name != "registry"
    }


@pytest.mark.parametrize(
    "plant",
    [
        plant_at_file,
        plant_at_ring,
        plant_at_epoch,
        plant_at_doomed,
        plant_at_stream,
        plant_at_namespace,
        plant_at_user,
    ],
)
@pytest.mark.parametrize("state", [DriverState.SERVING, DriverState.STOPPED])
def test_no_symlink_is_followed(
    world: World, treasure: Path, plant: Callable[[World, Path], None], state: DriverState
) -> None:
    assert world.writer is not None
    world.writer.set_state(state)
    plant(world, treasure)
    before = snapshot(treasure)
    assert before
    try:
        report = collect(world)
    except HostError as error:
        assert "nothing in it is deleted" in str(error)  # noqa: PT017 - both ends are right
    else:
        assert Rule.FOREIGN in report.kept
    assert snapshot(treasure) == before


def test_a_namespace_that_others_may_write_is_refused(world: World) -> None:
    world.dir.chmod(0o777)
    with pytest.raises(HostError, match="0777"):
        collect(world)
    assert world.names() == {"1", "2", "3", "4"}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_what_belongs_to_another_user_is_left_alone(world: World) -> None:
    os.chown(world.epoch_dir(1), 12345, -1)
    os.chown(world.epoch_dir(2) / "2.pool", 12345, -1)
    report = collect(world)
    assert rule_of(report, "1") is rule_of(report, "2") is Rule.FOREIGN
    assert world.names() == {"1", "2", "3", "4"}


def test_a_missing_namespace_is_no_error(tmp_shm: Path) -> None:
    world = World(tmp_shm)
    world.dir.rmdir()
    assert not collect(world).verdicts


# -- interrupted --------------------------------------------------------------------------

STEPS = ("rename", "unlink", "rmdir")


@pytest.mark.parametrize("nth", range(10))
def test_a_step_that_fails_is_told_and_finished_by_the_next_pass(
    world: World, monkeypatch: pytest.MonkeyPatch, nth: int
) -> None:
    """Two epochs are deleted in five steps each: a rename, three unlinks, a rmdir."""
    calls = 0

    def failing(step: Callable[..., None]) -> Callable[..., None]:
        def wrapped(*args: object, **kwargs: object) -> None:
            nonlocal calls
            calls += 1
            if calls == nth + 1:
                raise OSError(errno.EIO, "injected")
            step(*args, **kwargs)

        return wrapped

    with monkeypatch.context() as patch:
        for name in STEPS:
            patch.setattr(os, name, failing(getattr(os, name)))
        report = collect(world)
    assert list(report.errors.values()) == ["[Errno 5] injected"]
    assert report.deleted.total() == 1
    assert {"3", "4"} < world.names()
    finished = collect(world)
    assert world.names() == {"3", "4"}
    assert finished.deleted.total() == 1
    assert not finished.errors


DYING = """
import os, signal, sys
from tensorpool.gc.deleter import delete
from tensorpool.gc.eligibility import Found, Kind
calls = 0
def dying(step):
    def wrapped(*args, **kwargs):
        global calls
        calls += 1
        if calls == int(sys.argv[2]):
            os.kill(os.getpid(), signal.SIGKILL)
        step(*args, **kwargs)
    return wrapped
for name in ("rename", "unlink", "rmdir"):
    setattr(os, name, dying(getattr(os, name)))
delete(Found(1, "1", Kind.EPOCH, 1), os.open(sys.argv[1], os.O_RDONLY))
"""


@pytest.mark.parametrize("nth", range(1, 7))
def test_a_deletion_killed_before_any_step_is_finished_by_the_next_pass(
    world: World, nth: int
) -> None:
    command = [sys.executable, "-c", DYING, str(world.stream_dir()), str(nth)]
    ended = subprocess.run(command, check=False, cwd=Path(__file__).parents[3])
    assert ended.returncode == (-signal.SIGKILL if nth <= 5 else 0)
    assert {"2", "3", "4"} <= world.names()
    collect(world)
    assert world.names() == {"3", "4"}


def test_a_foreign_entry_that_comes_during_a_deletion_is_not_lost(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = os.rename

    def plant_after(*args: Any, **kwargs: Any) -> None:
        rename(*args, **kwargs)
        if args[1] == ".doomed-1":
            (world.stream_dir() / ".doomed-1" / "notes.txt").write_text("mine")

    monkeypatch.setattr(os, "rename", plant_after)
    report = collect(world)
    assert list(report.errors) == [f"{STREAM}/1"]
    assert len(os.listdir(world.stream_dir() / ".doomed-1")) == 4
    assert rule_of(collect(world), ".doomed-1") is Rule.FOREIGN
    assert (world.stream_dir() / ".doomed-1" / "notes.txt").read_text() == "mine"


def test_an_epoch_swapped_for_another_directory_is_not_unlinked(
    world: World, treasure: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = os.rename

    def swap_before(*args: Any, **kwargs: Any) -> None:
        if args[1] == ".doomed-1":
            world.epoch_dir(1).rename(world.stream_dir() / "aside")
            treasure.rename(world.epoch_dir(1))
        rename(*args, **kwargs)

    monkeypatch.setattr(os, "rename", swap_before)
    report = collect(world)
    assert "swapped" in report.errors[f"{STREAM}/1"]
    assert snapshot(world.stream_dir() / ".doomed-1") == {
        "header.ring": b"precious",
        "1.pool": b"precious",
    }


@pytest.mark.parametrize("name", STEPS)
def test_a_pass_beside_another_one_does_not_fail(
    world: World, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """The other one runs between two of our steps."""
    step = getattr(os, name)

    def overtaken(*args: str, **kwargs: int) -> None:
        monkeypatch.setattr(os, name, step)
        collect(world)
        step(*args, **kwargs)

    monkeypatch.setattr(os, name, overtaken)
    assert not collect(world).errors
    assert world.names() == {"3", "4"}


def test_a_stream_that_came_into_service_during_the_pass_keeps_its_directory(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.make_epoch(5, stream=77)
    rmdir = os.rmdir

    def serve_after(name: str, **kwargs: int) -> None:
        rmdir(name, **kwargs)
        if name == ".doomed-5":
            world.put_stream(0, last=6, stream=77, index=1)

    monkeypatch.setattr(os, "rmdir", serve_after)
    collect(world)
    assert world.stream_dir(77).is_dir()


def test_a_driver_that_replaces_the_registry_during_the_scan_keeps_what_it_makes(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The directories are listed first: the registry read afterwards knows their maker."""
    watch = RegistryWatch(world.settings.shm.registry_path)
    assert watch.refresh() is not None
    listdir = os.listdir

    def restart_before(fd: int) -> list[str]:
        monkeypatch.setattr(os, "listdir", listdir)
        world.start_driver()
        world.bump(6, stream=77, index=1)
        return listdir(fd)

    monkeypatch.setattr(os, "listdir", restart_before)
    limits = Limits(enabled=True, keep=1, min_age_ns=0)
    try:
        run_pass(world.settings.shm, limits, watch)
    finally:
        watch.close()
    assert world.names(77) == {"6"}
