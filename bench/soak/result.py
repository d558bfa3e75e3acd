"""What a soak has found: its series with their trends, and what is not as it must be."""

from __future__ import annotations

import json
import platform
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from bench.soak.clients import Tally
from bench.soak.plan import Plan
from bench.soak.sampler import Sampler, Series
from bench.soak.trend import Trend, Verdict, trend
from tensorpool.version import __version__

_MINUTE_S = 60.0
_MOST_WARM_UP_SHARE = 0.5


@dataclass
class Result:
    """One soak.

    Attributes:
        interrupted_by: the signal that ended it early, None if none did.
        lasted_s: from the first sample to the last.
        load: load average of the machine at the last sample.
        totals: the host's counters at the end.
        problems: why it failed, in words; what the trends say comes on top.
    """

    plan: Plan
    sampler: Sampler
    when: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    root: str = ""
    interrupted_by: str | None = None
    tally: Tally = field(default_factory=Tally)
    faults: dict[str, int] = field(default_factory=dict)
    totals: dict[str, float] = field(default_factory=dict)
    loads: list[float] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def lasted_s(self) -> float:
        """From the first sample to the last."""
        times = self.sampler.times_s
        return times[-1] if times else 0.0

    @property
    def warm_up_s(self) -> float:
        """What is left out of the trends: as planned; half of a soak that was ended early."""
        return min(self.plan.warm_up_minutes * _MINUTE_S, _MOST_WARM_UP_SHARE * self.lasted_s)

    def trends(self) -> dict[Series, Trend]:
        """What each series does after the warm-up."""
        self.sampler.part_logs(self.warm_up_s)
        found = {}
        for series in self.sampler.series():
            times, values = self.sampler.curve(series)
            first = next((n for n, at in enumerate(times) if at >= self.warm_up_s), len(times) - 1)
            found[series] = trend(times[first:], values[first:], series.measure.slack)
        return found

    def growing(self) -> list[Series]:
        """The series whose growth fails the soak."""
        return [
            series
            for series, found in self.trends().items()
            if series.measure.is_judged and found.verdict is Verdict.GROWS
        ]

    @property
    def is_passed(self) -> bool:
        """Whether nothing is wrong with what was seen."""
        return not self.problems and not self.tally.error_count and not self.growing()

    def as_json(self) -> dict[str, Any]:
        """Everything, for the result file."""
        trends = self.trends()
        return {
            "version": __version__,
            "when": self.when,
            "machine": {
                "cores": psutil.cpu_count(),
                "kernel": platform.release(),
                "python": platform.python_version(),
            },
            "plan": asdict(self.plan),
            "root": self.root,
            "lasted_s": self.lasted_s,
            "warm_up_s": self.warm_up_s,
            "interrupted_by": self.interrupted_by,
            "passed": self.is_passed,
            "problems": self.problems,
            "tally": self.tally.as_json(),
            "faults": self.faults,
            "totals": self.totals,
            "loads": self.loads,
            "cpu_s": self.sampler.cpu_s,
            "lasting_logs": self.sampler.lasting_logs,
            "lasting_bytes": self.sampler.lasting_bytes,
            "times_s": self.sampler.times_s,
            "series": [
                {
                    "measure": series.measure.name,
                    "subject": series.subject,
                    "unit": series.measure.unit,
                    "level": found.level,
                    "slope_an_hour": None if found.slope is None else asdict(found.slope),
                    "verdict": found.verdict.value,
                    "values": [sample.get(series) for sample in self.sampler.samples],
                }
                for series, found in trends.items()
            ],
        }

    def write(self, path: Path) -> None:
        """Write the result file, whole or not at all.

        Raises:
            OSError: it cannot be written.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        staging = path.with_name(f"{path.name}.new")
        staging.write_text(json.dumps(self.as_json(), indent=1) + "\n", encoding="utf-8")
        staging.rename(path)
