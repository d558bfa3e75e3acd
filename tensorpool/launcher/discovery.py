"""Where Prometheus finds this host's ports: a file for its file-based service discovery.

`metrics.discovery_file`, without one `<base_dir>/tensorpool-<user>/.<namespace>.targets.json`.
One entry a process, with labels that stay the same however often ports change:

    process     launcher, media_driver, driver, supervisor, gc
    pool        driver.instance_id
    node        the host's name
    instance    <node>/<pool>/<process>

A process that is down has no entry. Replaced whole on every change, removed at the end.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping
from urllib.parse import urlsplit

from tensorpool.errors import HostError
from tensorpool.launcher.host_file import replace_file
from tensorpool.launcher.locks import targets_file_path
from tensorpool.settings import HostSettings

_MODE = 0o644
"""Ports are no secret, and Prometheus runs as a user of its own."""


class TargetsFile:
    """The one writer. The directory must exist."""

    def __init__(self, settings: HostSettings) -> None:
        self._path = settings.metrics.discovery_file or targets_file_path(settings.shm)
        self._pool = settings.driver.instance_id
        self._node = socket.gethostname()
        self._written: dict[str, str] = {}

    def write(self, urls: Mapping[str, str]) -> None:
        """List the processes with these metrics URLs, by name.

        Raises:
            HostError: the file cannot be written.
        """
        if urls == self._written:
            return
        entries = [self._entry(process, url) for process, url in urls.items()]
        try:
            replace_file(self._path, json.dumps(entries, indent=1) + "\n", _MODE)
        except OSError as error:
            raise HostError(
                f"service discovery file {self._path}: {error.strerror}; make its directory, "
                "writable by this user, or set metrics.discovery_file to another path"
            ) from error
        self._written = dict(urls)

    def remove(self) -> None:
        """Take it away, if it is ours."""
        if not self._written:
            return
        for path in (self._path, f"{self._path}.new"):
            try:
                os.unlink(path)
            except OSError:
                continue

    def _entry(self, process: str, url: str) -> dict[str, object]:
        labels = {
            "process": process,
            "pool": self._pool,
            "node": self._node,
            "instance": f"{self._node}/{self._pool}/{process}",
        }
        return {"targets": [urlsplit(url).netloc], "labels": labels}
