"""The tables of the benchmarks."""

import math

from benchmarks import classwise


def test_a_ratio_without_its_base_row_is_nan():
    found, fastest = classwise.ratios({"plain, indexed": 2.0, "softmax": 3.0, "c_contrastive": 1.0})
    assert fastest == "plain, indexed"
    assert (found["plain, indexed"], found["softmax"]) == (1.0, 1.5)
    assert math.isnan(found["c_contrastive"])
    # With several devices the sharded row is always there, and its base row is not.
    found, fastest = classwise.ratios({"floor": 1.0, "softmax, sharded": 2.0})
    assert fastest is None
    assert all(map(math.isnan, found.values()))


def test_each_row_names_a_base_row_that_exists():
    rows = {**{name: base for name, (base, _) in classwise.CANDIDATES.items()}, **classwise.OTHERS}
    assert set(rows.values()) <= {*rows, classwise.FASTEST}
