"""Where each value was set: a line of the file, or a variable of the environment."""

from collections.abc import Mapping
from dataclasses import dataclass

from tensorpool.config.environment import ENVIRONMENT
from tensorpool.config.faults import Fault, Path, dotted
from tensorpool.config.lines import line_of


@dataclass(frozen=True, slots=True)
class Origins:
    """Sources of the keys that are set, and lines of the keys in the file."""

    sources: Mapping[Path, str]
    lines: Mapping[Path, int]

    def fault(self, path: Path, value: str, rule: str, remedy: str) -> Fault:
        """A fault of the key at `path`, at the place where it was set."""
        for end in range(len(path), 0, -1):
            source = self.sources.get(path[:end], "")
            if source.startswith(ENVIRONMENT):
                return Fault(source.removeprefix(ENVIRONMENT), value, rule, remedy)
        return Fault(dotted(path), value, rule, remedy, line_of(self.lines, path))
