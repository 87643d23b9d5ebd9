"""Scores verification and search of templates on IJB-A, Janus CS3, IJB-B and IJB-C."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from hyperface.errors import InputError
from hyperface.protocols._ijb import (
    Landmarks,
    Templates,
    read_ijb_faces,
    read_ijb_landmarks,
    read_ijb_templates,
)
from hyperface.protocols._ijb_pairs import TemplatePairs, read_ijb_pairs
from hyperface.protocols.features import NamedFeatures
from hyperface.protocols.protocol import Protocol, Scorer, Settings
from hyperface.protocols.result import Result
from hyperface.protocols.template_protocols import score_search, score_templates

__all__ = [
    "PROTOCOLS",
    "Landmarks",
    "TemplatePairs",
    "Templates",
    "read_ijb_faces",
    "read_ijb_landmarks",
    "read_ijb_pairs",
    "read_ijb_templates",
]


def _score_ijba(
    name: str, named: NamedFeatures, files: Sequence[Path], settings: Settings
) -> Result:
    """Verifies the templates of IJB-A's ten splits, by default by Ring loss' fusion with K = 8."""
    splits = []
    for number in range(1, 11):
        folder = files[0] / f"split{number}"
        templates = read_ijb_templates(folder / f"verify_metadata_{number}.csv")
        pairs = read_ijb_pairs(folder / f"verify_comparisons_{number}.csv", templates)
        splits.append((templates, pairs))
    # K = 8 for IJB-A, and 2 for CS3 below, are the choices of the Ring loss paper.
    return score_templates(name, named, splits, **_choices(settings, 8))


def _search_ijba(
    name: str, named: NamedFeatures, files: Sequence[Path], settings: Settings
) -> Result:
    """Searches the galleries of IJB-A's ten splits; templates are fused as in `_score_ijba`."""
    splits = []
    for number in range(1, 11):
        folder = files[0] / f"split{number}"
        gallery = read_ijb_templates(folder / f"search_gallery_{number}.csv")
        probes = read_ijb_templates(folder / f"search_probe_{number}.csv")
        splits.append((gallery, probes))
    return score_search(name, named, splits, **_choices(settings, 8))


def _score_cs3(
    name: str, named: NamedFeatures, files: Sequence[Path], settings: Settings
) -> Result:
    """Verifies the templates of Janus CS3, which has a single split.

    Templates are fused as Ring loss does it, by default with K = 2. The lists have the same columns
    as those of IJB-A.
    """
    templates = read_ijb_templates(files[0])
    pairs = read_ijb_pairs(files[1], templates)
    return score_templates(name, named, [(templates, pairs)], **_choices(settings, 2))


def _search_cs3(
    name: str, named: NamedFeatures, files: Sequence[Path], settings: Settings
) -> Result:
    """Searches the one gallery of CS3; templates are fused as in `_score_cs3`."""
    gallery, probes = (read_ijb_templates(path) for path in files)
    return score_search(name, named, [(gallery, probes)], **_choices(settings, 2))


def _score_ijbc(
    name: str, named: NamedFeatures, files: Sequence[Path], settings: Settings
) -> Result:
    """Verifies the templates of IJB-B or IJB-C by their mean features, unless the user sets K."""
    pairs = read_ijb_pairs(files[1])
    splits = [(read_ijb_faces(files[0]), pairs)]
    return score_templates(name, named, splits, **_choices(settings, None, files))


def _search_ijbc(
    name: str, named: NamedFeatures, files: Sequence[Path], settings: Settings
) -> Result:
    """Searches both galleries of IJB-B or IJB-C by mean features, unless the user sets K.

    The galleries have no person in common, so that a probe has a mate in one of them only. The list
    of faces has the images of each template; the other lists name the person of each template.
    """
    faces = read_ijb_faces(files[0])
    first, second, probes = (_of_people(faces, path, name) for path in files[1:4])
    # All probes search both galleries, and have no mate in one of them.
    splits = [(first, probes), (second, probes)]
    return score_search(name, named, splits, **_choices(settings, None, files))


def _of_people(faces: Templates, path: Path, name: str) -> Templates:
    """Returns the faces of those templates that a list names, with the list's people as subjects.

    Args:
      faces: the faces of all templates.
      path: the list, a CSV file of templates with people.
      name: name of the protocol, for messages.

    Raises:
      InputError: a template of the list has no faces, or the list is malformed.
    """
    listed = read_ijb_templates(path)
    assert listed.subject is not None  # These files always say.
    person = dict(zip(listed.template.tolist(), listed.subject.tolist(), strict=True))
    missing = sorted(person.keys() - set(faces.template.tolist()))
    if missing:
        raise InputError(
            f"{name}: expected faces of every template of {path.name}, found none of "
            f"{missing[0]} ({len(missing):,} of {len(person):,} are missing)."
        )
    rows = np.flatnonzero(np.isin(faces.template, list(person)))
    return Templates(
        faces.template[rows],
        np.array([person[template] for template in faces.template[rows].tolist()]),
        faces.media[rows],
        [faces.names[row] for row in rows],
    )


def _choices(settings: Settings, gammas: int | None, files: Sequence[Path] = ()) -> dict:
    """Returns keyword arguments of `score_templates` and `score_search`.

    They are gammas, pool_media, rule, detector and progress.

    Args:
      settings: the settings.
      gammas: the protocol's own K, which the settings may replace; None for mean features.
      files: the protocol's files. If the rule weighs by detector scores, the last file has them.
    """
    rule, detector = settings.template_rule, None
    if rule is not None and rule.detector:
        faces = read_ijb_landmarks(files[-1])
        detector = dict(zip(faces.names, faces.score.tolist(), strict=True))
    return {
        "gammas": gammas if settings.gammas is None else settings.gammas,
        "pool_media": settings.pool_media,
        "rule": rule,
        "detector": detector,
        "progress": settings.progress,
    }


OPTIONS = frozenset({"gammas", "pool_media"})
"""Options that every protocol of templates accepts."""


def _detector_file(dataset: str, settings: Settings) -> tuple[str, ...]:
    """Returns a tuple of the file of detector scores, or () if the rule does not need scores."""
    rule = settings.template_rule
    return (f"{dataset}/{dataset}_name_5pts_score.txt",) if rule and rule.detector else ()


def _lists_of(dataset: str, galleries: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Returns (files for verification, files for search) of IJB-B or IJB-C.

    `galleries` is a letter in the names of the gallery files: "S" for IJB-B, "G" for IJB-C.
    """
    start = f"{dataset}/{dataset}"
    faces = f"{start}_face_tid_mid.txt"
    sides = (f"gallery_{galleries}1", f"gallery_{galleries}2", "probe_mixed")
    search = (faces, *(f"{start}_1N_{side}.csv" for side in sides))
    return (faces, f"{start}_template_pair_label.txt"), search


def _both(
    dataset: str,
    title: str,
    files: tuple[tuple[str, ...], tuple[str, ...]],
    scorers: tuple[Scorer, Scorer],
    *,
    with_rules: bool = False,
) -> tuple[Protocol, Protocol]:
    """Returns a benchmark's two protocols: verification (1:1), and search (1:N).

    Args:
      dataset: name of the data set, and of the first protocol; the second one's ends with -search.
      title: name of the benchmark for tables.
      files: (files for verification, files for search).
      scorers: (function for verification, function for search).
      with_rules: whether the option `template_rule` is accepted. Some of these rules read a further
        file of detector scores.
    """
    verification, search = (
        Protocol(
            name=dataset + suffix,
            title=f"{title}, {kind}",
            dataset=dataset,
            file_names=names,
            options=OPTIONS | ({"template_rule"} if with_rules else set()),
            more_files=partial(_detector_file, dataset) if with_rules else None,
            scorer=scorer,
        )
        for suffix, kind, names, scorer in zip(
            ("", "-search"), ("1:1", "1:N"), files, scorers, strict=True
        )
    )
    return verification, search


_CS3 = (
    ("cs3/verify_metadata.csv", "cs3/verify_comparisons.csv"),
    ("cs3/search_gallery.csv", "cs3/search_probe.csv"),
)

PROTOCOLS = (
    *_both("ijba", "IJB-A", (("IJB-A_11_sets",), ("IJB-A_1N_sets",)), (_score_ijba, _search_ijba)),
    *_both("cs3", "Janus CS3", _CS3, (_score_cs3, _search_cs3)),
    *_both("ijbb", "IJB-B", _lists_of("ijbb", "S"), (_score_ijbc, _search_ijbc), with_rules=True),
    *_both("ijbc", "IJB-C", _lists_of("ijbc", "G"), (_score_ijbc, _search_ijbc), with_rules=True),
)
