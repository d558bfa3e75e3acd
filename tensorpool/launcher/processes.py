"""The children of a host, in the order in which they start.

Entry points are named, not imported: the launcher loads neither Aeron nor shared memory.
"""

from __future__ import annotations

from dataclasses import dataclass

from tensorpool.clock import NS_PER_S
from tensorpool.settings import HostSettings

_STOP_LIMIT_NS = 5 * NS_PER_S


@dataclass(frozen=True, slots=True)
class Role:
    """One child.

    Attributes:
        name: as logs, status and metrics call it.
        entry: `module:function`, called with the settings and the link to the launcher.
        stop_limit_ns: a drain longer than this ends by SIGKILL.
    """

    name: str
    entry: str
    stop_limit_ns: int = _STOP_LIMIT_NS


def roles(settings: HostSettings) -> tuple[Role, ...]:
    """The children that `settings` ask for; a host without `[supervisor]` has none of it."""
    supervisor = (Role("supervisor", "tensorpool.supervisor.process:run"),)
    return (
        Role("media_driver", "tensorpool.aeron.media_driver:run"),
        Role(
            "driver",
            "tensorpool.driver.process:run",
            settings.policies.shutdown_timeout_ns + _STOP_LIMIT_NS,
        ),
        *(supervisor if settings.supervisor is not None else ()),
        Role("gc", "tensorpool.gc.process:run"),
    )


DRAIN_ORDER = ("driver", "supervisor", "gc", "media_driver")
"""The driver announces the shutdown, which the others may still need; all need the media driver."""
