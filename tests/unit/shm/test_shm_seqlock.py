"""The seqlock of Wire §8.3: its words, and two processes that race on one slot."""

from __future__ import annotations

import mmap
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tensorpool.shm.seqlock import committed, in_progress, load_acquire, store_release

if TYPE_CHECKING:
    from pathlib import Path

WORDS = 17
"""The commit word and the frame's 16."""

FRAMES = 30_000

WRITER = """
import mmap, sys
from tensorpool.shm.seqlock import committed, in_progress, store_release

with open(sys.argv[1], "r+b") as file, mmap.mmap(file.fileno(), 0) as mapping:
    view = memoryview(mapping)
    words = view.cast("Q")
    print("mapped", flush=True)
    sys.stdin.readline()
    for seq in range(1, int(sys.argv[2]) + 1):
        store_release(words, 0, in_progress(seq))
        for index in range(1, len(words)):
            words[index] = seq
        store_release(words, 0, committed(seq))
    words.release()
    view.release()
"""


@pytest.mark.parametrize("seq", [0, 1, 2, 2**32, 2**63 - 1])
def test_commit_words(seq: int) -> None:
    assert in_progress(seq) == 2 * seq
    assert committed(seq) == 2 * seq + 1
    words = memoryview(bytearray(24)).cast("Q")
    store_release(words, 1, committed(seq))
    assert load_acquire(words, 1) == committed(seq)
    assert (words[0], words[2]) == (0, 0), "one word and no other"


def test_a_word_is_64_bits() -> None:
    words = memoryview(bytearray(8)).cast("Q")
    with pytest.raises(ValueError, match="invalid value for format"):
        store_release(words, 0, in_progress(2**63))


def read_frame(words: memoryview) -> tuple[int, list[int]] | None:
    """The frame in the slot as a consumer reads it (Wire §8.3), or None to try again."""
    before = load_acquire(words, 0)
    if before & 1 == 0:
        return None
    frame = [words[index] for index in range(1, WORDS)]
    if load_acquire(words, 0) != before:
        return None
    return before >> 1, frame


@pytest.mark.clause("Wire §8.3-3", "Wire §8.3-4", "Wire §8.2-6")
def test_two_processes_never_exchange_a_torn_frame(shm_dir: Path) -> None:
    path = shm_dir / "slot"
    path.write_bytes(bytes(8 * WORDS))
    accepted, last, looks = 0, 0, 0
    with (
        path.open("rb") as file,
        mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapping,
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path), str(FRAMES)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as writer,
        memoryview(mapping) as view,
        view.cast("Q") as words,
    ):
        try:
            assert writer.stdin is not None
            assert writer.stdout is not None
            assert writer.stdout.readline() == b"mapped\n"
            writer.stdin.write(b"go\n")
            writer.stdin.flush()
            while last < FRAMES:
                looks += 1
                assert looks % 4096 or writer.poll() in (None, 0), "the writer died"
                read = read_frame(words)
                if read is None:
                    continue
                seq, frame = read
                assert frame == [seq] * (WORDS - 1)
                assert seq >= last, "a commit word never goes back"
                accepted += seq > last
                last = seq
        finally:
            writer.kill()
    assert accepted > 0
