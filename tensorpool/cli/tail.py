"""`tensorpool tail`: a host's messages as they pass."""

from __future__ import annotations

import signal
import time
from typing import Annotated

import typer

from tensorpool.cli.traffic import Filter, Kind, Traffic, as_json, as_text

_PARK_NS = 1_000_000


def tail(
    stream: Annotated[
        list[int] | None, typer.Option(help="Only messages of this stream id; repeatable.")
    ] = None,
    kind: Annotated[
        list[Kind] | None, typer.Option(help="Only messages of this kind; repeatable.")
    ] = None,
    json_lines: Annotated[
        bool, typer.Option("--json", help="One JSON object a line; keys are stable.")
    ] = False,
    count: Annotated[int, typer.Option(min=0, help="End after this many; 0: never.")] = 0,
    timeout: Annotated[
        float,
        typer.Option(min=0, help="End after this many seconds, status 1 with --count; 0: no."),
    ] = 0.0,
    config: Annotated[str | None, typer.Option(help="Configuration file of the host.")] = None,
) -> None:
    """Show control, announce, metadata, QoS and descriptor traffic, decoded, until Ctrl-C.

    A message of no stream (a shutdown, a response) is shown only without --stream. Tokens are
    never shown. Descriptors of per-consumer streams pass elsewhere. Nobody waits for this
    reader: one that is stopped misses messages.
    """
    from tensorpool.aeron.idle import BackoffIdle  # noqa: PLC0415 - other commands need none
    from tensorpool.cli.up import load_host  # noqa: PLC0415

    settings = load_host(config).settings
    show = as_json if json_lines else as_text
    asked_to_stop: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: asked_to_stop.append(number))
    deadline = time.monotonic() + timeout if timeout else None
    shown = 0
    with Traffic(settings, Filter(stream or (), kind or ())) as traffic:
        typer.echo(
            f"listening to {len(traffic.endpoints)} Aeron streams in {settings.aeron_dir}", err=True
        )
        idle = BackoffIdle(_PARK_NS)
        while not asked_to_stop:
            idle.idle(traffic.poll())
            for heard in traffic.take():
                typer.echo(show(heard))
                shown += 1
                if shown == count:
                    return
            if deadline is not None and time.monotonic() >= deadline:
                raise typer.Exit(1 if count else 0)
