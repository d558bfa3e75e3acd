"""What a soak's client processes say of their memory: leaks show, what is cached does not."""

from bench.soak.in_use import InUse, collect_and_measure

COUNT = 10_000
SMALL_BYTES, LARGE_BYTES = 100, 2_000


def measured() -> InUse:
    found = collect_and_measure()
    assert found is not None
    return found


def test_small_objects_that_are_kept_are_blocks() -> None:
    before = measured()
    leak = [bytes(SMALL_BYTES) for _ in range(COUNT)]
    assert COUNT <= measured().blocks - before.blocks <= COUNT * 1.1
    del leak
    assert abs(measured().blocks - before.blocks) < COUNT / 10


def test_large_ones_are_of_malloc() -> None:
    before = measured()
    leak = [bytes(LARGE_BYTES) for _ in range(COUNT)]
    grown = measured().malloc_bytes - before.malloc_bytes
    assert COUNT * LARGE_BYTES <= grown <= COUNT * LARGE_BYTES * 1.2
    del leak
    assert abs(measured().malloc_bytes - before.malloc_bytes) < COUNT * LARGE_BYTES / 10


def test_garbage_and_free_lists_are_not_in_use() -> None:
    before = measured()
    for number in range(COUNT):
        cycle: list[object] = [(number, number + 1)]
        cycle.append(cycle)
    tuples = [tuple(range(number % 20)) for number in range(COUNT)]
    del cycle, tuples
    assert abs(measured().blocks - before.blocks) < COUNT / 10
