"""`tensorpool config check|show|memory|schema`: look at a configuration, start nothing."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from tensorpool.errors import ConfigError

if TYPE_CHECKING:
    from tensorpool.config import LoadedConfig

_EXIT_CONFIG = 2
_MIB = 1 << 20
_MEANING = {
    "processes": "processes",
    "command_queue": "the media driver's command queue, which fills up over a million attaches",
    "own_buffers": "the host's own term buffers",
    "client_buffers": "term buffers of clients (0: charged to the clients)",
    "first_epochs": "the first epoch of each static stream",
    "kept_epochs": "epochs kept of them, and one in the making",
    "dynamic_epochs": "the same for dynamic streams",
    "hugepages": "all of these epochs on huge pages, which no memory limit counts",
    "to_start": "at least, or `tensorpool up` refuses",
    "to_keep": "with every static stream in use",
    "at_most": "with every dynamic stream in use too: the limit to set",
}

app = typer.Typer(name="config", help="Check and show configurations.", no_args_is_help=True)


@app.command()
def check(
    file: Annotated[str, typer.Argument(metavar="FILE", help="The TOML file to check.")],
) -> None:
    """Check FILE under the present environment; tell all its faults at once."""
    from tensorpool.config.show import summary  # noqa: PLC0415 - pydantic takes its time

    loaded = _load(file)
    typer.echo(f"{file}: OK: {summary(loaded.config)}")


@app.command()
def show(
    file: Annotated[
        str | None,
        typer.Argument(
            metavar="[FILE]",
            help="The TOML file; else TENSORPOOL_CONFIG, else the built-in default.",
        ),
    ] = None,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Write JSON.")] = False,
) -> None:
    """Show every effective value and where it came from: default, file or environment."""
    from tensorpool.config import find_config  # noqa: PLC0415 - pydantic takes its time
    from tensorpool.config.show import as_data, as_toml  # noqa: PLC0415

    loaded = _load(find_config(file, os.environ))
    typer.echo(json.dumps(as_data(loaded), indent=2) if as_json else as_toml(loaded))


@app.command()
def memory(
    file: Annotated[str, typer.Argument(metavar="FILE", help="The TOML file to judge.")],
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Write JSON, in bytes.")] = False,
) -> None:
    """Tell what FILE's host takes of a memory limit, such as a container's."""
    from tensorpool.config import to_settings  # noqa: PLC0415 - pydantic takes its time
    from tensorpool.launcher.memory import memory_need  # noqa: PLC0415

    need = memory_need(to_settings(_load(file).config))
    figures = {
        **asdict(need),
        "to_start": need.to_start,
        "to_keep": need.to_keep,
        "at_most": need.at_most,
    }
    if as_json:
        typer.echo(json.dumps(figures, indent=2))
        return
    for name, size in figures.items():
        typer.echo(f"{size / _MIB:10.1f} MiB  {_MEANING[name]}")


@app.command()
def schema() -> None:
    """Write the JSON Schema of the configuration file."""
    from tensorpool.config.schema import json_schema  # noqa: PLC0415 - pydantic takes its time

    typer.echo(json.dumps(json_schema(), indent=2))


def _load(path: str | None) -> LoadedConfig:
    from tensorpool.config import load  # noqa: PLC0415 - pydantic takes its time

    try:
        return load(path, os.environ)
    except ConfigError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(_EXIT_CONFIG) from error
