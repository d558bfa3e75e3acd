"""`tensorpool gc`: run one pass of the epoch GC, or explain what it would do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from tensorpool.gc.explain import Explanation


def gc(
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    config: Annotated[str | None, typer.Option(help="Configuration file of the host.")] = None,
) -> None:
    """Delete epochs that are provably dead, and tell for each epoch the rule that decided.

    The rules are those of the GC process, which may run meanwhile. Exit status 1 if a
    deletion failed.
    """
    import os  # noqa: PLC0415 - what follows is slow to import and only needed here

    from tensorpool.config import find_config, load, to_settings  # noqa: PLC0415
    from tensorpool.gc.explain import collect  # noqa: PLC0415

    loaded = load(find_config(config, os.environ), os.environ)
    explanation = collect(to_settings(loaded.config), is_dry_run=dry_run)
    if as_json:
        _print_json(explanation)
    else:
        _print_text(explanation)
    if explanation.errors:
        raise typer.Exit(1)


def _print_json(explanation: Explanation) -> None:
    import dataclasses  # noqa: PLC0415
    import json  # noqa: PLC0415

    typer.echo(json.dumps(dataclasses.asdict(explanation), indent=2))


def _print_text(explanation: Explanation) -> None:
    from tensorpool.cli.console import make_console  # noqa: PLC0415

    console = make_console()
    if explanation.decisions:
        console.print(_table(explanation))
    else:
        console.print(f"nothing to judge in {explanation.namespace_dir}", highlight=False)
    if explanation.registry:
        console.print(f"nothing is deleted: {explanation.registry}", highlight=False, markup=False)
    for error in explanation.errors:
        console.print(f"not deleted: {error}", highlight=False, markup=False)
    if explanation.is_dry_run:
        going = [d for d in explanation.decisions if d.action == "delete"]
        size = sum(d.size_bytes for d in going)
        console.print(f"would delete {len(going)} entries, {size} bytes", highlight=False)
    else:
        console.print(
            f"deleted {explanation.deleted} entries, {explanation.bytes_freed} bytes",
            highlight=False,
        )


def _table(explanation: Explanation) -> Table:
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    table = Table(title=Text(explanation.namespace_dir), title_justify="left")
    for column, justify, whole in (
        ("stream", "right", True),
        ("entry", "left", True),
        ("bytes", "right", True),
        ("action", "left", True),
        ("rule", "left", True),
        ("why", "left", False),
    ):
        table.add_column(
            column,
            justify="right" if justify == "right" else "left",
            no_wrap=whole,
            overflow="fold",
        )
    for decision in explanation.decisions:
        table.add_row(
            "-" if decision.stream_id is None else str(decision.stream_id),
            Text(decision.name),
            str(decision.size_bytes),
            decision.action,
            decision.rule,
            Text(decision.sentence),
        )
    return table
