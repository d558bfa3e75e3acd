"""`tensorpool streams list|add`: the streams of a host, and one more of them."""

from __future__ import annotations

import json
import os
import signal
import time
from typing import TYPE_CHECKING, Annotated, Self, TypedDict

import typer

from tensorpool.errors import ConfigError, HostError

if TYPE_CHECKING:
    from tensorpool.cli.running_host import Launcher
    from tensorpool.settings import HostSettings, ShmSettings

_POLL_S = 0.02

app = typer.Typer(name="streams", help="List the streams, or add one.", no_args_is_help=True)


class StreamRow(TypedDict):
    """A stream of the configuration or of the registry, or of both."""

    stream_id: int
    name: str
    profile: str
    configured: bool
    epoch: int | None
    producer_client_id: int | None
    consumers: int


@app.command("list")
def list_streams(
    *,
    as_json: Annotated[bool, typer.Option("--json", help="A JSON array; keys are stable.")] = False,
    config: Annotated[str | None, typer.Option(help="Configuration file of the host.")] = None,
) -> None:
    """List the streams that are configured and those that the driver has."""
    from tensorpool.cli.up import load_host  # noqa: PLC0415 - other commands need none of these

    rows = find_streams(load_host(config).settings)
    if as_json:
        typer.echo(json.dumps(rows))
        return
    _print(rows)


@app.command()
def add(
    name: Annotated[str, typer.Argument(help="Name of the new [streams.NAME] table.")],
    stream_id: Annotated[int, typer.Option("--id", help="Its stream id.")],
    profile: Annotated[
        str | None, typer.Option(help="Its profile; default: policies.default_profile.")
    ] = None,
    timeout: Annotated[
        float, typer.Option(min=0, help="Seconds to wait until the running host serves it.")
    ] = 10.0,
    config: Annotated[str | None, typer.Option(help="Configuration file to add it to.")] = None,
) -> None:
    """Append a stream to the configuration file, and have a running host take it (SIGHUP).

    The file is the one place where static streams are: nothing is added that the next start
    would not know. For a stream of the moment no command is needed: attach a producer to an id
    of driver.stream_id_range, or to id 0 (`tensorpool produce 0`).
    """
    from tensorpool.cli.stream_table import NewStream, add_stream  # noqa: PLC0415
    from tensorpool.cli.up import load_host  # noqa: PLC0415

    host = load_host(config)
    if host.path is None:
        raise ConfigError(
            "there is no configuration file to add to, only the built-in default; write one with "
            "`tensorpool config show > host.toml`, start the host with it, and name it by --config"
        )
    with _Running(host.settings.shm, host.path) as running:
        chosen = profile or host.settings.policies.default_profile
        new = NewStream(name, stream_id, chosen)
        add_stream(host.path, new, os.environ)
        typer.echo(f"added to {host.path}:\n\n{new.toml}")
        if running.launcher is None:
            typer.echo("no host runs on it; the next start has the stream")
            return
        running.launcher.send(signal.SIGHUP)
    _await_stream(host.settings.shm, stream_id, timeout)


class _Running:
    """The host that runs on the namespace, if one does; refused if it uses another file."""

    def __init__(self, shm: ShmSettings, path: str) -> None:
        from tensorpool.cli.running_host import Launcher  # noqa: PLC0415
        from tensorpool.host_lock import is_held  # noqa: PLC0415
        from tensorpool.launcher.locks import namespace_lock_path  # noqa: PLC0415

        self.launcher: Launcher | None = None
        if is_held(namespace_lock_path(shm)):
            self.launcher = Launcher(shm)
        if self.launcher is not None and not _is_same(self.launcher.report["config"], path):
            used = self.launcher.report["config"] or "the built-in default"
            raise HostError(
                f"the running host (pid {self.launcher.pid}) uses {used}, not {path}; nothing was "
                "changed: name its file by --config"
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.launcher is not None:
            self.launcher.__exit__(None, None, None)


def _is_same(used: str | None, path: str) -> bool:
    try:
        return used is not None and os.path.samefile(used, path)
    except OSError:
        return False


def _await_stream(shm: ShmSettings, stream_id: int, timeout: float) -> None:
    deadline = time.monotonic() + timeout
    while True:
        epoch = _epoch_of(shm, stream_id)
        if epoch:
            typer.echo(f"stream {stream_id} is served, epoch {epoch}")
            return
        if time.monotonic() >= deadline:
            break
        time.sleep(_POLL_S)
    typer.echo(
        f"tensorpool: the file has stream {stream_id}, but the running host does not serve it "
        f"after {timeout:g} s; its log says why (a reload is refused whole if other keys changed)",
        err=True,
    )
    raise typer.Exit(1)


def _epoch_of(shm: ShmSettings, stream_id: int) -> int:
    from tensorpool.registry import RegistryError, RegistryReader  # noqa: PLC0415

    try:
        with RegistryReader(shm.registry_path) as registry:
            return next((s.epoch for s in registry.streams() if s.stream_id == stream_id), 0)
    except RegistryError:
        return 0


def find_streams(settings: HostSettings) -> list[StreamRow]:
    """Every stream of the configuration and of the registry, by stream id."""
    from tensorpool.registry import RegistryError, RegistryReader  # noqa: PLC0415

    configured = {stream.stream_id: stream for stream in settings.streams}
    rows: dict[int, StreamRow] = {
        stream.stream_id: {
            "stream_id": stream.stream_id,
            "name": stream.name,
            "profile": stream.profile,
            "configured": True,
            "epoch": None,
            "producer_client_id": None,
            "consumers": 0,
        }
        for stream in settings.streams
    }
    try:
        with RegistryReader(settings.shm.registry_path) as registry:
            is_alive = registry.is_writer_alive()
            for record in registry.streams():
                rows[record.stream_id] = {
                    "stream_id": record.stream_id,
                    "name": record.name,
                    "profile": record.profile,
                    "configured": record.stream_id in configured,
                    "epoch": record.epoch or None if is_alive else None,
                    "producer_client_id": record.producer_client_id
                    if is_alive and record.producer_lease_id
                    else None,
                    "consumers": record.consumers if is_alive else 0,
                }
    except RegistryError:
        pass  # No driver has served yet: the configuration is all there is.
    return [rows[stream_id] for stream_id in sorted(rows)]


def _print(rows: list[StreamRow]) -> None:
    from rich.table import Table  # noqa: PLC0415 - rich takes a while

    from tensorpool.cli.console import make_console  # noqa: PLC0415

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("stream", "name", "profile", "origin", "epoch", "producer", "consumers"):
        is_text = column in {"name", "profile", "origin"}
        table.add_column(column, justify="left" if is_text else "right", overflow="fold")
    for row in rows:
        table.add_row(
            str(row["stream_id"]),
            row["name"],
            row["profile"],
            "configured" if row["configured"] else "dynamic",
            str(row["epoch"] or "-"),
            str(row["producer_client_id"] or "-"),
            str(row["consumers"]),
        )
    make_console().print(table)
