"""Rounds: which fault, when, and what was seen of it."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from tensorpool.clock import NS_PER_MS, monotonic_ns
from tests.chaos.rounds.faults import FAULTS
from tests.chaos.rounds.world import World, world

ROUNDS_A_WORLD = 25
_PAIRS = 0.15
"""Share of rounds in which a second fault follows at once."""


@dataclass
class Round:
    """One round's outcome.

    Attributes:
        number: from 0; with the seed it says all that happens.
        faults: their names, in order.
        silence_ms: each consumer's longest time between two frames.
        back_ms: from the end of the last fault until every consumer streamed again.
        events: what users' pools told.
    """

    number: int
    faults: list[str]
    silence_ms: list[float] = field(default_factory=list)
    back_ms: float = 0.0
    events: dict[str, int] = field(default_factory=dict)


class InvariantBrokenError(AssertionError):
    """A round left something that must not be."""


def play(seed: int, numbers: range, *, only: list[str] | None = None) -> Iterator[Round]:
    """Play these rounds, `ROUNDS_A_WORLD` in a world.

    Raises:
        InvariantBrokenError: with the round that broke it; the world is left as it is then.
    """
    names = only or list(FAULTS)
    for first in range(numbers.start, numbers.stop, ROUNDS_A_WORLD):
        with world(seed) as here:
            for number in range(first, min(first + ROUNDS_A_WORLD, numbers.stop)):
                yield _play_one(here, seed, number, names)


def _play_one(here: World, seed: int, number: int, names: list[str]) -> Round:
    rng = random.Random(f"{seed}:{number}")
    # Each fault as often as the others, in an order of the seed's.
    deck = random.Random(f"{seed}:{number // len(names)}").sample(names, len(names))
    chosen = [deck[number % len(names)]]
    if rng.random() < _PAIRS:
        chosen.append(rng.choice(names))
    played = Round(number, chosen)
    before = {peer.pid: Counter(peer.report().events) for peer in here.all_users}
    here.reports(reset_silence=True)
    time.sleep(rng.uniform(0, 0.3))
    try:
        for name in chosen:
            FAULTS[name](here, rng)
        released_ns = monotonic_ns()
        here.wait_whole()
        broken = here.broken()
    except (AssertionError, OSError, EOFError) as error:
        raise InvariantBrokenError(
            f"round {number} of seed {seed} ({', '.join(chosen)}): {error!r}\n"
            + here.host.logged()[-6000:]
        ) from error
    if broken:
        raise InvariantBrokenError(
            f"round {number} of seed {seed} ({', '.join(chosen)}):\n" + "\n".join(broken)
        )
    seen = here.seen_since(released_ns, before)
    played.silence_ms = [silence / NS_PER_MS for silence in seen.silence_ns]
    played.back_ms = max(seen.back_ns, 0) / NS_PER_MS
    played.events = dict(seen.events)
    return played
