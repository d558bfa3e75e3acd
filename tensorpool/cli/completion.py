"""`tensorpool completion SHELL`: the script that makes a shell complete our commands."""

from __future__ import annotations

import enum
import os
from typing import Annotated

import typer

_PROGRAM = "tensorpool"


class Shell(enum.StrEnum):
    """The shells that we know."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


def completion(
    shell: Annotated[Shell, typer.Argument(help="Whose script.")],
) -> None:
    """Write the completion script of SHELL.

    bash: `source <(tensorpool completion bash)`; zsh: the same after compinit; fish:
    `tensorpool completion fish | source`. A line in the shell's start file keeps it.
    """
    from tensorpool.cli.app import app  # noqa: PLC0415 - it imports us

    # Asked through the variable by which the scripts themselves ask for candidates.
    os.environ[f"_{_PROGRAM.upper()}_COMPLETE"] = f"source_{shell}"
    app(prog_name=_PROGRAM)
