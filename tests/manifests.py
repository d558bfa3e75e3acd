"""The Kubernetes manifests as `kubectl` renders them."""

from __future__ import annotations

import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from tensorpool.config import to_settings
from tensorpool.config.load import load
from tensorpool.settings import HostSettings

REPOSITORY = Path(__file__).parents[1]
DEPLOY = REPOSITORY / "deploy" / "kubernetes"
BASE = "base"
OVERLAYS = sorted(f"overlays/{path.name}" for path in (DEPLOY / "overlays").iterdir())
SHM = "/dev/shm/tensorpool"

type Resource = dict[str, Any]

_UNITS = {"Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30}


@cache
def render(name: str) -> tuple[Resource, ...]:
    """The resources of `base` or `overlays/<name>`."""
    assert shutil.which("kubectl"), "these tests render by `kubectl kustomize`: install kubectl"
    done = subprocess.run(
        ["kubectl", "kustomize", DEPLOY / name], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return tuple(yaml.safe_load_all(done.stdout))


def only(resources: tuple[Resource, ...], kind: str) -> Resource:
    """The one resource of that kind."""
    (found,) = [resource for resource in resources if resource["kind"] == kind]
    return found


def workloads(resources: tuple[Resource, ...]) -> list[Resource]:
    """Everything that has pods."""
    return [resource for resource in resources if resource["kind"] in {"DaemonSet", "Deployment"}]


def pod_of(workload: Resource) -> Resource:
    """The specification of its pods."""
    pod: Resource = workload["spec"]["template"]["spec"]
    return pod


def driver_pod(name: str = BASE) -> Resource:
    """The driver's pod."""
    return pod_of(only(render(name), "DaemonSet"))


def config_text(name: str = BASE) -> str:
    """The host's configuration as the pods see it."""
    text: str = only(render(name), "ConfigMap")["data"]["host.toml"]
    return text


def settings_of(name: str, directory: Path) -> HostSettings:
    """The settings that the configuration makes."""
    path = directory / "host.toml"
    path.write_text(config_text(name), encoding="utf-8")
    return to_settings(load(str(path), {}).config)


def quantity(text: str) -> int:
    """Bytes of a quantity such as 768Mi."""
    return int(text[:-2]) * _UNITS[text[-2:]]
