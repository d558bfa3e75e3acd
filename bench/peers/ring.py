"""The bare copy, and the standard library's transports: shared memory with a pipe, a queue."""

from __future__ import annotations

import queue
import time
from contextlib import suppress
from multiprocessing import shared_memory
from typing import Any

import numpy as np

from bench.peers.transport import Frame, Receiver, Run, Sender

_HEADER = 64


class _Ring:
    """The slots of a ring, and a flag."""

    def __init__(self, run: Run) -> None:
        self._memory = shared_memory.SharedMemory(name=run.shared["memory"])
        octets: Any = self._memory.buf
        self._slots: list[Any] = [
            np.frombuffer(octets, np.uint8, run.nbytes, _HEADER + run.nbytes * slot)
            for slot in range(run.ring)
        ]
        self._flag = octets[:8].cast("q")

    def close(self) -> None:
        """Unmap; whoever made it unlinks it."""
        self._slots.clear()
        self._flag.release()
        self._memory.close()


class BareCopySender(_Ring, Sender):
    """numpy's copy into a mapped ring, and a flag: the floor, with no bus around it."""

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self._seq = 0

    def send(self, array: Any, *, blocking: bool) -> None:
        """Nobody is woken: a flag cannot."""
        np.copyto(self._slots[self._seq % len(self._slots)], array)
        self._seq += 1
        self._flag[0] = self._seq


class BareCopyReceiver(_Ring, Receiver):
    """Looks at the flag."""

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self._seen = self._flag[0]

    def poll(self) -> Frame | None:
        """The next slot; slots that were overwritten are passed over."""
        newest = self._flag[0]
        if newest == self._seen:
            return None
        self._seen = max(self._seen, newest - len(self._slots) + 1) + 1
        frame: Frame = self._slots[(self._seen - 1) % len(self._slots)]
        return frame

    def wait(self, timeout_s: float) -> Frame | None:
        """Has nothing to wait on, and naps."""
        deadline = time.monotonic() + timeout_s
        while (frame := self.poll()) is None and time.monotonic() < deadline:
            time.sleep(50e-6)
        return frame


class PipeSender(_Ring, Sender):
    """A ring in `multiprocessing.shared_memory`, slot numbers through a pipe to each consumer."""

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self._pipes = [there for _, there in run.shared["pipes"]]
        self._seq = 0

    def send(self, array: Any, *, blocking: bool) -> None:
        """A full pipe blocks."""
        slot = self._seq % len(self._slots)
        np.copyto(self._slots[slot], array)
        message = slot.to_bytes(4, "little")
        for pipe in self._pipes:
            pipe.send_bytes(message)
        self._seq += 1


class PipeReceiver(_Ring, Receiver):
    """Reads slot numbers."""

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self._pipe = run.shared["pipes"][run.index][0]

    def poll(self) -> Frame | None:
        """The slot that the pipe names next."""
        return self.wait(0)

    def wait(self, timeout_s: float) -> Frame | None:
        """Blocks in the kernel."""
        if not self._pipe.poll(timeout_s):
            return None
        frame: Frame = self._slots[int.from_bytes(self._pipe.recv_bytes(), "little")]
        return frame


class QueueSender(Sender):
    """`multiprocessing.Queue`, one for each consumer."""

    def __init__(self, run: Run) -> None:
        self._queues = run.shared["queues"]

    def send(self, array: Any, *, blocking: bool) -> None:
        """A copy: the queue pickles later, on a thread of its own. A full queue blocks."""
        for each in self._queues:
            with suppress(queue.Full):  # nobody takes any more: the phase is over
                each.put(array.copy(), timeout=1)

    def close(self) -> None:
        """What nobody reads any more must not keep the process alive."""
        for each in self._queues:
            each.cancel_join_thread()


class QueueReceiver(Receiver):
    """Takes from its queue."""

    def __init__(self, run: Run) -> None:
        self._queue = run.shared["queues"][run.index]

    def poll(self) -> Frame | None:
        """What is there."""
        try:
            frame: Frame = self._queue.get_nowait()
        except queue.Empty:
            return None
        return frame

    def wait(self, timeout_s: float) -> Frame | None:
        """Blocks in the kernel."""
        try:
            frame: Frame = self._queue.get(timeout=timeout_s)
        except queue.Empty:
            return None
        return frame
