"""`tensorpool config check|show|schema`."""

import json
from pathlib import Path
from typing import Protocol

import pytest
import tomli
from typer.testing import CliRunner, Result

from tensorpool.cli.config import app
from tensorpool.config.operations import HostConfig
from tensorpool.config.tree import keys
from tests.unit.config.documents import MINIMAL


class Run(Protocol):
    """Runs a `tensorpool config` command in a clean environment with some variables."""

    def __call__(self, *arguments: str, **environ: str) -> Result: ...


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    for key in keys(HostConfig):
        for name in key.variables:
            monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("TENSORPOOL_CONFIG", raising=False)

    def run(*arguments: str, **environ: str) -> Result:
        return CliRunner().invoke(app, arguments, env=environ)

    return run


@pytest.fixture
def valid(tmp_path: Path) -> str:
    path = tmp_path / "host.toml"
    path.write_text(MINIMAL + '[policies]\nshutdown_token = "hush"\n')
    return str(path)


@pytest.fixture
def wrong(tmp_path: Path) -> str:
    path = tmp_path / "wrong.toml"
    path.write_text(MINIMAL + "[driver]\nqos_stream_id = 0\ncontrol_stream_id = 0\n")
    return str(path)


def test_check_says_ok_in_one_line(run: Run, valid: str) -> None:
    result = run("check", valid)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == (
        f"{valid}: OK: 1 profile, 1 static stream, no supervisor, "
        "up to 8.5 MiB for static streams\n"
    )


def test_check_tells_all_faults_and_ends_with_2(run: Run, wrong: str) -> None:
    result = run("check", wrong)
    assert (result.exit_code, result.stdout) == (2, "")
    assert f"{wrong}: 2 faults" in result.stderr
    assert "driver.qos_stream_id = 0" in result.stderr
    assert "driver.control_stream_id = 0" in result.stderr


def test_check_looks_at_the_environment_too(run: Run, valid: str) -> None:
    result = run("check", valid, POLICIES_MAX_LEASES="none")
    assert result.exit_code == 2
    assert "POLICIES_MAX_LEASES" in result.stderr


def test_check_of_a_missing_file(run: Run, tmp_path: Path) -> None:
    result = run("check", f"{tmp_path}/none.toml")
    assert result.exit_code == 2
    assert "no such file" in result.stderr


def test_check_needs_a_file(run: Run) -> None:
    assert run("check").exit_code == 2


def test_show_gives_values_and_origins(run: Run, valid: str) -> None:
    result = run("show", valid, SHM_NAMESPACE="lab1")
    assert result.exit_code == 0
    lines = {line.split(" = ")[0]: line for line in result.stdout.splitlines()}
    assert lines["streams.cam1.stream_id"].endswith(f"# file {valid}")
    assert lines["shm.namespace"].split() == [
        "shm.namespace",
        "=",
        '"lab1"',
        "#",
        "env",
        "SHM_NAMESPACE",
    ]
    assert lines["driver.control_stream_id"].endswith("# default")


def test_what_show_writes_is_a_configuration_again(run: Run, valid: str, tmp_path: Path) -> None:
    shown = tmp_path / "shown.toml"
    shown.write_text(run("show", valid).stdout)
    assert run("check", str(shown)).exit_code == 0
    assert tomli.loads(shown.read_text())["shm"]["permissions_mode"] == "660"


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_show_masks_the_token(run: Run, valid: str, options: tuple[str, ...]) -> None:
    result = run("show", valid, *options)
    assert result.exit_code == 0
    assert "hush" not in result.output
    assert "********" in result.output


def test_show_as_json(run: Run, valid: str) -> None:
    shown = json.loads(run("show", "--json", valid).stdout)
    assert shown["path"] == valid
    assert shown["values"]["streams.cam1.stream_id"] == {
        "value": 10000,
        "source": f"file {valid}",
    }
    assert shown["values"]["driver.stream_id_range"]["value"] == ""
    assert shown["values"]["profiles.camera.payload_pools"]["value"] == [
        {"pool_id": 1, "stride_bytes": 4096}
    ]


def test_show_finds_the_file_by_the_environment(run: Run, valid: str) -> None:
    assert f"# file {valid}" in run("show", TENSORPOOL_CONFIG=valid).stdout
    assert "# built-in" in run("show").stdout


def test_show_of_a_wrong_file(run: Run, wrong: str) -> None:
    result = run("show", wrong)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "2 faults" in result.stderr


def test_schema_describes_the_file(run: Run) -> None:
    result = run("schema")
    assert result.exit_code == 0
    schema = json.loads(result.stdout)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema["properties"].keys() == HostConfig.model_fields.keys()
    assert schema["additionalProperties"] is False


def test_defaults_of_the_schema_have_the_type_that_it_demands(run: Run) -> None:
    types = {"string": str, "integer": int, "boolean": bool, "null": type(None), "object": dict}
    for table in json.loads(run("schema").stdout)["$defs"].values():
        for name, field in table["properties"].items():
            if "default" in field and "type" in field:
                assert type(field["default"]) is types[field["type"]], name
