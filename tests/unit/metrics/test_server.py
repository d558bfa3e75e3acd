"""The metrics server: what it answers, and that nobody can make it cost more than its places."""

from __future__ import annotations

import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from http import HTTPStatus

import pytest

from tensorpool.metrics import Answer, Histogram, Sample, serve
from tensorpool.metrics.server import MAX_CONNECTIONS, listen, start
from tensorpool.settings import MetricsSettings
from tests.support import wait_until

DEADLINE_S = 30


@pytest.fixture(scope="module")
def address() -> tuple[str, int]:
    """A server for the rest of the process, as a host's process has it."""

    def broken() -> Answer:
        raise ValueError("no such thing")

    listener = listen("127.0.0.1", 0)
    routes = {"/good": lambda: Answer(b"good\n"), "/broken": broken}
    start(listener, {**routes, "/large": lambda: Answer(b"x" * (8 << 20))})
    host, port = listener.getsockname()
    return host, port


@pytest.fixture
def connections() -> Iterator[list[socket.socket]]:
    opened: list[socket.socket] = []
    yield opened
    for connection in opened:
        connection.close()


def exchange(address: tuple[str, int], request: bytes) -> bytes:
    with socket.create_connection(address, DEADLINE_S) as connection:
        connection.sendall(request)
        return b"".join(iter(lambda: connection.recv(1 << 16), b""))


def get(address: tuple[str, int], path: str) -> bytes:
    return exchange(address, f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())


def test_a_route_answers(address: tuple[str, int]) -> None:
    head, _, body = get(address, "/good?x=1").partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"Content-Length: 5" in head
    assert body == b"good\n"


def test_head_has_no_body(address: tuple[str, int]) -> None:
    assert exchange(address, b"HEAD /good HTTP/1.0\r\n\r\n").endswith(b"\r\n\r\n")


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET /absent HTTP/1.1\r\n\r\n", HTTPStatus.NOT_FOUND),
        (b"POST /good HTTP/1.1\r\n\r\n", HTTPStatus.METHOD_NOT_ALLOWED),
        (b"\x00\xff\r\n\r\n", HTTPStatus.BAD_REQUEST),
        (b"GET /good\r\n\r\n", HTTPStatus.BAD_REQUEST),
    ],
)
def test_what_it_refuses(address: tuple[str, int], request_: bytes, status: HTTPStatus) -> None:
    assert exchange(address, request_).startswith(f"HTTP/1.1 {status.value} ".encode())


def test_a_fault_is_told_and_survived(
    address: tuple[str, int], caplog: pytest.LogCaptureFixture
) -> None:
    assert get(address, "/broken").startswith(b"HTTP/1.1 500 ")
    assert "no such thing" in caplog.text
    assert get(address, "/good").endswith(b"good\n")


def test_an_endless_head_is_cut_off(address: tuple[str, int]) -> None:
    with socket.create_connection(address, DEADLINE_S) as connection:

        def is_cut_off() -> bool:
            try:
                connection.sendall(b"X-More: x\r\n" * 1000)
            except (BrokenPipeError, ConnectionResetError):
                return True
            return False

        wait_until(is_cut_off, DEADLINE_S, "the end of the connection")


def test_silent_and_deaf_ones_do_not_keep_others_out(
    address: tuple[str, int], connections: list[socket.socket]
) -> None:
    threads = threading.active_count()
    for number in range(2 * MAX_CONNECTIONS):
        connection = socket.create_connection(address, DEADLINE_S)
        connections.append(connection)
        if number % 2:
            connection.sendall(b"GET /large HTTP/1.1\r\n\r\n")  # and never reads
        else:
            connection.sendall(b"GET /good HT")  # and never ends
    assert get(address, "/good").endswith(b"good\n")
    assert threading.active_count() == threads
    # The oldest lost its place to the newcomers.
    connections[0].settimeout(DEADLINE_S)
    assert is_closed(connections[0])


def is_closed(connection: socket.socket) -> bool:
    """Waits for its end."""
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


def scrape(samples: list[Sample], bind_address: str = "127.0.0.1") -> str:
    settings = MetricsSettings(
        enabled=True, bind_address=bind_address, discovery_file="", ports=(("gc", 0),)
    )
    url = serve(settings, "gc", lambda: samples)
    assert url is not None
    with urllib.request.urlopen(url, timeout=DEADLINE_S) as response:  # noqa: S310
        text: str = response.read().decode()
        return text


def test_samples_become_text() -> None:
    histogram = Histogram((0.5,))
    histogram.observe_ns(250_000_000)
    text = scrape(
        [
            Sample("tensorpool_gc_passes_total", 3),
            Sample("tensorpool_gc_kept", {"young": 2}),
            Sample("tensorpool_driver_rejects_total", {("REJECTED", "backing"): 1}),
            Sample("tensorpool_gc_pass_seconds", histogram),
        ]
    )
    assert "# TYPE tensorpool_gc_passes_total counter\ntensorpool_gc_passes_total 3.0\n" in text
    assert 'tensorpool_gc_kept{rule="young"} 2.0' in text
    assert 'tensorpool_driver_rejects_total{code="REJECTED",reason="backing"} 1.0' in text
    assert 'tensorpool_gc_pass_seconds_bucket{le="0.5"} 1.0' in text
    assert "tensorpool_gc_pass_seconds_sum 0.25" in text
    assert "tensorpool_build_info{version=" in text
    assert "process_resident_memory_bytes" in text


def test_an_address_that_means_all_is_reached_on_loopback() -> None:
    assert "tensorpool_gc_passes_total 1.0" in scrape(
        [Sample("tensorpool_gc_passes_total", 1)],
        "0.0.0.0",  # noqa: S104 - to see what its URL says
    )
