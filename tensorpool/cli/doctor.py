"""`tensorpool doctor`: is this host fit for the configuration?"""

from __future__ import annotations

import dataclasses
import json
import os
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from tensorpool.doctor.finding import Finding

_STYLES = {"note": "cyan", "warning": "yellow", "error": "red"}
_HEALTH = ("healthy", "warnings", "errors")


def doctor(
    *,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object; keys are stable.")
    ] = False,
    config: Annotated[str | None, typer.Option(help="Configuration file of the host.")] = None,
) -> None:
    """Examine this host and say what is wrong, why, and what to do; nothing is changed.

    Run it as the user of `tensorpool up`, before or while that runs. Exit status: 0 healthy,
    1 warnings, 2 errors.
    """
    from tensorpool.config import find_config, load, to_settings  # noqa: PLC0415
    from tensorpool.doctor.examination import CHECKS, examine, exit_status  # noqa: PLC0415

    loaded = load(find_config(config, os.environ), os.environ, fits_host=False)
    found = examine(to_settings(loaded.config))
    status = exit_status(found)
    if as_json:
        report = {
            "health": _HEALTH[status],
            "config": loaded.path,
            "checks": len(CHECKS),
            "findings": [dataclasses.asdict(finding) for finding in found],
        }
        typer.echo(json.dumps(report, indent=2))
    else:
        _print(found, len(CHECKS), _HEALTH[status])
    raise typer.Exit(status)


def _print(found: list[Finding], checks: int, health: str) -> None:
    from rich.text import Text  # noqa: PLC0415 - rich takes a while

    from tensorpool.cli.console import make_console  # noqa: PLC0415

    console = make_console()
    for finding in found:
        head = Text()
        head.append(f"{finding.severity} ", style=_STYLES[finding.severity])
        head.append(finding.id, style="bold")
        console.print(head)
        for label, text in (
            ("seen", finding.seen),
            ("rule", finding.rule),
            ("remedy", finding.remedy),
        ):
            console.print(Text(f"  {label:<7}{text}"), soft_wrap=True)
    style = {"healthy": "green", "warnings": "yellow", "errors": "red"}[health]
    count = f"{len(found)} findings" if len(found) != 1 else "1 finding"
    last = Text()
    last.append(health, style=style)
    last.append(f": {checks} checks, {count}")
    console.print(last)
