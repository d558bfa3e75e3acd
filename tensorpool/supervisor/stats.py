"""Counters of the supervisor, plain integers on its duty cycle; `tensorpool.metrics` exports."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass(slots=True)
class SupervisorStats:
    """Totals since the process started.

    Attributes:
        declines: per-consumer streams declined, by Decline value, a repeated hello each time.
        configs_sent: configs handed to the control stream.
        id_collisions: hellos that show two living consumers with one id on one stream.
        consumers_ended: consumers that left or fell silent.
        consumers_refused: messages of consumers beyond the capacity.
    """

    hellos: int = 0
    qos_messages: int = 0
    announces: int = 0
    metadata_messages: int = 0
    configs_sent: int = 0
    grants: Counter[str] = field(default_factory=Counter)
    """By Kind value."""
    declines: Counter[str] = field(default_factory=Counter)
    unknown_modes: int = 0
    id_collisions: int = 0
    consumers_ended: int = 0
    consumers_refused: int = 0
    malformed_messages: int = 0
    stalls: int = 0
    media_driver_losses: int = 0
