"""`tensorpool status`: the host at a glance, from outside."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from tensorpool.cli.status_report import HostStatus
    from tensorpool.settings import HostSettings

_POLL_S = 0.02
_SAMPLE_S = 0.2
"""Between the two looks of a single report: what rates and CPU load are measured over."""


def status(
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object; keys are stable.")
    ] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Look again, until Ctrl-C.")] = False,
    interval: Annotated[float, typer.Option(min=0.1, help="Seconds between two looks.")] = 1.0,
    wait: Annotated[
        float | None, typer.Option(min=0, help="Exit 0 as soon as the host is ready, else 1.")
    ] = None,
    config: Annotated[str | None, typer.Option(help="Configuration file of the host.")] = None,
) -> None:
    """Show processes, streams, leases and memory of this host.

    Needs neither Aeron nor a running host. Exit status: 0 healthy, 1 degraded, 2 down.
    """
    from tensorpool.cli.up import load_host  # noqa: PLC0415 - other commands need none of these

    settings = load_host(config).settings
    if wait is not None:
        raise typer.Exit(_wait(settings, wait))
    raise typer.Exit(_show(settings, interval if watch else None, as_json=as_json))


def _wait(settings: HostSettings, seconds: float) -> int:
    from tensorpool.launcher.host_file import read_host  # noqa: PLC0415

    deadline = time.monotonic() + seconds
    while True:
        host = read_host(settings.shm)
        if host is not None and host["ready"]:
            return 0
        if time.monotonic() >= deadline:
            break
        time.sleep(_POLL_S)
    from tensorpool.cli.status_report import StatusReader  # noqa: PLC0415

    found = StatusReader(settings).look()
    missing = "; ".join(found["problems"]) or f"the host is {found['state']}"
    typer.echo(f"tensorpool: not ready after {seconds:g} s: {missing}", err=True)
    return 1


def _show(settings: HostSettings, interval: float | None, *, as_json: bool) -> int:
    from tensorpool.cli.status_report import StatusReader, exit_status  # noqa: PLC0415

    reader = StatusReader(settings)
    found = reader.look()
    pause = _SAMPLE_S
    try:
        while True:
            if found["health"] != "down" or interval is not None:
                time.sleep(pause)
                found = reader.look()
            _print(found, as_json=as_json, clear=interval is not None)
            if interval is None:
                break
            pause = interval
    except KeyboardInterrupt:
        if interval is None:
            raise
    return exit_status(found)


def _print(found: HostStatus, *, as_json: bool, clear: bool) -> None:
    if as_json:
        typer.echo(json.dumps(found))
        return
    from tensorpool.cli.status_view import render  # noqa: PLC0415 - rich takes a while

    render(found, clear=clear)
