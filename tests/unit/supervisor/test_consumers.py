"""Who is alive: heard of lately, by hello or QoS, and not gone with its Aeron sessions."""

from __future__ import annotations

from tensorpool.supervisor.consumers import LEAVE_GRACE_NS, Consumer, ConsumerTable

STALE_NS = 10 * LEAVE_GRACE_NS
ONE, TWO, THREE = (1, 1), (1, 2), (2, 1)


def heard(table: ConsumerTable, key: tuple[int, int], now_ns: int) -> Consumer:
    consumer = table.touch(key, now_ns)
    assert consumer is not None
    return consumer


def test_capacity_refuses_new_consumers_and_keeps_known_ones() -> None:
    table = ConsumerTable(2, STALE_NS)
    first = heard(table, ONE, 0)
    second = heard(table, TWO, 0)
    assert table.touch(THREE, 1) is None
    assert table.touch(ONE, 1) is first
    assert table.pop_gone(STALE_NS) is second
    assert table.touch(THREE, STALE_NS) is not None


def test_one_id_on_two_streams_is_two_consumers() -> None:
    table = ConsumerTable(2, STALE_NS)
    assert heard(table, ONE, 0) is not heard(table, THREE, 0)


def test_the_silent_are_popped_at_the_stale_time_and_no_earlier() -> None:
    table = ConsumerTable(4, STALE_NS)
    first, second = heard(table, ONE, 0), heard(table, TWO, 0)
    heard(table, ONE, 5)
    assert table.pop_gone(STALE_NS - 1) is None
    assert table.pop_gone(STALE_NS) is second
    assert table.pop_gone(STALE_NS + 4) is None
    assert table.pop_gone(STALE_NS + 5) is first
    assert len(table) == 0


def test_who_lost_its_last_session_leaves_after_the_grace() -> None:
    table = ConsumerTable(4, STALE_NS)
    consumer = heard(table, ONE, 0)
    consumer.hello_session, consumer.qos_session = 7, 8
    table.sessions_gone({7}, 10)
    assert table.pop_gone(10 + LEAVE_GRACE_NS) is None, "its QoS session still lives"
    table.sessions_gone({8}, 20)
    assert table.pop_gone(19 + LEAVE_GRACE_NS) is None
    assert table.pop_gone(20 + LEAVE_GRACE_NS) is consumer


def test_who_comes_back_within_the_grace_stays() -> None:
    table = ConsumerTable(4, STALE_NS)
    heard(table, ONE, 0).hello_session = 7
    table.sessions_gone({7}, 10)
    heard(table, ONE, 20).hello_session = 9
    table.sessions_gone({7}, 30)
    assert table.pop_gone(30 + LEAVE_GRACE_NS) is None


def test_the_end_of_strangers_sessions_concerns_nobody() -> None:
    table = ConsumerTable(4, STALE_NS)
    heard(table, ONE, 0)
    table.sessions_gone({1, 2, 3}, 10)
    assert table.pop_gone(STALE_NS - 1) is None


def test_a_stale_consumer_is_not_hidden_by_a_leaving_one() -> None:
    table = ConsumerTable(4, STALE_NS)
    stale = heard(table, ONE, 0)
    leaving = heard(table, TWO, STALE_NS - 1)
    leaving.hello_session = 7
    table.sessions_gone({7}, STALE_NS - 1)
    assert table.pop_gone(STALE_NS) is stale
    assert table.pop_gone(STALE_NS - 1 + LEAVE_GRACE_NS) is leaving


def test_a_new_media_driver_gives_everybody_the_stale_time_anew() -> None:
    table = ConsumerTable(4, STALE_NS)
    consumer = heard(table, ONE, 0)
    consumer.hello_session = 7
    table.sessions_gone({7}, 10)
    table.forget_sessions(20)
    assert table.pop_gone(19 + STALE_NS) is None
    assert table.pop_gone(20 + STALE_NS) is consumer
