"""Logs that last may fill up; those that come and go are judged."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.soak.plan import Plan
from bench.soak.result import Result
from bench.soak.sampler import LASTING, SHARED, Log, Sampler, Series, find_logs, used_bytes
from tensorpool.config import load, to_settings

MIB = 1 << 20
COME_AND_GO, LAST = Series(SHARED, "term buffers"), Series(LASTING, "term buffers")


def sampled(*logs: dict[str, Log], step_s: float = 10.0) -> Result:
    """A soak whose samples were these logs."""
    sampler = Sampler(to_settings(load(None, {}).config))
    for number, each in enumerate(logs):
        sampler.times_s.append(number * step_s)
        sampler.samples.append({COME_AND_GO: sum(log.used for log in each.values()) / MIB})
        sampler._logs.append(each)
    return Result(Plan(), sampler)


def churn(number: int) -> dict[str, Log]:
    return {f"short {number}": Log(MIB, 8 * MIB)}


def test_a_sparse_log_that_fills_up_is_no_growth() -> None:
    result = sampled(
        *({"control": Log(number * MIB // 4, 64 * MIB), **churn(number)} for number in range(200))
    )
    assert result.growing() == []
    assert (result.sampler.lasting_logs, result.sampler.lasting_bytes) == (1, 64 * MIB)
    assert result.sampler.samples[-1] == {LAST: 199 / 4, COME_AND_GO: 1}


def test_logs_that_nobody_takes_away_are_growth() -> None:
    left: dict[str, Log] = {}
    samples = []
    for number in range(200):
        left |= churn(number)
        samples.append({"control": Log(MIB, MIB), **left})
    assert sampled(*samples).growing() == [COME_AND_GO]


def test_before_the_first_sample_nothing_lasts() -> None:
    result = sampled()
    assert result.trends() == {}
    assert result.sampler.lasting_logs == 0


@pytest.mark.parametrize("folder", ["publications", "images"])
def test_logs_are_found_with_what_they_take(tmp_path: Path, folder: str) -> None:
    log = tmp_path / folder / "17.logbuffer"
    log.parent.mkdir()
    with log.open("wb") as file:
        file.write(b"x" * 4096)
        file.truncate(MIB)
    (tmp_path / "cnc.dat").write_bytes(b"x" * 4096)
    found = find_logs(str(tmp_path))
    assert found == {str(log): Log(log.stat().st_blocks * 512, MIB)}
    assert used_bytes(str(tmp_path), passing=".logbuffer") == used_bytes(str(tmp_path)) - (
        found[str(log)].used
    )
