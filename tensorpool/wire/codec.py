"""SBE codecs, compiled once from the annotated message classes of a schema.

A decoder never reads past the buffer and never allocates from a length field that the
buffer cannot hold. Enum fields decode to plain ints: whether an unknown value is an error
is a rule of the message's receiver, not of the codec.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, NamedTuple, get_type_hints

from tensorpool.wire.errors import (
    EncodeError,
    MalformedMessage,
    UnknownMessage,
    UnsupportedVersion,
)
from tensorpool.wire.fields import Array, Group, Padding, Primitive, VarData

type Buffer = bytes | bytearray | memoryview

MESSAGE_HEADER = struct.Struct("<HHHH")
"""blockLength, templateId, schemaId, version: uint16 each."""

_GROUP_HEADER = struct.Struct("<HH")
_LENGTH = struct.Struct("<I")
_MAX_ENTRIES = 0xFFFF


class MessageHeader(NamedTuple):
    """The SBE message header (8 bytes)."""

    block_length: int
    template_id: int
    schema_id: int
    version: int


def read_header(buffer: Buffer, offset: int = 0) -> MessageHeader:
    """The message header at `offset`.

    Raises:
        MalformedMessage: fewer than 8 bytes are left.
    """
    if len(buffer) - offset < MESSAGE_HEADER.size:
        text = f"{len(buffer) - offset} bytes, but a message header has {MESSAGE_HEADER.size}"
        raise MalformedMessage(text)
    return MessageHeader(*MESSAGE_HEADER.unpack_from(buffer, offset))


class BodyCodec:
    """Fixed fields, then groups, then variable data: of a message or of a group's entry.

    Attributes:
        block: the fixed fields as one `struct.Struct`.
        block_length: their length in bytes.
        offsets: byte offset of each fixed field in the block, by name.
    """

    def __init__(self, message_type: type[tuple[Any, ...]], block_length: int | None) -> None:
        self.message_type = message_type
        self.name = message_type.__name__
        self.offsets: dict[str, int] = {}
        self._make: Callable[[list[Any]], Any] = message_type._make  # type: ignore[attr-defined]
        self._arrays: list[tuple[int, int]] = []
        self._paddings: list[tuple[int, int]] = []
        self._nulls: list[tuple[int, int]] = []
        self._groups: list[tuple[str, BodyCodec]] = []
        self._data: list[tuple[str, bool]] = []
        codes, size, n_fields = "<", 0, 0
        hints = get_type_hints(message_type, include_extras=True)
        for index, name in enumerate(message_type._fields):  # type: ignore[attr-defined]
            encoding = hints[name].__metadata__[0]
            match encoding:
                case Primitive(code, size_bytes, null):
                    if null is not None:
                        self._nulls.append((index, null))
                    codes, width = codes + code, size_bytes
                case Array(item, length):
                    self._arrays.append((index, length))
                    codes, width = codes + f"{length}{item.code}", item.size * length
                case Padding(length):
                    self._paddings.append((index, length))
                    codes, width = codes + f"{length}s", length
                case Group(entry):
                    self._groups.append((name, BodyCodec(entry, None)))
                    continue
                case VarData(text):
                    self._data.append((name, text))
                    continue
                case _:
                    raise TypeError(f"{self.name}.{name}: no encoding in its annotation")
            self.offsets[name] = size
            size += width
            n_fields += 1
        self.block_length = size if block_length is None else block_length
        self.block = struct.Struct(codes + f"{self.block_length - size}x")
        self._n_fields = n_fields
        self._absent_data = ["" if text else b"" for _, text in self._data]
        self._min_entry = self.block_length + _LENGTH.size * len(self._data)

    def _fixed_values(self, message: tuple[Any, ...]) -> list[Any]:
        fixed: list[Any] = list(message[: self._n_fields])
        for index, null in self._nulls:
            if fixed[index] is None:
                fixed[index] = null
        for index, length in self._paddings:
            if len(fixed[index]) != length:  # struct would cut it to length without a word
                raise EncodeError(f"{self.name}: {len(fixed[index])} bytes of padding of {length}")
        for index, length in reversed(self._arrays):
            if len(fixed[index]) != length:
                raise EncodeError(f"{self.name}: {len(fixed[index])} items in an array of {length}")
            fixed[index : index + 1] = fixed[index]
        return fixed

    def encode_body(self, message: tuple[Any, ...]) -> bytes:
        """The bytes of `message` without a message header.

        Raises:
            EncodeError: a value does not fit its field.
        """
        try:
            parts = [self.block.pack(*self._fixed_values(message))]
        except struct.error as error:
            raise EncodeError(f"{self.name}: {error} in {message!r}") from None
        at = self._n_fields
        for name, entry_codec in self._groups:
            entries = message[at]
            if len(entries) > _MAX_ENTRIES:
                raise EncodeError(f"{self.name}.{name}: {len(entries)} entries, 65535 at most")
            parts.append(_GROUP_HEADER.pack(entry_codec.block_length, len(entries)))
            parts.extend(entry_codec.encode_body(entry) for entry in entries)
            at += 1
        for _, text in self._data:
            value = message[at].encode("ascii", "backslashreplace") if text else message[at]
            parts.append(_LENGTH.pack(len(value)))
            parts.append(value)
            at += 1
        return b"".join(parts)

    def decode_block(self, buffer: Buffer, offset: int) -> list[Any]:
        """The values of the fixed fields, which start at `offset`.

        Raises:
            MalformedMessage: they do not fit the buffer.
        """
        if offset + self.block_length > len(buffer):
            raise MalformedMessage(
                f"{self.name}: {len(buffer) - offset} bytes left for a block of {self.block_length}"
            )
        values: list[Any] = list(self.block.unpack_from(buffer, offset))
        for index, length in self._arrays:
            values[index : index + length] = [tuple(values[index : index + length])]
        for index, null in self._nulls:
            if values[index] == null:
                values[index] = None
        return values

    def decode_body(self, buffer: Buffer, offset: int) -> tuple[Any, int]:
        """The message whose block starts at `offset`, and the offset behind it.

        Raises:
            MalformedMessage: the block, a group or a length does not fit the buffer.
        """
        end = len(buffer)
        values = self.decode_block(buffer, offset)
        offset += self.block_length
        for name, entry_codec in self._groups:
            entries, offset = entry_codec.decode_group(buffer, offset, f"{self.name}.{name}")
            values.append(entries)
        for name, text in self._data:
            if offset + _LENGTH.size > end:
                raise MalformedMessage(f"{self.name}.{name}: no room for its length field")
            (length,) = _LENGTH.unpack_from(buffer, offset)
            offset += _LENGTH.size
            if length > end - offset:
                raise MalformedMessage(
                    f"{self.name}.{name}: length {length}, {end - offset} bytes left"
                )
            raw = bytes(buffer[offset : offset + length])
            # A replacement character is printable and breaks every later URI check.
            values.append(raw.decode("ascii", "replace") if text else raw)
            offset += length
        return self._make(values), offset

    def without_tail(self, block: list[Any]) -> Any:
        """The message of these fixed fields, its groups and variable data empty."""
        return self._make([*block, *(() for _ in self._groups), *self._absent_data])

    def decode_group(self, buffer: Buffer, offset: int, where: str) -> tuple[tuple[Any, ...], int]:
        """The entries of the group whose dimensions stand at `offset`, and the offset behind it.

        Raises:
            MalformedMessage: the dimensions promise more than the buffer can hold.
        """
        if offset + _GROUP_HEADER.size > len(buffer):
            raise MalformedMessage(f"{where}: no room for the group's dimensions")
        block_length, count = _GROUP_HEADER.unpack_from(buffer, offset)
        offset += _GROUP_HEADER.size
        if block_length != self.block_length or count * self._min_entry > len(buffer) - offset:
            raise MalformedMessage(
                f"{where}: {count} entries with blocks of {block_length} bytes, "
                f"{len(buffer) - offset} bytes left, the schema has {self.block_length}"
            )
        entries = []
        for _ in range(count):
            entry, offset = self.decode_body(buffer, offset)
            entries.append(entry)
        return tuple(entries), offset


class MessageCodec(BodyCodec):
    """A body behind its message header."""

    def __init__(
        self,
        schema: Schema,
        template_id: int,
        message_type: type[tuple[Any, ...]],
        block_length: int | None,
    ) -> None:
        super().__init__(message_type, block_length)
        self.schema = schema
        self.template_id = template_id
        self.header = MESSAGE_HEADER.pack(
            self.block_length, template_id, schema.schema_id, schema.version
        )

    def encode(self, message: tuple[Any, ...]) -> bytes:
        """Message header and body. Raises EncodeError as `encode_body` does."""
        return self.header + self.encode_body(message)


class Schema:
    """The messages of one SBE schema, by template id and by class."""

    def __init__(self, schema_id: int, version: int) -> None:
        self.schema_id = schema_id
        self.version = version
        self.by_template: dict[int, MessageCodec] = {}
        self.by_type: dict[type, MessageCodec] = {}

    def message[M: type[tuple[Any, ...]]](
        self, template_id: int, *, block_length: int | None = None
    ) -> Callable[[M], M]:
        """Class decorator: compiles the class as the message `template_id` of this schema."""

        def register(message_type: M) -> M:
            codec = MessageCodec(self, template_id, message_type, block_length)
            self.by_template[template_id] = codec
            self.by_type[message_type] = codec
            return message_type

        return register

    def decode(self, buffer: Buffer, header: MessageHeader) -> Any:
        """The message in `buffer`, whose header has been read and names this schema.

        Raises:
            UnknownMessage: the template id is not of this schema.
            UnsupportedVersion: the version is newer than ours.
            MalformedMessage: the body breaks the schema.
        """
        codec = self.by_template.get(header.template_id)
        if codec is None:
            raise UnknownMessage(f"template id {header.template_id} of schema {self.schema_id}")
        if header.version > self.version:
            raise UnsupportedVersion(
                f"{codec.name}: schema version {header.version}, {self.version} at most",
                self._known_part(codec, buffer, header),
            )
        if header.block_length != codec.block_length:
            raise MalformedMessage(
                f"{codec.name}: block length {header.block_length}, "
                f"version {self.version} has {codec.block_length}"
            )
        message, _ = codec.decode_body(buffer, MESSAGE_HEADER.size)
        return message

    @staticmethod
    def _known_part(codec: MessageCodec, buffer: Buffer, header: MessageHeader) -> Any:
        # A newer version appends to the block, but may put a group ahead of the data that
        # we know: only the block can be read without knowing the newer schema.
        if header.block_length < codec.block_length:
            return None
        try:
            return codec.without_tail(codec.decode_block(buffer, MESSAGE_HEADER.size))
        except MalformedMessage:
            return None
