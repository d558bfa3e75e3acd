"""What happens to a host in a round. Each fault returns when its cause is gone.

A fault does to the host and its users what it says, and leaves everything to recover by itself:
nothing here tidies up but what the fault itself has put there.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

import tensorpool
from tensorpool.aeron.client import MediaDriverLost
from tensorpool.fault_points import ONCE_VARIABLE, POINT_VARIABLE, FaultPoint
from tensorpool.wire.driver import Role
from tests.chaos.rounds.world import RATES_HZ, SECOND, SPARE, World
from tests.integration.host import DEADLINE_S, STREAM
from tests.wire_client import WireClient

type Fault = Callable[[World, random.Random], None]

CHILDREN = ("media_driver", "driver", "supervisor", "gc")
_FLOOD = 300
_HALF_OPEN = 50
_BLOCK = 1 << 16
_FIRST_FLOOD_CLIENT = 5_000_000


def kill_child(name: str) -> Fault:
    def fault(world: World, _: random.Random) -> None:
        former = world.host.pid_of(name)
        os.kill(former, signal.SIGKILL)
        world.host.wait_restarted(name, former)

    return fault


def stop_child(name: str) -> Fault:
    def fault(world: World, rng: random.Random) -> None:
        with stopped([psutil.Process(world.host.pid_of(name))]):
            time.sleep(rng.uniform(0.05, 2.0))

    return fault


def kill_every_child(world: World, rng: random.Random) -> None:
    former = {name: world.host.pid_of(name) for name in CHILDREN}
    for name in rng.sample(CHILDREN, len(CHILDREN)):
        os.kill(former[name], signal.SIGKILL)
        time.sleep(rng.uniform(0, 0.02))
    for name in CHILDREN:
        world.host.wait_restarted(name, former[name])


def hang_driver(world: World, _: random.Random) -> None:
    """Stopped for good: the launcher takes it for hung and replaces it."""
    former = world.host.pid_of("driver")
    os.kill(former, signal.SIGSTOP)
    world.host.wait_restarted("driver", former)


def kill_launcher(world: World, _rng: random.Random) -> None:
    """The whole tree ends with it; an init system starts it again over what it left."""
    tree = world.host.descendants()
    world.host.process.kill()
    world.host.process.wait()
    _, alive = psutil.wait_procs(tree, DEADLINE_S)
    assert not alive, f"children outlive their launcher: {alive}"
    world.host.start()
    world.host.wait_ready()


def restart_host(world: World, rng: random.Random) -> None:
    _restart(world, rng, None)


def kill_in_drain(world: World, rng: random.Random) -> None:
    """A child dies while the host drains."""
    _restart(world, rng, world.host.pid_of(rng.choice(CHILDREN)))


def _restart(world: World, rng: random.Random, victim: int | None) -> None:
    """Its exit status says how the drain went, which a busy machine may cut short."""
    tree = world.host.descendants()
    world.host.process.send_signal(signal.SIGTERM)
    if victim is not None:
        time.sleep(rng.uniform(0, 0.2))
        with suppress(ProcessLookupError):
            os.kill(victim, signal.SIGKILL)
    world.host.wait_ended()
    _, alive = psutil.wait_procs(tree, DEADLINE_S)
    assert not alive, f"children outlive their launcher: {alive}"
    world.host.start()
    world.host.wait_ready()


def second_host(world: World, _: random.Random) -> None:
    """Another `tensorpool up` on the same namespace."""
    done = world.host.command("up", str(world.host.config), config=False)
    assert done.status != 0, done
    assert "pid" in done.errors, done


def two_hosts_at_once(world: World, _: random.Random) -> None:
    """Started in the same moment: one of them serves, the other says why it does not."""
    world.host.process.kill()
    world.host.process.wait()
    world.host.start()
    first = world.host.process
    world.host.start()
    second = world.host.process
    deadline = time.monotonic() + DEADLINE_S
    while first.poll() is None and second.poll() is None:
        assert time.monotonic() < deadline, "two hosts serve one namespace"
        time.sleep(0.01)
    if first.poll() is None:
        world.host.adopt(first)
    world.host.wait_ready()


def restart_at_fault_point(world: World, rng: random.Random) -> None:
    """The new driver dies once, between two steps of an attach or an epoch bump."""
    world.once.unlink(missing_ok=True)
    point, passing = rng.choice(list(FaultPoint)), rng.randint(1, 6)
    armed = {POINT_VARIABLE: f"{point.name}:{passing}", ONCE_VARIABLE: str(world.once)}
    world.host.environment.update(armed)
    try:
        restart_host(world, rng)
        time.sleep(rng.uniform(0.3, 0.6))  # the users attach, and it dies on the way
    finally:
        for name in armed:
            del world.host.environment[name]


def lose_registry(world: World, rng: random.Random) -> None:
    """The registry is cut, scribbled over, or gone when a new host starts."""
    world.host.process.kill()
    world.host.process.wait()
    registry = Path(world.host.settings.shm.registry_path)
    world.observed(excuse=(0, 5.0))
    size = registry.stat().st_size
    match rng.randrange(4):
        case 0:
            os.truncate(registry, rng.randrange(size))
        case 1:
            registry.unlink()
        case 2:
            registry.write_bytes(rng.randbytes(size))
        case _:
            with registry.open("r+b") as file:
                file.seek(8)  # its layout's version
                file.write(rng.randrange(3, 100).to_bytes(4, "little"))
    world.host.start()
    world.host.wait_ready()


def replace_producer(world: World, rng: random.Random) -> None:
    world.replace_producer(rng.choice(list(RATES_HZ)))


def replace_consumer(world: World, rng: random.Random) -> None:
    world.replace_consumer(rng.choice([STREAM, SECOND]))


def stop_user(world: World, rng: random.Random) -> None:
    """A producer or consumer is stopped, at times beyond its lease."""
    with stopped([psutil.Process(rng.choice(world.all_users).pid)]):
        time.sleep(rng.uniform(0.1, 2.5))


def suspend(world: World, rng: random.Random) -> None:
    """Everything stops and goes on, as when the machine is suspended."""
    host = psutil.Process(world.host.process.pid)
    users = [psutil.Process(peer.pid) for peer in world.all_users]
    with stopped([host, *host.children(recursive=True), *users]):
        time.sleep(rng.uniform(0.5, 4.0))


def fill_file_system(world: World, rng: random.Random) -> None:
    """No space: a producer that comes finds none, and everybody else goes on."""
    filler = world.directory / "filler"
    try:
        with filler.open("wb", buffering=0) as file, suppress(OSError):
            while True:
                file.write(bytes(_BLOCK))
        _try_new_stream(world)
        time.sleep(rng.uniform(0.1, 1.0))
        if rng.random() < 0.3:
            os.kill(world.host.pid_of("driver"), signal.SIGKILL)
            time.sleep(0.5)
    finally:
        filler.unlink()


def take_inodes(world: World, rng: random.Random) -> None:
    """No file can be made."""
    empty = world.directory / "empty"
    empty.mkdir()
    try:
        with suppress(OSError):
            for number in range(1 << 20):
                (empty / str(number)).touch()
        _try_new_stream(world)
        time.sleep(rng.uniform(0.1, 1.0))
    finally:
        shutil.rmtree(empty)


def remove_stream(world: World, rng: random.Random) -> None:
    """`rm -rf` of a stream's directory, as RemoveIPC and careless people do."""
    stream_id = rng.choice(list(RATES_HZ))
    before = world.observed(excuse=(stream_id, 10.0)).epochs.get(stream_id, 0)
    shutil.rmtree(world.host.namespace_dir / str(stream_id), ignore_errors=True)
    _wait_epoch_above(world, stream_id, before)


def few_descriptors(world: World, rng: random.Random) -> None:
    """The driver cannot open one file more."""
    _limit_driver(world, rng, psutil.RLIMIT_NOFILE, lambda driver: driver.num_fds() + 1)


def no_address_space(world: World, rng: random.Random) -> None:
    """The driver can map nothing more."""
    _limit_driver(world, rng, psutil.RLIMIT_AS, lambda driver: driver.memory_info().vms + _BLOCK)


def _limit_driver(
    world: World, rng: random.Random, limit: int, to: Callable[[psutil.Process], int]
) -> None:
    with suppress(psutil.NoSuchProcess):
        driver = psutil.Process(world.host.pid_of("driver"))
        former = driver.rlimit(limit)
        driver.rlimit(limit, (to(driver), former[1]))
        try:
            _try_new_stream(world)
            time.sleep(rng.uniform(0.1, 1.0))
        finally:
            driver.rlimit(limit, former)


def read_only_directory(world: World, rng: random.Random) -> None:
    """Nothing can be made or removed where the streams are."""
    base, aside = world.host.settings.shm.base_dir, str(world.directory / "aside")
    # Made read-only where nobody opens anything: where files are open for writing, it is refused.
    _mount("--bind", base, aside)
    try:
        _mount("-o", "remount,bind,ro", aside)
        _mount("--bind", aside, base)
        try:
            _try_new_stream(world)
            time.sleep(rng.uniform(0.1, 1.0))
        finally:
            subprocess.run(["umount", "--lazy", base], check=True)
    finally:
        subprocess.run(["umount", "--lazy", aside], check=True)
        os.rmdir(aside)


def flood(world: World, _: random.Random) -> None:
    """One client sends attach requests as fast as it can, and hears no answer."""
    with suppress(MediaDriverLost), WireClient(world.host.settings) as wire:
        for number in range(_FLOOD):
            wire.request_attach(STREAM, Role.CONSUMER, _FIRST_FLOOD_CLIENT + number % 10)


def half_open_scrapes(world: World, rng: random.Random) -> None:
    """Connections to every metrics port that never say anything."""
    report = world.host.report()
    assert report is not None
    urls = [report["metrics"], *(process["metrics"] for process in report["processes"])]
    sockets: list[socket.socket] = []
    try:
        for url in filter(None, urls):
            host, port = url.split("/")[2].rsplit(":", 1)
            address = host, int(port)
            sockets += [socket.create_connection(address, timeout=5) for _ in range(_HALF_OPEN)]
        time.sleep(rng.uniform(0.1, 0.5))
    finally:
        for one in sockets:
            one.close()


FAULTS: dict[str, Fault] = {
    **{f"kill {name}": kill_child(name) for name in CHILDREN},
    **{f"stop {name}": stop_child(name) for name in CHILDREN},
    "kill every child": kill_every_child,
    "hang the driver": hang_driver,
    "kill the launcher": kill_launcher,
    "restart the host": restart_host,
    "kill in a drain": kill_in_drain,
    "a second host": second_host,
    "two hosts at once": two_hosts_at_once,
    "kill at a fault point": restart_at_fault_point,
    "damage the registry": lose_registry,
    "kill a producer": replace_producer,
    "kill a consumer": replace_consumer,
    "stop a user": stop_user,
    "suspend everything": suspend,
    "file system full": fill_file_system,
    "no inodes": take_inodes,
    "remove a stream": remove_stream,
    "read-only directory": read_only_directory,
    "no descriptors": few_descriptors,
    "no address space": no_address_space,
    "flood of attaches": flood,
    "half-open scrapes": half_open_scrapes,
}


@contextmanager
def stopped(processes: Iterable[psutil.Process]) -> Iterator[None]:
    """SIGSTOP for the block; those that the launcher replaces meanwhile are no loss."""
    halted = []
    try:
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.suspend()
                halted.append(process)
        yield
    finally:
        for process in halted:
            with suppress(psutil.NoSuchProcess):
                process.resume()


def _mount(*arguments: str) -> None:
    if arguments[0] == "--bind":
        os.makedirs(arguments[-1], exist_ok=True)
    subprocess.run(["mount", *arguments], check=True)


def _try_new_stream(world: World) -> None:
    """Attach a producer where there is no stream yet; refused or not, nobody else notices."""
    with suppress(tensorpool.TensorPoolError), tensorpool.connect(world.host.config) as pool:
        pool.producer(SPARE, timeout_s=1.0).close(linger_s=0)


def _wait_epoch_above(world: World, stream_id: int, epoch: int) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while world.observed().epochs.get(stream_id, 0) <= epoch:
        assert time.monotonic() < deadline, f"stream {stream_id} keeps epoch {epoch}"
        time.sleep(0.01)
