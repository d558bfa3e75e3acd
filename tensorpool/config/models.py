"""The tables of the configuration that the specifications name (Driver §17, seed document).

Every table refuses unknown keys. A key with neither value nor fixed default says by
`Computed` or `Inherits` where its default comes from; `tensorpool.config.inherit` fills
what crosses tables.
"""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, SecretStr

from tensorpool.config.channels import Channel, FallbackUri
from tensorpool.config.fields import (
    LIST_MAX_ITEMS,
    AbsolutePath,
    AbsolutePaths,
    AeronIdRange,
    AeronStreamId,
    Flag,
    ForceMode,
    HeaderSlots,
    Name,
    Namespace,
    OptionalAeronStreamId,
    PageBytes,
    Permissions,
    PoolId,
    PoolIdRange,
    PoolStreamId,
    PositiveUint32,
    Secret,
    StrideBytes,
    Text,
    Uint32,
    Uint64,
)
from tensorpool.config.metadata import Computed, Environment, Inherits, Kind

DEFAULT_CHANNEL = "aeron:ipc?term-length=4m"
_NS_PER_MS = 1_000_000
_GC_AGE_PERIODS = 3


class Table(BaseModel):
    """A TOML table: unknown keys are faults, values are never coerced, nothing changes."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


def _text(describes: str) -> Any:
    """A string that another key stands in for while it is empty."""
    return Field(default_factory=str, description=describes)


def _number(describes: str) -> Any:
    """An id that another key stands in for while it is 0."""
    return Field(default_factory=int, description=describes)


class DriverTable(Table):
    """Who the driver is and on which Aeron streams it speaks."""

    instance_id: Text = Field("driver-01", description="Name of this driver in logs and status.")
    aeron_dir: Annotated[
        AbsolutePath,
        Environment(("DRIVER_AERON_DIR", "AERON_DIR")),
        Computed("Aeron's: `/dev/shm/aeron-$USER`"),
    ] = _text("Directory of the Aeron media driver.")
    control_channel: Channel = Field(
        DEFAULT_CHANNEL, description="Channel of attach, keepalive, detach and shutdown."
    )
    control_stream_id: AeronStreamId = Field(1000, description="Stream id on it.")
    announce_channel: Annotated[Channel, Computed("`driver.control_channel`")] = Field(
        default_factory=lambda data: data["control_channel"],
        description="Channel of `ShmPoolAnnounce`.",
    )
    announce_stream_id: Annotated[AeronStreamId, Computed("`driver.control_stream_id`")] = Field(
        default_factory=lambda data: data["control_stream_id"], description="Stream id on it."
    )
    qos_channel: Channel = Field(
        DEFAULT_CHANNEL, description="Channel of `QosProducer` and `QosConsumer`."
    )
    qos_stream_id: AeronStreamId = Field(1200, description="Stream id on it.")
    metadata_channel: Channel = Field(
        DEFAULT_CHANNEL, description="Channel of `DataSourceAnnounce` and `DataSourceMeta`."
    )
    metadata_stream_id: AeronStreamId = Field(1300, description="Stream id on it.")
    descriptor_channel: Channel = Field(
        DEFAULT_CHANNEL, description="Channel of `FrameDescriptor`, shared by all consumers."
    )
    descriptor_stream_id: AeronStreamId = Field(1100, description="Stream id on it.")
    stream_id_range: PoolIdRange = Field(
        None, description="Tensor streams that producers may create on demand."
    )
    descriptor_stream_id_range: AeronIdRange = Field(
        None, description="Aeron streams for per-consumer descriptors."
    )
    control_stream_id_range: AeronIdRange = Field(
        None, description="Aeron streams for per-consumer control."
    )


class ShmTable(Table):
    """Where shared memory lives, and with which mode and backing."""

    base_dir: AbsolutePath = Field(
        "/dev/shm/tensorpool",  # noqa: S108 - the specification's default; we check its owner
        description="Root of the canonical layout.",
    )
    namespace: Namespace = Field(
        "default", description="Directory level that keeps deployments apart."
    )
    require_hugepages: Flag = Field(
        default=False, description="Huge pages for clients that leave it unspecified."
    )
    page_size_bytes: PageBytes = Field(4096, description="Page size that the backing must have.")
    permissions_mode: Permissions = Field(
        0o660,
        description="Mode of region files, whatever the umask.",
        json_schema_extra={"default": "660"},
    )
    allowed_base_dirs: Annotated[AbsolutePaths, Computed("`[shm.base_dir]`")] = Field(
        default_factory=lambda data: [data["base_dir"]],
        description="Where clients accept regions; must contain `base_dir`.",
    )


class PoliciesTable(Table):
    """Leases, epochs, memory, and the end."""

    allow_dynamic_streams: Flag = Field(
        default=False, description="Create streams of `driver.stream_id_range` on demand."
    )
    default_profile: Annotated[Name, Computed("the first profile")] = _text(
        "Profile of streams created on demand."
    )
    announce_period_ms: PositiveUint32 = Field(
        1000, description="Time between two `ShmPoolAnnounce` of a stream."
    )
    lease_keepalive_interval_ms: PositiveUint32 = Field(
        1000, description="How often clients must send a keepalive."
    )
    lease_expiry_grace_intervals: PositiveUint32 = Field(
        3, description="A lease expires after this many intervals without one."
    )
    node_id_reuse_cooldown_ms: Uint32 = Field(
        1000, description="Time before a released node id is given again."
    )
    prefault_shm: Flag = Field(default=True, description="Touch and zero regions when made.")
    mlock_shm: Flag = Field(
        default=False, description="Lock regions in memory; a failure is fatal."
    )
    prepare_ahead_max_bytes: Uint64 = Field(
        1 << 20,
        description="Largest epoch of a stream whose next two are made ahead of need; 0: none.",
    )
    epoch_gc_enabled: Flag = Field(default=True, description="Delete old epochs.")
    epoch_gc_keep: PositiveUint32 = Field(
        2, description="Epochs kept of each stream, the current one among them."
    )
    epoch_gc_min_age_ns: Annotated[Uint64, Computed("3 times `announce_period_ms`")] = Field(
        default_factory=lambda data: _GC_AGE_PERIODS * data["announce_period_ms"] * _NS_PER_MS,
        description="Age without activity before an epoch may go.",
    )
    epoch_gc_on_startup: Flag = Field(default=False, description="Collect once at the start.")
    shutdown_timeout_ms: PositiveUint32 = Field(
        2000, description="Longest drain before the driver ends."
    )
    shutdown_token: Secret = Field(
        SecretStr(""), description="What `ShmDriverShutdownRequest` must carry; empty refuses all."
    )
    max_leases: Annotated[
        int, Field(strict=True, ge=1, le=1_000_000), Kind("integer", "1 to 1000000", "1024")
    ] = Field(1024, description="Leases that the registry holds at most.")
    max_streams: Annotated[
        int, Field(strict=True, ge=1, le=100_000), Kind("integer", "1 to 100000", "256")
    ] = Field(256, description="Streams that the registry holds at most.")


class PoolTable(Table):
    """A payload pool of a profile."""

    pool_id: PoolId = Field(description="Identifier, unique in the profile.")
    stride_bytes: StrideBytes = Field(description="Size of a slot: the largest payload.")


Pools = Annotated[
    list[PoolTable],
    Field(strict=True, min_length=1, max_length=LIST_MAX_ITEMS),
    Kind(
        "array of tables",
        f"`{{ pool_id, stride_bytes }}`, 1 to {LIST_MAX_ITEMS}",
        "[{ pool_id = 1, stride_bytes = 1048576 }]",
    ),
]


class ProfileTable(Table):
    """A layout of shared memory that streams refer to."""

    header_nslots: HeaderSlots = Field(1024, description="Slots of the ring and of each pool.")
    payload_pools: Pools = Field(description="The pools; a frame takes the smallest that fits.")


class StreamTable(Table):
    """A stream that exists from the start."""

    stream_id: PoolStreamId = Field(description="Its id, unique on this host.")
    profile: Name = Field(description="Name of its profile.")


class SupervisorTable(Table):
    """The policy engine: answers `ConsumerHello`, watches every stream."""

    control_channel: Annotated[Channel, Inherits("driver.control_channel")] = _text(
        "Channel of `ConsumerHello` and `ConsumerConfig`."
    )
    control_stream_id: Annotated[AeronStreamId, Inherits("driver.control_stream_id")] = _number(
        "Stream id on it."
    )
    announce_channel: Annotated[Channel, Inherits("driver.announce_channel")] = _text(
        "Channel of `ShmPoolAnnounce`."
    )
    announce_stream_id: Annotated[AeronStreamId, Inherits("driver.announce_stream_id")] = _number(
        "Stream id on it."
    )
    metadata_channel: Annotated[Channel, Inherits("driver.metadata_channel")] = _text(
        "Channel of `DataSourceAnnounce` and `DataSourceMeta`."
    )
    metadata_stream_id: Annotated[AeronStreamId, Inherits("driver.metadata_stream_id")] = _number(
        "Stream id on it."
    )
    qos_channel: Annotated[Channel, Inherits("driver.qos_channel")] = _text(
        "Channel of `QosProducer` and `QosConsumer`."
    )
    qos_stream_id: Annotated[AeronStreamId, Inherits("driver.qos_stream_id")] = _number(
        "Stream id on it."
    )
    consumer_capacity: PositiveUint32 = Field(256, description="Consumers tracked at most.")
    consumer_stale_ms: PositiveUint32 = Field(
        5000, description="A consumer silent this long is gone."
    )
    per_consumer_enabled: Flag = Field(
        default=False, description="Give each consumer that asks streams of its own."
    )
    per_consumer_descriptor_channel: Annotated[Channel, Inherits("driver.control_channel")] = _text(
        "Channel of per-consumer descriptors."
    )
    per_consumer_descriptor_base: Annotated[
        OptionalAeronStreamId, Computed("start of `driver.descriptor_stream_id_range`")
    ] = _number("First stream id of per-consumer descriptors; 0 takes the default.")
    per_consumer_descriptor_range: Annotated[
        OptionalAeronStreamId, Computed("size of `driver.descriptor_stream_id_range`")
    ] = _number("How many of them; goes with the base.")
    per_consumer_control_channel: Annotated[Channel, Inherits("driver.control_channel")] = _text(
        "Channel of per-consumer control."
    )
    per_consumer_control_base: Annotated[
        OptionalAeronStreamId, Computed("start of `driver.control_stream_id_range`")
    ] = _number("First stream id of per-consumer control; 0 takes the default.")
    per_consumer_control_range: Annotated[
        OptionalAeronStreamId, Computed("size of `driver.control_stream_id_range`")
    ] = _number("How many of them; goes with the base.")
    force_no_shm: Flag = Field(default=False, description="Answer every consumer `use_shm=0`.")
    force_mode: ForceMode = Field(
        0, description="Mode of every consumer: 0 as asked, 1 STREAM, 2 RATE_LIMITED."
    )
    payload_fallback_uri: FallbackUri = Field(
        "", description="Where consumers without shared memory get their payload."
    )
