"""`tensorpool up`: bring this host's driver up, and keep it up."""

from __future__ import annotations

import os
import shlex
import time
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from tensorpool.launcher.reload import HostConfiguration


def up(
    config: Annotated[
        str | None, typer.Argument(help="Configuration file.", show_default="built-in")
    ] = None,
    config_option: Annotated[
        str | None, typer.Option("--config", help="The same, as other commands take it.")
    ] = None,
) -> None:
    """Bring this host's driver up and keep it up; Ctrl-C drains and ends it.

    Without a file the configuration is that of TENSORPOOL_CONFIG, else a built-in default.
    SIGHUP reads it again, SIGUSR1 writes the state of every process to the log.
    """
    if config is not None and config_option is not None and config != config_option:
        raise typer.BadParameter(f"CONFIG {config!r} and --config {config_option!r}: name one")
    from tensorpool import logs  # noqa: PLC0415 - other commands need none of these
    from tensorpool.cli.provision_progress import ProvisionProgress  # noqa: PLC0415
    from tensorpool.launcher.host import HostHooks, run_host  # noqa: PLC0415

    explicit = config or config_option
    host = load_host(explicit)
    logs.configure("launcher", host.settings.log_level)
    hooks = HostHooks(on_ready=lambda: _say_ready(host, explicit), load=lambda: load_host(explicit))
    with ProvisionProgress(host.settings):
        run_host(host, os.environ, hooks)


def load_host(explicit: str | None) -> HostConfiguration:
    """The configuration that `explicit` or the environment names, for the launcher.

    Raises:
        ConfigError: it cannot be used.
    """
    from tensorpool.config import find_config, load, to_settings  # noqa: PLC0415
    from tensorpool.launcher.reload import HostConfiguration  # noqa: PLC0415

    path = find_config(explicit, os.environ)
    loaded = load(None if path is None else os.path.abspath(path), os.environ)
    return HostConfiguration(to_settings(loaded.config), loaded.config.model_dump(), loaded.path)


def _say_ready(host: HostConfiguration, explicit: str | None) -> None:
    settings = host.settings
    option = f" --config {shlex.quote(explicit)}" if explicit is not None else ""
    lines = [
        f"tensorpool: ready in {_age_s():.2f} s (pid {os.getpid()})",
        f"  aeron    {settings.aeron_dir}",
        f"  memory   {settings.shm.namespace_dir}",
        f"  config   {host.path or 'built-in default; `tensorpool config show` prints it'}",
    ]
    if settings.streams:
        streams = ", ".join(f"{stream.stream_id} ({stream.name})" for stream in settings.streams)
        lines.append(f"  streams  {streams}")
    ids = settings.driver.stream_id_range
    example = settings.streams[0].stream_id if settings.streams else ids.first if ids else None
    if example is not None:
        lines += [
            "try, each in a shell of its own:",
            f"  tensorpool consume {example} --count 16{option}",
            f"  tensorpool produce {example} --count 16{option}",
        ]
    lines.append("Ctrl-C ends it")
    try:
        typer.echo("\n".join(lines))
    except OSError:
        return  # Nobody reads our output any more; the host runs on.


def _age_s() -> float:
    """Seconds since this process started, the interpreter's own start included."""
    with open("/proc/self/stat", "rb") as file:
        ticks = int(file.read().rpartition(b")")[2].split()[19])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
