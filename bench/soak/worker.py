"""A process of a soak: one pool, many clients, and the parent's handle on it."""

from __future__ import annotations

import logging
import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection

import tensorpool
from bench.soak.clients import Tally, make_client
from bench.soak.in_use import collect_and_measure
from bench.soak.plan import Job
from tensorpool.client.events import PoolEvent
from tensorpool.clock import NS_PER_MS, NS_PER_S, monotonic_ns

_TICK_NS = 50 * NS_PER_MS
_MEASURE_NS = 60 * NS_PER_S
_LINGER_S = 1.0
_TRIES = 10
_ANSWER_TIMEOUT_S = 30.0
_END_TIMEOUT_S = 60.0
_REPORT, _STOP = "report", "stop"
_SPAWN = multiprocessing.get_context("spawn")


@dataclass(frozen=True, slots=True)
class Churn:
    """How often clients detach and attach again.

    Attributes:
        hz: a second.
        haste: so many times as often before `warm_at`.
        warm_at: by time.monotonic.
    """

    hz: float
    haste: float
    warm_at: float

    def period_ns(self) -> int:
        """From one to the next, now."""
        is_warm = time.monotonic() >= self.warm_at
        return int(NS_PER_S / (self.hz if is_warm else self.hz * self.haste))


def work(pipe: Connection, config: str, jobs: list[Job], rate_hz: float, churn: Churn) -> None:
    """Serve `jobs` until the parent says stop, or is gone; the process's main function."""
    # A Ctrl-C in the terminal is the parent's affair, who lets us detach.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    tally = Tally()
    logging.getLogger("tensorpool").addHandler(_Counting(tally))

    def on_event(event: PoolEvent) -> None:
        tally.events[event.what] += 1
        if event.what == "protocol_error":
            tally.fault(f"protocol error on stream {event.stream_id}: {event.detail}")

    with _connect(config, on_event) as pool, suppress(EOFError, BrokenPipeError):
        clients = [make_client(pool, job, tally, rate_hz=rate_hz) for job in jobs]
        next_churn_ns = monotonic_ns() + random.randrange(churn.period_ns())
        next_measure_ns = monotonic_ns()
        while True:
            started_ns = monotonic_ns()
            for client in clients:
                client.step(monotonic_ns())
            if clients and started_ns >= next_churn_ns:
                next_churn_ns = max(next_churn_ns + churn.period_ns(), started_ns)
                random.choice(clients).detach(random.choice((0, _LINGER_S)))
            if started_ns >= next_measure_ns:
                next_measure_ns = started_ns + _MEASURE_NS
                tally.in_use = collect_and_measure()
            if pipe.poll():
                if pipe.recv() == _STOP:
                    break
                pipe.send(tally)
            time.sleep(max(0, started_ns + _TICK_NS - monotonic_ns()) / NS_PER_S)
        for client in clients:
            client.detach(0)
        pipe.send(tally)


def _connect(config: str, on_event: Callable[[PoolEvent], None]) -> tensorpool.Pool:
    """Connect; a media driver that is short of processor time may answer at the next try.

    Raises:
        MediaDriverLost: nor did it at the last one.
    """
    for _ in range(_TRIES - 1):
        with suppress(tensorpool.MediaDriverLost):
            return tensorpool.connect(config, on_event=on_event)
    return tensorpool.connect(config, on_event=on_event)


class _Counting(logging.Handler):
    """Counts what the library logs: much of it is meant, for the soak stops and kills."""

    def __init__(self, tally: Tally) -> None:
        super().__init__(logging.WARNING)
        self._tally = tally

    def emit(self, record: logging.LogRecord) -> None:
        self._tally.logged[record.getMessage()] += 1
        if record.levelno >= logging.ERROR:
            self._tally.fault(f"logged: {self.format(record)}")


class Worker:
    """The parent's handle on one such process."""

    def __init__(self, config: str, jobs: list[Job], rate_hz: float, churn: Churn) -> None:
        self._pipe, theirs = _SPAWN.Pipe()
        self._process = _SPAWN.Process(
            target=work, args=(theirs, config, jobs, rate_hz, churn), daemon=True
        )
        self._process.start()
        theirs.close()
        self.tally = Tally()
        """As of its last answer."""
        self.is_frozen = False

    @property
    def pid(self) -> int:
        """Its process."""
        return self._process.pid or 0

    @property
    def is_alive(self) -> bool:
        """Whether the process runs, even if it is frozen."""
        return self._process.is_alive()

    @property
    def exit_code(self) -> int | None:
        """How it ended; negative: by that signal; None: it runs."""
        return self._process.exitcode

    def ask(self) -> Tally:
        """Its tally now.

        Raises:
            TimeoutError: it does not answer.
            EOFError, OSError: it ended.
        """
        self._pipe.send(_REPORT)
        self._take_answer(_ANSWER_TIMEOUT_S)
        return self.tally

    def freeze(self) -> None:
        """SIGSTOP: its leases expire though it lives."""
        os.kill(self.pid, signal.SIGSTOP)
        self.is_frozen = True

    def thaw(self) -> None:
        """SIGCONT; nothing if it is not frozen."""
        if self.is_frozen:
            with suppress(ProcessLookupError):  # it has ended, which the crew will notice
                os.kill(self.pid, signal.SIGCONT)
            self.is_frozen = False

    def ask_to_stop(self) -> None:
        """Let it detach and end; `stop` waits for it."""
        self.thaw()
        with suppress(OSError):  # it may end meanwhile
            self._pipe.send(_STOP)

    def stop(self) -> str | None:
        """Wait until it has detached and ended; what was wrong with that, or None."""
        try:
            self._take_answer(_END_TIMEOUT_S)
            self._process.join(_END_TIMEOUT_S)
        except (TimeoutError, EOFError, OSError) as error:
            self.kill()
            return f"worker {self.pid} did not detach: {type(error).__name__} {error}"
        code = self.exit_code
        self.kill()
        return f"worker {self.pid} ended with status {code}" if code else None

    def kill(self) -> None:
        """SIGKILL, if it still runs."""
        self._process.kill()
        self._process.join()
        self._pipe.close()

    def _take_answer(self, timeout_s: float) -> None:
        if not self._pipe.poll(timeout_s):
            raise TimeoutError(f"no answer within {timeout_s:g} s")
        answer: Tally = self._pipe.recv()
        self.tally = answer
