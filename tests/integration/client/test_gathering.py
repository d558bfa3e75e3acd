"""One loop over many consumers: the same frames, the same counts, one subscription."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import numpy as np
import pytest

import tensorpool
from tests.integration.host import STREAM, RunningHost
from tests.support import wait_until

NSLOTS = 8
STREAMS = 5


@contextmanager
def streams(pool: tensorpool.Pool, count: int) -> Iterator[list[tensorpool.Producer]]:
    """Producers of that many dynamic streams."""
    with ExitStack() as ends:
        yield [ends.enter_context(pool.producer(0)) for _ in range(count)]


def consumers_of(
    pool: tensorpool.Pool, ends: ExitStack, producers: list[tensorpool.Producer]
) -> list[tensorpool.Consumer]:
    return [ends.enter_context(pool.consumer(producer.stream_id)) for producer in producers]


def test_each_frame_once_and_in_order(pool: tensorpool.Pool) -> None:
    with streams(pool, STREAMS) as producers, ExitStack() as ends:
        views = consumers_of(pool, ends, [*producers, producers[0]])
        gathering = ends.enter_context(pool.gather(views))
        assert gathering.consumers == tuple(views)
        seen: dict[int, list[tuple[int, int]]] = defaultdict(list)
        for number in range(20):
            for producer in producers:
                producer.publish([producer.stream_id, number])
            while (taken := gathering.next(1)) is not None:
                consumer, frame = taken
                assert frame.array[0] == consumer.stream_id
                seen[id(consumer)].append((frame.seq, int(frame.array[1])))
                if sum(map(len, seen.values())) == (number + 1) * len(views):
                    break
        assert list(seen.values()) == [[(n, n) for n in range(20)]] * len(views)
        assert [view.received for view in views] == [20] * len(views)
        assert gathering.next(0) is None


def test_frames_come_in_the_order_in_which_they_were_told(pool: tensorpool.Pool) -> None:
    with streams(pool, 3) as producers, ExitStack() as ends:
        views = consumers_of(pool, ends, producers)
        gathering = ends.enter_context(pool.gather(views))
        for producer in producers:
            producer.publish([0])
        for _ in producers:
            assert gathering.next(5) is not None
        turns = [0, 2, 1, 1, 0, 2]
        # Each stream has a log of its own, so that only what was heard before has an order.
        for turn in turns:
            producers[turn].publish([1])
            taken = gathering.next(5)
            assert taken is not None
            assert taken[0] is views[turn]


def test_what_the_ring_overtook_is_counted_as_ever(pool: tensorpool.Pool) -> None:
    with streams(pool, 2) as producers, ExitStack() as ends:
        views = consumers_of(pool, ends, producers)
        gathering = ends.enter_context(pool.gather(views))
        for _ in range(3 * NSLOTS):
            producers[0].publish([7])
        handed: list[tensorpool.Consumer] = []

        def is_counted() -> bool:
            gathering.poll(lambda consumer, _: handed.append(consumer), 3)
            return views[0].received + views[0].drops_late == 3 * NSLOTS

        wait_until(is_counted, 10, "every frame counted")
        assert set(handed) == {views[0]}
        assert len(handed) == views[0].received
        assert (views[0].drops_gap, views[1].received, views[1].drops_late) == (0, 0, 0)


def test_a_gap_that_is_too_large_is_given_up(pool: tensorpool.Pool) -> None:
    with pool.producer(0) as producer, ExitStack() as ends:
        view = ends.enter_context(pool.consumer(producer.stream_id, max_outstanding_seq_gap=2))
        gathering = ends.enter_context(pool.gather([view]))
        producer.publish([0])
        assert gathering.next(5) is not None
        for number in range(1, NSLOTS - 1):
            producer.publish([number])
        taken = gathering.next(5)
        assert taken is not None
        assert taken[1].seq == NSLOTS - 2
        assert (view.resyncs, view.drops_gap) == (1, NSLOTS - 3)


def test_leaving_misses_nothing(pool: tensorpool.Pool) -> None:
    with pool.producer(0) as producer, pool.consumer(producer.stream_id) as view:
        heard = []
        number = 0
        for _ in range(4):
            with pool.gather([view]) as gathering:
                gathered = view.is_gathered
                for _ in range(3):
                    producer.publish([number])
                    number += 1
                taken = gathering.next(5)
                assert taken is not None
                heard.append(taken[1].seq)
                producer.publish([number])
                number += 1
            assert (gathered, view.is_gathered) == (True, False)
            producer.publish([number])
            number += 1
            for _ in range(4):
                frame = view.next(5)
                assert frame is not None
                heard.append(frame.seq)
        assert heard == list(range(number))
        assert (view.drops_gap, view.drops_late) == (0, 0)


def test_consumers_with_streams_of_their_own(pool: tensorpool.Pool) -> None:
    with pool.producer(0) as producer, pool.producer(0) as other, ExitStack() as ends:
        apart = ends.enter_context(pool.consumer(producer.stream_id, own_stream=True))
        view = ends.enter_context(pool.consumer(other.stream_id))
        gathering = ends.enter_context(pool.gather([apart, view]))
        seen: dict[int, list[int]] = defaultdict(list)

        def is_moved() -> bool:
            producer.publish([1])
            other.publish([2])
            gathering.poll(lambda c, f: seen[c.stream_id].append(f.seq))
            return apart.has_own_stream

        wait_until(is_moved, 20, "a stream of its own")
        for _ in range(5):
            is_moved()
        wait_until(
            lambda: (
                gathering.poll(lambda c, f: seen[c.stream_id].append(f.seq)) == 0
                and len(seen[producer.stream_id]) == producer.next_seq
                and len(seen[other.stream_id]) == other.next_seq
            ),
            10,
            lambda: f"{[len(s) for s in seen.values()]} {producer.next_seq} {other.next_seq}",
        )
        assert all(seqs == sorted(set(seqs)) for seqs in seen.values())


@pytest.mark.parametrize("victim", ["driver", "media_driver"])
def test_kill(host: RunningHost, victim: str) -> None:
    stop = threading.Event()

    def publish(producer: tensorpool.Producer) -> None:
        while not stop.wait(0.005):
            try:
                producer.publish(np.full(8, 3, np.uint8))
            except tensorpool.TensorPoolError:
                continue

    with (
        tensorpool.connect(host.config) as theirs,
        tensorpool.connect(host.config) as pool,
        ExitStack() as ends,
    ):
        producers = [
            ends.enter_context(theirs.producer(stream_id, timeout_s=30))
            for stream_id in (STREAM, 20000, 20001)
        ]
        threads = [threading.Thread(target=publish, args=(one,)) for one in producers]
        views = consumers_of(pool, ends, producers)
        gathering = ends.enter_context(pool.gather(views))
        for thread in threads:
            thread.start()
        try:
            for _ in range(2):
                former = host.pid_of(victim)
                os.kill(former, signal.SIGKILL)
                host.wait_restarted(victim, former)
                before = [view.received for view in views]
                wait_until(
                    lambda before=before: (  # type: ignore[misc]
                        gathering.next(1) is not None
                        and all(v.received > b + 20 for v, b in zip(views, before, strict=True))
                    ),
                    30,
                    lambda: f"frames of each: {[v.received for v in views]}",
                )
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        assert [view.drops_invalid for view in views] == [0, 0, 0]


def test_it_ends_when_every_consumer_is_closed(pool: tensorpool.Pool) -> None:
    with streams(pool, 2) as producers, ExitStack() as ends:
        views = consumers_of(pool, ends, producers)
        gathering = ends.enter_context(pool.gather(views))
        producers[1].publish([1])
        views[0].close()
        taken = gathering.next(5)
        assert taken is not None
        assert taken[0] is views[1]
        assert gathering.consumers == (views[1],)
        views[1].close()
        assert list(gathering) == []
        with pytest.raises(tensorpool.PoolClosed):
            gathering.next(0)


def test_a_gathered_consumer_is_read_by_the_gathering_alone(pool: tensorpool.Pool) -> None:
    with pool.producer(0) as producer, pool.consumer(producer.stream_id) as view:
        with pool.gather([view]) as gathering:
            for use in (view.next, view.latest, lambda: view.poll(print)):
                with pytest.raises(tensorpool.ConcurrentUse, match="in a gathering"):
                    use()
            producer.publish([1])

            def use_again(*_: object) -> None:
                with pytest.raises(tensorpool.ConcurrentUse):
                    gathering.next(0)

            wait_until(lambda: gathering.poll(use_again) == 1, 10, "the frame")
        producer.publish([2])
        assert view.next(10) is not None


@pytest.mark.parametrize("what", ["gathering", "consumer"])
def test_a_close_by_another_thread_ends_the_loop(pool: tensorpool.Pool, what: str) -> None:
    with pool.producer(0) as producer, pool.consumer(producer.stream_id) as view:
        gathering, is_read = pool.gather([view]), threading.Event()
        seen: list[int] = []

        def read() -> None:
            for _, frame in gathering:
                seen.append(frame.seq)
                is_read.set()

        thread = threading.Thread(target=read)
        thread.start()
        producer.publish([1])
        assert is_read.wait(10)
        (gathering if what == "gathering" else view).close()
        thread.join(10)
        assert not thread.is_alive()
        assert seen == [0]
        gathering.close()


def test_a_gathering_that_fails_leaves_everybody_as_they_were(pool: tensorpool.Pool) -> None:
    with pool.producer(0) as producer, ExitStack() as ends:
        views = consumers_of(pool, ends, [producer, producer])
        inside, may_leave = threading.Event(), threading.Event()

        def hold() -> None:
            def keep(_: tensorpool.Frame) -> None:
                inside.set()
                may_leave.wait(60)

            wait_until(lambda: views[1].poll(keep) == 1, 60, "a frame")

        thread = threading.Thread(target=hold)
        thread.start()
        producer.publish([1])
        assert inside.wait(60)
        with pytest.raises(tensorpool.ConcurrentUse):
            pool.gather(views)
        may_leave.set()
        thread.join()
        assert not views[0].is_gathered
        assert views[0].next(10) is not None


def test_async_for(pool: tensorpool.Pool) -> None:
    async def first_frames(gathering: tensorpool.Gathering) -> list[int]:
        seen = []
        async for consumer, _ in gathering:
            seen.append(consumer.stream_id)
            if len(seen) == 2:
                break
        return seen

    with streams(pool, 2) as producers, ExitStack() as ends:
        gathering = ends.enter_context(pool.gather(consumers_of(pool, ends, producers)))
        for producer in producers:
            producer.publish([1])
        seen = asyncio.run(asyncio.wait_for(first_frames(gathering), 20))
        assert sorted(seen) == sorted(producer.stream_id for producer in producers)


def test_what_cannot_be_gathered(pool: tensorpool.Pool, calm_host: RunningHost) -> None:
    with pool.producer(0) as producer, ExitStack() as ends:
        view = ends.enter_context(pool.consumer(producer.stream_id))
        stranger = ends.enter_context(
            ends.enter_context(tensorpool.connect(calm_host.config)).consumer(producer.stream_id)
        )
        with pytest.raises(ValueError, match="another pool"):
            pool.gather([view, stranger])
        with pytest.raises(ValueError, match="named twice"):
            pool.gather([view, view])
        with pool.gather([view]), pytest.raises(ValueError, match="gathered already"):
            pool.gather([view])
        view.close()
        with pytest.raises(tensorpool.PoolClosed):
            pool.gather([view])


def test_a_forked_child_is_refused(pool: tensorpool.Pool) -> None:
    with pool.producer(0) as producer, pool.consumer(producer.stream_id) as view:
        gathering = pool.gather([view])
        child = os.fork()
        if child == 0:
            try:
                for _ in range(2):
                    gathering.next(0.1)
            except tensorpool.ForkedProcess:
                os._exit(7)
            os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        producer.publish([1])
        assert gathering.next(5) is not None
        gathering.close()
