"""Hosts broken on purpose, and what `tensorpool doctor` says of them.

Mounts, capabilities and limits are broken for the examined process alone, in namespaces of
its own. That needs root: the tests say so instead of being skipped.
"""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.integration.host import DEADLINE_S, Completed, RunningHost

SMALL = {
    "profiles": {
        "default": {
            "header_nslots": 8,
            "payload_pools": [{"pool_id": 1, "stride_bytes": 4096}],
        }
    }
}
"""A profile that fits everywhere: nothing but the fault of the test is found."""

STRANGER = 4242
"""A uid that no file of the test belongs to."""


def examined(directory: Path, tables: Any = None) -> RunningHost:
    """A host that is not started, to be examined."""
    assert os.geteuid() == 0, "these tests break mounts, owners and capabilities: run them as root"
    return RunningHost(directory, {**SMALL, **(tables or {})})


def command(host: RunningHost, *arguments: str) -> list[str]:
    """`tensorpool ARGUMENTS` for this host."""
    return [sys.executable, "-m", "tensorpool", *arguments, "--config", str(host.config)]


def doctor(host: RunningHost, *prefix: str, path: Path | None = None) -> Completed:
    """`tensorpool doctor --json`, run by `prefix`, with `path` ahead in the module path."""
    environment = dict(host.environment)
    if path is not None:
        former = environment.get("PYTHONPATH", "")
        environment["PYTHONPATH"] = f"{path}{os.pathsep}{former}"
    done = subprocess.run(
        [*prefix, *command(host, "doctor", "--json")],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env=environment,
        timeout=DEADLINE_S,
        check=False,
    )
    return Completed(done.returncode, done.stdout, done.stderr)


def mounted(*mounts: str, then: str = "") -> tuple[str, ...]:
    """A prefix that runs its command in a mount namespace where `mounts` were run."""
    script = "set -e; " + "; ".join(mounts) + f'; exec {then} "$@"'
    return ("unshare", "--mount", "sh", "-c", script, "sh")


def tmpfs(path: Path, options: str) -> str:
    """The command that mounts a tmpfs."""
    return f"mount -t tmpfs -o {options} none {shlex.quote(str(path))}"


def without(*capabilities: str) -> tuple[str, ...]:
    """A prefix that runs its command without some capabilities."""
    dropped = ",".join(f"-{name}" for name in capabilities)
    return ("setpriv", "--bounding-set", dropped, "--inh-caps", dropped)


def assert_found(done: Completed, expected: str) -> dict[str, str]:
    """Exactly this finding, a remedy, and the exit status of its severity."""
    assert done.output, done
    report = json.loads(done.output)
    assert [finding["id"] for finding in report["findings"]] == [expected], done
    [finding] = report["findings"]
    assert all(finding[key] for key in ("seen", "rule", "remedy"))
    status = {"note": 0, "warning": 1, "error": 2}[finding["severity"]]
    assert done.status == status, done
    assert report["health"] == ("healthy", "warnings", "errors")[status]
    result: dict[str, str] = finding
    return result
