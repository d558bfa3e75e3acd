"""Properties of the codecs over messages drawn from their own field annotations."""

from __future__ import annotations

from typing import Any, get_type_hints

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tensorpool import wire
from tensorpool.wire.codec import MESSAGE_HEADER, Buffer, MessageCodec
from tensorpool.wire.control import CONTROL
from tensorpool.wire.driver import DRIVER
from tensorpool.wire.fields import Array, Group, Padding, Primitive, VarData

ALL = sorted(
    (codec for schema in (CONTROL, DRIVER) for codec in schema.by_template.values()),
    key=lambda codec: (codec.schema.schema_id, codec.template_id),
)
every_message = pytest.mark.parametrize("codec", ALL, ids=lambda codec: codec.name)
# No deadline: a time is never asserted. Few examples, since most run once a message.
drawn = settings(deadline=None, max_examples=25)


def integers(primitive: Primitive) -> st.SearchStrategy[int]:
    bits = 8 * primitive.size
    if primitive.code.islower():
        return st.integers(-(1 << bits - 1), (1 << bits - 1) - 1)
    return st.integers(0, (1 << bits) - 1)


def values(encoding: object) -> st.SearchStrategy[Any]:
    match encoding:
        case Primitive(null=None):
            return integers(encoding)
        case Primitive(null=null):
            return st.none() | integers(encoding).filter(lambda value: value != null)
        case Array(item, length):
            return st.tuples(*[integers(item)] * length)
        case Padding(length):
            return st.binary(min_size=length, max_size=length)
        case VarData(text):
            ascii_text = st.text(st.characters(max_codepoint=0x7F), max_size=40)
            return ascii_text if text else st.binary(max_size=40)
        case Group(entry):
            return st.lists(messages(entry), max_size=3).map(tuple)
    raise AssertionError(encoding)


def messages(message_type: type[Any]) -> st.SearchStrategy[Any]:
    hints = get_type_hints(message_type, include_extras=True)
    fields = {name: values(hints[name].__metadata__[0]) for name in message_type._fields}
    return st.builds(message_type, **fields)


def outcome(data: Buffer) -> object:
    """The message in `data`, or the WireError; any other exception fails the test."""
    try:
        return wire.decode(data)
    except wire.WireError as error:
        return error


@pytest.mark.clause("Wire §10.1-3")
@every_message
@drawn
@given(data=st.data())
def test_round_trip(codec: MessageCodec, data: st.DataObject) -> None:
    message = data.draw(messages(codec.message_type))
    encoded = wire.encode(message)
    for buffer in (encoded, bytearray(encoded), memoryview(encoded)):
        decoded = wire.decode(buffer)
        assert decoded == message
        assert type(decoded) is codec.message_type
    assert wire.read_header(encoded) == (
        codec.block_length,
        codec.template_id,
        codec.schema.schema_id,
        1,
    )


@every_message
@drawn
@given(data=st.data())
def test_every_truncation_is_malformed(codec: MessageCodec, data: st.DataObject) -> None:
    encoded = wire.encode(data.draw(messages(codec.message_type)))
    whole = memoryview(encoded)
    for length in range(len(encoded)):
        with pytest.raises(wire.MalformedMessage):
            wire.decode(whole[:length])


@every_message
@drawn
@given(data=st.data())
def test_what_follows_a_message_changes_nothing(codec: MessageCodec, data: st.DataObject) -> None:
    message = data.draw(messages(codec.message_type))
    behind = data.draw(st.binary(max_size=20))
    assert wire.decode(wire.encode(message) + behind) == message


@every_message
@drawn
@given(data=st.data())
def test_damage_gives_a_message_or_a_wire_error(codec: MessageCodec, data: st.DataObject) -> None:
    encoded = bytearray(wire.encode(data.draw(messages(codec.message_type))))
    for _ in range(data.draw(st.integers(1, 4))):
        encoded[data.draw(st.integers(0, len(encoded) - 1))] = data.draw(st.integers(0, 255))
    decoded = outcome(encoded)
    assert isinstance(decoded, tuple | wire.WireError)


@drawn
@given(st.binary(max_size=300))
def test_random_bytes_give_a_message_or_a_wire_error(data: bytes) -> None:
    assert isinstance(outcome(data), tuple | wire.WireError)


@every_message
@drawn
@given(body=st.binary(max_size=400))
def test_random_body_gives_a_message_or_malformed(codec: MessageCodec, body: bytes) -> None:
    decoded = outcome(codec.header + body)
    assert isinstance(decoded, codec.message_type | wire.MalformedMessage)


@pytest.mark.clause("Driver §4.4a-1")
@every_message
@drawn
@given(data=st.data(), version=st.integers(2, 0xFFFF), appended=st.binary(max_size=16))
def test_newer_version_still_tells_the_fixed_fields(
    codec: MessageCodec, data: st.DataObject, version: int, appended: bytes
) -> None:
    """A newer version appends to the block; what follows the block is its own affair."""
    message = data.draw(messages(codec.message_type))
    tail = data.draw(st.binary(max_size=30))
    header = MESSAGE_HEADER.pack(
        codec.block_length + len(appended), codec.template_id, codec.schema.schema_id, version
    )
    block = wire.encode(message)[8 : 8 + codec.block_length]
    with pytest.raises(wire.UnsupportedVersion, match=str(version)) as caught:
        wire.decode(header + block + appended + tail)
    known = caught.value.message
    assert type(known) is codec.message_type
    hints = get_type_hints(codec.message_type, include_extras=True)
    for name in message._fields:
        is_tail = isinstance(hints[name].__metadata__[0], Group | VarData)
        value = getattr(message, name)
        assert getattr(known, name) == (type(value)() if is_tail else value)


@every_message
def test_newer_version_with_an_unreadable_block_has_no_message(codec: MessageCodec) -> None:
    ids = (codec.template_id, codec.schema.schema_id, 2)
    too_short = MESSAGE_HEADER.pack(codec.block_length, *ids) + bytes(codec.block_length - 1)
    shrunk = MESSAGE_HEADER.pack(codec.block_length - 1, *ids) + bytes(codec.block_length + 99)
    for data in (too_short, shrunk):
        with pytest.raises(wire.UnsupportedVersion) as caught:
            wire.decode(data)
        assert caught.value.message is None


@every_message
@drawn
@given(data=st.data())
def test_wrong_block_length_is_malformed(codec: MessageCodec, data: st.DataObject) -> None:
    encoded = wire.encode(data.draw(messages(codec.message_type)))
    wrong = data.draw(st.integers(0, 0xFFFF).filter(lambda value: value != codec.block_length))
    with pytest.raises(wire.MalformedMessage, match=f"block length {wrong}"):
        wire.decode(wrong.to_bytes(2, "little") + encoded[2:] + bytes(64))


@pytest.mark.clause("Driver §4.4a-4")
@every_message
@drawn
@given(data=st.data())
def test_other_ids_are_unknown(codec: MessageCodec, data: st.DataObject) -> None:
    encoded = wire.encode(data.draw(messages(codec.message_type)))
    ids = st.integers(0, 0xFFFF)
    template_id = data.draw(ids.filter(lambda value: value not in codec.schema.by_template))
    schema_id = data.draw(ids.filter(lambda value: value not in (900, 901)))
    version = data.draw(ids).to_bytes(2, "little")
    with pytest.raises(wire.UnknownMessage, match=f"template id {template_id} "):
        wire.decode(
            encoded[:2] + template_id.to_bytes(2, "little") + encoded[4:6] + version + encoded[8:]
        )
    with pytest.raises(wire.UnknownMessage, match=f"schema id {schema_id},"):
        wire.decode(encoded[:4] + schema_id.to_bytes(2, "little") + version + encoded[8:])
