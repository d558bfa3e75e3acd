"""Each fault once, in an order of the seed's, with the invariants checked throughout.

`make chaos` plays 1,000 rounds (`python -m tests.chaos.rounds`).
"""

from __future__ import annotations

import sys

from tests.chaos.rounds.faults import FAULTS
from tests.chaos.rounds.play import play

SEED = 20261126


def test_every_fault_once() -> None:
    played = list(play(SEED, range(len(FAULTS))))
    # Shown by `pytest -rP`.
    sys.stdout.writelines(f"seed {SEED}: {one}\n" for one in played)
    assert {one.faults[0] for one in played} == set(FAULTS)
