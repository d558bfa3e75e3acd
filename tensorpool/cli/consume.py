"""`tensorpool consume STREAM`: read frames and check their pattern."""

from __future__ import annotations

import sys
from typing import Annotated

import typer


def consume(
    stream: Annotated[int, typer.Argument(help="Stream id.")],
    count: Annotated[int, typer.Option(min=1, help="Frames to read.")] = 16,
    timeout: Annotated[
        float, typer.Option(min=0, help="Seconds without a frame after which to give up; 0: never.")
    ] = 0.0,
    check: Annotated[
        bool, typer.Option(help="Check every byte of the pattern that `produce` writes.")
    ] = True,
    config: Annotated[str | None, typer.Option(help="Configuration file of the host.")] = None,
) -> None:
    """Read frames, print each one's seq, and check every byte of the pattern."""
    import tensorpool  # noqa: PLC0415 - the other commands need no numpy
    from tensorpool.cli import pattern  # noqa: PLC0415

    faults = 0
    with tensorpool.connect(config) as pool, pool.consumer(stream) as consumer:
        typer.echo(f"attached stream={consumer.stream_id} epoch={consumer.epoch}")
        while consumer.received < count:
            frame = consumer.next(timeout or None)
            if frame is None:
                typer.echo(
                    f"no frame for {timeout} s: {consumer.received} of {count} received", err=True
                )
                raise typer.Exit(1)
            try:
                array = frame.copy()
            except tensorpool.StaleFrame as error:
                typer.echo(f"seq={frame.seq} lost: {error}", err=True)
                continue
            fault = pattern.find_fault(array, frame.seq) if check else None
            verdict = "" if not check else " ok" if fault is None else f" WRONG at byte {fault}"
            shape = "x".join(str(n) for n in array.shape)
            typer.echo(f"seq={frame.seq} {shape} {array.dtype}{verdict}")
            faults += fault is not None
        typer.echo(
            f"{consumer.received} frames; drops: gap={consumer.drops_gap} "
            f"late={consumer.drops_late} invalid={consumer.drops_invalid}"
        )
    if faults:
        typer.echo(f"{faults} frames differ from the pattern", err=True)
        sys.exit(1)
