"""The commands, each loaded when it is called, and what becomes of their errors."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

import tensorpool
from tensorpool.errors import ConfigError, TensorPoolError

USAGE_STATUS = 2
_FAILURE_STATUS = 1
_TRACEBACK_LEVEL = 3

_COMMANDS = {
    "up": "tensorpool.cli.up:up",
    "drain": "tensorpool.cli.drain:drain",
    "status": "tensorpool.cli.status:status",
    "top": "tensorpool.cli.top:top",
    "doctor": "tensorpool.cli.doctor:doctor",
    "streams": "tensorpool.cli.streams:app",
    "inspect": "tensorpool.cli.inspect:inspect",
    "tail": "tensorpool.cli.tail:tail",
    "produce": "tensorpool.cli.produce:produce",
    "consume": "tensorpool.cli.consume:consume",
    "gc": "tensorpool.cli.gc:gc",
    "config": "tensorpool.cli.config:app",
    "completion": "tensorpool.cli.completion:completion",
}


class _LazyGroup(TyperGroup):
    """Commands by name; only the one that is called is imported."""

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002 - typer's own type
        return list(_COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ARG002
        if cmd_name not in _COMMANDS:
            return None
        module, _, name = _COMMANDS[cmd_name].partition(":")
        command = getattr(import_module(module), name)
        if not isinstance(command, typer.Typer):
            single = typer.Typer(add_completion=False)
            single.command(cmd_name)(command)
            command = single
        loaded = typer.main.get_command(command)
        loaded.name = cmd_name
        return loaded


app = typer.Typer(
    cls=_LazyGroup,
    name="tensorpool",
    help="The shared-memory tensor bus of this host.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def _print_version(value: bool) -> None:
    if value:
        typer.echo(f"tensorpool {tensorpool.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print it.")
    ] = False,
) -> None:
    pass


def run() -> None:
    """Run the command that the arguments name; every error ends as one message and a status.

    Status 2: wrong usage or configuration; 1: refused or failed at run time.
    """
    # SIGTERM ends a command as Ctrl-C does, its leases returned. As process 1 of a container,
    # for which the kernel has no default, it would otherwise not end at all.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        app()
    except ConfigError as error:
        _give_up(error, str(error), USAGE_STATUS)
    except TensorPoolError as error:
        _give_up(error, str(error), _FAILURE_STATUS)
    except BrokenPipeError:
        # Whoever read our output has seen enough; nor must the interpreter flush it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(_FAILURE_STATUS)
    except OSError as error:
        _give_up(error, str(error), _FAILURE_STATUS)
    except Exception as error:  # noqa: BLE001 - no traceback for a user, whatever it is
        text = f"internal error: {error!r}; TP_LOG_LEVEL=3 shows where. Please report it"
        _give_up(error, text, _FAILURE_STATUS)


def _give_up(error: BaseException, text: str, status: int) -> None:
    level = os.environ.get("TP_LOG_LEVEL", "")
    if level.isdigit() and int(level) >= _TRACEBACK_LEVEL:
        traceback.print_exception(error)
    typer.echo(f"tensorpool: {text}", err=True)
    sys.exit(status)
