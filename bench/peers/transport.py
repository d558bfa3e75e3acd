"""What every transport is to the benchmark: somebody who sends, and somebody who receives."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any

AFTER_S = 0.25
"""How much longer than the producer a consumer looks."""

type Frame = Any
"""A buffer of the frame's bytes, valid until the next call."""


@dataclass(frozen=True)
class Run:
    """One run of one transport.

    Attributes:
        nbytes: size of a frame.
        consumers: how many receive it.
        ring: slots, where the transport has a ring of its own size.
        tag: unique name of the run.
        config: tensorpool's configuration file.
        stream_id: tensorpool's stream.
        shared: what the parent made for both sides.
        index: which consumer this is.
    """

    nbytes: int
    consumers: int
    ring: int
    tag: str
    config: str = ""
    stream_id: int = 0
    shared: dict[str, Any] = field(default_factory=dict)
    index: int = 0


class Sender(ABC):
    """The producer's side."""

    @abstractmethod
    def send(self, array: Any, *, blocking: bool) -> None:
        """Send the array, copied once. `blocking`: consumers wait, so wake them."""

    def finish(self) -> None:
        """The last frame of a phase with waiting consumers was sent."""

    def close(self) -> None:
        """Let go."""


class Receiver(ABC):
    """A consumer's side."""

    @abstractmethod
    def poll(self) -> Frame | None:
        """The next frame, if one is there."""

    @abstractmethod
    def wait(self, timeout_s: float) -> Frame | None:
        """The next frame, waited for as the transport's documentation recommends."""

    def close(self) -> None:
        """Let go."""
