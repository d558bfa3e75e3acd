"""Containers of the manifests, run in Linux namespaces instead of by a cluster.

A `Node` is a directory that stands for the node's /dev/shm: a file system of limited size. A
`Container` is one container of a manifest's pod: its command, user, capabilities, environment
and volumes, in its own mount, pid, network, IPC and UTS namespaces, on a read-only root.
Needs root, as a container runtime does.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from tests.cgroups import MemoryCgroup
from tests.leftovers import MARK
from tests.manifests import REPOSITORY, SHM, Resource
from tests.support import wait_until

DEADLINE_S = 60.0
_CAPABILITIES = {"CHOWN": 0}
_BIN, _LIB = "/opt/tensorpool/bin", "/opt/tensorpool/lib"
_NAMESPACES = ("--mount", "--uts", "--ipc")
_SHIM = '#!/bin/sh\nexec {python} -m tensorpool "$@"\n'


class Node:
    """What of a node outlives its pods.

    Attributes:
        shm: stands for /dev/shm/tensorpool, as the kubelet makes it: root's.
        work: files that containers are set up from.
    """

    def __init__(self, work: Path, config: str) -> None:
        self.work = work
        self.shm = work / "dev-shm" / "tensorpool"
        (work / "config").mkdir()
        (work / "config" / "host.toml").write_text(config, encoding="utf-8")
        (work / "bin").mkdir()
        shim = work / "bin" / "tensorpool"
        shim.write_text(_SHIM.format(python=sys.executable), encoding="ascii")
        shim.chmod(0o755)


@contextmanager
def node(config: str, shm_bytes: int) -> Iterator[Node]:
    """A node whose shared memory is a file system of `shm_bytes`."""
    work = Path(tempfile.mkdtemp(prefix="tp-node-"))
    work.chmod(0o755)
    mounted = work / "dev-shm"
    mounted.mkdir()
    options = f"size={shm_bytes},mode=1777"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tp-node", mounted], check=True)
    try:
        made = Node(work, config)
        made.shm.mkdir(mode=0o755)
        yield made
    finally:
        # Lazily: the processes of a test that failed may still end.
        subprocess.run(["umount", "--lazy", mounted], check=True)
        shutil.rmtree(work)


class Container:
    """A container that runs.

    Args:
        where: its node.
        pod: the pod's specification in the manifest.
        container: the container's, one of the pod's.
        command: another command than the manifest's.
        cgroup: the memory cgroup that stands for its limit.
        own_pids: whether it has a pid namespace of its own; a process of the node has not.

    Attributes:
        process: `unshare`, which ends with the container's exit status.
    """

    def __init__(
        self,
        where: Node,
        pod: Resource,
        container: Resource,
        *,
        command: Sequence[str] | None = None,
        cgroup: MemoryCgroup | None = None,
        own_pids: bool = True,
    ) -> None:
        self._directory = Path(tempfile.mkdtemp(dir=where.work, prefix=f"{container['name']}-"))
        self._log = self._directory / "log"
        root = self._directory / "root"
        root.mkdir()
        self.security = {**pod["securityContext"], **container["securityContext"]}
        added = self.security["capabilities"].get("add", [])
        self.environment = _environment(container)
        specification = {
            "root": str(root),
            "binds": [*_image(where), *_volumes(where, pod, container)],
            "command": [*(command or container["command"])],
            "environment": self.environment,
            "uid": self.security["runAsUser"],
            "gid": self.security["runAsGroup"],
            "capabilities": [_CAPABILITIES[name] for name in added],
            "cgroup": str(cgroup.procs) if cgroup is not None else None,
            "own_network": own_pids,
        }
        path = self._directory / "specification.json"
        path.write_text(json.dumps(specification), encoding="utf-8")
        namespaces = [*_NAMESPACES, *(["--pid", "--net", "--fork"] if own_pids else [])]
        script = Path(__file__).with_name("pod_init.py")
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                ["unshare", *namespaces, "--", sys.executable, script, path],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, "PYTHONPATH": ""},
            )
        self._own_pids = own_pids

    def logged(self) -> str:
        """What it wrote, to either output."""
        return self._log.read_text(encoding="utf-8", errors="replace")

    @property
    def first_process(self) -> psutil.Process:
        """Its process 1, as the node numbers it."""
        if not self._own_pids:
            return psutil.Process(self.process.pid)
        (first,) = wait_until(self._children, DEADLINE_S, lambda: f"process 1\n{self.logged()}")
        return first

    def _children(self) -> list[psutil.Process]:
        assert self.process.poll() is None, f"the container ended\n{self.logged()}"
        return psutil.Process(self.process.pid).children()

    def signal(self, number: signal.Signals) -> None:
        """To its process 1, as the kubelet has it sent."""
        self.first_process.send_signal(number)

    def wait(self) -> int:
        """Until it ends; its exit status."""
        return self.process.wait(DEADLINE_S)

    def execute(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command in it, as `kubectl exec` and a container engine's health check do."""
        return self._enter(["--all", "--root", "--wd=/"], self.security, command)

    def get(self, path: str, port: int) -> int:
        """HTTP status of its own `path`, as a probe sees it; 0: no answer."""
        code = (
            "import sys, urllib.request, urllib.error\n"
            "try: print(urllib.request.urlopen(sys.argv[1], timeout=5).status)\n"
            "except urllib.error.HTTPError as error: print(error.code)\n"
            "except OSError: print(0)\n"
        )
        url = f"http://127.0.0.1:{port}{path}"
        done = self._enter(["--net"], None, (sys.executable, "-c", code, url))
        return int(done.stdout)

    def _enter(
        self, namespaces: list[str], security: dict[str, Any] | None, command: Sequence[str]
    ) -> subprocess.CompletedProcess[str]:
        user = []
        if security is not None:
            user = [f"--setuid={security['runAsUser']}", f"--setgid={security['runAsGroup']}"]
        target = f"--target={self.first_process.pid}"
        return subprocess.run(
            ["nsenter", target, *namespaces, *user, "--", *command],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env=self.environment,
            timeout=DEADLINE_S,
            check=False,
        )

    def close(self) -> None:
        """End it by force if it still runs."""
        if self.process.poll() is not None:
            return
        # Its process 1 first, with which all others go: `unshare` itself does not take it along
        # once it has another user.
        for child in psutil.Process(self.process.pid).children():
            child.kill()
        self.process.kill()
        self.process.wait(DEADLINE_S)


def _environment(container: Resource) -> dict[str, str]:
    given = {
        item["name"]: item.get("value", "node-under-test") for item in container.get("env", [])
    }
    return {
        "PATH": f"{_BIN}:/usr/bin:/bin",
        "PYTHONPATH": _LIB,
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONUNBUFFERED": "1",
        "HOME": "/",
        MARK: os.environ[MARK],
        **given,
    }


def _image(where: Node) -> Iterator[tuple[str, str, bool]]:
    """What the image holds: the system's libraries, Python, our package and its command."""
    yield "/usr", "/usr", True
    yield "/etc/ld.so.cache", "/etc/ld.so.cache", True
    yield "/sys", "/sys", True
    # The checkout itself is none of them, though an editable install puts it there: of it the
    # image has the package alone.
    pythons = {sys.prefix, sys.base_prefix, *filter(os.path.isdir, sys.path)} - {str(REPOSITORY)}
    for path in sorted(pythons):
        if not any(path.startswith(f"{other}/") for other in {*pythons, "/usr"}):
            yield path, path, True
    yield str(where.work / "bin"), _BIN, True
    yield str(REPOSITORY / "tensorpool"), f"{_LIB}/tensorpool", True


def _volumes(where: Node, pod: Resource, container: Resource) -> Iterator[tuple[str, str, bool]]:
    by_name = {volume["name"]: volume for volume in pod["volumes"]}
    for mount in container["volumeMounts"]:
        volume = by_name[mount["name"]]
        if "configMap" in volume:
            yield str(where.work / "config"), mount["mountPath"], True
        else:
            assert volume["hostPath"]["path"] == SHM
            yield str(where.shm), mount["mountPath"], mount.get("readOnly", False)
