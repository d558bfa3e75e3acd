"""Every code block of README and docs runs as it stands."""

import itertools
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.host import DEADLINE_S, RunningHost, Tables, running_host
from tests.leftovers import unique_shm_directory
from tests.markdown import PAGES, ROOT, Block, blocks_of
from tests.support import wait_until

RUN_HERE = {"python", "sh", "console", "toml"}
NOT_CODE = {"", "text", "{toctree}", "{eval-rst}", "{screen}", "{dashboard}"}
"""Drawings, and what Sphinx reads itself."""
RUN_ELSEWHERE = {
    ("running.md", "ini"): "tests/unit/deploy/test_systemd_unit.py",
    ("operations.md", "sh"): "tests/integration/prometheus/test_operations.py",
}
"""A page's blocks of a language, and the test that is about them."""
HOST_PAGES = [
    page
    for page in PAGES
    if page.name != "README.md"
    and any(block.language in {"python", "sh"} for block in blocks_of(page))
    and (page.name, "sh") not in RUN_ELSEWHERE
]
TABLES: Tables = {
    "supervisor": {},
    # The built-in default's ring: a reader's consumer is never lapped by 16 frames.
    "profiles": {
        "default": {
            "header_nslots": 16,
            "payload_pools": [{"pool_id": 1, "stride_bytes": 1 << 20}],
        }
    },
}


@pytest.fixture(scope="module")
def host() -> Iterator[RunningHost]:
    """One host for all pages."""
    directory = unique_shm_directory()
    with running_host(directory, TABLES) as running:
        yield running
    shutil.rmtree(directory)


def environment_of(host: RunningHost) -> dict[str, str]:
    """What a reader has: the host, and `tensorpool` on the path."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{host.environment['PATH']}"
    return host.environment | {"TENSORPOOL_CONFIG": str(host.config), "PATH": path}


def run(arguments: list[str], host: RunningHost, what: str) -> None:
    done = subprocess.run(
        arguments,
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment_of(host),
        timeout=DEADLINE_S,
        check=False,
    )
    assert done.returncode == 0, f"{what}\n{done.stdout}\n{done.stderr}"


def test_every_language_is_known() -> None:
    for page, block in itertools.chain.from_iterable(
        ((page, block) for block in blocks_of(page)) for page in PAGES
    ):
        test = RUN_ELSEWHERE.get((page.name, block.language))
        where = f"{page.name}:{block.line}: ```{block.language}"
        if test is not None:
            assert (ROOT / test).is_file(), where
        else:
            assert block.language.partition(" ")[0] in RUN_HERE | NOT_CODE, f"{where}: who runs it?"


@pytest.mark.parametrize("page", HOST_PAGES, ids=lambda page: page.name)
def test_a_page_runs_from_top_to_bottom(host: RunningHost, page: Path) -> None:
    blocks = blocks_of(page)
    for block in blocks:
        if block.language == "sh" and (page.name, "sh") not in RUN_ELSEWHERE:
            run(["bash", "-euc", block.text], host, f"{page.name}:{block.line}")
    program = "\n".join(block.text for block in blocks if block.language == "python")
    run([sys.executable, "-W", "error", "-c", program], host, page.name)


def toml_blocks() -> list[tuple[str, Block]]:
    return [
        (page.name, block)
        for page in PAGES
        for block in blocks_of(page)
        if block.language == "toml"
    ]


@pytest.mark.parametrize(("page", "block"), toml_blocks(), ids=lambda item: str(item)[:24])
def test_a_configuration_is_one(tmp_path: Path, page: str, block: Block) -> None:
    path = tmp_path / "host.toml"
    path.write_text(block.text)
    done = subprocess.run(
        [sys.executable, "-m", "tensorpool", "config", "check", str(path)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 0, f"{page}:{block.line}: {done.stderr}"


def console_lines() -> list[tuple[str, str]]:
    return [
        (page.name, line.removeprefix("$ ").partition("#")[0].strip())
        for page in PAGES
        for block in blocks_of(page)
        if block.language == "console"
        for line in block.text.splitlines()
        if line.startswith("$ ")
    ]


@pytest.mark.parametrize(("page", "line"), console_lines())
def test_a_console_line_runs(host: RunningHost, page: str, line: str) -> None:
    words = [str(host.config) if word == "host.toml" else word for word in shlex.split(line)]
    run(words, host, f"{page}: {line}")


def test_the_readme_walk(tmp_shm: Path) -> None:
    """`make up`, then a consumer and a producer, as the page says, by this checkout's own .venv."""
    commands = [b.text.strip() for b in blocks_of(ROOT / "README.md") if b.language == "sh"]
    up, consume, produce, test = commands
    assert re.fullmatch(r"make up", up)
    host = RunningHost(tmp_shm, TABLES)
    environment = host.environment | {"TENSORPOOL_CONFIG": str(host.config)}
    with (
        host.log.open("ab") as log,
        subprocess.Popen(
            shlex.split(up),
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        ) as launcher,
    ):
        try:
            wait_until(
                lambda: host.is_ready or launcher.poll() is not None,
                100,  # .venv may have to be made first
                lambda: f"a host by `{up}`\n{host.logged()}",
            )
            assert launcher.poll() is None, host.logged()
            with subprocess.Popen(
                shlex.split(consume), cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True
            ) as consumer:
                assert consumer.stdout is not None
                assert consumer.stdout.readline().startswith("attached")
                subprocess.run(
                    shlex.split(produce),
                    cwd=ROOT,
                    env=environment,
                    stdout=subprocess.DEVNULL,
                    check=True,
                    timeout=DEADLINE_S,
                )
                heard = consumer.stdout.read()
            assert consumer.returncode == 0
            assert [int(n) for n in re.findall(r"seq=(\d+) .* ok", heard)] == list(range(16))
        finally:
            os.killpg(launcher.pid, signal.SIGINT)  # as Ctrl-C does
        wait_until(lambda: host.report() is None, DEADLINE_S, "the host's end")
    assert not host.leftovers(), host.logged()
    # The tests are running already: here, only that make knows what the page names.
    subprocess.run(
        [*shlex.split(test), "--dry-run"], cwd=ROOT, stdout=subprocess.DEVNULL, check=True
    )


def test_readme_python(host: RunningHost) -> None:
    (block,) = (b for b in blocks_of(ROOT / "README.md") if b.language == "python")
    run([sys.executable, "-W", "error", "-c", block.text], host, "README.md")
