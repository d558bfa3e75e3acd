"""What is fuzzed: each target takes bytes and raises only if something is wrong.

A target is a context manager that yields the function to call with each input, with seeds
that reach far into the code. `directory` is a fresh one in shared memory.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from tests.fuzz import agents, config, files, regions, wires

type Check = Callable[[bytes], None]


@dataclass(frozen=True, slots=True)
class Target:
    """One class of input.

    Attributes:
        open: prepares what the check needs below a directory.
        seeds: inputs to start from.
        quick: how many mutants the test suite tries.
    """

    open: Callable[[Path], AbstractContextManager[Check]]
    seeds: Callable[[], list[bytes]]
    quick: int


TARGETS = {
    "wire": Target(wires.open_decoder, wires.seeds, 20_000),
    "uri": Target(wires.open_uri, wires.uri_seeds, 20_000),
    "config": Target(config.open_loader, config.seeds, 1_500),
    "registry": Target(files.open_registry, files.registry_seeds, 800),
    "reports": Target(files.open_reports, files.report_seeds, 800),
    "region": Target(regions.open_validator, regions.seeds, 2_500),
    "supervisor": Target(agents.open_supervisor, agents.supervisor_seeds, 500),
    "driver": Target(agents.open_driver, agents.driver_seeds, 300),
}
