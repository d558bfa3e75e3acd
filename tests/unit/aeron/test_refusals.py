"""What an error of the binding means: a media driver that is silent, or one that refuses."""

from __future__ import annotations

import pyaeron
import pytest

from tensorpool.aeron.client import AeronClient, MediaDriverLost
from tensorpool.errors import HostError
from tensorpool.settings import Endpoint
from tests.unit.aeron.bindings import client_of

ENDPOINT = Endpoint("aeron:ipc?term-length=4m", 1001)
GAVE_UP = (
    "(-1000) driver timeout\n[aeron_client_conductor_async_resource_poll, "
    "aeron_client_conductor.c:3748] async_add_subscription no response from media driver\n"
    " (errcode=-1000)"
)
REFUSED = "(-1) unknown\n[somewhere, c.c:1] invalid channel: nonsense\n (errcode=-22)"


class FailingBinding:
    """The binding's client, of which every addition fails."""

    is_closed = False

    def __init__(self, error: Exception) -> None:
        self._error = error

    def add_subscription(self, *_: object, **__: object) -> object:
        raise self._error

    def add_exclusive_publication(self, *_: object, **__: object) -> object:
        raise self._error


@pytest.mark.parametrize("add", [AeronClient.subscription, AeronClient.publication])
@pytest.mark.parametrize(
    "error",
    [
        pyaeron.DriverTimeout("timed out waiting for the media driver"),
        pyaeron.AeronError(GAVE_UP),
        pyaeron.ResourceClosed("closed"),
    ],
    ids=["the binding gave up", "the C client gave up", "closed"],
)
def test_silence_is_a_loss_which_every_caller_survives(add: object, error: Exception) -> None:
    assert callable(add)
    with pytest.raises(MediaDriverLost):
        add(client_of(FailingBinding(error)), ENDPOINT)


def test_a_refusal_says_what_was_refused() -> None:
    with pytest.raises(HostError, match=r"subscription .* refused by the media driver") as refusal:
        client_of(FailingBinding(pyaeron.AeronError(REFUSED))).subscription(ENDPOINT)
    assert not isinstance(refusal.value, MediaDriverLost)


def test_a_media_driver_without_counters_says_what_to_do() -> None:
    error = pyaeron.AeronError("(12) Cannot allocate memory\n (errcode=-11)")
    with pytest.raises(HostError, match=r"\(12\).*counters.*media_driver.max_counters"):
        client_of(FailingBinding(error)).publication(ENDPOINT)
