"""A stream added to a file: only at its end, whole or not at all."""

import os
import stat
from pathlib import Path

import pytest

from tensorpool.cli.stream_table import NewStream, add_stream
from tensorpool.config import load
from tensorpool.errors import ConfigError

TEXT = """\
# kept as it is
[profiles.p]
payload_pools = [{ pool_id = 1, stride_bytes = 4096 }]  # so is this
[streams.a]
stream_id = 1
profile = "p"
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "host.toml"
    path.write_text(TEXT)
    path.chmod(0o640)
    return path


@pytest.mark.parametrize("ending", ["", "\n", "# last line without an end"])
def test_everything_else_stays(file: Path, ending: str) -> None:
    file.write_text(TEXT + ending)
    loaded = add_stream(str(file), NewStream("b", 2, "p"), {})
    assert file.read_text().startswith(TEXT + ending)
    assert loaded.config.streams["b"].stream_id == 2
    assert load(str(file), {}).config == loaded.config
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    assert os.listdir(file.parent) == ["host.toml"]


@pytest.mark.parametrize(
    ("stream", "text"),
    [
        (NewStream("a", 2, "p"), "is there already"),
        (NewStream("b", 1, "p"), "stream_id"),
        (NewStream("b", 2, "q"), "profile"),
        (NewStream('b"]\n[driver', 2, "p"), "host.toml"),
    ],
)
def test_a_bad_stream_changes_nothing(file: Path, stream: NewStream, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        add_stream(str(file), stream, {})
    assert file.read_text() == TEXT
    assert os.listdir(file.parent) == ["host.toml"]


def test_an_inline_table_cannot_be_added_to(file: Path) -> None:
    inline = TEXT.partition("[streams.a]")[0]
    file.write_text('streams = { a = { stream_id = 1, profile = "p" } }\n' + inline)
    before = file.read_text()
    with pytest.raises(ConfigError, match="as it would be"):
        add_stream(str(file), NewStream("b", 2, "p"), {})
    assert file.read_text() == before


def test_a_managed_file_is_left_to_its_manager(file: Path) -> None:
    link = file.parent / "link.toml"
    link.symlink_to(file)
    with pytest.raises(ConfigError, match="is a symlink to"):
        add_stream(str(link), NewStream("b", 2, "p"), {})
    assert file.read_text() == TEXT
