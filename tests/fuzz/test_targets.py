"""Every target holds on its corpus and on seeded mutants of it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fuzz.corpus import FOLDER, corpus_of, kept
from tests.fuzz.mutation import mutants
from tests.fuzz.targets import TARGETS

SEED = 20261123


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """Thousands of refusals are no news."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("name", TARGETS)
def test_corpus_and_mutants(name: str, tmp_shm: Path) -> None:
    corpus = corpus_of(name)
    with TARGETS[name].open(tmp_shm) as check:
        for data in corpus:
            check(data)
        for number, data in enumerate(mutants(corpus, TARGETS[name].quick, SEED)):
            try:
                check(data)
            except Exception as error:
                error.add_note(f"mutant {number} of seed {SEED}: {data!r}")
                raise


def test_mutants_are_the_same_for_the_same_seed() -> None:
    corpus = corpus_of("wire")
    assert list(mutants(corpus, 50, SEED)) == list(mutants(corpus, 50, SEED))
    assert list(mutants(corpus, 50, SEED)) != list(mutants(corpus, 50, SEED + 1))


def test_every_corpus_belongs_to_a_target() -> None:
    assert {path.name for path in FOLDER.iterdir()} <= set(TARGETS)
    assert all(path.stat().st_size <= 8192 for name in TARGETS for path in kept(name))
