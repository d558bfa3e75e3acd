"""What a producer says about its stream: name, summary and attributes (Wire §10.3)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from tensorpool import wire
from tensorpool.errors import TensorPoolError
from tensorpool.wire.control import DataSourceAnnounce, DataSourceMeta, MetaAttribute

TEXT = "text/plain"
JSON = "application/json"
BINARY = "application/octet-stream"
MAX_BYTES = 64 * 1024
"""A message must fit the metadata channel's log; calibration tables belong in a stream."""
_MAX_VERSION = 2**32 - 2
"""2**32 - 1 is the null value."""


class MetadataError(TensorPoolError):
    """The metadata cannot be announced."""


@dataclass(frozen=True, slots=True)
class Attribute:
    """One value with its format.

    Attributes:
        format: a media type such as `text/plain`, or `sbe:<schema>.<template>` (Wire §10.3.2).
        value: the bytes.
    """

    format: str
    value: bytes

    def decoded(self) -> Any:
        """Text of `text/plain`, the object of `application/json`, the bytes of anything else.

        Raises:
            MetadataError: the value is not what its format says.
        """
        try:
            if self.format == TEXT:
                return self.value.decode()
            if self.format == JSON:
                return json.loads(self.value)
        except ValueError as error:
            raise MetadataError(f"an attribute of format {self.format}: {error}") from None
        return self.value


_NO_ATTRIBUTES: Mapping[str, Attribute] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Metadata:
    """One version of a stream's metadata.

    Attributes:
        version: what `frame.meta_version` refers to.
        name: human-readable name of the source, "" if it has none.
        summary: what it sends, e.g. "480x640 uint16 at 100 Hz", "" if it does not say.
        attributes: values by key; keys that you do not know may be ignored (Wire §10.3.2).
    """

    version: int
    name: str = ""
    summary: str = ""
    attributes: Mapping[str, Attribute] = field(default_factory=lambda: _NO_ATTRIBUTES)

    def __getitem__(self, key: str) -> Any:
        """The decoded attribute `key`. Raises KeyError, and MetadataError as `decoded` does."""
        return self.attributes[key].decoded()


def make_metadata(
    version: int, name: str, summary: str, attributes: Mapping[str, object]
) -> Metadata:
    """Metadata of plain values: text, bytes, or anything that JSON can hold.

    Raises:
        MetadataError: no ASCII, no JSON, too long, or the version is used up.
    """
    if not 0 < version <= _MAX_VERSION:
        raise MetadataError(f"metadata version {version}: 1 to {_MAX_VERSION} can be told")
    made = Metadata(
        version,
        name,
        summary,
        MappingProxyType({key: _attribute(key, value) for key, value in attributes.items()}),
    )
    for what, text in (("name", name), ("summary", summary), *(("key", k) for k in attributes)):
        if not text.isascii():
            raise MetadataError(f"{what} {text!r}: only ASCII can be told (Wire §10.3)")
    nbytes = len(wire.encode(meta_message(made, 0, 0)))
    if nbytes > MAX_BYTES:
        raise MetadataError(f"metadata of {nbytes} bytes, {MAX_BYTES} at most")
    return made


def _attribute(key: str, value: object) -> Attribute:
    if isinstance(value, Attribute):
        return value
    if isinstance(value, str):
        return Attribute(TEXT, value.encode())
    if isinstance(value, bytes | bytearray | memoryview):
        return Attribute(BINARY, bytes(value))
    try:
        return Attribute(JSON, json.dumps(value).encode())
    except (TypeError, ValueError) as error:
        raise MetadataError(
            f"attribute {key!r}: {error}; give text, bytes, what JSON can hold, or an Attribute"
        ) from None


def announce_message(
    metadata: Metadata, stream_id: int, producer_id: int, epoch: int
) -> DataSourceAnnounce:
    """The beacon of a source (Wire §10.3.1)."""
    return DataSourceAnnounce(
        stream_id, producer_id, epoch, metadata.version, metadata.name, metadata.summary
    )


def meta_message(metadata: Metadata, stream_id: int, now_ns: int) -> DataSourceMeta:
    """The attributes (Wire §10.3.2)."""
    return DataSourceMeta(
        stream_id,
        metadata.version,
        now_ns,
        tuple(
            MetaAttribute(key, attribute.format, attribute.value)
            for key, attribute in metadata.attributes.items()
        ),
    )


class MetadataBook:
    """What a consumer has heard about its stream, by version. Bounded."""

    _LIMIT = 64

    def __init__(self) -> None:
        self._by_version: dict[int, Metadata] = {}
        self.latest: Metadata | None = None

    def clear(self) -> None:
        """A new epoch: another producer may count its versions anew."""
        self._by_version = {}
        self.latest = None

    def get(self, version: int) -> Metadata | None:
        """Metadata of that version, None if it was not heard (yet)."""
        return self._by_version.get(version)

    def hear_announce(self, message: DataSourceAnnounce) -> bool:
        """Take in a beacon; whether it says anything new."""
        known = self._by_version.get(message.meta_version)
        attributes = _NO_ATTRIBUTES if known is None else known.attributes
        return self._keep(
            Metadata(message.meta_version, message.name, message.summary, attributes), known
        )

    def hear_meta(self, message: DataSourceMeta) -> bool:
        """Take in attributes; whether they say anything new."""
        known = self._by_version.get(message.meta_version)
        attributes = {a.key: Attribute(a.format, a.value) for a in message.attributes}
        name, summary = ("", "") if known is None else (known.name, known.summary)
        return self._keep(
            Metadata(message.meta_version, name, summary, MappingProxyType(attributes)), known
        )

    def _keep(self, heard: Metadata, known: Metadata | None) -> bool:
        if heard == known:
            return False
        by_version = dict(self._by_version)  # readers on other threads keep the former one
        by_version.pop(heard.version, None)
        by_version[heard.version] = heard
        if len(by_version) > self._LIMIT:
            del by_version[next(iter(by_version))]
        self._by_version = by_version
        self.latest = heard
        return True
