"""Scores verification (1:1) and search (1:N) of templates on each split, and their spread."""

from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath

import numpy as np

from hyperface.errors import InputError
from hyperface.metrics.chance import guess_warning
from hyperface.metrics.progress import Progress, part
from hyperface.metrics.ranks import cmc, dir_at_far, open_set
from hyperface.metrics.roc import roc
from hyperface.metrics.threshold import RULE_STEPS, supported
from hyperface.protocols._ijb import Templates
from hyperface.protocols._ijb_pairs import TemplatePairs
from hyperface.protocols.features import NamedFeatures
from hyperface.protocols.result import OVER_SPLITS, Figure, Result, pair_counts
from hyperface.protocols.template_rules import TemplateRule, group_by_rule
from hyperface.protocols.templates import (
    FARS,
    GroupedTemplates,
    group_templates,
    score_matrix,
    score_step,
    verify_templates,
)

SEARCH_FARS = (0.01, 0.1)
"""False accept rates at which search reports the DIR."""
SEARCH_RANKS = 50
"""Number of ranks of the cumulative match characteristic."""


def score_templates(
    name: str,
    named: NamedFeatures,
    splits: Sequence[tuple[Templates, TemplatePairs]],
    gammas: int | None,
    *,
    pool_media: bool = False,
    rule: TemplateRule | None = None,
    detector: Mapping[str, float] | None = None,
    progress: Progress | None = None,
) -> Result:
    """Scores verification (1:1) of template pairs: mean TAR over the splits, with its spread.

    A template is a set of images of one person. A split is one of the protocol's repetitions, with
    templates and pairs of its own; IJB-A has ten, and IJB-B and IJB-C have one.

    Args:
      name: name of the protocol.
      named: the features of the templates' images. Each has the image's name, or for one of several
        people in an image the name that `face_names` returns, such as `img/5@12.jpg`.
      splits: for each split, (its templates, the pairs that are compared).
      gammas: K, the number of terms in the Ring loss paper's score of two templates: a sum of
        weighted means of the cosines of their images (formula in `template_scores`). With None, the
        score is the cosine of the templates' mean features.
      pool_media: whether the images of a template that belong to one medium, such as a video, are
        first averaged to one image.
      rule: rule of insightface, one of `TEMPLATE_RULES`, that merges the images of a template into
        one feature; `gammas` must then be None and `pool_media` False. With None, `gammas` and
        `pool_media` determine how images are merged.
      detector: name of an image -> score that the face detector gave its face. Needed only if
        `rule` weights images by it.
      progress: called with (number of finished parts, number of all parts).

    Raises:
      InputError: an image has no feature of its name, an image has no detection score although
        the rule needs one, or `same` of a split's pairs is None, so that it is not known which
        pairs show one person.
    """
    rates, steps, scores, same = [], [], [], []
    faces = face_names([templates for templates, _ in splits])
    for number, ((templates, pairs), names) in enumerate(zip(splits, faces, strict=True), 1):
        if pairs.same is None:
            raise InputError(f"{name}: expected pairs known to be the same or not, found neither.")
        grouped = _grouped(name, named, templates, names, pool_media, rule, detector)
        # One split id for all pairs: this call sees a single split.
        one_split = np.zeros(pairs.same.size, np.int64)
        found = verify_templates(
            grouped,
            pairs.first,
            pairs.second,
            pairs.same,
            one_split,
            gammas=gammas,
            progress=part(progress, number - 1, len(splits)),
        )
        rates.append(found.rates.tar[0])
        steps += [f"split {number}: {step}" for step in found.steps]
        scores.append(found.scores)
        same.append(pairs.same)
    # One split has no spread.
    spread = np.std(rates, axis=0, ddof=1) if len(rates) > 1 else [None] * len(FARS)
    # The split with the fewest different pairs decides which rates all splits can measure.
    fewest = min(int(np.sum(~kind)) for kind in same)
    figures = {
        f"TAR at FAR {far:g}": Figure(float(mean), None if std is None else float(std))
        for far, mean, std in zip(FARS, np.mean(rates, axis=0), spread, strict=True)
        if supported(far, fewest)
    }
    warning = ()
    if figures:
        far = max(far for far in FARS if supported(far, fewest))
        label, trials = f"TAR at FAR {far:g}", min(int(np.sum(kind)) for kind in same)
        # Pairs that share a template are not independent, so that a margin is asked for as well.
        warning = guess_warning(label, figures[label].value, far, trials, least=far / 2)
    return Result(
        protocol=name,
        figures=figures,
        steps=(*named.steps, *steps, RULE_STEPS["strict"], *warning),
        spread=OVER_SPLITS,
        curves={name: roc(np.concatenate(scores), np.concatenate(same))},
        counts=pair_counts(*same),
        details={"TAR by split": np.array(rates).tolist(), "FARs": list(FARS)},
    )


def face_names(lists: Sequence[Templates]) -> list[list[str]]:
    """Returns the names of the features of all faces: for each list, one name per row.

    If the lists name one person in an image, the name of the face is that of the image. If they
    name several people, as in a group photograph of IJB-A, each of them has a face of its own: the
    face of person 12 in `img/5.jpg` is named `img/5@12.jpg`.

    Args:
      lists: all lists of one protocol, since two of them may name different people in an image. For
        a list without people the images' names are returned.
    """
    people: dict[str, set[int]] = {}
    for listed in lists:
        if listed.subject is not None:
            for name, person in zip(listed.names, listed.subject.tolist(), strict=True):
                people.setdefault(name, set()).add(person)
    # Over all lists: a person may be in the gallery, and another in the same photograph a probe.
    shared = {name for name, found in people.items() if len(found) > 1}
    return [
        [
            _face(name, person) if name in shared else name
            for name, person in zip(listed.names, listed.subject.tolist(), strict=True)
        ]
        if shared and listed.subject is not None
        else list(listed.names)
        for listed in lists
    ]


def _face(name: str, person: int) -> str:
    path = PurePosixPath(name)
    return path.with_name(f"{path.stem}@{person}{path.suffix}").as_posix()


def _grouped(
    name: str,
    named: NamedFeatures,
    templates: Templates,
    faces: Sequence[str],
    pool_media: bool,
    rule: TemplateRule | None,
    detector: Mapping[str, float] | None,
) -> GroupedTemplates:
    several = " (several people in an image: FILE@SUBJECT.EXT each)"
    source = name + several * (list(faces) != list(templates.names))
    features = named.features[named.rows(faces, source)]
    if rule is not None:
        scores = None if detector is None else _detector_scores(templates.names, detector, name)
        return group_by_rule(features, templates.template, templates.media, rule, scores)
    return group_templates(features, templates.template, templates.media if pool_media else None)


def _detector_scores(
    names: Sequence[str], detector: Mapping[str, float], source: str
) -> np.ndarray:
    """Returns [images] detector scores.

    Args:
      names: [images] names of the images.
      detector: name of an image -> detection score of its face.
      source: name of the protocol, for the message.

    Raises:
      InputError: an image has no score.
    """
    missing = [name for name in dict.fromkeys(names) if name not in detector]
    if missing:
        raise InputError(
            f"{source}: expected the detector's score of every image, found none of "
            f"{missing[0]!r} ({len(missing):,} are missing)."
        )
    return np.array([detector[name] for name in names])


def score_search(
    name: str,
    named: NamedFeatures,
    splits: Sequence[tuple[Templates, Templates]],
    gammas: int | None,
    *,
    pool_media: bool = False,
    rule: TemplateRule | None = None,
    detector: Mapping[str, float] | None = None,
    progress: Progress | None = None,
) -> Result:
    """Scores the search of probe templates in a gallery (1:N): identification rates and DIR.

    A template is a set of images of one person. A split is a gallery with the probes that are
    searched in it; IJB-A has ten, and IJB-B and IJB-C have two. Each score is a mean over the
    splits, with its spread.

    The mate of a probe is the gallery template of its person. The identification rate at rank k is
    the share of probes with a mate for which the mate is among the k best matches. The detection
    and identification rate (DIR) also requires that the mate's score reaches the threshold of a
    false accept rate (FAR), which is the share of probes without a mate that are accepted. DIR is
    reported at rank 1 and the FARs 0.01 and 0.1, if each split has at least 1 / FAR probes without
    a mate.

    Args:
      name: name of the protocol.
      named: the features of the templates' images. Each has the image's name, or for one of several
        people in an image the name that `face_names` returns, such as `img/5@12.jpg`.
      splits: for each split, (gallery templates, probe templates), both with people.
      gammas: K, the number of terms in the Ring loss paper's score of two templates: a sum of
        weighted means of the cosines of their images (formula in `template_scores`). With None, the
        score is the cosine of the templates' mean features.
      pool_media: whether the images of a template that belong to one medium, such as a video, are
        first averaged to one image.
      rule: rule of insightface, one of `TEMPLATE_RULES`, that merges the images of a template into
        one feature; `gammas` must then be None and `pool_media` False. With None, `gammas` and
        `pool_media` determine how images are merged.
      detector: name of an image -> score that the face detector gave its face. Needed only if
        `rule` weights images by it.
      progress: called with (number of finished parts, number of all parts).

    Raises:
      InputError: an image has no feature of its name, or has no detection score although the rule
        needs one.
    """
    ranks, rates, steps, fewest, sizes = [], [], [], [], []
    faces = face_names([side for split in splits for side in split])
    for number, (gallery, probes) in enumerate(splits, 1):
        names = faces[2 * number - 2] + faces[2 * number - 1]
        # Grouped together: `score_matrix` takes both sides from one set of templates.
        both = _apart(gallery, probes)
        grouped = _grouped(name, named, both, names, pool_media, rule, detector)
        assert both.subject is not None  # Both sides have people.
        # All images of a template show one person.
        person = dict(zip(both.template.tolist(), both.subject.tolist(), strict=True))
        # `_apart` gave even ids to the gallery.
        enrolled = both.template % 2 == 0
        sides = [np.unique(both.template[side]) for side in (~enrolled, enrolled)]
        report = part(progress, number - 1, len(splits))
        scores = score_matrix(grouped, *sides, gammas=gammas, progress=report)
        people = [[person[template] for template in side.tolist()] for side in sides]
        searches = open_set(scores, people[1], people[0])
        ranks.append(cmc(searches.ranks, SEARCH_RANKS))
        fewest.append(searches.impostor_scores.size)
        sizes.append((scores.shape[1], searches.ranks.size))
        # Without probes that have no mate there is no impostor score, and so no threshold.
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
    # A guess finds the one mate in the smallest gallery most often.
    chance = 1.0 / min(gallery)
    return Result(
        protocol=name,
        figures={n: Figure(float(v.mean()), _deviation(v)) for n, v in figures.items()},
        steps=(
            *named.steps,
            *steps,
            f"{score_step(gammas, merged=rule is not None)}; ties count against the mate",
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


def _apart(gallery: Templates, probes: Templates) -> Templates:
    """Returns both sides as one list: gallery id n becomes 2n, and probe id n becomes 2n + 1."""
    assert gallery.subject is not None  # `score_search` asks for people of both.
    assert probes.subject is not None
    return Templates(
        # Both sides may use the same ids: even and odd numbers keep them apart.
        np.concatenate([2 * gallery.template, 2 * probes.template + 1]),
        np.concatenate([gallery.subject, probes.subject]),
        np.concatenate([gallery.media, probes.media]),
        gallery.names + probes.names,
    )


def _deviation(values: np.ndarray) -> float | None:
    return float(np.std(values, ddof=1)) if values.size > 1 else None
