"""How a child ended, in words for the operator."""

from __future__ import annotations

import enum
import signal
from dataclasses import dataclass

from tensorpool.child import ExitCode, Failed


class ExitKind(enum.StrEnum):
    """How a child ended, in one word: a label of the metrics."""

    HUNG = "hung"
    """The launcher killed it: no sign of life."""
    SIGNAL = "signal"
    """Somebody's signal, or a fault that the kernel answers with one."""
    ERROR = "error"
    """It said why, or its exit status did."""
    UNASKED = "unasked"
    """With exit status 0, but nobody had told it to end."""
    NOT_STARTED = "not_started"
    """The system refused another process."""


@dataclass(frozen=True, slots=True)
class Exit:
    """A child's end. `is_fatal`: no restart can help."""

    code: int
    reason: str
    is_fatal: bool
    kind: ExitKind = ExitKind.ERROR


def explain(code: int, failed: Failed | None, killed_because: str | None = None) -> Exit:
    """The end of a child.

    Args:
        code: its exit status, or the negative number of the signal that ended it.
        failed: what it said before it ended.
        killed_because: why the launcher itself killed it, if it did.
    """
    if killed_because is not None:
        return Exit(code, killed_because, is_fatal=False, kind=ExitKind.HUNG)
    if failed is not None:
        return Exit(code, failed.reason, failed.fatal)
    if code < 0:
        return Exit(code, _signal_text(-code), is_fatal=False, kind=ExitKind.SIGNAL)
    if code == ExitCode.OK:
        why = "ended without being told to"
        return Exit(code, why, is_fatal=False, kind=ExitKind.UNASKED)
    return Exit(code, f"exit status {code}, no reason given", code == ExitCode.FATAL)


def _signal_text(number: int) -> str:
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = f"signal {number}"
    if number == signal.SIGKILL:
        return (
            "killed by SIGKILL: by somebody, or by the kernel for want of memory (`dmesg`, or "
            "oom_kill in the cgroup's memory.events, tells)"
        )
    if number == signal.SIGBUS:
        return "killed by SIGBUS: the file system that holds its memory is full or went away"
    return f"killed by {name}"
