"""Scores MegaFace: probes are searched among distractors, without the images of noise lists."""

from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from hyperface.errors import InputError
from hyperface.metrics.chance import guess_warning
from hyperface.metrics.cosine import Place
from hyperface.metrics.identification import megaface
from hyperface.metrics.threshold import RULE_STEPS
from hyperface.protocols._megaface import (
    ImageList,
    read_devkit_feature,
    read_megaface_list,
    read_megaface_noises,
    write_devkit_feature,
)
from hyperface.protocols.features import NamedFeatures, people_of
from hyperface.protocols.protocol import Protocol, Settings
from hyperface.protocols.result import Figure, Result

__all__ = [
    "PROTOCOLS",
    "ImageList",
    "read_devkit_feature",
    "read_megaface_list",
    "read_megaface_noises",
    "score_megaface",
    "write_devkit_feature",
]


def score_megaface(
    probes: NamedFeatures,
    distractors: np.ndarray,
    *,
    distractor_names: Sequence[str] | None = None,
    probe_list: ImageList | None = None,
    distractor_list: ImageList | None = None,
    noise: Collection[str] = (),
    noises: Sequence[str] = (),
    place: Place = jnp.asarray,
    progress: Callable[[int, int], None] | None = None,
) -> Result:
    """Computes the rank-1 and rank-10 rates of probes among distractors, and TAR at FAR 1e-6.

    Every ordered pair of two images of one person is a search: the first image, the probe, is
    compared with the second, its mate, and with all distractors, which show people other than those
    of the probes. The rank-k rate is the share of searches in which fewer than k distractors score
    at least as high as the mate. TAR is the share of accepted (probe, mate) pairs, and FAR is the
    share of accepted (probe, distractor) pairs. With fewer than a million (probe, distractor) pairs
    the result has the TAR at no false accept instead.

    Args:
      probes: features of images of people, named person/file unless `probe_list` has the people.
      distractors: [distractors, dim] features; the array may be memory-mapped.
      distractor_names: [distractors] names of the images. None if they are not known: `noise` then
        leaves out probes only.
      probe_list: the images that are used as probes, such as the 3,530 images of MegaFace's devkit,
        with their people. None uses all images. If the list has no people, or is None, the person
        of an image is the part of its name before the first slash.
      distractor_list: the distractors that are used; None uses all.
      noise: names of the images with wrong labels, which are left out of probes and distractors. A
        name is the whole path or the part after the last "/".
      noises: names of the files from which `noise` was read. They are only printed in the result's
        `steps`, the text that describes the computation, and change no score.
      place: function that takes a block of distractors [rows, dim] and puts it on JAX's default
        device. Another function may split the rows over several devices.
      progress: called with (number of finished distractors, number of all distractors).

    Returns:
      The result, with the rates in `figures` and the share of searches by rank in `ranks`.

    Raises:
      InputError: an image of a list has no feature, `distractor_list` is given for distractors
        without names, or the person of a probe is not known. A person is not known if the list has
        no people and the image's name has no slash.
      ValueError: a feature is zero or not finite, all features are alike, shapes do not fit, no two
        probes show one person, or there are no distractors.
    """
    chosen, people = _chosen(probes, probe_list)
    keep_probes = _kept(chosen.names, noise)
    keep_distractors = _listed(distractor_names, distractor_list)
    removed = 0
    if distractor_names is not None:
        clean = _kept(distractor_names, noise)
        # Only distractors of the list count as left out: the others were never taken.
        removed = int(np.sum(keep_distractors & ~clean))
        keep_distractors &= clean
    found = megaface(
        chosen.features,
        np.unique(people, return_inverse=True)[1],
        distractors,
        keep_probes=keep_probes,
        keep_distractors=keep_distractors,
        place=place,
        progress=progress,
    )
    # With fewer than a million different pairs no false accept is allowed at this FAR.
    rate = "TAR at FAR 1e-6" if found.supported[0] else "TAR at no false accept"
    # Even if the names are in a random order, some mates stay the mate.
    pairs = found.num_probes * (found.num_probes - 1)
    chance = 1.0 / (1 + found.num_distractors) + found.ranks.size / pairs
    impostors = found.num_probes * found.num_distractors
    return Result(
        protocol="megaface",
        figures={
            "rank-1": Figure(float(found.cmc[0])),
            "rank-10": Figure(float(found.cmc[9])),
            rate: Figure(float(found.true_accept_rates[0])),
        },
        steps=(
            *probes.steps,
            _told("probes", probe_list),
            _told("distractors", distractor_list),
            f"{found.num_probes:,} probes of {np.unique(people).size:,} people, "
            f"{found.num_distractors:,} distractors, {found.ranks.size:,} searches, each for one "
            "mate among the distractors; ties count against it",
            f"noise lists: {', '.join(noises) or 'none'}",
            f"{np.sum(~keep_probes):,} probes left out, "
            + (
                "distractors have no names and are all taken"
                if distractor_names is None
                else f"{removed:,} distractors left out"
            ),
            "features scaled to unit length, similarity is the cosine",
            RULE_STEPS["strict"],
            f"impostor scores are all {impostors:,} of a probe with a distractor",
            *guess_warning("rank-1", found.cmc[0], chance, found.ranks.size, least=chance),
        ),
        ranks=found.cmc,
        counts={
            "probes": found.num_probes,
            "distractors": found.num_distractors,
            "searches": int(found.ranks.size),
            # Each same pair gives two searches, as either image is the probe once.
            "same pairs": int(found.ranks.size) // 2,
            "different pairs": impostors,
        },
    )


def _chosen(probes: NamedFeatures, listed: ImageList | None) -> tuple[NamedFeatures, list[str]]:
    """Returns (probes of the list, or all without a list; the person of each of these probes)."""
    if listed is not None:
        probes = probes.take(probes.rows(listed.names, listed.source))
    if listed is not None and listed.ids is not None:
        return probes, listed.ids
    return probes, people_of(probes.names, "megaface").tolist()


def _listed(names: Sequence[str] | None, listed: ImageList | None) -> np.ndarray | None:
    """Returns [distractors] bool, True where the list has the distractor; all True without a list.

    Distractors without names give None, which stands for all of them.

    Raises:
      InputError: an image of the list is not among the distractors, or these have no names.
    """
    if names is None:
        if listed is not None:
            raise InputError(
                f"megaface: expected distractors with names, of which {listed.source} chooses, "
                "found none. Put their names, one a line, in a .txt beside the .npy."
            )
        return None
    if listed is None:
        return np.ones(len(names), bool)
    wanted = frozenset(listed.names)
    missing = sorted(wanted.difference(names))
    if missing:
        raise InputError(
            f"megaface: expected a distractor for every image of {listed.source}, found none of "
            f"{missing[0]!r} ({len(missing):,} of {len(wanted):,} are missing)."
        )
    return np.array([name in wanted for name in names])


def _told(kind: str, listed: ImageList | None) -> str:
    if listed is None:
        return f"no list of {kind}: all there are"
    return f"{kind}: the {len(listed.names):,} of {listed.source}"


def _kept(names: Sequence[str], noise: Collection[str]) -> np.ndarray:
    # A set, since each of up to a million names is looked up twice.
    noise = frozenset(noise)
    # FaceScrub's noise list has names of files, and MegaFace's has paths.
    return np.array([name not in noise and name.rpartition("/")[2] not in noise for name in names])


def _score(name: str, named: NamedFeatures, files: Sequence[Path], settings: Settings) -> Result:
    if settings.distractors is None:
        raise InputError(f"{name}: expected features of distractors in the settings, found none.")
    probes, distractors = (
        None if path is None else read_megaface_list(path)
        for path in (settings.probe_list, settings.distractor_list)
    )
    return score_megaface(
        named,
        settings.distractors.features,
        distractor_names=settings.distractors.names,
        probe_list=probes,
        distractor_list=distractors,
        noise=frozenset().union(*map(read_megaface_noises, settings.noises)),
        noises=[path.name for path in settings.noises],
        place=settings.place,
        progress=settings.progress,
    )


def _find_lists(name: str, folder: Path, settings: Settings, dataset: Path | None) -> list[Path]:
    """Returns the paths of the lists that the settings name; InputError if a list is damaged."""
    images = [path for path in (settings.probe_list, settings.distractor_list) if path is not None]
    # Read here only to find damage before features are computed; scoring reads them again.
    for path in images:
        read_megaface_list(path)
    for path in settings.noises:
        read_megaface_noises(path)
    return [*images, *settings.noises]


PROTOCOLS = (
    Protocol(
        name="megaface",
        title="MegaFace",
        dataset="facescrub",
        options=frozenset({"distractors", "probe_list", "distractor_list", "noises"}),
        find_files=_find_lists,
        has_distractors=True,
        scorer=_score,
    ),
)
