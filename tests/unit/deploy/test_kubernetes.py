"""The manifests are valid, and hold what a node's driver and its clients rest on."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped]
import pytest
import tomli
import yaml
from kubernetes_validate.utils import all_versions  # type: ignore[import-untyped]

from tensorpool.launcher.memory import memory_need
from tensorpool.launcher.processes import roles
from tensorpool.metrics import METRICS
from tests.manifests import (
    BASE,
    DEPLOY,
    OVERLAYS,
    SHM,
    Resource,
    config_text,
    driver_pod,
    only,
    pod_of,
    quantity,
    render,
    settings_of,
    workloads,
)

EVERY = [BASE, *OVERLAYS]
RELEASES = sorted(
    {".".join(version.split(".")[:2]) for version in all_versions()},
    key=lambda release: [int(part) for part in release.split(".")],
)[-6:]
OF_OPERATOR = {"PodMonitor", "PrometheusRule"}
USER = 10001


def containers(pod: Resource) -> list[Resource]:
    return [*pod.get("initContainers", ()), *pod["containers"]]


def driver(name: str = BASE) -> Resource:
    (container,) = driver_pod(name)["containers"]
    return dict(container)


def mounts(container: Resource) -> dict[str, str]:
    return {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("name", EVERY)
def test_every_resource_fits_the_schemas_of_the_release(name: str, release: str) -> None:
    resources = [item for item in render(name) if item["kind"] not in OF_OPERATOR]
    assert resources
    for resource in resources:
        kubernetes_validate.validate(resource, release, strict=True)


def test_the_schemas_refuse_what_is_wrong() -> None:
    wrong = {**only(render(BASE), "DaemonSet"), "replicas": 2}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, RELEASES[-1], strict=True)


@pytest.mark.parametrize("name", EVERY)
def test_there_are_never_two_drivers_on_a_node(name: str) -> None:
    daemonset = only(render(name), "DaemonSet")
    assert daemonset["spec"]["updateStrategy"] == {
        "type": "RollingUpdate",
        "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1},
    }


@pytest.mark.parametrize("name", EVERY)
def test_pods_have_no_privileges(name: str) -> None:
    for workload in workloads(render(name)):
        pod = pod_of(workload)
        assert pod["automountServiceAccountToken"] is False
        assert not {"hostNetwork", "hostPID", "hostIPC", "shareProcessNamespace"} & pod.keys()
        assert pod["securityContext"] == {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        }
        for container in containers(pod):
            security = container["securityContext"]
            assert security["allowPrivilegeEscalation"] is False
            assert security["readOnlyRootFilesystem"] is True
            assert security["capabilities"]["drop"] == ["ALL"]
            assert "privileged" not in security
        for container in pod["containers"]:
            assert not {"runAsUser", "runAsNonRoot"} & container["securityContext"].keys()
            assert "add" not in container["securityContext"]["capabilities"]


@pytest.mark.parametrize("name", EVERY)
def test_only_the_directories_owner_is_set_by_root(name: str) -> None:
    (init,) = driver_pod(name)["initContainers"]
    assert init["securityContext"]["runAsUser"] == 0
    assert init["securityContext"]["capabilities"] == {"drop": ["ALL"], "add": ["CHOWN"]}
    assert init["image"] == driver(name)["image"]
    assert f"{USER}:{USER}" in init["command"][-1]


@pytest.mark.parametrize("name", EVERY)
def test_every_image_has_a_version(name: str) -> None:
    for workload in workloads(render(name)):
        for container in containers(pod_of(workload)):
            assert re.fullmatch(r"[\w./-]+:\d+\.\d+\.\d+", container["image"])


def test_probes_ask_the_launcher() -> None:
    container = driver()
    (port,) = [port for port in container["ports"] if port["name"] == "launcher"]
    config = tomli.loads(config_text())
    assert port["containerPort"] == config["metrics"]["ports"]["launcher"]
    for probe, path in (
        ("startupProbe", "/healthz"),
        ("livenessProbe", "/healthz"),
        ("readinessProbe", "/readyz"),
    ):
        assert container[probe]["httpGet"] == {"path": path, "port": "launcher"}
    # A loop that restarts its children is given longer than they are.
    liveness = container["livenessProbe"]
    assert liveness["periodSeconds"] * liveness["failureThreshold"] > 10


def test_every_process_has_a_port_that_is_reachable_in_the_pod() -> None:
    config = tomli.loads(config_text())
    assert config["metrics"]["enabled"] is True
    assert config["metrics"]["bind_address"] == "0.0.0.0"  # noqa: S104 - the pod's own network
    named = {port["name"].replace("-", "_"): port["containerPort"] for port in driver()["ports"]}
    assert named == config["metrics"]["ports"]


@pytest.mark.parametrize("name", EVERY)
def test_driver_and_clients_mount_the_directories_at_one_path(name: str, tmp_path: Path) -> None:
    settings = settings_of(name, tmp_path)
    shared = {
        volume["hostPath"]["path"]: volume["name"]
        for volume in driver_pod(name)["volumes"]
        if "hostPath" in volume
    }
    for directory in (settings.aeron_dir, settings.shm.base_dir):
        held = [path for path in shared if f"{directory}/".startswith(f"{path}/")]
        assert held, f"{directory} is in no volume"
        assert mounts(driver(name))[shared[held[0]]] == held[0]
    # The media driver replaces its directory, which a mount point would not allow.
    assert settings.aeron_dir not in shared
    for workload in workloads(render(name)):
        pod = pod_of(workload)
        volumes = {
            volume["name"]: volume["hostPath"]["path"]
            for volume in pod["volumes"]
            if "hostPath" in volume
        }
        for container in containers(pod):
            for volume, path in volumes.items():
                assert mounts(container)[volume] == path


@pytest.mark.parametrize("name", EVERY)
def test_clients_never_make_the_directory(name: str) -> None:
    for workload in workloads(render(name)):
        kinds = {v["hostPath"]["type"] for v in pod_of(workload)["volumes"] if "hostPath" in v}
        is_driver = workload["kind"] == "DaemonSet"
        assert kinds == {"DirectoryOrCreate" if is_driver else "Directory"}


@pytest.mark.parametrize("name", EVERY)
def test_everybody_reads_the_one_configuration(name: str) -> None:
    config = only(render(name), "ConfigMap")["metadata"]["name"]
    for workload in workloads(render(name)):
        pod = pod_of(workload)
        assert {"name": "config", "configMap": {"name": config}} in pod["volumes"]
        for container in pod["containers"]:
            path = mounts(container)["config"]
            environment = {item["name"]: item.get("value") for item in container["env"]}
            assert environment["TENSORPOOL_CONFIG"] == f"{path}/host.toml"


@pytest.mark.parametrize("name", EVERY)
def test_the_memory_limit_holds_all_that_the_driver_makes(name: str, tmp_path: Path) -> None:
    need = memory_need(settings_of(name, tmp_path))
    resources = driver(name)["resources"]
    assert quantity(resources["limits"]["memory"]) >= need.at_most
    assert resources["requests"]["memory"] == resources["limits"]["memory"]
    assert quantity(resources["limits"].get("hugepages-2Mi", "0Mi")) >= need.hugepages
    assert "cpu" not in resources["limits"]


def test_a_configuration_for_the_limit_charges_the_driver_alone(tmp_path: Path) -> None:
    settings = settings_of(BASE, tmp_path)
    assert not settings.media_driver.is_sparse
    assert settings.policies.prefault_shm
    assert settings.policies.epoch_gc_on_startup


@pytest.mark.parametrize("name", EVERY)
def test_the_drain_has_the_time_that_it_may_take(name: str, tmp_path: Path) -> None:
    settings = settings_of(name, tmp_path)
    longest_s = sum(role.stop_limit_ns for role in roles(settings)) / 1e9
    assert driver_pod(name)["terminationGracePeriodSeconds"] > longest_s
    assert "lifecycle" not in driver(name)


def test_huge_pages_are_all_that_the_overlay_changes(tmp_path: Path) -> None:
    def flat(name: str) -> dict[str, Any]:
        tables = tomli.loads(config_text(name))
        return {f"{t}.{key}": value for t, table in tables.items() for key, value in table.items()}

    (overlay,) = [name for name in OVERLAYS if "hugepages" in name]
    plain, huge = flat(BASE), flat(overlay)
    assert {key for key in huge if huge[key] != plain.get(key)} == {
        "shm.base_dir",
        "shm.require_hugepages",
        "shm.page_size_bytes",
    }
    assert settings_of(overlay, tmp_path).shm.page_size_bytes == 2 << 20


def test_the_example_apps_run_on_the_drivers_node() -> None:
    (overlay,) = [name for name in OVERLAYS if "example-apps" in name]
    apps = [item for item in workloads(render(overlay)) if item["kind"] == "Deployment"]
    assert len(apps) == 2
    labels = {
        item["metadata"]["name"]: item["spec"]["template"]["metadata"]["labels"]
        for item in workloads(render(overlay))
    }
    for app in apps:
        (term,) = pod_of(app)["affinity"]["podAffinity"][
            "requiredDuringSchedulingIgnoredDuringExecution"
        ]
        assert term["topologyKey"] == "kubernetes.io/hostname"
        wanted = term["labelSelector"]["matchLabels"]
        assert wanted in labels.values()
        assert wanted != labels[app["metadata"]["name"]]


# -- the Prometheus operator --------------------------------------------------------------


@cache
def operator_resources() -> tuple[Resource, ...]:
    (overlay,) = [name for name in OVERLAYS if "prometheus" in name]
    return render(overlay)


def test_every_port_of_the_pod_is_scraped() -> None:
    monitor = only(operator_resources(), "PodMonitor")["spec"]
    daemonset = only(operator_resources(), "DaemonSet")
    labels = daemonset["spec"]["template"]["metadata"]["labels"]
    assert monitor["selector"]["matchLabels"].items() <= labels.items()
    scraped = [endpoint["port"] for endpoint in monitor["podMetricsEndpoints"]]
    assert scraped == [port["name"] for port in driver()["ports"]]


def test_alerts_are_about_metrics_that_there_are() -> None:
    known = {metric.name for metric in METRICS} | {"up"}
    groups = only(operator_resources(), "PrometheusRule")["spec"]["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert rules
    for rule in rules:
        named = set(re.findall(r"\btensorpool_\w+\b", rule["expr"])) or {"up"}
        assert named <= known, rule["alert"]
        assert rule["annotations"].keys() == {"summary", "description"}
        assert rule["labels"]["severity"] in {"warning", "critical"}


def test_each_directory_is_a_kustomization() -> None:
    for name in EVERY:
        document = yaml.safe_load((DEPLOY / name / "kustomization.yaml").read_text())
        assert document["kind"] == "Kustomization"
    assert SHM in {v["hostPath"]["path"] for v in driver_pod()["volumes"] if "hostPath" in v}
