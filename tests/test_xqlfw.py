"""XQLFW: a list with LFW's layout, scored under its own name."""

import pytest
from named_people import PEOPLE, PLAIN, named_people, write_lists

from hyperface.errors import InputError
from hyperface.protocols import registry
from hyperface.protocols.result import Figure


def test_a_list_of_ten_folds_is_scored(tmp_path, rng):
    lines = ["10\t1"]
    for fold in range(10):
        one, other = f"p{fold % PEOPLE}", f"p{(fold + 1) % PEOPLE}"
        lines += [f"{one}\t1\t{2 + fold // PEOPLE}", f"{one}\t{1 + fold // PEOPLE}\t{other}\t3"]
    write_lists(tmp_path, {"xqlfw/xqlfw_pairs.txt": lines})
    named = named_people(rng)
    # p3/0.png becomes p3/p3_0001.jpg, as in LFW.
    people = [name.removesuffix(".png").split("/") for name in named.names]
    named = named._replace(names=[f"{p}/{p}_{int(i) + 1:04}.jpg" for p, i in people])
    found = registry.score("xqlfw", named, tmp_path, PLAIN)
    assert found.figures["accuracy"] == Figure(1.0, 0.0)
    assert found.counts == {"same pairs": 10, "different pairs": 10}
    with pytest.raises(InputError, match=r"every image of xqlfw, found none of 'p0/p0_0001.jpg'"):
        registry.score("xqlfw", named._replace(names=[p for p, _ in people]), tmp_path, PLAIN)
