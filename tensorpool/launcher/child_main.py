"""Where a spawned child begins: its role's module is imported here, and only here."""

from __future__ import annotations

import ctypes
import os
from importlib import import_module
from multiprocessing import reduction
from multiprocessing.connection import Connection
from typing import Any

from tensorpool.child import FatalError, LauncherLink, exit_with
from tensorpool.settings import HostSettings

_PR_SET_NAME = 15


class InheritedFd:
    """A descriptor that a spawned child shares with its parent, and holds until it ends."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def __reduce__(self) -> tuple[Any, ...]:
        return _inherit, (reduction.DupFd(self._fd),)


def _inherit(duplicate: Any) -> InheritedFd:
    fd: int = duplicate.detach()
    os.set_inheritable(fd, False)  # noqa: FBT003 - its only way
    return InheritedFd(fd)


def main(
    name: str,
    entry: str,
    settings: HostSettings,
    connection: Connection,
    _locks: tuple[InheritedFd, ...],
) -> None:
    """Run the role at `entry` (`module:function`) in this process."""
    # For `ps` and `top`, where every spawned process would be a "python".
    ctypes.CDLL(None).prctl(_PR_SET_NAME, f"tp-{name}".encode())
    link = LauncherLink(connection)
    module, _, function = entry.partition(":")
    try:
        run = getattr(import_module(module), function)
    except ImportError as error:
        exit_with(
            FatalError(f"{module} cannot be imported: {error}; install tensorpool anew"), link
        )
    try:
        run(settings, link)
    except Exception as error:  # noqa: BLE001 - the outermost frame reports and ends
        exit_with(error, link)
