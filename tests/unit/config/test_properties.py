"""Whatever stands in a file or a variable: a configuration, or faults; never another error."""

import contextlib
import string
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tensorpool.config import InvalidConfig, load, to_settings
from tensorpool.config.load import validate
from tensorpool.config.operations import HostConfig
from tensorpool.config.show import as_data, as_toml
from tensorpool.config.tree import keys
from tensorpool.errors import ConfigError
from tests.unit.config.documents import MINIMAL, document

type Document = dict[str, Any]

ENTRIES: Document = {"profiles": {"a": {}, "camera": {}}, "streams": {"b": {}, "cam1": {}}}
KEYS = [key.path for key in keys(HostConfig, ENTRIES)]
NEVER_TOLD = "s3cr3t-word"
VARIABLES = [name for key in keys(HostConfig, ENTRIES) for name in key.variables]

likely_text = st.sampled_from(
    ["", "aeron:ipc", "aeron:udp?endpoint=x", "5-9", "9-5", "660", "/dev/shm", "camera", "::1", "a"]
)
text = st.one_of(likely_text, st.text(max_size=20))
scalars = st.one_of(
    st.booleans(),
    st.integers(min_value=-2, max_value=70),
    st.integers(),
    st.sampled_from([1 << 31, (1 << 32) - 1, 1 << 32, 1 << 64, 10**400]),
    st.floats(),
    st.dates(),
    st.times(),
    st.datetimes(),
    text,
)
pools = st.lists(
    st.dictionaries(st.sampled_from(["pool_id", "stride_bytes", "x"]), scalars, max_size=3)
)
names = st.one_of(st.sampled_from(["a", "camera", "cam1", "a b", ""]), st.text(max_size=5))
values: st.SearchStrategy[object] = st.recursive(
    st.one_of(scalars, pools),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(names, inner, max_size=4)),
    max_leaves=6,
)
assignments = st.lists(
    st.tuples(st.one_of(st.sampled_from(KEYS), st.lists(names, min_size=1, max_size=3)), values),
    max_size=8,
)
environments = st.dictionaries(
    st.sampled_from(VARIABLES), st.one_of(text, st.integers().map(str), st.just("[" * 500))
)


def assign(target: Document, path: Sequence[str], value: object) -> None:
    for part in path[:-1]:
        if not isinstance(target.get(part), dict):
            target[part] = {}
        target = target[part]
    target[path[-1]] = value


@given(assignments, environments, st.booleans())
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_document_is_valid_or_invalid(
    assigned: list[tuple[Sequence[str], object]], environ: dict[str, str], from_valid: bool
) -> None:
    made = document() if from_valid else {}
    for path, value in assigned:
        assign(made, path, value)
    error = None
    try:
        loaded = validate(made, environ)
    except InvalidConfig as raised:
        error = raised
    if error is None:
        to_settings(loaded.config)
        assert as_toml(loaded)
        assert as_data(loaded)
        return
    assert error.faults
    for fault in error.faults:
        assert fault.where
        assert fault.rule
        assert fault.remedy
        assert fault.value.isprintable()
        assert str(fault) in str(error)


@given(st.dictionaries(names, values, max_size=5))
@settings(max_examples=100, deadline=None)
def test_any_dictionary_at_all(made: Document) -> None:
    with contextlib.suppress(InvalidConfig):
        validate(made, {})


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("config") / "any.toml"


lines = st.text(alphabet=string.printable, max_size=40)


@given(st.lists(st.one_of(lines, st.sampled_from(MINIMAL.splitlines())), max_size=10))
@settings(max_examples=150, deadline=None)
def test_any_text(file: Path, made: list[str]) -> None:
    file.write_text("\n".join(made))
    with contextlib.suppress(ConfigError):
        load(str(file), {})


@given(st.binary(max_size=60))
@settings(max_examples=100, deadline=None)
def test_any_bytes(file: Path, made: bytes) -> None:
    file.write_bytes(made)
    with contextlib.suppress(ConfigError):
        load(str(file), {})


@given(st.sampled_from(["policies", "driver", "", "streams.x"]), st.text(min_size=1, max_size=12))
@settings(max_examples=100, deadline=None)
def test_a_token_is_never_told(table: str, noise: str) -> None:
    made = document()
    assign(made, (*filter(None, table.split(".")), "shutdown_token"), f"{noise}{NEVER_TOLD}\n")
    with pytest.raises(InvalidConfig) as caught:
        validate(made, {})
    assert NEVER_TOLD not in str(caught.value)
