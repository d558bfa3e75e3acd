"""A connection over something in the binding's place, for what the real one cannot do on demand."""

from __future__ import annotations

import threading
import weakref

from tensorpool.aeron.client import AeronClient


def client_of(binding: object) -> AeronClient:
    """An `AeronClient` that asks `binding` for everything."""
    client = AeronClient.__new__(AeronClient)
    client._raw = binding
    client._lock, client._is_closing, client._open = threading.Lock(), False, weakref.WeakSet()
    client._made, client._remembered = 0, None
    return client
