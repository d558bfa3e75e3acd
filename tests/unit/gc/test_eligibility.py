import pytest
from hypothesis import given
from hypothesis import strategies as st

from tensorpool.gc.eligibility import (
    Found,
    Kind,
    Limits,
    RegistryView,
    Rule,
    Stamp,
    StreamEpochs,
    Unreadable,
    Verdict,
    judge,
)

STREAM = 7
NOW_NS = 1_000_000
DRIVER = (100, 5)
OLD = Stamp(DRIVER[0], activity_ns=0, is_alive=True)
LIMITS = Limits(enabled=True, keep=2, min_age_ns=1000)


def epoch(number: int, stamp: Stamp | None = OLD, **fields: object) -> Found:
    return Found(STREAM, str(number), Kind.EPOCH, number, stamp=stamp, **fields)  # type: ignore[arg-type]


def view(current: int = 50, last: int | None = None, **fields: object) -> RegistryView:
    values: dict[str, object] = {
        "writer": DRIVER,
        "is_writer_alive": True,
        "is_of_this_boot": True,
        "is_stopped": False,
        "streams": {STREAM: StreamEpochs(current, current if last is None else last)},
    }
    return RegistryView(**values | fields)  # type: ignore[arg-type]


def rules(
    found: list[Found], registry: RegistryView | Unreadable, limits: Limits = LIMITS
) -> list[Rule]:
    return [verdict.rule for verdict in judge(found, registry, limits, NOW_NS)]


def only(found: Found, registry: RegistryView | Unreadable) -> Verdict:
    """The verdict on an epoch that two newer ones keep from being among the newest."""
    return judge([found, epoch(49), epoch(50)], registry, LIMITS, NOW_NS)[0]


def test_current_newest_and_superseded() -> None:
    found = [epoch(n) for n in (10, 20, 30, 50)]
    assert rules(found, view()) == [Rule.SUPERSEDED, Rule.SUPERSEDED, Rule.NEWEST, Rule.CURRENT]


def test_the_newest_are_counted_by_sorting_not_by_arithmetic() -> None:
    found = [epoch(n) for n in (1_700_000_000_000_000_000, 3, 50)]
    assert rules(found, view(1_700_000_000_000_000_000)) == [
        Rule.CURRENT,
        Rule.SUPERSEDED,
        Rule.NEWEST,
    ]


@pytest.mark.parametrize("last", [60, 80])
def test_epochs_in_the_making_are_kept_beside_the_current_one(last: int) -> None:
    found = [epoch(n) for n in (10, 50, 60, 70)]
    limits = Limits(enabled=True, keep=1, min_age_ns=0)
    assert rules(found, view(50, last=last), limits) == [
        Rule.SUPERSEDED,
        Rule.CURRENT,
        Rule.IN_THE_MAKING,
        Rule.IN_THE_MAKING,
    ]


def test_without_an_epoch_in_service_only_the_last_begun_is_in_the_making() -> None:
    found = [epoch(n) for n in (50, 60, 70)]
    limits = Limits(enabled=True, keep=1, min_age_ns=0)
    assert rules(found, view(0, last=60), limits) == [
        Rule.SUPERSEDED,
        Rule.IN_THE_MAKING,
        Rule.IN_THE_MAKING,
    ]


def test_a_lease_keeps_its_epoch_and_says_which() -> None:
    verdict = only(epoch(10), view(leases={(STREAM, 10): [41, 42]}))
    assert verdict.rule is Rule.REFERENCED
    assert "41, 42" in verdict.sentence
    assert verdict.recheck_ns


def test_a_lease_on_another_stream_keeps_nothing_here() -> None:
    assert only(epoch(10), view(leases={(8, 10): [41]})).rule is Rule.SUPERSEDED


def test_age_is_told_by_the_superblock() -> None:
    young = only(epoch(10, Stamp(DRIVER[0], NOW_NS - 1000, is_alive=False)), view())
    assert young.rule is Rule.YOUNG
    assert young.recheck_ns == 1
    old = only(epoch(10, Stamp(DRIVER[0], NOW_NS - 1001, is_alive=False)), view())
    assert old.rule is Rule.SUPERSEDED


def test_a_time_in_the_future_is_no_time_of_this_boot() -> None:
    future = Stamp(DRIVER[0], NOW_NS + 1, is_alive=False)
    assert only(epoch(10, future, file_age_ns=1000), view()).rule is Rule.YOUNG
    assert only(epoch(10, future, file_age_ns=1001), view()).rule is Rule.SUPERSEDED


def test_without_a_superblock_the_file_tells_the_age() -> None:
    assert only(epoch(10, None, file_age_ns=1), view()).rule is Rule.YOUNG
    assert only(epoch(10, None, file_age_ns=1001), view()).rule is Rule.SUPERSEDED


def test_a_registry_of_an_earlier_boot_makes_everything_old() -> None:
    young = Stamp(DRIVER[0], NOW_NS, is_alive=False)
    assert only(epoch(10, young), view(is_of_this_boot=False)).rule is Rule.SUPERSEDED


def test_a_stamp_of_our_driver_keeps_nothing_one_of_another_live_process_does() -> None:
    assert only(epoch(10, Stamp(DRIVER[0], 0, is_alive=True)), view()).rule is Rule.SUPERSEDED
    assert only(epoch(10, Stamp(4242, 0, is_alive=False)), view()).rule is Rule.SUPERSEDED
    other = only(epoch(10, Stamp(4242, 0, is_alive=True)), view())
    assert other.rule is Rule.LIVE_STAMP
    assert "4242" in other.sentence


def test_streams_that_the_registry_does_not_know_keep_nothing_by_number() -> None:
    young = Stamp(DRIVER[0], NOW_NS, is_alive=False)
    found = [epoch(10), epoch(20), epoch(30, young)]
    assert rules(found, view(streams={})) == [
        Rule.UNKNOWN_STREAM,
        Rule.UNKNOWN_STREAM,
        Rule.YOUNG,
    ]


def test_a_clean_shutdown_frees_everything_but_what_others_stamped() -> None:
    young = Stamp(DRIVER[0], NOW_NS, is_alive=True)
    found = [epoch(49, young), epoch(50, young), epoch(48, Stamp(4242, 0, is_alive=True))]
    assert rules(found, view(is_stopped=True)) == [
        Rule.CLEAN_SHUTDOWN,
        Rule.CLEAN_SHUTDOWN,
        Rule.LIVE_STAMP,
    ]


def test_a_shutdown_that_left_a_lease_is_not_clean() -> None:
    registry = view(is_stopped=True, leases={(STREAM, 10): [1]})
    assert rules([epoch(10), epoch(50)], registry) == [Rule.REFERENCED, Rule.CURRENT]


def test_staging_is_kept_for_its_living_maker_alone() -> None:
    mine = Found(STREAM, ".staging-60-100-5", Kind.STAGING, 60, DRIVER)
    reused = Found(STREAM, ".staging-60-100-4", Kind.STAGING, 60, (DRIVER[0], 4))
    assert rules([mine, reused], view()) == [Rule.IN_THE_MAKING, Rule.HALF_MADE]
    assert rules([mine], view(is_writer_alive=False)) == [Rule.HALF_MADE]


def test_what_was_half_deleted_goes() -> None:
    doomed = Found(STREAM, ".doomed-50", Kind.DOOMED, 50)
    assert rules([doomed, epoch(50)], view()) == [Rule.HALF_DELETED, Rule.CURRENT]


# -- properties ---------------------------------------------------------------------------

numbers = st.integers(0, 12)
stamps = st.none() | st.builds(
    Stamp,
    st.sampled_from([DRIVER[0], 4242]),
    st.integers(NOW_NS - 2000, NOW_NS + 100),
    st.booleans(),
)


@st.composite
def directories(draw: st.DrawFn) -> list[Found]:
    found = [
        Found(
            STREAM,
            str(number),
            Kind.EPOCH,
            number,
            stamp=draw(stamps),
            file_age_ns=draw(st.integers(0, 2000)),
            foreign=draw(st.sampled_from(["", "", "", "foreign entry"])),
        )
        for number in draw(st.sets(numbers))
    ]
    for number in draw(st.sets(numbers, max_size=3)):
        maker = draw(st.sampled_from([DRIVER, (4242, 1)]))
        found.append(Found(STREAM, f".staging-{number}", Kind.STAGING, number, maker))
        found.append(Found(STREAM, f".doomed-{number}", Kind.DOOMED, number))
    return draw(st.permutations(found))


registries = st.builds(
    RegistryView,
    st.just(DRIVER),
    st.booleans(),
    st.booleans(),
    st.booleans(),
    st.just({}) | st.builds(lambda c, n: {STREAM: StreamEpochs(c, c + n)}, numbers, numbers),
    st.dictionaries(st.tuples(st.sampled_from([STREAM, 8]), numbers), st.just([1]), max_size=3),
)
policies = st.builds(Limits, st.booleans(), st.integers(1, 4), st.integers(0, 2000))


@given(directories(), registries, policies)
def test_nothing_that_may_be_needed_is_ever_deleted(
    found: list[Found], registry: RegistryView, limits: Limits
) -> None:
    verdicts = judge(found, registry, limits, NOW_NS)
    assert [verdict.found for verdict in verdicts] == found
    epochs = sorted(entry.epoch for entry in found if entry.kind is Kind.EPOCH)
    stream = registry.streams.get(STREAM)
    is_stopped_cleanly = registry.is_stopped and not registry.leases
    for verdict in (verdict for verdict in verdicts if verdict.deletes):
        entry = verdict.found
        assert limits.enabled
        assert not entry.foreign
        if entry.kind is Kind.STAGING:
            assert not (registry.is_writer_alive and entry.maker == DRIVER)
        if entry.kind is not Kind.EPOCH:
            continue
        if entry.stamp is not None:
            assert not entry.stamp.is_alive or entry.stamp.pid == DRIVER[0]
        assert (STREAM, entry.epoch) not in registry.leases
        if is_stopped_cleanly:
            continue
        if stream is not None:
            assert entry.epoch <= stream.current or stream.current == 0
            assert entry.epoch != stream.current
            assert entry.epoch < stream.last
            assert entry.epoch not in epochs[-limits.keep :]
        if registry.is_of_this_boot and entry.stamp and entry.stamp.activity_ns <= NOW_NS:
            assert NOW_NS - entry.stamp.activity_ns > limits.min_age_ns


@given(directories(), registries, st.integers(1, 4))
def test_nothing_is_kept_without_a_reason(
    found: list[Found], registry: RegistryView, keep: int
) -> None:
    """With the age past, no more remain than the policy's bound and what somebody uses."""
    limits = Limits(enabled=True, keep=keep, min_age_ns=0)
    kept = [v for v in judge(found, registry, limits, NOW_NS + 10_000) if not v.deletes]
    unused = [
        verdict
        for verdict in kept
        if verdict.rule not in {Rule.FOREIGN, Rule.REFERENCED, Rule.LIVE_STAMP, Rule.YOUNG}
        and verdict.found.kind is Kind.EPOCH
    ]
    stream = registry.streams.get(STREAM)
    ahead = [v for v in unused if v.rule is Rule.IN_THE_MAKING]
    assert len(unused) - len(ahead) <= keep + 1  # the current one may be older than the newest
    if stream is None:
        assert not unused
    for verdict in kept:
        if verdict.rule is Rule.YOUNG:
            assert verdict.found.file_age_ns == 0 or verdict.recheck_ns == 1


@given(directories(), policies)
def test_without_a_registry_nothing_is_deleted(found: list[Found], limits: Limits) -> None:
    verdicts = judge(found, Unreadable("no registry at X"), limits, NOW_NS)
    assert not any(verdict.deletes for verdict in verdicts)
    for verdict in verdicts:
        if verdict.rule is Rule.REGISTRY_UNREADABLE:
            assert "no registry at X" in verdict.sentence
