"""What a hello asks for and what the configuration says to it (Wire §10.1.2, §10.1.3, §11)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tensorpool.settings import PerConsumerStreams
from tensorpool.supervisor import policy
from tensorpool.supervisor.policy import Decline, Kind, Request
from tensorpool.wire.control import Mode
from tests.unit.supervisor.hellos import IPC, hello, supervisor_settings

SETTINGS = supervisor_settings()
FALLBACK = "aeron:udp?endpoint=10.0.0.1:40000"


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize(
    ("channel", "stream_id", "expected"),
    [
        ("", 0, None),
        (IPC, 0, Decline.HALF_REQUEST),
        ("", 31000, Decline.HALF_REQUEST),
        (IPC, 31000, Request(31000)),
        ("aeron:ipc", 31000, Request(31000)),
        (IPC, 7, Request(7)),
        ("aeron:udp?endpoint=localhost:40000", 31000, Decline.CHANNEL),
        ("nonsense", 31000, Decline.CHANNEL),
    ],
)
def test_requests(
    kind: Kind, channel: str, stream_id: int, expected: Request | Decline | None
) -> None:
    name = kind.value
    asked = hello(**{f"{name}_channel": channel, f"{name}_stream_id": stream_id})

    assert policy.requested(asked, kind, SETTINGS) == expected
    (other,) = set(Kind) - {kind}
    assert policy.requested(asked, other, SETTINGS) is None


def test_no_request_is_granted_while_disabled_but_a_bad_one_is_still_bad() -> None:
    disabled = replace(SETTINGS, per_consumer_enabled=False)
    whole = hello(control_channel=IPC, control_stream_id=1)
    half = hello(control_channel=IPC)
    assert policy.requested(whole, Kind.CONTROL, disabled) is Decline.DISABLED
    assert policy.requested(half, Kind.CONTROL, disabled) is Decline.HALF_REQUEST
    assert policy.requested(hello(), Kind.CONTROL, disabled) is None


@pytest.mark.clause("Driver §11-4")
def test_without_a_range_the_request_is_declined() -> None:
    rangeless = replace(SETTINGS, per_consumer_control=PerConsumerStreams(IPC, None))
    asked = hello(
        control_channel=IPC, control_stream_id=1, descriptor_channel=IPC, descriptor_stream_id=1
    )
    assert policy.requested(asked, Kind.CONTROL, rangeless) is Decline.NO_RANGE
    assert policy.requested(asked, Kind.DESCRIPTOR, rangeless) == Request(1)


@pytest.mark.parametrize(
    ("supports_shm", "force_no_shm", "uses_shm"),
    [(1, False, True), (0, False, False), (1, True, False), (2, False, False), (255, False, False)],
)
def test_fallback_uri_goes_to_who_may_not_use_shared_memory(
    supports_shm: int, force_no_shm: bool, uses_shm: bool
) -> None:
    settings = replace(SETTINGS, force_no_shm=force_no_shm, payload_fallback_uri=FALLBACK)
    asked = hello(supports_shm=supports_shm)
    assert policy.uses_shm(asked, settings) is uses_shm
    assert policy.fallback_uri(asked, settings) == ("" if uses_shm else FALLBACK)


@pytest.mark.parametrize(
    ("asked", "forced", "expected"),
    [
        (Mode.STREAM, 0, Mode.STREAM),
        (Mode.RATE_LIMITED, 0, Mode.RATE_LIMITED),
        (Mode.STREAM, 2, Mode.RATE_LIMITED),
        (Mode.RATE_LIMITED, 1, Mode.STREAM),
        (0, 0, Mode.STREAM),
        (3, 0, Mode.STREAM),
        (255, 2, Mode.RATE_LIMITED),
    ],
)
def test_mode(asked: int, forced: int, expected: Mode) -> None:
    assert policy.mode_of(hello(mode=asked), replace(SETTINGS, force_mode=forced)) is expected
