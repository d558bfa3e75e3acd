"""The pieces of a soak that need no host: who does what, what frames hold, page and picture."""

from __future__ import annotations

from itertools import pairwise
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.soak.clients import Tally
from bench.soak.frames import MOST_WORDS, content, is_content, words_of
from bench.soak.picture import Curve, Panel, draw, round_up, spread_labels, thinned
from bench.soak.plan import Plan, Role, host_config
from bench.soak.report import BEGIN, END, replaced
from tensorpool.config import load, to_settings

STREAMS, NUMBERS = st.integers(1, 2**32 - 1), st.integers(0, 2**63)
SIZES = st.tuples(st.integers(1, 120), st.integers(1, 400))


@given(SIZES)
def test_every_client_has_one_job_apart_from_its_producer(size: tuple[int, int]) -> None:
    streams, clients = size
    plan = Plan(streams=streams, clients=clients)
    crews = plan.jobs()
    assert len(crews) == plan.workers
    assert 1 <= plan.steady_workers < plan.workers
    jobs = [job for crew in crews for job in crew]
    assert sorted(job.number for job in jobs) == list(range(clients))
    home = {
        job.stream_id: place
        for place, crew in enumerate(crews)
        for job in crew
        if job.role is Role.PRODUCER
    }
    assert len(home) == sum(job.role is Role.PRODUCER for job in jobs)
    for place, crew in enumerate(crews):
        for job in crew:
            if job.role is Role.CONSUMER:
                assert home[job.stream_id] != place


def test_three_hundred_clients_on_a_hundred_streams() -> None:
    jobs = [job for crew in Plan().jobs() for job in crew]
    for role, count in ((Role.PRODUCER, 100), (Role.CONSUMER, 200)):
        mine = [job for job in jobs if job.role is role]
        assert len(mine) == count
        assert len({job.stream_id for job in mine}) == 100
    fixed = [job.client_id for job in jobs if job.client_id is not None]
    assert len(fixed) == len(set(fixed)) == 150


def test_the_configuration_of_the_host_is_valid(tmp_shm: object) -> None:
    path = f"{tmp_shm}/host.toml"
    with open(path, "w", encoding="ascii") as file:
        file.write(host_config(str(tmp_shm), 100))
    settings = to_settings(load(path, {}).config)
    assert len(settings.streams) == 100
    assert settings.metrics.enabled


@given(STREAMS, NUMBERS)
def test_a_frame_is_told_from_a_torn_one(stream_id: int, number: int) -> None:
    whole = content(stream_id, number)
    assert 1 <= len(whole) == words_of(number) <= MOST_WORDS
    assert is_content(whole, stream_id, number)
    assert not is_content(whole, stream_id + 1, number)
    assert not is_content(whole, stream_id, number + 1)
    torn = whole.copy()
    torn[-1] ^= np.uint64(1)
    assert not is_content(torn, stream_id, number)
    assert not is_content(whole.view(np.int64), stream_id, number)


def test_tallies_add_up_and_keep_the_first_faults() -> None:
    total, one = Tally(), Tally(published=2, checked=3)
    one.refusals["LeaseLost"] += 1
    for number in range(30):
        one.fault(f"fault {number}")
    total.add(one)
    total.add(one)
    assert (total.published, total.checked, total.error_count) == (4, 6, 60)
    assert total.refusals == {"LeaseLost": 2}
    assert total.errors == [f"fault {number}" for number in range(20)]
    assert total.as_json()["refusals"] == {"LeaseLost": 2}


def test_a_page_keeps_what_is_not_between_its_markers() -> None:
    page = f"# Reliability\n\n{BEGIN}\nold\n{END}\n\nmore\n"
    once = replaced(page, "new")
    assert once == f"# Reliability\n\n{BEGIN}\nnew\n{END}\n\nmore\n"
    assert replaced(once, "new") == once


@pytest.mark.parametrize("page", ["", BEGIN, f"{END} {BEGIN}"])
def test_a_page_without_markers_is_left_alone(page: str) -> None:
    with pytest.raises(ValueError, match="lacks the lines"):
        replaced(page, "new")


@given(st.lists(st.floats(0, 1e9), max_size=50))
def test_the_picture_is_well_formed_and_inside_its_frame(values: list[float]) -> None:
    curve = Curve("a < b & c", list(range(len(values))), values)
    text = draw([Panel("bytes & more", [curve])] * 3, title="<soak>", warm_up_s=3)
    root = ET.fromstring(text)  # noqa: S314 - our own text
    lines = [node for node in root if node.tag.endswith("polyline")]
    assert len(lines) == (3 if values else 0)
    height = float(root.attrib["height"])
    for line in lines:
        for point in line.attrib["points"].split():
            x, y = map(float, point.split(","))
            assert 0 <= x <= float(root.attrib["width"])
            assert 0 <= y <= height


@given(st.floats(1e-9, 1e15))
def test_an_axis_ends_above_its_highest_value(value: float) -> None:
    top = round_up(value)
    assert value <= top <= value * 2.5


@given(st.lists(st.tuples(st.floats(0, 1e3), st.floats(0, 1e3)), max_size=2000))
def test_thinning_keeps_the_highest_point(points: list[tuple[float, float]]) -> None:
    kept = thinned(points)
    assert len(kept) <= 360
    assert set(kept) <= set(points)
    assert max((y for _, y in kept), default=0) == max((y for _, y in points), default=0)


@given(st.lists(st.floats(0, 150), max_size=10))
def test_labels_do_not_cover_each_other(ends: list[float]) -> None:
    placed = [y for y, _, _ in spread_labels([(y, "name", "#000") for y in ends], 150)]
    assert len(placed) == len(ends)
    assert all(upper <= lower - 13 for lower, upper in pairwise(placed))
