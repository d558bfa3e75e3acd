"""Buckets as Prometheus has them: cumulated, bounds inclusive, the last one without bound."""

from tensorpool.metrics import Histogram

MS = 1_000_000


def test_a_bound_belongs_to_its_bucket() -> None:
    histogram = Histogram((0.001, 0.01))
    for duration_ns in (0, 1 * MS, 1 * MS + 1, 10 * MS, 11 * MS):
        histogram.observe_ns(duration_ns)
    assert histogram.buckets() == [("0.001", 2.0), ("0.01", 4.0), ("+Inf", 5.0)]
    assert histogram.count == 5
    assert histogram.sum_ns == 23 * MS + 1


def test_a_new_one_has_every_bucket_at_0() -> None:
    assert Histogram((1.0,)).buckets() == [("1", 0.0), ("+Inf", 0.0)]
