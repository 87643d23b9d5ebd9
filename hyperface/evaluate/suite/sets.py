"""Sets of images matched as one: the templates of IJB."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hyperface.data import protocols
from hyperface.errors import InputError
from hyperface.evaluate.chance import guess_warning
from hyperface.evaluate.named import NamedFeatures
from hyperface.evaluate.ranks import cmc, dir_at_far, open_set
from hyperface.evaluate.roc import roc
from hyperface.evaluate.scored import Figure, Scored, pair_counts
from hyperface.evaluate.suite.settings import OVER_SPLITS, Settings
from hyperface.evaluate.template_groups import Templates as GroupedTemplates
from hyperface.evaluate.template_groups import group_templates
from hyperface.evaluate.templates import FARS, score_matrix, verify_templates
from hyperface.evaluate.threshold import RULE_STEPS, supported

SEARCH_FARS = (0.01, 0.1)
SEARCH_RANKS = 50


def score_templates(
    name: str,
    named: NamedFeatures,
    splits: Sequence[tuple[protocols.Templates, protocols.TemplatePairs]],
    gammas: int | None,
    *,
    pool_media: bool = False,
) -> Scored:
    """1:1 verification of templates, rates of each split and their spread.

    Args:
      name: what the protocol is called.
      named: the features of images.
      splits: templates and the pairs compared, one of each a split.
      gammas: K of the fusion; None compares mean features.
      pool_media: whether images of one medium count as one.
    """
    rates, steps, scores, same = [], [], [], []
    for number, (templates, pairs) in enumerate(splits, 1):
        if pairs.same is None:
            raise InputError(f"{name}: expected pairs known to be the same or not, found neither.")
        grouped = _grouped(name, named, templates, pool_media)
        one_split = np.zeros(pairs.same.size, np.int64)
        found = verify_templates(
            grouped, pairs.first, pairs.second, pairs.same, one_split, gammas=gammas
        )
        rates.append(found.rates.tar[0])
        steps += [f"split {number}: {step}" for step in found.steps]
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
        steps=(*named.steps, *steps, RULE_STEPS["strict"]),
        spread=OVER_SPLITS,
        curves={name: roc(np.concatenate(scores), np.concatenate(same))},
        counts=pair_counts(*same),
        details={"TAR by split": np.array(rates).tolist(), "FARs": list(FARS)},
    )


def _grouped(
    name: str, named: NamedFeatures, templates: protocols.Templates, pool_media: bool
) -> GroupedTemplates:
    if templates.subject is not None:
        people: dict[str, int] = {}
        for image, person in zip(templates.names, templates.subject.tolist(), strict=True):
            if people.setdefault(image, person) != person:
                raise InputError(
                    f"{name}: expected one person an image, found two of {image!r}: features are "
                    "found by name, so each face needs a name of its own, here and in the CSV."
                )
    features = named.features[named.rows(templates.names, name)]
    return group_templates(features, templates.template, templates.media if pool_media else None)


def score_search(
    name: str,
    named: NamedFeatures,
    splits: Sequence[tuple[protocols.Templates, protocols.Templates]],
    gammas: int | None,
    *,
    pool_media: bool = False,
) -> Scored:
    """1:N search of templates: ranks, and DIR at FAR 1 and 10 %, of each split and their spread.

    A FAR that the probes without a mate cannot support is left out.

    Args:
      name: what the protocol is called.
      named: the features of images.
      splits: gallery and probe templates, with people, one of each a split.
      gammas: K of the fusion; None compares mean features.
      pool_media: whether images of one medium count as one.
    """
    ranks, rates, steps, fewest, sizes = [], [], [], [], []
    for number, (gallery, probes) in enumerate(splits, 1):
        together = protocols.Templates(
            *(np.concatenate(column) for column in zip(gallery[:3], probes[:3], strict=True)),
            names=gallery.names + probes.names,
        )
        grouped = _grouped(name, named, together, pool_media)
        person = dict(zip(together.template.tolist(), together.subject.tolist(), strict=True))
        sides = [np.unique(side.template) for side in (probes, gallery)]
        scores = score_matrix(grouped, *sides, gammas=gammas)
        people = [[person[template] for template in side.tolist()] for side in sides]
        searches = open_set(scores, people[1], people[0])
        ranks.append(cmc(searches.ranks, SEARCH_RANKS))
        fewest.append(searches.impostor_scores.size)
        sizes.append((scores.shape[1], searches.ranks.size))
        if fewest[-1]:
            rates.append(dir_at_far(searches, SEARCH_FARS))
        steps += [f"split {number}: {step}" for step in grouped.steps]
    figures = {
        **{f"rank-{rank}": np.array(ranks)[:, rank - 1] for rank in (1, 5, 10)},
        **{
            f"DIR at FAR {100 * far:g} %, rank 1": np.array(rates)[:, place]
            for place, far in enumerate(SEARCH_FARS)
            if supported(far, min(fewest))
        },
    }
    rank_1 = float(np.mean(figures["rank-1"]))
    gallery, mated = zip(*sizes, strict=True)
    chance = 1.0 / min(gallery)
    fused = f"fusion of K = {gammas}" if gammas else "cosine of mean features"
    return Scored(
        protocol=name,
        figures={n: Figure(float(v.mean()), _deviation(v)) for n, v in figures.items()},
        steps=(
            *named.steps,
            *steps,
            f"score is the {fused}; ties count against the mate",
            RULE_STEPS["strict"],
            "impostor scores are those of each probe without a mate, the highest in the gallery",
            *guess_warning("rank-1", rank_1, chance, sum(mated), least=chance),
        ),
        spread=OVER_SPLITS,
        ranks=np.mean(ranks, axis=0),
        counts={
            "gallery templates": list(gallery),
            "probes with a mate": list(mated),
            "probes without a mate": fewest,
        },
        details={name: values.tolist() for name, values in figures.items()},
    )


def _deviation(values: np.ndarray) -> float | None:
    return float(np.std(values, ddof=1)) if values.size > 1 else None


def ijba(name: str, named: NamedFeatures, paths: Sequence[Path], settings: Settings) -> Scored:
    """IJB-A's ten splits by Ring loss' fusion, K = 8."""
    splits = []
    for number in range(1, 11):
        folder = paths[0] / f"split{number}"
        templates = protocols.ijb_templates(folder / f"verify_metadata_{number}.csv")
        pairs = protocols.ijb_pairs(folder / f"verify_comparisons_{number}.csv", templates)
        splits.append((templates, pairs))
    gammas = 8 if settings.gammas is None else settings.gammas
    return score_templates(name, named, splits, gammas, pool_media=settings.pool_media)


def ijba_search(
    name: str, named: NamedFeatures, paths: Sequence[Path], settings: Settings
) -> Scored:
    """IJB-A's 1:N search: open-set, ten splits, by Ring loss' fusion, K = 8."""
    splits = []
    for number in range(1, 11):
        folder = paths[0] / f"split{number}"
        gallery = protocols.ijb_templates(folder / f"search_gallery_{number}.csv")
        probes = protocols.ijb_templates(folder / f"search_probe_{number}.csv")
        splits.append((gallery, probes))
    gammas = 8 if settings.gammas is None else settings.gammas
    return score_search(name, named, splits, gammas, pool_media=settings.pool_media)


def cs3(name: str, named: NamedFeatures, paths: Sequence[Path], settings: Settings) -> Scored:
    """Janus CS3, one split, by Ring loss' fusion, K = 2; lists have the columns of IJB-A's."""
    templates = protocols.ijb_templates(paths[0])
    pairs = protocols.ijb_pairs(paths[1], templates)
    gammas = 2 if settings.gammas is None else settings.gammas
    return score_templates(
        name, named, [(templates, pairs)], gammas, pool_media=settings.pool_media
    )


def cs3_search(
    name: str, named: NamedFeatures, paths: Sequence[Path], settings: Settings
) -> Scored:
    """Janus CS3's 1:N search: open-set, one gallery, by Ring loss' fusion, K = 2."""
    gallery, probes = (protocols.ijb_templates(path) for path in paths)
    gammas = 2 if settings.gammas is None else settings.gammas
    return score_search(name, named, [(gallery, probes)], gammas, pool_media=settings.pool_media)


def ijbc(name: str, named: NamedFeatures, paths: Sequence[Path], settings: Settings) -> Scored:
    """IJB-B and IJB-C have one list; mean features by default."""
    pairs = protocols.ijb_pairs(paths[1])
    splits = [(protocols.ijb_faces(paths[0]), pairs)]
    return score_templates(name, named, splits, settings.gammas, pool_media=settings.pool_media)
