"""Lists of image pairs: LFW and View 1, AgeDB, CALFW, CPLFW, CFP."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from hyperface.errors import InputError
from hyperface.metrics.bootstrap import bootstrap_people, resampled_tar
from hyperface.metrics.chance import guess_warning, shift_warning
from hyperface.metrics.progress import part
from hyperface.metrics.roc import roc
from hyperface.metrics.splits import PairRates, pair_rates
from hyperface.metrics.threshold import RULE_STEPS, TOO_FEW
from hyperface.protocols import readers
from hyperface.protocols.features import NamedFeatures
from hyperface.protocols.pairs import verify_pairs
from hyperface.protocols.readers import PairList
from hyperface.protocols.result import Figure, Scored, hardest, pair_counts
from hyperface.protocols.settings import OVER_FOLDS, OVER_SPLITS, Settings

PAIR_FARS = (0.01, 0.001)


def score_pairs(
    name: str,
    named: NamedFeatures,
    pairs: PairList,
    settings: Settings,
    *,
    tested: Sequence[int] | None = None,
) -> Scored:
    """Accuracy in folds, EER, AUC and TAR at FAR of a pair list.

    Rates are those of all tested pairs together, each with its score when its fold was held out.

    Args:
      name: what the list is called.
      named: the features.
      pairs: the list.
      settings: `pairs`, `pca`, `draws` and `progress` are used.
      tested: folds that are held out; all by default.
    """
    first, second = named.rows(pairs.first, name), named.rows(pairs.second, name)
    protocol = settings.pair_steps()
    parts = 1 + (len(PAIR_FARS) if settings.draws else 0)
    found = verify_pairs(
        named.features,
        first,
        second,
        pairs.same,
        pairs.fold,
        protocol,
        tested=tested,
        progress=part(settings.progress, 0, parts),
    )
    use = np.isfinite(found.scores)
    scores, same = found.scores[use], pairs.same[use]
    rates = pair_rates(scores, same, np.zeros(same.size, np.int64), PAIR_FARS)
    figures = {"accuracy": Figure(found.folds.mean, _known(found.folds.standard_error))}
    marked = _marked(rates)
    figures |= {marked[name]: Figure(rate.mean) for name, rate in rates.spread().items()}
    if settings.draws and not all("/" in name for name in (*pairs.first, *pairs.second)):
        raise InputError(
            f"{name}: expected names person/file for intervals over people, found others. Leave "
            "--bootstrap out."
        )
    people = [np.array([name.partition("/")[0] for name in side])[use] for side in pairs[:2]]
    intervals = {}
    for number, far in enumerate(PAIR_FARS if settings.draws else (), 1):
        tar = resampled_tar(scores, same, far)
        low, high, _ = bootstrap_people(
            tar, *people, draws=settings.draws, progress=part(settings.progress, number, parts)
        )
        intervals[marked[f"tar_at_far_{far:g}"]] = [low, high]
    accepts, rejects = hardest(found.scores, pairs.first, pairs.second, pairs.same)
    return Scored(
        protocol=name,
        figures=figures,
        steps=(
            *named.steps,
            *found.steps,
            RULE_STEPS["strict"],
            *(
                f"95 % of {settings.draws} resamples of people have {rate} from {100 * low:.2f} to "
                f"{100 * high:.2f} %"
                for rate, (low, high) in intervals.items()
            ),
            *guess_warning("accuracy", found.folds.mean, 0.5, same.size, least=0.02),
            *shift_warning(named.features, first, second, pairs.same),
        ),
        spread=OVER_FOLDS,
        curves={name: roc(scores, same)},
        scores=(scores, same),
        false_accepts=accepts,
        false_rejects=rejects,
        details={
            "fold accuracies": found.folds.accuracy.tolist(),
            "fold thresholds": found.folds.thresholds.tolist(),
            "dimensions": found.dims.tolist(),
            "95 % over people": intervals,
        },
        counts=pair_counts(same),
    )


def lfw(name: str, named: NamedFeatures, paths: Sequence[Path], settings: Settings) -> Scored:
    """LFW's 6,000 pairs in ten folds."""
    return score_pairs(name, named, readers.lfw_pairs(paths[0]), settings)


def view1(name: str, named: NamedFeatures, paths: Sequence[Path], settings: Settings) -> Scored:
    """LFW's development view: everything is fitted on one list and tested on the other."""
    fitted, tested = map(readers.lfw_pairs, paths)
    pairs = PairList(
        fitted.first + tested.first,
        fitted.second + tested.second,
        np.concatenate([fitted.same, tested.same]),
        np.repeat([0, 1], [fitted.same.size, tested.same.size]),
    )
    return score_pairs(name, named, pairs, settings, tested=[1])


def listed(name: str, named: NamedFeatures, paths: Sequence[Path], settings: Settings) -> Scored:
    """Any list that `read_pairs` takes, in ten folds."""
    return score_pairs(name, named, readers.read_pairs(paths[0]), settings)


def cfp(name: str, named: NamedFeatures, paths: Sequence[Path], settings: Settings) -> Scored:
    """CFP's figures are means over its ten splits, each by itself.

    A split's 350 different pairs do not support a FAR of 0.1 %, which all 3,500 together do.
    """
    if settings.draws:
        raise InputError(f"{name}: expected no --bootstrap: its figures are means over splits.")
    pairs = readers.cfp(paths[0])[name.removeprefix("cfp-").upper()]
    scored = score_pairs(name, named, pairs, replace(settings, pairs=settings.steps("plain")))
    scores = scored.scores[0]
    of_splits = pair_rates(scores, pairs.same, pairs.fold, (0.001,))
    together = pair_rates(scores, pairs.same, np.zeros(pairs.same.size, np.int64), (0.001,))
    marked = _marked(of_splits)
    rates = {marked[n]: Figure(rate.mean, rate.deviation) for n, rate in of_splits.spread().items()}
    pooled = _marked(together, ", all splits' pairs together")["tar_at_far_0.001"]
    accuracy = scored.figures["accuracy"]._replace(
        spread=float(np.std(scored.details["fold accuracies"], ddof=1))
    )
    return replace(
        scored,
        figures={"accuracy": accuracy, **rates, pooled: Figure(float(together.tar[0, 0]))},
        spread=OVER_SPLITS,
        steps=(
            *scored.steps,
            "accuracy, EER, AUC and TAR of each split by itself, then averaged, unless of all "
            f"splits' {np.sum(~pairs.same):,} different pairs together",
        ),
    )


def _marked(rates: PairRates, of: str = "") -> dict[str, str]:
    """Names of the rates as tables print them; what has too few pairs says so."""
    names = {"eer": "EER", "auc": "AUC"}
    for far in rates.fars:
        few = TOO_FEW if far in rates.unsupported() else ""
        names[f"tar_at_far_{far:g}"] = f"TAR at FAR {100 * far:g} %{of}{few}"
    return names


def _known(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
