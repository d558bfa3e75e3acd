"""One user at a time, and pauses that grow."""

from __future__ import annotations

import threading

import pytest

from tensorpool.client.errors import ConcurrentUse
from tensorpool.client.idle import LONGEST_PAUSE_S, AdaptiveIdle
from tensorpool.client.usage import OneUser


def test_a_second_user_is_refused_and_a_later_one_let_in() -> None:
    user = OneUser("consumer")
    told: list[str] = []

    def other() -> None:
        with pytest.raises(ConcurrentUse) as caught, user:
            pass
        told.append(str(caught.value))

    with user:
        with pytest.raises(ConcurrentUse, match="outer call"), user:
            pass
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        assert "another thread" in told[0]
        assert "pool.consumer" in told[0]
        user.wait_free(60)  # its own use: no waiting
    with user:
        pass


def test_what_is_lent_is_used_through_the_one_it_is_lent_to() -> None:
    consumer, gathering = OneUser("consumer"), OneUser("gathering", "gather")
    consumer.lend(gathering)
    with pytest.raises(ConcurrentUse, match="in a gathering: have its frames from there"), consumer:
        pass
    with pytest.raises(ConcurrentUse):
        consumer.lend(gathering)
    inside, may_leave = threading.Event(), threading.Event()

    def use() -> None:
        with gathering:
            inside.set()
            may_leave.wait(60)
            consumer.take_back()

    consumer.wait_free(60)  # nobody uses it through the gathering: no waiting
    thread = threading.Thread(target=use)
    thread.start()
    assert inside.wait(60)
    with pytest.raises(ConcurrentUse, match=r"pool\.gather\("), gathering:
        pass
    consumer.wait_free(0.01)
    assert thread.is_alive()
    may_leave.set()
    consumer.wait_free(60)
    with consumer:
        consumer.take_back()  # not lent: nothing to take back
        assert consumer.enter() is False
    thread.join()


def test_pauses_grow_with_the_silence_and_begin_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0
    monkeypatch.setattr("tensorpool.client.idle.monotonic_ns", lambda: now)
    idle = AdaptiveIdle()
    pauses = []
    for _ in range(2000):
        pauses.append(idle.pause_s())
        now += int(pauses[-1] * 1e9) + 1000
    assert pauses[0] == 0
    assert pauses == sorted(pauses)
    assert 0 < next(p for p in pauses if p) <= 50e-6
    now += 4 * 10**9
    assert idle.pause_s() == LONGEST_PAUSE_S
    idle.reset()
    assert idle.pause_s() == 0


def test_beat_is_slept_through_and_a_burst_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 10**12
    monkeypatch.setattr("tensorpool.client.idle.monotonic_ns", lambda: now)
    idle = AdaptiveIdle()

    def frame_after(beat_ns: int) -> list[float]:
        """The pauses until a frame that comes so long after the last."""
        nonlocal now
        due, pauses = now + beat_ns, []
        while now < due:
            pauses.append(idle.pause_s())
            now += int(pauses[-1] * 1e9) + 1000
        idle.reset()
        return pauses

    assert frame_after(3_000_000)[0] == 0
    for beat_ns in (1_000_000, 2_000_000, 3_000_000) * 3:
        frame_after(beat_ns)
    regular = frame_after(1_500_000)
    assert 0.5e-3 < regular[0] < 1e-3  # the shortest beat of late was 1 ms
    assert max(regular[1:]) <= 50e-6
    for pauses in (regular, frame_after(1_000_000)):
        assert sum(pauses) <= 1.5e-3
    for _ in range(9):
        slow = frame_after(40_000_000)
    assert max(slow) <= 5e-3
    assert len(slow) < 80  # 35 ms of it in naps, the rest in looks 100 us apart
    idle.reset()  # a frame that was there at once
    assert frame_after(1_000_000)[0] == 0


def test_the_keeper_makes_nobody_a_second_user() -> None:
    user = OneUser("consumer")
    uses = user.user_uses
    assert user.begin_tending()
    assert user.user_uses == uses, "its own look is no use"
    assert not user.enter()
    let_in = threading.Event()

    def other() -> None:
        with user:
            let_in.set()

    thread = threading.Thread(target=other)
    thread.start()
    assert not let_in.wait(0.05)
    user.end_tending()
    assert let_in.wait(20)
    thread.join()
    with user:
        assert not user.begin_tending()
        with pytest.raises(ConcurrentUse), user:
            pass
