"""`tensorpool top`: the host live, with what its consumers lose."""

from __future__ import annotations

import contextlib
import json
import time
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from tensorpool.cli.qos_watch import QosWatch
    from tensorpool.cli.status_report import HostStatus, StatusReader

_STEP_S = 0.05
"""QoS messages are taken this often, so that a burst never outgrows the term window."""


def top(
    once: Annotated[
        bool, typer.Option("--once", help="One look over one interval, for scripts.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object a look; keys are stable.")
    ] = False,
    interval: Annotated[float, typer.Option(min=0.1, help="Seconds between two looks.")] = 1.0,
    config: Annotated[str | None, typer.Option(help="Configuration file of the host.")] = None,
) -> None:
    """Watch processes, streams, leases, rates and drops of this host, until Ctrl-C.

    Drops are what consumers report (QoS messages), summed over those heard in the last five
    seconds; the rest needs no Aeron. Exit status as `status`: 0 healthy, 1 degraded, 2 down.
    """
    from tensorpool.cli.qos_watch import QosWatch  # noqa: PLC0415 - other commands need none
    from tensorpool.cli.status_report import StatusReader, exit_status  # noqa: PLC0415
    from tensorpool.cli.up import load_host  # noqa: PLC0415

    settings = load_host(config).settings
    reader = StatusReader(settings)
    found = reader.look()
    with contextlib.suppress(KeyboardInterrupt), QosWatch(settings) as watch:
        if once or as_json:
            while True:
                found = _look(reader, watch, interval)
                _print(found, watch, as_json=as_json)
                if once:
                    break
        else:
            found = _live(reader, watch, interval)
    raise typer.Exit(exit_status(found))


def _look(reader: StatusReader, watch: QosWatch, seconds: float) -> HostStatus:
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0:
        watch.poll()
        time.sleep(min(_STEP_S, left))
    watch.poll()
    return reader.look()


def _print(found: HostStatus, watch: QosWatch, *, as_json: bool) -> None:
    if as_json:
        qos = list(watch.streams().values()) if watch.is_connected else None
        typer.echo(json.dumps({**found, "qos": qos}))
        return
    from tensorpool.cli.console import make_console  # noqa: PLC0415 - rich takes a while
    from tensorpool.cli.status_view import screen  # noqa: PLC0415

    console = make_console()
    console.print(screen(found, watch.streams()), soft_wrap=not console.is_terminal)


def _live(reader: StatusReader, watch: QosWatch, interval: float) -> HostStatus:
    from rich.live import Live  # noqa: PLC0415 - rich takes a while

    from tensorpool.cli.console import make_console  # noqa: PLC0415
    from tensorpool.cli.status_view import screen  # noqa: PLC0415

    console = make_console()
    found = reader.look()
    if not console.is_terminal:
        while True:
            found = _look(reader, watch, interval)
            console.print(screen(found, watch.streams()), soft_wrap=True)
    with (
        Live(
            screen(found, watch.streams()), console=console, screen=True, auto_refresh=False
        ) as live,
        contextlib.suppress(KeyboardInterrupt),
    ):
        while True:
            found = _look(reader, watch, interval)
            live.update(screen(found, watch.streams()), refresh=True)
    return found
