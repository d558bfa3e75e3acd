"""A producer at full speed over a ring of 4 slots, slow readers: no torn frame is ever accepted.

100,000 frames by default; `make chaos` (TENSORPOOL_CHAOS_FULL=1) writes 10 million.
"""

from __future__ import annotations

import multiprocessing
import random
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

import tensorpool
from tests.chaos.length import IS_FULL
from tests.integration.host import STREAM, Tables, running_host

FRAMES = 10_000_000 if IS_FULL else 100_000
CONSUMERS = 3
WORDS = 2048
"""16 KiB a frame: long enough to be overtaken in the middle of a copy."""
SEED = 20_261_123
QUIET_S = 3.0

TABLES: Tables = {
    "profiles": {
        "default": {
            "header_nslots": 4,
            "payload_pools": [{"pool_id": 1, "stride_bytes": 8 * WORDS}],
        }
    }
}
_SPAWN = multiprocessing.get_context("spawn")


class Tally(NamedTuple):
    """What one consumer saw."""

    accepted: int
    torn: int
    stale: int
    late: int
    gap: int
    counted: int
    spanned: int


def read(pipe: Connection, config: str, seed: int) -> None:
    """Read at random speeds, by copy, by block and by eye; judge every accepted frame."""
    dice = random.Random(seed)
    accepted = torn = 0
    with tensorpool.connect(config) as pool, pool.consumer(STREAM) as view:
        pipe.send(None)
        has_begun = False
        while (frame := view.next(QUIET_S if has_begun else 60)) is not None:
            has_begun = True
            if dice.random() < 0.5:
                copied = frame.try_copy()
                is_accepted = copied is not None
                is_whole = copied is not None and bool((copied == frame.seq).all())
            else:
                try:
                    with frame.checked() as words:
                        half = words[: WORDS // 2] == frame.seq
                        if dice.random() < 0.01:
                            time.sleep(dice.random() / 1000)
                        is_whole = bool(half.all() and (words[WORDS // 2 :] == frame.seq).all())
                    is_accepted = True
                except tensorpool.StaleFrame:
                    is_accepted = False
            if is_accepted:
                accepted += 1
                torn += not is_whole
            if dice.random() < 0.02:
                time.sleep(dice.random() / 500)
        counted = view.received + view.drops_late + view.drops_gap + view.drops_epoch
        # The first descriptor of all was seen: each consumer was there before the producer.
        spanned = view._last_seq + 1
        pipe.send(
            Tally(accepted, torn, view.stale, view.drops_late, view.drops_gap, counted, spanned)
        )
        assert view.drops_invalid == 0


@pytest.mark.timeout(3600 if IS_FULL else 180)
def test_no_torn_frame_is_accepted(tmp_shm: Path) -> None:
    with running_host(tmp_shm, TABLES) as host:
        pipes, processes = [], []
        try:
            for number in range(CONSUMERS):
                ours, theirs = _SPAWN.Pipe()
                process = _SPAWN.Process(
                    target=read, args=(theirs, str(host.config), SEED + number), daemon=True
                )
                process.start()
                theirs.close()
                pipes.append(ours)
                processes.append(process)
            for pipe in pipes:
                pipe.recv()
            with tensorpool.connect(host.config) as pool, pool.producer(STREAM) as camera:
                for seq in range(FRAMES):
                    with camera.claim(WORDS, np.uint64) as frame:
                        frame.array[:] = seq
                # Stays attached: the end of a producer would begin another epoch.
                tallies = [pipe.recv() for pipe in pipes]
                assert camera.published == FRAMES
        finally:
            for process in processes:
                process.join(10)
                process.kill()
    for tally in tallies:
        assert tally.torn == 0
        assert tally.accepted > 0
        assert tally.counted == tally.spanned
    assert sum(tally.stale + tally.late for tally in tallies) > 0, "nothing was overwritten"
