"""The view of every stream: bounded, with rates, drops and the latest of each."""

from __future__ import annotations

import pytest

from tensorpool.clock import NS_PER_MS, NS_PER_S
from tensorpool.supervisor.progress import DropCounter, Progress
from tensorpool.supervisor.streams import StreamTable, StreamView

STALE_NS = 5 * NS_PER_S


def test_rate_is_frames_over_time_within_one_epoch() -> None:
    progress = Progress()
    progress.report(1, 100, NS_PER_S)
    assert progress.rate_hz == 0
    progress.report(1, 600, 2 * NS_PER_S)
    assert progress.rate_hz == pytest.approx(500)
    progress.report(2, 10, 3 * NS_PER_S)
    assert progress.rate_hz == 0
    progress.report(2, 70, 5 * NS_PER_S)
    assert progress.rate_hz == pytest.approx(30)
    assert (progress.epoch, progress.seq) == (2, 70)


def test_a_report_heard_twice_does_not_spoil_the_rate() -> None:
    progress = Progress()
    progress.report(1, 0, NS_PER_S)
    progress.report(1, 500, 2 * NS_PER_S)
    progress.report(1, 500, 2 * NS_PER_S + NS_PER_MS)
    assert progress.rate_hz == pytest.approx(500)
    progress.report(1, 1500, 4 * NS_PER_S)
    assert progress.rate_hz == pytest.approx(500)


def test_drops_are_counted_once_and_across_a_restart_of_the_consumer() -> None:
    drops = DropCounter()
    assert drops.report(5, 2) == (5, 2)
    assert drops.report(5, 2) == (0, 0)
    assert drops.report(9, 2) == (4, 0)
    assert drops.report(1, 0) == (1, 0)


def test_epochs_only_grow() -> None:
    view = StreamView(1, 0)
    view.on_epoch(10, 64, 1)
    view.on_epoch(9, 32, 2)
    assert (view.epoch, view.header_nslots, view.epoch_changes) == (10, 64, 0)
    view.on_epoch(12, 128, 3)
    assert (view.epoch, view.header_nslots, view.epoch_changes) == (12, 128, 1)
    assert view.announced_ns == 3


def test_producers_are_bounded_and_the_live_ones_known() -> None:
    view = StreamView(1, 0)
    for producer_id in range(10):
        view.producer(producer_id, producer_id * NS_PER_S)
    assert list(view.producers) == [6, 7, 8, 9]
    live = view.live_producers(9 * NS_PER_S, 2 * NS_PER_S)
    assert [producer.producer_id for producer in live] == [8, 9]


def test_a_new_stream_takes_the_place_of_a_silent_one_and_never_of_a_live_one() -> None:
    table = StreamTable(2, STALE_NS)
    table.touch(1, 0)
    table.touch(2, 1)
    assert table.touch(3, 2) is None
    assert table.refused == 1
    table.touch(1, STALE_NS)
    assert table.touch(3, STALE_NS + 1) is not None
    assert {view.stream_id for view in table} == {1, 3}


def test_the_name_of_a_source_is_bounded() -> None:
    view = StreamView(1, 0)
    view.on_meta(3, "x" * 100_000)
    view.on_meta(4)
    assert view.meta_version == 4
    assert len(view.name) < 1000
