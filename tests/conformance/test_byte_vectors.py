"""Byte vectors of every message and shared-memory structure, in both directions.

The tables in `vectors/` were typed by hand from the specifications' schema listings (Wire §16,
Driver appendix A), a row a field: offset, name, type, value, bytes. They are checked for
consistency here without our codec, then held against it.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from tensorpool import wire
from tensorpool.shm import slot, superblock
from tensorpool.wire import control, driver

if TYPE_CHECKING:
    from tensorpool.wire.codec import BodyCodec

INTEGERS = {
    "uint8": (1, False),
    "uint16": (2, False),
    "uint32": (4, False),
    "uint64": (8, False),
    "int16": (2, True),
    "int32": (4, True),
    "int64": (8, True),
}
GROUP_ENTRIES = {"payload_pools": control.PayloadPool, "attributes": control.MetaAttribute}
FRAMING = (".length", ".blockLength", ".numInGroup", ".templateId", ".schemaId", ".version")


class Row(NamedTuple):
    offset: int
    field: str
    kind: str
    value: str
    raw: bytes


class Vector(NamedTuple):
    path: Path
    clause: str
    rows: list[Row]

    @property
    def data(self) -> bytes:
        return b"".join(row.raw for row in self.rows)

    def number(self, field: str) -> int:
        return next(int(row.value, 0) for row in self.rows if row.field == field)


def parse_bytes(text: str) -> bytes:
    repeated = re.fullmatch(r"([0-9a-f]{2}) x(\d+)", text)
    if repeated:
        return bytes.fromhex(repeated[1]) * int(repeated[2])
    return b"" if text == "-" else bytes.fromhex(text)


def read_vector(path: Path) -> Vector:
    text = path.read_text(encoding="utf-8")
    comment = " ".join(line[2:] for line in text.splitlines() if line.startswith("#"))
    clause = re.search(r"(?:Wire|Driver) §[^;]*?(?=[;.] |[;.]$)", comment)
    assert clause, f"{path.name} names no clause"
    rows = []
    for line in text.splitlines():
        if not line.startswith("#"):
            offset, field, kind, value, raw = re.split(r"\s{2,}", line)
            rows.append(Row(int(offset), field, kind, value, parse_bytes(raw)))
    return Vector(path, clause[0], rows)


VECTORS = [read_vector(path) for path in sorted((Path(__file__).parent / "vectors").glob("*.txt"))]
MESSAGES = [vector for vector in VECTORS if not vector.path.stem.startswith("shm-")]


def cases(vectors: list[Vector]) -> list[Any]:
    return [pytest.param(vector, id=vector.path.stem) for vector in vectors]


def named(stem: str) -> Vector:
    return next(vector for vector in VECTORS if vector.path.stem == stem)


def snake(name: str) -> str:
    return re.sub(r"(?<!^)([A-Z])", r"_\1", name).lower()


def value_of(row: Row) -> int | str | bytes | None:
    if row.kind == "ascii":
        return "" if row.value == "-" else row.value
    if row.kind == "data":
        return b"" if row.value == "-" else bytes.fromhex(row.value)
    if row.kind == "padding":
        return bytes(int(row.value))
    return None if row.value == "null" else int(row.value, 0)


def message_of[M](message_type: type[M], rows: list[Row]) -> M:
    """The message that the value column describes; framing rows only shape the bytes."""
    fields: dict[str, Any] = {}
    entries: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        if row.field.endswith(".numInGroup"):
            group = snake(row.field.removesuffix(".numInGroup"))
            entries[group] = [{} for _ in range(int(row.value))]
        elif row.field.endswith(FRAMING):
            continue
        elif in_group := re.fullmatch(r"(\w+)\[(\d+)\]\.(\w+)", row.field):
            entries[snake(in_group[1])][int(in_group[2])][snake(in_group[3])] = value_of(row)
        elif item := re.fullmatch(r"(\w+)\[\d+\]", row.field):
            fields[item[1]] = (*fields.get(item[1], ()), value_of(row))
        else:
            fields[snake(row.field)] = value_of(row)
    for group, items in entries.items():
        fields[group] = tuple(GROUP_ENTRIES[group](**item) for item in items)
    return message_type(**fields)


@pytest.mark.clause("Wire §16-1", "Driver §A-1")
@pytest.mark.parametrize("vector", cases(VECTORS))
def test_table_agrees_with_itself(vector: Vector) -> None:
    """Offsets are contiguous, and value, type and bytes of a row say the same."""
    offset, length = 0, None
    for row in vector.rows:
        assert row.offset == offset, row
        offset += len(row.raw)
        if row.kind in INTEGERS:
            size, signed = INTEGERS[row.kind]
            if row.value == "null":
                assert row.raw == (bytes(size) if row.field == "traceId" else b"\xff" * size), row
            else:
                number = int(row.value, 0)
                assert row.raw == number.to_bytes(size, "little", signed=signed), row
                length = number if row.field.endswith(".length") else None
            continue
        if row.kind == "ascii":
            assert row.raw == row.value.removeprefix("-").encode("ascii"), row
        else:
            assert row.raw == value_of(row), row
        assert row.kind == "padding" or length == len(row.raw), row


@pytest.mark.clause("Wire §16-1", "Driver §A-1", "Driver §4.2-10", "Driver §4.2-14", "Wire §10.1-1")
@pytest.mark.clause("Wire §10.1-3", "Wire §10.1-4", "Wire §15.8-2", "Driver §4.2-13")
@pytest.mark.parametrize("vector", cases(MESSAGES))
def test_message(vector: Vector) -> None:
    name = vector.path.stem.split("-")[2]
    message_type = getattr(control, name, None) or getattr(driver, name)
    message = message_of(message_type, vector.rows)
    assert wire.encode(message).hex(" ") == vector.data.hex(" ")
    assert wire.decode(vector.data) == message
    assert type(wire.decode(vector.data)) is message_type


@pytest.mark.clause("Wire §16-1", "Driver §A-1")
def test_every_message_has_a_vector() -> None:
    in_messages = {
        (vector.number("header.schemaId"), vector.number("header.templateId"))
        for vector in MESSAGES
    }
    in_memory = {(900, 50), (900, 51), (900, 52)}
    ours = {
        (schema.schema_id, template_id)
        for schema in (control.CONTROL, driver.DRIVER)
        for template_id in schema.by_template
    }
    assert in_messages | in_memory == ours
    assert not in_messages & in_memory


@pytest.mark.clause("Wire §7.1-5", "Wire §7.1-2", "Wire §6-1", "Wire §6-2")
@pytest.mark.parametrize(
    ("vector", "layout"),
    [
        pytest.param(
            named("shm-superblock-header-ring"),
            superblock.header_ring_layout(10000, 0x1112131415161718, 1024, 256),
            id="header-ring",
        ),
        pytest.param(
            named("shm-superblock-payload-pool"),
            superblock.payload_pool_layout(10000, 0x1112131415161718, 1024, 0x0201, 4096),
            id="payload-pool",
        ),
    ],
)
def test_superblock(vector: Vector, layout: superblock.RegionLayout) -> None:
    encoded = superblock.encode_superblock(layout, pid=4242, now_ns=0x2122232425262728)
    assert encoded.hex(" ") == vector.data.hex(" ")
    decoded = superblock.decode_superblock(vector.data)
    assert decoded == message_of(control.ShmRegionSuperblock, vector.rows)
    superblock.check_superblock(decoded, layout)


def codec_of(message_type: type[Any]) -> BodyCodec:
    return control.CONTROL.by_type[message_type]


@pytest.mark.clause("Wire §8.1-1", "Wire §8.2-2", "Wire §8.2-3", "Wire §6-2")
def test_header_slot() -> None:
    vector = named("shm-header-slot")
    tensor_rows = [
        row._replace(field=row.field.removeprefix("tensor."))
        for row in vector.rows
        if row.field.startswith("tensor.")
    ]
    slot_rows = [row for row in vector.rows if not row.field.startswith("tensor.")]
    tensor_bytes = b"".join(row.raw for row in tensor_rows)
    tensor = message_of(control.TensorHeader, tensor_rows)
    assert wire.encode(tensor) == slot.encode_tensor_header(tensor) == tensor_bytes
    assert wire.decode(tensor_bytes) == slot.decode_tensor_header(tensor_bytes) == tensor

    embedded = Row(64, "headerBytes", "data", tensor_bytes.hex(), tensor_bytes)
    slot_header = message_of(control.SlotHeader, [*slot_rows, embedded])
    assert len(vector.data) == 256
    codec = codec_of(control.SlotHeader)
    assert codec.encode_body(slot_header).hex(" ") == vector.data.hex(" ")
    assert codec.decode_body(vector.data, 0) == (slot_header, 256)


@pytest.mark.clause("Wire §8.2-2", "Wire §8.2-3")
def test_header_slot_written_in_place() -> None:
    """What a producer writes around the commit word, in the second slot of a ring."""
    vector = named("shm-header-slot")
    ring = bytearray(b"\xee" * 576)
    slot.write_body(
        memoryview(ring),
        320,
        vector.data[64:],
        values_len_bytes=614400,
        payload_slot=5,
        pool_id=1,
        timestamp_ns=0x2122232425262728,
        meta_version=2,
    )
    assert ring[328:].hex(" ") == vector.data[8:].hex(" ")
    assert set(ring[:328]) == {0xEE}, "the commit word and the neighbour are not touched"
    fields = slot.read_fields(memoryview(ring), 320)
    assert fields == (614400, 5, 1, 0, 0x2122232425262728, 2, 192)
    assert slot.read_tensor_header(memoryview(ring), 320) == vector.data[64:]


@pytest.mark.clause("Wire §8.3-2")
@pytest.mark.parametrize(
    "position",
    range(8),
    ids=[
        "length0",
        "length1",
        "template0",
        "template1",
        "schema0",
        "schema1",
        "version0",
        "version1",
    ],
)
def test_embedded_message_header_is_exactly_the_tensor_headers(position: int) -> None:
    raw = bytearray(named("shm-header-slot").data[64:])
    raw[position] ^= 1
    with pytest.raises(wire.MalformedMessage):
        slot.decode_tensor_header(bytes(raw))


@pytest.mark.clause("Wire §8.3-2", "Wire §15.21-2")
@pytest.mark.parametrize("length", [0, 7, 8, 191, 193])
def test_embedded_message_has_exactly_192_bytes(length: int) -> None:
    raw = (named("shm-header-slot").data[64:] + b"\0")[:length]
    with pytest.raises(wire.MalformedMessage):
        slot.decode_tensor_header(raw)
