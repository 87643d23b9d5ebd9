"""IJB-A, Janus CS3, IJB-B and IJB-C: which files hold their templates, pairs and galleries."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hyperface.errors import InputError
from hyperface.protocols import readers
from hyperface.protocols.features import NamedFeatures
from hyperface.protocols.result import Scored
from hyperface.protocols.sets import score_search, score_templates
from hyperface.protocols.settings import Settings


def ijba(name: str, named: NamedFeatures, paths: Sequence[Path], settings: Settings) -> Scored:
    """IJB-A's ten splits by Ring loss' fusion, K = 8."""
    splits = []
    for number in range(1, 11):
        folder = paths[0] / f"split{number}"
        templates = readers.ijb_templates(folder / f"verify_metadata_{number}.csv")
        pairs = readers.ijb_pairs(folder / f"verify_comparisons_{number}.csv", templates)
        splits.append((templates, pairs))
    return score_templates(name, named, splits, **_choices(settings, 8))


def ijba_search(
    name: str, named: NamedFeatures, paths: Sequence[Path], settings: Settings
) -> Scored:
    """IJB-A's 1:N search: open-set, ten splits, by Ring loss' fusion, K = 8."""
    splits = []
    for number in range(1, 11):
        folder = paths[0] / f"split{number}"
        gallery = readers.ijb_templates(folder / f"search_gallery_{number}.csv")
        probes = readers.ijb_templates(folder / f"search_probe_{number}.csv")
        splits.append((gallery, probes))
    return score_search(name, named, splits, **_choices(settings, 8))


def cs3(name: str, named: NamedFeatures, paths: Sequence[Path], settings: Settings) -> Scored:
    """Janus CS3, one split, by Ring loss' fusion, K = 2; lists have the columns of IJB-A's."""
    templates = readers.ijb_templates(paths[0])
    pairs = readers.ijb_pairs(paths[1], templates)
    return score_templates(name, named, [(templates, pairs)], **_choices(settings, 2))


def cs3_search(
    name: str, named: NamedFeatures, paths: Sequence[Path], settings: Settings
) -> Scored:
    """Janus CS3's 1:N search: open-set, one gallery, by Ring loss' fusion, K = 2."""
    gallery, probes = (readers.ijb_templates(path) for path in paths)
    return score_search(name, named, [(gallery, probes)], **_choices(settings, 2))


def ijbc(name: str, named: NamedFeatures, paths: Sequence[Path], settings: Settings) -> Scored:
    """IJB-B and IJB-C have one list; mean features by default."""
    pairs = readers.ijb_pairs(paths[1])
    splits = [(readers.ijb_faces(paths[0]), pairs)]
    return score_templates(name, named, splits, **_choices(settings, None))


def ijbc_search(
    name: str, named: NamedFeatures, paths: Sequence[Path], settings: Settings
) -> Scored:
    """IJB-B's and IJB-C's 1:N search in each of their two galleries; mean features by default.

    The people of one gallery are not in the other, so that its probes have no mate there. Images of
    a template are those of the list of faces; the other lists say whose template it is.
    """
    faces = readers.ijb_faces(paths[0])
    first, second, probes = (_of_people(faces, path, name) for path in paths[1:])
    splits = [(first, probes), (second, probes)]
    return score_search(name, named, splits, **_choices(settings, None))


def _of_people(faces: readers.Templates, path: Path, name: str) -> readers.Templates:
    """The faces of the templates that a list names, with the list's people."""
    listed = readers.ijb_templates(path)
    person = dict(zip(listed.template.tolist(), listed.subject.tolist(), strict=True))
    missing = sorted(person.keys() - set(faces.template.tolist()))
    if missing:
        raise InputError(
            f"{name}: expected faces of every template of {path.name}, found none of "
            f"{missing[0]} ({len(missing):,} of {len(person):,} are missing)."
        )
    rows = np.flatnonzero(np.isin(faces.template, list(person)))
    return readers.Templates(
        faces.template[rows],
        np.array([person[template] for template in faces.template[rows].tolist()]),
        faces.media[rows],
        [faces.names[row] for row in rows],
    )


def _choices(settings: Settings, gammas: int | None) -> dict:
    return {
        "gammas": gammas if settings.gammas is None else settings.gammas,
        "pool_media": settings.pool_media,
        "progress": settings.progress,
    }
