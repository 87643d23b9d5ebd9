"""Scores TinyFace: identification of low-resolution faces among more than 150,000 distractors.

Z. Cheng, X. Zhu, S. Gong. Low-Resolution Face Recognition. ACCV 2018.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from hyperface.errors import InputError
from hyperface.metrics.chance import guess_warning
from hyperface.metrics.cosine import Place, product, unit_features
from hyperface.metrics.progress import Progress
from hyperface.metrics.ranks import cmc
from hyperface.protocols._lines import Line
from hyperface.protocols._matfile import read_mat
from hyperface.protocols.features import NamedFeatures
from hyperface.protocols.protocol import Protocol, Settings
from hyperface.protocols.result import Figure, Result

GALLERY, PROBES, DISTRACTORS = "Gallery_Match", "Probe", "Gallery_Distractor"
"""Folders of the test images."""
RANKS = (1, 5, 20, 50)
"""Ranks whose identification rates are reported."""
BLOCK_PROBES = 64
"""Number of probes that are searched at once; their scores take some 40 MB."""


class ImagesOfPeople(NamedTuple):
    """Images and the people in them, as TinyFace lists them for its gallery and for its probes."""

    names: list[str]
    """[images] paths of the images, below the data set's folder."""
    people: np.ndarray
    """[images] int64, id of the person in the image."""


class Searches(NamedTuple):
    """Outcomes of the search of each probe in a gallery.

    The images in the gallery that show the probe's person are the mates of the probe. Each probe
    has at least one.
    """

    ranks: np.ndarray
    """[probes] rank, from 1, of the mate with the highest score: 1 plus the number of gallery
    images that show other people and have at least this score."""
    average_precision: np.ndarray
    """[probes] average precision over the probe's mates: the area under the precision-recall curve
    by the trapezoidal rule, as in the evaluation code that the TinyFace authors published."""


def read_tinyface_list(path: Path | str, kind: str, folder: str) -> ImagesOfPeople:
    """Reads `gallery_match_img_ID_pairs.mat` or `probe_img_ID_pairs.mat`.

    Args:
      path: the file.
      kind: "gallery" or "probe". The names of the variables begin with it: `gallery_set` has one
        cell per image name, and `gallery_ids` has the people.
      folder: the folder of the images, which is put in front of their names.

    Returns:
      The images with their people, in the order of the file.

    Raises:
      InputError: the file is damaged, or a variable is missing, is malformed or repeats an image;
        the message names the variable, and the row if one row is wrong.
    """
    variables = read_mat(path)
    cells, ids = (variables.get(f"{kind}_{part}") for part in ("set", "ids"))
    if not isinstance(cells, np.ndarray) or cells.dtype != object or not cells.size:
        raise InputError(f"{path}: expected cells of names in {kind}_set, found none.")
    expected = f"{cells.size} whole numbers in {kind}_ids, one per name"
    if not isinstance(ids, np.ndarray) or ids.dtype.kind not in "iuf" or ids.size != cells.size:
        raise InputError(f"{path}: expected {expected}, found others.")
    # MATLAB stores whole numbers as doubles.
    if not np.all((np.abs(ids) < 2**31) & (ids == np.floor(ids))):
        raise InputError(f"{path}: expected {expected}, found others.")
    names: dict[str, int] = {}
    for row, cell in enumerate(cells.ravel(), 1):
        # The error names the row of the variable in place of a line.
        line = Line(f"{path}:{kind}_set", row, cell if isinstance(cell, str) else "")
        name = line.image(f"{folder}/{line.text}")
        if names.setdefault(name, row) != row:
            raise line.fault("each image once", f"{name} as in row {names[name]}")
    return ImagesOfPeople(list(names), ids.ravel().astype(np.int64))


def search_mates(
    probes: np.ndarray,
    probe_people: np.ndarray,
    gallery: np.ndarray,
    gallery_people: np.ndarray,
    *,
    place: Place = jnp.asarray,
    progress: Progress | None = None,
) -> Searches:
    """Searches every probe in the gallery by the cosine.

    The mates of a probe are the gallery images of its person. If another image scores the same as a
    mate, it is ranked before the mate.

    Args:
      probes: [probes, dim] features of any norm.
      probe_people: [probes] id of the person of each probe.
      gallery: [gallery, dim] features of any norm.
      gallery_people: [gallery] id of the person of each image; distractors have an id that no probe
        has.
      place: function that takes features of probes [rows, dim] and puts them on JAX's default
        device. Another function may split the rows over several devices.
      progress: called with (number of finished probes, number of all probes).

    Raises:
      ValueError: a feature is zero or not finite, or a probe has no mate.

    Example:
      >>> gallery, people = np.eye(2)[[0, 0, 1]], np.array([7, 8, 8])
      >>> found = search_mates(np.eye(2), np.array([7, 8]), gallery, people)
      >>> print(found.ranks, found.average_precision.round(3))
      [2 1] [0.25  0.792]
    """
    unit, columns = unit_features(probes), unit_features(gallery)
    lonely = np.flatnonzero(~np.isin(probe_people, gallery_people))
    if lonely.size:
        raise ValueError(
            f"expected a mate of every probe in the gallery, found none of person "
            f"{probe_people[lonely[0]]} ({lonely.size} probes in all)"
        )
    ranks, precision = np.empty(len(unit), np.int64), np.empty(len(unit))
    # In blocks, since all scores of all probes may not fit into memory.
    for start in range(0, len(unit), BLOCK_PROBES):
        rows = slice(start, start + BLOCK_PROBES)
        scores = np.asarray(product(unit[rows], columns, place))
        for row, probe_scores in enumerate(scores, start):
            mates = gallery_people == probe_people[row]
            ranks[row], precision[row] = _search(probe_scores[mates], probe_scores[~mates])
        if progress:
            progress(min(rows.stop, len(unit)), len(unit))
    return Searches(ranks, precision)


def _search(mates: np.ndarray, others: np.ndarray) -> tuple[int, float]:
    """Returns the rank of the best mate and the average precision over all mates.

    The area under precision over recall is a sum of trapezoids, as in the released code. Each mate
    counts with the mean of the precision at its place and at the place before it; precision starts
    at 1.

    Args:
      mates: scores of the gallery images of the probe's person.
      others: scores of all other gallery images.
    """
    mates = np.sort(mates)[::-1]
    found = np.arange(1, mates.size + 1)
    # >=, so that ties count against the mates.
    places = found + np.array([np.count_nonzero(others >= score) for score in mates])
    before = np.where(places > 1, (found - 1) / np.maximum(places - 1, 1), 1.0)
    return int(places[0]), float(np.mean((found / places + before) / 2))


def _score(name: str, named: NamedFeatures, files: Sequence[Path], settings: Settings) -> Result:
    gallery = read_tinyface_list(files[0], "gallery", GALLERY)
    probes = read_tinyface_list(files[1], "probe", PROBES)
    # No list names the distractors: all images of their folder count.
    distractors = [row for row, n in enumerate(named.names) if n.startswith(f"{DISTRACTORS}/")]
    if not distractors:
        raise InputError(f"{name}: expected features of images in {DISTRACTORS}/, found none.")
    known = named.rows(gallery.names, files[0].name)
    people = np.concatenate([gallery.people, np.full(len(distractors), _nobody(gallery, probes))])
    found = search_mates(
        named.features[named.rows(probes.names, files[1].name)],
        probes.people,
        named.features[np.concatenate([known, distractors])],
        people,
        place=settings.place,
        progress=settings.progress,
    )
    curve = cmc(found.ranks, max(RANKS))
    # A guess finds a mate at rank 1 as often as gallery images are mates.
    mates = np.mean([np.count_nonzero(gallery.people == person) for person in probes.people])
    chance = float(mates / people.size)
    return Result(
        protocol=name,
        figures={
            **{f"rank-{rank}": Figure(float(curve[rank - 1])) for rank in RANKS},
            "mAP": Figure(float(found.average_precision.mean())),
        },
        steps=(
            *named.steps,
            f"{len(probes.names):,} probes of {np.unique(probes.people).size:,} people, each "
            f"searched among {len(gallery.names):,} gallery images and {len(distractors):,} "
            "distractors; ties count against the mates",
            "features scaled to unit length, similarity is the cosine in float32",
            "rank is that of the best mate; mAP is the mean over probes of the area under "
            "precision over recall, by trapezoids",
            *guess_warning("rank-1", curve[0], chance, len(probes.names), least=chance),
        ),
        ranks=curve,
        counts={
            "probes": len(probes.names),
            "gallery images": len(gallery.names),
            "distractors": len(distractors),
        },
    )


def _nobody(*lists: ImagesOfPeople) -> int:
    """Returns an id that no person of the lists has, for distractors."""
    # Below the lowest id: the files may use any whole numbers as ids.
    return min(int(listed.people.min()) for listed in lists) - 1


PROTOCOLS = (
    Protocol(
        name="tinyface",
        title="TinyFace, identification",
        dataset="tinyface",
        file_names=(
            "tinyface/gallery_match_img_ID_pairs.mat",
            "tinyface/probe_img_ID_pairs.mat",
        ),
        scorer=_score,
    ),
)
