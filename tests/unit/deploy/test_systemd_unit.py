"""The unit file is what systemd takes it for, and calls the command line that there is."""

from __future__ import annotations

import re
from pathlib import Path

from typer.testing import CliRunner

from tensorpool.cli.app import USAGE_STATUS, app
from tests.systemd_unit import UNIT, allowed_system_calls, analyze, command, service

WORST_EXPOSURE = 2.0
"""Of systemd's own measure, from 0 (confined) to 10; below 5 it says OK."""


def test_the_command_is_ours() -> None:
    program, *arguments, _ = command()
    assert program.endswith("/tensorpool")
    helped = CliRunner().invoke(app, [arguments[0], "--help"], env={"COLUMNS": "200"})
    assert helped.exit_code == 0
    assert arguments[1] in helped.output


def test_it_takes_part_in_the_notification_protocol() -> None:
    unit = service()
    assert unit["Type"] == ["notify"]
    assert int(unit["WatchdogSec"][0]) > 0
    assert "HUP" in unit["ExecReload"][0]
    assert unit["RestartPreventExitStatus"] == [str(USAGE_STATUS)]
    # Only the launcher is told to end; it drains the others in order.
    assert unit["KillMode"] == ["mixed"]


def test_systemd_finds_nothing_wrong(tmp_path: Path) -> None:
    text = UNIT.read_text(encoding="ascii")
    installed = tmp_path / "tensorpool"  # it looks whether the program is there
    installed.touch(mode=0o755)
    copy = tmp_path / UNIT.name
    copy.write_text(text.replace(command()[0], str(installed)), encoding="ascii")
    verified = analyze("verify", "--man=no", copy)
    about_it = [line for line in verified.stderr.splitlines() if UNIT.name in line]
    assert (verified.returncode, about_it) == (0, []), verified.stderr


def test_systemd_finds_a_wrong_key(tmp_path: Path) -> None:
    copy = tmp_path / UNIT.name
    copy.write_text(UNIT.read_text().replace("[Service]", "[Service]\nProtectSytem=strict"))
    assert "ProtectSytem" in analyze("verify", "--man=no", copy).stderr


def test_it_is_confined() -> None:
    judged = analyze("security", "--offline=yes", "--no-pager", UNIT)
    level = re.search(r"exposure level for \S+: ([\d.]+)", judged.stdout)
    assert level is not None, judged.stderr
    assert float(level[1]) <= WORST_EXPOSURE


def test_no_shared_memory_is_swept_away() -> None:
    unit = service()
    assert unit["RemoveIPC"] == ["no"]
    (user,) = unit["User"]
    made = (UNIT.parent / "sysusers.d" / "tensorpool.conf").read_text(encoding="ascii")
    assert f"\nu {user} - " in made  # a system user: logind spares it


def test_the_filter_leaves_what_shared_memory_takes() -> None:
    allowed = allowed_system_calls()
    assert {"fallocate", "madvise", "mlock", "flock", "futex", "clone3", "fchmod"} <= allowed
    assert not {"chroot", "bpf", "setuid", "ptrace", "mount"} & allowed
