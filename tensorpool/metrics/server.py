"""A small HTTP server on one thread: however many come and whatever they do, they cost no more.

A scraper that connects and says nothing, or reads nothing, holds a place until its time is up,
and loses it sooner to a newcomer. The duty cycle shares with all of them only the interpreter.
"""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from asyncio import StreamReader, StreamWriter

_log = logging.getLogger(__name__)

MAX_CONNECTIONS = 32
"""Beyond it the oldest is closed."""
_CONVERSATION_S = 10.0
_MAX_HEAD_BYTES = 16_384
_BACKLOG = 64


class Answer(NamedTuple):
    """What a path has to say."""

    body: bytes
    status: HTTPStatus = HTTPStatus.OK
    content_type: str = "text/plain; charset=utf-8"


type Route = Callable[[], Answer]


def listen(address: str, port: int) -> socket.socket:
    """A listening socket; port 0 asks for a free one.

    Raises:
        OSError: the port is taken or the address is not ours.
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return socket.create_server((address, port), family=family, backlog=_BACKLOG)


def start(listener: socket.socket, routes: Mapping[str, Route]) -> None:
    """Answer GET and HEAD for `routes` on a thread of its own for the rest of the process."""
    server = _Server(routes)
    threading.Thread(target=server.run, args=(listener,), name="metrics", daemon=True).start()


class _Server:
    def __init__(self, routes: Mapping[str, Route]) -> None:
        self._routes = routes
        self._open: dict[StreamWriter, None] = {}  # the oldest first

    def run(self, listener: socket.socket) -> None:
        # 40 ms of import that a host without metrics does not pay.
        import asyncio  # noqa: PLC0415

        asyncio.run(self._serve(listener))

    async def _serve(self, listener: socket.socket) -> None:
        import asyncio  # noqa: PLC0415

        server = await asyncio.start_server(self._on_connection, sock=listener)
        await server.serve_forever()

    async def _on_connection(self, reader: StreamReader, writer: StreamWriter) -> None:
        import asyncio  # noqa: PLC0415

        if len(self._open) >= MAX_CONNECTIONS:
            oldest = next(iter(self._open))
            del self._open[oldest]
            oldest.transport.abort()
        self._open[writer] = None
        try:
            async with asyncio.timeout(_CONVERSATION_S):
                head = await reader.readuntil(b"\r\n\r\n")
                if len(head) <= _MAX_HEAD_BYTES:
                    writer.write(self._respond(head))
                await writer.drain()
                writer.close()
                await writer.wait_closed()
        except (OSError, EOFError, asyncio.LimitOverrunError):  # TimeoutError is an OSError
            writer.transport.abort()
        finally:
            self._open.pop(writer, None)

    def _respond(self, head: bytes) -> bytes:
        method, _, rest = head.partition(b" ")
        target, _, version = rest.partition(b"\r\n")[0].partition(b" ")
        if not version.startswith(b"HTTP/1."):
            answer = Answer(b"not HTTP/1\n", HTTPStatus.BAD_REQUEST)
        elif method not in {b"GET", b"HEAD"}:
            answer = Answer(b"GET or HEAD\n", HTTPStatus.METHOD_NOT_ALLOWED)
        else:
            answer = self._answer(target.partition(b"?")[0].decode("latin-1"))
        lines = (
            f"HTTP/1.1 {answer.status.value} {answer.status.phrase}",
            f"Content-Type: {answer.content_type}",
            f"Content-Length: {len(answer.body)}",
            "Connection: close",
            "",
            "",
        )
        return "\r\n".join(lines).encode("latin-1") + (b"" if method == b"HEAD" else answer.body)

    def _answer(self, path: str) -> Answer:
        route = self._routes.get(path)
        if route is None:
            known = " ".join(self._routes)
            return Answer(f"not here; try {known}\n".encode(), HTTPStatus.NOT_FOUND)
        try:
            return route()
        except Exception:  # noqa: BLE001 - whatever it is, the next scrape is to be answered
            _log.exception("scrape failed", extra={"path": path})
            return Answer(b"see the log\n", HTTPStatus.INTERNAL_SERVER_ERROR)
