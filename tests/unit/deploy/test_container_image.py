"""The Dockerfile keeps the rules that the manifests rest on."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from dockerfile_parse import DockerfileParser
from packaging.requirements import Requirement
from typer.testing import CliRunner

from tensorpool.cli.app import app
from tests.manifests import REPOSITORY, driver_pod

CONTAINER = REPOSITORY / "deploy" / "container"
DOCKERFILE = CONTAINER / "Dockerfile"


@pytest.fixture
def image(tmp_path: Path) -> DockerfileParser:
    copy = tmp_path / "Dockerfile"  # the parser opens its file for writing
    copy.write_text(DOCKERFILE.read_text(encoding="ascii"), encoding="ascii")
    return DockerfileParser(str(copy))


def instructions(image: DockerfileParser, name: str) -> list[str]:
    return [item["value"] for item in image.structure if item["instruction"] == name]


def pins(path: Path) -> dict[str, str]:
    """Package to its pin with all hashes, as written."""
    text = re.sub(r"\s*#.*", "", path.read_text(encoding="utf-8")).replace("\\\n", " ")
    entries = [" ".join(line.split()) for line in text.splitlines() if line.strip()]
    return {entry.split("==")[0]: entry for entry in entries}


def test_the_linter_has_nothing_to_say() -> None:
    linter = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([linter, DOCKERFILE], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_base_image_is_an_exact_version_of_a_slim_one(image: DockerfileParser) -> None:
    (argument,) = instructions(image, "ARG")
    assert re.fullmatch(r"PYTHON=python:3\.1[2-5]\.\d+-slim-\w+(@sha256:[0-9a-f]{64})?", argument)
    stages = instructions(image, "FROM")
    assert stages == ["${PYTHON} AS build", "${PYTHON}"]


def test_the_last_stage_takes_only_what_was_built(image: DockerfileParser) -> None:
    names = [item["instruction"] for item in image.structure]
    last = image.structure[len(names) - names[::-1].index("FROM") :]
    copies = [item["value"] for item in last if item["instruction"] == "COPY"]
    assert copies == ["--from=build /opt/tensorpool /opt/tensorpool"]
    assert not any("pip" in item["value"] for item in last if item["instruction"] == "RUN")


def test_the_user_is_that_of_the_manifests(image: DockerfileParser) -> None:
    security = driver_pod()["securityContext"]
    user = f"{security['runAsUser']}:{security['runAsGroup']}"
    assert instructions(image, "USER") == [user]


def test_the_command_is_that_of_the_manifests(image: DockerfileParser) -> None:
    assert not instructions(image, "ENTRYPOINT")
    assert json.loads(image.cmd) == driver_pod()["containers"][0]["command"]


def test_the_health_check_is_a_command_of_ours(image: DockerfileParser) -> None:
    (check,) = instructions(image, "HEALTHCHECK")
    program, command, *options = json.loads(check.partition("CMD ")[2])
    assert program == "tensorpool"
    helped = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200"})
    assert helped.exit_code == 0
    assert options[0] in helped.output


def test_packages_are_installed_by_hash_from_the_lock(image: DockerfileParser) -> None:
    installs = [run for run in instructions(image, "RUN") if "install" in run]
    for run in installs:
        assert "--require-hashes" in run or "--no-index" in run
    everything, runtime = (
        pins(REPOSITORY / "requirements.lock"),
        pins(CONTAINER / "requirements.lock"),
    )
    assert "pyaeron" in runtime
    assert "pytest" not in runtime
    for name, pin in runtime.items():
        assert "--hash=sha256:" in pin
        assert everything[name] == pin


def test_every_dependency_is_in_the_image() -> None:
    project = re.search(
        r"^dependencies = \[(.*?)^\]",
        (REPOSITORY / "pyproject.toml").read_text(),
        re.DOTALL | re.MULTILINE,
    )
    assert project is not None
    wanted = {
        Requirement(text).name for text in re.findall(r'^    "(.+?)"', project[1], re.MULTILINE)
    }
    assert wanted <= pins(CONTAINER / "requirements.lock").keys()


def test_the_build_sees_what_it_copies_and_nothing_else(image: DockerfileParser) -> None:
    first, *rules = [
        line
        for line in (REPOSITORY / ".dockerignore").read_text().splitlines()
        if line and not line.startswith("#")
    ]
    assert first == "*"
    allowed = {rule[1:] for rule in rules if rule.startswith("!")}
    names = [item["instruction"] for item in image.structure]
    build = image.structure[: len(names) - names[::-1].index("FROM")]
    copied = {
        source
        for item in build
        if item["instruction"] == "COPY"
        for source in item["value"].split()[:-1]
        if not source.startswith("--")
    }
    assert copied == allowed
    assert all((REPOSITORY / source).exists() for source in copied)
