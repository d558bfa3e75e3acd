"""What a user can get wrong: one clear message, the right status, nothing left behind."""

import os
from pathlib import Path

import pytest

from tests.integration.host import Completed, RunningHost


def refused(host: RunningHost, expected: int, *arguments: str) -> Completed:
    done = host.command(*(arguments or ("up",)))
    assert done.status == expected, done
    assert "Traceback" not in done.errors
    assert done.errors.strip()
    assert not host.leftovers()
    return done


def test_a_missing_file(tmp_shm: Path) -> None:
    host = RunningHost(tmp_shm)
    host.config.unlink()
    assert "no such file" in refused(host, 2).errors


def test_no_toml(tmp_shm: Path) -> None:
    host = RunningHost(tmp_shm)
    host.config.write_text("[driver\n")
    assert "line 1" in refused(host, 2).errors


def test_all_faults_of_a_file(tmp_shm: Path) -> None:
    host = RunningHost(tmp_shm)
    host.configure({"driver": {"control_stream": 1}, "policies": {"announce_period_ms": 0}})
    done = refused(host, 2)
    assert "driver.control_stream" in done.errors
    assert "policies.announce_period_ms" in done.errors


def test_two_different_files(tmp_shm: Path) -> None:
    host = RunningHost(tmp_shm)
    assert "name one" in refused(host, 2, "up", "other.toml").errors


def test_an_unknown_command(tmp_shm: Path) -> None:
    assert refused(RunningHost(tmp_shm), 2, "upp").errors


def test_a_base_directory_that_cannot_be_made(tmp_shm: Path) -> None:
    host = RunningHost(tmp_shm)
    host.configure({"shm": {"base_dir": str(tmp_shm / "missing" / "base")}})
    done = refused(host, 1)
    assert str(tmp_shm / "missing" / "base") in done.errors
    assert "shm.base_dir" in done.errors


def test_an_aeron_directory_without_a_parent(tmp_shm: Path) -> None:
    host = RunningHost(tmp_shm)
    host.configure({"driver": {"aeron_dir": str(tmp_shm / "missing" / "aeron")}})
    done = refused(host, 1)
    assert "driver.aeron_dir" in done.errors


def test_a_base_directory_that_others_may_write(tmp_shm: Path) -> None:
    host = RunningHost(tmp_shm)
    base = Path(host.settings.shm.base_dir)
    base.mkdir()
    base.chmod(0o777)
    assert "sticky" in refused(host, 1).errors


@pytest.mark.parametrize("name", ["base", "base/tensorpool-{user}"])
def test_a_symlink_in_the_way(tmp_shm: Path, name: str) -> None:
    host = RunningHost(tmp_shm)
    elsewhere = tmp_shm / "elsewhere"
    elsewhere.mkdir()
    link = tmp_shm / name.format(user=host.settings.shm.user)
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(elsewhere)
    done = host.command("up")
    assert done.status == 1
    assert str(link) in done.errors
    assert "Traceback" not in done.errors
    assert not os.listdir(elsewhere)
