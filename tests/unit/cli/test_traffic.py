"""What `tensorpool tail` shows and hides, and what `top` sums."""

import json
from typing import Any

import pytest

from tensorpool.cli.qos_watch import summed
from tensorpool.cli.traffic import Filter, Heard, Kind, as_json, as_text
from tensorpool.wire.control import DataSourceMeta, MetaAttribute, QosConsumer, QosProducer
from tensorpool.wire.driver import (
    Role,
    ShmAttachRequest,
    ShmDriverShutdown,
    ShmDriverShutdownRequest,
    ShmLeaseRevoked,
)


def heard(message: Any, kind: Kind = Kind.CONTROL, why: str | None = None) -> Heard:
    return Heard(0.25, kind, 1000, -5, message, why)


def test_a_line_of_json() -> None:
    line = json.loads(as_json(heard(ShmAttachRequest(1, 7, 3, Role.CONSUMER))))
    assert line == {
        "time": 0.25,
        "kind": "control",
        "type": "ShmAttachRequest",
        "aeron_stream_id": 1000,
        "session_id": -5,
        "fields": {
            "correlation_id": 1,
            "stream_id": 7,
            "client_id": 3,
            "role": 2,
            "expected_layout_version": 0,
            "publish_mode": None,
            "require_hugepages": 0,
            "desired_node_id": None,
        },
    }


def test_people_see_names_and_no_absent_fields() -> None:
    text = as_text(heard(ShmAttachRequest(1, 7, 3, Role.CONSUMER)))
    assert "role=CONSUMER" in text
    assert "publish_mode" not in text
    revoked = as_text(heard(ShmLeaseRevoked(1, 2, 7, 3, 99, 2)))
    assert "reason=EXPIRED" in revoked
    assert "role=99" in revoked


def test_nothing_that_a_peer_wrote_reaches_the_terminal_raw() -> None:
    attribute = MetaAttribute("\x1b[2J", "a b", b"ok")
    text = as_text(heard(DataSourceMeta(1, 1, 1, (attribute,)), Kind.METADATA))
    assert "\x1b" not in text
    assert "\n" not in as_text(heard(ShmDriverShutdown(1, 0, "two\nlines")))


def test_a_token_is_never_shown() -> None:
    request = heard(ShmDriverShutdownRequest(1, 0, b"hush"))
    assert "hush" not in as_json(request) + as_text(request)
    assert "68757368" not in as_json(request)
    assert "<4 bytes>" in as_text(request)


def test_malformed_messages_belong_to_their_endpoint() -> None:
    bad = heard(None, Kind.QOS, "too short")
    assert bad.kind is Kind.QOS
    assert json.loads(as_json(bad))["fields"] == {"why": "too short"}
    assert Filter((), (Kind.QOS,)).wants(bad)
    assert not Filter((7,), ()).wants(bad)


@pytest.mark.parametrize(
    ("stream_ids", "kinds", "expected"),
    [
        ((), (), True),
        ((7,), (), True),
        ((8,), (), False),
        ((7, 8), (Kind.CONTROL,), True),
        ((7,), (Kind.QOS,), False),
    ],
)
def test_filters(stream_ids: Any, kinds: Any, expected: bool) -> None:
    message = heard(ShmAttachRequest(1, 7, 3, Role.CONSUMER))
    assert Filter(stream_ids, kinds).wants(message) is expected


def test_a_message_of_no_stream_is_hidden_by_a_stream_filter() -> None:
    assert not Filter((7,), ()).wants(heard(ShmDriverShutdown(1, 0)))


def test_drops_are_summed_by_stream() -> None:
    rows = summed(
        [
            QosConsumer(7, 1, 1, 9, 2, 3, 1),
            QosConsumer(7, 2, 1, 9, 5, 0, 1),
            QosProducer(7, 9, 1, 42),
            QosConsumer(8, 1, 1, 9, 0, 1, 1),
        ]
    )
    assert rows[7] == {
        "stream_id": 7,
        "reporting": 2,
        "drops_gap": 7,
        "drops_late": 3,
        "producer_seq": 42,
    }
    assert rows[8]["producer_seq"] is None
