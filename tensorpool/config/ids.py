"""Stream ids and their ranges must not collide (Driver §11)."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

from tensorpool.config.faults import Path, dotted
from tensorpool.config.fields import INT32_MAX, StreamIdRange
from tensorpool.config.finding import Finding
from tensorpool.config.models import SupervisorTable
from tensorpool.config.operations import HostConfig

_ENDPOINTS = ("control", "announce", "qos", "metadata")


@dataclass(frozen=True, slots=True)
class _Range:
    """A range of ids, what it is for, and the keys that set it."""

    path: Path
    ids: StreamIdRange
    value: object
    others: tuple[Path, ...] = ()

    @property
    def text(self) -> str:
        return f"{dotted(self.path)} ({self.ids})"


@dataclass(frozen=True, slots=True)
class _PerConsumer:
    """The supervisor's ids of one kind, on their channel."""

    range: _Range
    channel: str
    explicit: bool


def check_ids(config: HostConfig) -> Iterator[Finding]:
    """Ranges against each other, against the fixed streams, and against static streams."""
    driver_ranges = list(_driver_ranges(config))
    yield from _overlaps(combinations(driver_ranges, 2))
    ranges = list(driver_ranges)
    if config.supervisor is not None:
        yield from _pairs(config.supervisor)
        per_consumer = list(_per_consumer(config, config.supervisor))
        own = [streams.range for streams in per_consumer if streams.explicit]
        dynamic = [one for one in driver_ranges if one.path[-1] == "stream_id_range"]
        yield from _overlaps((one, other) for one in dynamic for other in own)
        yield from _overlaps(
            (one.range, other.range)
            for one, other in combinations(per_consumer, 2)
            if one.channel == other.channel and (one.explicit or other.explicit)
        )
        ranges += own
    for one in ranges:
        yield from _fixed_ids_in(config, one)


def _driver_ranges(config: HostConfig) -> Iterator[_Range]:
    for name in ("stream_id_range", "descriptor_stream_id_range", "control_stream_id_range"):
        ids: StreamIdRange | None = getattr(config.driver, name)
        if ids is not None:
            yield _Range(("driver", name), ids, str(ids))


def _pairs(supervisor: SupervisorTable) -> Iterator[Finding]:
    for what in ("descriptor", "control"):
        base_path = ("supervisor", f"per_consumer_{what}_base")
        count_path = ("supervisor", f"per_consumer_{what}_range")
        base: int = getattr(supervisor, base_path[-1])
        count: int = getattr(supervisor, count_path[-1])
        rule = "base and range go together, or both are 0 to take the driver's range"
        if base and not count:
            yield Finding(count_path, count, rule, "write range = 1000", (base_path,))
        elif count and not base:
            yield Finding(base_path, base, rule, "write the first id of the range", (count_path,))
        elif base + count - 1 > INT32_MAX:
            yield Finding(
                count_path,
                count,
                f"stream ids up to {INT32_MAX}; this range ends at {base + count - 1}",
                f"write {INT32_MAX - base + 1} or less",
                (base_path,),
            )


def _per_consumer(config: HostConfig, supervisor: SupervisorTable) -> Iterator[_PerConsumer]:
    for what in ("descriptor", "control"):
        base: int = getattr(supervisor, f"per_consumer_{what}_base")
        count: int = getattr(supervisor, f"per_consumer_{what}_range")
        if not base or not count:
            continue
        ids = StreamIdRange(base, base + count - 1)
        driver_path = ("driver", f"{what}_stream_id_range")
        explicit = ids != getattr(config.driver, driver_path[-1])
        path = ("supervisor", f"per_consumer_{what}_base")
        count_path = ("supervisor", f"per_consumer_{what}_range")
        channel: str = getattr(supervisor, f"per_consumer_{what}_channel")
        yield _PerConsumer(
            _Range(path, ids, base, (count_path, driver_path))
            if explicit
            else _Range(driver_path, ids, str(ids), (path, count_path)),
            channel,
            explicit,
        )


def _overlaps(pairs: Iterator[tuple[_Range, _Range]]) -> Iterator[Finding]:
    for one, other in pairs:
        if one.ids.first <= other.ids.last and other.ids.first <= one.ids.last:
            yield Finding(
                other.path,
                other.value,
                f"no overlap with {one.text} (Driver §11)",
                f"move one of the two, for example to start at {one.ids.last + 1}",
                (*other.others, one.path, *one.others),
            )


def _fixed_ids_in(config: HostConfig, one: _Range) -> Iterator[Finding]:
    for path, stream_id in _fixed_ids(config):
        if one.ids.first <= stream_id <= one.ids.last:
            yield Finding(
                path,
                stream_id,
                f"no id inside {one.text} (Driver §11)",
                "choose an id outside of the range, or move the range",
                (one.path, *one.others),
            )


def _fixed_ids(config: HostConfig) -> Iterator[tuple[Path, int]]:
    endpoints: list[tuple[Path, int]] = [
        (("driver", f"{name}_stream_id"), getattr(config.driver, f"{name}_stream_id"))
        for name in (*_ENDPOINTS, "descriptor")
    ]
    if config.supervisor is not None:
        endpoints += [
            (("supervisor", f"{name}_stream_id"), getattr(config.supervisor, f"{name}_stream_id"))
            for name in _ENDPOINTS
        ]
    seen: set[int] = set()
    # An id that another key inherits or repeats is one fault, not several.
    for path, stream_id in endpoints:
        if stream_id not in seen:
            seen.add(stream_id)
            yield path, stream_id
    for name, stream in config.streams.items():
        yield ("streams", name, "stream_id"), stream.stream_id
