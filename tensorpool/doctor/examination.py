"""All checks, in the order in which an operator would want to read them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from tensorpool.doctor.directories import check_directories
from tensorpool.doctor.filesystem import check_file_systems
from tensorpool.doctor.finding import Finding, Severity
from tensorpool.doctor.hugepages import check_hugepages
from tensorpool.doctor.limits import check_cgroup, check_descriptors, check_memlock
from tensorpool.doctor.media_driver import check_aeron
from tensorpool.doctor.ports import check_ports
from tensorpool.doctor.ring import check_rings
from tensorpool.doctor.software import check_software
from tensorpool.doctor.system import check_clock, check_registry, check_remove_ipc
from tensorpool.settings import HostSettings

type Check = Callable[[HostSettings], Iterator[Finding]]

CHECKS: tuple[Check, ...] = (
    check_directories,
    check_file_systems,
    check_hugepages,
    check_memlock,
    check_descriptors,
    check_cgroup,
    check_aeron,
    check_ports,
    check_registry,
    check_remove_ipc,
    check_clock,
    check_software,
    check_rings,
)


def examine(settings: HostSettings, checks: tuple[Check, ...] = CHECKS) -> list[Finding]:
    """Everything that is wrong with this host for `settings`; nothing on it is changed."""
    found: list[Finding] = []
    for check in checks:
        try:
            found += check(settings)
        except OSError as error:
            subject = check.__name__.removeprefix("check_").replace("_", " ")
            found.append(
                Finding(
                    "not-examined",
                    Severity.WARNING,
                    f"{subject}: {error}",
                    "every rule can be examined",
                    "run the command as the user of `tensorpool up`",
                )
            )
    return found


def exit_status(found: list[Finding]) -> int:
    """0 healthy (notes at most), 1 warnings, 2 errors."""
    severities = {finding.severity for finding in found}
    if Severity.ERROR in severities:
        return 2
    return 1 if Severity.WARNING in severities else 0
