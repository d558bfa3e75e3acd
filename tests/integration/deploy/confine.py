"""Confine this process as the systemd unit says, and execute a command.

    python confine.py SPECIFICATION.json COMMAND...

systemd does it by seccomp too; its library is asked directly here. Write-and-execute memory
is refused by the kernel's own means, which is stricter than systemd's filter.
"""

import ctypes
import errno
import json
import os
import sys
from pathlib import Path

_ALLOW = 0x7FFF0000
_REFUSE = 0x00050000 | errno.EPERM
_SET_NO_NEW_PRIVILEGES, _SET_MEMORY_DENY_WRITE_EXECUTE, _REFUSE_EXEC_GAIN = 38, 65, 1


def load_filter(names: list[str]) -> None:
    library = ctypes.CDLL("libseccomp.so.2", use_errno=True)
    library.seccomp_init.restype = ctypes.c_void_p
    context = ctypes.c_void_p(library.seccomp_init(_REFUSE))
    for name in names:
        number = library.seccomp_syscall_resolve_name(name.encode())
        if number >= 0 and library.seccomp_rule_add(context, _ALLOW, number, 0) != 0:
            raise OSError(f"no rule for {name}")
    if library.seccomp_load(context) != 0:
        raise OSError("the filter is refused")


def main() -> None:
    specification = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    os.umask(int(specification["umask"], 8))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_SET_MEMORY_DENY_WRITE_EXECUTE, _REFUSE_EXEC_GAIN, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "the kernel cannot deny write-and-execute memory")
    libc.prctl(_SET_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    load_filter(specification["system_calls"])
    os.execv(sys.argv[2], sys.argv[2:])  # noqa: S606


if __name__ == "__main__":
    main()
