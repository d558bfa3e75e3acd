"""The shutdown token (Driver §4.13): compared in constant time, and nowhere to be read."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

from tensorpool.driver import agent
from tensorpool.wire.driver import ShmDriverShutdownRequest
from tests.integration.host import RunningHost
from tests.wire_client import WireClient, settings_of

TOKEN = "open-sesame-4711"  # noqa: S105 - a test's
GUESSES = (b"open-sesame-4712", b"wrong-guess-0815", b"")


def test_neither_token_nor_guess_is_ever_written(tmp_shm: Path) -> None:
    host = RunningHost(tmp_shm, {"policies": {"shutdown_token": TOKEN}, "logging": {"level": 4}})
    try:
        host.start()
        host.wait_ready()
        shown = host.command("config", "show").output
        with WireClient(settings_of(str(host.config))) as client:
            for guess in GUESSES:
                client.send(ShmDriverShutdownRequest(1, 0, guess))
            client.round_trip()
            assert host.is_ready
            client.send(ShmDriverShutdownRequest(2, 0, TOKEN.encode()))
            assert host.wait_ended() == 0
        assert '"DEBUG"' in host.logged(), "the log was not at debug level: this proves nothing"
        assert "shutdown requested" in host.logged()
        written = [host.logged(), host.printed(), shown]
        written += [
            path.read_bytes().decode("latin-1")
            for path in tmp_shm.rglob("*")
            if path.is_file() and path != host.config
        ]
        for text in written:
            for secret in (TOKEN, *(guess.decode() for guess in GUESSES if guess)):
                assert secret not in text
    finally:
        host.close()


def test_the_token_is_on_no_command_line_and_in_no_environment(tmp_shm: Path) -> None:
    host = RunningHost(tmp_shm, {"policies": {"shutdown_token": TOKEN}})
    try:
        host.start()
        host.wait_ready()
        for process in [host.process.pid, *(child.pid for child in host.descendants())]:
            for name in ("cmdline", "environ"):
                assert TOKEN.encode() not in Path(f"/proc/{process}/{name}").read_bytes()
        assert host.stop() == 0
    finally:
        host.close()


def test_tokens_are_compared_by_compare_digest_only() -> None:
    """A comparison with == would tell by its time how much of a guess is right."""
    tree = ast.parse(inspect.getsource(agent))
    names = {"token"}
    compared = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Compare)
        for side in (node.left, *node.comparators)
        if any(
            (isinstance(part, ast.Name) and part.id in names)
            or (isinstance(part, ast.Attribute) and part.attr in names)
            for part in ast.walk(side)
        )
    ]
    assert compared == []
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    assert any(node.attr == "compare_digest" for node in calls)
