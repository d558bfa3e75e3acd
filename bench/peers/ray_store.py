"""Ray's object store: frames as objects, their references through an actor that both sides know."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from bench.peers.transport import Frame, Receiver, Run, Sender

_STORE_BYTES = 1 << 30
_MOST_WAITING = 64
_MAILBOX = "mailbox"
_MOMENT_S = 0.01


class Mailbox:
    """An actor: references of the frames that nobody took yet, the newest of them."""

    def __init__(self) -> None:
        self._waiting: deque[Any] = deque(maxlen=_MOST_WAITING)
        self._arrived = asyncio.Event()

    async def put(self, wrapped: list[Any]) -> None:
        """A reference, in a list so that it is passed on as it is."""
        self._waiting.extend(wrapped)
        self._arrived.set()

    async def take(self, timeout_s: float) -> list[Any]:
        """All that wait, or come within that time."""
        if not self._waiting and timeout_s:
            self._arrived.clear()
            try:
                await asyncio.wait_for(self._arrived.wait(), timeout_s)
            except TimeoutError:
                return []
        taken = list(self._waiting)
        self._waiting.clear()
        return taken


@contextmanager
def cluster() -> Iterator[dict[str, str]]:
    """A Ray of its own for one run: its address."""
    import ray  # noqa: PLC0415 - of the optional environment

    ray.init(
        num_cpus=2,
        object_store_memory=_STORE_BYTES,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        configure_logging=False,
    )
    try:
        mailbox = ray.remote(num_cpus=0)(Mailbox).options(name=_MAILBOX, namespace="bench")
        held = mailbox.remote()
        ray.get(held.take.remote(0))
        yield {"address": ray.get_runtime_context().gcs_address}
    finally:
        ray.shutdown()


class RaySender(Sender):
    """`ray.put`, and the reference to the mailbox."""

    def __init__(self, run: Run) -> None:
        self._ray, self._mailbox = _connect(run)

    def send(self, array: Any, *, blocking: bool) -> None:
        """Copied into the object store."""
        self._mailbox.put.remote([self._ray.put(array)])

    def close(self) -> None:
        """Disconnect."""
        self._ray.shutdown()


class RayReceiver(Receiver):
    """`ray.get` of what the mailbox holds: arrays in the object store, not copied."""

    def __init__(self, run: Run) -> None:
        self._ray, self._mailbox = _connect(run)
        self._taken: deque[Any] = deque()

    def poll(self) -> Frame | None:
        """What comes within a moment: questions without end would only keep the actor busy."""
        return self.wait(_MOMENT_S)

    def wait(self, timeout_s: float) -> Frame | None:
        """Blocks on the actor's answer."""
        if not self._taken:
            self._taken.extend(self._ray.get(self._mailbox.take.remote(timeout_s)))
        return self._ray.get(self._taken.popleft()).data if self._taken else None

    def close(self) -> None:
        """Disconnect."""
        self._ray.shutdown()


def _connect(run: Run) -> tuple[Any, Any]:
    import ray  # noqa: PLC0415

    ray.init(
        address=run.shared["address"],
        namespace="bench",
        log_to_driver=False,
        logging_level="ERROR",
        configure_logging=False,
    )
    return ray, ray.get_actor(_MAILBOX)
