"""The documentation builds, every public name is in it, and what a live host shows."""

import html
import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

import tensorpool
from tests.leftovers import SHM
from tests.markdown import ROOT

DASHBOARD = ROOT / "deploy" / "grafana" / "tensorpool.json"
PROCESSES = ("launcher", "media_driver", "driver", "supervisor", "gc")
DEADLINE_S = 300


def build(
    output: Path, environment: Mapping[str, str] = os.environ
) -> "subprocess.CompletedProcess[str]":
    """As `make docs` builds it."""
    return subprocess.run(
        [
            *(sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html"),
            *(str(ROOT / "docs"), str(output)),
        ],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment,
        timeout=DEADLINE_S,
        check=False,
    )


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a build; that its processes are gone, tests/leftovers.py sees to."""
    output = tmp_path_factory.mktemp("docs") / "html"
    built = build(output)
    assert built.returncode == 0, built.stderr
    return output


def screen(pages: Path, command: str) -> str:
    """What the page shows below this command line."""
    page = (pages / "commands.html").read_text(encoding="utf-8")
    blocks = re.findall(r"<pre>(.*?)</pre>", page, re.DOTALL)
    texts = [html.unescape(re.sub(r"<[^>]*>", "", block)) for block in blocks]
    (shown,) = (text for text in texts if text.startswith(f"$ {command}\n"))
    return shown.partition("\n")[2]


def panels(pages: Path) -> dict[str, str]:
    """The drawing of each panel, by its title."""
    page = (pages / "operations.html").read_text(encoding="utf-8")
    drawings = re.findall(r'<svg class="panel".*?</svg>', page, re.DOTALL)
    titles = [re.search('aria-label="([^"]*)"', drawing) for drawing in drawings]
    return {
        html.unescape(title[1]): drawing
        for title, drawing in zip(titles, drawings, strict=True)
        if title is not None
    }


# A build starts a host, clients and a Prometheus before it reads the first page.
@pytest.mark.timeout(DEADLINE_S + 30)
def test_every_public_name_is_in_the_reference(pages: Path) -> None:
    reference = (pages / "reference.html").read_text(encoding="utf-8")
    missing = [
        name for name in tensorpool.__all__ if name != "__version__" and f".{name}" not in reference
    ]
    assert not missing


@pytest.mark.timeout(DEADLINE_S + 30)
@pytest.mark.parametrize("command", ["tensorpool status", "tensorpool top --once"])
def test_a_screen_shows_a_live_host(pages: Path, command: str) -> None:
    shown = screen(pages, command)
    assert shown.startswith("healthy ")
    for name in PROCESSES:
        assert re.search(rf"^{name} +\d+ ", shown, re.MULTILINE), shown
    # A stream with an epoch, a producer, consumers, and frames at a rate.
    assert re.search(r"^ *10000 +camera +\w+ +\d+ +\d+ +2 +\d+ +[\d.]+/s ", shown, re.MULTILINE)
    assert re.search(r" producer +active ", shown)
    assert ("late drops" in shown) == ("top" in command)


@pytest.mark.timeout(DEADLINE_S + 30)
def test_a_screen_shows_the_doctor(pages: Path) -> None:
    shown = screen(pages, "tensorpool doctor")
    assert re.search(r"^(healthy|warnings|errors): \d+ checks, \d+ findings?$", shown, re.MULTILINE)


@pytest.mark.timeout(DEADLINE_S + 30)
def test_every_panel_of_the_dashboard_is_drawn_with_data(pages: Path) -> None:
    model = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    kinds = {item["title"]: item["type"] for item in model["panels"] if item["type"] != "row"}
    drawn = panels(pages)
    assert list(drawn) == list(kinds)
    mark = {"stat": 'class="panel-value"', "timeseries": 'class="panel-series"'}
    assert not [title for title, kind in kinds.items() if mark[kind] not in drawn[title]]
    # Of this host, by name: its streams and its processes.
    assert {"10000", "10001"} <= legends(drawn["Frames published"])
    assert legends(drawn["CPU"]) == set(PROCESSES)


def legends(drawing: str) -> set[str]:
    return set(re.findall(r'class="panel-legend"[^>]*>([^<]*)<', drawing))


@pytest.mark.timeout(DEADLINE_S + 30)
def test_a_build_leaves_no_shared_memory(pages: Path) -> None:
    used = re.search(r"/dev/shm/(tp-docs-\w+)/", screen(pages, "tensorpool status"))
    assert used is not None
    assert not (SHM / used[1]).exists()


def test_without_prometheus_the_build_says_so(tmp_path: Path) -> None:
    built = build(tmp_path / "html", os.environ | {"PATH": str(tmp_path)})
    assert built.returncode != 0
    assert "apt-get install prometheus" in built.stderr


@pytest.mark.timeout(DEADLINE_S + 30)
def test_a_build_that_fails_half_way_leaves_nothing(tmp_path: Path) -> None:
    """Its Prometheus ends at once, when the host and its clients are there already."""
    told = tmp_path / "told"
    broken = tmp_path / "prometheus"
    broken.write_text(f'#!/bin/sh\necho "$@" >"{told}"\necho no storage >&2\nexit 1\n')
    broken.chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    built = build(tmp_path / "html", os.environ | {"PATH": path})
    assert built.returncode != 0
    assert "no storage" in built.stderr
    used = re.search(r"/dev/shm/(tp-docs-\w+)/", told.read_text())
    assert used is not None
    assert not (SHM / used[1]).exists()
