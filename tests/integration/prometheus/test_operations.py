"""`docs/operations.md` from top to bottom, on paths of the test's own."""

import os
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from tests.integration.host import clean_environment
from tests.integration.prometheus.server import tool
from tests.markdown import ROOT, blocks_of

PAGE = ROOT / "docs" / "operations.md"
DEADLINE_S = 540
ENVIRONMENT = (
    "TENSORPOOL_CONFIG",
    "TENSORPOOL_SHM",
    "AERON_DIR",
    "TENSORPOOL_RUN",
    "PROMETHEUS_CONFIG",
    "PROMETHEUS_DATA",
    "PROMETHEUS_ADDRESS",
)


def script() -> str:
    """The whole page as a reader types it."""
    return "\n".join(block.text for block in blocks_of(PAGE) if block.language == "sh")


def paths(directory: Path) -> dict[str, str]:
    """Other values for the variables that the page defines."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    return {
        "TENSORPOOL_CONFIG": str(directory / "etc" / "host.toml"),
        "TENSORPOOL_SHM": str(directory / "regions"),
        "AERON_DIR": str(directory / "aeron"),
        "TENSORPOOL_RUN": str(directory / "run"),
        "PROMETHEUS_CONFIG": str(directory / "prometheus"),
        "PROMETHEUS_DATA": str(directory / "data"),
        "PROMETHEUS_ADDRESS": address,
    }


def test_every_variable_of_the_test_is_one_of_the_page() -> None:
    for name in ENVIRONMENT:
        assert f'export {name}="${{{name}:-' in script()


@pytest.mark.timeout(DEADLINE_S + 30)
def test_the_page_from_top_to_bottom(tmp_shm: Path) -> None:
    tool("prometheus")
    environment = clean_environment() | paths(tmp_shm)
    assert set(paths(tmp_shm)) == set(ENVIRONMENT)
    output = tmp_shm / "output"
    with (
        output.open("wb") as file,
        subprocess.Popen(
            ["bash", "-eux", "-o", "pipefail", "-c", script()],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            start_new_session=True,
        ) as shell,
    ):
        try:
            status = shell.wait(DEADLINE_S)
        finally:
            end_group(shell.pid)
    said = output.read_text()
    assert status == 0, f"{said}\n{log_of(tmp_shm)}"
    assert "tensorpool_host_ready" in said
    assert 'alertname="TensorpoolChildHung"' in said
    # Drained: nothing but the registry is left of the host.
    left = [path.name for path in (tmp_shm / "regions").rglob("*") if path.is_file()]
    assert not [name for name in left if not name.startswith(".") and name != "registry"]
    assert not (tmp_shm / "run" / "targets.json").exists()


def end_group(pid: int) -> None:
    """What a page that failed half way has left running."""
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def log_of(directory: Path) -> str:
    log = directory / "run" / "log"
    return log.read_text() if log.exists() else ""
