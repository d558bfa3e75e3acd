"""The manifests' own commands under a container's conditions, side by side on one node."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from dockerfile_parse import DockerfileParser

from tensorpool.config import to_settings
from tensorpool.config.load import load
from tensorpool.launcher.memory import memory_need
from tensorpool.registry import RegistryReader
from tests.cgroups import MemoryCgroup, memory_cgroup
from tests.integration.deploy.pod import DEADLINE_S, Container, Node, node
from tests.manifests import (
    OVERLAYS,
    REPOSITORY,
    Resource,
    config_text,
    driver_pod,
    pod_of,
    quantity,
    render,
    workloads,
)
from tests.support import wait_until

# Each starts ten to twenty interpreters from nothing, one after another, on whatever is free.
pytestmark = pytest.mark.timeout(400)

type Run = Callable[..., Container]


@pytest.fixture
def here() -> Iterator[Node]:
    """A node with just the shared memory that the driver can ever take."""
    # Everything but private memory, which no file system holds.
    with node(config_text(), quantity(limit()) * 7 // 10) as made:
        yield made


@pytest.fixture
def run(here: Node) -> Iterator[Run]:
    """Starts containers on the node; those that still run are ended."""
    with ExitStack() as stack:

        def start(pod: Resource, container: Resource, **options: Any) -> Container:
            started = Container(here, pod, container, **options)
            stack.callback(started.close)
            return started

        yield start


@pytest.fixture
def group() -> Iterator[MemoryCgroup]:
    """The memory limit of the manifest."""
    with memory_cgroup(quantity(limit())) as made:
        yield made


def limit() -> str:
    text: str = driver_pod()["containers"][0]["resources"]["limits"]["memory"]
    return text


def example(name: str) -> Resource:
    """The pod of the example application `name`."""
    (overlay,) = [overlay for overlay in OVERLAYS if "example-apps" in overlay]
    (pod,) = [
        pod_of(workload)
        for workload in workloads(render(overlay))
        if workload["metadata"]["name"].endswith(name)
    ]
    return pod


def health_check(tmp_path: Path) -> list[str]:
    copy = tmp_path / "Dockerfile"
    copy.write_bytes((REPOSITORY / "deploy" / "container" / "Dockerfile").read_bytes())
    structure = DockerfileParser(str(copy)).structure
    (value,) = [item["value"] for item in structure if item["instruction"] == "HEALTHCHECK"]
    command: list[str] = json.loads(value.partition("CMD ")[2])
    return command


def own_directory(run: Run) -> None:
    pod = driver_pod()
    (init,) = pod["initContainers"]
    done = run(pod, init)
    assert done.wait() == 0, done.logged()


def start_driver(run: Run, tmp_path: Path, group: MemoryCgroup | None = None) -> Container:
    """Init container, driver, and its health check until it says yes."""
    own_directory(run)
    pod = driver_pod()
    driver = run(pod, pod["containers"][0], cgroup=group)
    wait_healthy(driver, health_check(tmp_path))
    return driver


def wait_healthy(driver: Container, check: Sequence[str]) -> None:
    wait_until(
        lambda: driver.execute(*check).returncode == 0 or driver.process.poll() is not None,
        DEADLINE_S,
        lambda: f"the health check\n{driver.logged()}",
    )
    assert driver.process.poll() is None, driver.logged()


def consume(run: Run, *, own_pids: bool, count: int = 16) -> Container:
    """The example consumer, which ends after `count` frames and checks every byte of them."""
    pod = example("consumer")
    command = ["tensorpool", "consume", "10000", "--count", str(count), "--timeout", "0"]
    return run(pod, pod["containers"][0], command=command, own_pids=own_pids)


def files_below(path: Path) -> list[str]:
    return sorted(str(found.relative_to(path)) for found in path.rglob("*") if found.is_file())


def last_epoch(here: Node) -> int:
    (registry,) = here.shm.glob("pools/*/default/registry")
    with RegistryReader(str(registry)) as reader:
        return max(record.last_epoch for record in reader.streams())


def test_the_init_container_gives_the_directory_to_the_driver(here: Node, run: Run) -> None:
    own_directory(run)
    info = here.shm.stat()
    assert (info.st_uid, info.st_gid, info.st_mode & 0o7777) == (10001, 10001, 0o750)
    own_directory(run)


def test_a_driver_needs_the_init_container(here: Node, run: Run) -> None:
    pod = driver_pod()
    driver = run(pod, pod["containers"][0])
    assert driver.wait() == 1
    assert "cannot be made: Permission denied" in driver.logged()


def test_frames_between_pods_and_an_orderly_end(
    here: Node, run: Run, group: MemoryCgroup, tmp_path: Path
) -> None:
    driver = start_driver(run, tmp_path, group)
    first = driver.first_process
    # The conditions are what they claim to be.
    status = dict(
        line.split(":\t", 1) for line in Path(f"/proc/{first.pid}/status").read_text().splitlines()
    )
    assert status["NSpid"].split()[-1] == "1"
    assert set(status["Uid"].split()) == {"10001"}
    assert {int(status[f"Cap{kind}"], 16) for kind in ("Inh", "Prm", "Eff", "Bnd", "Amb")} == {0}
    assert status["NoNewPrivs"] == "1"
    assert "Read-only file system" in driver.execute("/bin/sh", "-c", ">/file").stderr

    producer_pod = example("producer")
    producer = run(producer_pod, producer_pod["containers"][0])
    for own_pids in (True, False):
        consumer = consume(run, own_pids=own_pids)
        assert consumer.wait() == 0, consumer.logged()
        assert (
            len(re.findall(r"^seq=\d+ 480x640 uint16 ok$", consumer.logged(), re.MULTILINE)) == 16
        )

    # A client's container sees the host as it is, and no process of its own in its place.
    seen = json.loads(producer.execute("tensorpool", "status", "--json").stdout)
    assert seen["health"] == "healthy", seen["problems"]
    assert {process["memory_bytes"] for process in seen["processes"]} == {None}
    own = json.loads(driver.execute("tensorpool", "status", "--json").stdout)
    assert all(process["memory_bytes"] for process in own["processes"])
    judged = json.loads(producer.execute("tensorpool", "gc", "--dry-run", "--json").stdout)
    assert "half-made" not in json.dumps(judged)

    producer.signal(signal.SIGTERM)
    producer.wait()
    assert "Traceback" not in producer.logged()
    wait_until(
        lambda: json.loads(driver.execute("tensorpool", "status", "--json").stdout)["leases"] == [],
        DEADLINE_S,
        "the producer to have detached",
    )
    driver.signal(signal.SIGTERM)
    assert driver.wait() == 0, driver.logged()
    (registry,) = here.shm.glob("pools/*/default/registry")
    assert files_below(here.shm) == [str(registry.relative_to(here.shm))]
    assert group.kills == 0
    assert group.peak_bytes < quantity(limit())


def test_a_killed_container_is_followed_by_another(here: Node, run: Run, tmp_path: Path) -> None:
    former = start_driver(run, tmp_path)
    pod = example("producer")
    producers = [run(pod, pod["containers"][0])]
    consumer = consume(run, own_pids=True, count=100)
    wait_until(lambda: "ok" in consumer.logged(), DEADLINE_S, "a first frame")
    before = last_epoch(here)
    former.signal(signal.SIGKILL)
    former.wait()
    driver = start_driver(run, tmp_path)
    wait_until(lambda: last_epoch(here) > before, DEADLINE_S, "a later epoch")

    def is_consumed() -> bool:
        # A producer gives up after some seconds without a driver; the kubelet starts it again.
        if producers[-1].process.poll() is not None:
            producers.append(run(pod, pod["containers"][0]))
        return consumer.process.poll() is not None

    def told() -> str:
        return "\n--\n".join(each.logged()[-4000:] for each in (consumer, *producers, driver))

    wait_until(is_consumed, DEADLINE_S, told)
    assert consumer.wait() == 0, told()
    producers[-1].signal(signal.SIGTERM)
    producers[-1].wait()
    driver.signal(signal.SIGTERM)
    assert driver.wait() == 0, driver.logged()


def test_a_second_driver_on_the_node_is_refused(run: Run, tmp_path: Path) -> None:
    start_driver(run, tmp_path)
    pod = driver_pod()
    second = run(pod, pod["containers"][0])
    assert second.wait() == 1
    assert "in use by a `tensorpool up` of another container" in second.logged()
    assert "Traceback" not in second.logged()


def test_a_limit_that_holds_no_epoch_is_refused_with_figures(here: Node, run: Run) -> None:
    own_directory(run)
    pod = driver_pod()
    with memory_cgroup(128 << 20) as small:
        driver = run(pod, pod["containers"][0], cgroup=small)
        assert driver.wait() == 2
        assert small.kills == 0
    settings = to_settings(load(str(here.work / "config" / "host.toml"), {}).config)
    wanted = memory_need(settings).to_start / (1 << 20)
    assert "the memory limit is 128.0 MiB (/sys/fs/cgroup/" in driver.logged()
    assert f"cannot start with less than {wanted:.1f} MiB" in driver.logged()
    assert "resources.limits.memory" in driver.logged()


def test_probes_answer_as_the_manifest_asks(here: Node, run: Run, tmp_path: Path) -> None:
    driver = start_driver(run, tmp_path)
    container = driver_pod()["containers"][0]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}

    def answer(probe: str) -> int:
        asked = container[probe]["httpGet"]
        return driver.get(asked["path"], ports[asked["port"]])

    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        wait_until(lambda probe=probe: answer(probe) == 200, DEADLINE_S, probe)  # type: ignore[misc]
    for port in ports.values():
        assert driver.get("/metrics", port) == 200
    # Without its driver the host is not ready, and yet alive: a restart is the launcher's to do.
    (stopped,) = [child for child in driver.first_process.children() if child.name() == "tp-driver"]
    stopped.suspend()
    wait_until(lambda: answer("readinessProbe") == 503, DEADLINE_S, "not ready")
    assert answer("livenessProbe") == 200
