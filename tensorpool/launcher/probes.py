"""What a health check may ask of the launcher: `/healthz` and `/readyz`.

Alive is: the launcher's own loop turns. A restart of the host cures neither a full file system
nor a client, so neither makes it unhealthy. Ready is: every child serves, and the driver says
so of itself, by its heartbeat in the registry.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from http import HTTPStatus

from tensorpool.clock import NS_PER_S, monotonic_ns
from tensorpool.launcher.child_process import ChildProcess
from tensorpool.metrics import Answer, Route
from tensorpool.settings import ShmSettings

_LOOP_LIMIT_NS = 10 * NS_PER_S
"""The loop turns at least once a second."""


class Probes:
    """Answers on the metrics server's thread from what the launcher's loop leaves behind.

    Attributes:
        is_draining: set by the loop when it no longer wants anything new.
    """

    def __init__(self, children: Sequence[ChildProcess], shm: ShmSettings) -> None:
        self.is_draining = False
        self._children = children
        self._registry_path = shm.registry_path
        self._turned_ns = monotonic_ns()

    def on_turn(self) -> None:
        """The loop turned."""
        self._turned_ns = monotonic_ns()

    def routes(self) -> Mapping[str, Route]:
        """What to serve."""
        return {"/healthz": self._health, "/readyz": self._readiness}

    def driver_problem(self) -> str | None:
        """Why the driver does not serve by what its registry says, None if it does."""
        # Only a host that serves metrics pays for the import.
        from tensorpool.registry import (  # noqa: PLC0415
            DriverState,
            RegistryError,
            RegistryReader,
        )

        try:
            with RegistryReader(self._registry_path) as registry:
                if not registry.is_writer_alive():
                    return "driver: no heartbeat in the registry"
                if registry.state is not DriverState.SERVING:
                    return f"driver: {registry.state.name.lower()}"
        except (RegistryError, ValueError) as error:
            return f"driver: {error}"
        return None

    def _health(self) -> Answer:
        silent_ns = monotonic_ns() - self._turned_ns
        if silent_ns < _LOOP_LIMIT_NS:
            return Answer(b"ok\n")
        text = f"the launcher's loop has not turned for {silent_ns // NS_PER_S} s\n"
        return Answer(text.encode(), HTTPStatus.SERVICE_UNAVAILABLE)

    def _readiness(self) -> Answer:
        problems = list(self._problems())
        body = json.dumps({"ready": not problems, "problems": problems}).encode() + b"\n"
        status = HTTPStatus.SERVICE_UNAVAILABLE if problems else HTTPStatus.OK
        return Answer(body, status, "application/json")

    def _problems(self) -> Iterator[str]:
        if self.is_draining:
            yield "draining"
        for child in self._children:
            if not child.is_satisfied:
                yield f"{child.name}: {child.state.name}"
        if (problem := self.driver_problem()) is not None:
            yield problem
