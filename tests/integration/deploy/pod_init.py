"""Becomes the first process of a container: root in, the container's own command out.

    unshare --mount --pid ... python pod_init.py SPECIFICATION.json

In namespaces of its own already, it makes a root file system with nothing but what an image
has, mounts the volumes, gives up every privilege, and executes the command: what a container
runtime does for a pod with these settings. The standard library only; see `pod.py`.
"""

import ctypes
import fcntl
import json
import os
import socket
import struct
import sys
from pathlib import Path

_READ_ONLY, _REMOUNT, _BIND, _RECURSIVE, _PRIVATE = 1, 32, 4096, 16384, 1 << 18
_NO_SUID, _NO_DEVICES = 2, 4
_SET_NO_NEW_PRIVILEGES, _DROP_FROM_BOUNDING_SET = 38, 24
_LAST_CAPABILITY = Path("/proc/sys/kernel/cap_last_cap")
_DEVICES = ("null", "zero", "full", "random", "urandom")
_SET_FLAGS = 0x8914
_IS_UP = 1
_libc = ctypes.CDLL(None, use_errno=True)


def mount(source: str, target: Path, kind: str = "", flags: int = 0, data: str = "") -> None:
    done = _libc.mount(
        source.encode(), bytes(target), kind.encode(), ctypes.c_ulong(flags), data.encode()
    )
    if done != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), f"mount {source} on {target}")


def bind(source: str, target: Path, *, read_only: bool) -> None:
    if os.path.isdir(source):
        target.mkdir(parents=True, exist_ok=True)
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.touch()
    mount(source, target, flags=_BIND | _RECURSIVE)
    if read_only:
        mount("none", target, flags=_BIND | _REMOUNT | _READ_ONLY | _NO_SUID)


def make_root(root: Path, binds: list[tuple[str, str, bool]]) -> None:
    mount("none", Path("/"), flags=_RECURSIVE | _PRIVATE)
    mount("root", root, "tmpfs", data="mode=755")
    for name in ("bin", "sbin", "lib", "lib64"):
        host = Path("/", name)
        if host.is_symlink():
            (root / name).symlink_to(os.readlink(host))
        elif host.is_dir():
            bind(str(host), root / name, read_only=True)
    (root / "dev").mkdir()
    mount("dev", root / "dev", "tmpfs", _NO_SUID, "mode=755")
    for name in _DEVICES:
        bind(f"/dev/{name}", root / "dev" / name, read_only=False)
    # What a container runtime gives: the pod's own, small; the node's is a volume in it.
    (root / "dev" / "shm").mkdir()
    mount("shm", root / "dev" / "shm", "tmpfs", _NO_SUID | _NO_DEVICES, "size=64m,mode=1777")
    (root / "proc").mkdir()
    mount("proc", root / "proc", "proc", _NO_SUID | _NO_DEVICES)
    for source, target, read_only in binds:
        bind(source, Path(f"{root}{target}"), read_only=read_only)
    mount("none", root, flags=_BIND | _REMOUNT | _READ_ONLY)


def raise_loopback() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        fcntl.ioctl(sock, _SET_FLAGS, struct.pack("16sh22x", b"lo", _IS_UP))


def drop_privileges(uid: int, gid: int, capabilities: list[int]) -> None:
    for number in range(int(_LAST_CAPABILITY.read_text()) + 1):
        if number not in capabilities:
            _libc.prctl(_DROP_FROM_BOUNDING_SET, number, 0, 0, 0)
    os.setgroups([])
    os.setgid(gid)
    os.setuid(uid)
    _libc.prctl(_SET_NO_NEW_PRIVILEGES, 1, 0, 0, 0)


def main() -> None:
    specification = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    if specification["cgroup"]:
        Path(specification["cgroup"]).write_text("0", encoding="ascii")
    if specification["own_network"]:
        raise_loopback()
    root = Path(specification["root"])
    make_root(root, specification["binds"])
    os.chroot(root)
    os.chdir("/")
    drop_privileges(specification["uid"], specification["gid"], specification["capabilities"])
    environment = specification["environment"]
    os.execvpe(specification["command"][0], specification["command"], environment)  # noqa: S606


if __name__ == "__main__":
    main()
