"""A broken rule between keys."""

from dataclasses import dataclass

from tensorpool.config.faults import Path


@dataclass(frozen=True, slots=True)
class Finding:
    """A fault before it is known where its keys were set.

    Attributes:
        path: the key to change.
        value: its value, or None if the key is absent.
        rule: what must hold.
        remedy: what to write instead.
        others: the other keys that the judgement rests on.
    """

    path: Path
    value: object
    rule: str
    remedy: str
    others: tuple[Path, ...] = ()

    @property
    def involves(self) -> tuple[Path, ...]:
        """Every key that the judgement rests on."""
        return (self.path, *self.others)
