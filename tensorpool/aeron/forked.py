"""Keeps a forked child from ending its parent's Aeron resources.

A child has the parent's mappings of the media driver's buffers, but no conductor thread.
Freeing a publication there sends the media driver the parent's id for it. So in a child the
binding's objects are never freed: one reference each is given away for good.
"""

from __future__ import annotations

import ctypes
import os
import weakref
from typing import Any, Protocol


class _Holder(Protocol):
    def abandon(self) -> object:
        """Forget the binding's object, and return it."""


_holders: weakref.WeakSet[_Holder] = weakref.WeakSet()
_is_protecting = False


def hold(holder: _Holder) -> None:
    """Remember who holds an object of the binding."""
    _holders.add(holder)


def protect() -> None:
    """From now on children that are forked leave everything alone; idempotent."""
    global _is_protecting  # noqa: PLW0603 - once a process
    if not _is_protecting:
        _is_protecting = True
        os.register_at_fork(after_in_child=_abandon_all)


class Abandoned:
    """Stands for an object of the binding in a forked child: harmless, useless."""

    is_closed = True
    is_connected = False
    image_count = 0
    session_id = 0

    def close(self) -> None:
        """Nothing: it is the parent's."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(f"{name}: this Aeron client belongs to the parent process")


def _abandon_all() -> None:
    for holder in list(_holders):
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(holder.abandon()))
