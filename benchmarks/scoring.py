"""Measures the scoring of protocols at their real sizes, against plain code in the same run.

    python benchmarks/scoring.py [--full | --scores 4000000 --trials 2 --distractors 50000]

"ratio" is the median time, divided by that of the first row of the table. The candidates take
turns, so that a drift of the machine affects all of them. Features and scores are random, and as
many as in LFW and MegaFace. FAR is the false accept rate, and TAR the true accept rate.

- verification: TAR at each FAR of 1 to 9 times a power of ten for which there are enough impostor
  pairs. One score in 360 is that of a genuine pair, as in all pairs of LFW.
- blufr: verification over all pairs of the test images, and open-set search, at the FARs of BLUFR's
  released code. "argsort" ranks all pairs with their labels, as a ROC routine does. "sort" does in
  NumPy what the released code does: it keeps all scores, sorts the impostors, and ranks the gallery
  of each probe.
- megaface: the search for each mate (another image of the same person) among the distractors, which
  are images of other people. "blocked NumPy" keeps only the highest score of each probe, which is
  enough for rank 1. The other rows also compute ranks up to 100, and TAR at FAR 1e-6. "memory" is
  the growth of the process, without features and results.
"""

import argparse
import resource
import time
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.metrics import roc_curve

from hyperface.metrics.identification import megaface
from hyperface.metrics.roc import true_accept_rate
from hyperface.metrics.streaming import ScoreStream
from hyperface.metrics.threshold import supported
from hyperface.protocols.blufr import IDENTIFICATION_FARS, RANKS, VERIFICATION_FARS, blufr

DIM = 512
BLOCK = 2048


def measure(title: str, calls: dict[str, Callable], rounds: int) -> dict:
    """Times the candidates of one task and prints their table.

    Args:
      title: title of the table.
      calls: name of a candidate -> function without arguments. The first one counts as ratio 1.
      rounds: number of times that each is called.

    Returns:
      Name of a candidate -> the result of its last call.
    """
    times, results = {name: [] for name in calls}, {}
    for _ in range(rounds):
        for name, call in calls.items():
            began = time.perf_counter()
            results[name] = call()
            times[name].append(time.perf_counter() - began)
    median = {name: float(np.median(seconds)) for name, seconds in times.items()}
    base = next(iter(median.values()))
    print(f"\n{title}, {rounds} rounds\n{'':24}{'s':>9}{'ratio':>9}{'times faster':>15}")
    for name, seconds in median.items():
        print(f"{name:24}{seconds:9.2f}{seconds / base:9.3f}{base / seconds:15.1f}", flush=True)
    return results


def verification(pairs: int, rounds: int) -> None:
    """Measures TAR at all supported FARs, and compares the results of the candidates.

    Args:
      pairs: number of scores.
      rounds: as in `measure`.
    """
    rng = np.random.default_rng(0)
    # Overlapping distributions, so that the rates are neither 0 nor 1.
    genuine = rng.normal(0.4, 0.12, pairs // 360).clip(-1, 1).astype(np.float32)
    impostors = rng.standard_normal(pairs - genuine.size, np.float32)
    impostors = np.clip(0.06 * impostors, -1, 1, out=impostors)
    fars = np.array([far for far in VERIFICATION_FARS if supported(far, impostors.size)])

    def plain():
        scores, same = np.concatenate([genuine, impostors]), np.arange(pairs) < genuine.size
        far, tar, _ = roc_curve(same, scores, drop_intermediate=False)
        # The last point with a FAR of at most the requested one. The factor is for rounding.
        return tar[np.searchsorted(far, fars * (1 + 1e-12), side="right") - 1]

    def streamed():
        # The tail of the highest impostor scores is kept, and the others are counted in bins: rates
        # are exact up to the FAR of the tail.
        stream = ScoreStream(tail=pairs // 100)
        stream.add(genuine=genuine)
        for start in range(0, impostors.size, 2**22):
            stream.add(impostors=impostors[start : start + 2**22])
        return stream.exact_far, stream.true_accept_rate(fars)

    calls = {
        "scikit-learn roc_curve": plain,
        "true_accept_rate": partial(true_accept_rate, genuine, impostors, fars),
        "ScoreStream": streamed,
    }
    found = measure(f"verification, {pairs} scores, {fars.size} FARs", calls, rounds)
    expected = found["scikit-learn roc_curve"]
    exact_far, rates = found["ScoreStream"]
    away = np.abs(rates - expected)
    print(f"true_accept_rate equal: {np.array_equal(found['true_accept_rate'], expected)}")
    print(
        f"ScoreStream equal up to FAR {exact_far:.4f}: {not away[fars <= exact_far].any()}, "
        f"above within {away.max():.1e}"
    )


def lfw_like_trials(trials: int, rng: np.random.Generator):
    """Makes labels and BLUFR trials of about LFW's size: 13,233 images of 5,749 people.

    Args:
      trials: number of trials.
      rng: source of the random numbers.

    Returns:
      The labels [images], and one object per trial with the image positions `test`, `gallery` (one
      image of each of 1,000 people) and `probe` (all other test images).
    """
    # Most people of LFW have one image, and one has 530.
    counts = np.concatenate([np.ones(4069, int), np.full(1535, 3), np.full(143, 27), [530, 168]])
    labels = np.repeat(np.arange(counts.size), counts)
    made = []
    for _ in range(trials):
        test = np.sort(rng.permutation(labels.size)[:9708])
        people, first, images = np.unique(labels[test], return_index=True, return_counts=True)
        chosen = rng.permutation(people[images > 1])[:1000]
        gallery = test[first[np.isin(people, chosen)]]
        probe = np.setdiff1d(test, gallery)
        made.append(SimpleNamespace(test=test, gallery=gallery, probe=probe))
    return labels, made


def plain_rates(genuine, impostors, fars):
    """Returns which genuine scores are accepted at each FAR, by the rule of BLUFR's released code.

    Args:
      genuine: scores of genuine pairs.
      impostors: scores of impostor pairs.
      fars: the false accept rates.

    Returns:
      [rates, genuine scores] bool.
    """
    impostors = np.sort(impostors)[::-1]
    # The number of false accepts is rounded to the nearest, so it may exceed the rate.
    allowed = np.floor(np.array(fars) * impostors.size + 0.5).astype(int)
    # For no false accept the threshold is just above the highest impostor, and for all of them it
    # accepts everything.
    limits = impostors[np.maximum(allowed, 1) - 1]
    limits = np.where(allowed > 0, limits, np.nextafter(impostors[0], np.float32(2)))
    limits[allowed == impostors.size] = -np.inf
    return np.array([genuine >= limit for limit in limits])


def plain_trial(unit, labels, trial, ranked_with_labels):
    """Scores one BLUFR trial by plain NumPy, with all scores in memory.

    Args:
      unit: [images, dim] features of unit length.
      labels: [images] person of each image.
      trial: a trial of `lfw_like_trials`.
      ranked_with_labels: whether all pairs are ranked together, and not the impostors alone.

    Returns:
      The verification rate at each FAR, and one array per rank with the identification rate at each
      FAR.
    """
    scores = unit[trial.test] @ unit[trial.test].T
    # Each pair once, and no image with itself.
    lower = np.tri(len(scores), k=-1, dtype=bool)
    scores, same = scores[lower], (labels[trial.test, None] == labels[trial.test])[lower]
    if ranked_with_labels:
        order = np.argsort(-scores)
        hits = np.cumsum(same[order])
        number = np.arange(1, hits.size + 1) - hits
        allowed = np.floor(np.array(VERIFICATION_FARS) * number[-1] + 0.5)
        accepted = hits[np.searchsorted(number, np.maximum(allowed, 1))]
        verification = np.where(allowed == number[-1], hits[-1], accepted) / hits[-1]
    else:
        verification = plain_rates(scores[same], scores[~same], VERIFICATION_FARS).mean(axis=1)
    gallery, probes = labels[trial.gallery], labels[trial.probe]
    scores = unit[trial.probe] @ unit[trial.gallery].T
    mated = np.isin(probes, gallery)
    order = np.argsort(-scores[mated], axis=1)
    rank = np.argmax(gallery[order] == probes[mated, None], axis=1) + 1
    best = np.max(np.where(gallery == probes[mated, None], scores[mated], -1), axis=1)
    accepted = plain_rates(best, scores[~mated].max(axis=1), IDENTIFICATION_FARS)
    return verification, [(accepted & (rank <= r)).mean(axis=1) for r in RANKS]


def lfw_trials(trials: int, rounds: int) -> None:
    """Measures the BLUFR protocol, and compares the results of the candidates.

    Args:
      trials: number of trials.
      rounds: as in `measure`.
    """
    rng = np.random.default_rng(0)
    labels, made = lfw_like_trials(trials, rng)
    people = rng.standard_normal((labels.max() + 1, DIM))
    features = (0.4 * people[labels] + rng.standard_normal((labels.size, DIM))).astype(np.float32)

    def plain(ranked_with_labels):
        unit = features / np.linalg.norm(features, axis=1, keepdims=True)
        found = [plain_trial(unit, labels, trial, ranked_with_labels) for trial in made]
        return tuple(np.array(column) for column in zip(*found, strict=True))

    calls = {
        "argsort": partial(plain, True),
        "sort": partial(plain, False),
        "blufr": partial(blufr, features, labels, made),
    }
    found = measure(f"blufr, {trials} trials of {made[0].test.size} images", calls, rounds)
    ours = found["blufr"]
    print(f"verification at FAR 0.1 % {ours.verification().mean:.4f}, ", end="")
    print(f"DIR at FAR 1 % {ours.identification().mean:.4f}")
    for name in ("argsort", "sort"):
        away = np.abs(found[name][0] - ours.verification_rates).max(axis=0)
        low = away[ours.verification_fars <= ours.exact_fars.min()].max()
        dirs = np.abs(found[name][1] - ours.identification_rates).max()
        print(f"largest difference to {name}: verification {low:.1e} up to the exact FAR, ", end="")
        print(f"{away.max():.1e} above, DIR {dirs:.1e}")


def million(probes: int, distractors: int, rounds: int) -> None:
    """Measures the MegaFace protocol, and compares the results of the candidates.

    Args:
      probes: number of images that are searched for.
      distractors: number of images of other people among which they are searched.
      rounds: as in `measure`.
    """
    rng = np.random.default_rng(0)
    # MegaFace takes 3,530 probes of 80 people from FaceScrub: 44 images per person.
    labels = rng.integers(0, max(1, probes // 44), probes)
    centers = rng.standard_normal((labels.max() + 1, DIM), np.float32)
    faces = 0.6 * centers[labels] + rng.standard_normal((probes, DIM), np.float32)
    others = rng.standard_normal((distractors, DIM), np.float32)

    def plain():
        unit = faces / np.linalg.norm(faces, axis=1, keepdims=True)
        highest = np.full(probes, -1, np.float32)
        for start in range(0, distractors, BLOCK):
            block = others[start : start + BLOCK]
            block = block / np.linalg.norm(block, axis=1, keepdims=True)
            np.maximum(highest, (unit @ block.T).max(axis=1), out=highest)
        own = unit @ unit.T
        mates = labels[:, None] == labels
        np.fill_diagonal(mates, False)
        return (own > highest[:, None])[mates]

    # Measured first, because the largest size of a process never falls. This call also compiles.
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    megaface(faces, labels, others)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    calls = {
        "blocked NumPy": plain,
        "megaface, bfloat16": partial(megaface, faces, labels, others),
        "megaface, float32": partial(megaface, faces, labels, others, dtype=jnp.float32),
    }
    found = measure(f"megaface, {probes} probes, {distractors} x {DIM}", calls, rounds)
    low, high = found["megaface, bfloat16"], found["megaface, float32"]
    first = found["blocked NumPy"]
    # The plain searches are in the order of probes, and for each probe in that of its mates.
    order = np.lexsort((low.mates, low.probes))
    print(f"rank-1 {low.cmc[0]:.4f}, rank-100 {low.cmc[-1]:.4f}, {low.ranks.size} searches")
    print(f"TAR at FAR 1e-6 {low.true_accept_rates[0]:.4f}, memory {grown:.0f} MiB")
    print(f"bfloat16 equals float32: {np.array_equal(low.ranks, high.ranks)}")
    print(f"searches that differ from NumPy at rank 1: {np.sum((low.ranks[order] == 1) != first)}")


def main() -> None:
    """Parses the options and measures the requested protocols."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scores", type=int, default=4_000_000)
    parser.add_argument("--trials", type=int, default=1)
    parser.add_argument("--probes", type=int, default=3530)
    parser.add_argument("--distractors", type=int, default=50_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=("verification", "blufr", "megaface"))
    parser.add_argument("--full", action="store_true", help="87 million, ten trials, one million")
    options = parser.parse_args()
    if options.full:
        options.scores, options.trials, options.distractors = 87_000_000, 10, 1_000_000
    print(f"jax {jax.__version__} on {jax.devices()[0].device_kind}, numpy {np.__version__}")
    if options.only in (None, "megaface"):
        million(options.probes, options.distractors, options.rounds)
    if options.only in (None, "blufr"):
        lfw_trials(options.trials, options.rounds)
    if options.only in (None, "verification"):
        verification(options.scores, options.rounds)


if __name__ == "__main__":
    main()
