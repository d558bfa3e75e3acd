"""`python -m bench.soak [--minutes N]`: a host under churn, watched for what grows.

Streams and clients by the hundred in a few processes; all the time some detach and attach again,
so that epochs come and go; now and then a process of clients is killed, or stopped for longer
than its leases live. Every frame that is read is compared. Memory, descriptors, threads, shared
memory and duty cycles are sampled; each series' slope is reported, with a picture.

Ends with status 1 if a series grows, a frame is wrong, or anything is left; with 128 + its number
if a signal ended it early and all was well until then. What was sampled is reported anyway.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path
from types import FrameType

from bench.soak.plan import Plan
from bench.soak.report import fragment, write_report
from bench.soak.result import Result
from bench.soak.run import soak, state_line

ROOT = Path(__file__).resolve().parents[2]


def main() -> None:
    """Soak, write the report, say whether all is well."""
    arguments = _arguments()
    plan = Plan(
        minutes=arguments.minutes,
        warm_up_minutes=arguments.warm_up_minutes,
        streams=arguments.streams,
        clients=arguments.clients,
        sample_s=arguments.sample_s,
        churn_hz=arguments.churn_hz,
        kill_s=arguments.kill_s,
        freeze_s=arguments.freeze_s,
    )
    # Of a process that crashes its Python frames are on standard error.
    os.environ.setdefault("PYTHONFAULTHANDLER", "1")
    caught: list[signal.Signals] = []

    def end_early(number: int, _: FrameType | None) -> None:
        caught.append(signal.Signals(number))

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end_early)

    def note(result: Result) -> None:
        print(f"soak: {state_line(result)}", flush=True)
        result.write(arguments.result)

    result = soak(plan, lambda: caught[0].name if caught else None, note)
    result.write(arguments.result)
    write_report(result, arguments.output)
    print(fragment(result))
    print(f"soak: {arguments.output}, {arguments.result}")
    if not result.is_passed:
        sys.exit("soak: not passed")
    if caught:
        sys.exit(128 + caught[0])


def _arguments() -> argparse.Namespace:
    plan = Plan()
    parser = argparse.ArgumentParser(prog="python -m bench.soak", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    for name, kind, default, words in (
        ("--minutes", float, plan.minutes, "how long, after the warm-up"),
        ("--warm-up-minutes", float, plan.warm_up_minutes, "before what is judged"),
        ("--streams", int, plan.streams, "static streams"),
        ("--clients", int, plan.clients, "producers and consumers together"),
        ("--sample-s", float, plan.sample_s, "seconds between two samples"),
        ("--churn-hz", float, plan.churn_hz, "clients a second that detach and attach again"),
        ("--kill-s", float, plan.kill_s, "seconds between two SIGKILLs of a client process"),
        ("--freeze-s", float, plan.freeze_s, "seconds between two stops of a client process"),
    ):
        parser.add_argument(name, type=kind, default=default, help=f"{words} ({default:g})")
    parser.add_argument(
        "--output",
        type=Path,
        default=ROOT / "docs" / "reliability.md",
        help="page whose marked part is replaced; the picture lies beside it",
    )
    parser.add_argument(
        "--result",
        type=Path,
        default=ROOT / "bench" / "results" / "soak.json",
        help="every sample, JSON",
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
