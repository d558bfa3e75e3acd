"""`tensorpool drain`: ask a running host to end in order, and wait until it has."""

from __future__ import annotations

import signal
import time
from typing import Annotated

import typer

_SLACK_S = 30.0


def drain(
    timeout: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="Seconds to wait until it is down; default: policies.shutdown_timeout_ms "
            "and 30 s.",
        ),
    ] = None,
    config: Annotated[str | None, typer.Option(help="Configuration file of the host.")] = None,
) -> None:
    """Ask the host to drain, as SIGTERM to its launcher does, and wait until it is down.

    Exit status: 0 every process of it is gone, 1 none runs, it is not ours, or it is not down
    in time (it drains on).
    """
    from tensorpool.cli.running_host import Launcher  # noqa: PLC0415 - other commands need none
    from tensorpool.cli.up import load_host  # noqa: PLC0415
    from tensorpool.clock import NS_PER_S  # noqa: PLC0415

    settings = load_host(config).settings
    if timeout is None:
        timeout = settings.policies.shutdown_timeout_ns / NS_PER_S + _SLACK_S
    start = time.monotonic()
    with Launcher(settings.shm) as launcher:
        launcher.send(signal.SIGTERM)
        if not launcher.wait_down(timeout):
            typer.echo(
                f"tensorpool: pid {launcher.pid} still drains after {timeout:g} s; `tensorpool "
                "status` tells who is left, a second Ctrl-C or SIGINT hurries it",
                err=True,
            )
            raise typer.Exit(1)
        typer.echo(f"drained in {time.monotonic() - start:.2f} s (pid {launcher.pid})")
