"""Scores BLUFR on LFW: ten trials of verification over all pairs and of open-set identification.

S. Liao, Z. Lei, D. Yi, S. Z. Li. A Benchmark Study of Large-Scale Unconstrained Face Recognition.
IJCB 2014.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from hyperface.metrics.chance import guess_warning
from hyperface.metrics.cosine import Place, product, unit_features
from hyperface.metrics.ranks import OpenSet, dir_at_far, open_set
from hyperface.metrics.roc import Roc
from hyperface.metrics.streaming import stream_all_pairs
from hyperface.metrics.threshold import RULE_STEPS, TOO_FEW, Rule, supported
from hyperface.protocols._blufr import Trial, read_blufr
from hyperface.protocols.features import NamedFeatures
from hyperface.protocols.protocol import Protocol, Settings
from hyperface.protocols.result import OVER_TRIALS, Figure, Result


def _decades(lowest: int) -> tuple[float, ...]:
    # Read as text: 3 * 0.1 is not the float 0.3, and rates are looked up by equality.
    steps = (float(f"{digit}e{power}") for power in range(lowest, 0) for digit in range(1, 10))
    return (0.0, *steps, 1.0)


VERIFICATION_FARS = _decades(-8)
"""False accept rates of verification: 0, 1e-8, 2e-8, ... 0.9, 1, as in the released code."""
IDENTIFICATION_FARS = _decades(-4)
"""False accept rates of identification: 0, 1e-4, 2e-4, ... 0.9, 1."""
RANKS = (*range(1, 11), *range(20, 101, 10))
"""Ranks of identification: 1 to 10, then 20, 30, ... 100."""

VERIFICATION_LABEL = "VR at FAR 0.1 %"
"""Label of the verification rate that BLUFR reports."""


class Spread(NamedTuple):
    """The mean and deviation of one rate over the trials. Rates are shares in [0, 1]."""

    trials: np.ndarray
    """[trials] the rate of each trial."""
    mean: float
    """Mean over the trials."""
    std: float
    """Sample standard deviation over the trials; NaN if there is one trial."""
    mean_minus_std: float
    """The mean minus the standard deviation, which is the value that BLUFR reports."""
    supported: bool
    """Whether each trial has enough scores of impostors to measure the false accept rate (FAR): at
    least 1 / FAR. For verification an impostor is a pair of images of two people. For
    identification it is a probe whose person is not in the gallery."""


class BlufrRates(NamedTuple):
    """BLUFR's rates in every trial: of verification, and of open-set identification.

    A same pair has two images of one person, and a different pair has images of two people. A probe
    is an image that is searched in the gallery. Its mate is the gallery image of its person. A pair
    or a match is accepted if its similarity reaches the threshold. FAR is the false accept rate.
    """

    verification_rates: np.ndarray
    """[trials, verification FARs] share of the same pairs that are accepted."""
    identification_rates: np.ndarray
    """[trials, ranks, identification FARs] detection and identification rate (DIR). Of the probes
    with a mate, it is the share for which the mate is among the best `rank` matches and its score
    is accepted."""
    verification_fars: np.ndarray
    """[verification FARs] false accept rates of `verification_rates`: shares of the different pairs
    that are accepted."""
    identification_fars: np.ndarray
    """[identification FARs] false accept rates of `identification_rates`: shares of the probes
    without a mate whose best match is accepted."""
    ranks: np.ndarray
    """[ranks] the numbers `rank` for which `identification_rates` are computed."""
    exact_fars: np.ndarray
    """[trials] the FAR up to which verification rates are exact. At a higher FAR, the threshold
    may differ from the exact one by up to 2^-15 in cosine."""
    verification_supported: np.ndarray
    """[trials, verification FARs] bool, True if the trial has at least 1 / FAR different pairs, so
    that the FAR can be measured."""
    identification_supported: np.ndarray
    """[trials, identification FARs] bool, True if the trial has at least 1 / FAR probes without a
    mate."""
    num_genuine: np.ndarray
    """[trials] number of same pairs."""
    num_impostors: np.ndarray
    """[trials] number of different pairs."""

    def verification(self, far: float = 0.001) -> Spread:
        """Returns the verification rate at a false accept rate, with its spread over the trials.

        Args:
          far: the false accept rate, one of `verification_fars`.

        Raises:
          ValueError: `far` is not in `verification_fars`.
        """
        column = _place(self.verification_fars, far, "FAR")
        return _spread(self.verification_rates[:, column], self.verification_supported[:, column])

    def identification(self, far: float = 0.01, rank: int = 1) -> Spread:
        """Returns the detection and identification rate (DIR), with its spread over the trials.

        DIR is the share of the probes with a mate (a gallery image of their person) for which the
        mate is among the best `rank` matches and its score reaches the threshold of the FAR.

        Args:
          far: the false accept rate, one of `identification_fars`.
          rank: the number of best matches among which the mate has to be, one of `ranks`.

        Raises:
          ValueError: `far` is not in `identification_fars`, or `rank` is not in `ranks`.
        """
        column = _place(self.identification_fars, far, "FAR")
        rates = self.identification_rates[:, _place(self.ranks, rank, "rank"), column]
        return _spread(rates, self.identification_supported[:, column])


def blufr(
    features: ArrayLike,
    labels: ArrayLike,
    trials: Sequence[Trial],
    *,
    rule: Rule = "blufr",
    verification_fars: Sequence[float] = VERIFICATION_FARS,
    identification_fars: Sequence[float] = IDENTIFICATION_FARS,
    ranks: Sequence[int] = RANKS,
    exact_far: float = 0.01,
    dtype: np.dtype | type = np.float32,
    place: Place = jnp.asarray,
    progress: Callable[[int, int], None] | None = None,
) -> BlufrRates:
    """Computes the rates of the benchmark BLUFR with the cosine as the similarity.

    Verification scores every pair of a trial's test images. These are about 47 million pairs, which
    are never in memory together. A same pair has two images of one person, and a different pair has
    images of two people. Open-set identification searches each probe in the gallery. The mate of a
    probe is the gallery image of its person. The score of a probe without a mate is its highest
    cosine in the gallery.

    Training images are not used. If you fit something on the training images, such as a PCA, the
    features differ per trial: then call this function once per trial, with this trial alone.

    Args:
      features: [images, dim], of any norm; this function normalises them.
      labels: [images] id of the person in each image.
      trials: the trials: for each, positions in `features`, from 0, of its training images, test
        images, gallery images and probes.
      rule: how a false accept rate (FAR) becomes a threshold. Impostor scores are those of
        different pairs or of probes without a mate. With N impostor scores, the threshold of
        "blufr" is the k-th highest of them, where k = FAR N is rounded, as in BLUFR's own code.
        "strict", the rule of all other protocols of this package, rounds k down, and sets the
        threshold just above the (k + 1)-th highest. The measured rate is then never above FAR.
      verification_fars: false accept rates in [0, 1] of verification: shares of the different pairs
        that are accepted.
      identification_fars: false accept rates in [0, 1] of identification: shares of the probes
        without a mate that are accepted.
      ranks: numbers of best matches, from 1, for which the detection and identification rate (DIR)
        is computed: the share of the probes with a mate for which the mate is among these matches
        and its score is accepted.
      exact_far: FAR up to which verification thresholds are exact. At a higher FAR, a threshold may
        differ from the exact one by up to 2^-15 in cosine.
      dtype: type of the scores. float32 has rounding errors of about 1e-7; float64 needs twice the
        time.
      place: function that puts features [rows, dim] on devices. The default uses JAX's default
        device. Another function may split the rows over several devices. For identification,
        the rows are the probes; `AllDevices.split` splits them only into equal parts.
      progress: called with (number of finished trials, number of all trials).

    Returns:
      The rates of every trial; papers report `.verification()` and `.identification()`.

    Raises:
      ValueError: there are no trials; a feature is zero or not finite, or all features are alike;
        labels and features differ in number; an index is out of range or repeated; a gallery or
        probe image is not a test image, or is both; or a trial has no same or no different pairs.
    """
    unit, labels = unit_features(features, dtype), np.asarray(labels)
    if labels.shape != unit.shape[:1]:
        raise ValueError(f"expected {len(unit)} labels, one a feature, found {labels.shape}")
    if not trials:
        raise ValueError("expected at least one trial, found none")
    for number, trial in enumerate(trials):
        # All trials are checked before the first is scored, since each takes long.
        _check_trial(trial, len(unit), number)
    columns = []
    for number, trial in enumerate(trials):
        stream = stream_all_pairs(
            unit[trial.test], labels[trial.test], exact_far=exact_far, place=place
        )
        searches = _search(unit, labels, trial, place)
        columns.append(
            (
                stream.true_accept_rate(verification_fars, rule=rule),
                dir_at_far(searches, identification_fars, rank=ranks, rule=rule),
                stream.exact_far,
                supported(verification_fars, stream.num_impostors),
                supported(identification_fars, searches.impostor_scores.size),
                stream.num_genuine,
                stream.num_impostors,
            )
        )
        if progress:
            progress(number + 1, len(trials))
    rates, dirs, *rest = (np.array(column) for column in zip(*columns, strict=True))
    lists = (np.array(verification_fars), np.array(identification_fars), np.array(ranks))
    return BlufrRates(rates, dirs, *lists, *rest)


def _search(unit: np.ndarray, labels: np.ndarray, trial: Trial, place: Place) -> OpenSet:
    return open_set(
        np.asarray(product(unit[trial.probe], unit[trial.gallery], place)),
        labels[trial.gallery],
        labels[trial.probe],
    )


def _check_trial(trial: Trial, images: int, number: int) -> None:
    test, gallery, probe = (np.asarray(part) for part in (trial.test, trial.gallery, trial.probe))
    for name, part in (("test", test), ("gallery", gallery), ("probe", probe)):
        found = f"in the {name} indices of trial {number + 1}"
        if part.ndim != 1 or not part.size or not np.issubdtype(part.dtype, np.integer):
            raise ValueError(f"expected whole numbers, found {part.dtype}{part.shape} {found}")
        # NumPy would count a negative index from the end.
        if part.min() < 0 or part.max() >= images:
            raise ValueError(
                f"expected 0 to {images - 1}, found {part.min()} to {part.max()} {found}"
            )
        if np.unique(part).size < part.size:
            raise ValueError(f"expected every image once, found a repetition {found}")
        if not np.isin(part, test).all():
            raise ValueError(f"expected test images alone, found others {found}")
    if np.isin(probe, gallery).any():
        raise ValueError(f"expected no image in gallery and probe, found one in trial {number + 1}")


def _spread(trials: np.ndarray, supported_in: np.ndarray) -> Spread:
    mean = float(trials.mean())
    # One trial has no spread.
    std = float(trials.std(ddof=1)) if trials.size > 1 else float("nan")
    return Spread(trials, mean, std, mean - std, bool(supported_in.all()))


def _place(values: np.ndarray, wanted: float, name: str) -> int:
    place = np.flatnonzero(values == wanted)
    if not place.size:
        raise ValueError(f"expected a {name} of the list {values.tolist()}, found {wanted}")
    return int(place[0])


def _score(name: str, named: NamedFeatures, files: Sequence[Path], settings: Settings) -> Result:
    """Scores BLUFR: verification rate (VR) at FAR 0.1 % and DIR at FAR 1 %, over the ten trials."""
    lists = read_blufr(files[0])
    features = named.features[named.rows(lists.images, name)]
    found = blufr(
        features,
        lists.labels,
        lists.trials,
        rule=settings.rule,
        place=settings.place,
        progress=settings.progress,
    )
    verification, identification = found.verification(0.001), found.identification(0.01, 1)
    rates = {VERIFICATION_LABEL: verification, "DIR at FAR 1 %, rank 1": identification}
    figures = {}
    for label, rate in rates.items():
        few = "" if rate.supported else TOO_FEW
        figures[f"{label}, mean - deviation{few}"] = Figure(rate.mean_minus_std)
        figures[f"{label}{few}"] = Figure(rate.mean, rate.std)
    fars = found.verification_fars
    mean = found.verification_rates.mean(axis=0)
    # Even if the names are in a random order, some same pairs stay the same.
    share = np.mean(found.num_genuine / (found.num_genuine + found.num_impostors))
    chance = 0.001 + float(share)
    return Result(
        protocol=name,
        figures=figures,
        steps=(
            *named.steps,
            f"{len(found.num_genuine)} trials, {found.num_genuine.min():,} to "
            f"{found.num_genuine.max():,} same and {found.num_impostors.min():,} to "
            f"{found.num_impostors.max():,} different pairs each; training images are not used",
            "features scaled to unit length, similarity is the cosine in float32",
            RULE_STEPS[settings.rule],
            "impostor scores are those of different pairs (VR), and the highest of each probe "
            "without a mate (DIR); reported is mean minus sample standard deviation",
            *guess_warning(
                VERIFICATION_LABEL, verification.mean, chance, found.num_genuine.min(), least=0.001
            ),
        ),
        spread=OVER_TRIALS,
        # A mean of several trials has no thresholds: each trial has its own.
        curves={name: Roc(fars, mean, np.full(fars.size, np.nan))},
        counts={
            "same pairs": found.num_genuine.tolist(),
            "different pairs": found.num_impostors.tolist(),
        },
        details={
            "verification FARs": fars.tolist(),
            "verification rates": found.verification_rates.tolist(),
            "identification FARs": found.identification_fars.tolist(),
            "ranks": found.ranks.tolist(),
            "identification rates": found.identification_rates.tolist(),
            "FARs with too few pairs": fars[~found.verification_supported.all(axis=0)].tolist(),
            "identification FARs with too few probes": found.identification_fars[
                ~found.identification_supported.all(axis=0)
            ].tolist(),
        },
    )


PROTOCOLS = (
    Protocol(
        name="blufr",
        title="BLUFR on LFW",
        dataset="lfw",
        file_names=("blufr_lfw_config.mat",),
        options=frozenset({"rule"}),
        scorer=_score,
    ),
)
