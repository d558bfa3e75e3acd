"""A connection to a real media driver: long messages, and closes under other threads."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from pathlib import Path

import pyaeron
import pytest

from tensorpool.aeron.client import AeronClient, MediaDriverLost, Offer, Publication
from tensorpool.aeron.counters import most_counters, read_counters
from tensorpool.errors import HostError
from tensorpool.settings import Endpoint
from tests.support import wait_until

ENDPOINT = Endpoint("aeron:ipc?term-length=64k", 1001)
FRAGMENTS = 4
MTU = 1408


@pytest.fixture
def aeron_dir(tmp_shm: Path) -> Iterator[str]:
    media_driver = pyaeron.MediaDriver(dir=str(tmp_shm / "aeron"))
    yield str(tmp_shm / "aeron")
    media_driver.close()


def test_a_long_message_is_assembled_over_several_polls(aeron_dir: str) -> None:
    message = bytes(range(250)) * (MTU * (FRAGMENTS - 1) // 250 + 1)
    heard: list[bytes] = []
    with AeronClient(aeron_dir, "test") as client:
        subscription = client.subscription(ENDPOINT)
        publication = client.publication(ENDPOINT)
        wait_until(lambda: publication.offer(message) is Offer.SENT, 10, "a subscriber")
        fragments = sum(
            subscription.poll(lambda buffer, _: heard.append(bytes(buffer)), 1) for _ in range(100)
        )
    assert heard == [message]
    assert fragments == FRAGMENTS


def test_a_client_is_closed_under_threads_that_offer_and_poll(aeron_dir: str) -> None:
    """The interpreter lives on, each user is told, and the media driver hears of the end."""
    refused: list[BaseException] = []

    def use(client: AeronClient) -> None:
        publication, subscription = client.publication(ENDPOINT), client.subscription(ENDPOINT)
        try:
            for count in itertools.count():
                publication.offer(b"x" * 100)
                subscription.poll(lambda *_: None, 64)
                if count == 100:
                    in_the_middle.release()
        except MediaDriverLost as error:
            refused.append(error)

    for _ in range(20):
        client, in_the_middle = AeronClient(aeron_dir, "test"), threading.Semaphore(0)
        threads = [threading.Thread(target=use, args=(client,)) for _ in range(3)]
        for thread in threads:
            thread.start()
        for _ in threads:
            assert in_the_middle.acquire(timeout=10)
        client.close()
        for thread in threads:
            thread.join(10)
            assert not thread.is_alive()
    assert len(refused) == 20 * 3
    with AeronClient(aeron_dir, "test") as client:
        publication = client.publication(ENDPOINT)
        wait_until(lambda: not publication.is_connected, 10, "the end of every subscription")


def test_the_binding_forgets_what_is_closed(aeron_dir: str) -> None:
    with AeronClient(aeron_dir, "test") as client:
        kept = client.subscription(ENDPOINT)
        also_kept = [client.publication(ENDPOINT) for _ in range(3)]
        for _ in range(100):
            client.publication(ENDPOINT).close()
        remembered = kept.remembered()
        assert len(remembered) == 104  # the binding's own list, not one of ours
        for _ in range(200):
            client.publication(ENDPOINT).close()
        assert kept.remembered() is remembered
        assert {id(kept._raw)} | {id(one._raw) for one in also_kept} <= {
            id(one()) for one in remembered
        }
        assert len(remembered) < 100


def test_counters_that_are_used_up(tmp_shm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who comes is refused with the remedy, who is there goes on, and what is freed serves."""
    monkeypatch.setenv("AERON_COUNTERS_BUFFER_LENGTH", "1m")
    aeron_dir = str(tmp_shm / "aeron")
    media_driver = pyaeron.MediaDriver(dir=aeron_dir)
    try:
        with AeronClient(aeron_dir, "test") as client:
            most = most_counters(aeron_dir)
            subscription, publication = client.subscription(ENDPOINT), client.publication(ENDPOINT)
            others = [client.subscription(ENDPOINT) for _ in range(200)]
            publications: list[Publication] = []
            made = (client.publication(ENDPOINT) for _ in range(most))
            with pytest.raises(HostError, match=r"media_driver\.max_counters"):
                publications.extend(made)
            assert len(publications) >= most // len(others) - 2
            assert sum(1 for _ in read_counters(aeron_dir)) <= most
            heard: list[bytes] = []
            wait_until(lambda: publication.offer(b"still here") is Offer.SENT, 10, "room")
            subscription.poll(lambda buffer, _: heard.append(bytes(buffer)), 10)
            assert heard == [b"still here"]
            while publications:
                publications.pop().close()

            def is_served() -> bool:
                try:
                    client.publication(ENDPOINT).close()
                except HostError:
                    return False
                return True

            wait_until(is_served, 30, "counters to be free again")
    finally:
        media_driver.close()
