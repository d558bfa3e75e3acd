"""A Prometheus that scrapes a host of the build, with the configuration that we ship."""

import http.client
import json
import re
import shutil
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from docs.screens.processes import clean_environment, running
from docs.screens.waiting import NotShown, wait_for

SCRAPE_S = 0.5
_SHIPPED = Path(__file__).parents[2] / "deploy" / "prometheus"
_SHIPPED_TARGETS = "/run/tensorpool/*.json"
_ANSWER_S = 30.0


def program() -> str:
    """The path of the installed `prometheus`.

    Raises:
        NotShown: there is none.
    """
    path = shutil.which("prometheus")
    if path is None:
        raise NotShown(
            "the documentation shows the dashboard's panels as a live host fills them, "
            "and needs a Prometheus: apt-get install prometheus (Debian, Ubuntu)"
        )
    return path


class Prometheus:
    """A running server; its HTTP API."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self._process = process
        self._log = log

    def wait_scraped(self, processes: set[str]) -> None:
        """Until it has scraped each of these processes of the host.

        Raises:
            NotShown: it ended, or has not in time.
        """

        def is_over() -> bool:
            return self._process.poll() is not None or self._healthy() >= processes

        wait_for(is_over, lambda: f"{processes}, not only {self._healthy()}, to be scraped")
        if self._process.poll() is not None:
            raise NotShown(f"Prometheus ended\n{self._log.read_text(encoding='utf-8')}")

    def query_range(
        self, expression: str, start: float, end: float
    ) -> list[tuple[dict[str, str], list[tuple[float, float]]]]:
        """Labels and points (time, value) of each series of `expression`, a point a scrape."""
        found = self._get("query_range", query=expression, start=start, end=end, step=SCRAPE_S)
        return [
            (item["metric"], [(float(at), float(value)) for at, value in item["values"]])
            for item in found["result"]
        ]

    def _healthy(self) -> set[str]:
        """Names of the processes that the last scrapes reached; none before it is ready."""
        with suppress(urllib.error.URLError, OSError, http.client.HTTPException):
            targets = self._get("targets", state="active")["activeTargets"]
            return {item["labels"]["process"] for item in targets if item["health"] == "up"}
        return set()

    def _get(self, path: str, **parameters: Any) -> Any:
        query = urllib.parse.urlencode(parameters)
        url = f"http://127.0.0.1:{self._port()}/api/v1/{path}?{query}"
        with urllib.request.urlopen(url, timeout=_ANSWER_S) as answer:
            return json.load(answer)["data"]

    def _port(self) -> int:
        """The one that the kernel gave it."""
        with suppress(psutil.NoSuchProcess):
            for socket in psutil.Process(self._process.pid).net_connections("tcp"):
                if socket.status == psutil.CONN_LISTEN:
                    return int(socket.laddr.port)
        raise ConnectionRefusedError


@contextmanager
def prometheus(directory: Path, targets: Path) -> Iterator[Prometheus]:
    """Run one in `directory`; it takes some seconds until it scrapes.

    Raises:
        NotShown: there is no Prometheus.
    """
    directory.mkdir()
    config, log = directory / "prometheus.yml", directory / "log"
    shutil.copy(_SHIPPED / "alerts.yml", directory)
    config.write_text(_configuration(targets), encoding="utf-8")
    command = (
        program(),
        f"--config.file={config}",
        f"--storage.tsdb.path={directory / 'data'}",
        "--web.listen-address=127.0.0.1:0",
    )
    with running(command, clean_environment(), log) as process:
        yield Prometheus(process, log)


def _configuration(targets: Path) -> str:
    """The shipped one, for this host; a build has seconds where an operator has minutes."""
    shipped = (_SHIPPED / "prometheus.yml").read_text(encoding="utf-8")
    ours = shipped.replace(_SHIPPED_TARGETS, str(targets))
    return re.sub(r"_interval: \w+", f"_interval: {SCRAPE_S * 1000:.0f}ms", ours)
