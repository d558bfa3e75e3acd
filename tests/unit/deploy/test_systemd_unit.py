"""The unit file calls the command line that there is, and expects what the launcher does."""

from __future__ import annotations

import configparser
import shlex
from pathlib import Path

from typer.testing import CliRunner

from tensorpool.cli.app import app

UNIT = Path(__file__).parents[3] / "deploy" / "systemd" / "tensorpool.service"


def test_the_command_is_ours() -> None:
    unit = configparser.ConfigParser(interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read_string(UNIT.read_text(encoding="ascii"))
    service = unit["Service"]
    program, command, option, _ = shlex.split(service["ExecStart"])
    assert program.endswith("/tensorpool")
    helped = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200"})
    assert helped.exit_code == 0
    assert option in helped.output
    assert service["Type"] == "notify"
    assert "HUP" in service["ExecReload"]
