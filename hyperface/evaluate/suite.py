"""The published protocols by name: from named features and protocol files to figures."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from hyperface.data import protocols
from hyperface.data.protocols import PairList
from hyperface.errors import InputError
from hyperface.evaluate.blufr import blufr
from hyperface.evaluate.bootstrap import bootstrap_people, resampled_tar
from hyperface.evaluate.identification import megaface
from hyperface.evaluate.named import NamedFeatures
from hyperface.evaluate.pair_protocol import PROTOCOLS, PairProtocol
from hyperface.evaluate.pairs import verify_pairs
from hyperface.evaluate.roc import Roc, roc
from hyperface.evaluate.scored import Figure, Scored, chance_warning, hardest
from hyperface.evaluate.search import Place
from hyperface.evaluate.splits import pair_rates
from hyperface.evaluate.template_groups import group_templates
from hyperface.evaluate.templates import FARS, verify_templates
from hyperface.evaluate.threshold import Rule, supported
from hyperface.evaluate.video import verify_videos

PAIR_FARS = (0.01, 0.001)
OVER_FOLDS = "standard error over folds"
OVER_TRIALS = "standard deviation over trials"
OVER_SPLITS = "standard deviation over splits"


@dataclass(frozen=True)
class Settings:
    """Choices within the protocols."""

    pairs: PairProtocol = field(default_factory=lambda: PROTOCOLS["normface"])
    """Steps of pair lists."""
    rule: Rule = "blufr"
    """BLUFR's threshold rule."""
    subtract_mean: bool = True
    """Of the frames of YTF."""
    gammas: int | None = None
    """K of the templates' fusion; None as the protocol has it."""
    draws: int = 0
    """Resamples of people, for intervals of a pair list's rates; 0 for none."""
    progress: Callable[[int, int], None] | None = None
    """Called by the long ones with the parts done and all parts."""


class Entry(NamedTuple):
    """A protocol that is known by name."""

    title: str
    dataset: str
    """Name of the prepared data set whose images it compares, unless the user says otherwise."""
    files: tuple[str, ...]
    """Below the folder of protocol files."""
    score: Callable[[str, NamedFeatures, Sequence[Path], Settings], Scored]


def score(
    name: str,
    named: NamedFeatures,
    folder: Path,
    settings: Settings = Settings(),
) -> Scored:
    """Scores features by a protocol of `SUITE`.

    Args:
      name: of the protocol.
      named: features of at least the images that it compares.
      folder: holds the protocol's files.
      settings: choices within it.

    Raises:
      InputError: a file is missing or damaged, an image has no feature, or the features cannot be
        scored so.
    """
    entry = SUITE[name]
    paths = [folder / file for file in entry.files]
    missing = [path for path in paths if not path.exists()]
    if missing:
        raise InputError(
            f"{name}: expected the protocol's file at {missing[0]}, found none. Put it there, or "
            "name the folder of protocol files by --protocol-dir."
        )
    try:
        return entry.score(name, named, paths, settings)
    except InputError:
        raise
    except ValueError as error:
        raise InputError(f"{name}: {error}.") from error


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
      settings: `pairs` is used.
      tested: folds that are held out; all by default.
    """
    first, second = named.rows(pairs.first, name), named.rows(pairs.second, name)
    protocol = settings.pairs
    found = verify_pairs(
        named.features, first, second, pairs.same, pairs.fold, protocol, tested=tested
    )
    use = np.isfinite(found.scores)
    scores, same = found.scores[use], pairs.same[use]
    rates = pair_rates(scores, same, np.zeros(same.size, np.int64), PAIR_FARS)
    figures = {"accuracy": Figure(found.folds.mean, _known(found.folds.standard_error))}
    figures |= {_shown(name): Figure(rate.mean) for name, rate in rates.spread().items()}
    people = [np.array([name.partition("/")[0] for name in side])[use] for side in pairs[:2]]
    intervals = {}
    for far in PAIR_FARS if settings.draws else ():
        tar = resampled_tar(scores, same, far)
        low, high, _ = bootstrap_people(tar, *people, draws=settings.draws)
        intervals[_shown(f"tar_at_far_{far:g}")] = [low, high]
    accepts, rejects = hardest(found.scores, pairs.first, pairs.second, pairs.same)
    return Scored(
        protocol=name,
        figures=figures,
        steps=(
            *named.steps,
            *found.steps,
            *(
                f"95 % of {settings.draws} resamples of people have {rate} from {100 * low:.2f} to "
                f"{100 * high:.2f} %"
                for rate, (low, high) in intervals.items()
            ),
            *chance_warning(found.folds.mean),
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
    )


def _lfw(name: str, named: NamedFeatures, paths: Sequence[Path], settings: Settings) -> Scored:
    return score_pairs(name, named, protocols.lfw_pairs(paths[0]), settings)


def _view1(name: str, named: NamedFeatures, paths: Sequence[Path], settings: Settings) -> Scored:
    """LFW's development view: everything is fitted on one list and tested on the other."""
    fitted, tested = map(protocols.lfw_pairs, paths)
    pairs = PairList(
        fitted.first + tested.first,
        fitted.second + tested.second,
        np.concatenate([fitted.same, tested.same]),
        np.repeat([0, 1], [fitted.same.size, tested.same.size]),
    )
    return score_pairs(name, named, pairs, settings, tested=[1])


def _listed(name: str, named: NamedFeatures, paths: Sequence[Path], settings: Settings) -> Scored:
    return score_pairs(name, named, protocols.read_pairs(paths[0]), settings)


def _cfp(name: str, named: NamedFeatures, paths: Sequence[Path], settings: Settings) -> Scored:
    """CFP's figures are means over its ten splits, each by itself."""
    pairs = protocols.cfp(paths[0])[name.removeprefix("cfp-").upper()]
    scored = score_pairs(name, named, pairs, settings)
    rates = pair_rates(scored.scores[0], pairs.same, pairs.fold, (0.001,))
    rates = {_shown(n): Figure(rate.mean, rate.deviation) for n, rate in rates.spread().items()}
    accuracy = scored.figures["accuracy"]._replace(
        spread=float(np.std(scored.details["fold accuracies"], ddof=1))
    )
    return replace(
        scored,
        figures={"accuracy": accuracy, **rates},
        spread=OVER_SPLITS,
        steps=(*scored.steps, "EER, AUC and TAR of each split by itself, then averaged"),
    )


def _blufr(name: str, named: NamedFeatures, paths: Sequence[Path], settings: Settings) -> Scored:
    config = protocols.blufr(paths[0])
    features = named.features[named.rows(config.images, name)]
    found = blufr(
        features, config.labels, config.trials, rule=settings.rule, progress=settings.progress
    )
    verification, identification = found.verification(0.001), found.identification(0.01, 1)
    fars = found.verification_fars
    mean = found.verification_rates.mean(axis=0)
    return Scored(
        protocol=name,
        figures={
            "VR at FAR 0.1 %, mean - deviation": Figure(verification.mean_minus_std),
            "VR at FAR 0.1 %": Figure(verification.mean, verification.std),
            "DIR at FAR 1 %, rank 1, mean - deviation": Figure(identification.mean_minus_std),
            "DIR at FAR 1 %, rank 1": Figure(identification.mean, identification.std),
        },
        steps=(
            *named.steps,
            f"{len(found.num_genuine)} trials, {found.num_genuine.min():,} to "
            f"{found.num_genuine.max():,} same and {found.num_impostors.min():,} to "
            f"{found.num_impostors.max():,} different pairs each; training images are not used",
            "features scaled to unit length, similarity is the cosine in float32",
            f"threshold rule {settings.rule!r}; reported is mean minus sample standard deviation",
        ),
        spread=OVER_TRIALS,
        curves={name: Roc(fars, mean, np.full(fars.size, np.nan))},
        details={
            "verification FARs": fars.tolist(),
            "verification rates": found.verification_rates.tolist(),
            "identification FARs": found.identification_fars.tolist(),
            "ranks": found.ranks.tolist(),
            "identification rates": found.identification_rates.tolist(),
            "FARs with too few pairs": fars[~found.verification_supported.all(axis=0)].tolist(),
        },
    )


def _ytf(name: str, named: NamedFeatures, paths: Sequence[Path], settings: Settings) -> Scored:
    """Frames are named person/video/frame."""
    pairs = protocols.ytf_splits(paths[0])
    videos = ["/".join(image.split("/")[:2]) for image in named.names]
    ids = {video: place for place, video in enumerate(dict.fromkeys(videos))}
    missing = sorted({*pairs.first, *pairs.second} - ids.keys())
    if missing:
        raise InputError(
            f"{name}: expected frames of every video, named person/video/frame, found none of "
            f"{missing[0]!r} ({len(missing)} videos are missing)."
        )
    found = verify_videos(
        named.features,
        np.array([ids[video] for video in videos]),
        np.array([ids[video] for video in pairs.first]),
        np.array([ids[video] for video in pairs.second]),
        pairs.same,
        pairs.fold,
        subtract_mean=settings.subtract_mean,
        progress=settings.progress,
    )
    figures = {
        f"accuracy, {rule}": Figure(folds.mean, folds.standard_error)
        for rule, folds in found.folds.items()
    }
    return Scored(
        protocol=name,
        figures=figures,
        steps=(*named.steps, *found.steps),
        spread=OVER_FOLDS,
        curves={rule: roc(scores, pairs.same) for rule, scores in found.scores.items()},
        details={
            f"fold accuracies, {rule}": folds.accuracy.tolist()
            for rule, folds in found.folds.items()
        },
    )


def score_templates(
    name: str,
    named: NamedFeatures,
    splits: Sequence[tuple[protocols.Templates, protocols.TemplatePairs]],
    gammas: int | None,
) -> Scored:
    """1:1 verification of templates, rates of each split and their spread.

    Args:
      name: what the protocol is called.
      named: the features of images.
      splits: templates and the pairs compared, one of each a split.
      gammas: K of the fusion; None compares mean features.
    """
    rates, steps, scores, same = [], (), [], []
    for templates, pairs in splits:
        if pairs.same is None:
            raise InputError(f"{name}: expected pairs known to be the same or not, found neither.")
        features = named.features[named.rows(templates.names, name)]
        grouped = group_templates(features, templates.template)
        one_split = np.zeros(pairs.same.size, np.int64)
        found = verify_templates(
            grouped, pairs.first, pairs.second, pairs.same, one_split, gammas=gammas
        )
        rates.append(found.rates.tar[0])
        steps = found.steps
        scores.append(found.scores)
        same.append(pairs.same)
    spread = np.std(rates, axis=0, ddof=1) if len(rates) > 1 else [None] * len(FARS)
    fewest = min(int(np.sum(~kind)) for kind in same)
    figures = {
        f"TAR at FAR {far:g}": Figure(float(mean), None if part is None else float(part))
        for far, mean, part in zip(FARS, np.mean(rates, axis=0), spread, strict=True)
        if supported(far, fewest)
    }
    return Scored(
        protocol=name,
        figures=figures,
        steps=(*named.steps, *steps, f"{len(splits)} splits"),
        spread=OVER_SPLITS,
        curves={name: roc(np.concatenate(scores), np.concatenate(same))},
        details={"TAR by split": np.array(rates).tolist(), "FARs": list(FARS)},
    )


def score_megaface(
    probes: NamedFeatures,
    distractors: np.ndarray,
    *,
    keep_probes: np.ndarray | None = None,
    keep_distractors: np.ndarray | None = None,
    noises: Sequence[str] = (),
    place: Place = jnp.asarray,
    progress: Callable[[int, int], None] | None = None,
) -> Scored:
    """MegaFace: rank-1 of probes among distractors, and TAR at FAR 1e-6.

    Args:
      probes: images of people, named person/file.
      distractors: [distractors, dim], a memory-mapped array for one.
      keep_probes: [probes] bool, False for noise.
      keep_distractors: [distractors] bool.
      noises: what the noise lists are called, to be reported.
      place: puts blocks of distractors on devices, as `megaface` takes it.
      progress: called with the distractors done and all distractors.
    """
    people = [name.partition("/")[0] for name in probes.names]
    found = megaface(
        probes.features,
        np.unique(people, return_inverse=True)[1],
        distractors,
        keep_probes=keep_probes,
        keep_distractors=keep_distractors,
        place=place,
        progress=progress,
    )
    rate = "TAR at FAR 1e-6" if found.supported[0] else "TAR at no false accept"
    return Scored(
        protocol="megaface",
        figures={
            "rank-1": Figure(float(found.cmc[0])),
            "rank-10": Figure(float(found.cmc[9])),
            rate: Figure(float(found.true_accept_rates[0])),
        },
        steps=(
            *probes.steps,
            f"{found.num_probes:,} probes of {np.unique(people).size:,} people, "
            f"{found.num_distractors:,} distractors, {found.ranks.size:,} searches, each for one "
            "mate among the distractors; ties count against it",
            f"noise lists applied: {', '.join(noises) or 'none'}",
            "features scaled to unit length, similarity is the cosine",
        ),
        ranks=found.cmc,
    )


def _ijba(name: str, named: NamedFeatures, paths: Sequence[Path], settings: Settings) -> Scored:
    splits = []
    for number in range(1, 11):
        folder = paths[0] / f"split{number}"
        templates = protocols.ijb_templates(folder / f"verify_metadata_{number}.csv")
        pairs = protocols.ijb_pairs(folder / f"verify_comparisons_{number}.csv", templates)
        splits.append((templates, pairs))
    return score_templates(name, named, splits, settings.gammas or 8)


def _ijbc(name: str, named: NamedFeatures, paths: Sequence[Path], settings: Settings) -> Scored:
    """IJB-B and IJB-C have one list; the field's figure is of mean features."""
    pairs = protocols.ijb_pairs(paths[1])
    return score_templates(name, named, [(protocols.ijb_faces(paths[0]), pairs)], settings.gammas)


SUITE: Mapping[str, Entry] = {
    "lfw": Entry("LFW, 6,000 pairs", "lfw", ("lfw/pairs.txt",), _lfw),
    "lfw-view1": Entry(
        "LFW, View 1", "lfw", ("lfw/pairsDevTrain.txt", "lfw/pairsDevTest.txt"), _view1
    ),
    "blufr": Entry("BLUFR on LFW", "lfw", ("blufr_lfw_config.mat",), _blufr),
    "cfp-ff": Entry("CFP, frontal and frontal", "cfp", ("cfp_protocol.zip",), _cfp),
    "cfp-fp": Entry("CFP, frontal and profile", "cfp", ("cfp_protocol.zip",), _cfp),
    "ytf": Entry("YTF, 5,000 video pairs", "ytf", ("ytf/splits.txt",), _ytf),
    "agedb": Entry("AgeDB-30", "agedb", ("agedb/agedb_30.txt",), _listed),
    "calfw": Entry("CALFW", "calfw", ("calfw/pairs_CALFW.txt",), _listed),
    "cplfw": Entry("CPLFW", "cplfw", ("cplfw/pairs_CPLFW.txt",), _listed),
    "ijba": Entry("IJB-A, 1:1", "ijba", ("IJB-A_11_sets",), _ijba),
    "ijbb": Entry(
        "IJB-B, 1:1",
        "ijbb",
        ("ijbb/ijbb_face_tid_mid.txt", "ijbb/ijbb_template_pair_label.txt"),
        _ijbc,
    ),
    "ijbc": Entry(
        "IJB-C, 1:1",
        "ijbc",
        ("ijbc/ijbc_face_tid_mid.txt", "ijbc/ijbc_template_pair_label.txt"),
        _ijbc,
    ),
}
"""By name. `score_pairs` takes any list of pairs, `score_megaface` two sets of images."""


def _shown(name: str) -> str:
    """A rate's name as tables print it."""
    far = name.removeprefix("tar_at_far_")
    return name.upper() if far == name else f"TAR at FAR {100 * float(far):g} %"


def _known(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
