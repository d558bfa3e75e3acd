"""The media driver process: the embedded C driver, never started over a live directory."""

from __future__ import annotations

import logging
import os
import sys
import time
from contextlib import suppress

import pyaeron

from tensorpool import logs
from tensorpool.aeron.cnc import find_live_owner, read_owner
from tensorpool.aeron.exposition import samples
from tensorpool.aeron_directory import require_own_directory
from tensorpool.child import FatalError, LauncherLink, exit_with
from tensorpool.settings import HostSettings

ROLE = "media_driver"

_log = logging.getLogger(__name__)
_POLL_S = 0.1
_MARK_BYTES = 64


def run(settings: HostSettings, link: LauncherLink) -> None:
    """Serve until told to stop, or report the external media driver and return.

    The launcher holds the host lock of the Aeron directory, so a CnC file there is either
    stale or belongs to somebody else's media driver.
    """
    link.adopt_process()
    logs.configure(ROLE, settings.log_level)
    try:
        _run(settings, link)
    except Exception as error:  # noqa: BLE001 - the process's outermost frame reports and ends
        exit_with(error, link)


def _run(settings: HostSettings, link: LauncherLink) -> None:
    aeron_dir = settings.aeron_dir
    owner = None if _is_our_leftover(aeron_dir) else find_live_owner(aeron_dir)
    if owner is not None:
        _log.info("external media driver found", extra={"aeron_dir": aeron_dir, "pid": owner.pid})
        link.not_needed(f"external media driver, pid {owner.pid}")
        return
    if not settings.media_driver.embedded:
        raise FatalError(
            f"media_driver.embedded is false, and no media driver lives in {aeron_dir}; start one "
            "there, or set media_driver.embedded = true"
        )
    os.environ.update(settings.media_driver.environment)
    try:
        media_driver = pyaeron.MediaDriver(
            dir=aeron_dir,
            threading=settings.media_driver.threading,
            dir_delete_on_start=True,
            dir_delete_on_shutdown=True,
        )
    except pyaeron.AeronError as error:
        text = str(error).splitlines()[0]
        raise FatalError(
            f"the media driver cannot start in {aeron_dir}: {text}; check that the directory's "
            "parent exists, is writable and has space"
        ) from error
    try:
        # Before its start it may not have been there, and its parent be open to everybody.
        require_own_directory(aeron_dir)
        link.serve_metrics(settings.metrics, ROLE, lambda: samples(aeron_dir))
        _mark_as_ours(aeron_dir)
        link.ready(f"aeron_dir={aeron_dir}")
        while not link.stop_requested:
            link.poll(0)
            time.sleep(_POLL_S)
    finally:
        media_driver.close()
    sys.stdout.flush()


def _mark_as_ours(aeron_dir: str) -> None:
    """Leave our mark beside the CnC file, so that a successor knows the leftovers of a kill."""
    owner = read_owner(aeron_dir)
    if owner is not None:
        path = _mark_path(aeron_dir)
        with suppress(FileNotFoundError):
            os.unlink(path)
        # Clients of the group may write in here: never into what is there.
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        with os.fdopen(fd, "w", encoding="ascii") as file:
            file.write(f"{owner.pid}\n")


def _is_our_leftover(aeron_dir: str) -> bool:
    """Whether the CnC file is that of a media driver of ours, which must then be dead.

    The launcher starts one at a time and holds the directory's lock; a mark that names the
    CnC file's own maker therefore spares the wait for a heartbeat.
    """
    owner = read_owner(aeron_dir)
    try:
        fd = os.open(_mark_path(aeron_dir), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(fd, encoding="ascii") as file:
            marked = file.read(_MARK_BYTES).strip()
    except (OSError, ValueError):
        return False
    return owner is not None and marked == str(owner.pid)


def _mark_path(aeron_dir: str) -> str:
    return os.path.join(aeron_dir, "tensorpool.pid")
