"""Processes of a host one by one, started as the launcher starts them."""

from __future__ import annotations

import multiprocessing
import os
import signal
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Any

from tensorpool.child import Ready
from tensorpool.launcher.child_main import main
from tensorpool.settings import HostSettings
from tests.support import wait_until

DEADLINE_S = 20.0

_spawn = multiprocessing.get_context("spawn")


@dataclass
class Child:
    """A process of the host, started as the launcher starts it."""

    name: str
    entry: str
    settings: HostSettings
    told: list[Any] = field(default_factory=list)

    def start(self) -> Child:
        self.link, theirs = _spawn.Pipe()
        self.process: SpawnProcess = _spawn.Process(
            target=main, args=(self.name, self.entry, self.settings, theirs, ())
        )
        self.process.start()
        theirs.close()
        return self

    def await_message(self, kind: type) -> None:
        def is_told() -> bool:
            _drain(self.link, self.told)
            return any(isinstance(message, kind) for message in self.told)

        wait_until(is_told, DEADLINE_S, lambda: f"{kind.__name__} of {self.name}: {self.told}")

    def end(self, number: int = signal.SIGTERM) -> int | None:
        if self.process.pid is not None and self.process.is_alive():
            os.kill(self.process.pid, number)
        self.process.join(DEADLINE_S)
        self.link.close()
        return self.process.exitcode


def _drain(link: Connection, into: list[Any]) -> None:
    try:
        while link.poll():
            into.append(link.recv())
    except EOFError:
        return


def media_driver(settings: HostSettings) -> Child:
    child = Child("media_driver", "tensorpool.aeron.media_driver:run", settings).start()
    child.await_message(Ready)
    return child
