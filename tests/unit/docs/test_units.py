"""Values and axes of the dashboard's drawings."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from docs.screens.units import formatted, ticks
from tests.markdown import ROOT

UNITS = ("none", "ops", "s", "percentunit", "bytes", "Bps")


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0, "none", "0"),
        (1000, "none", "1000"),
        (0.125, "ops", "0.125/s"),
        (0, "s", "0 s"),
        (12.5, "s", "12.5 s"),
        (0.02, "s", "20 ms"),
        (0.00015, "s", "150 µs"),
        (0.5, "percentunit", "50 %"),
        (1023, "bytes", "1023 B"),
        (16 << 20, "bytes", "16 MiB"),
        (3 << 40, "bytes", "3 TiB"),
        (2048, "Bps", "2 KiB/s"),
    ],
)
def test_a_value_is_written_as_a_reader_does(value: float, unit: str, text: str) -> None:
    assert formatted(value, unit) == text


@given(st.floats(0, 1e15), st.sampled_from(UNITS))
def test_an_axis_holds_its_highest_value(top: float, unit: str) -> None:
    marks = ticks(top, unit)
    assert marks[0] == 0
    assert marks == sorted(set(marks))
    assert 2 <= len(marks) <= 6
    assert marks[-1] >= top
    assert all(formatted(mark, unit) for mark in marks)


def test_every_unit_of_the_dashboard_is_known() -> None:
    model = json.loads((ROOT / "deploy" / "grafana" / "tensorpool.json").read_text())
    panels = [panel for panel in model["panels"] if panel["type"] != "row"]
    used = {panel["fieldConfig"]["defaults"]["unit"] for panel in panels}
    assert used <= set(UNITS)
