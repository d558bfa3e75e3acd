"""`python -m tests.chaos.rounds --rounds 1000 --seed 7`: rounds of faults, told one by one.

Exit status 1 if an invariant was broken; the line says which round of which seed, and
`--first N --rounds 1` plays that one again. With `--report`, the fault matrix of
docs/reliability.md is written anew, of the rounds of this seed in `--output` before as well.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from dataclasses import asdict
from pathlib import Path

from tests.chaos.rounds.faults import FAULTS
from tests.chaos.rounds.play import InvariantBrokenError, Round, play
from tests.chaos.rounds.report import write_matrix
from tests.leftovers import MARK, session_prefix, sweep


def main() -> int:
    """Play the rounds asked for."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.rounds")
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--first", type=int, default=0, help="number of the first round")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--only", action="append", choices=list(FAULTS), help="a fault; repeatable")
    parser.add_argument("--output", type=Path, help="each round as a line of JSON")
    parser.add_argument("--report", action="store_true", help="write docs/reliability.md")
    options = parser.parse_args()
    mark = os.environ[MARK] = f"chaos-{os.getpid()}"
    print(f"seed {options.seed}, rounds {options.first} to {options.first + options.rounds - 1}")
    rounds = _played_before(options.output, options.seed)
    former = len(rounds)
    numbers = range(options.first, options.first + options.rounds)
    status = 0
    try:
        for played in play(options.seed, numbers, only=options.only):
            rounds.append(played)
            print(_line(played), flush=True)
            if options.output is not None:
                with options.output.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(asdict(played) | {"seed": options.seed}) + "\n")
    except InvariantBrokenError as error:
        print(error, file=sys.stderr)
        status = 1
    left = sweep(mark, session_prefix())
    for line in left:
        print(f"left behind: {line}", file=sys.stderr)
    end = "broken" if status or left else "ok"
    print(f"{len(rounds) - former} rounds of seed {options.seed}: {end}")
    if options.report:
        write_matrix(rounds, options.seed, is_whole=not (status or left))
    return 1 if left else status


def _played_before(output: Path | None, seed: int) -> list[Round]:
    if output is None or not output.exists():
        return []
    told = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
    return [Round(**one) for one in told if one.pop("seed") == seed]


def _line(played: Round) -> str:
    events = ", ".join(f"{name} {count}" for name, count in sorted(played.events.items()))
    silence = max(played.silence_ms)
    return (
        f"{played.number:5} {' + '.join(played.faults):45} silence {silence:7.0f} ms, "
        f"back {played.back_ms:6.0f} ms  {events}"
    )


if __name__ == "__main__":
    sys.exit(main())
