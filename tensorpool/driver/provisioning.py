"""Epochs made on worker threads; the duty cycle takes the results."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue

from tensorpool.driver.epoch import (
    Epoch,
    EpochPlan,
    Making,
    discard,
    provision,
    put_in_place,
    stage,
)
from tensorpool.errors import HostError
from tensorpool.namespace import prepare_namespace
from tensorpool.settings import ShmSettings

WORKERS = 2
"""Provisionings at a time, of small epochs and of large ones each."""
_LARGE_BYTES = 64 << 20
"""Epochs that take longer than a moment: they have workers of their own, which stand back."""
_LARGE_NICENESS = 10
"""Zeroing gigabytes is work for a processor's whole time. Whoever wakes up to attach, to answer or
to tell goes before it, and on an otherwise busy machine it still gets a share."""


@dataclass(frozen=True, slots=True)
class Provisioned:
    """A worker's result: the epoch, or why there is none."""

    plan: EpochPlan
    epoch: Epoch | None
    error: HostError | None


class Provisioner:
    """Makes epochs on worker threads; results are taken by the duty cycle.

    Attributes:
        in_flight: how many are being made or wait to be taken.
    """

    def __init__(self, shm: ShmSettings, *, prefault: bool, mlock: bool) -> None:
        self._shm = shm
        self.in_flight = 0
        self._is_closing = threading.Event()
        self._how: Making = {
            "prefault": prefault,
            "mlock": mlock,
            "is_abandoned": self._is_closing.is_set,
        }
        self._results: SimpleQueue[Provisioned] = SimpleQueue()
        self._waited_for: Provisioned | None = None
        self._unwanted: deque[Epoch] = deque()
        self._workers = ThreadPoolExecutor(WORKERS, thread_name_prefix="provision")
        self._large_workers = ThreadPoolExecutor(
            WORKERS, thread_name_prefix="provision-large", initializer=_stand_back
        )

    def submit(self, plan: EpochPlan) -> None:
        """Start making the epoch."""
        self._start(plan, provision)

    def prepare(self, plan: EpochPlan) -> None:
        """Start making the epoch, but not in its place: see `put_in_place`."""
        self._start(plan, stage)

    def hand_over(self, result: Provisioned) -> None:
        """Have it taken once more."""
        self.in_flight += 1
        self._results.put(result)

    def put_in_place(self, epoch: Epoch) -> None:
        """Show what was prepared. For the duty cycle.

        Raises:
            HostError: it is not what it was any longer, and goes.
        """
        try:
            put_in_place(epoch, self._shm)
        except HostError:
            self.discard(epoch)
            raise

    def discard(self, epoch: Epoch) -> None:
        """Have what was prepared removed, by a worker."""
        self._unwanted.append(epoch)
        self._workers.submit(self._discard_one)

    def take(self) -> Provisioned | None:
        """A finished one, or None."""
        self.wait(0)
        result, self._waited_for = self._waited_for, None
        if result is not None:
            self.in_flight -= 1
        return result

    def wait(self, at_most_s: float) -> None:
        """Until one is finished; the workers have the interpreter to themselves meanwhile."""
        if self._waited_for is None:
            with suppress(Empty):
                self._waited_for = self._results.get(timeout=at_most_s)

    def close(self) -> None:
        """End the workers, unmap what nobody took and remove what was only prepared."""
        self._is_closing.set()
        for workers in (self._workers, self._large_workers):
            workers.shutdown(wait=True, cancel_futures=True)
        while (result := self.take()) is not None:
            if result.epoch is not None and result.epoch.is_in_place:
                result.epoch.close()
            elif result.epoch is not None:
                self._unwanted.append(result.epoch)
        while self._unwanted:
            self._discard_one()

    def _start(self, plan: EpochPlan, make: Callable[..., Epoch]) -> None:
        self.in_flight += 1
        workers = self._large_workers if plan.total_bytes >= _LARGE_BYTES else self._workers
        workers.submit(self._work, plan, make)

    def _discard_one(self) -> None:
        discard(self._unwanted.popleft())

    def _work(self, plan: EpochPlan, make: Callable[..., Epoch]) -> None:
        try:
            self._results.put(Provisioned(plan, self._make(plan, make), None))
        except HostError as error:
            self._results.put(Provisioned(plan, None, error))
        except Exception as error:  # noqa: BLE001 - a lost result would hang the stream
            self._results.put(Provisioned(plan, None, HostError(f"provisioning failed: {error!r}")))

    def _make(self, plan: EpochPlan, make: Callable[..., Epoch]) -> Epoch:
        try:
            return make(plan, self._shm, **self._how)
        except HostError as error:
            if not isinstance(error.__cause__, FileNotFoundError):
                raise
        # A directory went between its making and its use: the GC took it as empty, or somebody
        # removed the namespace. Once more, from the top.
        os.close(prepare_namespace(self._shm))
        return make(plan, self._shm, **self._how)


def _stand_back() -> None:
    """Lower the calling thread's priority."""
    thread = threading.get_native_id()
    os.setpriority(
        os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, thread) + _LARGE_NICENESS
    )
