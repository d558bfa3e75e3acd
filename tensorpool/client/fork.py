"""A forked child owns nothing of its parent's: not the lease, not the connection.

The child has a copy of everything but the keeper's thread and Aeron's. Used, the copies would
write into the parent's ring buffers; closed, even by the interpreter's end, they would end the
parent's publications. So the child's copies are made useless and never freed, and every use
of them says so (`ForkedProcess`).
"""

from __future__ import annotations

import os
import weakref
from typing import Protocol

from tensorpool.aeron import forked
from tensorpool.client.errors import ForkedProcess


class _Forkable(Protocol):
    def on_forked(self) -> None:
        """This process is a child of the one that made it."""


_alive: weakref.WeakSet[_Forkable] = weakref.WeakSet()


def watch(owner: _Forkable) -> None:
    """Call `owner.on_forked` in every child that is forked from now on."""
    forked.protect()
    _alive.add(owner)


def refuse() -> ForkedProcess:
    """The error for a child's use of what is its parent's."""
    return ForkedProcess(
        f"process {os.getpid()} was forked from the one that connected: leases and connection "
        "are the parent's. Call tensorpool.connect() in the child, or start it by 'spawn'"
    )


def _in_child() -> None:
    for owner in list(_alive):
        owner.on_forked()


os.register_at_fork(after_in_child=_in_child)
