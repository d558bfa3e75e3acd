"""Metadata as messages and back; what cannot be told is refused."""

from __future__ import annotations

import pytest

from tensorpool import wire
from tensorpool.client.metadata import (
    Attribute,
    MetadataBook,
    MetadataError,
    announce_message,
    make_metadata,
    meta_message,
)


def told(version: int, **attributes: object) -> tuple[object, MetadataBook]:
    made = make_metadata(version, "cam", "a camera", attributes)
    book = MetadataBook()
    book.hear_announce(wire.decode(wire.encode(announce_message(made, 1, 2, 3))))
    book.hear_meta(wire.decode(wire.encode(meta_message(made, 1, 4))))
    return made, book


def test_what_is_told_is_heard() -> None:
    made, book = told(3, text="ä", number=1.5, nested={"a": [None, True]}, raw=b"\x00")
    heard = book.get(3)
    assert heard == made == book.latest
    assert heard is not None
    assert [heard[key] for key in heard.attributes] == ["ä", 1.5, {"a": [None, True]}, b"\x00"]


def test_either_message_may_come_first() -> None:
    made = make_metadata(1, "cam", "", {"a": 1})
    book = MetadataBook()
    assert book.hear_meta(meta_message(made, 1, 4))
    assert book.hear_announce(announce_message(made, 1, 2, 3))
    assert book.get(1) == made
    assert not book.hear_meta(meta_message(made, 1, 5))
    book.clear()
    assert book.latest is book.get(1) is None


def test_the_book_is_bounded() -> None:
    book = MetadataBook()
    for version in range(1, 1000):
        book.hear_announce(announce_message(make_metadata(version, "", "", {}), 1, 2, 3))
    assert book.get(1) is None
    assert book.get(999) is not None


def test_an_attribute_of_a_format_of_its_own() -> None:
    made, _ = told(1, calibration=Attribute("sbe:901.4", b"\x01\x02"))
    assert made["calibration"] == b"\x01\x02"  # type: ignore[index]


@pytest.mark.parametrize(
    "attribute", [Attribute("text/plain", b"\xff"), Attribute("application/json", b"{")]
)
def test_a_value_against_its_format(attribute: Attribute) -> None:
    with pytest.raises(MetadataError, match=attribute.format):
        attribute.decoded()


@pytest.mark.parametrize("version", [0, 2**32 - 1])
def test_versions_are_bounded(version: int) -> None:
    with pytest.raises(MetadataError, match="version"):
        make_metadata(version, "", "", {})
