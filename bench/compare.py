"""`python -m bench.compare BEFORE AFTER`: has a ratio got worse between two result files?

Each ratio is between transports of one file, measured beside each other; so the files may come
from different machines or days. Fails (exit status 1) where tensorpool's median ratio is worse
than before by more than the tolerance, and the spreads of the two do not overlap.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from bench.ratios import TARGETS, Ratio, ratio_of, size_name


def main() -> None:
    """Print each ratio of both files, and say which got worse."""
    parser = argparse.ArgumentParser(prog="python -m bench.compare", description=__doc__)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--tolerance", type=float, default=0.15, help="share that is noise (0.15)")
    arguments = parser.parse_args()
    before, after = (
        json.loads(p.read_text(encoding="utf-8")) for p in (arguments.before, arguments.after)
    )
    worse = regressions(before, after, arguments.tolerance)
    for line in worse:
        print(f"worse: {line}")
    sys.exit(1 if worse else 0)


def regressions(before: dict[str, Any], after: dict[str, Any], tolerance: float) -> list[str]:
    """In words, each ratio that got worse."""
    found = []
    for target in TARGETS:
        for nbytes in target.sizes:
            old = ratio_of(
                before, nbytes, target.value, at_least=target.at_least, against=target.against
            )
            if old is None:
                continue
            # Against the same peer as before: another best peer is no change of ours.
            new = ratio_of(after, nbytes, target.value, against=old.against)
            if new is None:
                continue
            line = f"{target.what}, {size_name(nbytes)} ({old.against}): {old}, now {new}"
            print(line)
            if is_worse(old, new, tolerance, at_least=target.at_least):
                found.append(line)
    return found


def is_worse(old: Ratio, new: Ratio, tolerance: float, *, at_least: bool) -> bool:
    """Whether the median is worse beyond the tolerance, and no round says otherwise."""
    if at_least:
        return new.median < old.median * (1 - tolerance) and new.high < old.low
    return new.median > old.median * (1 + tolerance) and new.low > old.high


if __name__ == "__main__":
    main()
