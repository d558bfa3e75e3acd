"""`tensorpool inspect STREAM|PATH`: what lies in shared memory, without touching it."""

from __future__ import annotations

import json
import math
import os
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from tensorpool.cli.regions import EpochReader, FrameData, SlotFacts
    from tensorpool.settings import ShmSettings

_MAX_VALUES = 4096
"""More elements than that are no JSON that anybody reads; --png or a consumer takes those."""
_SHOWN = 64


def inspect(
    target: Annotated[
        str,
        typer.Argument(metavar="STREAM|PATH", help="Stream id, or an epoch's directory or file."),
    ],
    slots: Annotated[
        int, typer.Option(min=0, help="Newest slots to show; 0: every slot of the ring.")
    ] = 8,
    frame: Annotated[bool, typer.Option("--frame", help="Show the values of a frame.")] = False,
    seq: Annotated[
        int | None, typer.Option(min=0, help="The frame's seq; default: the newest.")
    ] = None,
    png: Annotated[
        str | None, typer.Option(metavar="OUT", help="Write the frame to this file as PNG.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object; keys are stable.")
    ] = False,
    config: Annotated[str | None, typer.Option(help="Configuration file of the host.")] = None,
) -> None:
    """Show superblocks, slots and tensor headers of an epoch, and one frame of it.

    Reads only, follows no symlink, needs no lease and no Aeron: a producer is not disturbed,
    and a frame that it overwrites meanwhile is not shown.
    """
    from tensorpool.cli.regions import EpochReader  # noqa: PLC0415 - other commands need none

    directory = find_epoch(target, config)
    with EpochReader(directory) as reader:
        found = _report(reader, slots)
        data = reader.frame(seq) if frame or png is not None or seq is not None else None
    if data is not None and (frame or seq is not None):
        found["frame"] = frame_facts(data)
    note = _write_png(data, png) if data is not None and png is not None else None
    if as_json:
        typer.echo(json.dumps(found, allow_nan=False))
        return
    _print(found, data if found["frame"] is not None else None)
    if note is not None:
        typer.echo(note)


def find_epoch(target: str, config: str | None) -> str:
    """The directory that `target` means: a path as it is, or a stream's current epoch.

    Raises:
        InspectError: no such stream, or it has no epoch.
    """
    from tensorpool.cli.regions import InspectError, is_region_name  # noqa: PLC0415

    if not target.isdigit():
        is_file = is_region_name(os.path.basename(target)) and not os.path.isdir(target)
        path = os.path.dirname(target) or "." if is_file else target
        return os.path.normpath(path)
    from tensorpool.cli.up import load_host  # noqa: PLC0415
    from tensorpool.shm.paths import epoch_dir  # noqa: PLC0415

    shm = load_host(config).settings.shm
    epoch = _current_epoch(shm, int(target))
    if epoch is None:
        raise InspectError(
            f"stream {target} has no epoch in {shm.namespace_dir}; `tensorpool streams list` shows "
            "which have one"
        )
    return epoch_dir(shm.namespace_dir, int(target), epoch)


def _current_epoch(shm: ShmSettings, stream_id: int) -> int | None:
    from tensorpool.registry import RegistryError, RegistryReader  # noqa: PLC0415
    from tensorpool.shm.paths import parse_decimal_name, stream_dir  # noqa: PLC0415

    try:
        with RegistryReader(shm.registry_path) as registry:
            for record in registry.streams():
                if record.stream_id == stream_id and record.epoch:
                    return record.epoch
    except RegistryError:
        pass  # The directories tell as well.
    try:
        names = os.listdir(stream_dir(shm.namespace_dir, stream_id))
    except OSError:
        return None
    epochs = (parse_decimal_name(name) for name in names)
    return max((epoch for epoch in epochs if epoch is not None), default=None)


def _report(reader: EpochReader, slots: int) -> dict[str, Any]:
    regions = reader.regions()
    rows: list[SlotFacts] = list(reader.slots())
    committed = [row for row in rows if row["state"] == "committed"]
    newest = max((row["seq"] or 0 for row in committed), default=None)
    shown = rows
    if slots:
        used = sorted(
            (row for row in rows if row["seq"] is not None), key=lambda row: row["seq"] or 0
        )
        shown = used[-slots:]
    return {
        "directory": reader.directory,
        "stream_id": regions[0]["stream_id"],
        "epoch": regions[0]["epoch"],
        "regions": regions,
        "committed": len(committed),
        "newest_seq": newest,
        "slots": shown,
        "frame": None,
    }


def frame_facts(data: FrameData) -> dict[str, Any]:
    """A frame as JSON: `values` nested by dimension, null if they are many."""
    array = data.array
    is_number = array.size > 0
    return {
        "seq": data.seq,
        "timestamp_ns": data.timestamp_ns,
        "meta_version": data.meta_version,
        "dtype": data.dtype,
        "shape": list(array.shape),
        "nbytes": array.nbytes,
        "min": _finite(array.min().item()) if is_number else None,
        "max": _finite(array.max().item()) if is_number else None,
        "mean": _finite(float(array.mean())) if is_number else None,
        "values": _all_finite(array.tolist()) if array.size <= _MAX_VALUES else None,
    }


def _finite(value: Any) -> Any:
    """`value`, or None for what JSON has no word for."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _all_finite(values: Any) -> Any:
    return [_all_finite(value) for value in values] if isinstance(values, list) else _finite(values)


def _write_png(data: FrameData, path: str) -> str:
    from tensorpool.cli.png import as_image, encode_png  # noqa: PLC0415

    image = as_image(data.array)
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    with open(os.open(path, flags, 0o644), "wb") as file:
        file.write(encode_png(image.pixels))
    height, width, _ = image.pixels.shape
    scaled = ""
    if image.scaled is not None:
        scaled = f", scaled from {image.scaled[0]:g}..{image.scaled[1]:g}"
    return f"frame {data.seq} written to {path}: {width}x{height}{scaled}"


def _print(found: dict[str, Any], data: FrameData | None) -> None:
    from tensorpool.cli.console import make_console  # noqa: PLC0415 - rich takes a while
    from tensorpool.cli.inspect_view import region_table, slot_table  # noqa: PLC0415

    console = make_console()
    newest = "none" if found["newest_seq"] is None else found["newest_seq"]
    console.print(f"{found['directory']}", markup=False, soft_wrap=True)
    console.print(region_table(found["regions"]))
    console.print(f"{found['committed']} frames in the ring, newest seq {newest}")
    if found["slots"]:
        console.print(slot_table(found["slots"]))
    if data is None:
        return
    import numpy as np  # noqa: PLC0415

    facts = found["frame"]
    shape = "x".join(map(str, facts["shape"]))
    console.print(
        f"frame {facts['seq']}: {facts['dtype']} {shape}, {facts['nbytes']} bytes, min "
        f"{facts['min']}, max {facts['max']}, mean {facts['mean']}",
        markup=False,
        soft_wrap=True,
    )
    text = np.array2string(data.array, threshold=_SHOWN, max_line_width=console.width)
    console.print(text, markup=False, soft_wrap=True)
