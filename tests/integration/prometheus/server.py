"""A real Prometheus as a test subject, with the configuration that we ship.

Paths and times of that configuration are replaced, nothing else: the discovery file is the
host's, scrapes come twice a second, and alerts look back seconds instead of minutes.
"""

import json
import re
import shutil
import socket
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.markdown import ROOT
from tests.support import wait_until

SHIPPED = ROOT / "deploy" / "prometheus"
WINDOW = "20s"
DEADLINE_S = 60.0


def tool(name: str) -> str:
    """The path of `prometheus` or `promtool`."""
    path = shutil.which(name)
    assert path is not None, f"{name} is missing: apt-get install prometheus (Debian, Ubuntu)"
    return path


def promtool(*arguments: str | Path, text: str | None = None) -> str:
    """Run promtool; what it said. It must accept what it is given."""
    done = subprocess.run(
        [tool("promtool"), *map(str, arguments)],
        input=text,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    return said


def shortened(rules: str) -> str:
    """Alert rules whose windows are seconds and which fire at once."""
    rules = re.sub(r"\[\d+m\]", f"[{WINDOW}]", rules)
    return re.sub(r"^( +for: ).*$", r"\g<1>1s", rules, flags=re.MULTILINE)


class Prometheus:
    """One server with a directory of its own."""

    def __init__(self, directory: Path, targets: Path) -> None:
        self.directory = directory
        self.config = directory / "prometheus.yml"
        self.log = directory / "log"
        config = (SHIPPED / "prometheus.yml").read_text(encoding="utf-8")
        config = config.replace("/run/tensorpool/*.json", str(targets))
        self.config.write_text(re.sub(r"_interval: \w+", "_interval: 500ms", config))
        rules = (SHIPPED / "alerts.yml").read_text(encoding="utf-8")
        (directory / "alerts.yml").write_text(shortened(rules))
        promtool("check", "config", self.config)
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.address = f"127.0.0.1:{free.getsockname()[1]}"

    @contextmanager
    def running(self) -> Iterator["Prometheus"]:
        """Run it."""
        with (
            self.log.open("ab") as log,
            subprocess.Popen(
                [
                    tool("prometheus"),
                    f"--config.file={self.config}",
                    f"--storage.tsdb.path={self.directory / 'data'}",
                    f"--web.listen-address={self.address}",
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            ) as process,
        ):
            try:
                wait_until(
                    lambda: self.is_ready or process.poll() is not None,
                    DEADLINE_S,
                    lambda: f"Prometheus to be ready\n{self.log.read_text()}",
                )
                assert process.poll() is None, self.log.read_text()
                yield self
            finally:
                process.kill()

    @property
    def is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://{self.address}/-/ready", timeout=5):
                return True
        except (urllib.error.URLError, OSError):
            return False

    def get(self, path: str, **parameters: str) -> Any:
        """`data` of an answer of its HTTP API."""
        query = urllib.parse.urlencode(parameters)
        url = f"http://{self.address}/api/v1/{path}?{query}"
        try:
            with urllib.request.urlopen(url, timeout=10) as response:
                return json.load(response)["data"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{parameters}: {error.read().decode()}") from error

    def query(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """Labels and value of each series that `expression` gives now."""
        data = self.get("query", query=expression)
        if data["resultType"] == "scalar":
            return [({}, float(data["result"][1]))]
        return [(item["metric"], float(item["value"][1])) for item in data["result"]]

    def healthy_processes(self) -> set[str]:
        """Names of the processes that it scrapes now, without a fault."""
        targets = self.get("targets", state="active")["activeTargets"]
        return {item["labels"]["process"] for item in targets if item["health"] == "up"}

    def firing(self) -> dict[str, list[dict[str, Any]]]:
        """Alerts that fire now, by name."""
        found: dict[str, list[dict[str, Any]]] = {}
        for alert in self.get("alerts")["alerts"]:
            if alert["state"] == "firing":
                found.setdefault(alert["labels"]["alertname"], []).append(alert)
        return found
