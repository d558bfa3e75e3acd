import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest

from tensorpool.clock import monotonic_ns
from tensorpool.gc.agent import GcAgent
from tensorpool.gc_report import read_report
from tensorpool.registry import BumpReason, DriverState
from tests.gc_world import SECOND_NS, World
from tests.support import wait_until

DEADLINE_S = 10


@pytest.fixture
def world(tmp_shm: Path) -> Iterator[World]:
    world = World(tmp_shm)
    yield world
    world.stop_driver()


@pytest.fixture
def agent(world: World) -> Iterator[GcAgent]:
    agent = GcAgent(world.settings, on_step=lambda: None)
    agent.on_start()
    yield agent
    agent.on_close()


def settle(agent: GcAgent) -> None:
    """Until the agent is rested and finds nothing more to do."""

    def is_idle() -> bool:
        work = agent.do_work()
        return not work and monotonic_ns() >= agent._rest_until_ns

    wait_until(is_idle, DEADLINE_S, "an idle GC")


def test_without_a_registry_it_waits(agent: GcAgent, world: World) -> None:
    assert agent.do_work() == 0
    assert read_report(str(world.dir)) is None
    world.start_driver()
    agent.do_work()
    assert read_report(str(world.dir)) is not None


def test_an_epoch_change_wakes_it(agent: GcAgent, world: World) -> None:
    world.start_driver()
    for epoch in (1, 2, 3):
        world.bump(epoch)
    settle(agent)
    assert world.names() == {"2", "3"}
    passes = agent.passes
    settle(agent)
    assert agent.passes == passes
    world.bump(4)
    settle(agent)
    assert world.names() == {"3", "4"}
    assert agent.deletions == 2


def test_a_stream_s_first_epoch_is_no_reason_for_a_pass(agent: GcAgent, world: World) -> None:
    """Whether to collect at the start is what `epoch_gc_on_startup` says: here, no."""
    for epoch in (1, 2, 3):
        world.make_epoch(epoch)
    writer = world.start_driver()
    world.make_epoch(4)
    world.put_stream(4, reason=BumpReason.CREATED, bumps=1)
    writer.count_epoch_change()
    settle(agent)
    assert agent.passes == 0
    assert world.names() == {"1", "2", "3", "4"}
    world.make_epoch(5)
    world.put_stream(5, reason=BumpReason.PRODUCER_ATTACHED, bumps=2)
    writer.count_epoch_change()
    settle(agent)
    assert world.names() == {"4", "5"}


@pytest.mark.config_key("policies.epoch_gc_on_startup")
def test_at_the_start_if_configured(tmp_shm: Path) -> None:
    world = World(tmp_shm, on_startup=True)
    for epoch in (1, 2, 3):
        world.make_epoch(epoch)
    world.start_driver()
    world.put_stream(0, last=3, reason=BumpReason.NONE, bumps=0)
    agent = GcAgent(world.settings, on_step=lambda: None)
    settle(agent)
    assert world.names() == {"2", "3"}
    agent.on_close()
    world.stop_driver()


def test_what_a_dead_driver_left_half_made_goes_at_every_start(
    agent: GcAgent, world: World
) -> None:
    for _ in range(2):
        world.make_epoch(1)
        world.fill(world.stream_dir() / ".staging-2-2147483647-1", 2)
        world.fill(world.stream_dir() / ".doomed-0", 0)
        world.start_driver()
        settle(agent)
        assert world.names() == {"1"}
        world.epoch_dir(1).rename(world.dir.parent / f"aside-{monotonic_ns()}")
    assert (agent.passes, agent.sweeps) == (0, 2)


def test_the_driver_s_demand_is_served_by_a_pass_that_began_after_it(
    agent: GcAgent, world: World
) -> None:
    writer = world.start_driver()
    settle(agent)
    for epoch in (1, 2, 3):
        world.make_epoch(epoch)
    world.put_stream(3, reason=BumpReason.CREATED, bumps=1)
    number = writer.request_gc()
    settle(agent)
    report = read_report(str(world.dir))
    assert report is not None
    assert report.requests_served >= number
    assert (report.passes, report.deleted, report.kept) == (1, 1, 2)
    assert world.names() == {"2", "3"}


def test_a_demand_is_not_served_while_the_registry_cannot_be_read(
    agent: GcAgent, world: World
) -> None:
    writer = world.start_driver()
    settle(agent)
    number = writer.request_gc()
    writer.set_state(99)  # type: ignore[arg-type]
    agent.do_work()
    report = read_report(str(world.dir))
    assert report is not None
    assert report.requests_served < number
    writer.set_state(DriverState.SERVING)
    settle(agent)
    report = read_report(str(world.dir))
    assert report is not None
    assert report.requests_served >= number


def test_a_new_driver_s_first_demand_is_not_taken_for_served(agent: GcAgent, world: World) -> None:
    writer = world.start_driver()
    for _ in range(5):
        writer.request_gc()
    settle(agent)
    world.start_driver()
    settle(agent)
    report = read_report(str(world.dir))
    assert report is not None
    assert report.requests_served == 0


def test_a_kept_epoch_goes_when_its_age_has_passed_without_any_event(tmp_shm: Path) -> None:
    world = World(tmp_shm, min_age_ns=SECOND_NS // 5, keep=1)
    world.start_driver()
    world.make_epoch(1, active_ns=monotonic_ns())
    world.bump(2)
    world.bump(3)
    agent = GcAgent(world.settings, on_step=lambda: None)
    wait_until(
        lambda: (agent.do_work(), world.names() == {"3"})[1], DEADLINE_S, lambda: str(world.names())
    )
    agent.on_close()
    world.stop_driver()


def test_a_lease_that_ends_frees_its_epoch_without_any_event(agent: GcAgent, world: World) -> None:
    world.start_driver()
    world.put_lease(1, 1)
    for epoch in (1, 2, 3):
        world.bump(epoch)
    settle(agent)
    assert world.names() == {"1", "2", "3"}
    world.put_lease(1, 1, state=3)
    wait_until(
        lambda: (agent.do_work(), world.names() == {"2", "3"})[1], DEADLINE_S, "epoch 1 to go"
    )


def test_the_final_pass_is_for_a_driver_that_stopped(agent: GcAgent, world: World) -> None:
    writer = world.start_driver()
    world.bump(1)
    settle(agent)
    world.stop_driver()
    agent.run_final_pass()
    assert world.names() == {"1"}, "its driver died without a word"
    writer = world.start_driver()
    world.put_stream(0, last=1)
    writer.set_state(DriverState.STOPPED)
    agent.run_final_pass()
    assert not world.stream_dir().exists()


def test_a_refused_namespace_is_told_and_tried_again(agent: GcAgent, world: World) -> None:
    world.start_driver()
    for epoch in (1, 2, 3):
        world.bump(epoch)
    world.dir.chmod(0o777)
    agent.do_work()
    assert agent.errors == 1
    world.dir.chmod(0o700)
    wait_until(lambda: (agent.do_work(), world.names() == {"2", "3"})[1], DEADLINE_S, "another try")


def test_new_settings_count_from_the_next_pass_on(agent: GcAgent, world: World) -> None:
    world.start_driver()
    for epoch in (1, 2, 3):
        world.bump(epoch)
    policies = dataclasses.replace(world.settings.policies, epoch_gc_keep=1)
    agent.reload(dataclasses.replace(world.settings, policies=policies))
    settle(agent)
    assert world.names() == {"3"}
