"""The command line. Small on purpose: every spawned child imports this module again."""

from __future__ import annotations


def main() -> None:
    """Entry point of `tensorpool` and of `python -m tensorpool`."""
    from tensorpool.cli.app import run  # noqa: PLC0415 - see the module's description

    run()
