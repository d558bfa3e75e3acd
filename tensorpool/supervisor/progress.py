"""Rates and drop counts out of what producers and consumers report about once a second."""

from __future__ import annotations

from dataclasses import dataclass

from tensorpool.clock import NS_PER_MS, NS_PER_S

_MIN_SPAN_NS = 100 * NS_PER_MS
"""Reports closer than this give no rate: the quotient would be noise."""


@dataclass(slots=True)
class Progress:
    """How far somebody is within an epoch, and how fast.

    Attributes:
        epoch, seq: as last reported.
        rate_hz: frames a second between two reports of one epoch; 0 until there are two.
        at_ns: when the report came on which the next rate is based.
    """

    epoch: int = 0
    seq: int = 0
    rate_hz: float = 0.0
    at_ns: int = 0
    _base_seq: int = 0

    def report(self, epoch: int, seq: int, now_ns: int) -> int:
        """Take over a report; how many frames it adds. What was before the first is not known."""
        added = max(seq - self.seq, 0) if epoch == self.epoch else seq + 1
        if not self.at_ns:
            added = 0
        self._take(epoch, seq, now_ns)
        return added

    def _take(self, epoch: int, seq: int, now_ns: int) -> None:
        span_ns = now_ns - self.at_ns
        starts_anew = not self.at_ns or epoch != self.epoch or seq < self.seq
        self.epoch, self.seq = epoch, seq
        if starts_anew:
            self.rate_hz = 0.0
        elif span_ns < _MIN_SPAN_NS:
            return
        else:
            self.rate_hz = (seq - self._base_seq) * NS_PER_S / span_ns
        self.at_ns, self._base_seq = now_ns, seq


@dataclass(slots=True)
class DropCounter:
    """A consumer's own drop totals; a total that shrinks has started again from 0."""

    gap: int = 0
    late: int = 0

    def report(self, gap: int, late: int) -> tuple[int, int]:
        """Take over the totals; how many drops of each sort are new."""
        new_gap = gap - self.gap if gap >= self.gap else gap
        new_late = late - self.late if late >= self.late else late
        self.gap, self.late = gap, late
        return new_gap, new_late
