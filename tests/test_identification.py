"""Ranks, CMC and open-set rates by hand; MegaFace's search against brute force."""

import jax.numpy as jnp
import numpy as np
import pytest

from hyperface.devices.mesh import split_rows
from hyperface.metrics import search
from hyperface.metrics.cosine import one_ahead, product
from hyperface.metrics.identification import megaface
from hyperface.metrics.ranks import OpenSet, cmc, dir_at_far, open_set
from hyperface.metrics.roc import true_accept_rate
from hyperface.metrics.search import GROUP, MateRanks, Probes, exact_cosines
from hyperface.metrics.threshold import impostor_threshold

# Three probes in a gallery of A, A and B; C has no mate.
MATRIX = np.array([[0.5, 0.7, 0.6], [0.4, 0.8, 0.8], [0.3, 0.2, 0.1]], np.float32)
GALLERY, PROBES = ["A", "A", "B"], ["A", "B", "C"]


def test_open_set_by_hand():
    found = open_set(MATRIX, GALLERY, PROBES)
    np.testing.assert_array_equal(found.mate_scores, np.float32([0.7, 0.8]))
    np.testing.assert_array_equal(found.ranks, [1, 2])  # B ties with an image of A.
    np.testing.assert_array_equal(found.impostor_scores, np.float32([0.3]))
    np.testing.assert_array_equal(cmc(found.ranks, 3), [0.5, 1, 1])


def test_detection_and_identification_by_hand():
    searches = OpenSet(
        np.array([0.9, 0.6, 0.5, 0.4]), np.array([1, 3, 1, 1]), np.array([0.7, 0.45, 0.2, 0.1])
    )
    # Strict: above 0.7, 0.45, 0.2, 0.1. Released: above 0.7, 0.7, 0.45, 0.2 themselves.
    fars = [0, 0.25, 0.5, 0.75, 1]
    np.testing.assert_array_equal(dir_at_far(searches, fars), [0.25, 0.5, 0.75, 0.75, 0.75])
    np.testing.assert_array_equal(
        dir_at_far(searches, fars, rank=[1, 3], rule="blufr"),
        [[0.25, 0.25, 0.5, 0.75, 0.75], [0.25, 0.25, 0.75, 1, 1]],
    )
    assert dir_at_far(searches, 0.25, rank=3) == 0.75


def test_misuse_of_identification_says_what_was_expected():
    with pytest.raises(ValueError, match=r"scores of shape \(3, 2\) .*found \(3, 3\)"):
        open_set(MATRIX, GALLERY[:2], PROBES)
    with pytest.raises(ValueError, match="finite scores, found 1 gallery"):
        open_set([[0.1, np.nan]], ["A", "B"], ["A"])
    with pytest.raises(ValueError, match="ranks from 1, found 0"):
        cmc([0, 1], 2)
    with pytest.raises(ValueError, match="ranks from 1, found none"):
        cmc([], 2)
    with pytest.raises(ValueError, match="whose person is in the gallery, found none"):
        dir_at_far(open_set(MATRIX[2:], GALLERY, ["C"]), 0.1)


def faces(rng, people=8, images=5, distractors=1500, dim=32, noise=0.7):
    """Probes of some people, of any length, and distractors, a few of them like the people."""
    labels = rng.permutation(np.repeat(np.arange(people), images))
    centers = rng.standard_normal((people, dim))
    probes = centers[labels] + noise * rng.standard_normal((labels.size, dim))
    others = rng.standard_normal((distractors, dim))
    alike = rng.integers(people, size=distractors // 10)
    others[rng.permutation(distractors)[: alike.size]] += 0.8 * centers[alike]
    lengths = rng.uniform(0.01, 100, (distractors, 1))
    return np.float32(probes), labels, np.float32(lengths * others)


def brute_force(probes, labels, distractors, max_rank):
    """Every cosine in float64, rounded to float32; every count by comparison."""
    unit, others = (
        x / np.linalg.norm(x, axis=1, keepdims=True)
        for x in (np.float64(probes), np.float64(distractors))
    )
    scores, own = np.float32(unit @ others.T), np.float32(unit @ unit.T)
    searches = [
        (i, j) for i in range(labels.size) for j in range(labels.size)
        if i != j and labels[i] == labels[j]
    ]  # fmt: skip
    ranks = {(i, j): min(np.sum(scores[i] >= own[i, j]), max_rank) + 1 for i, j in searches}
    return ranks, np.array([own[i, j] for i, j in searches]), scores.ravel()


FARS = [0.0, 1e-4, 1e-3, 1e-2]


@pytest.mark.parametrize("rule", ["strict", "blufr"])
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
@pytest.mark.parametrize(("block_size", "max_rank"), [(64, 5), (192, 2000), (None, 50)])
def test_megaface_equals_brute_force(rng, monkeypatch, block_size, max_rank, dtype, rule):
    monkeypatch.setattr(search, "PENDING", 100)
    probes, labels, distractors = faces(rng)
    ranks, genuine, impostors = brute_force(probes, labels, distractors, max_rank)
    settings = {"max_rank": max_rank, "dtype": dtype, "block_size": block_size, "rule": rule}
    found = megaface(probes, labels, distractors, fars=FARS, **settings)
    pairs = zip(found.probes.tolist(), found.mates.tolist(), strict=True)
    assert dict(zip(pairs, found.ranks, strict=True)) == ranks
    assert found.ranks.max() > 5  # Not a trivial search.
    np.testing.assert_array_equal(found.cmc, cmc(list(ranks.values()), max_rank))
    np.testing.assert_array_equal(
        found.true_accept_rates, true_accept_rate(genuine, impostors, FARS, rule=rule)
    )
    np.testing.assert_array_equal(found.supported, [False, True, True, True])


def figures(found):
    order = np.lexsort((found.mates, found.probes))
    return (*found.ranks[order], *found.true_accept_rates, *found.thresholds)


def test_blocks_files_and_order_do_not_matter(rng, tmp_path):
    probes, labels, distractors = faces(rng, distractors=700)
    whole = figures(megaface(probes, labels, distractors, fars=FARS))
    np.save(tmp_path / "distractors.npy", distractors)
    stored = np.load(tmp_path / "distractors.npy", mmap_mode="r")
    for same in (
        np.split(distractors, [3, 64, 500]),
        stored,
        (stored[:130], stored[130:]),
        distractors[rng.permutation(700)],
        8 * distractors,
    ):
        assert figures(megaface(probes, labels, same, fars=FARS, block_size=128)) == whole


def test_rates_that_reach_below_the_padding_of_a_block(rng):
    probes, labels, distractors = faces(rng, distractors=70)
    _, genuine, impostors = brute_force(probes, labels, distractors, 1)
    fars = [0.5, 0.9, 0.99, 1.0]
    for size in (64, 128):
        found = megaface(probes, labels, distractors, fars=fars, block_size=size)
        np.testing.assert_array_equal(
            found.true_accept_rates, true_accept_rate(genuine, impostors, fars)
        )
        np.testing.assert_array_equal(found.thresholds, impostor_threshold(impostors, fars))


def test_masks_leave_images_out(rng):
    probes, labels, distractors = faces(rng)
    keep_probes, keep_distractors = rng.random(40) < 0.7, rng.random(1500) < 0.5
    alone = megaface(
        probes[keep_probes], labels[keep_probes], distractors[keep_distractors], fars=FARS
    )
    done = []
    masked = megaface(
        probes,
        labels,
        np.split(distractors, [100, 333]),
        fars=FARS,
        keep_probes=keep_probes,
        keep_distractors=keep_distractors,
        block_size=64,
        progress=lambda *n: done.append(n),
    )
    assert figures(masked) == figures(alone)
    np.testing.assert_array_equal(masked.probes, np.flatnonzero(keep_probes)[alone.probes])
    np.testing.assert_array_equal(masked.mates, np.flatnonzero(keep_probes)[alone.mates])
    assert (masked.num_probes, masked.num_distractors) == (
        keep_probes.sum(),
        keep_distractors.sum(),
    )
    assert done[-1] == (masked.num_distractors, masked.num_distractors)


def test_ranks_are_right_where_bfloat16_cannot_tell(rng):
    """Distractors a hair nearer or farther than the mate, and one that copies it."""
    probes = rng.standard_normal((2, 64)).astype(np.float32)
    near = probes[1] + np.float32(1e-3) * rng.standard_normal((200, 64)).astype(np.float32)
    ranks, *_ = brute_force(probes, np.zeros(2), near, 1000)
    low = jnp.asarray(probes[0], jnp.bfloat16)
    mate, others = (
        np.asarray(product(np.float32(jnp.asarray(x, jnp.bfloat16)), np.float32(low)[None]))
        for x in (probes[1:], near)
    )
    found = megaface(probes, [7, 7], near, max_rank=1000)
    assert 20 < found.ranks[0] < 180
    assert found.ranks[0] != 1 + np.sum(others >= mate)
    np.testing.assert_array_equal(found.ranks, [ranks[0, 1], ranks[1, 0]])
    copied = megaface(probes, [7, 7], np.concatenate([near, 4 * probes[1:]]), max_rank=1000)
    assert copied.ranks[0] == found.ranks[0] + 1


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_the_bound_holds_and_is_tight(rng, dtype):
    for scale in (1e-8, 1.0, 1e8):
        unit = rng.standard_normal((50, 96))
        unit = np.float32(unit / np.linalg.norm(unit, axis=1, keepdims=True))
        block = np.float32(scale * np.abs(rng.standard_normal((GROUP, 96))) ** 3)
        block[:40] = scale * unit[:40]  # Cosines of one, where all errors may add up.
        probes = Probes(unit, dtype)
        scored = probes.score(block, GROUP)
        first, second = np.indices((50, GROUP)).reshape(2, -1)
        exact = exact_cosines(unit, block, first, second).reshape(50, GROUP)
        bound = probes.bound(scored)
        assert np.all(np.abs(scored.scores - exact) <= bound[:, None])
        assert bound.max() < (0.01 if dtype == jnp.bfloat16 else 3e-5)


@pytest.mark.parametrize("exact_side", ["probe", "gallery"])
def test_the_bound_holds_where_only_one_side_is_rounded_and_all_errors_add_up(exact_side):
    """Else a distractor that is nearer than the mate is dropped unseen, and ranks are too good.

    Entries of 1/8 are whole in bfloat16. Those of the other side are all rounded up, along them.
    """
    even, uneven = np.zeros((1, 65), np.float32), np.full((1, 65), 205.6 / 2**11, np.float32)
    even[0, :64] = 1 / 8
    uneven[0, 64] = np.sqrt(1 - np.sum(np.square(uneven[0, :64], dtype=float)))
    first, second = (even, uneven) if exact_side == "probe" else (uneven, even)
    probes = Probes(first)
    scored = probes.score(second, GROUP)
    apart = abs(float(scored.scores[0, 0]) - float(even[0].astype(float) @ uneven[0]))
    assert 1e-3 < apart <= probes.bound(scored)[0]


def test_few_pairs_are_scored_exactly(rng, monkeypatch):
    """All of a small block at first, then only what may matter."""
    counted = []
    exact = search.exact_cosines
    monkeypatch.setattr(
        "hyperface.metrics.identification.exact_cosines",
        lambda *args: counted.append(args[2].size) or exact(*args),
    )
    probes, labels, distractors = faces(rng, distractors=20_000, noise=0.2)
    megaface(probes, labels, distractors, block_size=2048, max_rank=1)
    assert sum(counted[1:]) < 0.01 * 40 * 20_000


def test_perfect_and_chance_features(rng):
    labels = np.repeat(np.arange(10), 4)
    perfect = megaface(np.eye(10, 64)[labels], labels, rng.standard_normal((500, 64)), fars=FARS)
    np.testing.assert_array_equal(perfect.cmc, 1)
    np.testing.assert_array_equal(perfect.true_accept_rates, 1)
    probes, others = rng.standard_normal((60, 64)), rng.standard_normal((400, 64))
    chance = megaface(probes, np.repeat(np.arange(2), 30), others, fars=[0.1], max_rank=400)
    # The mate is as likely at each of 401 places; FAR equals TAR.
    np.testing.assert_allclose(chance.cmc[99::100], np.arange(100, 401, 100) / 401, atol=0.05)
    np.testing.assert_allclose(chance.true_accept_rates, 0.1, atol=0.04)


def test_mate_ranks_by_hand():
    # Probe 0 has mates at 0.5 and 0.1, probe 1 none, probe 2 one at 0.0.
    ranks = MateRanks(np.array([2, 0, 0]), np.float32([0.0, 0.5, 0.1]), 3, max_rank=2)
    np.testing.assert_array_equal(ranks.wanted, np.float32([0.1, np.inf, 0.0]))
    ranks.add(np.array([0, 0, 1, 2]), np.float32([0.1, -0.1, 0.9, -0.0]))
    np.testing.assert_array_equal(ranks.ranks(), [2, 1, 2])
    ranks.add(np.array([0, 2, 2]), np.float32([0.7, -0.3, 0.1]))
    np.testing.assert_array_equal(ranks.ranks(), [3, 2, 3])
    # The lower mate of probe 0 and that of probe 2 are beyond the last rank.
    np.testing.assert_array_equal(ranks.wanted, np.float32([0.5, np.inf, np.inf]))


def test_one_ahead_takes_the_next_item_first():
    taken = []
    for item in one_ahead(taken.append(n) or n for n in range(4)):
        assert taken == list(range(min(item + 2, 4)))
    assert list(one_ahead([])) == []


def test_misuse_of_megaface_says_what_was_expected(rng):
    probes, labels, distractors = faces(rng, distractors=100)
    bad = distractors.copy()
    bad[70, 0] = np.nan
    with pytest.raises(ValueError, match="norm nan at distractor 70"):
        megaface(probes, labels, bad, keep_distractors=np.arange(100) != 50)
    megaface(probes, labels, bad, keep_distractors=np.arange(100) != 70)
    bad[70] = 0
    with pytest.raises(ValueError, match=r"norm 0\.0 at distractor 70"):
        megaface(probes, labels, [bad[:40], bad[40:]])
    with pytest.raises(ValueError, match="features that differ, found 40"):
        megaface(np.ones_like(probes), labels, distractors)
    with pytest.raises(ValueError, match="norm nan at row 3"):
        megaface(np.where(np.arange(40)[:, None] == 3, np.nan, probes), labels, distractors)
    with pytest.raises(ValueError, match=r"40 labels, one a probe, found \(39,\)"):
        megaface(probes, labels[:39], distractors)
    with pytest.raises(ValueError, match="two probes of one person, found 40 people, one each"):
        megaface(probes, np.arange(40), distractors)
    with pytest.raises(ValueError, match=r"\[images, 32\], found \(100, 31\)"):
        megaface(probes, labels, distractors[:, :31])
    with pytest.raises(ValueError, match=r"expected distractors, found none kept of 0"):
        megaface(probes, labels, [])
    with pytest.raises(ValueError, match=r"keep_probes to be 40 bools, found bool\(39,\)"):
        megaface(probes, labels, distractors, keep_probes=np.ones(39, bool))
    with pytest.raises(ValueError, match=r"keep_distractors to be 100 bools, found int64\(100,\)"):
        megaface(probes, labels, distractors, keep_distractors=np.arange(100))


def test_blocks_split_over_devices_give_the_same(rng):
    """On 8 simulated devices: figures do not depend on where a block is scored."""
    probes, labels = rng.standard_normal((24, 16)), np.repeat(np.arange(8), 3)
    distractors = rng.standard_normal((700, 16))
    one = megaface(probes, labels, distractors, fars=(1e-3,), max_rank=50, block_size=128)
    eight = megaface(
        probes, labels, distractors, fars=(1e-3,), max_rank=50, block_size=128, place=split_rows
    )
    assert len(split_rows(np.zeros((16, 2))).sharding.device_set) == 8
    uneven = split_rows(np.zeros((15, 2)))
    assert uneven.sharding.is_fully_replicated
    assert len(uneven.sharding.device_set) == 8
    np.testing.assert_array_equal(one.ranks, eight.ranks)
    np.testing.assert_array_equal(one.thresholds, eight.thresholds)
