"""Inputs to start from: made by each target's seeds, and kept in `corpus/TARGET` when found."""

from __future__ import annotations

from pathlib import Path

from tests.fuzz.targets import TARGETS

FOLDER = Path(__file__).parent / "corpus"


def kept(name: str) -> list[Path]:
    """The files of a target's corpus."""
    return sorted(path for path in (FOLDER / name).glob("*") if path.is_file())


def corpus_of(name: str) -> list[bytes]:
    """Every input to start from, the seeds first."""
    return TARGETS[name].seeds() + [path.read_bytes() for path in kept(name)]
