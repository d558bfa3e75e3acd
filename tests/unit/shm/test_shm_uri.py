"""Region URIs by the ABNF of Wire §15.22."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tensorpool.shm.errors import UriError
from tensorpool.shm.uri import RegionUri, is_uri_path, parse_region_uri

drawn = settings(deadline=None)
visible = st.characters(min_codepoint=0x21, max_codepoint=0x7E, exclude_characters="?|")
paths = st.text(visible, max_size=60).map(lambda tail: "/" + tail)


@pytest.mark.clause("Wire §15.22-1")
@pytest.mark.parametrize(
    ("text", "path", "hugepages"),
    [
        ("shm:file?path=/mnt/a", "/mnt/a", False),
        ("shm:file?path=/a|require_hugepages=true", "/a", True),
        ("shm:file?path=/a|require_hugepages=false", "/a", False),
        ("shm:file?path=/", "/", False),
        ("shm:file?path=/a=b&c:d,e;f%20~!", "/a=b&c:d,e;f%20~!", False),
        ("shm:file?path=/../a//b", "/../a//b", False),
        ("shm:file?path=/path=/b", "/path=/b", False),
    ],
)
def test_accepted(text: str, path: str, hugepages: bool) -> None:
    assert parse_region_uri(text) == RegionUri(path, hugepages)


@pytest.mark.clause("Wire §15.22-1")
@pytest.mark.parametrize(
    "text",
    [
        "",
        "/mnt/a",
        "shm:file",
        "shm:file?",
        "shm:file?path=",
        "shm:file?path=a",
        "shm:file?path=./a",
        r"shm:file?path=C:\aeron\a",
        "shm:posix?name=a",
        "shm:file:/a",
        "SHM:file?path=/a",
        "shm:FILE?path=/a",
        "shm:file?PATH=/a",
        " shm:file?path=/a",
        "shm:file?path=/a ",
        "shm:file?path=/a\n",
        "shm:file?path=/a b",
        "shm:file?path=/a\tb",
        "shm:file?path=/a\0b",
        "shm:file?path=/a\x7f",
        "shm:file?path=/é",
        "shm:file?path=/\N{REPLACEMENT CHARACTER}",
        "shm:file?path=/a?b",
        "shm:file?path=/a?path=/b",
        "shm:file?path=/a|",
        "shm:file?path=/a|path=/b",
        "shm:file?path=/a|require_hugepages",
        "shm:file?path=/a|require_hugepages=",
        "shm:file?path=/a|require_hugepages=True",
        "shm:file?path=/a|require_hugepages=1",
        "shm:file?path=/a|require_hugepages=true ",
        "shm:file?path=/a|require_hugepages=true|",
        "shm:file?path=/a|require_hugepages=true|require_hugepages=true",
        "shm:file?path=/a|mode=0600",
        "shm:file?path=/a&require_hugepages=true|x=y",
        "shm:file?require_hugepages=true|path=/a",
        "shm:file?require_hugepages=true",
        "shm:file?|path=/a",
    ],
)
def test_refused(text: str) -> None:
    with pytest.raises(UriError, match="region URI"):
        parse_region_uri(text)


def test_an_ampersand_is_no_separator() -> None:
    uri = parse_region_uri("shm:file?path=/a&require_hugepages=true")
    assert uri == RegionUri("/a&require_hugepages=true", require_hugepages=False)


@drawn
@given(paths, st.booleans())
def test_round_trip(path: str, hugepages: bool) -> None:
    assert is_uri_path(path)
    assert parse_region_uri(str(RegionUri(path, hugepages))) == RegionUri(path, hugepages)
    assert parse_region_uri(f"shm:file?path={path}") == RegionUri(path)


@drawn
@given(st.text(st.characters(max_codepoint=0x100), max_size=10))
def test_a_path_is_visible_ascii_from_a_slash_on(text: str) -> None:
    allowed = all(0x21 <= ord(item) <= 0x7E and item not in "?|" for item in text)
    assert is_uri_path(text) == (text.startswith("/") and allowed)


@drawn
@given(st.text(max_size=40) | st.text(max_size=40).map("shm:file?path=/".__add__))
def test_any_text_gives_a_uri_or_a_uri_error(text: str) -> None:
    with suppress(UriError):
        assert parse_region_uri(text).path in text
