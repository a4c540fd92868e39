"""The simulation of intervals: most hold the true value, and they narrow with more images and by pairing."""

import pytest

import intervals


def test_intervals_hold_the_true_value_about_as_often_as_they_claim() -> None:
    pool = intervals.simulated(4000)
    rows = intervals.coverage(60, 60, 200, pool)
    for row in rows:
        assert 0.25 < row["AP"] < 0.4
        assert row["share"] >= 0.85  # 95 % are meant; of 60 data sets, fewer than 51 would be chance once in a thousand
        assert row["share"] + row["below"] + row["above"] == pytest.approx(1)
    narrow = intervals.coverage(240, 8, 200, pool)
    for few, many in zip(rows, narrow, strict=True):
        assert many["width"] == pytest.approx(few["width"] / 2, rel=0.25)  # by the root of the number of images


def test_paired_intervals_show_real_differences_and_are_narrower() -> None:
    equal = intervals.differences(60, 40, 200, intervals.simulated(3000))
    better = intervals.differences(60, 40, 200, intervals.simulated(3000, gain=0.3))
    assert abs(equal["difference"]) < 0.01 < better["difference"]
    assert equal["share"] >= 0.8  # 95 % are meant; of 40, fewer than 32 would be chance once in ten thousand
    assert equal["shown"] <= 0.2
    assert better["shown"] >= 0.8
    assert better["width"] < 0.85 * better["unpaired"]
