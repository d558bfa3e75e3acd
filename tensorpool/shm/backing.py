"""Which file system and page size stand behind a file (Wire §15.22: verify, never assume)."""

from __future__ import annotations

import ctypes
import os
from dataclasses import dataclass

_HUGETLBFS_MAGIC = 0x958458F6


class _StatFs(ctypes.Structure):
    # struct statfs of linux/statfs.h on 64-bit machines; only the first two words are read.
    _fields_ = (
        ("f_type", ctypes.c_long),
        ("f_bsize", ctypes.c_long),
        ("rest", ctypes.c_long * 30),
    )


_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Backing:
    """`page_size_bytes` is the huge page size on hugetlbfs, else the system's page size."""

    is_hugetlbfs: bool
    page_size_bytes: int


def backing_of(path_or_fd: str | int) -> Backing:
    """The backing of an existing file or directory.

    Raises:
        OSError: it cannot be examined.
    """
    result = _statfs(path_or_fd)
    is_hugetlbfs = result.f_type & 0xFFFFFFFF == _HUGETLBFS_MAGIC
    page_size = result.f_bsize if is_hugetlbfs else os.sysconf("SC_PAGE_SIZE")
    return Backing(is_hugetlbfs, page_size)


def file_system_magic(path_or_fd: str | int) -> int:
    """The kernel's number for the type of file system of an existing file or directory.

    Raises:
        OSError: it cannot be examined.
    """
    return int(_statfs(path_or_fd).f_type) & 0xFFFFFFFF


def _statfs(path_or_fd: str | int) -> _StatFs:
    result = _StatFs()
    if isinstance(path_or_fd, int):
        status = _libc.fstatfs(path_or_fd, ctypes.byref(result))
    else:
        status = _libc.statfs(os.fsencode(path_or_fd), ctypes.byref(result))
    if status != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path_or_fd)
    return result
