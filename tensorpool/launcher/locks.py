"""Which host resources one `tensorpool up` owns, and where that is written.

Beside the namespace directory, in `<base_dir>/tensorpool-<user>`, which only this user may
write: no other user can hold or plant the lock, and nothing there is ever cleaned. A
namespace cannot start with a dot, so the names are free.
"""

from __future__ import annotations

import os

from tensorpool.aeron_directory import require_own_directory
from tensorpool.clock import NS_PER_S
from tensorpool.errors import HostError
from tensorpool.host_lock import HostLock
from tensorpool.namespace import prepare_namespace
from tensorpool.settings import HostSettings, ShmSettings

_SLACK_NS = 3 * NS_PER_S // 2


def namespace_lock_path(shm: ShmSettings) -> str:
    """The lock of a namespace: held while a host runs on it."""
    return _beside_namespace(shm, "lock")


def host_file_path(shm: ShmSettings) -> str:
    """The launcher's account of its processes (`tensorpool.launcher.host_file`)."""
    return _beside_namespace(shm, "host.json")


def targets_file_path(shm: ShmSettings) -> str:
    """Where the ports are listed if nothing else is said (`tensorpool.launcher.discovery`)."""
    return _beside_namespace(shm, "targets.json")


def aeron_lock_path(aeron_dir: str) -> str:
    """The lock of an Aeron directory: outside of it, since media drivers empty it."""
    return f"{aeron_dir}.lock"


def take_locks(settings: HostSettings) -> list[HostLock]:
    """The namespace's lock, and the Aeron directory's if a media driver may be started there.

    The children of a launcher that was killed drain before they go: they are waited for.

    Raises:
        HostError: another host runs on one of them, or a lock or directory cannot be made.
    """
    wait_s = (settings.policies.shutdown_timeout_ns + _SLACK_NS) / NS_PER_S
    shm = settings.shm
    os.close(prepare_namespace(shm))
    locks = [
        HostLock(
            namespace_lock_path(shm),
            f"namespace {shm.namespace} ({shm.namespace_dir})",
            wait_s=wait_s,
        )
    ]
    if not settings.media_driver.embedded:
        return locks
    try:
        locks.append(_lock_aeron_dir(settings.aeron_dir, wait_s))
    except BaseException:
        locks[0].release()
        raise
    return locks


def _lock_aeron_dir(aeron_dir: str, wait_s: float) -> HostLock:
    parent = os.path.dirname(aeron_dir)
    if not os.path.isdir(parent):
        raise HostError(
            f"Aeron directory {aeron_dir}: {parent} does not exist; make it, or set "
            "driver.aeron_dir or AERON_DIR to another"
        )
    require_own_directory(aeron_dir)
    return HostLock(aeron_lock_path(aeron_dir), f"Aeron directory {aeron_dir}", wait_s=wait_s)


def _beside_namespace(shm: ShmSettings, suffix: str) -> str:
    return os.path.join(os.path.dirname(shm.namespace_dir), f".{shm.namespace}.{suffix}")
