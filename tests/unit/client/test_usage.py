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
