"""Structured logs: readable on a terminal, JSON lines otherwise, ids as fields.

Every line has `process`; what it is about is told by fields of fixed names: `stream_id`,
`lease_id`, `client_id` (`consumer_id` where the wire calls it so), `session_id` and
`aeron_stream_id` of Aeron, `child` and `pid` of a process, `epoch`, `why`.

What a peer could flood is limited twice: `RateLimit` and `BackOff` where the code knows of it,
and for every line of code by `FloodGuard`. `suppressed` says how many lines were kept back.

Standard logging with python-json-logger: importing structlog instead costs about 150 ms
in each of five processes (measured), half of what a host takes to be ready.
"""

from __future__ import annotations

import json
import logging
import sys
import threading
import time
from collections.abc import Mapping

from tensorpool.clock import NS_PER_S, monotonic_ns

TRACE = 5
LEVELS = (logging.ERROR, logging.WARNING, logging.INFO, logging.DEBUG, TRACE)
"""Python levels by TP_LOG_LEVEL: 0 ERROR, 1 WARN, 2 INFO, 3 DEBUG, 4 TRACE."""

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "process_role"}


class _TerminalFormatter(logging.Formatter):
    """`12:00:00.123 INFO  driver  lease attached  stream_id=10000 lease_id=1`."""

    def format(self, record: logging.LogRecord) -> str:
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        role = getattr(record, "process_role", "")
        fields = "".join(f" {key}={_shown(value)}" for key, value in _ids(record).items())
        line = (
            f"{clock}.{int(record.msecs):03d} {record.levelname:<7} {role:<12} "
            f"{record.getMessage()}{' ' if fields else ''}{fields}"
        )
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def _shown(value: object) -> str:
    """A field's value: what a peer sent may hold anything, none of which reaches the terminal."""
    text = str(value)
    return text if text and text.isprintable() and " " not in text else json.dumps(text)


def _ids(record: logging.LogRecord) -> Mapping[str, object]:
    return {key: value for key, value in vars(record).items() if key not in _STANDARD}


def configure(process_role: str, level: int) -> None:
    """Send this process's log to standard error, at TP_LOG_LEVEL `level` (0..4)."""
    logging.addLevelName(TRACE, "TRACE")
    handler = logging.StreamHandler(sys.stderr)
    if sys.stderr.isatty():
        handler.setFormatter(_TerminalFormatter())
    else:
        from pythonjsonlogger.json import JsonFormatter  # noqa: PLC0415 - 30 ms, when needed

        handler.setFormatter(
            JsonFormatter(
                "%(levelname)s %(message)s",
                rename_fields={"levelname": "level"},
                static_fields={"process": process_role},
                timestamp=True,
            )
        )

    def tag(record: logging.LogRecord) -> bool:
        record.process_role = process_role
        return True

    if sys.stderr.isatty():
        handler.addFilter(tag)
    handler.addFilter(FloodGuard())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    set_level(level)


def set_level(level: int) -> None:
    """Change the level (0..4) of this process's log."""
    logging.getLogger().setLevel(LEVELS[level])


class RateLimit:
    """At most one line per `period_ns` for what a peer could flood; tells how many were kept back.

    if (suppressed := limit.take()) is not None: log.warning(..., extra=counted(suppressed))
    """

    def __init__(self, period_ns: int = NS_PER_S) -> None:
        self._period_ns = period_ns
        self._next_ns = 0
        self._suppressed = 0

    def take(self) -> int | None:
        """How many were kept back since the last line, or None if this one must be too."""
        now = monotonic_ns()
        if now < self._next_ns:
            self._suppressed += 1
            return None
        self._next_ns = now + self._period_ns
        suppressed, self._suppressed = self._suppressed, 0
        return suppressed


class BackOff(RateLimit):
    """A limit whose period doubles with each line, for a fault that lasts; `reset` when it ends."""

    def __init__(self, first_ns: int = NS_PER_S, longest_ns: int = 60 * NS_PER_S) -> None:
        super().__init__(first_ns)
        self._first_ns = first_ns
        self._longest_ns = longest_ns

    def take(self) -> int | None:
        """As `RateLimit`; a line that is written makes the wait for the next one longer."""
        suppressed = super().take()
        if suppressed is not None:
            self._period_ns = min(2 * self._period_ns, self._longest_ns)
        return suppressed

    def reset(self) -> None:
        """The fault is over: the next one is told at once."""
        self._period_ns, self._next_ns, self._suppressed = self._first_ns, 0, 0


def counted(suppressed: int) -> dict[str, object]:
    """The field that says how many lines were kept back, if any were."""
    return {"suppressed": suppressed} if suppressed else {}


class FloodGuard(logging.Filter):
    """The last resort: at most `burst` lines at once and `rate` a second from one line of code.

    DEBUG and TRACE pass: who asks for them wants everything. The next line from there that is
    written says how many were kept back.
    """

    def __init__(self, *, burst: int = 200, rate: int = 20) -> None:
        super().__init__()
        self._burst = burst
        self._refill_ns = NS_PER_S // rate
        self._lock = threading.Lock()
        self._full_at_ns: dict[tuple[str, int], int] = {}
        self._suppressed: dict[tuple[str, int], int] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the line is written."""
        if record.levelno < logging.INFO:
            return True
        source, now = (record.pathname, record.lineno), monotonic_ns()
        with self._lock:
            # When the source's allowance is whole again; each line puts that off.
            full_at = max(self._full_at_ns.get(source, 0), now) + self._refill_ns
            if full_at - now > self._burst * self._refill_ns:
                self._suppressed[source] = self._suppressed.get(source, 0) + 1
                return False
            self._full_at_ns[source] = full_at
            suppressed = self._suppressed.pop(source, 0)
        if suppressed:
            record.suppressed = getattr(record, "suppressed", 0) + suppressed
        return True
