"""docs/running.md names every key of `tensorpool status --json`, and no other."""

import re
from pathlib import Path
from typing import Any

import pytest

from tensorpool.cli import status_report

_DOC = Path(__file__).parents[3] / "docs" / "running.md"


@pytest.mark.parametrize(
    ("title", "kind"),
    [
        ("Host", status_report.HostStatus),
        ("Process", status_report.ProcessStatus),
        ("Driver", status_report.DriverStatus),
        ("Stream", status_report.StreamStatus),
        ("Lease", status_report.LeaseStatus),
        ("Memory", status_report.MemoryStatus),
        ("GC", status_report.GcStatus),
    ],
)
def test_the_documented_keys_are_the_reported_ones(title: str, kind: Any) -> None:
    section = _DOC.read_text(encoding="utf-8").partition(f"\n### {title}\n")[2].partition("\n#")[0]
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    documented = [key for row in rows for key in re.findall(r"`(\w+)`", row)]
    assert sorted(documented) == sorted(kind.__annotations__)
