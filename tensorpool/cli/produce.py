"""`tensorpool produce STREAM`: write frames of a test pattern."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from tensorpool.client.producer import Producer

_SHAPE = re.compile(r"\d+(x\d+){0,7}\Z")


def _parse_shape(text: str) -> tuple[int, ...]:
    if not _SHAPE.match(text):
        raise typer.BadParameter(f"{text!r}: 1 to 8 dimensions joined by 'x', e.g. 480x640")
    return tuple(int(part) for part in text.split("x"))


def produce(
    stream: Annotated[int, typer.Argument(help="Stream id; 0 asks for a new dynamic stream.")],
    count: Annotated[int, typer.Option(min=1, help="Frames to write.")] = 16,
    shape: Annotated[str, typer.Option(help="Dimensions, e.g. 480x640.")] = "480x640",
    dtype: Annotated[str, typer.Option(help="Element type by its numpy name.")] = "uint16",
    rate: Annotated[float, typer.Option(min=0, help="Frames a second; 0: unpaced.")] = 0.0,
    wait: Annotated[
        float, typer.Option(min=0, help="Seconds to wait for a consumer before the first frame.")
    ] = 0.0,
    linger: Annotated[
        float,
        typer.Option(
            min=0,
            help="Seconds to stay attached at most after the last frame, until consumers have it: "
            "a detach begins a new epoch, and they drop what they have not read of the old one.",
        ),
    ] = 1.0,
    config: Annotated[str | None, typer.Option(help="Configuration file of the host.")] = None,
) -> None:
    """Write frames of a pattern that `tensorpool consume` can check."""
    import numpy as np  # noqa: PLC0415 - the other commands need no numpy

    import tensorpool  # noqa: PLC0415
    from tensorpool.cli import pattern  # noqa: PLC0415

    dims = _parse_shape(shape)
    try:
        element = np.dtype(dtype)
    except TypeError:
        raise typer.BadParameter(f"--dtype {dtype!r} is no numpy dtype, e.g. uint16") from None
    with tensorpool.connect(config) as pool, pool.producer(stream) as producer:
        typer.echo(f"attached stream={producer.stream_id} epoch={producer.epoch}")
        _await_consumer(producer, wait)
        start = time.monotonic()
        for index in range(count):
            with producer.claim(dims, element) as frame:
                pattern.fill(frame.array, frame.seq)
            typer.echo(f"published seq={frame.seq}")
            if rate:
                time.sleep(max(start + (index + 1) / rate - time.monotonic(), 0))
        elapsed = time.monotonic() - start
        producer.close(linger)
        nbytes = count * int(np.prod(dims)) * element.itemsize
        typer.echo(
            f"{count} frames, {nbytes} bytes in {elapsed:.3f} s; "
            f"descriptors dropped: {producer.drops_back_pressured}"
        )


def _await_consumer(producer: Producer, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and not producer.is_connected:
        time.sleep(0.001)
