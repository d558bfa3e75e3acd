"""`tensorpool config check|show|schema`: look at a configuration without starting anything."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Annotated

import typer

from tensorpool.errors import ConfigError

if TYPE_CHECKING:
    from tensorpool.config import LoadedConfig

_EXIT_CONFIG = 2

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
