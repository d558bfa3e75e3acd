"""Closing lets go: nothing of the binding is freed while a thread uses it, and in what order."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pyaeron
import pytest

from tensorpool.aeron.client import MediaDriverLost, Publication
from tensorpool.settings import Endpoint
from tests.unit.aeron.bindings import client_of

ENDPOINT = Endpoint("aeron:ipc?term-length=4m", 1001)


class WaitingBinding:
    """The binding's client, whose addition is answered when the test says so."""

    is_closed = False

    def __init__(self, answer: Callable[[], object]) -> None:
        self.is_asked, self.may_answer = threading.Event(), threading.Event()
        self._answer = answer

    def add_exclusive_publication(self, *_: object) -> object:
        self.is_asked.set()
        assert self.may_answer.wait(60)
        return self._answer()


class BindingPublication:
    """What the binding gives for a publication."""

    session_id = 1

    def offer(self, *_: object) -> object:
        return True


def no_answer() -> object:
    raise pyaeron.DriverTimeout("timed out waiting for the media driver")


@pytest.mark.parametrize("answer", [no_answer, BindingPublication])
def test_a_client_closed_under_an_addition_lives_until_its_end(
    answer: Callable[[], object],
) -> None:
    client = client_of(WaitingBinding(answer))
    binding = weakref.ref(client._raw)
    with ThreadPoolExecutor(1) as pool:
        adding = pool.submit(client.publication, ENDPOINT)
        asked = binding()
        assert asked is not None
        assert asked.is_asked.wait(60)
        client.close()
        del asked
        asked = binding()
        assert asked is not None, "freed while an addition was awaited"
        asked.may_answer.set()
        del asked
        assert isinstance(adding.exception(60), MediaDriverLost)
        del adding
    gc.collect()
    assert binding() is None
    with pytest.raises(MediaDriverLost):
        client.publication(ENDPOINT)


def test_what_is_closed_is_let_go_and_refuses() -> None:
    raw = BindingPublication()
    publication, binding = Publication(raw, ENDPOINT), weakref.ref(raw)
    offer_under_way = publication.raw_offer
    del raw
    publication.close()
    assert binding() is not None, "freed in the middle of an offer"
    del offer_under_way
    assert binding() is None
    assert not publication.is_connected
    with pytest.raises(MediaDriverLost):
        publication.offer(b"")
    with pytest.raises(pyaeron.ResourceClosed):
        publication.raw_offer(b"")


class BindingImage:
    """A publisher's log; the binding touches it when it frees what was retained."""

    session_id = 1
    is_closed = False

    def __init__(self, subscription: BindingSubscription) -> None:
        self._subscription = subscription

    def poll(self, *_: object) -> int:
        return 0


class BindingSubscription:
    """What the binding gives for a subscription."""

    image_count = 1

    def __init__(self, client: BindingClient) -> None:
        self._client = client

    def poll(self, *_: object) -> int:
        return 0

    def image_at_index(self, _: int) -> BindingImage:
        image = BindingImage(self)
        self._client.note_end_of(image, "image")
        return image


class BindingClient:
    """The binding's client; `ends` tells what ended, in order."""

    is_closed = False

    def __init__(self, ends: list[str]) -> None:
        self._ends = ends
        weakref.finalize(self, ends.append, "client")

    def note_end_of(self, what: object, name: str) -> None:
        weakref.finalize(what, self._ends.append, name)

    def add_subscription(self, *_: object) -> BindingSubscription:
        subscription = BindingSubscription(self)
        self.note_end_of(subscription, "subscription")
        return subscription


def test_a_closed_client_ends_after_the_images_that_were_looked_at() -> None:
    ends: list[str] = []
    client = client_of(BindingClient(ends))
    subscription = client.subscription(ENDPOINT)
    subscription.skip_own(Publication(BindingPublication(), ENDPOINT))
    ends.clear()  # of images that were looked at in passing
    client.close()
    assert ends == ["image", "subscription", "client"]
    with pytest.raises(MediaDriverLost):
        subscription.poll(lambda *_: None, 1)
    with pytest.raises(MediaDriverLost):
        subscription.session_ids()
