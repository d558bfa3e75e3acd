"""Huge pages, when they are asked for (Wire §15.22: verify, never assume)."""

from __future__ import annotations

from collections.abc import Iterator

from tensorpool.doctor.filesystem import nearest_directory
from tensorpool.doctor.finding import Finding, Severity
from tensorpool.doctor.need import huge_pages
from tensorpool.doctor.texts import size
from tensorpool.settings import HostSettings
from tensorpool.shm.backing import backing_of

_POOL = "/sys/kernel/mm/hugepages/hugepages-{kib}kB/{name}"


def check_hugepages(settings: HostSettings) -> Iterator[Finding]:
    """The base directory's backing, its page size, and how many pages are free."""
    shm = settings.shm
    if not shm.require_hugepages:
        return
    directory = nearest_directory(shm.base_dir)
    backing = backing_of(directory)
    if not backing.is_hugetlbfs:
        yield Finding(
            "hugepages-missing",
            Severity.ERROR,
            f"{directory} is not on hugetlbfs",
            "shm.require_hugepages = true needs shm.base_dir on hugetlbfs (Wire §15.22)",
            f"`mount -t hugetlbfs -o pagesize={size(shm.page_size_bytes).replace(' ', '')} none "
            f"{shm.base_dir}`, or set shm.require_hugepages = false",
        )
        return
    if backing.page_size_bytes != shm.page_size_bytes:
        yield Finding(
            "hugepages-size",
            Severity.ERROR,
            f"{directory} has pages of {backing.page_size_bytes} bytes, "
            f"shm.page_size_bytes is {shm.page_size_bytes}",
            "shm.page_size_bytes is the page size of shm.base_dir's hugetlbfs",
            f"set shm.page_size_bytes = {backing.page_size_bytes}, or mount with "
            f"pagesize={shm.page_size_bytes}",
        )
        return
    free = _pages(backing.page_size_bytes, "free_hugepages")
    total = _pages(backing.page_size_bytes, "nr_hugepages")
    wanted = huge_pages(settings, backing.page_size_bytes)
    if total < wanted:
        yield Finding(
            "hugepages-few",
            Severity.ERROR,
            f"{total} huge pages of {size(backing.page_size_bytes)} are reserved, {free} free; "
            f"the configuration takes {wanted}",
            "as many huge pages are reserved as the kept epochs and one more take",
            f"`sysctl vm.nr_hugepages={wanted}` (for the default size), early after boot",
        )


def _pages(page_bytes: int, name: str) -> int:
    with open(_POOL.format(kib=page_bytes >> 10, name=name), encoding="ascii") as file:
        return int(file.read())
