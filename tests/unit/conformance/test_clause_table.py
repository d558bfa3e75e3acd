"""`docs/conformance.md` cannot lie: marks, clause table and document agree."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.config.test_document import SEED_KEYS
from tools import conformance
from tools.conformance import Clause, Mark, Marks

CLAUSE = Clause("Driver §1-1", "driver", "MUST", "Something.", "")


def test_marks_table_and_document_agree() -> None:
    assert conformance.check() == []


def test_every_key_of_the_seed_document_has_a_test_by_name() -> None:
    named = {mark.proves for mark in conformance.read_marks().config_keys}
    keys = {
        f"{table.split('.')[0]}.{key}"
        for table, names in SEED_KEYS.items()
        for key in names.split()
    }
    assert named == keys


@pytest.mark.parametrize(
    ("clause", "proves", "fault"),
    [
        (CLAUSE, "Driver §1-1", ""),
        (CLAUSE, "Driver §1-2", "there is no clause 'Driver §1-2'"),
        (CLAUSE, None, "no test proves it and no line argues"),
        (CLAUSE._replace(argued="Because."), None, ""),
        (CLAUSE._replace(argued="Because."), "Driver §1-1", "remove the line"),
    ],
)
def test_what_counts_as_a_lie(clause: Clause, proves: str | None, fault: str) -> None:
    marks = Marks([Mark("a::b", proves)] if proves else [], [], [])
    found = list(conformance.faults({clause.id: clause}, marks))
    assert any(fault in line for line in found) if fault else not found


def test_marks_are_read_from_decorators_and_nowhere_else(tmp_path: Path) -> None:
    module = tmp_path / "tests" / "test_it.py"
    module.parent.mkdir()
    module.write_text(
        "import pytest\n"
        "@pytest.mark.clause('A §1-1', 'A §1-2')\n"
        "@pytest.mark.parametrize('x', [pytest.param(1, marks=pytest.mark.clause('A §2-1'))])\n"
        "@pytest.mark.config_key('shm.base_dir')\n"
        "def test_one(x): ...\n"
        "lost = pytest.mark.clause('A §3-1')\n"
        "@pytest.mark.clause(lost)\n"
        "def test_two(): ...\n"
    )
    marks = conformance.read_marks(module.parent)
    assert [mark.proves for mark in marks.clauses] == ["A §1-1", "A §1-2", "A §2-1"]
    assert marks.config_keys == [Mark("tests/test_it.py::test_one", "shm.base_dir")]
    assert [line.split(": ")[1] for line in marks.faults] == [
        "a mark that stands in no decorator of a test is not seen",
        "clause takes literal text",
    ]


@pytest.mark.parametrize("text", ["[A]\n1 = ['driver', 'MUST']", "[A]\n1 = ['x', 'MUST', 'y']"])
def test_an_entry_that_is_no_clause(text: str) -> None:
    with pytest.raises(ValueError, match="A-1"):
        conformance.read_clauses(text)
